//! Mean, standard deviation and quantiles over the draws of an ensemble.
//!
//! Quantiles use position p(n+1) (Weibull's plotting position k/(n+1) for the k-th smallest of n), so that the interval between the
//! p and 1-p quantiles of n exact draws holds the truth with probability 1-2p. With weights, draw k (in ascending order) stands at
//! ((S_{k-1} + S_k)/2 n_eff + 1/2) / (n_eff + 1), where S are cumulative weights and n_eff = 1/sum w^2: the same for equal weights.

use crate::{Ensemble, Error, Result};
use ndarray::{Array3, ArrayView2, Axis};
use rayon::prelude::*;

/// Fewest draws whose 5 and 95 % limits are honest; below, the smallest and largest draw are given with the level they have.
pub const FEWEST_DRAWS_FOR_LIMITS: f64 = 20.0;

/// Pixel statistics, (channel, y, x) each.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Weighted mean.
    pub mean: Array3<f32>,
    /// Weighted standard deviation, unbiased: divided by n-1 for equal weights, by 1 - sum w^2 otherwise; zero for one draw.
    pub std: Array3<f32>,
    /// Lower limit.
    pub q05: Array3<f32>,
    /// Median.
    pub q50: Array3<f32>,
    /// Upper limit.
    pub q95: Array3<f32>,
    /// Probability level of `q05`: 0.05, or 1/(n_eff+1) of the smallest draw when there are fewer than 20.
    pub lower_level: f64,
    /// Probability level of `q95`.
    pub upper_level: f64,
    /// 1/sum w^2.
    pub effective_draws: f64,
}

impl Summary {
    /// The statistics of all draws of `ensemble`, chains together.
    ///
    /// # Errors
    /// There is no draw, or the weights do not fit.
    pub fn of(ensemble: &Ensemble) -> Result<Self> {
        let weights = ensemble.checked_weights()?;
        let (_, _, nc, ny, nx) = ensemble.images.dim();
        let effective = effective_draws(&weights);
        let lower = lower_level(effective);
        let images = ensemble.images.as_standard_layout();
        let flat = images.to_shape((weights.len(), nc * ny * nx)).map_err(|e| Error::shape("images", e.to_string()))?;
        let columns: Vec<[f32; 5]> = columns_in_blocks(&flat.view(), |values, order| {
            let (mean, std) = mean_std(values, &weights);
            let sorted = SortedDraws::new(values, &weights, effective, order);
            [
                mean as f32,
                std as f32,
                sorted.quantile(lower) as f32,
                sorted.quantile(0.5) as f32,
                sorted.quantile(1.0 - lower) as f32,
            ]
        });
        let pick = |i: usize| {
            Array3::from_shape_vec((nc, ny, nx), columns.iter().map(|c| c[i]).collect())
                .map_err(|e| Error::shape("images", e.to_string()))
        };
        Ok(Self {
            mean: pick(0)?,
            std: pick(1)?,
            q05: pick(2)?,
            q50: pick(3)?,
            q95: pick(4)?,
            lower_level: lower,
            upper_level: 1.0 - lower,
            effective_draws: effective,
        })
    }
}

/// Calls `f` with the values of each pixel over the draws; blocks of pixels are gathered so that memory is read in order.
fn columns_in_blocks<T: Send>(draws: &ArrayView2<f32>, f: impl Fn(&[f64], &mut Vec<usize>) -> T + Sync) -> Vec<T> {
    const BLOCK: usize = 256;
    let (n, pixels) = draws.dim();
    let blocks: Vec<Vec<T>> = (0..pixels.div_ceil(BLOCK))
        .into_par_iter()
        .map(|b| {
            let range = b * BLOCK..pixels.min((b + 1) * BLOCK);
            let mut gathered = vec![0.0; n * range.len()];
            for (k, row) in draws.axis_iter(Axis(0)).enumerate() {
                for (i, pixel) in range.clone().enumerate() {
                    gathered[i * n + k] = row[pixel] as f64;
                }
            }
            let mut order = Vec::with_capacity(n);
            gathered.chunks(n).map(|values| f(values, &mut order)).collect()
        })
        .collect();
    blocks.into_iter().flatten().collect()
}

/// 1 / sum of squared weights (Kish 1965), for weights that sum to one.
pub fn effective_draws(weights: &[f64]) -> f64 {
    1.0 / weights.iter().map(|w| w * w).sum::<f64>()
}

/// The level of the lower limit: 0.05, or that of the smallest draw when there are fewer than 20.
pub fn lower_level(effective: f64) -> f64 {
    // The tolerance keeps 20 equal weights at 20 in spite of rounding.
    if effective < FEWEST_DRAWS_FOR_LIMITS - 1e-6 { 1.0 / (effective + 1.0) } else { 0.05 }
}

