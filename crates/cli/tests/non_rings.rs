//! What is no ring does not come back as one: the whole path from sources to `assess`, with simulated gains and phases, few draws and levels; the disk
//! and the double with the coverage and noise of M87* on 6 April 2017, both bands, skipped where the observed files are not there. `make proof` does it
//! for more sources with default settings (`docs/calibration.md`).

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn halation(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_halation")).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The observed files of both bands; none, said on stderr, where they are not there.
fn bands(test: &str) -> Option<[String; 2]> {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let paths = ["lo", "hi"].map(|b| root.join(format!("data/vlbi/m87_2017/SR1_M87_2017_096_{b}_hops_netcal_StokesI.uvfits")));
    if let Some(missing) = paths.iter().find(|p| !p.is_file()) {
        eprintln!("skipped: {test} needs {}", missing.display());
        return None;
    }
    Some(paths.map(|p| std::path::absolute(p).unwrap().to_str().unwrap().to_owned()))
}

/// What is observed: the coverage and noise of the files of both bands, or a night of the EHT of 2017 towards M87 with the noise of its receivers.
fn night(like: Option<[String; 2]>) -> Vec<String> {
    let schedule = "--array eht-2017 --start 2017-04-06T00:45 --hours 7.5 --scan-s 300 --gap-s 780 --integration-s 60 \
                    --ra-deg 187.70593 --dec-deg 12.39112 --frequency-ghz 227.0707,229.0707";
    match like {
        Some([low, high]) => vec!["--like".into(), low, "--like".into(), high],
        None => schedule.split_whitespace().map(str::to_owned).collect(),
    }
}

/// Reconstructs image `index` of `family` and looks at it.
fn check(family: &str, index: &str, night: &[String]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let prior = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/priors/vlbi-64.safetensors");
    halation(folder, &["simulate", "sources", "--family", family, "--seed", "11", "--start", index, "-n", "1", "-o", "sources"]);
    let image = format!("sources/source_{index:0>6}.fits");
    let mut simulate = vec!["simulate", "vlbi", "--image", &image, "--flux", "0.6Jy", "-o", "seen.uvfits"];
    simulate.extend(night.iter().map(String::as_str));
    halation(folder, &simulate);
    // The field is the image's own: closures do not tell that a source is wider than the default field.
    let labels: Value = serde_json::from_slice(&std::fs::read(folder.join("sources/labels.json")).unwrap()).unwrap();
    let field = format!("{}uas", labels[0]["fov_uas"]);
    // With half of these levels the core-jet, seen with a high S/N on every baseline, is lost, and the label says so.
    let reduced = ["--draws", "4", "--population", "8", "--levels", "100", "--restarts", "1", "--seed", "0"];
    let mut reconstruct = vec!["reconstruct", "vlbi", "seen.uvfits", "-o", "out", "--prior", prior, "--fov", &field];
    reconstruct.extend(reduced);
    halation(folder, &reconstruct);
    let found: Value =
        serde_json::from_slice(&halation(folder, &["assess", "out", "--truth", "seen.truth.fits", "--json"])).unwrap();
    assert_eq!(found["ring_probability"], 0.0, "{family} {index}");
    let both = found["truth"]["mean"]["correlation_20uas"].as_f64().unwrap();
    assert!(both >= 0.9, "{family} {index}: correlation of the mean with the truth, both blurred to 20 uas: {both}");
}

#[test]
fn a_disk_is_no_ring() {
    let Some(bands) = bands("a_disk_is_no_ring") else { return };
    check("disk", "0", &night(Some(bands)));
}

#[test]
fn a_double_is_no_ring() {
    let Some(bands) = bands("a_double_is_no_ring") else { return };
    check("double", "2", &night(Some(bands)));
}

/// Without any observed file.
#[test]
fn a_core_with_a_jet_is_no_ring() {
    check("core-jet", "2", &night(None));
}
