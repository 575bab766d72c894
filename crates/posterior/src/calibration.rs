//! Does the truth fall where an ensemble says? Ranks, coverage, simulation-based calibration, TARP, CRPS, spread and skill.
//!
//! Everything here stands on ranks with a random tie-break, which are exactly uniform for every number of draws when the truth and the
//! draws are exchangeable. Random numbers come from the caller (uniform in (0, 1)), so that results can be reproduced. Masks and bins
//! must come from the data or the posterior mean: a mask made from the truth breaks the calibration of an exact posterior.

use crate::{Error, Result, effective_draws};
use ndarray::{ArrayView2, ArrayView3, Axis, Zip};

/// Position of `truth` among equally weighted `draws`: (r + u (t+1)) / (S+1) with r draws below the truth and t equal to it.
///
/// Uniform on (0, 1) for exchangeable truth and draws when `u` is uniform on (0, 1). NaN when the truth or a draw is NaN.
pub fn rank_position(draws: &[f64], truth: f64, u: f64) -> f64 {
    let (mut below, mut equal) = (0usize, 0usize);
    for x in draws {
        if x.is_nan() {
            return f64::NAN;
        }
        below += usize::from(*x < truth);
        equal += usize::from(*x == truth);
    }
    if truth.is_nan() { f64::NAN } else { (below as f64 + u * (equal as f64 + 1.0)) / (draws.len() as f64 + 1.0) }
}

/// As [`rank_position`] for draws with weights that sum to one, with counts replaced by weight times n_eff = 1 / sum w^2.
///
/// Equal weights give the same number; unequal ones an approximation, because weighted draws are not exchangeable with the truth.
pub fn weighted_rank_position(draws: &[f64], weights: &[f64], truth: f64, u: f64) -> f64 {
    let effective = effective_draws(weights);
    let (mut below, mut equal) = (0.0, 0.0);
    for (x, w) in draws.iter().zip(weights) {
        if x.is_nan() {
            return f64::NAN;
        }
        below += if *x < truth { *w } else { 0.0 };
        equal += if *x == truth { *w } else { 0.0 };
    }
    if truth.is_nan() { f64::NAN } else { (below * effective + u * (equal * effective + 1.0)) / (effective + 1.0) }
}

/// Share of rank positions inside the central interval of each level q: |position - 1/2| <= q/2. Positions that are NaN count as outside.
pub fn coverage(positions: &[f64], levels: &[f64]) -> Vec<f64> {
    let n = positions.len().max(1) as f64;
    levels.iter().map(|q| positions.iter().filter(|p| (**p - 0.5).abs() <= q / 2.0).count() as f64 / n).collect()
}

/// What [`coverage`] finds of truths that lie all below or above every one of `draws` equally weighted draws: their random place in the outermost gap,
/// u / (draws + 1), is inside the central interval of level q with probability 1 - (1 - q) (draws + 1) / 2. Above zero the draws are too few for the level.
pub fn coverage_beyond_all(draws: f64, levels: &[f64]) -> Vec<f64> {
    levels.iter().map(|q| (1.0 - 0.5 * (1.0 - q) * (draws + 1.0)).max(0.0)).collect()
}

/// Mean and its standard error by bootstrap over items (images): pixels of one image are not independent, images are.
///
/// `uniform` gives the random numbers, `replicates` of `values.len()` each. No values give NaN.
pub fn bootstrap_mean(values: &[f64], replicates: usize, uniform: &mut dyn FnMut() -> f64) -> (f64, f64) {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    if n == 0 || replicates < 2 {
        return (mean, f64::NAN);
    }
    let means: Vec<f64> = (0..replicates)
        .map(|_| (0..n).map(|_| values[((uniform() * n as f64) as usize).min(n - 1)]).sum::<f64>() / n as f64)
        .collect();
    let centre = means.iter().sum::<f64>() / replicates as f64;
    let variance = means.iter().map(|m| (m - centre) * (m - centre)).sum::<f64>() / (replicates as f64 - 1.0);
    (mean, variance.sqrt())
}

/// A histogram of rank positions with its test of uniformity (Talts et al. 2018, arXiv:1804.06788).
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RankHistogram {
    /// Number of positions in each of equal bins of [0, 1]. A U shape says over-confident, a dome under-confident, a slope biased.
    pub counts: Vec<u64>,
    /// Pearson's chi-square against a uniform distribution.
    pub chi2: f64,
    /// Probability of a chi-square at least as large; with k histograms, compare with 0.05/k.
    pub p_value: f64,
}

