//! The likelihood seen through noise, in data space, which is far smaller than image space.
//!
//! With the whitened residual linearised at x, r(x + d) = r + J d, the likelihood seen through a Gaussian of width rho is
//! log L_rho(x) = -1/2 r^T (1 + rho^2 G)^-1 r - 1/2 log det(1 + rho^2 G), G = J J^T (exact for linear problems).

use crate::numeric::{Factor, dot, symmetric_eigen};
use crate::{Error, Likelihood, Problem, Result, Whitened};
use halation_compute::Tensor;
use ndarray::Array2;
use rayon::prelude::*;
use std::sync::Arc;

/// G of a linear problem, which all particles share, by its eigenvectors.
pub(crate) struct SharedBasis {
    /// Eigenvectors as rows.
    rows: Array2<f64>,
    /// Eigenvalues, none negative.
    pub values: Vec<f64>,
}

impl SharedBasis {
    /// Of a linear likelihood, the Jacobian of which is the same everywhere.
    pub fn of(likelihood: &dyn Likelihood) -> Result<Self> {
        let pixels: usize = likelihood.item_shape().iter().product();
        Self::new(&linearise(likelihood, &vec![0.0; pixels])?.gram())
    }

    /// Of J J^T.
    pub fn new(gram: &Array2<f64>) -> Result<Self> {
        let (values, columns) = symmetric_eigen(gram)?;
        let rows = columns.t().as_standard_layout().into_owned();
        Ok(Self { rows, values: values.iter().map(|v| v.max(0.0)).collect() })
    }

    /// Coefficients along the eigenvectors.
    pub fn rotate(&self, v: &[f64]) -> Vec<f64> {
        let n = v.len();
        self.rows.as_slice().unwrap_or(&[]).chunks_exact(n).map(|row| dot(row, v)).collect()
    }

    fn rotate_back(&self, c: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; c.len()];
        for (row, c) in self.rows.rows().into_iter().zip(c) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += c * v);
        }
        out
    }

    /// (1 + rho^2 G)^-1 v.
    pub fn solve(&self, v: &[f64], rho: f64) -> Vec<f64> {
        self.whiten(v, rho).0
    }

    /// log L_rho for the residual `r`.
    pub fn log_likelihood(&self, r: &[f64], rho: f64) -> f64 {
        self.log_likelihood_of(&self.rotate(r), rho)
    }

    /// (1 + rho^2 G)^-1 r and log L_rho: as [`Self::solve`] and [`Self::log_likelihood`], with one rotation for both.
    pub fn whiten(&self, r: &[f64], rho: f64) -> (Vec<f64>, f64) {
        let mut c = self.rotate(r);
        let log = self.log_likelihood_of(&c, rho);
        c.iter_mut().zip(&self.values).for_each(|(c, g)| *c /= 1.0 + rho * rho * g);
        (self.rotate_back(&c), log)
    }

    /// (1 + rho^2 G)^-1/2 v, by the symmetric root.
    pub fn root(&self, v: &[f64], rho: f64) -> Vec<f64> {
        let mut c = self.rotate(v);
        c.iter_mut().zip(&self.values).for_each(|(c, g)| *c /= (1.0 + rho * rho * g).sqrt());
        self.rotate_back(&c)
    }

    fn log_likelihood_of(&self, coefficients: &[f64], rho: f64) -> f64 {
        let term = |(c, g): (&f64, &f64)| {
            let v = 1.0 + rho * rho * g;
            c * c / v + v.ln()
        };
        -0.5 * coefficients.iter().zip(&self.values).map(term).sum::<f64>()
    }
}

/// The factor of 1 + `covariance`. Where rounding makes a nearly singular covariance indefinite, its negative eigenvalues count as zero.
pub(crate) fn factor_one_plus(mut covariance: Array2<f64>) -> Result<Factor> {
    const WHAT: &str = "1 + the covariance of the residual of a particle";
    covariance.diag_mut().iter_mut().for_each(|v| *v += 1.0);
    if let Ok(factor) = Factor::new(&covariance, WHAT) {
        return Ok(factor);
    }
    let (values, vectors) = symmetric_eigen(&covariance)?;
    let scaled = &vectors * &values.iter().map(|v| v.max(1.0)).collect::<ndarray::Array1<f64>>();
    Factor::new(&scaled.dot(&vectors.t()), WHAT)
}

/// The eigenbasis of J J^T of a linear problem; none otherwise.
pub(crate) fn shared_basis(problem: &Problem) -> Result<Option<Arc<SharedBasis>>> {
    problem.likelihood.linear_gaussian().map(|_| SharedBasis::of(problem.likelihood).map(Arc::new)).transpose()
}

/// The residual at `x`.
pub(crate) fn linearise<'a>(likelihood: &'a dyn Likelihood, x: &[f32]) -> Result<Box<dyn Whitened + 'a>> {
    checked(likelihood.residual(x)?)
}

pub(crate) fn checked(whitened: Option<Box<dyn Whitened + '_>>) -> Result<Box<dyn Whitened + '_>> {
    let whitened = whitened.ok_or_else(|| Error::Numerical("the likelihood has no residual at a particle".into()))?;
    if whitened.value().iter().any(|v| !v.is_finite()) {
        return Err(Error::Numerical("the residual of a particle is not finite: the forward model failed at this image".into()));
    }
    Ok(whitened)
}

/// |J^T J|, the largest eigenvalue, at one image.
pub(crate) fn largest_curvature(likelihood: &dyn Likelihood, x: &[f32]) -> Result<f64> {
    Ok(crate::numeric::largest_eigenvalue(&linearise(likelihood, x)?.gram()))
}

/// The median over up to eight images of a population of what is found at each.
pub(crate) fn typical(images: &Tensor, found: impl Fn(&[f32]) -> Result<f64> + Sync) -> Result<f64> {
    let points = images.draws().min(8);
    let mut values: Vec<f64> =
        (0..points).into_par_iter().map(|i| found(images.item(i * images.draws() / points))).collect::<Result<_>>()?;
    values.sort_by(f64::total_cmp);
    Ok(values[points / 2])
}

/// The largest eigenvalue of J^T J of a population, a positive number.
pub(crate) fn typical_curvature(problem: &Problem, images: &Tensor) -> Result<f64> {
    let top = typical(images, |image| largest_curvature(problem.likelihood, image))?;
    if !(top > 0.0 && top.is_finite()) {
        return Err(Error::Numerical(format!("the largest eigenvalue of J^T J is {top}: the data do not depend on the image")));
    }
    Ok(top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_lapack as _;
    use ndarray::arr2;

    /// Eigenvalues 4 and -2, the latter made by rounding: as 4 and 0.
    #[test]
    fn an_indefinite_covariance_is_mended() {
        let factor = factor_one_plus(arr2(&[[1.0, 3.0], [3.0, 1.0]])).unwrap();
        assert!((factor.log_det() - 5f64.ln()).abs() < 1e-12);
        let solved = factor.solve(&[1.0, -1.0]);
        assert!((solved[0] - 1.0).abs() < 1e-12 && (solved[1] + 1.0).abs() < 1e-12, "{solved:?}");
    }
}
