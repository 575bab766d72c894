//! One level of the guided reverse diffusion.

use super::errors::{DenoisingError, error_at};
use crate::curvature::{SharedBasis, checked, whiten};
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

/// E[x0 | x, data] and log p(data | x) of the states `x` at noise level `sigma`, where `errors` are those of [`denoising_errors`](super::errors::denoising_errors);
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
    use super::*;

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
