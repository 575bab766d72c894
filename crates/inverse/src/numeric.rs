//! Small dense linear algebra in f64 with a fixed order of summation.

use crate::{Error, Result};
use ndarray::{Array1, Array2};
use ndarray_linalg::{Cholesky, Diag, Eigh, SolveTriangular, UPLO};

/// a . b in eight partial sums, the order of which depends on the length alone.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just detected.
        return unsafe { dot_avx2(a, b) };
    }
    dot_inline(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f64], b: &[f64]) -> f64 {
    dot_inline(a, b)
}

#[inline(always)]
fn dot_inline(a: &[f64], b: &[f64]) -> f64 {
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    let mut s = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            s[i] += a[i] * b[i];
        }
    }
    let tail: f64 = a1.iter().zip(b1).map(|(a, b)| a * b).sum();
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])) + tail
}

/// Eigenvalues (ascending) and eigenvectors (columns) of a symmetric matrix.
pub(crate) fn symmetric_eigen(a: &Array2<f64>) -> Result<(Array1<f64>, Array2<f64>)> {
    a.eigh(UPLO::Lower).map_err(|e| Error::Numerical(format!("a symmetric {:?} matrix has no eigen-decomposition: {e}", a.dim())))
}

/// The Cholesky factor of a positive definite matrix.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    lower: Array2<f64>,
}

impl Factor {
    pub fn new(a: &Array2<f64>, what: &str) -> Result<Self> {
        let lower = a.cholesky(UPLO::Lower).map_err(|e| Error::Numerical(format!("{what} cannot be factored: {e}")))?;
        Ok(Self { lower: lower.as_standard_layout().into_owned() })
    }

    fn rows(&self) -> impl DoubleEndedIterator<Item = (usize, &[f64])> + ExactSizeIterator {
        let n = self.lower.ncols().max(1);
        self.lower.as_slice().unwrap_or(&[]).chunks_exact(n).enumerate()
    }

    pub fn log_det(&self) -> f64 {
        2.0 * self.lower.diag().iter().map(|v| v.ln()).sum::<f64>()
    }

    /// A^-1 b.
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        self.transposed_half(self.half(b.to_vec()))
    }

    /// L^-1 b, where A = L L^T.
    pub fn half(&self, mut b: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.rows() {
            b[i] = (b[i] - dot(&row[..i], &b[..i])) / row[i];
        }
        b
    }

    /// L^-T b.
    pub fn transposed_half(&self, mut b: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.rows().rev() {
            b[i] /= row[i];
            let v = b[i];
            b[..i].iter_mut().zip(row).for_each(|(b, l)| *b -= v * l);
        }
        b
    }

    /// L^-1 B.
    pub fn half_solve(&self, b: &Array2<f64>) -> Result<Array2<f64>> {
        self.lower
            .solve_triangular(UPLO::Lower, Diag::NonUnit, b)
            .map_err(|e| Error::Numerical(format!("a triangular solve failed: {e}")))
    }
}

/// Largest eigenvalue of a symmetric, positive semi-definite matrix by power iteration (Golub and Van Loan, section 8.2).
pub(crate) fn largest_eigenvalue(a: &Array2<f64>) -> f64 {
    let n = a.nrows();
    let mut v: Vec<f64> = (0..n).map(|i| 1.0 + 0.5 * ((i * 7 + 3) as f64).sin()).collect();
    let mut value = 0.0;
    for _ in 0..200 {
        let norm = dot(&v, &v).sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return 0.0;
        }
        v.iter_mut().for_each(|v| *v /= norm);
        let next: Vec<f64> = a.rows().into_iter().map(|r| r.iter().zip(&v).map(|(a, b)| a * b).sum()).collect();
        let estimate = dot(&next, &v);
        v = next;
        if (estimate - value).abs() <= 1e-6 * estimate {
            return estimate;
        }
        value = estimate;
    }
    value
}

/// log(sum exp(x)).
pub(crate) fn log_sum_exp(x: &[f64]) -> f64 {
    let top = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    if top.is_finite() { top + x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() } else { top }
}

/// Effective sample size of log weights (Kong 1992).
pub(crate) fn effective(logs: &[f64]) -> f64 {
    (2.0 * log_sum_exp(logs) - log_sum_exp(&logs.iter().map(|l| 2.0 * l).collect::<Vec<_>>())).exp()
}

/// Systematic resampling (Kitagawa 1996): `n` indices, index i in proportion to exp(logs[i]), from one uniform number.
pub(crate) fn systematic(logs: &[f64], n: usize, u: f64) -> Vec<usize> {
    let total = log_sum_exp(logs);
    let mut chosen = Vec::with_capacity(n);
    let (mut sum, mut i) = ((logs[0] - total).exp(), 0);
    for k in 0..n {
        let at = (k as f64 + u) / n as f64;
        while sum < at && i + 1 < logs.len() {
            i += 1;
            sum += (logs[i] - total).exp();
        }
        chosen.push(i);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_lapack as _;

    #[test]
    fn dot_has_the_same_bits_on_every_path() {
        let a: Vec<f64> = (0..37).map(|i| (i as f64 * 0.7).sin()).collect();
        let b: Vec<f64> = (0..37).map(|i| (i as f64 * 1.3).cos()).collect();
        assert_eq!(dot(&a, &b).to_bits(), dot_inline(&a, &b).to_bits());
        let naive: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert!((dot(&a, &b) - naive).abs() < 1e-13);
    }

    #[test]
    fn factor_solves_and_the_power_iteration_finds_the_top() {
        let n = 9;
        let b = Array2::from_shape_fn((n, n), |(i, j)| ((i * n + j) as f64 * 0.9).sin());
        let a = b.dot(&b.t()) + Array2::<f64>::eye(n);
        let f = Factor::new(&a, "test").unwrap();
        let x: Vec<f64> = (0..n).map(|i| i as f64 - 3.0).collect();
        let y = a.dot(&Array1::from(x.clone()));
        for (got, expected) in f.solve(y.as_slice().unwrap()).iter().zip(&x) {
            assert!((got - expected).abs() < 1e-10);
        }
        let (values, _) = symmetric_eigen(&a).unwrap();
        assert!((f.log_det() - values.iter().map(|v| v.ln()).sum::<f64>()).abs() < 1e-10);
        assert!((largest_eigenvalue(&a) / values[n - 1] - 1.0).abs() < 1e-4);
        assert!((log_sum_exp(&[-1000.0, -1000.0]) + 1000.0 - 2f64.ln()).abs() < 1e-12);
    }
}
