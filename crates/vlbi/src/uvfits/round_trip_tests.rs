//! What the writer writes, the reader reads back.

use super::real_data_tests::shared;
use super::*;
use crate::{Station, Visibility};
use halation_compute::Philox;
use num_complex::Complex64;

/// A small observation: five stations, two bands, three scans; one baseline misses from the second band. All times fit f32 exactly
/// enough to compare by microseconds.
pub(crate) fn small_observation() -> Observation {
    let mut rng = Philox::new(11).sequence(0, 0);
    let stations: Vec<Station> = (0..5)
        .map(|i| Station {
            name: format!("S{i}"),
            position_m: [rng.range(-6e6, 6e6), rng.range(-6e6, 6e6), rng.range(-6e6, 6e6)],
            sefd_jy: (i > 0).then_some(1000.0 * i as f64),
        })
        .collect();
    let bands = vec![Band { frequency_hz: 227.1e9, bandwidth_hz: 1.856e9 }, Band { frequency_hz: 229.1e9, bandwidth_hz: 1.856e9 }];
    let mut visibilities = Vec::new();
    for scan in 0..3 {
        for step in 0..4 {
            let mjd = 57_849.1 + scan as f64 * 0.03 + step as f64 * 10.0 / 86_400.0;
            for station1 in 0..5 {
                for station2 in station1 + 1..5 {
                    let (u_s, v_s) = (rng.range(-0.03, 0.03), rng.range(-0.03, 0.03));
                    for (band, b) in bands.iter().enumerate() {
                        if (band, station1, station2) == (1, 0, 3) {
                            continue;
                        }
                        visibilities.push(Visibility {
                            mjd,
                            integration_s: 10.0,
                            station1,
                            station2,
                            u_lambda: u_s * b.frequency_hz,
                            v_lambda: v_s * b.frequency_hz,
                            band,
                            value_jy: Complex64::new(rng.normal(), rng.normal()),
                            sigma_jy: rng.log_range(1e-3, 1.0),
                        });
                    }
                }
            }
        }
    }
    let half = 5.0 / 86_400.0;
    let scans = (0..3).map(|s| 57_849.1 + s as f64 * 0.03).map(|t| (t - half, t + 30.0 / 86_400.0 + half)).collect();
    let mut o = Observation {
        source: "M87".into(),
        ra_deg: 187.7059307575226,
        dec_deg: 12.39112323919932,
        stations,
        bands,
        visibilities,
        scans,
        rows: 120,
    };
    o.sort();
    o
}

/// The bytes that the writer makes of an observation.
pub(crate) fn written(o: &Observation) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.uvfits");
    write_uvfits(&path, o).unwrap();
    // Nothing but the file itself is left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::read(path).unwrap()
}

/// Equal up to what 32-bit numbers keep.
pub(crate) fn assert_same(a: &Observation, b: &Observation) {
    assert_eq!((&a.source, a.ra_deg, a.dec_deg, &a.bands), (&b.source, b.ra_deg, b.dec_deg, &b.bands));
    assert_eq!(a.stations, b.stations);
    assert_eq!(a.visibilities.len(), b.visibilities.len());
    let rounding = f32::EPSILON as f64;
    for (x, y) in a.visibilities.iter().zip(&b.visibilities) {
        assert_eq!((x.band, x.station1, x.station2), (y.band, y.station1, y.station2));
        assert!((x.mjd - y.mjd).abs() * 86_400.0 < 1e-5, "{} {}", x.mjd, y.mjd);
        assert!((x.integration_s - y.integration_s).abs() <= rounding * x.integration_s);
        // Bands of one group share u, v in seconds, which may be those of another band within rounding.
        assert!((x.u_lambda - y.u_lambda).hypot(x.v_lambda - y.v_lambda) <= 2.0 * rounding * x.baseline_lambda());
        assert!((x.value_jy - y.value_jy).norm() <= rounding * x.value_jy.norm());
        assert!((x.sigma_jy - y.sigma_jy).abs() <= rounding * x.sigma_jy);
    }
    assert_eq!(a.scans.len(), b.scans.len());
    for (x, y) in a.scans.iter().zip(&b.scans) {
        assert!((x.0 - y.0).abs().max((x.1 - y.1).abs()) * 86_400.0 < 0.02, "{x:?} {y:?}");
    }
}

