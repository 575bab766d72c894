//! The linear denoiser beside which networks are measured.

use crate::precond::combined;
use crate::{Denoiser, Error, ImageSource, Pullback, Result};
use halation_compute::{Fft2, Tensor};
use num_complex::Complex32;
use rayon::prelude::*;
use std::ops::Range;

/// The Wiener denoiser D(x, sigma) = m + F^-1 [P / (P + sigma^2)] F (x - m) with mean image m and power P per Fourier mode and channel.
///
/// P is in the units in which white noise of variance s^2 has P = s^2 on every mode: P(k) = E |F(x0 - m)(k)|^2 / n^2 for n x n pixels.
/// With the true m and P it has the smallest mean square error of all denoisers that scale each mode of x - m by itself, whatever the
/// images are; for a stationary Gaussian field it is the best denoiser there is, with the error of [`Wiener::error_of_gaussian`].
/// It knows nothing of where in the field sources lie nor of how modes go together: a full covariance matrix could do better.
pub struct Wiener {
    channels: usize,
    side: usize,
    /// (channel, y, x).
    mean: Vec<f32>,
    /// (channel, frequency y, frequency x), in the order of the transform.
    power: Vec<f64>,
    fft: Fft2,
}

/// Images that are transformed together while m and P are summed up.
const CHUNK: u64 = 64;

