//! A stationary Gaussian prior on a periodic n x n image: its covariance is diagonal in Fourier space, so the denoiser is exact and fast,
//! and with a linear likelihood the posterior is known in closed form at the size of a real image.

use crate::{Error, Result};
use halation_compute::{Fft2, Philox, Tensor};
use halation_nn::{Denoiser, Pullback};
use ndarray::Array2;
use num_complex::Complex32;
use rayon::prelude::*;

/// N(mean, C) with C = F^-1 diag(power) F on a periodic grid of one channel.
#[derive(Clone)]
pub struct GaussianField {
    n: usize,
    mean: Vec<f32>,
    /// Eigenvalues of C: the variance of each (orthonormal) Fourier mode, symmetric under k -> -k.
    power: Vec<f32>,
    fft: Fft2,
}

impl GaussianField {
    /// A field with pixel standard deviation `sd` and spectrum proportional to (1 + (k * correlation_pixels)^2)^(-exponent), k in radians per pixel.
    pub fn new(n: usize, mean: Vec<f32>, sd: f64, correlation_pixels: f64, exponent: f64) -> Result<Self> {
        if mean.len() != n * n || sd.is_nan() || sd <= 0.0 {
            return Err(Error::Invalid(format!(
                "a Gaussian field of {n} x {n} needs {} mean values and sd > 0; found {} and {sd}",
                n * n,
                mean.len()
            )));
        }
        let wave = |i: usize| std::f64::consts::TAU * (i.min(n - i) as f64) / n as f64;
        let shape: Vec<f64> = (0..n * n)
            .map(|p| (1.0 + (wave(p / n).powi(2) + wave(p % n).powi(2)) * correlation_pixels.powi(2)).powf(-exponent))
            .collect();
        let scale = sd * sd * (n * n) as f64 / shape.iter().sum::<f64>();
        Ok(Self { n, mean, power: shape.iter().map(|s| (s * scale) as f32).collect(), fft: Fft2::new(n) })
    }

    /// Multiplies each Fourier mode of `image` by `gain(power)`.
    fn filter(&self, image: &[f32], gain: impl Fn(f32) -> f32) -> Vec<f32> {
        let mut f: Vec<Complex32> = image.iter().map(|&v| Complex32::new(v, 0.0)).collect();
        self.fft.forward(&mut f);
        f.iter_mut().zip(&self.power).for_each(|(v, &p)| *v *= gain(p));
        self.fft.inverse(&mut f);
        f.iter().map(|v| v.re).collect()
    }

    /// C^(1/2) e + mean for white noise e of one draw: exact prior samples, shape (draw, 1, n, n).
    pub fn sample(&self, rng: Philox, draws: std::ops::Range<u64>) -> Result<Tensor> {
        let mut x = rng.normal(draws, 0, &[1, self.n, self.n])?;
        x.data_mut().par_chunks_mut(self.n * self.n).for_each(|item| {
            let filtered = self.filter(item, f32::sqrt);
            item.iter_mut().zip(filtered.iter().zip(&self.mean)).for_each(|(o, (f, m))| *o = f + m);
        });
        Ok(x)
    }

    /// Pixels along a side.
    pub(crate) fn side(&self) -> usize {
        self.n
    }

    /// The mean image, row-major.
    pub(crate) fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Variance of every Fourier mode by its frequencies along y and x.
    pub(crate) fn power_grid(&self) -> Array2<f64> {
        Array2::from_shape_fn((self.n, self.n), |(j, i)| self.power[j * self.n + i] as f64)
    }
}

struct FieldPullback<'a> {
    field: &'a GaussianField,
    sigma: Vec<f32>,
}

impl Pullback for FieldPullback<'_> {
    fn vjp(&self, v: &Tensor) -> halation_nn::Result<Tensor> {
        let mut out = v.clone();
        out.data_mut().par_chunks_mut(self.field.mean.len()).zip(&self.sigma).for_each(|(item, &s)| {
            let filtered = self.field.filter(item, |p| p / (p + s * s));
            item.copy_from_slice(&filtered);
        });
        Ok(out)
    }
}