/// Counts rank positions in `bins` equal bins; at least five expected in each bin make the p-value trustworthy.
///
/// # Errors
/// Fewer than two bins, no positions, or positions outside [0, 1].
pub fn rank_histogram(positions: &[f64], bins: usize) -> Result<RankHistogram> {
    if bins < 2 || positions.is_empty() {
        return Err(Error::shape(
            "rank histogram",
            format!("{} positions in {bins} bins, expected some in at least two", positions.len()),
        ));
    }
    let mut counts = vec![0u64; bins];
    for p in positions {
        if !(0.0..=1.0).contains(p) {
            return Err(Error::shape("rank histogram", format!("position {p}, expected 0 to 1")));
        }
        counts[((p * bins as f64) as usize).min(bins - 1)] += 1;
    }
    let expected = positions.len() as f64 / bins as f64;
    let chi2 = counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
    Ok(RankHistogram { counts, chi2, p_value: chi2_survival(chi2, (bins - 1) as f64) })
}

/// Expected coverage of random regions (TARP; Lemos et al. 2023, arXiv:2302.03026).
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Tarp {
    /// Credibility levels, 0 to 1.
    pub alpha: Vec<f64>,
    /// Share of truths inside the region of each level; equal to `alpha` for an exact posterior.
    pub expected_coverage: Vec<f64>,
    /// Mean of expected coverage minus alpha (trapezoidal): positive for under-confident, negative for over-confident ensembles.
    pub area: f64,
    /// Largest absolute difference.
    pub largest_deviation: f64,
}

/// For each case, how many of its draws (draw, case, dimension) are nearer to its reference point than its truth is (Euclidean).
///
/// Distances depend on units: bring dimensions to comparable scales first. Reference points must not depend on the truth.
///
/// # Errors
/// Shapes that do not fit.
pub fn nearer_than_truth(draws: &ArrayView3<f64>, truths: &ArrayView2<f64>, references: &ArrayView2<f64>) -> Result<Vec<usize>> {
    let (_, n, d) = draws.dim();
    if truths.dim() != (n, d) || references.dim() != (n, d) {
        return Err(Error::shape(
            "TARP",
            format!(
                "draws {:?}, truths {:?}, references {:?}; expected (draw, case, dimension) and (case, dimension)",
                draws.dim(),
                truths.dim(),
                references.dim()
            ),
        ));
    }
    let distance =
        |a: ndarray::ArrayView1<f64>, b: ndarray::ArrayView1<f64>| Zip::from(a).and(b).fold(0.0, |s, x, y| s + (x - y) * (x - y));
    Ok((0..n)
        .map(|i| {
            let (truth, reference) = (truths.row(i), references.row(i));
            let limit = distance(truth, reference);
            draws.axis_iter(Axis(0)).filter(|draw| distance(draw.row(i), reference) < limit).count()
        })
        .collect())
}

/// TARP from the position of each truth among its draws by distance: (count of [`nearer_than_truth`] + u) / (S + 1), u uniform.
///
/// # Errors
/// No positions or no bins.
pub fn tarp(positions: &[f64], bins: usize) -> Result<Tarp> {
    tarp_at(positions, (0..=bins).map(|i| i as f64 / bins as f64).collect())
}

/// As [`tarp`], at rising levels of the caller's choice; the last one is taken as "everything".
///
/// # Errors
/// No positions or fewer than two levels.
pub fn tarp_at(positions: &[f64], alpha: Vec<f64>) -> Result<Tarp> {
    if positions.is_empty() || alpha.len() < 2 {
        return Err(Error::shape(
            "TARP",
            format!("{} cases at {} levels, expected some cases and two levels", positions.len(), alpha.len()),
        ));
    }
    let n = positions.len() as f64;
    let mut expected_coverage: Vec<f64> = alpha.iter().map(|a| positions.iter().filter(|p| **p < *a).count() as f64 / n).collect();
    if let Some(last) = expected_coverage.last_mut() {
        *last = 1.0;
    }
    let difference: Vec<f64> = expected_coverage.iter().zip(&alpha).map(|(e, a)| e - a).collect();
    let area = (1..alpha.len()).map(|i| 0.5 * (difference[i] + difference[i - 1]) * (alpha[i] - alpha[i - 1])).sum();
    let largest_deviation = difference.iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    Ok(Tarp { alpha, expected_coverage, area, largest_deviation })
}

