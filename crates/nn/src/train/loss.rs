use super::config::{levels, normal, positive};
use super::consistency::Consistency;
use super::images::Level;
use crate::precond::{combined, scaled};
use crate::schedule::{DiscreteSchedule, VpSchedule};
use crate::{Coefficients, Precond, Result};
use halation_compute::Tensor;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What the network F learns to predict, at which noise levels and with which weight.
///
/// All but the last are E w(sigma) |D(x0 + sigma eps, sigma) - x0|^2 for the denoiser D that the loss's own preconditioning makes of F. D is affine in F
/// with slope c_out, so w = 1 / c_out^2 makes it E |F - target|^2, the form in which the papers state it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "kebab-case")]
pub enum Loss {
    /// Karras et al. 2022 (arXiv:2206.00364, eq. 8): target of unit variance for data of standard deviation `sigma_data`, ln sigma normal.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
        /// Mean of ln sigma.
        p_mean: f64,
        /// Standard deviation of ln sigma.
        p_std: f64,
    },
    /// Ho et al. 2020 (arXiv:2006.11239, eq. 14): the noise eps of a process in discrete time, all of its steps alike.
    Eps(DiscreteSchedule),
    /// Liu et al. 2022 (arXiv:2209.03003, eq. 1): the velocity x0 - eps of the path t x0 + (1 - t) eps, t uniform in [0.001, 0.999]. The ends
    /// are left out since sigma is infinite at one and x0 = x up to rounding at the other.
    RectifiedFlow,
    /// Denoising score matching of the variance-exploding process (Song et al. 2021, arXiv:2011.13456, eq. 7 with weight sigma^2): the score
    /// times sigma, ln sigma uniform.
    Ve {
        /// The smallest sigma.
        sigma_min: f64,
        /// The largest sigma.
        sigma_max: f64,
    },
    /// Denoising score matching of the variance-preserving process in continuous time (Song et al. 2021, eq. 7 with weight 1 - a^2): the
    /// score times -sqrt(1 - a^2), t uniform in [1e-5, 1].
    Vp,
    /// Not a denoiser, but the end of the path that leads through x.
    Consistency(Consistency),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        match self {
            Loss::Edm { sigma_data, p_mean, p_std } => write!(f, " (sigma_data {sigma_data}, p_mean {p_mean}, p_std {p_std})"),
            Loss::Eps(schedule) => write!(f, " ({:?} noise schedule, {} steps)", schedule.kind(), schedule.steps()),
            Loss::Ve { sigma_min, sigma_max } => write!(f, " (sigma {sigma_min} to {sigma_max})"),
            Loss::Consistency(c) => {
                let (first, last) = (c.first_intervals, c.last_intervals);
                let by = if c.teacher_sha256.is_some() { "with a teacher" } else { "without a teacher" };
                write!(f, " ({by}, sigma {} to {}, {first} to {last} intervals)", c.sigma_min, c.sigma_max)
            }
            Loss::RectifiedFlow | Loss::Vp => Ok(()),
        }
    }
}

/// The part of the path of [`Loss::RectifiedFlow`] at each end that is left out.
const FLOW_END: f64 = 1e-3;

/// Where the time of [`Loss::Vp`] begins: the score diverges at 0.
const VP_START: f64 = 1e-5;

impl Loss {
    /// The EDM loss as its paper sets it.
    pub fn edm() -> Self {
        Loss::Edm { sigma_data: 0.5, p_mean: -1.2, p_std: 1.2 }
    }

