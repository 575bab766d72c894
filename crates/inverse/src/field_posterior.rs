//! The closed-form posterior of a Gaussian field under a linear Gaussian likelihood, in f64 and by another way than the sampler's: real
//! trigonometric matrices for the prior's covariance instead of a fast Fourier transform, eigenvectors instead of a Gibbs sampler.
//!
//! With J = diag(1/sigma) A and J C J^T = U diag(lambda) U^T, the coefficients t = diag(lambda)^(-1/2) U^T J (x - m) are independent
//! standard normal a priori and independent N(sqrt(lambda) d / (1 + lambda), 1 / (1 + lambda)) a posteriori, where d = U^T (y/sigma - J m);
//! lambda is the squared signal to noise of a direction. Mean m + C J^T U (1 + lambda)^-1 d, covariance C - C J^T U (1 + lambda)^-1 U^T J C.

use crate::numeric::symmetric_eigen;
use crate::{Error, GaussianField, LinearGaussian, LinearOperator, Result};
use halation_compute::Tensor;
use ndarray::{Array1, Array2, ArrayView1, Axis};
use std::f64::consts::TAU;

/// What the closed form knows before it has seen the data: they enter the mean alone.
#[derive(Clone, Debug)]
pub struct FieldConditioning {
    prior_mean: Array1<f64>,
    sigma: Vec<f64>,
    /// U^T, one eigenvector per row, largest lambda first.
    rotation: Array2<f64>,
    lambda: Vec<f64>,
    /// U^T J, (data, pixels).
    directions: Array2<f64>,
    /// U^T J C, (data, pixels).
    cross: Array2<f64>,
    variance: Array1<f64>,
}

/// Mean and pixel variances of a Gaussian posterior image.
#[derive(Clone, Debug)]
pub struct FieldPosterior {
    /// Posterior mean, row-major.
    pub mean: Array1<f64>,
    /// Posterior variance of every pixel.
    pub variance: Array1<f64>,
}

/// A direction of image space that the data constrain, independent of all others before and after the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DirectionPosterior {
    /// Posterior mean of the coefficient, in prior standard deviations from the prior mean.
    pub mean: f64,
    /// Posterior standard deviation, in prior standard deviations.
    pub sd: f64,
}

impl GaussianField {
    /// The closed-form posterior under a linear Gaussian likelihood.
    ///
    /// # Errors
    /// An operator for other images, lengths that do not fit, or a factorisation that failed.
    pub fn posterior(&self, likelihood: &LinearGaussian) -> Result<FieldPosterior> {
        self.condition(likelihood.operator, likelihood.sigma)?.posterior(likelihood.data)
    }

    /// The part of the closed form that does not depend on the data: one factorisation serves all observations of one coverage and noise.
    ///
    /// # Errors
    /// An operator for other images, a number of `sigma` that is not that of the data, or a factorisation that failed.
    pub fn condition(&self, operator: &dyn LinearOperator, sigma: &[f64]) -> Result<FieldConditioning> {
        let (n, m) = (self.side(), operator.data_len());
        let d = n * n;
        if operator.item_shape() != [1, n, n] || sigma.len() != m {
            return Err(Error::Invalid(format!(
                "an operator on images {:?} with {m} data and {} sigma; the field has images [1, {n}, {n}] and every datum needs a sigma",
                operator.item_shape(),
                sigma.len()
            )));
        }
        // Row i of A is A^T e_i.
        let mut unit = Tensor::zeros(&[m, m]);
        (0..m).for_each(|i| unit.data_mut()[i * m + i] = 1.0);
        let rows = operator.adjoint(&unit)?;
        let j = Array2::from_shape_fn((m, d), |(i, p)| rows.item(i)[p] as f64 / sigma[i]);
        let (basis, power) = (axis_basis(n), self.power_grid());
        let mut jc = Array2::zeros((m, d));
        for (mut out, row) in jc.rows_mut().into_iter().zip(j.rows()) {
            out.assign(&covariance_times(&basis, &power, row));
        }
        let s = j.dot(&jc.t());
        let (values, vectors) = symmetric_eigen(&((&s + &s.t()) * 0.5))?;
        // Largest first; rounding may leave the smallest a little below zero.
        let lambda: Vec<f64> = values.iter().rev().map(|v| v.max(0.0)).collect();
        let rotation = Array2::from_shape_fn((m, m), |(i, k)| vectors[(k, m - 1 - i)]);
        let (directions, cross) = (rotation.dot(&j), rotation.dot(&jc));
        let prior_variance = power.sum() / d as f64;
        let variance = cross
            .map_axis(Axis(0), |column| prior_variance - column.iter().zip(&lambda).map(|(c, l)| c * c / (1.0 + l)).sum::<f64>());
        let prior_mean = Array1::from_iter(self.mean().iter().map(|v| *v as f64));
        Ok(FieldConditioning { prior_mean, sigma: sigma.to_vec(), rotation, lambda, directions, cross, variance })
    }
}