/// Continuous ranked probability score of one quantity (Gneiting & Raftery 2007): E|X - truth| - E|X - X'|/2, in the quantity's unit.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Crps {
    /// The score of the ensemble as a distribution: E|X - X'| over all S^2 pairs. Favours large ensembles.
    pub ordinary: f64,
    /// The fair score (Ferro 2014): over S(S-1) pairs of different draws, so that its expectation does not depend on S. NaN for one draw.
    pub fair: f64,
}

/// CRPS of equally weighted draws.
pub fn crps(draws: &[f64], truth: f64) -> Crps {
    let s = draws.len() as f64;
    let mut sorted = draws.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let error = draws.iter().map(|x| (x - truth).abs()).sum::<f64>() / s;
    // Sum of |x_i - x_j| over all ordered pairs = 2 sum_i (2i - S + 1) x_(i), i from 0.
    let pairs: f64 = 2.0 * sorted.iter().enumerate().map(|(i, x)| (2.0 * i as f64 - s + 1.0) * x).sum::<f64>();
    Crps { ordinary: error - 0.5 * pairs / (s * s), fair: error - 0.5 * pairs / (s * (s - 1.0)) }
}

/// Energy score of draws (draw, dimension), the vector form of the ordinary CRPS with Euclidean norms.
///
/// # Errors
/// Shapes that do not fit.
pub fn energy_score(draws: &ArrayView2<f64>, truth: &[f64]) -> Result<f64> {
    let (s, d) = draws.dim();
    if truth.len() != d || s == 0 {
        return Err(Error::shape("energy score", format!("draws {:?} and a truth of {}", draws.dim(), truth.len())));
    }
    let norm = |a: ndarray::ArrayView1<f64>, b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
    let error: f64 = draws.rows().into_iter().map(|x| norm(x, truth)).sum::<f64>() / s as f64;
    let mut pairs = 0.0;
    for i in 0..s {
        let row = draws.row(i).to_vec();
        pairs += (0..i).map(|j| norm(draws.row(j), &row)).sum::<f64>();
    }
    Ok(error - pairs / (s * s) as f64)
}

/// Spread over skill: sqrt((S+1)/S) sqrt(mean s^2) / RMSE of the mean (Fortin et al. 2014). 1 for a calibrated ensemble, below for an
/// over-confident one. `means` and `stds` (unbiased) hold one value for each quantity, `draws` is S.
///
/// # Errors
/// Lengths that differ, or no values.
pub fn spread_skill(means: &[f64], stds: &[f64], truths: &[f64], draws: usize) -> Result<f64> {
    let n = means.len() as f64;
    if means.is_empty() || draws == 0 || stds.len() != means.len() || truths.len() != means.len() {
        return Err(Error::shape(
            "spread and skill",
            format!("{} means, {} deviations, {} truths of {draws} draws", means.len(), stds.len(), truths.len()),
        ));
    }
    let spread = (stds.iter().map(|s| s * s).sum::<f64>() / n).sqrt();
    let skill = (means.iter().zip(truths).map(|(m, t)| (m - t) * (m - t)).sum::<f64>() / n).sqrt();
    Ok(((draws as f64 + 1.0) / draws as f64).sqrt() * spread / skill)
}

/// Probability that chi-square with `degrees` degrees of freedom is at least `x`: the regularised upper incomplete gamma Q(degrees/2, x/2).
pub fn chi2_survival(x: f64, degrees: f64) -> f64 {
    let (a, x) = (degrees / 2.0, x / 2.0);
    if a.is_nan() || a <= 0.0 || x.is_nan() {
        return f64::NAN;
    }
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        // Series of the lower function (DLMF 8.11.4).
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        return 1.0 - scale * sum;
    }
    // Continued fraction of the upper function (DLMF 8.9.2) by Lentz's method.
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / TINY, 1.0 / b);
    let mut h = d;
    for i in 1..10_000 {
        let an = -(i as f64) * (i as f64 - a);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / if d.abs() < TINY { TINY } else { d };
        c = b + an / c;
        c = if c.abs() < TINY { TINY } else { c };
        let step = c * d;
        h *= step;
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    scale * h
}

/// Natural logarithm of the gamma function of x > 0: Stirling's series (DLMF 5.11.1) after shifting x above 10.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let z = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - z * (1.0 / 360.0 - z * (1.0 / 1260.0 - z * (1.0 / 1680.0 - z * (1.0 / 1188.0 - z * 691.0 / 360_360.0))))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