impl Wiener {
    /// The denoiser of a given mean image (channel, y, x) and power (channel, frequency y, frequency x) for square images.
    ///
    /// # Errors
    /// Images that are not square, lengths that do not fit `item_shape`, a mean that is not finite, a power that is negative or not finite.
    pub fn new(item_shape: [usize; 3], mean: Vec<f32>, power: Vec<f64>) -> Result<Self> {
        let side = square(item_shape)?;
        let len = item_shape.iter().product::<usize>();
        if mean.len() != len || power.len() != len {
            return Err(Error::Invalid(format!(
                "Wiener denoiser: found {} values of the mean and {} of the power, expected {len} each for images of {item_shape:?}",
                mean.len(),
                power.len()
            )));
        }
        if let Some(bad) = mean.iter().find(|v| !v.is_finite()) {
            return Err(Error::Invalid(format!("Wiener denoiser: the mean image holds {bad}, expected finite values")));
        }
        if let Some(bad) = power.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::Invalid(format!("Wiener denoiser: the power holds {bad}, expected finite values from zero on")));
        }
        Ok(Self { channels: item_shape[0], side, mean, power, fft: Fft2::new(side) })
    }

    /// The denoiser with mean image and power of the images `images` of a source (at least two); each mode has its own power, without
    /// averaging over directions.
    ///
    /// # Errors
    /// Fewer than two images or more than the source has, images that are not square or not finite, or the source's own errors.
    pub fn fit(source: &dyn ImageSource, images: Range<u64>) -> Result<Self> {
        let shape = source.item_shape();
        let side = square(shape)?;
        let count = images.end.saturating_sub(images.start);
        if count < 2 || source.len().is_some_and(|len| images.end > len) {
            return Err(Error::Invalid(format!(
                "{}: images {images:?} for mean and power, expected at least two of the {} that there are",
                source.describe(),
                source.len().map_or("unlimited number".into(), |n| n.to_string())
            )));
        }
        let (plane, len) = (side * side, shape.iter().product::<usize>());
        let fft = Fft2::new(side);
        let (mut sum, mut square_sum, mut mean) = (vec![(0.0, 0.0); len], vec![0.0; len], vec![0.0; len]);
        for first in images.clone().step_by(CHUNK as usize) {
            let chunk: Vec<(Vec<f32>, Vec<Complex32>)> = (first..(first + CHUNK).min(images.end))
                .into_par_iter()
                .map(|index| {
                    let mut image = vec![0.0; len];
                    source.fill(index, &mut image)?;
                    if let Some(bad) = image.iter().find(|v| !v.is_finite()) {
                        let message = format!("{}: image {index} holds {bad}, expected finite values", source.describe());
                        return Err(Error::Invalid(message));
                    }
                    let mut modes: Vec<Complex32> = image.iter().map(|v| Complex32::new(*v, 0.0)).collect();
                    modes.chunks_exact_mut(plane).for_each(|p| fft.forward(p));
                    Ok((image, modes))
                })
                .collect::<Result<_>>()?;
            // One after another, so that the sums do not depend on the number of threads.
            for (image, modes) in chunk {
                mean.iter_mut().zip(image).for_each(|(m, v)| *m += v as f64);
                for ((sum, square), mode) in sum.iter_mut().zip(&mut square_sum).zip(modes) {
                    let (re, im) = (mode.re as f64, mode.im as f64);
                    *sum = (sum.0 + re, sum.1 + im);
                    *square += re * re + im * im;
                }
            }
        }
        let n = count as f64;
        let mean = mean.iter().map(|m| (m / n) as f32).collect();
        let power = sum.iter().zip(square_sum).map(|((re, im), square): (&(f64, f64), f64)| {
            // Unbiased, and not below zero by rounding where all images agree.
            ((square - (re * re + im * im) / n) / (n - 1.0)).max(0.0) / plane as f64
        });
        Self::new(shape, mean, power.collect())
    }

    /// RMS error per pixel at `sigma` on images that are a stationary Gaussian field of this mean and power: the root of the mean over
    /// all modes of P sigma^2 / (P + sigma^2).
    pub fn error_of_gaussian(&self, sigma: f64) -> f64 {
        let s2 = sigma * sigma;
        (self.power.iter().map(|p| p * s2 / (p + s2)).sum::<f64>() / self.power.len() as f64).sqrt()
    }

    fn check(&self, x: &Tensor, sigma: &[f32]) -> Result<()> {
        let [c, h, w] = self.item_shape();
        x.expect_shape("Wiener denoiser", &[sigma.len(), c, h, w])?;
        match sigma.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
            Some(i) => Err(Error::Invalid(format!("sigma of draw {i} is {}, expected a positive number", sigma[i]))),
            None => Ok(()),
        }
    }

    /// F^-1 [P / (P + sigma^2)] F x per draw: a symmetric matrix, and so its own transpose.
    fn filter(&self, x: &Tensor, sigma: &[f32]) -> Tensor {
        let (plane, len) = (self.side * self.side, self.mean.len());
        let mut out = x.clone();
        out.data_mut().par_chunks_exact_mut(len).zip(sigma).for_each(|(item, s)| {
            let s2 = (*s as f64).powi(2);
            for (pixels, power) in item.chunks_exact_mut(plane).zip(self.power.chunks_exact(plane)) {
                let mut modes: Vec<Complex32> = pixels.iter().map(|v| Complex32::new(*v, 0.0)).collect();
                self.fft.forward(&mut modes);
                modes.iter_mut().zip(power).for_each(|(m, p)| *m *= (p / (p + s2)) as f32);
                self.fft.inverse(&mut modes);
                pixels.iter_mut().zip(modes).for_each(|(v, m)| *v = m.re);
            }
        });
        out
    }
}

fn square([c, h, w]: [usize; 3]) -> Result<usize> {
    if h == w && h > 0 && c > 0 {
        Ok(h)
    } else {
        Err(Error::Invalid(format!("Wiener denoiser: found images of {:?} (channel, y, x), expected square ones", [c, h, w])))
    }
}

impl Denoiser for Wiener {
    fn item_shape(&self) -> [usize; 3] {
        [self.channels, self.side, self.side]
    }

    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> Result<Tensor> {
        self.check(x, sigma)?;
        let mean = Tensor::from_vec(x.shape(), self.mean.repeat(sigma.len()))?;
        let deviation = combined(x, &mean, std::iter::repeat((1.0, -1.0)));
        Ok(combined(&self.filter(&deviation, sigma), &mean, std::iter::repeat((1.0, 1.0))))
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        Ok((self.denoise(x, sigma)?, Box::new(WienerPullback { wiener: self, sigma: sigma.to_vec() })))
    }
}

struct WienerPullback<'a> {
    wiener: &'a Wiener,
    sigma: Vec<f32>,
}

impl Pullback for WienerPullback<'_> {
    fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        self.wiener.check(v, &self.sigma)?;
        Ok(self.wiener.filter(v, &self.sigma))
    }
}
