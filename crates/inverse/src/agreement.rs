//! Do two independent populations tell the same story?

use crate::Result;
use crate::numeric::{dot, symmetric_eigen};
use halation_compute::{Philox, Tensor};
use ndarray::Array2;

/// The comparison of two populations.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Sum over the leading directions of the squared difference of the two means over the pooled variance.
    pub statistic: f64,
    /// Share of relabellings of whole families with a statistic at least as large.
    pub p_value: f64,
    /// Number of leading directions.
    pub directions: usize,
}

impl Agreement {
    /// Whether the difference is what families of this size show by chance, at the 5 % level.
    pub fn agree(&self) -> bool {
        self.p_value >= 0.05
    }
}

const DIRECTIONS: usize = 8;
const PERMUTATIONS: usize = 999;

/// Compares draws `0..first` of `images` with the rest along the leading principal directions of the pooled draws.
///
/// Where modes exist, their shares move the means along these directions, so the statistic sees them. Draws of one ancestor are no
/// independent evidence: the permutation test exchanges whole families (draws of equal `family`) between the populations.
pub(crate) fn compare(images: &Tensor, first: usize, family: &[u64], rng: Philox) -> Result<Agreement> {
    let (n, d) = (images.draws(), images.item_len());
    let mut centred: Vec<Vec<f64>> = (0..n).map(|i| images.item(i).iter().map(|v| *v as f64).collect()).collect();
    let mut mean = vec![0.0; d];
    centred.iter().for_each(|x| mean.iter_mut().zip(x).for_each(|(m, v)| *m += v / n as f64));
    centred.iter_mut().for_each(|x| x.iter_mut().zip(&mean).for_each(|(v, m)| *v -= m));
    let mut gram = Array2::zeros((n, n));
    for i in 0..n {
        for j in 0..=i {
            let value = dot(&centred[i], &centred[j]);
            gram[(i, j)] = value;
            gram[(j, i)] = value;
        }
    }
    let (values, vectors) = symmetric_eigen(&gram)?;
    let top = values[n - 1].max(0.0);
    // Eigenvector k of the Gram matrix holds the standardised coordinate of every draw along principal direction k.
    let directions: Vec<usize> = (0..n).rev().take(DIRECTIONS).filter(|k| values[*k] > 1e-10 * top && top > 0.0).collect();
    let coordinate = |i: usize, k: usize| vectors[(i, k)] * (n as f64).sqrt();
    let statistic = |in_first: &dyn Fn(usize) -> bool| -> f64 {
        directions
            .iter()
            .map(|k| {
                let (mut sums, mut counts) = ([0.0; 2], [0.0f64; 2]);
                for i in 0..n {
                    let side = usize::from(!in_first(i));
                    sums[side] += coordinate(i, *k);
                    counts[side] += 1.0;
                }
                if counts[0] == 0.0 || counts[1] == 0.0 { 0.0 } else { (sums[0] / counts[0] - sums[1] / counts[1]).powi(2) }
            })
            .sum()
    };
    let observed = statistic(&|i| i < first);
    let mut families: Vec<(bool, u64)> = family.iter().enumerate().map(|(i, f)| (i < first, *f)).collect();
    let of_draw = families.clone();
    families.sort_unstable();
    families.dedup();
    let in_first = families.iter().filter(|f| f.0).count();
    let index: Vec<usize> = of_draw.iter().map(|f| families.binary_search(f).unwrap_or(0)).collect();
    let mut as_large = 0;
    for p in 0..PERMUTATIONS {
        let mut s = rng.sequence(p as u64, 0);
        let mut order: Vec<usize> = (0..families.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, s.index(i + 1));
        }
        if statistic(&|i| order[index[i]] < in_first) >= observed {
            as_large += 1;
        }
    }
    Ok(Agreement { statistic: observed, p_value: (as_large + 1) as f64 / (PERMUTATIONS + 1) as f64, directions: directions.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_lapack as _;

    fn draws(shift: f32) -> Tensor {
        let mut x = Philox::new(5).normal(0..60, 0, &[1, 3, 4]).unwrap();
        for i in 30..60 {
            x.data_mut()[i * 12] += shift;
        }
        x
    }

    #[test]
    fn equal_populations_agree_and_shifted_ones_do_not() {
        let family: Vec<u64> = (0..60).collect();
        assert!(compare(&draws(0.0), 30, &family, Philox::new(1)).unwrap().agree());
        let apart = compare(&draws(4.0), 30, &family, Philox::new(1)).unwrap();
        assert!(!apart.agree(), "{apart:?}");
        // The same shift carried by two families a side proves nothing.
        let few: Vec<u64> = (0..60).map(|i| i / 15).collect();
        assert!(compare(&draws(4.0), 30, &few, Philox::new(1)).unwrap().agree());
    }

    /// Under the null the p-value is uniform: of 200 pairs about 5 % fall below 0.05 (binomial standard deviation 1.5 %).
    #[test]
    fn false_alarms_are_one_in_twenty() {
        let family: Vec<u64> = (0..24).collect();
        let alarms = (0..200)
            .filter(|i| {
                let x = Philox::new(100 + i).normal(0..24, 0, &[1, 2, 3]).unwrap();
                !compare(&x, 12, &family, Philox::new(*i)).unwrap().agree()
            })
            .count();
        assert!((2..=20).contains(&alarms), "{alarms} of 200");
    }
}
