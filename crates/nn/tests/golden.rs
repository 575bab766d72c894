//! The network against the family's own code (PyTorch): output, input VJP, parameter gradients of `golden/unet/songunet_ddpmpp_vp`.

use halation_compute::Tensor;
use halation_io::TensorFile;
use halation_nn::checkpoint::load_unet;
use halation_nn::{Denoiser, Result, UNetDenoiser};
use std::path::{Path, PathBuf};

fn golden() -> Option<PathBuf> {
    let shared = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let dir = shared.join("golden/unet/songunet_ddpmpp_vp");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: golden network parity needs {}", dir.display());
    None
}

fn load(path: &Path) -> Result<UNetDenoiser> {
    load_unet(path, &TensorFile::read(path)?, None)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    let n: f64 = b.iter().map(|b| (*b as f64).powi(2)).sum();
    (d / n).sqrt()
}

#[test]
fn output_vjp_and_gradients() {
    let Some(dir) = golden() else { return };
    let denoiser = load(&dir.join("weights.safetensors")).unwrap();
    let io = TensorFile::read(&dir.join("io.safetensors")).unwrap();
    let tensor = |name: &str| {
        let (shape, values) = io.f32s(name).unwrap();
        Tensor::from_vec(shape, values.to_vec()).unwrap()
    };
    let (x, sigma, cotangent) = (tensor("x"), tensor("sigma"), tensor("cotangent"));
    let (out, pullback) = denoiser.denoise_with_pullback(&x, sigma.data()).unwrap();
    let output = distance(out.data(), tensor("output").data());
    let vjp = distance(pullback.vjp(&cotangent).unwrap().data(), tensor("vjp_x").data());
    println!("output {output:e}, vjp {vjp:e}");
    assert!(output < 1e-5 && vjp < 1e-5, "output {output:e}, vjp {vjp:e}");
    assert_eq!(denoiser.denoise(&x, sigma.data()).unwrap(), out, "the forward pass alone must give the same bits");

    let gradients = denoiser.parameter_gradients(&x, sigma.data(), &cotangent).unwrap();
    let expected = TensorFile::read(&dir.join("grads.safetensors")).unwrap();
    let mut checked = 0;
    let mut worst = (0.0, String::new());
    for p in denoiser.net().parameters() {
        let found = &gradients[p.offset..p.offset + p.len()];
        let (_, first) = expected.f32s(&format!("model.{}", p.name)).unwrap();
        let (_, l2) = expected.f32s(&format!("model.{}#l2", p.name)).unwrap();
        let norm = found.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
        for error in [distance(&found[..first.len()], first), (norm - l2[0] as f64).abs() / l2[0] as f64] {
            if error > worst.0 {
                worst = (error, p.name.clone());
            }
        }
        checked += 1;
    }
    println!("worst gradient {worst:?}");
    assert_eq!(checked * 2, expected.tensors.len());
    assert!(worst.0 < 1e-4, "{worst:?}");
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    let Some(dir) = golden() else { return };
    let denoiser = load(&dir.join("weights.safetensors")).unwrap();
    let x = halation_compute::Philox::new(1).normal(0..5, 0, &[1, 32, 32]).unwrap();
    let sigma = [0.1, 1.0, 10.0, 0.01, 3.0];
    let all = |x: &Tensor, sigma: &[f32]| {
        let (out, pullback) = denoiser.denoise_with_pullback(x, sigma).unwrap();
        let vjp = pullback.vjp(&out).unwrap();
        let gradients = denoiser.parameter_gradients(x, sigma, &out).unwrap();
        (out, vjp, gradients)
    };
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let one = pool(1).install(|| all(&x, &sigma));
    assert!(pool(3).install(|| all(&x, &sigma)) == one);
    assert!(pool(16).install(|| all(&x, &sigma)) == one);
    for d in 0..5 {
        let alone = pool(2).install(|| all(&x.select(&[d]).unwrap(), &sigma[d..d + 1]));
        assert_eq!((alone.0.item(0), alone.1.item(0)), (one.0.item(d), one.1.item(d)));
    }
}

#[test]
fn damaged_checkpoints_are_errors_that_say_what_is_wrong() {
    let Some(dir) = golden() else { return };
    let bytes = std::fs::read(dir.join("weights.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let config = folder.path().join("config.json");
    std::fs::copy(dir.join("config.json"), &config).unwrap();
    let says = |bytes: &[u8], what: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        let Err(error) = load(&path) else { panic!("no error about {what:?}") };
        let message = error.to_string();
        what.iter().for_each(|w| assert!(message.contains(w), "{w:?} is not in {message:?}"));
    };
    says(&bytes[..bytes.len() - 5], &["net.safetensors", "whole safetensors file"]);
    says(b"", &["whole safetensors file"]);
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    says(&nan, &["NaN", "element"]);
    let header = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        changed
    };
    says(&header("map_layer0.bias", "map_layer9.bias"), &["missing: map_layer0.bias", "left over: model.map_layer9.bias"]);
    says(&header("[64,128,3,3]", "[128,64,3,3]"), &["another shape", "found [128, 64, 3, 3], expected [64, 128, 3, 3]"]);
    std::fs::write(&config, "{\"precond\": \"vp\"}").unwrap();
    says(&bytes, &["config.json", "missing field"]);
    std::fs::remove_file(&config).unwrap();
    says(&bytes, &["config.json", "--arch"]);
    assert!(load(&folder.path().join("absent")).err().unwrap().to_string().contains("absent"));
}
