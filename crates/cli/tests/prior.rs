//! `halation prior` from the outside: training that is stopped and resumed, samples, information, and evaluation against golden files.

use halation_io::TensorFile;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn halation(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_halation")).args(args).output().expect("the binary runs")
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let out = halation(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[track_caller]
fn is_refused(args: &[&str], says: &[&str]) {
    let out = halation(args);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {message}");
    says.iter().for_each(|s| assert!(message.contains(s), "{s:?} is not in {message:?}"));
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    (d / b.iter().map(|b| (*b as f64).powi(2)).sum::<f64>()).sqrt()
}

#[test]
fn train_resume_info_and_sample() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    let train = |out: &str, images: &str, more: &[&str]| {
        let common =
            ["prior", "train", "vlbi-sources", "-o", out, "--images", images, "--res", "16", "--channels", "16", "--mult", "1,1"];
        let rest = ["--attn", "8", "--batch", "4", "--seed", "7", "--warmup", "40"];
        [&common[..], &rest, more].concat().into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
    run(train(&whole, "24", &[]));
    run(train(&parts, "12", &["--schedule", "constant"]));
    let again = train(&parts, "24", &[]);
    is_refused(&again.iter().map(String::as_str).collect::<Vec<_>>(), &["--resume"]);
    run(train(&parts, "24", &["--resume", "--threads", "1"]));
    let prior = |run: &str| PathBuf::from(run).join("prior.safetensors").to_string_lossy().into_owned();
    let bytes = |file: &str| std::fs::read(file).expect("prior");
    assert!(bytes(&prior(&whole)) == bytes(&prior(&parts)), "a resumed run must give the same file");

    let info: serde_json::Value = serde_json::from_str(&succeeds(&["prior", "info", &prior(&whole), "--json"])).expect("JSON");
    assert_eq!((info["kind"].as_str(), &info["image_shape"]), (Some("unet"), &serde_json::json!([1, 16, 16])));
    assert_eq!(info["extra"]["images_seen"], "24");
    assert_eq!(info["sha256"].as_str().map(str::len), Some(64));

    let (sheet, samples) = (path("sheet.png"), path("samples.safetensors"));
    succeeds(&["prior", "sample", &prior(&whole), "-n", "5", "--steps", "4", "-o", &sheet]);
    assert!(bytes(&sheet).starts_with(b"\x89PNG"));
    succeeds(&["prior", "sample", &prior(&whole), "-n", "5", "--steps", "4", "-o", &samples]);
    let file = TensorFile::read(Path::new(&samples)).expect("samples");
    let (shape, values) = file.f32s("samples").expect("samples");
    assert!(shape == [5, 1, 16, 16] && values.iter().all(|v| v.is_finite()));
    is_refused(&["prior", "sample", &prior(&whole), "-o", &path("sheet.gif")], &["gif", ".png"]);
    is_refused(&["prior", "info", &path("absent")], &["absent"]);
    is_refused(&["prior", "train", "cats", "-o", &path("x"), "--images", "1"], &["cats", "vlbi-sources"]);
}

#[test]
fn eval_agrees_with_the_golden_files() {
    let shared = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let golden = shared.join("golden/unet/songunet_ddpmpp_vp");
    if !golden.is_dir() {
        eprintln!("skipped: prior eval against golden files needs {}", golden.display());
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out.safetensors");
    let name = |p: &Path| p.to_string_lossy().into_owned();
    let at = |f: &str| name(&golden.join(f));
    succeeds(&["prior", "eval", &at("weights.safetensors"), "--io", &at("io.safetensors"), "-o", &name(&out), "--grads"]);
    let (found, io) = (TensorFile::read(&out).expect("out"), TensorFile::read(&golden.join("io.safetensors")).expect("io"));
    for key in ["output", "vjp_x"] {
        let error = distance(found.f32s(key).expect(key).1, io.f32s(key).expect(key).1);
        assert!(error < 1e-5, "{key}: {error:e}");
    }
    let grads = TensorFile::read(&golden.join("grads.safetensors")).expect("grads");
    for key in grads.tensors.keys().filter(|k| !k.ends_with("#l2")) {
        let expected = grads.f32s(key).expect(key).1;
        let ours = found.f32s(&format!("grad.{}", key.trim_start_matches("model."))).expect(key).1;
        let error = distance(&ours[..expected.len()], expected);
        assert!(error < 1e-4, "{key}: {error:e}");
    }
    is_refused(
        &["prior", "eval", &at("io.safetensors"), "--arch", &at("config.json"), "--io", &at("io.safetensors"), "-o", &name(&out)],
        &["missing"],
    );
}
