//! One step of a population at one noise level.

use super::metric::Metric;
use crate::curvature::{SharedBasis, checked, linearise, typical};
use crate::denoising_error::{DenoisingError, error_at};
use crate::numeric::dot;
use crate::{Problem, Result};
use halation_compute::{Philox, Sequence, Tensor};
use halation_nn::schedule::geometric;
use rayon::prelude::*;

/// Images that pass through the network together with their pullback, which keeps every activation.
const BATCH: usize = 8;
/// Up to here, in variance over that which the noise gives the linearised data, a linearisation may leave something out.
const LEFT_OUT: f64 = 0.02;

/// Network calls of [`ended`], and its last noise level over the first.
pub(super) const END_CALLS: usize = 5;
const END: f64 = 0.05;

/// The level of a step and where it leads.
#[derive(Clone, Copy)]
pub(super) struct Level {
    pub sigma: f64,
    /// None at the end of a descent, where states stay.
    pub next: Option<f64>,
}

/// A population on the move.
pub(super) struct Moving<'a> {
    /// The noisy states.
    pub z: &'a mut Tensor,
    /// Momenta along pixels, of variance 1.
    pub momentum: &'a mut Tensor,
    /// Momenta along data, of variance 1, particle after particle.
    pub data_momentum: &'a mut [f64],
}

/// What is known of every state at one level.
pub(super) struct Known {
    /// The images.
    pub images: Tensor,
    /// log p(data | state).
    pub log_likelihood: Vec<f64>,
}

/// One step at a level where the denoised image D tells what the data say of a state z, along the score
///
/// F = (D - z) / sigma^2 - (dD/dx)^T J^T C^-1 r,    r and J at D,    C = 1 + e^2 J J^T and what the linearisation leaves out
///
/// (PiGDM, Song et al. 2023, ICLR, with the error e of D measured: `errors`; `caution` times as large). Returned are the images D' = D - a p: what the data
/// ask for, p = sigma^2 (dD/dx)^T J^T C^-1 r, as far as prior and data together allow along it. The noise z - D' is then scaled to the next level.
pub(super) fn guided(
    problem: &Problem,
    basis: Option<&SharedBasis>,
    moving: Moving,
    noise: impl Fn(u64) -> Sequence + Sync,
    level: Level,
    (errors, caution): (&[DenoisingError], f64),
) -> Result<Known> {
    let Level { sigma, next } = level;
    let Moving { z, momentum, data_momentum } = moving;
    let (n, pixels) = (z.draws(), problem.len());
    let data = data_momentum.len() / n;
    let mut known = Known { images: Tensor::zeros(z.shape()), log_likelihood: Vec::with_capacity(n) };
    for first in (0..n).step_by(BATCH) {
        let index: Vec<usize> = (first..(first + BATCH).min(n)).collect();
        let part = z.select(&index)?;
        let (denoised, pullback) = problem.prior.denoise_with_pullback(&part, &vec![sigma as f32; index.len()])?;
        let seen: Vec<(Metric, Vec<f64>, f64)> = (0..index.len())
            .into_par_iter()
            .map(|i| {
                let error = caution * error_at(errors, problem, sigma, denoised.item(i));
                let at = checked(problem.likelihood.residual_under_noise(denoised.item(i), error)?)?;
                let metric = Metric::new(at, basis, sigma, error)?;
                let (pull, log_likelihood) = (metric.pull(), metric.log_likelihood());
                Ok((metric, pull, log_likelihood))
            })
            .collect::<Result<_>>()?;
        let cotangent = seen.iter().flat_map(|(_, pull, _)| pull.iter().map(|v| *v as f32)).collect();
        let pulled = pullback.vjp(&Tensor::from_vec(part.shape(), cotangent)?)?;
        known.log_likelihood.extend(seen.iter().map(|(_, _, log_likelihood)| log_likelihood));
        let of = |i: usize, size: usize| (first + i) * size..(first + i + 1) * size;
        let whole = of(0, pixels).start..of(index.len() - 1, pixels).end;
        let states =
            z.data_mut()[whole.clone()].par_chunks_mut(pixels).zip(momentum.data_mut()[whole.clone()].par_chunks_mut(pixels));
        let states = states.zip(data_momentum[of(0, data).start..of(index.len() - 1, data).end].par_chunks_mut(data));
        let states = states.zip(known.images.data_mut()[whole].par_chunks_mut(pixels)).zip(seen).enumerate();
        states.for_each(|(i, ((((z, w), u), image), (metric, pull, _)))| {
            let denoised = denoised.item(i);
            let asked: Vec<f64> = pulled.item(i).iter().map(|v| sigma * sigma * f64::from(*v)).collect();
            let along = metric.jvp(&asked);
            let share = dot(metric.residual(), &along) / (dot(&along, &along) + dot(&pull, &asked).max(0.0));
            let share = if share.is_finite() { share.max(0.0) } else { 0.0 };
            image.iter_mut().zip(denoised).zip(&asked).for_each(|((x, d), p)| *x = d - (share * p) as f32);
            let Some(next) = next else { return };
            let score: Vec<f64> =
                z.iter().zip(denoised).zip(&asked).map(|((z, d), p)| (f64::from(d - z) - p) / (sigma * sigma)).collect();
            let moved = metric.langevin(&metric.apply(&score), w, u, noise((first + i) as u64));
            let kept = next / sigma;
            for ((z, m), x) in z.iter_mut().zip(moved).zip(&*image) {
                *z = x + (kept * (f64::from(*z - x) + m)) as f32;
            }
        });
    }
    Ok(known)
}

