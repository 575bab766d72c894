//! The reader against files of the public EHT releases and of the Boston University programme, where they are at hand.

use super::*;
use std::path::PathBuf;

/// A file of the shared data; none (and a line on stderr) when it is not there.
pub(crate) fn shared(test: &str, relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let path = root.join("data/vlbi").join(relative);
    if !path.exists() {
        eprintln!("skipped: {test} needs {}", path.display());
        return None;
    }
    Some(path)
}

const APR6_LO: &str = "m87_2017/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits";

/// Every row of the release's own CSV: time, stations, u, v, amplitude, phase and sigma to the digits printed there.
#[test]
fn release_csv_row_by_row() {
    let (Some(file), Some(csv)) =
        (shared("release_csv_row_by_row", APR6_LO), shared("release_csv_row_by_row", &APR6_LO.replace("uvfits", "csv")))
    else {
        return;
    };
    let (o, summary) = inspect_uvfits(&file).unwrap();
    assert_eq!((o.source.as_str(), o.rows, o.visibilities.len()), ("M87", 8645, 8645));
    assert_eq!(o.baselines().len(), 21);
    assert_eq!(o.scans.len(), 25);
    assert_eq!(summary.scans_from, "gaps in time");
    assert_eq!(o.stations.len(), 8);
    assert_eq!(o.stations_with_data().iter().filter(|u| **u).count(), 7);
    let text = std::fs::read_to_string(csv).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(',').collect()).collect();
    assert_eq!(rows.len(), 8645);
    let mut index = std::collections::HashMap::new();
    for v in &o.visibilities {
        let ms = ((v.mjd - 57849.0) * 86_400_000.0 / 100.0).round() as i64;
        index.insert((ms, o.stations[v.station1].name.as_str(), o.stations[v.station2].name.as_str()), v);
    }
    for row in &rows {
        let n = |i: usize| row[i].parse::<f64>().unwrap();
        let v = index
            .remove(&((n(0) * 36_000.0).round() as i64, row[1], row[2]))
            .unwrap_or_else(|| panic!("no visibility for {row:?}"));
        // The file keeps u and v as f32 wavelengths, the time as an f32 fraction of a day (steps of 5 ms).
        assert!((v.u_lambda - n(3)).abs() <= 1e-7 * n(3).abs() + 1e-3, "{row:?}: {}", v.u_lambda);
        assert!((v.v_lambda - n(4)).abs() <= 1e-7 * n(4).abs() + 1e-3, "{row:?}: {}", v.v_lambda);
        assert!(((v.mjd - 57849.0) * 86_400.0 - n(0) * 3600.0).abs() < 0.01, "{row:?}");
        assert!((v.value_jy.norm() - n(5)).abs() < 2e-8 + 1e-7 * n(5), "{row:?}: {}", v.value_jy.norm());
        let turn = (v.value_jy.arg().to_degrees() - n(6) + 540.0).rem_euclid(360.0) - 180.0;
        assert!(turn.abs() < 1e-4, "{row:?}: {}", v.value_jy.arg().to_degrees());
        assert!((v.sigma_jy - n(7)).abs() < 1e-8 + 2e-6 * n(7), "{row:?}: {}", v.sigma_jy);
    }
    assert!(index.is_empty());
}

/// The reader's test vector: the first row of M87, 6 April, low band.
#[test]
fn test_vector() {
    let Some(file) = shared("test_vector", APR6_LO) else { return };
    let o = read_uvfits(file).unwrap();
    let v = o
        .visibilities
        .iter()
        .find(|v| (v.mjd - (57849.0 + 0.86805555 / 24.0)).abs() < 1e-7 && o.stations[v.station2].name == "PV")
        .unwrap();
    assert_eq!(o.stations[v.station1].name, "AA");
    assert!((v.u_lambda + 4_396_973_056.0).abs() < 1.0 && (v.v_lambda + 4_510_950_912.0).abs() < 1.0);
    assert!((v.value_jy.norm() - 0.13778746).abs() < 1e-8);
    assert!((v.value_jy.arg().to_degrees() - 178.1494).abs() < 1e-4);
    assert!((v.sigma_jy - 0.00382148).abs() < 1e-8);
    assert!((o.bands[0].frequency_hz - 227_070_703_125.0).abs() < 1.0);
    assert!((o.bands[0].bandwidth_hz - 1.856e9).abs() < 1.0);
}

