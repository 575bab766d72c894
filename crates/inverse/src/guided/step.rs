//! One level of the guided reverse diffusion.

use crate::curvature::{SharedBasis, checked, whiten};
use crate::denoising_error::{DenoisingError, error_at};
use crate::numeric::dot;
use crate::{Problem, Result};
use halation_compute::Tensor;
use rayon::prelude::*;

/// Images that pass through the network together with their pullback, which keeps every activation.
const BATCH: usize = 8;

/// The denoised images given the data as well, and what the data say of each state.
pub(super) struct Guided {
    /// E[x0 | state, data].
    pub denoised: Tensor,
    /// log p(data | state).
    pub log_likelihood: Vec<f64>,
}

/// E[x0 | x, data] and log p(data | x) of the states `x` at noise level `sigma`, where `errors` are those of [`denoising_errors`](crate::denoising_error::denoising_errors);
/// `basis` is that of a linear problem.
///
/// Given x the truth is taken as D plus a Gaussian, so that the data follow the likelihood linearised at D, seen through noise:
/// log p(y | x) = -1/2 rho^T C^-1 rho - 1/2 log det C with the whitened residual rho at D and C = 1 + error^2 J J^T (and what the linearisation
/// leaves out, `Whitened::covariance`). Its gradient by the network's pullback moves D by the covariance of x0 given x,
/// sigma^2 dD/dx: D' = D - sigma^2 (dD/dx)^T J^T C^-1 rho (PiGDM, Song et al. 2023, ICLR, with the error measured instead of assumed). Where dD/dx leaves
/// less freedom along the data than the error that was measured, the network is too sure of itself, and the rest goes in directly ([`Pull::lacking`]).
pub(super) fn guide(
    problem: &Problem,
    basis: Option<&SharedBasis>,
    x: &Tensor,
    sigma: f64,
    errors: &[DenoisingError],
) -> Result<Guided> {
    let n = x.draws();
    let (mut images, mut log_likelihood) = (Vec::with_capacity(x.len()), Vec::with_capacity(n));
    for first in (0..n).step_by(BATCH) {
        let index: Vec<usize> = (first..(first + BATCH).min(n)).collect();
        let part = x.select(&index)?;
        let (denoised, pullback) = problem.prior.denoise_with_pullback(&part, &vec![sigma as f32; index.len()])?;
        let pulls: Vec<Pull> = (0..index.len())
            .into_par_iter()
            .map(|i| {
                let image = denoised.item(i);
                Pull::at(problem, basis, image, error_at(errors, problem, sigma, image))
            })
            .collect::<Result<_>>()?;
        let cotangent = pulls.iter().flat_map(|p| p.gradient.iter().map(|v| *v as f32)).collect();
        let pulled = pullback.vjp(&Tensor::from_vec(part.shape(), cotangent)?)?;
        for (i, pull) in pulls.iter().enumerate() {
            let pulled: Vec<f64> = pulled.item(i).iter().map(|v| sigma * sigma * f64::from(*v)).collect();
            let direct = pull.lacking(&pulled) * pull.error * pull.error;
            let moved = pulled.iter().zip(&pull.gradient).map(|(p, g)| p + direct * g);
            images.extend(denoised.item(i).iter().zip(moved).map(|(d, m)| d - m as f32));
            log_likelihood.push(pull.log_likelihood);
        }
    }
    Ok(Guided { denoised: Tensor::from_vec(x.shape(), images)?, log_likelihood })
}

/// Step in time of a corrector, where z without any other force than its own noise's swings with frequency 1.
const TIME_STEP: f64 = 0.7;
/// What is left of the momentum after one step.
const PERSISTENCE: f64 = 0.6;

/// The two halves of a corrector at noise level `sigma`: one step of underdamped Langevin dynamics in z / sigma along the score (D - z) / sigma^2, D the denoised
/// image that prior and data together lead to. It forgets what went wrong before (predictor-corrector sampling, Song et al. 2021, arXiv:2011.13456,
/// Algorithm 2), and its `momentum` (variance 1 a pixel, kept from level to level) carries it along what data and noise leave free, where steps without one only
/// diffuse. Kick, drift, fresh noise for the momentum, drift; then, D found anew, kick: BAOAB (Leimkuhler & Matthews 2013, doi:10.1093/amrx/abs010), which leaves
/// the covariance of a Gaussian z as it is for any stable step.
pub(super) fn drift(z: &mut Tensor, momentum: &mut Tensor, denoised: &Tensor, noise: &Tensor, sigma: f64) {
    kick(momentum, z, denoised, sigma);
    let half = (0.5 * TIME_STEP * sigma) as f32;
    let (kept, fresh) = (PERSISTENCE as f32, (1.0 - PERSISTENCE * PERSISTENCE).sqrt() as f32);
    let parts = z.data_mut().par_iter_mut().zip(momentum.data_mut()).zip(noise.data());
    parts.for_each(|((z, p), e)| {
        *z += half * *p;
        *p = kept * *p + fresh * e;
        *z += half * *p;
    });
}

