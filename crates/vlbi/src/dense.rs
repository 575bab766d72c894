//! Small dense algebra of one integration (some tens of rows), in f64 and in a fixed order.

use crate::{Error, Result};
use ndarray::Array2;

/// The lower triangular L with L L^T = `a`.
pub(crate) fn cholesky(a: &Array2<f64>) -> Result<Array2<f64>> {
    let n = a.nrows();
    let mut l = Array2::zeros((n, n));
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[[i, k]] * l[[j, k]]).sum();
            let rest = a[[i, j]] - dot;
            if i != j {
                l[[i, j]] = rest / l[[j, j]];
            } else if rest > 0.0 {
                l[[i, i]] = rest.sqrt();
            } else {
                return Err(Error::Invalid(format!(
                    "the covariance of {n} closure quantities is not positive definite (pivot {i} is {rest:e}): a visibility has no noise or S/N beyond all measure; add --systematic"
                )));
            }
        }
    }
    Ok(l)
}

/// L^{-1} B.
pub(crate) fn solve_lower(l: &Array2<f64>, b: &Array2<f64>) -> Array2<f64> {
    let mut x = b.clone();
    for c in 0..b.ncols() {
        for i in 0..l.nrows() {
            let dot: f64 = (0..i).map(|k| l[[i, k]] * x[[k, c]]).sum();
            x[[i, c]] = (x[[i, c]] - dot) / l[[i, i]];
        }
    }
    x
}

/// A x.
pub(crate) fn times(a: &Array2<f64>, x: &[f64]) -> Vec<f64> {
    a.rows().into_iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

/// T diag(variance) T^T.
pub(crate) fn weighted_gram(t: &Array2<f64>, variance: &[f64]) -> Array2<f64> {
    let mut scaled = t.clone();
    for mut row in scaled.rows_mut() {
        row.iter_mut().zip(variance).for_each(|(x, v)| *x *= v);
    }
    scaled.dot(&t.t())
}

/// A matrix with one row per combination of `columns` data.
pub(crate) fn combinations<'a>(legs: impl ExactSizeIterator<Item = &'a Vec<(usize, f64)>>, columns: usize) -> Array2<f64> {
    let mut out = Array2::zeros((legs.len(), columns));
    for (r, legs) in legs.enumerate() {
        legs.iter().for_each(|&(k, w)| out[[r, k]] += w);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cholesky_and_solve() {
        let a = ndarray::array![[4.0, 2.0, 0.4], [2.0, 5.0, 1.0], [0.4, 1.0, 3.0]];
        let l = cholesky(&a).unwrap();
        assert!((l.dot(&l.t()) - &a).iter().all(|x| x.abs() < 1e-14));
        let x = solve_lower(&l, &a);
        assert!((l.dot(&x) - &a).iter().all(|x| x.abs() < 1e-14));
        assert!(cholesky(&(-a)).is_err());
    }
}
