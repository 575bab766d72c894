//! The tests that every operator and likelihood has to pass.

use crate::numeric::dot;
use crate::{Error, ForwardOperator, Likelihood, LinearOperator, Result};
use halation_compute::{Philox, Tensor};

/// Errors that a check found, all below its tolerances.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checked {
    /// |<A x, y> - <x, A^T y>| / (|A x| |y|), or the same for a Jacobian against finite differences.
    pub adjoint: f64,
    /// |A(a x + b x') - a A x - b A x'| / (|a A x| + |b A x'|); zero where linearity is not claimed.
    pub linearity: f64,
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.data().iter().map(|v| *v as f64).collect()
}

fn require(what: &str, error: f64, tolerance: f64) -> Result<()> {
    if error.is_nan() || error > tolerance {
        return Err(Error::Numerical(format!("{what}: found {error:.3e}, expected at most {tolerance:.3e}")));
    }
    Ok(())
}

/// Values are rounded to f32 once on the way in and once on the way out (relative 2^-24 each, three products in the comparison), and
/// an operator may sum its n terms in f32, which errs like sqrt(n).
fn tolerance(n: usize) -> f64 {
    f32::EPSILON as f64 * (4.0 + (n as f64).sqrt())
}

fn check_purity(op: &dyn ForwardOperator, x: &Tensor, first: &Tensor) -> Result<()> {
    if op.apply(x)? != *first {
        return Err(Error::Numerical("purity: the same input gave another output the second time".into()));
    }
    // One draw alone has to give what it gives beside others.
    let alone = op.apply(&x.select(&[1])?)?;
    if alone.item(0) != first.item(1) {
        return Err(Error::Numerical("purity: a draw's output depends on its neighbours in the batch".into()));
    }
    Ok(())
}

fn expect_lengths(op: &dyn ForwardOperator, y: &Tensor) -> Result<()> {
    Ok(y.expect_shape("the operator's output", &[2, op.data_len()])?)
}

/// Adjoint dot test, linearity, purity and independence of the batch of a linear operator, on random images of `rng`.
///
/// # Errors
/// The first check that failed, with what was found and the tolerance.
pub fn check_linear(op: &dyn LinearOperator, rng: Philox) -> Result<Checked> {
    let d: usize = op.item_shape().iter().product();
    let x = rng.normal(0..2, 0, &op.item_shape())?;
    let y = rng.normal(0..2, 1, &[op.data_len()])?;
    let ax = op.apply(&x)?;
    expect_lengths(op, &ax)?;
    check_purity(op, &x, &ax)?;
    let aty = op.adjoint(&y)?;
    aty.expect_shape("the adjoint's output", x.shape())?;
    let (ax, y, x_wide, aty) = (wide(&ax), wide(&y), wide(&x), wide(&aty));
    let adjoint =
        (dot(&ax, &y) - dot(&x_wide, &aty)).abs() / (norm(&ax) * norm(&y) + norm(&x_wide) * norm(&aty)).max(f64::MIN_POSITIVE);
    require("adjoint dot test", adjoint, tolerance(d))?;
    // a x0 + b x1 against a A x0 + b A x1.
    let (a, b) = (0.75f32, -1.25f32);
    let mixed: Vec<f32> = x.item(0).iter().zip(x.item(1)).map(|(p, q)| a * p + b * q).collect();
    let mut shape = vec![1];
    shape.extend(op.item_shape());
    let a_mixed = wide(&op.apply(&Tensor::from_vec(&shape, mixed)?)?);
    let m = op.data_len();
    let expected: Vec<f64> = (0..m).map(|i| a as f64 * ax[i] + b as f64 * ax[m + i]).collect();
    let gap: Vec<f64> = a_mixed.iter().zip(&expected).map(|(p, q)| p - q).collect();
    let linearity = norm(&gap) / (0.75 * norm(&ax[..m]) + 1.25 * norm(&ax[m..])).max(f64::MIN_POSITIVE);
    require("linearity", linearity, 4.0 * tolerance(d))?;
    Ok(Checked { adjoint, linearity })
}