impl Denoiser for GaussianField {
    fn item_shape(&self) -> [usize; 3] {
        [1, self.n, self.n]
    }

    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<Tensor> {
        x.expect_shape("GaussianField::denoise", &[sigma.len(), 1, self.n, self.n])?;
        let mut out = x.clone();
        out.data_mut().par_chunks_mut(self.mean.len()).zip(sigma).for_each(|(item, &s)| {
            let centred: Vec<f32> = item.iter().zip(&self.mean).map(|(v, m)| v - m).collect();
            let filtered = self.filter(&centred, |p| p / (p + s * s));
            item.iter_mut().zip(filtered.iter().zip(&self.mean)).for_each(|(o, (f, m))| *o = f + m);
        });
        Ok(out)
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<(Tensor, Box<dyn Pullback + 'a>)> {
        Ok((self.denoise(x, sigma)?, Box::new(FieldPullback { field: self, sigma: sigma.to_vec() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_lapack as _;
    use ndarray::Array1;
    use ndarray_linalg::Inverse;

    /// C, column by column, from the filter itself applied to unit vectors, is used in the dense formula D = m + C (C + s^2)^-1 (x - m).
    #[test]
    fn denoiser_is_the_dense_formula() {
        let n = 6;
        let mean: Vec<f32> = (0..n * n).map(|i| (i as f32 * 0.37).sin()).collect();
        let field = GaussianField::new(n, mean.clone(), 0.7, 1.5, 1.2).unwrap();
        let d = n * n;
        let mut c = Array2::<f64>::zeros((d, d));
        for j in 0..d {
            let mut e = vec![0.0; d];
            e[j] = 1.0;
            field.filter(&e, |p| p).iter().enumerate().for_each(|(i, v)| c[(i, j)] = *v as f64);
        }
        for j in 0..d {
            assert!((c[(j, j)] - 0.49).abs() < 1e-5, "pixel variance {}", c[(j, j)]);
            (0..d).for_each(|i| assert!((c[(i, j)] - c[(j, i)]).abs() < 1e-6));
        }
        let s = 0.4f64;
        let inverse = (&c + &(Array2::<f64>::eye(d) * (s * s))).inv().unwrap();
        let x: Vec<f32> = (0..d).map(|i| (i as f32 * 1.7).cos()).collect();
        let centred = Array1::from_iter(x.iter().zip(&mean).map(|(a, b)| (a - b) as f64));
        let expected = c.dot(&inverse.dot(&centred));
        let got = field.denoise(&Tensor::from_vec(&[1, 1, n, n], x).unwrap(), &[s as f32]).unwrap();
        for i in 0..d {
            assert!((got.data()[i] as f64 - mean[i] as f64 - expected[i]).abs() < 1e-5);
        }
    }

    #[test]
    fn samples_have_the_covariance() {
        let n = 8;
        let field = GaussianField::new(n, vec![0.3; n * n], 0.5, 1.0, 1.5).unwrap();
        let draws = 20_000;
        let x = field.sample(Philox::new(3), 0..draws).unwrap();
        // Neighbour covariance against the one the spectrum gives; standard error of a covariance of N samples is about sd^2 / sqrt(N).
        let mut e = vec![0.0; n * n];
        e[0] = 1.0;
        let c = field.filter(&e, |p| p);
        for j in [0, 1, n, 3 * n + 2] {
            let cov = (0..draws as usize).map(|i| ((x.item(i)[0] - 0.3) * (x.item(i)[j] - 0.3)) as f64).sum::<f64>() / draws as f64;
            assert!((cov - c[j] as f64).abs() < 4.0 * 0.25 * 2f64.sqrt() / (draws as f64).sqrt(), "{j}: {cov} {}", c[j]);
        }
    }
}
