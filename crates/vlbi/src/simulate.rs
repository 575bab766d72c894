//! Simulated observations: an image through the uv coverage of a file or of an array and a schedule, with noise, gains and phases.
//!
//! V_ij = exp(g_i + g_j + i (phi_i - phi_j)) * sum I exp(+2 pi i (u l + v m)) P(u) P(v) + n, n ~ N(0, sigma^2) in each part.
//!
//! - **Log-gains** g of a station: sigma_s (sqrt(1 - f) a_s + sqrt(f) b_(s,scan)), a and b standard normal, f = 1/2: half of the
//!   variance is constant, half changes from scan to scan, and the whole has the station's prior sigma_s. All bands share them.
//! - **Phases** phi: uniform per station, scan and band (the atmosphere); constant within a scan, as after fringe fitting.
//! - The noise is that of the recorded sigma and is not scaled by the gains.
//! - Every number comes from [`Philox`] by seed, station, scan, frequency of the band or visibility: nothing depends on threads or order, and files of
//!   different bands that are made with one seed share their log-gains but neither phases nor noise.

mod model;
mod schedule;
#[cfg(test)]
mod tests;

pub use model::SourceImage;
pub use schedule::{Schedule, baseline_sigma_jy, parse_start_mjd};

use crate::{Error, GainPrior, Observation, Result};
use halation_compute::Philox;
use num_complex::Complex64;
use serde::{Deserialize, Serialize};

/// Share of a log-gain's variance that changes from scan to scan.
pub const SCAN_SHARE: f64 = 0.5;

/// What happens to the visibilities of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Corruption {
    /// Add thermal noise of the recorded sigma.
    pub noise: bool,
    /// Multiply by station gains: the prior of their logarithms, by station name.
    pub gains: Option<GainPrior>,
    /// Turn by station phases.
    pub phases: bool,
    /// Seed of everything.
    pub seed: u64,
}

impl Corruption {
    /// Noise, gains of the EHT's amplitude budget and phases.
    pub fn all(seed: u64) -> Self {
        Self { noise: true, gains: Some(GainPrior::default()), phases: true, seed }
    }

    /// The visibilities of the image as they are.
    pub fn none() -> Self {
        Self { noise: false, gains: None, phases: false, seed: 0 }
    }
}

/// What was done to the visibilities, to be kept beside the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// The seed.
    pub seed: u64,
    /// Whether thermal noise was added.
    pub noise: bool,
    /// Names of the stations.
    pub stations: Vec<String>,
    /// Scan limits (start, end), modified Julian days.
    pub scans_mjd: Vec<(f64, f64)>,
    /// Log amplitude gain by station, then scan; zeros without gains.
    pub log_gain: Vec<Vec<f64>>,
    /// Phase in radians by band, station, then scan; zeros without phases.
    pub phase_rad: Vec<Vec<Vec<f64>>>,
}

impl Truth {
    fn draw(o: &Observation, c: &Corruption) -> Self {
        let scans = o.scans.len();
        let log_gain = |s: usize| {
            let Some(prior) = &c.gains else { return vec![0.0; scans] };
            let sigma = prior.sigma(&o.stations[s].name);
            let mut numbers = Philox::new(c.seed).stream(1).sequence(s as u64, 0);
            let constant = numbers.normal();
            (0..scans).map(|_| sigma * ((1.0 - SCAN_SHARE).sqrt() * constant + SCAN_SHARE.sqrt() * numbers.normal())).collect()
        };
        let phase = |band: usize, s: usize| {
            let mut numbers = Philox::new(c.seed).stream(2).sequence(s as u64, frequency_mhz(o, band));
            (0..scans).map(|_| if c.phases { numbers.range(-std::f64::consts::PI, std::f64::consts::PI) } else { 0.0 }).collect()
        };
        let stations = 0..o.stations.len();
        Self {
            seed: c.seed,
            noise: c.noise,
            stations: o.stations.iter().map(|s| s.name.clone()).collect(),
            scans_mjd: o.scans.clone(),
            log_gain: stations.clone().map(log_gain).collect(),
            phase_rad: (0..o.bands.len()).map(|band| stations.clone().map(|s| phase(band, s)).collect()).collect(),
        }
    }

    /// g_i g_j* of a baseline.
    pub fn gain(&self, band: usize, scan: usize, station1: usize, station2: usize) -> Complex64 {
        let phase = &self.phase_rad[band];
        Complex64::from_polar(
            (self.log_gain[station1][scan] + self.log_gain[station2][scan]).exp(),
            phase[station1][scan] - phase[station2][scan],
        )
    }
}

/// What tells the random numbers of bands apart, be they in one file or in several.
fn frequency_mhz(o: &Observation, band: usize) -> u32 {
    (o.bands[band].frequency_hz * 1e-6).round() as u32
}

/// The scan that holds a time: the one it lies in, otherwise the nearest.
fn scan_of(scans: &[(f64, f64)], mjd: f64) -> usize {
    let next = scans.partition_point(|s| s.0 <= mjd);
    match next {
        0 => 0,
        n if n == scans.len() || mjd <= scans[n - 1].1 || mjd - scans[n - 1].1 <= scans[n].0 - mjd => n - 1,
        n => n,
    }
}

/// The observation `like` made of another sky: same times, baselines, bands and sigmas, the visibilities of `image`.
///
/// # Errors
/// The image holds pixels that are not finite or nothing at all; `like` holds no visibilities or no scans.
pub fn resimulate(image: &SourceImage, like: &Observation, corruption: &Corruption) -> Result<(Observation, Truth)> {
    image.check()?;
    if like.visibilities.is_empty() || like.scans.is_empty() {
        return Err(Error::Invalid("found no visibilities or no scans to simulate".into()));
    }
    let truth = Truth::draw(like, corruption);
    let mut out = like.clone();
    let model = image.visibilities(&like.visibilities);
    for (i, (v, model)) in out.visibilities.iter_mut().zip(model).enumerate() {
        v.value_jy = model;
        if corruption.gains.is_some() || corruption.phases {
            v.value_jy *= truth.gain(v.band, scan_of(&like.scans, v.mjd), v.station1, v.station2);
        }
        if corruption.noise {
            let mut numbers = Philox::new(corruption.seed).stream(3).sequence(i as u64, frequency_mhz(like, v.band));
            v.value_jy += Complex64::new(numbers.normal(), numbers.normal()) * v.sigma_jy;
        }
    }
    Ok((out, truth))
}