impl FieldConditioning {
    /// lambda of every direction, largest first: its prior variance over the noise variance of the data along it.
    pub fn signal_to_noise_squared(&self) -> &[f64] {
        &self.lambda
    }

    /// Standard deviations of the data.
    pub fn sigma(&self) -> &[f64] {
        &self.sigma
    }

    /// d = U^T (y/sigma - J m).
    fn rotated(&self, data: &[f64]) -> Result<Array1<f64>> {
        if data.len() != self.sigma.len() {
            return Err(Error::Invalid(format!("{} data, expected {}", data.len(), self.sigma.len())));
        }
        let white = Array1::from_iter(data.iter().zip(&self.sigma).map(|(y, s)| y / s));
        Ok(self.rotation.dot(&white) - self.directions.dot(&self.prior_mean))
    }

    /// Mean and pixel variances given `data`.
    ///
    /// # Errors
    /// Another number of data than the operator has.
    pub fn posterior(&self, data: &[f64]) -> Result<FieldPosterior> {
        let mut d = self.rotated(data)?;
        d.iter_mut().zip(&self.lambda).for_each(|(d, l)| *d /= 1.0 + l);
        Ok(FieldPosterior { mean: &self.prior_mean + &self.cross.t().dot(&d), variance: self.variance.clone() })
    }

    /// The posterior along the first `count` directions given `data`.
    ///
    /// # Errors
    /// Another number of data than the operator has.
    pub fn direction_posteriors(&self, data: &[f64], count: usize) -> Result<Vec<DirectionPosterior>> {
        let d = self.rotated(data)?;
        let one = |(d, l): (&f64, &f64)| DirectionPosterior { mean: l.sqrt() * d / (1.0 + l), sd: (1.0 + l).sqrt().recip() };
        Ok(d.iter().zip(&self.lambda).take(count).map(one).collect())
    }

    /// Coefficients of an image along the first `count` directions, in prior standard deviations from the prior mean.
    pub fn coefficients(&self, image: &[f64], count: usize) -> Vec<f64> {
        let away = ArrayView1::from(image).to_owned() - &self.prior_mean;
        self.directions.rows().into_iter().zip(&self.lambda).take(count).map(|(row, l)| row.dot(&away) / l.sqrt()).collect()
    }

    /// Mean and standard deviation of chi2 over images from the posterior given `data`: along U the residual has
    /// mean -d / (1 + lambda) and variance lambda / (1 + lambda).
    ///
    /// # Errors
    /// Another number of data than the operator has.
    pub fn chi2(&self, data: &[f64]) -> Result<(f64, f64)> {
        let d = self.rotated(data)?;
        let (mut mean, mut variance) = (0.0, 0.0);
        for (d, l) in d.iter().zip(&self.lambda) {
            let (square, v) = ((d / (1.0 + l)).powi(2), l / (1.0 + l));
            mean += square + v;
            variance += 2.0 * v * v + 4.0 * square * v;
        }
        Ok((mean, variance.sqrt()))
    }
}

/// The orthonormal real Fourier basis of one axis as columns, in the order of frequencies 0 ... n-1 of a discrete Fourier transform:
/// cosines up to n/2, above them the sines of n - k.
fn axis_basis(n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(y, k)| {
        let own = k == 0 || 2 * k == n;
        let norm = (if own { 1.0 } else { 2.0 } / n as f64).sqrt();
        let turn = TAU * (k.min(n - k) * y % n) as f64 / n as f64;
        norm * if 2 * k <= n { turn.cos() } else { turn.sin() }
    })
}

