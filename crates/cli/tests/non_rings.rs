//! What is no ring does not come back as one: the whole path from sources to `assess`, with few draws and levels. `make proof` does it for more
//! sources with default settings; `docs/calibration.md` says for which this small budget is not enough.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn halation(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_halation")).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An image of `family` as the EHT of 2017 sees it towards M87, both bands, with gains, phases and noise; reconstructed and assessed.
fn assess(family: &str, index: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let prior = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/priors/vlbi-64.safetensors");
    halation(folder, &["simulate", "sources", "--family", family, "--seed", "11", "--start", index, "-n", "1", "-o", "sources"]);
    let image = format!("sources/source_{index:0>6}.fits");
    let night = ["--start", "2017-04-06T00:45", "--hours", "7.5", "--scan-s", "300", "--gap-s", "780", "--integration-s", "60"];
    let target = ["--ra-deg", "187.70593", "--dec-deg", "12.39112", "--flux", "0.6Jy", "--frequency-ghz", "227.0707,229.0707"];
    let mut simulate = vec!["simulate", "vlbi", "--image", &image, "--array", "eht-2017", "-o", "seen.uvfits"];
    simulate.extend(night.iter().chain(&target));
    halation(folder, &simulate);
    // The field is the image's own: closures do not tell that a source is wider than the default field.
    let labels: Value = serde_json::from_slice(&std::fs::read(folder.join("sources/labels.json")).unwrap()).unwrap();
    let field = format!("{}uas", labels[0]["fov_uas"]);
    let reduced = ["--draws", "4", "--population", "8", "--levels", "100", "--restarts", "1", "--seed", "0"];
    let mut reconstruct = vec!["reconstruct", "vlbi", "seen.uvfits", "-o", "out", "--prior", prior, "--fov", &field];
    reconstruct.extend(reduced);
    halation(folder, &reconstruct);
    serde_json::from_slice(&halation(folder, &["assess", "out", "--truth", "seen.truth.fits", "--json"])).unwrap()
}

#[test]
fn a_core_with_a_jet_is_no_ring() {
    let found = assess("core-jet", "2");
    assert_eq!(found["ring_probability"], 0.0, "{found:#}");
    let both = found["truth"]["mean"]["correlation_20uas"].as_f64().unwrap();
    assert!(both >= 0.9, "correlation of the mean with the truth, both blurred to 20 uas: {both}");
}
