//! How well a denoiser denoises: what the card of a prior states.

use crate::{Denoiser, Error, ImageSource, Result};
use halation_compute::{Fft2, Philox, Tensor};
use num_complex::Complex32;
use rayon::prelude::*;
use serde::Serialize;

/// Largest |k|, in cycles per field, of the modes behind [`DenoisingError::low_over_sigma`].
pub const LOW_FREQUENCY: f64 = 6.5;

/// The error of a denoiser at one noise level over a set of images, e = D(x0 + sigma eps, sigma) - x0. Standard errors are those of the
/// sampling of images and noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DenoisingError {
    /// The noise level, in the units of the images.
    pub sigma: f64,
    /// Number of images.
    pub images: usize,
    /// Root of the mean of e^2 over pixels and images, in the units of the images.
    pub rms: f64,
    /// Standard error of `rms`.
    pub rms_error: f64,
    /// The error of low spatial frequencies over that of the data: root of the mean of |F e|^2 / (n^2 sigma^2) over images and the modes
    /// with |k| <= [`LOW_FREQUENCY`], the mean of the image among them. The data x themselves have 1; more means that the denoiser harms
    /// what they say.
    pub low_over_sigma: f64,
    /// Standard error of `low_over_sigma`.
    pub low_over_sigma_error: f64,
    /// How much of a shift of all pixels by ten standard deviations of the noise's mean, 10 sigma / sqrt(pixels), is left in the mean of the denoised image:
    /// 1 where the denoiser takes it for the image's own, 0 where it knows the level of the background.
    pub offset_kept: f64,
    /// Standard error of `offset_kept`.
    pub offset_kept_error: f64,
}

/// The shift behind [`DenoisingError::offset_kept`], in standard deviations of the noise's mean.
const OFFSET: f64 = 10.0;

/// Stream of the noise, apart from those of training and sampling with the same seed.
const NOISE: u16 = 0xe0;
/// Images that go through the denoiser together.
const BATCH: usize = 32;