/// C v: the spectrum is even along each axis, so products of one-dimensional sines and cosines are eigenvectors.
fn covariance_times(basis: &Array2<f64>, power: &Array2<f64>, v: ArrayView1<f64>) -> Array1<f64> {
    let n = basis.nrows();
    let image = Array2::from_shape_fn((n, n), |(y, x)| v[y * n + x]);
    let modes = basis.t().dot(&image).dot(basis) * power;
    Array1::from_iter(basis.dot(&modes).dot(&basis.t()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DenseOperator, GaussianMixture};
    use halation_compute::Philox;
    use halation_lapack as _;
    use ndarray::{Array3, arr1};

    /// Against the dense conjugate formula of [`GaussianMixture`] with one component, for even and odd sides.
    #[test]
    fn closed_form_is_the_dense_one() {
        for n in [6, 7] {
            let (d, m) = (n * n, 9);
            let mut random = Philox::new(n as u64).sequence(0, 0);
            let mean: Vec<f32> = (0..d).map(|_| 0.3 * random.normal() as f32).collect();
            let field = GaussianField::new(n, mean.clone(), 0.7, 1.5, 1.2).unwrap();
            let a = Array2::from_shape_fn((m, d), |_| random.normal());
            let y: Vec<f64> = (0..m).map(|_| 2.0 * random.normal()).collect();
            let sigma: Vec<f64> = (0..m).map(|i| 0.01 + 0.1 * i as f64).collect();
            let operator = DenseOperator::new([1, n, n], a.view()).unwrap();
            let conditioning = field.condition(&operator, &sigma).unwrap();
            let got = conditioning.posterior(&y).unwrap();

            let (basis, power) = (axis_basis(n), field.power_grid());
            let column = |p: usize| covariance_times(&basis, &power, Array1::from_shape_fn(d, |q| f64::from(p == q)).view());
            let columns: Vec<Array1<f64>> = (0..d).map(column).collect();
            let covariance = Array3::from_shape_fn((1, d, d), |(_, p, q)| columns[q][p]);
            let means = Array2::from_shape_fn((1, d), |(_, p)| mean[p] as f64);
            let dense = GaussianMixture::new([1, n, n], arr1(&[1.0]).view(), means.view(), covariance.view()).unwrap();
            let expected = dense.posterior(a.view(), &y, &sigma).unwrap();
            let (mean, covariance) = (expected.mean(), expected.covariance());
            for p in 0..d {
                // The operator's adjoint is in single precision.
                assert!((got.mean[p] - mean[p]).abs() < 1e-4, "n {n} pixel {p}: {} {}", got.mean[p], mean[p]);
                assert!((got.variance[p] - covariance[(p, p)]).abs() < 1e-5, "n {n} pixel {p}");
            }

            // Directions: coefficients of the mean are the means, and chi2 is that of the residual plus the trace of J Cov J^T.
            let along = conditioning.direction_posteriors(&y, m).unwrap();
            let coefficients = conditioning.coefficients(got.mean.as_slice().unwrap(), m);
            for (c, a) in coefficients.iter().zip(&along) {
                assert!((c - a.mean).abs() < 1e-9 * a.mean.abs().max(1.0), "{c} {}", a.mean);
            }
            let mut chi2 = 0.0;
            for i in 0..m {
                let row = a.row(i);
                chi2 += ((row.dot(&mean) - y[i]) / sigma[i]).powi(2) + row.dot(&covariance.dot(&row)) / sigma[i].powi(2);
            }
            let (got, _) = conditioning.chi2(&y).unwrap();
            assert!((got / chi2 - 1.0).abs() < 1e-3, "{got} {chi2}");
        }
    }

    /// The covariance in f64 is what the denoiser's Fourier filter does: D(x) for noise that equals a mode's variance halves that mode.
    #[test]
    fn covariance_is_that_of_the_denoiser() {
        use halation_nn::Denoiser;
        let n = 8;
        let field = GaussianField::new(n, vec![0.0; n * n], 0.5, 1.0, 1.5).unwrap();
        let mut random = Philox::new(2).sequence(0, 0);
        let x: Vec<f32> = (0..n * n).map(|_| random.normal() as f32).collect();
        let s2 = 0.3f64;
        let d = field.denoise(&Tensor::from_vec(&[1, 1, n, n], x.clone()).unwrap(), &[s2.sqrt() as f32]).unwrap();
        // (C + s^2) D = C x.
        let (basis, power) = (axis_basis(n), field.power_grid());
        let d = Array1::from_iter(d.data().iter().map(|v| *v as f64));
        let x = Array1::from_iter(x.iter().map(|v| *v as f64));
        let (left, right) = (covariance_times(&basis, &power, d.view()) + &d * s2, covariance_times(&basis, &power, x.view()));
        left.iter().zip(&right).for_each(|(l, r)| assert!((l - r).abs() < 1e-6, "{l} {r}"));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let field = GaussianField::new(4, vec![0.0; 16], 0.5, 1.0, 1.5).unwrap();
        let operator = DenseOperator::new([1, 1, 16], Array2::ones((2, 16)).view()).unwrap();
        assert!(field.condition(&operator, &[1.0, 1.0]).unwrap_err().to_string().contains("[1, 4, 4]"));
        let operator = DenseOperator::new([1, 4, 4], Array2::ones((2, 16)).view()).unwrap();
        assert!(field.condition(&operator, &[1.0]).unwrap_err().to_string().contains("1 sigma"));
        assert!(field.condition(&operator, &[1.0, 1.0]).unwrap().posterior(&[0.0]).unwrap_err().to_string().contains("expected 2"));
    }
}
