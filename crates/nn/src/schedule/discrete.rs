use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use std::fmt;
use std::sync::Arc;

/// Noise variances of a process in discrete time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Betas {
    /// Evenly spaced from 1e-4 to 0.02 for 1000 steps (Ho et al. 2020, arXiv:2006.11239), steeper for fewer.
    Linear,
    /// Square roots evenly spaced from sqrt(0.0015) to sqrt(0.0195) (Rombach et al. 2022, arXiv:2112.10752).
    ScaledLinear,
    /// From cumulative products cos^2 of time (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17), at most 0.999.
    Cosine,
}

/// A variance-preserving process in discrete time, t = 0..T: a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t), alpha_bar the cumulative
/// product of 1 - beta.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct DiscreteSchedule {
    kind: Betas,
    alpha_bar: Arc<[f64]>,
}

impl fmt::Debug for DiscreteSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscreteSchedule").field("kind", &self.kind).field("steps", &self.steps()).finish()
    }
}

/// What settings say of a process, from which the rest follows.
#[derive(Serialize, Deserialize)]
struct Written {
    noise_schedule: Betas,
    diffusion_steps: usize,
}

impl TryFrom<Written> for DiscreteSchedule {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        Self::new(written.noise_schedule, written.diffusion_steps)
    }
}

impl From<DiscreteSchedule> for Written {
    fn from(schedule: DiscreteSchedule) -> Self {
        Self { noise_schedule: schedule.kind(), diffusion_steps: schedule.steps() }
    }
}

impl DiscreteSchedule {
    /// The process with this number of steps.
    ///
    /// # Errors
    /// When that is not 2 to 1,000,000.
    pub fn new(kind: Betas, steps: usize) -> Result<Self> {
        if !(2..=1_000_000).contains(&steps) {
            return Err(Error::Invalid(format!("diffusion_steps is {steps}, expected 2 to 1000000")));
        }
        let along = |i: usize| i as f64 / (steps - 1) as f64;
        let squared_cosine = |t: f64| ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        let beta = |i: usize| match kind {
            Betas::Linear => (1000.0 / steps as f64 * (1e-4 + along(i) * (0.02 - 1e-4))).min(0.999),
            Betas::ScaledLinear => (0.0015f64.sqrt() + along(i) * (0.0195f64.sqrt() - 0.0015f64.sqrt())).powi(2),
            Betas::Cosine => {
                let (t0, t1) = (i as f64 / steps as f64, (i + 1) as f64 / steps as f64);
                (1.0 - squared_cosine(t1) / squared_cosine(t0)).min(0.999)
            }
        };
        let product = |bar: &mut f64, beta: f64| {
            *bar *= 1.0 - beta;
            Some(*bar)
        };
        let alpha_bar = (0..steps).map(beta).scan(1.0, product).collect();
        Ok(Self { kind, alpha_bar })
    }

    /// Which variances.
    pub fn kind(&self) -> Betas {
        self.kind
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// (a, b) at index `t`; the last index beyond the end.
    pub fn coefficients(&self, t: usize) -> (f64, f64) {
        let bar = self.alpha_bar[t.min(self.steps() - 1)];
        (bar.sqrt(), (1.0 - bar).sqrt())
    }

    /// sigma = b / a at index `t`.
    pub fn sigma(&self, t: usize) -> f64 {
        let (a, b) = self.coefficients(t);
        b / a
    }

    /// The time at which the noise-to-signal ratio is `sigma`: linear in ln(sigma) between two indices, the first or last one outside of
    /// them, where no network was trained.
    pub fn time(&self, sigma: f64) -> f64 {
        let below = self.alpha_bar.partition_point(|bar| (1.0 - bar) / bar < sigma * sigma);
        match below {
            0 => 0.0,
            n if n == self.steps() => (n - 1) as f64,
            n => {
                let (low, high) = (self.sigma(n - 1).ln(), self.sigma(n).ln());
                (n - 1) as f64 + (sigma.ln() - low) / (high - low)
            }
        }
    }
}

/// The 1000 noise levels of the improved DDPM preconditioning, falling, without the last one of zero: u_{j-1} = sqrt((u_j^2 + 1) /
/// max(alpha_bar_{j-1} / alpha_bar_j, 0.001) - 1), alpha_bar_j = sin^2(pi/2 j / (M 1.008)) (Karras et al. 2022, arXiv:2206.00364, table 1).
pub fn iddpm_levels() -> Vec<f64> {
    let steps = 1000;
    let bar = |j: usize| (FRAC_PI_2 * j as f64 / (steps as f64 * 1.008)).sin().powi(2);
    let mut levels = vec![0.0f64; steps + 1];
    for j in (1..=steps).rev() {
        levels[j - 1] = ((levels[j].powi(2) + 1.0) / (bar(j - 1) / bar(j)).max(0.001) - 1.0).sqrt();
    }
    levels.truncate(steps);
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The range of sigmas of the DDPM process that everybody quotes, and times there and back.
    #[test]
    fn linear_schedule() {
        let schedule = DiscreteSchedule::new(Betas::Linear, 1000).unwrap();
        assert!(
            (schedule.sigma(0) - 0.0100005).abs() < 1e-6 && (schedule.sigma(999) - 157.4).abs() < 0.05,
            "{}",
            schedule.sigma(999)
        );
        for t in [0, 1, 17, 500, 998, 999] {
            let (a, b) = schedule.coefficients(t);
            assert!((a * a + b * b - 1.0).abs() < 1e-12);
            assert!((schedule.time(schedule.sigma(t)) - t as f64).abs() < 1e-8, "{t}");
        }
        assert_eq!((schedule.time(1e-5), schedule.time(1e5)), (0.0, 999.0));
        let between = schedule.time(schedule.sigma(500) * 1.001);
        assert!(between > 500.0 && between < 501.0);
        assert!(DiscreteSchedule::new(Betas::Cosine, 1).is_err());
    }

    #[test]
    fn iddpm_levels_fall_from_the_published_ends() {
        let levels = iddpm_levels();
        assert_eq!(levels.len(), 1000);
        assert!(levels.windows(2).all(|w| w[0] > w[1]));
        // Karras et al., table 1: sigma_max about 20291, sigma_min about 0.0064.
        assert!(
            (levels[0] / 20291.0 - 1.0).abs() < 1e-2 && (levels[999] / 0.0064 - 1.0).abs() < 0.5,
            "{} {}",
            levels[0],
            levels[999]
        );
    }
}
