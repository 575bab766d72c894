use super::config::{levels, normal, positive};
use crate::{Error, Precond, Result};
use serde::{Deserialize, Serialize};

/// Consistency training: the network at one noise level is to say what it says one level lower on the same path (Song et al. 2023,
/// arXiv:2303.01469), with the grid, weights and metric of Song and Dhariwal 2023 (arXiv:2310.14189, table 1).
///
/// Levels are those of Karras et al. 2022 with rho = 7 between `sigma_min` and `sigma_max`. The path is x0 + sigma eps with one eps (consistency
/// training) or, with a teacher, a step of Heun's method along its probability flow (consistency distillation, algorithm 2 of the former).
/// The lower side has the present parameters and no gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consistency {
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// The lowest level, where the model is the identity.
    pub sigma_min: f64,
    /// The highest level.
    pub sigma_max: f64,
    /// Mean of ln sigma; a value beyond the levels counts to the outermost interval.
    pub p_mean: f64,
    /// Standard deviation of ln sigma.
    pub p_std: f64,
    /// Intervals between levels at the start; they double evenly over `growth_images`, up to `last_intervals`.
    pub first_intervals: usize,
    /// Intervals at the end.
    pub last_intervals: usize,
    /// Images of the run at which the last doubling has had its share.
    pub growth_images: u64,
    /// SHA-256 of the teacher, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_sha256: Option<String>,
}

/// Of the levels' spacing.
const RHO: f64 = 7.0;
/// The pseudo-Huber metric is quadratic below this RMS of a pixel: c = 0.00054 sqrt(d) for d values an image.
const HUBER: f64 = 0.00054;
/// The noise value of the network is this times ln sigma, as for the EDM loss, from whose networks a run may go on.
const NOISE_FACTOR: f64 = 0.25;

impl Consistency {
    /// As Song and Dhariwal set it, growing over this many images.
    pub fn new(growth_images: u64) -> Self {
        Self {
            sigma_data: 0.5,
            sigma_min: 0.002,
            sigma_max: 80.0,
            p_mean: -1.1,
            p_std: 2.0,
            first_intervals: 10,
            last_intervals: 1280,
            growth_images,
            teacher_sha256: None,
        }
    }

    pub(super) fn precond(&self) -> Precond {
        Precond::Consistency { sigma_data: self.sigma_data, sigma_min: self.sigma_min, noise_factor: NOISE_FACTOR }
    }

    /// Whether a network of this preconditioning makes a start: the same, or that of the EDM loss for the same data, from which it differs
    /// near `sigma_min` alone.
    pub(super) fn goes_on_from(&self, precond: &Precond) -> bool {
        *precond == self.precond() || *precond == Precond::Edm { sigma_data: self.sigma_data }
    }

    pub(super) fn validate(&self) -> Result<()> {
        positive("sigma_data", self.sigma_data)?;
        levels(self.sigma_min, self.sigma_max)?;
        normal(self.p_mean, self.p_std)?;
        let (first, last) = (self.first_intervals, self.last_intervals);
        if !(1 <= first && first <= last && last <= 1 << 20) {
            return Err(Error::Invalid(format!(
                "first_intervals is {first} and last_intervals {last}, expected at least 1, no more than the last and at most 1048576"
            )));
        }
        Ok(())
    }

    /// The number of intervals after `seen` images of the run.
    pub(super) fn intervals(&self, seen: u64) -> usize {
        let stages = (self.last_intervals as f64 / self.first_intervals as f64).log2() + 1.0;
        let doublings = (stages * seen as f64 / self.growth_images.max(1) as f64) as i32;
        (self.first_intervals as f64 * 2f64.powi(doublings.min(30))).min(self.last_intervals as f64) as usize
    }

    /// Place of `sigma` among `intervals`, 0 at the lowest level.
    fn place(&self, sigma: f64, intervals: usize) -> f64 {
        let [low, high, at] = [self.sigma_min, self.sigma_max, sigma].map(|s| s.powf(1.0 / RHO));
        intervals as f64 * (at - low) / (high - low)
    }

    /// Level `i` of `intervals`.
    fn level(&self, i: f64, intervals: usize) -> f64 {
        let [low, high] = [self.sigma_min, self.sigma_max].map(|s| s.powf(1.0 / RHO));
        (low + i / intervals as f64 * (high - low)).powf(RHO)
    }

    /// The upper level of the interval in which ln sigma falls.
    pub(super) fn upper(&self, normal: f64, seen: u64) -> f64 {
        let intervals = self.intervals(seen);
        let within = self.place((self.p_mean + self.p_std * normal).exp(), intervals).floor();
        self.level(within.clamp(0.0, intervals as f64 - 1.0) + 1.0, intervals)
    }

    /// The lower level of the interval with this upper one.
    pub(super) fn lower(&self, upper: f64, seen: u64) -> f64 {
        let intervals = self.intervals(seen);
        self.level((self.place(upper, intervals).round() - 1.0).max(0.0), intervals)
    }

    /// Value and derivative by the mean square over pixels of the metric between neighbours: sqrt(square + c^2) - c over the distance of the
    /// levels.
    pub(super) fn metric(square: f64, [upper, lower]: [f64; 2]) -> (f64, f64) {
        let root = square.sqrt().hypot(HUBER);
        ((root - HUBER) / (upper - lower), 0.5 / root / (upper - lower))
    }
}
