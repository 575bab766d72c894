//! `simulate vlbi` and `info` as a user calls them.

use halation_io::{SkyImage, read_fits_image, write_fits_image};
use ndarray::Array2;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const UAS: f64 = std::f64::consts::PI / 180.0 / 3600.0 / 1e6;

fn halation(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_halation")).args(args).current_dir(folder).output().unwrap()
}

/// Runs and gives standard output; panics with standard error when the command fails.
fn done(folder: &Path, args: &[&str]) -> String {
    let output = halation(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must be refused with exit code 2 and gives standard error.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = halation(folder, args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn ring(folder: &Path) {
    let pixels = Array2::from_shape_fn((48, 48), |(j, i)| {
        let r = (i as f64 - 23.5).hypot(j as f64 - 23.5) * 2.5;
        (-(r - 20.0).powi(2) / 50.0).exp() * (1.3 - j as f64 / 47.0)
    });
    let mut image = SkyImage::new(pixels, 2.5 * UAS);
    image.ra_deg = Some(187.7059307575226);
    image.dec_deg = Some(12.39112323919932);
    image.object = Some("M87".into());
    write_fits_image(&folder.join("ring.fits"), &image, &[]).unwrap();
}

const NIGHT: [&str; 12] = [
    "simulate",
    "vlbi",
    "--image",
    "ring.fits",
    "--array",
    "eht-2017",
    "--start",
    "2017-04-06T00:30",
    "--hours",
    "3",
    "--flux",
    "0.6Jy",
];

#[test]
fn a_night_of_the_eht() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ring(folder);
    done(folder, &[&NIGHT[..], &["--seed", "7", "-o", "a.uvfits"]].concat());
    let info: Value = serde_json::from_str(&done(folder, &["info", "a.uvfits", "--json"])).unwrap();
    assert_eq!(info["source"], "M87");
    assert_eq!(info["stations_listed"], 8);
    assert_eq!(info["rows"], info["unflagged"]);
    // 3 h hold 18 scans of 5 minutes every 10 minutes.
    assert_eq!(info["scans"], 18);
    assert_eq!(info["frequency_hz"], 230e9);
    assert_eq!(info["bandwidth_hz"], 1.856e9);
    assert!(info["max_baseline_lambda"].as_f64().unwrap() > 5e9);
    // ALMA-APEX sees 0.6 Jy within the gains' spread of 15 %: five standard deviations.
    let zero_jy = info["zero_baseline_flux_jy"].as_f64().unwrap();
    assert!((zero_jy / 0.6).ln().abs() < 5.0 * 0.15, "{zero_jy}");
    assert!(done(folder, &["info", "a.uvfits"]).contains("stations_used"));

    let truth = read_fits_image(&folder.join("a.truth.fits")).unwrap();
    assert!((truth.total() - 0.6).abs() < 1e-12 && truth.object.as_deref() == Some("M87"));
    let gains: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("a.truth.json")).unwrap()).unwrap();
    assert_eq!((gains["seed"].as_u64(), gains["log_gain"].as_array().unwrap().len()), (Some(7), 8));
    let image: Value = serde_json::from_str(&done(folder, &["info", "a.truth.fits", "--json"])).unwrap();
    assert!((image["total_flux_jy"].as_f64().unwrap() - 0.6).abs() < 1e-12 && image["pixels"][0] == 48);

    // The same seed gives the same bytes with one thread; the simulated file serves as a pattern for the next.
    done(folder, &[&NIGHT[..], &["--seed", "7", "--threads", "1", "-o", "b.uvfits"]].concat());
    assert_eq!(std::fs::read(folder.join("a.uvfits")).unwrap(), std::fs::read(folder.join("b.uvfits")).unwrap());
    let clean = [
        "simulate",
        "vlbi",
        "--image",
        "ring.fits",
        "--like",
        "a.uvfits",
        "--no-noise",
        "--no-gains",
        "--no-phases",
        "--flux",
        "0.6Jy",
    ];
    done(folder, &[&clean[..], &["-o", "c.uvfits"]].concat());
    let again: Value = serde_json::from_str(&done(folder, &["info", "c.uvfits", "--json"])).unwrap();
    assert_eq!((&again["rows"], &again["scans"]), (&info["rows"], &info["scans"]));
    let zero_jy = again["zero_baseline_flux_jy"].as_f64().unwrap();
    // A baseline of 2.6 km resolves nothing of a ring of 40 microarcseconds.
    assert!((zero_jy - 0.6).abs() < 1e-5, "{zero_jy}");
}

