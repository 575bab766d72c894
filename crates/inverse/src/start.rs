//! Unconditional samples, the start of every annealed solver.

use crate::Result;
use halation_compute::{Philox, Tensor};
use halation_nn::{Denoiser, SampleConfig, sample};
use std::ops::Range;

/// Noise levels of [`sample_prior`], each one network call.
pub const START_CALLS: u64 = 40;

/// Prior samples by ancestral sampling from noise level 40 pixel ranges down to a thousandth of one (80 ... 0.002 for images in [-1, 1]);
/// shape (draws, channel, y, x).
///
/// # Errors
/// The network failed.
pub fn sample_prior(prior: &dyn Denoiser, pixel_range: f64, rng: Philox, draws: Range<u64>) -> Result<Tensor> {
    let levels = SampleConfig::new(START_CALLS as usize);
    let config = SampleConfig { sigma_max: 40.0 * pixel_range, sigma_min: 0.001 * pixel_range, ..levels };
    Ok(sample(prior, rng, draws, &config, |_| ())?)
}