/// The vector-Jacobian product of an operator at `x` (two draws) against central differences, purity and independence of the batch.
///
/// The step is a hundredth of the image's size, so f32 rounding of the outputs errs by about 1e-5 and truncation by about 1e-4 of the
/// second-order terms: the tolerance is 2e-3 of |J v| |w| + |v| |J^T w|.
///
/// # Errors
/// The first check that failed, with what was found and the tolerance.
pub fn check_vjp(op: &dyn ForwardOperator, x: &Tensor, rng: Philox) -> Result<Checked> {
    let ax = op.apply(x)?;
    expect_lengths(op, &ax)?;
    check_purity(op, x, &ax)?;
    let v = rng.normal(0..2, 0, &op.item_shape())?;
    let w = rng.normal(0..2, 1, &[op.data_len()])?;
    let (size, length) = (norm(&wide(x)).max(1.0), norm(&wide(&v)));
    let h = 0.01 * size / length;
    let moved = |sign: f32| -> Result<Vec<f64>> {
        let mut t = x.clone();
        t.data_mut().iter_mut().zip(v.data()).for_each(|(t, v)| *t += sign * h as f32 * v);
        Ok(wide(&op.apply(&t)?))
    };
    let jv: Vec<f64> = moved(1.0)?.iter().zip(moved(-1.0)?).map(|(p, m)| (p - m) / (2.0 * h)).collect();
    let jtw = wide(&op.vjp(x, &w)?);
    let (v, w) = (wide(&v), wide(&w));
    let adjoint = (dot(&jv, &w) - dot(&v, &jtw)).abs() / (norm(&jv) * norm(&w) + norm(&v) * norm(&jtw)).max(f64::MIN_POSITIVE);
    require("vector-Jacobian product against central differences", adjoint, 2e-3)?;
    Ok(Checked { adjoint, linearity: 0.0 })
}

