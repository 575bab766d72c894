use super::*;
use crate::mean_std;
use ndarray::{Array2, Array3};
use std::path::{Path, PathBuf};

/// A small generator for tests alone (xorshift64*, Vigna 2016).
pub(crate) fn uniforms(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

/// A little-endian C-ordered array of f4 or f8 from a .npy file.
fn read_npy(path: &Path) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let text = String::from_utf8_lossy(&bytes[10..10 + header]).into_owned();
    assert!(text.contains("'fortran_order': False"));
    let data = &bytes[10 + header..];
    if text.contains("<f4") {
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) as f64).collect()
    } else {
        data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

/// Numbers of the packages tarp, scoringrules and scipy on three ensembles (exact, over- and under-confident).
#[test]
fn golden_ensembles() {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let folder = root.join("golden/calibration");
    let Ok(text) = std::fs::read_to_string(folder.join("reference.json")) else {
        return eprintln!("skipped: golden_ensembles needs golden/calibration/reference.json");
    };
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (s, n, d) = (64, 400, 12);
    let theta = Array2::from_shape_vec((n, d), read_npy(&folder.join("theta.npy"))).unwrap();
    let references = Array2::from_shape_vec((n, d), read_npy(&folder.join("references.npy"))).unwrap();
    // That package brings the truths to [0, 1] before it measures distances, and draws its references there.
    let low: Vec<f64> = theta.columns().into_iter().map(|c| c.iter().copied().fold(f64::INFINITY, f64::min)).collect();
    let high: Vec<f64> = theta.columns().into_iter().map(|c| c.iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect();
    for case in ["exact", "over", "under"] {
        let expected = &golden["cases"][case];
        let number = |key: &str| expected[key].as_f64().unwrap();
        let list = |value: &serde_json::Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let x = Array3::from_shape_vec((s, n, d), read_npy(&folder.join(format!("samples_{case}.npy")))).unwrap();
        let quantity = |i: usize, j: usize| (0..s).map(|k| x[[k, i, j]]).collect::<Vec<f64>>();

        let scaled = |v: f64, j: usize| (v - low[j]) / (high[j] - low[j]);
        let x_scaled = Array3::from_shape_fn((s, n, d), |(k, i, j)| scaled(x[[k, i, j]], j));
        let theta_scaled = Array2::from_shape_fn((n, d), |(i, j)| scaled(theta[[i, j]], j));
        let nearer = nearer_than_truth(&x_scaled.view(), &theta_scaled.view(), &references.view()).unwrap();
        // That package takes the share of draws as the position and spreads its levels from the smallest to the largest share.
        let shares: Vec<f64> = nearer.iter().map(|c| *c as f64 / s as f64).collect();
        let t = tarp_at(&shares, list(&expected["tarp_alpha"])).unwrap();
        for (found, e) in t.expected_coverage.iter().zip(list(&expected["tarp_ecp"])) {
            close(*found, e, 1e-9, case);
        }
        close(t.area, number("tarp_area"), 1e-9, case);
        close(t.largest_deviation, number("tarp_max_abs_dev"), 1e-9, case);

        let (mut means, mut stds, mut truths, mut scores) = (vec![], vec![], vec![], vec![]);
        for j in 0..d {
            let positions: Vec<f64> = (0..n).map(|i| rank_position(&quantity(i, j), theta[[i, j]], 0.5)).collect();
            let h = rank_histogram(&positions, 13).unwrap();
            assert_eq!(h.counts.iter().map(|c| *c as f64).collect::<Vec<_>>(), list(&expected["sbc_rank_hist_13bins_per_dim"][j]));
            close(h.chi2, expected["sbc_chi2_per_dim"][j].as_f64().unwrap(), 1e-9, case);
            let p = expected["sbc_p_per_dim"][j].as_f64().unwrap();
            close(h.p_value, p, 1e-12 + 1e-9 * p, case);
            for i in 0..n {
                let draws = quantity(i, j);
                let (mean, std) = mean_std(&draws, &vec![1.0 / s as f64; s]);
                means.push(mean);
                stds.push(std);
                truths.push(theta[[i, j]]);
                scores.push(crps(&draws, theta[[i, j]]));
            }
        }
        let count = scores.len() as f64;
        // The golden numbers were computed in single precision.
        close(scores.iter().map(|c| c.ordinary).sum::<f64>() / count, number("crps_ensemble_mean_nrg"), 2e-7, case);
        close(scores.iter().map(|c| c.fair).sum::<f64>() / count, number("crps_ensemble_mean_fair"), 2e-7, case);
        close(spread_skill(&means, &stds, &truths, s).unwrap(), number("spread_skill_ratio"), 1e-6, case);
        let energy: f64 =
            (0..n).map(|i| energy_score(&x.index_axis(Axis(1), i), &theta.row(i).to_vec()).unwrap()).sum::<f64>() / n as f64;
        close(energy, number("energy_score_mean"), 1e-6, case);
        // That file holds no coverage by ranks. An exact posterior must meet the level within the error of 400 independent cases, and
        // rank intervals are wider than those between interpolated quantiles, which cover too little.
        let mut uniform = uniforms(7);
        let all: Vec<f64> = (0..n * d).map(|k| rank_position(&quantity(k / d, k % d), theta[[k / d, k % d]], uniform())).collect();
        for (c, level) in coverage(&all, &[0.5, 0.68, 0.9, 0.95]).iter().zip(["0.5", "0.68", "0.9", "0.95"]) {
            let q: f64 = level.parse().unwrap();
            let error = (q * (1.0 - q) / n as f64).sqrt();
            match case {
                "exact" => close(*c, q, 2.0 * error, "coverage of the exact posterior"),
                "over" => assert!(*c < q - 4.0 * error, "{level}: {c}"),
                _ => assert!(*c > q + 2.0 * error, "{level}: {c}"),
            }
            assert!(*c > expected["coverage_quantile_linear"][level].as_f64().unwrap());
        }
    }
}

/// Truth and draws from one distribution: positions are uniform for every S, with ties too.
#[test]
fn ranks_are_exact_for_every_number_of_draws() {
    let mut uniform = uniforms(1);
    for s in [1, 2, 5, 19] {
        for levels in [3.0, f64::INFINITY] {
            // Rounded values tie often.
            let mut value = || if levels == 3.0 { (uniform() * levels).floor() } else { uniform() };
            let n = 20_000;
            let mut positions = Vec::new();
            for _ in 0..n {
                let draws: Vec<f64> = (0..s).map(|_| value()).collect();
                positions.push((draws, value()));
            }
            let positions: Vec<f64> = positions.iter().map(|(d, t)| rank_position(d, *t, uniform())).collect();
            for (c, q) in coverage(&positions, &[0.3, 0.9]).iter().zip([0.3, 0.9f64]) {
                close(*c, q, 4.0 * (q * (1.0 - q) / n as f64).sqrt(), "coverage");
            }
            assert!(rank_histogram(&positions, 10).unwrap().p_value > 1e-4);
        }
    }
}

#[test]
fn positions_and_weights() {
    assert_eq!(rank_position(&[1.0, 2.0, 3.0], 2.5, 0.5), 2.5 / 4.0);
    assert_eq!(rank_position(&[1.0, 2.0, 2.0], 2.0, 0.5), 2.5 / 4.0);
    assert!(rank_position(&[1.0, f64::NAN], 0.0, 0.5).is_nan() && rank_position(&[1.0], f64::NAN, 0.5).is_nan());
    let equal = [1.0 / 3.0; 3];
    close(
        weighted_rank_position(&[1.0, 2.0, 2.0], &equal, 2.0, 0.3),
        rank_position(&[1.0, 2.0, 2.0], 2.0, 0.3),
        1e-15,
        "equal weights",
    );
    // One draw carries everything: as one draw.
    close(weighted_rank_position(&[1.0, 5.0], &[1.0, 0.0], 2.0, 0.5), 0.75, 1e-15, "one weight");
    assert_eq!(coverage(&[0.1, 0.5, f64::NAN, 0.96], &[0.9]), [0.5]);
}

/// CRPS against the double sum, and fair CRPS against its expectation for a uniform distribution: E = 1/6 for truth and draws U(0,1).
#[test]
fn crps_closed_forms() {
    let draws = [0.3f64, -1.0, 2.0, 0.3];
    let s = 4.0;
    let pairs: f64 = draws.iter().map(|a| draws.iter().map(|b| (a - b).abs()).sum::<f64>()).sum();
    let error = draws.iter().map(|a| (a - 0.5).abs()).sum::<f64>() / s;
    let c = crps(&draws, 0.5);
    close(c.ordinary, error - 0.5 * pairs / (s * s), 1e-14, "ordinary");
    close(c.fair, error - 0.5 * pairs / (s * (s - 1.0)), 1e-14, "fair");
    assert!(crps(&[1.0], 0.0).fair.is_nan());
    let mut uniform = uniforms(3);
    let n = 40_000;
    let fair: f64 = (0..n).map(|_| crps(&[uniform(), uniform(), uniform()], uniform()).fair).sum::<f64>() / n as f64;
    close(fair, 1.0 / 6.0, 4.0 * 0.2 / (n as f64).sqrt(), "fair CRPS does not depend on the number of draws");
}

/// Exact values: Q(k/2, x/2) has closed forms for k = 2 (exponential) and k = 4; others from tables (Abramowitz & Stegun 26.8).
#[test]
fn chi2_survival_closed_forms() {
    for x in [0.01, 1.0, 5.0, 30.0, 200.0f64] {
        close(chi2_survival(x, 2.0) / (-x / 2.0).exp(), 1.0, 1e-12, "k = 2");
        close(chi2_survival(x, 4.0) / ((1.0 + x / 2.0) * (-x / 2.0).exp()), 1.0, 1e-12, "k = 4");
    }
    close(chi2_survival(3.841458820694124, 1.0), 0.05, 1e-12, "k = 1");
    close(chi2_survival(124.3421134, 100.0), 0.05, 1e-8, "k = 100");
    assert_eq!(chi2_survival(0.0, 3.0), 1.0);
    assert!(chi2_survival(1.0, 0.0).is_nan());
}

#[test]
fn bootstrap_of_a_mean() {
    let mut uniform = uniforms(5);
    let values: Vec<f64> = (0..50).map(|i| i as f64).collect();
    let (mean, error) = bootstrap_mean(&values, 4000, &mut uniform);
    assert_eq!(mean, 24.5);
    // Population standard deviation over sqrt(n).
    let expected = ((2500.0f64 - 1.0) / 12.0).sqrt() / 50f64.sqrt();
    close(error, expected, 0.05 * expected, "bootstrap error");
    assert!(bootstrap_mean(&[], 10, &mut uniform).0.is_nan());
}

#[test]
fn bad_shapes_are_errors() {
    assert!(rank_histogram(&[], 5).is_err() && rank_histogram(&[0.5], 1).is_err() && rank_histogram(&[f64::NAN], 5).is_err());
    assert!(tarp(&[], 5).is_err() && spread_skill(&[1.0], &[], &[1.0], 3).is_err());
    assert!(energy_score(&Array2::zeros((2, 3)).view(), &[0.0]).is_err());
    assert!(
        nearer_than_truth(&Array3::zeros((2, 3, 4)).view(), &Array2::zeros((3, 4)).view(), &Array2::zeros((3, 5)).view()).is_err()
    );
}