/// One step at a low level with the likelihood at the state itself, for
///
/// p_sigma(z) exp(-|r(z)|^2 / 2),
///
/// the posterior under the prior seen through noise sigma, along its score F = (D - z) / sigma^2 - J^T r with r and J at z; neither e nor the network's
/// Jacobian is needed. Returned are the images: D, and of the noise z - D what the data see, D + (1 - A / sigma^2) (z - D), A as in [`Metric`]; what they do
/// not see is then scaled to the level `next`.
pub(super) fn settled(
    problem: &Problem,
    basis: Option<&SharedBasis>,
    moving: Moving,
    noise: impl Fn(u64) -> Sequence + Sync,
    [sigma, next]: [f64; 2],
) -> Result<Tensor> {
    let Moving { z, momentum, data_momentum } = moving;
    let (n, pixels) = (z.draws(), problem.len());
    let data = data_momentum.len() / n;
    let denoised = problem.prior.denoise(z, &vec![sigma as f32; n])?;
    let mut images = Tensor::zeros(z.shape());
    let states = z.data_mut().par_chunks_mut(pixels).zip(momentum.data_mut().par_chunks_mut(pixels));
    let states = states.zip(data_momentum.par_chunks_mut(data)).zip(images.data_mut().par_chunks_mut(pixels)).enumerate();
    states.try_for_each(|(i, (((z, w), u), image))| -> Result<()> {
        let metric = Metric::new(linearise(problem.likelihood, z)?, basis, sigma, 0.0)?;
        let by_prior = metric.apply(&score(denoised.item(i), z, sigma));
        image.iter_mut().zip(&*z).zip(&by_prior).for_each(|((x, z), p)| *x = z + *p as f32);
        let towards: Vec<f64> = by_prior.iter().zip(metric.apply(&metric.pull())).map(|(p, d)| p - d).collect();
        let lost = 1.0 - next / sigma;
        for ((z, m), p) in z.iter_mut().zip(metric.langevin(&towards, w, u, noise(i as u64))).zip(&by_prior) {
            *z += (m + lost * p) as f32;
        }
        Ok(())
    })?;
    Ok(images)
}

/// The images of states in which [`settled`] has ended: along what the data see the state z itself, else what the prior's probability flow leads z to at no noise,
/// x + (1 - A / sigma^2) (z - x). The flow leaves a Gaussian z of the blurred prior's variance with that of the prior itself, where D would have too little.
pub(super) fn ended(problem: &Problem, basis: Option<&SharedBasis>, z: &Tensor, sigma: f64) -> Result<Tensor> {
    let mut levels = geometric(sigma, END * sigma, END_CALLS);
    levels.push(0.0);
    let mut images = z.clone();
    let mut before: Option<Tensor> = None;
    for pair in levels.windows(2) {
        let denoised = problem.prior.denoise(&images, &vec![pair[0] as f32; z.draws()])?;
        let kept = (pair[1] / pair[0]) as f32;
        // Half of the last increment makes it right to second order in the step.
        let parts = images.data_mut().iter_mut().zip(denoised.data()).zip(before.as_ref().unwrap_or(&denoised).data());
        parts.for_each(|((x, d), b)| {
            let mean = d + 0.5 * (d - b);
            *x = mean + kept * (*x - mean);
        });
        before = Some(denoised);
    }
    images.data_mut().par_chunks_mut(problem.len()).enumerate().try_for_each(|(i, x)| -> Result<()> {
        let metric = Metric::new(linearise(problem.likelihood, z.item(i))?, basis, sigma, 0.0)?;
        let moved = metric.apply(&score(x, z.item(i), sigma));
        x.iter_mut().zip(z.item(i)).zip(moved).for_each(|((x, z), m)| *x = z + m as f32);
        Ok(())
    })?;
    Ok(images)
}

/// What [`guided`] does with the data for one state, but for the network.
pub(super) fn rehearse(problem: &Problem, image: &[f32], sigma: f64) -> Result<()> {
    let metric = Metric::new(checked(problem.likelihood.residual_under_noise(image, sigma)?)?, None, sigma, sigma)?;
    let (mut along_pixels, mut along_data) = (vec![0.0; image.len()], vec![0.0; metric.residual().len()]);
    let towards = metric.apply(&metric.pull());
    metric.langevin(&towards, &mut along_pixels, &mut along_data, Philox::new(0).sequence(0, 0));
    Ok(())
}

/// (x - z) / sigma^2.
fn score(x: &[f32], z: &[f32], sigma: f64) -> Vec<f64> {
    x.iter().zip(z).map(|(x, z)| f64::from(x - z) / (sigma * sigma)).collect()
}

/// The noise level at and below which the likelihood may be taken at the noisy state itself: `highest` where the data are linear, less where a visibility
/// is so small against the noise that its logarithm and its angle bend. `images` are those of the population; the median of eight of them counts.
pub(super) fn turn(problem: &Problem, images: &Tensor, highest: f64) -> Result<f64> {
    typical(images, |image| {
        let at = checked(problem.likelihood.residual_under_noise(image, highest)?)?;
        let linear = highest * highest * at.gram().diag().sum();
        let left_out = at.covariance(highest).diag().sum() - linear;
        // It grows with the fourth power of the noise, the rest with the second.
        Ok(highest * (LEFT_OUT * linear / left_out.max(LEFT_OUT * linear)).sqrt())
    })
}