/// A likelihood at the image `x`: neg_log = |r|^2 / 2, gradient = J^T r, J against central differences, J^T against J, gram = J J^T.
///
/// # Errors
/// The first check that failed, with what was found and the tolerance.
pub fn check_likelihood(likelihood: &dyn Likelihood, x: &[f32], rng: Philox) -> Result<Checked> {
    let [c, ny, nx] = likelihood.item_shape();
    let one = Tensor::from_vec(&[1, c, ny, nx], x.to_vec())?;
    let (value, gradient) = likelihood.neg_log_and_grad(&one)?;
    let missing = || Error::Invalid("the likelihood offers no residual here".into());
    let at = likelihood.residual(x)?.ok_or_else(missing)?;
    let r = at.value().to_vec();
    let half = 0.5 * dot(&r, &r);
    require("neg_log against |r|^2 / 2", (value[0] - half).abs() / half.max(1.0), 1e-6)?;
    let (gradient, jtr) = (wide(&gradient), at.vjp(&r));
    let gap: Vec<f64> = gradient.iter().zip(&jtr).map(|(a, b)| a - b).collect();
    require("gradient against J^T r", norm(&gap) / norm(&jtr).max(f64::MIN_POSITIVE), 1e-4)?;
    let v: Vec<f64> = wide(&rng.normal(0..1, 0, &[x.len()])?);
    let w: Vec<f64> = wide(&rng.normal(0..1, 1, &[r.len()])?);
    let (jv, jtw) = (at.jvp(&v), at.vjp(&w));
    let adjoint = (dot(&jv, &w) - dot(&v, &jtw)).abs() / (norm(&jv) * norm(&w)).max(f64::MIN_POSITIVE);
    require("J^T against J", adjoint, 1e-9)?;
    let gram = at.gram();
    let gw: Vec<f64> = gram.rows().into_iter().map(|row| row.iter().zip(&w).map(|(a, b)| a * b).sum()).collect();
    let jjtw = at.jvp(&jtw);
    let gap: Vec<f64> = gw.iter().zip(&jjtw).map(|(a, b)| a - b).collect();
    require("gram against J J^T", norm(&gap) / norm(&jjtw).max(f64::MIN_POSITIVE), 1e-6)?;
    let size = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt().max(1.0);
    let h = 1e-3 * size / norm(&v);
    let moved = |sign: f64| -> Result<Vec<f64>> {
        let t: Vec<f32> = x.iter().zip(&v).map(|(x, v)| (*x as f64 + sign * h * v) as f32).collect();
        Ok(likelihood.residual(&t)?.ok_or_else(missing)?.value().to_vec())
    };
    let difference: Vec<f64> = moved(1.0)?.iter().zip(moved(-1.0)?).map(|(p, m)| (p - m) / (2.0 * h)).collect();
    let gap: Vec<f64> = difference.iter().zip(&jv).map(|(a, b)| a - b).collect();
    // The images are f32, so the differences err by 2^-24 / 1e-3 = 6e-5 beside truncation.
    require("J against central differences", norm(&gap) / norm(&jv).max(f64::MIN_POSITIVE), 1e-2)?;
    Ok(Checked { adjoint, linearity: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DenseOperator, LinearGaussianLikelihood};
    use halation_lapack as _;
    use ndarray::Array2;

    fn dense() -> DenseOperator {
        DenseOperator::new([1, 3, 5], Array2::from_shape_fn((7, 15), |(i, j)| ((i * 15 + j) as f64 * 0.77).sin()).view()).unwrap()
    }

    /// y = (A x)^2 with a chosen factor on its vector-Jacobian product: right for 2.
    struct Squared(DenseOperator, f32);

    impl ForwardOperator for Squared {
        fn item_shape(&self) -> [usize; 3] {
            self.0.item_shape()
        }
        fn data_len(&self) -> usize {
            self.0.data_len()
        }
        fn apply(&self, x: &Tensor) -> Result<Tensor> {
            let mut y = self.0.apply(x)?;
            y.data_mut().iter_mut().for_each(|v| *v *= *v);
            Ok(y)
        }
        fn vjp(&self, x: &Tensor, v: &Tensor) -> Result<Tensor> {
            let mut y = self.0.apply(x)?;
            y.data_mut().iter_mut().zip(v.data()).for_each(|(y, v)| *y *= self.1 * v);
            self.0.adjoint(&y)
        }
    }

    /// A linear operator whose adjoint is that of another matrix.
    struct WrongAdjoint(DenseOperator);

    impl ForwardOperator for WrongAdjoint {
        fn item_shape(&self) -> [usize; 3] {
            self.0.item_shape()
        }
        fn data_len(&self) -> usize {
            self.0.data_len()
        }
        fn apply(&self, x: &Tensor) -> Result<Tensor> {
            self.0.apply(x)
        }
        fn vjp(&self, _: &Tensor, v: &Tensor) -> Result<Tensor> {
            self.adjoint(v)
        }
    }

    impl LinearOperator for WrongAdjoint {
        fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
            let mut out = self.0.adjoint(y)?;
            out.data_mut()[3] *= 1.01;
            Ok(out)
        }
    }

    #[test]
    fn right_operators_pass_and_wrong_ones_do_not() {
        let rng = Philox::new(11);
        check_linear(&dense(), rng).unwrap();
        assert!(check_linear(&WrongAdjoint(dense()), rng).unwrap_err().to_string().contains("adjoint dot test"));
        let x = rng.normal(0..2, 9, &[1, 3, 5]).unwrap();
        check_vjp(&Squared(dense(), 2.0), &x, rng).unwrap();
        assert!(check_vjp(&Squared(dense(), 1.9), &x, rng).is_err());
        check_vjp(&dense(), &x, rng).unwrap();
    }

    #[test]
    fn linear_likelihood_is_consistent() {
        let rng = Philox::new(2);
        let sigma: Vec<f64> = (0..7).map(|i| 0.1 + 0.05 * i as f64).collect();
        let y: Vec<f64> = (0..7).map(|i| (i as f64).cos()).collect();
        let likelihood = LinearGaussianLikelihood::new(dense(), y.clone(), sigma.clone()).unwrap();
        let x = rng.normal(0..1, 0, &[1, 3, 5]).unwrap();
        check_likelihood(&likelihood, x.item(0), rng).unwrap();
        // The half in front of chi2, by the naive sum.
        let ax = dense().matrix().dot(&ndarray::Array1::from(wide(&x)));
        let naive: f64 = (0..7).map(|i| 0.5 * ((ax[i] - y[i]) / sigma[i]).powi(2)).sum();
        let (value, _) = likelihood.neg_log_and_grad(&x).unwrap();
        assert!((value[0] / naive - 1.0).abs() < 1e-6);
        let message = |y: Vec<f64>, s: Vec<f64>| LinearGaussianLikelihood::new(dense(), y, s).unwrap_err().to_string();
        assert!(message(vec![0.0; 6], vec![1.0; 7]).contains("expected 7"));
        assert!(message(vec![f64::NAN; 7], vec![1.0; 7]).contains("datum 0 is NaN"));
        assert!(message(vec![0.0; 7], vec![0.0; 7]).contains("sigma 0 is 0"));
    }
}
