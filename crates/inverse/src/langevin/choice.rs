//! Which states stay when descents end.

use super::TOP;
use super::levels::BOTTOM;
use crate::curvature::{checked, factor_one_plus};
use crate::denoising_error::{DenoisingError, error_at};
use crate::plausibility::{Plausibility, log_prior};
use crate::{Problem, Result, populations};
use halation_compute::{Philox, Tensor};
use rayon::prelude::*;

/// States the log weight of which falls short of the best by more than this are not chosen. Within one structure it scatters by some ten.
const RULED_OUT: f64 = 40.0;
/// Standard deviations of the log posterior by which a state may fall short of the best, where open degrees of freedom are so many that this is more.
const RULED_OUT_SD: f64 = 6.0;

/// What data and prior say of every particle, those of one population after those of the other.
pub(super) struct Judged {
    pub log_prior: Vec<f64>,
    /// What the posterior holds about every particle: log-likelihood + log p + volume, less what the data take from the volume.
    pub log_weight: Vec<f64>,
    /// How far a log weight may fall short of the best.
    pub ruled_out: f64,
    /// Degrees of freedom that the prior leaves open.
    pub open: f64,
}

impl Judged {
    /// log w = log p(y | x) + M - 1/2 log det(1 + e^2 J J^T) of `images`, M what the prior holds about the image ([`Plausibility::log_mass`]), up to a constant.
    /// e is the error of the denoised image at the first level, where every structure is still open, so that the determinant is what the data take from the volume
    /// that the prior leaves a structure. Of samples of a posterior under a Gaussian prior the mean of log w is the logarithm of the evidence p(y).
    pub fn of(problem: &Problem, images: &Tensor, log_likelihood: &[f64], errors: &[DenoisingError], rng: Philox) -> Result<Self> {
        let Plausibility { log_prior, log_mass, open } = log_prior(problem, images, [TOP, BOTTOM], rng)?;
        let log_weight = (0..images.draws())
            .into_par_iter()
            .map(|i| {
                let image = images.item(i);
                let error = error_at(errors, problem, TOP * problem.pixel_range(), image);
                let at = checked(problem.likelihood.residual_under_noise(image, error)?)?;
                let information = 0.5 * factor_one_plus(at.gram() * (error * error))?.log_det();
                Ok(log_likelihood[i] + log_mass[i] - information)
            })
            .collect::<Result<_>>()?;
        Ok(Self { log_prior, log_weight, ruled_out: RULED_OUT.max(RULED_OUT_SD * (0.5 * open).sqrt()), open })
    }

    /// Which particles stand ([`populations::standing`]), measured by the best of their population alone, or of the `two`.
    pub fn standing(&self, two: bool) -> ([Vec<usize>; 2], Option<usize>) {
        populations::standing(&self.log_weight, self.ruled_out, two)
    }
}
