//! The scripts of `examples/`, with settings so small that they only show that each step still takes what the one before leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn a_prior_of_your_own_images() {
    let python = std::env::var_os("HALATION_PYTHON").map_or_else(|| root().join(".venv/bin/python"), PathBuf::from);
    let ready = Command::new(&python).args(["-c", "import numpy, h5py, astropy"]).output().is_ok_and(|o| o.status.success());
    if !ready {
        eprintln!("skipped: examples/train_your_own needs a Python with numpy, h5py and astropy (HALATION_PYTHON or .venv)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let output = Command::new(root().join("examples/train_your_own/run.sh"))
            .arg(folder.path().join("out"))
            .env("HALATION", env!("CARGO_BIN_EXE_halation"))
            .env("HALATION_PYTHON", &python)
            .envs([("NUMBER", "40"), ("VALIDATION", "8"), ("IMAGES", "64"), ("LEVELS", "8")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let first = run();
    // Untrained, the draws are noise, but they are twenty images of finite numbers that stand beside the truth.
    let compared: serde_json::Value = serde_json::from_str(&first[first.rfind("\n{").unwrap()..]).unwrap();
    for of in ["rms_error_of_mean", "rms_standard_deviation", "rms_error_of_ridge"] {
        assert!(compared[of].as_f64().is_some_and(|v| v > 0.0 && v < 2.0), "{compared}");
    }
    assert!(folder.path().join("out/samples.png").is_file());
    // Called again it goes on from what is there and comes to the same.
    assert_eq!(run(), first);
}