/// The error of `denoiser` on `images` (indices into `source`, at least two) at each of `sigmas`. The noise is a function of seed, index
/// of the image and place in `sigmas`, so denoisers measured with one seed see the same. `each` is called after every batch at one level
/// with the number of images in it.
///
/// # Errors
/// Images that are not square, of another shape than the denoiser's or not finite; fewer than two; a sigma that is not a positive number;
/// a denoiser or source that fails.
pub fn denoising_errors(
    denoiser: &dyn Denoiser,
    source: &dyn ImageSource,
    images: &[u64],
    sigmas: &[f64],
    seed: u64,
    mut each: impl FnMut(usize),
) -> Result<Vec<DenoisingError>> {
    let shape = source.item_shape();
    let [channels, side, width] = shape;
    if shape != denoiser.item_shape() || side != width {
        return Err(Error::Invalid(format!(
            "{} gives images of {shape:?} (channel, y, x), the denoiser takes {:?}; expected the same, and square",
            source.describe(),
            denoiser.item_shape()
        )));
    }
    if images.len() < 2 {
        return Err(Error::Invalid(format!("{} image(s) to measure on, expected at least two", images.len())));
    }
    if let Some(bad) = sigmas.iter().find(|s| !((**s as f32).is_finite() && **s as f32 > 0.0)) {
        return Err(Error::Invalid(format!("noise level {bad}, expected a positive number")));
    }
    let len = channels * side * side;
    let low = LowModes::new(side);
    // Per level and image: mean square of e, that of its low modes over sigma^2, and the share of the shift that is left.
    let mut squares: Vec<Vec<[f64; 3]>> = vec![Vec::with_capacity(images.len()); sigmas.len()];
    for batch in images.chunks(BATCH) {
        let tensor_shape = [batch.len(), channels, side, side];
        let mut clean = Tensor::zeros(&tensor_shape);
        clean.data_mut().par_chunks_exact_mut(len).zip(batch).try_for_each(|(out, index)| {
            source.fill(*index, out)?;
            match out.iter().find(|v| !v.is_finite()) {
                Some(bad) => {
                    Err(Error::Invalid(format!("{}: image {index} holds {bad}, expected finite values", source.describe())))
                }
                None => Ok(()),
            }
        })?;
        for (level, (sigma, squares)) in sigmas.iter().zip(&mut squares).enumerate() {
            let noise = Philox::new(seed).stream(NOISE);
            let mut noisy = Tensor::zeros(&tensor_shape);
            noisy.data_mut().par_chunks_exact_mut(len).zip(clean.data().par_chunks_exact(len)).zip(batch).for_each(
                |((noisy, clean), index)| {
                    noise.fill_normal(*index, level as u32, noisy);
                    noisy.iter_mut().zip(clean).for_each(|(e, x)| *e = *x + *sigma as f32 * *e);
                },
            );
            let levels = vec![*sigma as f32; batch.len()];
            let found = denoiser.denoise(&noisy, &levels)?;
            let offset = OFFSET * sigma / (len as f64).sqrt();
            noisy.data_mut().iter_mut().for_each(|v| *v += offset as f32);
            let shifted = denoiser.denoise(&noisy, &levels)?;
            let of_batch: Vec<[f64; 3]> = found
                .data()
                .par_chunks_exact(len)
                .zip(clean.data().par_chunks_exact(len))
                .zip(shifted.data().par_chunks_exact(len))
                .map(|((found, clean), shifted)| {
                    let errors: Vec<f64> = found.iter().zip(clean).map(|(a, b)| *a as f64 - *b as f64).collect();
                    let square = errors.iter().map(|e| e * e).sum::<f64>() / len as f64;
                    let moved = shifted.iter().zip(found).map(|(s, f)| f64::from(s - f)).sum::<f64>() / len as f64;
                    [square, low.mean_square(&errors, *sigma), moved / offset]
                })
                .collect();
            if let Some(i) = of_batch.iter().position(|found| !found[0].is_finite()) {
                return Err(Error::Invalid(format!(
                    "at sigma {sigma} the denoiser's output for image {} is not finite: the prior is not usable",
                    batch[i]
                )));
            }
            squares.extend(of_batch);
            each(batch.len());
        }
    }
    Ok(sigmas
        .iter()
        .zip(squares)
        .map(|(sigma, squares)| {
            let (rms, rms_error) = root_of_mean(squares.iter().map(|s| s[0]));
            let (low_over_sigma, low_over_sigma_error) = root_of_mean(squares.iter().map(|s| s[1]));
            let n = squares.len() as f64;
            let offset_kept = squares.iter().map(|s| s[2]).sum::<f64>() / n;
            let scatter = squares.iter().map(|s| (s[2] - offset_kept).powi(2)).sum::<f64>() / (n - 1.0);
            DenoisingError {
                sigma: *sigma,
                images: images.len(),
                rms,
                rms_error,
                low_over_sigma,
                low_over_sigma_error,
                offset_kept,
                offset_kept_error: (scatter / n).sqrt(),
            }
        })
        .collect())
}

/// Root of the mean and its standard error, by the scatter of the values.
fn root_of_mean(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let scatter = values.map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let root = mean.sqrt();
    (root, if root > 0.0 { (scatter / n).sqrt() / (2.0 * root) } else { 0.0 })
}

/// The Fourier modes of low frequency of square images.
struct LowModes {
    side: usize,
    fft: Fft2,
    places: Vec<usize>,
}

impl LowModes {
    fn new(side: usize) -> Self {
        let frequency = |i: usize| i.min(side - i) as f64;
        let is_low = |place: &usize| frequency(place / side).hypot(frequency(place % side)) <= LOW_FREQUENCY;
        Self { side, fft: Fft2::new(side), places: (0..side * side).filter(is_low).collect() }
    }

    /// The mean of |F e|^2 / (n^2 sigma^2) over channels and low modes: 1 for white noise of standard deviation sigma.
    fn mean_square(&self, errors: &[f64], sigma: f64) -> f64 {
        let plane = self.side * self.side;
        let (mut sum, mut count) = (0.0, 0);
        for errors in errors.chunks_exact(plane) {
            let mut modes: Vec<Complex32> = errors.iter().map(|e| Complex32::new((e / sigma) as f32, 0.0)).collect();
            self.fft.forward(&mut modes);
            sum += self.places.iter().map(|k| modes[*k].norm_sqr() as f64).sum::<f64>();
            count += self.places.len();
        }
        sum / (plane * count) as f64
    }
}

#[cfg(test)]
#[path = "quality_tests.rs"]
mod tests;
