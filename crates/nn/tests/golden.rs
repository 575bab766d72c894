//! The networks against their families' own code (PyTorch): output, input VJP, parameter gradients of `golden/unet`.

use halation_compute::Tensor;
use halation_io::TensorFile;
use halation_nn::checkpoint::load_unet;
use halation_nn::{Denoiser, Parameter, Precond, Result, UNetDenoiser};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let dir = shared.join("golden/unet").join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: golden network parity needs {}", dir.display());
    None
}

fn load(path: &Path) -> Result<UNetDenoiser> {
    load_unet(path, &TensorFile::read(path)?, None)
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt()
}

fn norm_of_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm_of_difference(a, b) / norm(b)
}

/// Output, gradient of the input and gradients of the parameters against those of the files: relative errors of the first two at most
/// `tolerance`, of each parameter's ten times that.
fn compare(name: &str, tolerance: f64) {
    let Some(dir) = golden(name) else { return };
    let denoiser = load(&dir.join("weights.safetensors")).unwrap();
    let io = TensorFile::read(&dir.join("io.safetensors")).unwrap();
    let tensor = |name: &str| {
        let (shape, values) = io.f32s(name).unwrap();
        Tensor::from_vec(shape, values.to_vec()).unwrap()
    };
    let (x, cotangent) = (tensor("x"), tensor("cotangent"));
    let (out, vjp, gradients) = if matches!(denoiser.precond(), Precond::Eps(_)) {
        // The file has the network's own output at its own times.
        let (net, t) = (denoiser.net(), tensor("t"));
        let (out, tape) = net.forward_with_tape(&x, t.data()).unwrap();
        assert_eq!(net.forward(&x, t.data()).unwrap(), out, "the forward pass alone must give the same bits");
        (out, net.vjp(&tape, &cotangent).unwrap(), net.parameter_gradients(&x, t.data(), &cotangent).unwrap())
    } else {
        let sigma = tensor("sigma");
        let (out, pullback) = denoiser.denoise_with_pullback(&x, sigma.data()).unwrap();
        assert_eq!(denoiser.denoise(&x, sigma.data()).unwrap(), out, "the forward pass alone must give the same bits");
        (out, pullback.vjp(&cotangent).unwrap(), denoiser.parameter_gradients(&x, sigma.data(), &cotangent).unwrap())
    };
    let output = distance(out.data(), tensor("output").data());
    let vjp = distance(vjp.data(), tensor("vjp_x").data());
    let expected = TensorFile::read(&dir.join("grads.safetensors")).unwrap();
    let prefix = if expected.tensors.keys().all(|k| k.starts_with("model.")) { "model." } else { "" };
    let l2 = |p: &Parameter| expected.f32s(&format!("{prefix}{}#l2", p.name)).unwrap().1[0] as f64;
    let trainable: Vec<&Parameter> = denoiser.net().parameters().iter().filter(|p| p.trainable).collect();
    assert_eq!(2 * trainable.len(), expected.tensors.len());
    // A bias before a normalisation with one channel in each group has no effect: its gradient is rounding, here and in the file.
    let least = 1e-3 * trainable.iter().map(|p| l2(p)).fold(0.0, f64::max);
    let mut worst = (0.0, "");
    for p in trainable {
        let found = &gradients[p.offset..p.offset + p.len()];
        let (_, first) = expected.f32s(&format!("{prefix}{}", p.name)).unwrap();
        let errors = [
            norm_of_difference(&found[..first.len()], first) / norm(first).max(least),
            (norm(found) - l2(p)).abs() / l2(p).max(least),
        ];
        for error in errors {
            if error > worst.0 {
                worst = (error, p.name.as_str());
            }
        }
    }
    println!("{name}: output {output:e}, vjp {vjp:e}, worst gradient {worst:?}");
    assert!(output < tolerance && vjp < tolerance, "{name}: output {output:e}, vjp {vjp:e}");
    assert!(worst.0 < 10.0 * tolerance, "{name}: {worst:?}");
}

#[test]
fn ddpmpp() {
    compare("songunet_ddpmpp_vp", 1e-5);
}

#[test]
fn ncsnpp() {
    compare("songunet_ncsnpp_ve", 1e-4);
}

#[test]
fn dhariwal() {
    compare("dhariwal_edm", 1e-4);
}

#[test]
fn guided_diffusion() {
    compare("guided_diffusion_adm", 1e-4);
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    let Some(dir) = golden("songunet_ddpmpp_vp") else { return };
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
    let Some(dir) = golden("songunet_ddpmpp_vp") else { return };
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