/// See [`drift`].
pub(super) fn kick(momentum: &mut Tensor, z: &Tensor, denoised: &Tensor, sigma: f64) {
    let scale = (0.5 * TIME_STEP / sigma) as f32;
    momentum.data_mut().par_iter_mut().zip(z.data()).zip(denoised.data()).for_each(|((p, z), d)| *p += scale * (d - z));
}

/// The denoised image `before`, as the reverse step needs it where a corrector came between: so that its last increment is the one from the level before to
/// this one, which led to `predicted`, without what the corrector has changed since, to `corrected`.
pub(super) fn carry(before: &mut Tensor, predicted: &Tensor, corrected: &Tensor) {
    let parts = before.data_mut().par_iter_mut().zip(predicted.data()).zip(corrected.data());
    parts.for_each(|((b, p), c)| *b += c - p);
}

/// What the data say of one denoised image.
struct Pull {
    /// The denoising error e.
    error: f64,
    /// log p(data | state).
    log_likelihood: f64,
    /// g = J^T C^-1 rho.
    gradient: Vec<f64>,
    /// rho^T C^-1 rho.
    misfit: f64,
}

impl Pull {
    fn at(problem: &Problem, basis: Option<&SharedBasis>, denoised: &[f32], error: f64) -> Result<Self> {
        let at = checked(problem.likelihood.residual_under_noise(denoised, error)?)?;
        let (solved, log_likelihood) = match basis {
            Some(basis) => basis.whiten(at.value(), error),
            None => whiten(at.as_ref(), error)?,
        };
        Ok(Self { error, log_likelihood, gradient: at.vjp(&solved), misfit: dot(at.value(), &solved) })
    }

    /// How much of the misfit the network's own covariance leaves to be explained by the measured error: (e^2 |g|^2 - g^T sigma^2 dD/dx g) / misfit,
    /// where `pulled` is sigma^2 (dD/dx)^T g. None where the network allows for as much as its error is.
    fn lacking(&self, pulled: &[f64]) -> f64 {
        let lacking = self.error * self.error * dot(&self.gradient, &self.gradient) - dot(&self.gradient, pulled);
        if lacking > 0.0 { (lacking / self.misfit).min(1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Guided;
    use super::*;
    use halation_compute::Philox;
    use halation_nn::ancestral_step;

    /// Gaussians of standard deviation s, the last descent of the default levels: denoised images come out with their spread to 1 %, and z on the way with the
    /// noise that it should have to 4 %.
    #[test]
    fn correctors_leave_the_spread_as_it_is() {
        let n = 100_000;
        for s in [0.5, 0.1, 0.02] {
            let (ladder, ends) = Guided::default().ladder(2.0, 0.1 * s);
            let levels = &ladder[ends[2] + 1..];
            let of = |k: usize, stream: u16| Philox::new(3).stream(stream).normal(0..1, k as u32, &[1, 1, n]).unwrap();
            let scaled = |t: &Tensor, by: f64| {
                Tensor::from_vec(t.shape(), t.data().iter().map(|v| (by * f64::from(*v)) as f32).collect()).unwrap()
            };
            let spread = |t: &Tensor| (t.data().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64).sqrt();
            let mut z = scaled(&of(0, 1), (s * s + levels[0] * levels[0]).sqrt());
            let (mut before, mut momentum): (Option<Tensor>, _) = (None, of(0, 4));
            for (k, sigma) in levels.iter().enumerate() {
                let gain = s * s / (s * s + sigma * sigma);
                let predicted = scaled(&z, gain);
                drift(&mut z, &mut momentum, &predicted, &of(k, 2), *sigma);
                let denoised = scaled(&z, gain);
                kick(&mut momentum, &z, &denoised, *sigma);
                if let Some(before) = &mut before {
                    carry(before, &predicted, &denoised);
                }
                let noisy = spread(&z) / (s * s + sigma * sigma).sqrt();
                assert!((noisy - 1.0).abs() < 0.04, "s {s}, level {k}: z is {noisy} times as wide as it should be");
                if let Some(next) = levels.get(k + 1) {
                    ancestral_step(&mut z, &denoised, before.as_ref(), &of(k, 3), *sigma, *next);
                }
                before = Some(denoised);
            }
            let last = spread(&before.unwrap()) / s;
            assert!((last - 1.0).abs() < 0.01, "s {s}: {last}");
        }
    }

    /// Along g = (3, 4) the measured error 0.2 leaves a variance of 1; the network half of it, all of it, more, or less than none.
    #[test]
    fn what_the_network_lacks() {
        let pull = Pull { error: 0.2, log_likelihood: 0.0, gradient: vec![3.0, 4.0], misfit: 2.0 };
        let along = |variance: f64| [3.0, 4.0].map(|g| variance * g / 25.0);
        for (variance, expected) in [(0.5, 0.25), (1.0, 0.0), (1.5, 0.0), (-2.0, 1.0), (f64::NAN, 0.0)] {
            assert!((pull.lacking(&along(variance)) - expected).abs() < 1e-12, "{variance}");
        }
    }
}