/// `info` describes an image that the other commands refuse, and says why they do.
#[test]
fn info_describes_what_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ring(folder);
    let bytes = std::fs::read(folder.join("ring.fits")).unwrap();
    let header = String::from_utf8(bytes[..2880].to_vec()).unwrap();
    let changed = |name: &str, from: &str, to: &str| {
        assert!(header.contains(from) && from.len() == to.len());
        std::fs::write(folder.join(name), [header.replace(from, to).as_bytes(), &bytes[2880..]].concat()).unwrap();
    };
    changed("beam.fits", "JY/PIXEL", "JY/BEAM ");
    let info: Value = serde_json::from_str(&done(folder, &["info", "beam.fits", "--json"])).unwrap();
    assert_eq!((&info["unit"], &info["axes"][0]["pixels"], &info["source"]), (&"JY/BEAM".into(), &48.into(), &"M87".into()));
    assert!(info["not_usable"].as_str().unwrap().contains("BUNIT = JY/BEAM, expected JY/PIXEL"), "{info}");
    changed("flat.fits", "RA---SIN", "        ");
    let text = done(folder, &["info", "flat.fits"]);
    assert!(text.contains("expected RA---SIN; write the WCS into the header") && text.contains("JY/PIXEL"), "{text}");
    // What holds no image at all is no image that cannot be used.
    changed("table.fits", "NAXIS   =                    2", "NAXIS   =                    1");
    assert!(refused(folder, &["info", "table.fits"]).contains("holds no image"));
    let call = ["simulate", "vlbi", "--image", "beam.fits", "--array", "eht-2017", "--start", "2017-04-06", "-o", "x.uvfits"];
    assert!(refused(folder, &call).contains("give the model image"));
}

#[test]
fn bad_calls_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ring(folder);
    assert!(refused(folder, &["info", "nothing.uvfits"]).contains("nothing.uvfits"));
    std::fs::write(folder.join("text.uvfits"), "hello").unwrap();
    assert!(refused(folder, &["info", "text.uvfits"]).contains("not a FITS file"));
    std::fs::write(folder.join("x.h5"), b"\x89HDF\r\n\x1a\nand nothing").unwrap();
    assert!(refused(folder, &["info", "x.h5"]).contains("x.h5"));
    std::fs::write(folder.join("x.safetensors"), "short").unwrap();
    assert!(refused(folder, &["info", "x.safetensors"]).contains("x.safetensors"));
    assert!(refused(folder, &["info", "ring.fits", "ring.fits"]).contains("no UVFITS"));
    let start = ["--start", "2017-04-06", "-o", "x.uvfits"];
    let call = |more: &[&str]| refused(folder, &[&["simulate", "vlbi", "--image", "ring.fits"], more, &start[..]].concat());
    assert!(call(&["--array", "nosucharray"]).contains("eht-2022"));
    assert!(call(&["--array", "eht-2017", "--hours=-1"]).contains("found --hours -1, expected a positive number"));
    assert!(call(&["--array", "eht-2017", "--scan-s", "0"]).contains("found --scan-s 0"));
    assert!(call(&["--array", "eht-2017", "--flux", "0.6"]).contains("unit"));
    assert!(call(&["--array", "vlba", "--dec-deg", "-89"]).contains("no two stations"));
    assert!(refused(folder, &["simulate", "vlbi", "--image", "ring.fits", "-o", "x.uvfits"]).contains("--like"));
    write_fits_image(&folder.join("dark.fits"), &SkyImage::new(Array2::zeros((8, 8)), UAS), &[]).unwrap();
    let dark = ["simulate", "vlbi", "--image", "dark.fits", "--array", "eht-2017", "--ra-deg", "187.7", "--dec-deg", "12.4"];
    assert!(refused(folder, &[&dark[..], &start].concat()).contains("dark.fits: image: all pixels are 0"));
    assert!(!folder.join("x.uvfits").exists() && !folder.join("x.truth.fits").exists());
    std::fs::write(folder.join("x.uvfits"), "mine").unwrap();
    assert!(call(&["--array", "eht-2017"]).contains("--force"));
    assert_eq!(std::fs::read(folder.join("x.uvfits")).unwrap(), b"mine");
    done(folder, &[&NIGHT[..], &["--force", "-o", "x.uvfits"]].concat());
}

/// What would be ignored or mixed in silence.
#[test]
fn reconstructions_that_would_mislead_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ring(folder);
    for (day, name) in [("2017-04-06T00:30", "a.uvfits"), ("2017-04-07T00:30", "b.uvfits")] {
        let mut night = NIGHT;
        night[7] = day;
        done(folder, &[&night[..], &["-o", name]].concat());
    }
    let call = |more: &[&str]| refused(folder, &[&["reconstruct", "vlbi", "-o", "out", "--dry-run", "a.uvfits"], more].concat());
    let days = call(&["b.uvfits"]);
    assert!(
        days.contains("b.uvfits")
            && days.contains("observed 24 hours from")
            && days.contains("a.uvfits, expected files of one observation")
            && days.contains("each day alone"),
        "{days}"
    );
    assert!(call(&["--gain", "LM=0.5"]).contains("no station gains"));
    let amplitudes = ["--data", "amplitudes+closures", "--gain", "XX=0.5"];
    assert!(call(&amplitudes).contains("--gain XX=0.5: found no such station in the data that are left, expected one of"));
    assert!(call(&["--seed", "-5"]).contains("invalid value '-5'"));
    assert!(call(&["--fov", "20uas"]).contains("100 to 250 uas"));
    done(folder, &["reconstruct", "vlbi", "-o", "out", "--dry-run", "a.uvfits", "--prior", "vlbi-64"]);
}
