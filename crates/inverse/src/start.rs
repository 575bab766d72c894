//! Unconditional samples, the start of every annealed solver.

use crate::Result;
use halation_compute::{Philox, Tensor};
use halation_nn::Denoiser;
use rayon::prelude::*;

/// Steps of [`sample_prior`].
pub const START_STEPS: usize = 18;

/// Network calls of [`sample_prior`].
pub const START_CALLS: u64 = 2 * START_STEPS as u64 - 1;

/// Prior samples by the deterministic second-order sampler of Karras et al. (2022, arXiv 2206.00364, Algorithm 1) with rho = 7 from
/// noise level 40 pixel ranges down to a thousandth of one (80 ... 0.002 for images in [-1, 1]); shape (draws, channel, y, x).
///
/// # Errors
/// The network failed.
pub fn sample_prior(prior: &dyn Denoiser, pixel_range: f64, rng: Philox, draws: std::ops::Range<u64>, step: u32) -> Result<Tensor> {
    let (top, bottom) = ((40.0 * pixel_range).powf(1.0 / 7.0), (0.001 * pixel_range).powf(1.0 / 7.0));
    let level = |i: usize| {
        if i >= START_STEPS { 0.0 } else { (top + i as f64 / (START_STEPS - 1) as f64 * (bottom - top)).powi(7) }
    };
    let mut x = rng.normal(draws, step, &prior.item_shape())?;
    let n = x.draws();
    let first = level(0) as f32;
    x.data_mut().iter_mut().for_each(|v| *v *= first);
    for i in 0..START_STEPS {
        let (s, t) = (level(i), level(i + 1));
        let d = prior.denoise(&x, &vec![s as f32; n])?;
        let ratio = (t / s) as f32;
        // Euler: x + (t - s) (x - D)/s = D + (t/s)(x - D).
        let euler = combine(&[(&x, ratio), (&d, 1.0 - ratio)]);
        if t == 0.0 {
            return Ok(euler);
        }
        let d2 = prior.denoise(&euler, &vec![t as f32; n])?;
        let (a, b) = ((0.5 * (t - s) / s) as f32, (0.5 * (t - s) / t) as f32);
        x = combine(&[(&x, 1.0 + a), (&d, -a), (&euler, b), (&d2, -b)]);
    }
    Ok(x)
}

fn combine(parts: &[(&Tensor, f32)]) -> Tensor {
    let mut out = Tensor::zeros(parts[0].0.shape());
    out.data_mut().par_chunks_mut(4096).enumerate().for_each(|(k, chunk)| {
        for (i, o) in chunk.iter_mut().enumerate() {
            *o = parts.iter().map(|(t, w)| w * t.data()[k * 4096 + i]).sum();
        }
    });
    out
}
