//! How the network of any family becomes a denoiser.

mod denoiser;
#[cfg(test)]
mod tests;

pub use denoiser::UNetDenoiser;
pub(crate) use denoiser::{combined, scaled};

use crate::schedule::{DiscreteSchedule, VpSchedule, iddpm_levels};
use std::sync::LazyLock;

/// How a network F becomes a denoiser: D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, arXiv:2206.00364, table 1).
/// Networks of other conventions take a state x_t = a x0 + b eps: x = x_t / a, sigma = b / a, so c_in is a and the rest follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Precond {
    /// Karras et al.'s own, which keeps input and target at unit variance for data of standard deviation `sigma_data`.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// The same with the noise value 250 ln(sigma) of the teachers of consistency models (Song et al. 2023, arXiv:2303.01469).
    EdmTeacher {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// The network predicts the noise of the variance-preserving process; its noise value is 999 t(sigma).
    Vp,
    /// The network predicts the noise with reversed sign, score times sigma, and takes x as it is; its noise value is ln(sigma scale).
    Ve {
        /// 1/2 for networks trained with sigmas of data in 0..1, since x has data in -1..1; 1 for others.
        scale: f64,
    },
    /// Nichol and Dhariwal 2021 (arXiv:2102.09672) as Karras et al. use it: noise values are indices of 1000 levels of a cosine schedule.
    Iddpm,
    /// Song et al. 2023 (arXiv:2303.01469, eq. 5 and appendix C): D(x, sigma_min) = x. Not a denoiser: it leads x to the end of its path.
    Consistency {
        /// Standard deviation of the data.
        sigma_data: f64,
        /// The smallest sigma.
        sigma_min: f64,
        /// The network's noise value over ln(sigma): 250 for published networks.
        noise_factor: f64,
    },
    /// The network predicts the noise of a process in discrete time (Ho et al. 2020, arXiv:2006.11239); its noise value is the time index,
    /// between two indices linear in ln(sigma). Further channels of its output say a variance and are left out.
    Eps(DiscreteSchedule),
    /// The network predicts the velocity eps - x0 of the path x_t = (1 - t) x0 + t eps; its noise value is `time` t.
    Flow {
        /// Factor on t.
        time: f64,
    },
    /// The network predicts the velocity x0 - eps of the path x_t = t x0 + (1 - t) eps (Liu et al. 2022, arXiv:2209.03003); its noise value
    /// is 999 t or, with `logarithmic`, ln(999 t), and its output then has to be divided by 999 t.
    RectifiedFlow {
        /// Whether the network has the form of a variance-exploding one.
        logarithmic: bool,
    },
}

/// The four coefficients at one sigma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor of x.
    pub skip: f64,
    /// Factor of the network's output.
    pub out: f64,
    /// Factor of the network's input.
    pub input: f64,
    /// The network's noise value.
    pub noise: f64,
}

impl Precond {
    /// The coefficients at `sigma`.
    pub fn at(&self, sigma: f64) -> Coefficients {
        // Of networks that predict the noise of a process with a^2 + b^2 = 1.
        let eps = |noise| Coefficients { skip: 1.0, out: -sigma, input: 1.0 / (1.0 + sigma * sigma).sqrt(), noise };
        let edm = |sigma_data: f64, noise| {
            let total = sigma.hypot(sigma_data);
            Coefficients { skip: (sigma_data / total).powi(2), out: sigma * sigma_data / total, input: 1.0 / total, noise }
        };
        match self {
            Precond::Edm { sigma_data } => edm(*sigma_data, sigma.ln() / 4.0),
            Precond::EdmTeacher { sigma_data } => edm(*sigma_data, 250.0 * sigma.ln()),
            Precond::Vp => eps(999.0 * VpSchedule::default().time(sigma)),
            Precond::Ve { scale } => Coefficients { skip: 1.0, out: sigma, input: 1.0, noise: (scale * sigma).ln() },
            Precond::Iddpm => {
                static LEVELS: LazyLock<Vec<f64>> = LazyLock::new(iddpm_levels);
                let last = LEVELS.len() - 1;
                eps((last - nearest(&LEVELS, sigma)) as f64)
            }
            Precond::Consistency { sigma_data, sigma_min, noise_factor } => {
                // Below the smallest sigma the image counts as clean.
                let sigma = sigma.max(*sigma_min);
                let (total, above) = (sigma.hypot(*sigma_data), sigma - sigma_min);
                Coefficients {
                    skip: sigma_data.powi(2) / (above * above + sigma_data * sigma_data),
                    out: above * sigma_data / total,
                    input: 1.0 / total,
                    noise: noise_factor * sigma.ln(),
                }
            }
            Precond::Eps(schedule) => eps(schedule.time(sigma)),
            Precond::Flow { time } => {
                let (a, t) = (1.0 / (1.0 + sigma), sigma / (1.0 + sigma));
                Coefficients { skip: a, out: -t, input: a, noise: time * t }
            }
            Precond::RectifiedFlow { logarithmic } => {
                let (t, rest) = (1.0 / (1.0 + sigma), sigma / (1.0 + sigma));
                let (divisor, noise) = if *logarithmic { (999.0 * t, (999.0 * t).ln()) } else { (1.0, 999.0 * t) };
                Coefficients { skip: t, out: rest / divisor, input: t, noise }
            }
        }
    }
}

/// The index of the level nearest to `sigma`; levels fall.
fn nearest(levels: &[f64], sigma: f64) -> usize {
    let after = levels.partition_point(|level| *level > sigma).min(levels.len() - 1);
    let before = after.saturating_sub(1);
    if (levels[before] - sigma).abs() <= (levels[after] - sigma).abs() { before } else { after }
}