/// Weighted mean and unbiased standard deviation; `weights` sum to one.
pub fn mean_std(values: &[f64], weights: &[f64]) -> (f64, f64) {
    let mean: f64 = values.iter().zip(weights).map(|(v, w)| v * w).sum();
    let squares: f64 = values.iter().zip(weights).map(|(v, w)| w * (v - mean) * (v - mean)).sum();
    let free = 1.0 - weights.iter().map(|w| w * w).sum::<f64>();
    (mean, if free > 1e-12 { (squares / free).sqrt() } else { 0.0 })
}

/// Quantiles `levels` of `values` with `weights` that sum to one, at position p(n+1); beyond the extreme draws, the extreme draw.
///
/// # Errors
/// No value, or lengths that differ.
pub fn quantiles(values: &[f64], weights: &[f64], levels: &[f64]) -> Result<Vec<f64>> {
    if values.is_empty() || values.len() != weights.len() {
        return Err(Error::shape(
            "quantiles",
            format!("{} values and {} weights, expected the same number and at least one", values.len(), weights.len()),
        ));
    }
    let mut order = Vec::new();
    let sorted = SortedDraws::new(values, weights, effective_draws(weights), &mut order);
    Ok(levels.iter().map(|p| sorted.quantile(*p)).collect())
}

struct SortedDraws<'a> {
    values: &'a [f64],
    weights: &'a [f64],
    order: &'a [usize],
    effective: f64,
}

impl<'a> SortedDraws<'a> {
    fn new(values: &'a [f64], weights: &'a [f64], effective: f64, order: &'a mut Vec<usize>) -> Self {
        order.clear();
        order.extend((0..values.len()).filter(|i| weights[*i] > 0.0));
        order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]).then(a.cmp(b)));
        Self { values, weights, order, effective }
    }

    fn quantile(&self, p: f64) -> f64 {
        let (mut before, mut last) = (0.0, None);
        for &i in self.order {
            let position = ((before + 0.5 * self.weights[i]) * self.effective + 0.5) / (self.effective + 1.0);
            before += self.weights[i];
            let value = self.values[i];
            if position >= p {
                return match last {
                    Some((at, low)) if position > at => low + (value - low) * ((p - at) / (position - at)).clamp(0.0, 1.0),
                    _ => value,
                };
            }
            last = Some((position, value));
        }
        last.map_or(f64::NAN, |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(n: usize) -> Vec<f64> {
        vec![1.0 / n as f64; n]
    }

    #[test]
    fn position_is_p_times_n_plus_one() {
        let values: Vec<f64> = (1..=39).rev().map(f64::from).collect();
        let q = quantiles(&values, &equal(39), &[0.05, 0.5, 0.95, 0.26, 0.001, 1.0]).unwrap();
        for (found, expected) in q.iter().zip([2.0, 20.0, 38.0, 10.4, 1.0, 39.0]) {
            assert!((found - expected).abs() < 1e-9, "{q:?}");
        }
        assert!(quantiles(&[], &[], &[0.5]).is_err());
    }

    /// Integer weights are repeated draws in the mean and the centre of the distribution.
    #[test]
    fn weights() {
        let (values, weights) = ([3.0, 1.0, 2.0], [0.5, 0.25, 0.25]);
        let (mean, std) = mean_std(&values, &weights);
        assert!((mean - 2.25).abs() < 1e-15);
        // sum w (x - mean)^2 / (1 - sum w^2) = 0.6875 / 0.625
        assert!((std - (0.6875f64 / 0.625).sqrt()).abs() < 1e-12);
        // n_eff = 8/3; positions of 1, 2, 3: (S n_eff + 1/2)/(n_eff + 1) with S = 1/8, 3/8, 3/4.
        let n: f64 = 8.0 / 3.0;
        let at = |s: f64| (s * n + 0.5) / (n + 1.0);
        let median = 2.0 + (0.5 - at(0.375)) / (at(0.75) - at(0.375));
        assert!((quantiles(&values, &weights, &[0.5]).unwrap()[0] - median).abs() < 1e-12);
        // Mirrored values give mirrored quantiles.
        let mirrored = values.map(|v| -v);
        let (a, b) = (quantiles(&values, &weights, &[0.3]).unwrap()[0], quantiles(&mirrored, &weights, &[0.7]).unwrap()[0]);
        assert!((a + b).abs() < 1e-12);
        assert_eq!(quantiles(&[5.0, 9.0], &[1.0, 0.0], &[0.05, 0.95]).unwrap(), [5.0, 5.0]);
        assert_eq!(mean_std(&[5.0], &[1.0]), (5.0, 0.0));
    }

    #[test]
    fn fewer_than_twenty_draws_state_their_level() {
        assert_eq!(lower_level(effective_draws(&equal(20))), 0.05);
        assert!((lower_level(9.0) - 0.1).abs() < 1e-15);
    }
}