    /// As files and options call it.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::Edm { .. } => "edm",
            Loss::Eps(_) => "eps",
            Loss::RectifiedFlow => "rectified-flow",
            Loss::Ve { .. } => "ve",
            Loss::Vp => "vp",
            Loss::Consistency(_) => "consistency",
        }
    }

    /// How a network trained with it becomes a denoiser.
    pub fn precond(&self) -> Precond {
        match self {
            Loss::Edm { sigma_data, .. } => Precond::Edm { sigma_data: *sigma_data },
            Loss::Eps(schedule) => Precond::Eps(schedule.clone()),
            Loss::RectifiedFlow => Precond::RectifiedFlow { logarithmic: false },
            // Training states are x itself, whatever the range of its values.
            Loss::Ve { .. } => Precond::Ve { scale: 1.0 },
            Loss::Vp => Precond::Vp,
            Loss::Consistency(c) => c.precond(),
        }
    }

    /// Checks each setting.
    ///
    /// # Errors
    /// Names the setting, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        match self {
            Loss::Edm { sigma_data, p_mean, p_std } => {
                positive("sigma_data", *sigma_data)?;
                normal(*p_mean, *p_std)?;
            }
            Loss::Ve { sigma_min, sigma_max } => levels(*sigma_min, *sigma_max)?,
            Loss::Consistency(c) => c.validate()?,
            Loss::Eps(_) | Loss::RectifiedFlow | Loss::Vp => {}
        }
        Ok(())
    }

    /// Whether a network of this preconditioning makes a start.
    pub(super) fn goes_on_from(&self, precond: &Precond) -> bool {
        match self {
            Loss::Consistency(c) => c.goes_on_from(precond),
            _ => *precond == self.precond(),
        }
    }

    /// The noise level of an image after `seen` images of the run.
    pub(super) fn sigma(&self, level: Level, seen: u64) -> f64 {
        match self {
            Loss::Edm { p_mean, p_std, .. } => (p_mean + p_std * level.normal).exp(),
            Loss::Eps(schedule) => schedule.sigma((level.uniform * schedule.steps() as f64) as usize),
            Loss::RectifiedFlow => {
                let t = FLOW_END + (1.0 - 2.0 * FLOW_END) * level.uniform;
                (1.0 - t) / t
            }
            Loss::Ve { sigma_min, sigma_max } => sigma_min * (sigma_max / sigma_min).powf(level.uniform),
            Loss::Vp => VpSchedule::default().sigma(VP_START + (1.0 - VP_START) * level.uniform),
            Loss::Consistency(c) => c.upper(level.normal, seen),
        }
    }

    /// The noise level of the image that the network is to give at `sigma`: none but for a consistency model.
    pub(super) fn lower(&self, sigma: f64, seen: u64) -> f64 {
        match self {
            Loss::Consistency(c) => c.lower(sigma, seen),
            _ => 0.0,
        }
    }

    /// w(sigma).
    fn weight(&self, sigma: f64, c: &Coefficients) -> f64 {
        match self {
            // Also 1 / c_out^2, but in the order of operations on which the bits of runs rest.
            Loss::Edm { sigma_data, .. } => (sigma * sigma + sigma_data * sigma_data) / (sigma * sigma_data).powi(2),
            _ => c.out.powi(-2),
        }
    }

    /// The loss of one draw per pixel, and the gradient of the mean over a batch of `batch` such losses with respect to D, times c_out: that with respect to F
    /// where D = c_skip x + c_out F. `c` are the preconditioning's coefficients at `sigma`, `target` is what D is to be: x0, or that of a consistency model at
    /// `lower`.
    pub(super) fn gradient_and_value(
        &self,
        [target, denoised]: [&Tensor; 2],
        [sigma, lower]: [f32; 2],
        c: &Coefficients,
        batch: f64,
    ) -> (Tensor, f64) {
        let residual = combined(denoised, target, std::iter::once((1.0, -1.0)));
        let pixels = target.item_len() as f64;
        let square: f64 = residual.data().iter().map(|r| (*r as f64).powi(2)).sum();
        if let Loss::Consistency(_) = self {
            let (value, slope) = Consistency::metric(square / pixels, [sigma, lower].map(f64::from));
            return (scaled(&residual, std::iter::once(2.0 * slope * c.out / (pixels * batch))), value);
        }
        let weight = self.weight(sigma as f64, c);
        let factor = 2.0 * weight * c.out / (pixels * batch);
        (scaled(&residual, std::iter::once(factor)), weight * square / pixels)
    }
}

/// Settings of runs from before there was a choice name no loss: theirs is EDM's.
pub(super) fn loss_or_edm<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Loss, D::Error> {
    let mut settings = Map::deserialize(deserializer)?;
    settings.entry("loss").or_insert_with(|| "edm".into());
    Loss::deserialize(Value::Object(settings)).map_err(serde::de::Error::custom)
}