#[test]
fn bands_become_ifs_and_come_back() {
    let o = small_observation();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.uvfits");
    write_uvfits(&path, &o).unwrap();
    let (back, summary) = inspect_uvfits(&path).unwrap();
    assert_same(&o, &back);
    // One group for both bands: 12 times, 10 baselines; the baseline that misses in one band has weight 0 in both hands there.
    assert_eq!((summary.rows, summary.ifs, summary.scans_from), (120, 2, "NX table"));
    assert_eq!(summary.flags, Flags { weight_not_positive: 24, ..Flags::default() });
    // A second round changes nothing.
    write_uvfits(&path, &back).unwrap();
    let again = read_uvfits(&path).unwrap();
    assert_same(&back, &again);
    assert!(
        back.visibilities
            .iter()
            .zip(&again.visibilities)
            .all(|(a, b)| a.value_jy == b.value_jy && a.sigma_jy == b.sigma_jy && a.mjd == b.mjd)
    );
}

/// Bands whose u, v differ in seconds (other epochs joined as bands) get groups of their own.
#[test]
fn different_uv_is_not_mixed() {
    let mut o = small_observation();
    for v in o.visibilities.iter_mut().filter(|v| v.band == 1) {
        v.u_lambda *= 1.001;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.uvfits");
    write_uvfits(&path, &o).unwrap();
    let back = read_uvfits(&path).unwrap();
    assert_eq!(back.rows, 228);
    assert_same(&o, &back);
}

/// More than 255 stations need the longer baseline code.
#[test]
fn three_hundred_stations() {
    let mut o = small_observation();
    let far = Station { name: String::new(), position_m: [1.0, 2.0, 3.0], sefd_jy: None };
    o.stations.extend((5..300).map(|i| Station { name: format!("X{i}"), ..far.clone() }));
    for v in &mut o.visibilities {
        v.station2 += 295;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.uvfits");
    write_uvfits(&path, &o).unwrap();
    assert_same(&o, &read_uvfits(&path).unwrap());
}

#[test]
fn real_files_come_back() {
    for name in [
        "m87_2017/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits",
        "m87_2017_fullpol/SR2_M87_2017_095_hi_hops_ALMArot.uvfits",
        "other/3C273DEC16_4if.UVP",
        "other/sample_reversed_baselines.uvfits",
    ] {
        let Some(file) = shared("real_files_come_back", name) else { continue };
        let o = read_uvfits(file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.uvfits");
        write_uvfits(&path, &o).unwrap();
        assert_same(&o, &read_uvfits(&path).unwrap());
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.uvfits");
    let refused = |change: &dyn Fn(&mut Observation), word: &str| {
        let mut o = small_observation();
        change(&mut o);
        let error = write_uvfits(&path, &o).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("x.uvfits"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    refused(&|o| o.visibilities.clear(), "no visibility");
    refused(&|o| o.stations[1].name = "TOOLONGNAME".into(), "8 characters");
    refused(&|o| o.stations[1].name = "S0".into(), "called 'S0'");
    refused(&|o| o.visibilities[3].sigma_jy = 1e-25, "32-bit");
    refused(&|o| o.visibilities[3].sigma_jy = 0.0, "32-bit");
    refused(&|o| o.visibilities[3].value_jy.re = f64::NAN, "32-bit");
    refused(&|o| o.visibilities[3].u_lambda = f64::INFINITY, "inf");
    refused(&|o| o.visibilities[3].station2 = 77, "77");
    refused(&|o| o.visibilities[3].band = 7, "band 7");
}