/// What an independent reader (astropy's GroupData, Stokes I formed with numpy) finds in a file: rows, unflagged visibilities, stations
/// with data, sum of V (reversed baselines turned), sum of sigma, sum of u + 2v, reversed, single-hand, bands.
type Expected = (&'static str, usize, usize, usize, (f64, f64), f64, f64, usize, usize, usize);

const FILES: [Expected; 13] = [
    (
        "3c279_2017/SR1_3C279_2017_095_hi_hops_netcal_StokesI.uvfits",
        5790,
        5790,
        7,
        (92.68722768500447, 594.7447725437814),
        210.53573041822213,
        -8864045090122.08,
        0,
        0,
        1,
    ),
    (
        "3c279_2017/SR1_3C279_2017_095_lo_hops_netcal_StokesI.uvfits",
        5843,
        5843,
        7,
        (-1842.9826180005912, 2337.433506223955),
        186.35214938350788,
        -8906382566679.875,
        0,
        0,
        1,
    ),
    (
        "m87_2017/SR1_M87_2017_095_hi_hops_netcal_StokesI.uvfits",
        6458,
        6458,
        7,
        (246.17585598859023, -225.93732487097577),
        237.06057808112843,
        -19688148880366.01,
        0,
        0,
        1,
    ),
    (
        "m87_2017/SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits",
        6453,
        6453,
        7,
        (-351.9226101377026, -149.14280397864968),
        208.1568965583328,
        -19517022112376.43,
        0,
        0,
        1,
    ),
    (
        "m87_2017/SR1_M87_2017_096_hi_hops_netcal_StokesI.uvfits",
        9081,
        9081,
        7,
        (233.32532185753735, 273.57230731206073),
        277.8588399664725,
        -30600480496130.86,
        0,
        0,
        1,
    ),
    (
        "m87_2017/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits",
        8645,
        8645,
        7,
        (-595.2494167455934, 602.2868959805382),
        251.94124711715023,
        -28595907057791.37,
        0,
        0,
        1,
    ),
    (
        "m87_2017_fullpol/SR2_M87_2017_095_hi_hops_ALMArot.uvfits",
        6458,
        6458,
        7,
        (201.20178222783488, -162.40748942516166),
        186.58743450425908,
        -19688151144025.82,
        0,
        1770,
        1,
    ),
    (
        "m87_2018/L2V1_M87_2018_111_b3_hops_netcal_10s_StokesI.uvfits",
        7317,
        7317,
        8,
        (1083.2478340602247, -185.88759883587772),
        367.87799662191253,
        -25742619881867.78,
        0,
        0,
        1,
    ),
    (
        "other/3C273DEC16_4if.UVP",
        1913,
        7648,
        10,
        (24589.00437960215, 1528.8361599980562),
        1253.8818386716994,
        634720635492.2224,
        0,
        0,
        4,
    ),
    (
        "other/3C279MAY13.UVP",
        2204,
        2204,
        9,
        (19617.299173460342, 2503.7135496474802),
        323.9887513339475,
        36961711960.26611,
        0,
        0,
        1,
    ),
    (
        "other/sample_reversed_baselines.uvfits",
        714,
        714,
        7,
        (-10.292640313025913, 9.660463944743242),
        4.550740084917651,
        6500927043878.498,
        714,
        0,
        1,
    ),
    (
        "sgra_2017/ER6_SGRA_2017_096_lo_hops_netcal-LMTcal-norm_StokesI.uvfits",
        12996,
        12996,
        7,
        (1922.7444342007277, -126.9037767247215),
        280.34277085561456,
        52143108322818.89,
        0,
        0,
        1,
    ),
    (
        "synthetic_sgra/obs.uvfits",
        938,
        938,
        9,
        (-18.80663698664648, -9.443135503304802),
        16.51559108269145,
        4165841979829.4067,
        938,
        0,
        1,
    ),
];

#[test]
fn every_file_as_an_independent_reader_has_it() {
    for (name, rows, unflagged, used, sum, sigmas, uv, reversed, single, bands) in FILES {
        let Some(file) = shared("every_file_as_an_independent_reader_has_it", name) else { continue };
        let (o, s) = inspect_uvfits(&file).unwrap();
        assert_eq!((o.rows, o.visibilities.len(), o.bands.len()), (rows, unflagged, bands), "{name}");
        assert_eq!(o.stations_with_data().iter().filter(|u| **u).count(), used, "{name}");
        assert_eq!((s.flags.reversed, s.flags.single_hand), (reversed, single), "{name}");
        let total: num_complex::Complex64 = o.visibilities.iter().map(|v| v.value_jy).sum();
        let scale: f64 = o.visibilities.iter().map(|v| v.value_jy.norm()).sum();
        assert!((total.re - sum.0).abs() + (total.im - sum.1).abs() < 1e-12 * scale, "{name}: {total}");
        let sigma: f64 = o.visibilities.iter().map(|v| v.sigma_jy).sum();
        assert!((sigma - sigmas).abs() < 1e-12 * sigmas, "{name}: {sigma}");
        let turned: f64 = o.visibilities.iter().map(|v| v.u_lambda + 2.0 * v.v_lambda).sum();
        let scale: f64 = o.visibilities.iter().map(|v| v.u_lambda.abs() + 2.0 * v.v_lambda.abs()).sum();
        assert!((turned - uv).abs() < 1e-12 * scale, "{name}: {turned} {uv}");
        assert!(o.visibilities.iter().all(|v| v.station1 < v.station2), "{name}");
        assert!(o.visibilities.iter().all(|v| o.scans.iter().filter(|s| s.0 <= v.mjd && v.mjd <= s.1).count() == 1), "{name}");
        let expected_scans = match name.split('/').next_back().unwrap_or_default() {
            "3C273DEC16_4if.UVP" => Some((8, "NX table")),
            "3C279MAY13.UVP" => Some((9, "NX table")),
            "SR2_M87_2017_095_hi_hops_ALMArot.uvfits" => Some((18, "NX table")),
            // One integration every ten minutes: each is a scan. The table of the 2018 file has no rows.
            "obs.uvfits" => Some((100, "gaps in time")),
            "L2V1_M87_2018_111_b3_hops_netcal_10s_StokesI.uvfits" => Some((o.scans.len(), "gaps in time")),
            _ => None,
        };
        if let Some(expected) = expected_scans {
            assert_eq!((o.scans.len(), s.scans_from), expected, "{name}");
        }
        let zero = o.zero_baseline_flux_jy();
        // The VLBA has no intra-site baselines, even where its baselines are shorter than 0.1 Glambda.
        assert_eq!(zero.is_none(), name.starts_with("other/3C") || name.contains("sample"), "{name}: {zero:?}");
    }
}

/// Both bands of a day: two bands, one set of stations, common scans; the same file twice is refused, and so is another source.
#[test]
fn bands_of_a_day_are_joined() {
    let test = "bands_of_a_day_are_joined";
    let (Some(lo), Some(hi), Some(other)) =
        (shared(test, APR6_LO), shared(test, &APR6_LO.replace("_lo_", "_hi_")), shared(test, "synthetic_sgra/obs.uvfits"))
    else {
        return;
    };
    let o = read_observation(&[&lo, &hi]).unwrap();
    assert_eq!((o.rows, o.bands.len(), o.stations.len(), o.scans.len()), (8645 + 9081, 2, 8, 25));
    assert!(o.bands[0].frequency_hz < o.bands[1].frequency_hz);
    assert_eq!(o.visibilities.iter().filter(|v| v.band == 1).count(), 9081);
    let twice = read_observation(&[&lo, &lo]).unwrap_err().to_string();
    assert!(twice.contains("twice") && twice.contains("_lo_"), "{twice}");
    let sources = read_observation(&[&lo, &other]).unwrap_err().to_string();
    assert!(sources.contains("'SgrA'") && sources.contains("'M87'"), "{sources}");
    assert!(read_observation::<&str>(&[]).is_err());
}
