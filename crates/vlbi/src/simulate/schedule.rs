//! uv coverage and noise of an array and a schedule.

use crate::earth::{LIGHT_M_S, elevation_rad, mjd_of_date, uv_m};
use crate::{Array, Band, Error, Observation, Result, Visibility};
use num_complex::Complex64;

/// Efficiency of two-bit sampling (Thompson, Moran & Swenson 2017, table 8.1, at the Nyquist rate).
const TWO_BIT_EFFICIENCY: f64 = 0.88;
/// More visibilities than this are taken for a mistake in the settings.
const MAX_VISIBILITIES: f64 = 5e7;

/// When and what an array observes.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Name of the source.
    pub source: String,
    /// Right ascension, degrees.
    pub ra_deg: f64,
    /// Declination, degrees.
    pub dec_deg: f64,
    /// Start, modified Julian day (UTC).
    pub start_mjd: f64,
    /// Time from the start of the first scan to the end, hours.
    pub hours: f64,
    /// Length of a scan, seconds.
    pub scan_s: f64,
    /// Pause between scans, seconds.
    pub gap_s: f64,
    /// Integration time of one visibility, seconds; a scan holds as many as fit whole, at least one.
    pub integration_s: f64,
    /// The bands.
    pub bands: Vec<Band>,
    /// Replaces the lowest elevation of all stations, degrees.
    pub elevation_min_deg: Option<f64>,
}

/// Reads `YYYY-MM-DDTHH:MM:SS` (UTC; the time may be shorter or absent) as a modified Julian day.
///
/// # Errors
/// The text is no such date.
pub fn parse_start_mjd(text: &str) -> Result<f64> {
    mjd_of_date(text)
        .ok_or_else(|| Error::Invalid(format!("found --start {text:?}, expected a date, for example 2017-04-06T00:30:00 (UTC)")))
}

/// Standard deviation of each part of a Stokes I visibility, Jy: sqrt(S1 S2 / (2 B t)) / 0.88 for one hand (Thompson, Moran & Swenson
/// 2017, section 6.2), and 1/sqrt(2) of that for the mean of two hands.
pub fn baseline_sigma_jy(sefd1_jy: f64, sefd2_jy: f64, bandwidth_hz: f64, integration_s: f64) -> f64 {
    (sefd1_jy * sefd2_jy / (2.0 * bandwidth_hz * integration_s)).sqrt() / TWO_BIT_EFFICIENCY / 2f64.sqrt()
}

impl Schedule {
    /// The observation that the array makes: all baselines whose two stations see the source in the middle of an integration, with the
    /// noise of their SEFDs (opacity is not modelled) and visibilities 0, to be given to [`super::resimulate`].
    ///
    /// # Errors
    /// Settings that are not positive numbers, more than 5e7 visibilities, or a source that no two stations see.
    pub fn observe(&self, array: &Array) -> Result<Observation> {
        self.check(array)?;
        let stations = array.stations();
        let day = 86_400.0;
        let per_scan = ((self.scan_s / self.integration_s + 1e-9).floor() as usize).max(1);
        let mut o = Observation {
            source: self.source.clone(),
            ra_deg: self.ra_deg,
            dec_deg: self.dec_deg,
            stations,
            bands: self.bands.clone(),
            visibilities: Vec::new(),
            scans: Vec::new(),
            rows: 0,
        };
        let mut scan = 0usize;
        loop {
            let start_s = scan as f64 * (self.scan_s + self.gap_s);
            // A last scan that does not fit is left out, but the first always counts.
            if scan > 0 && start_s + self.scan_s > self.hours * 3600.0 + 1e-6 {
                break;
            }
            scan += 1;
            let before = o.visibilities.len();
            let time = |seconds: f64| self.start_mjd + seconds / day;
            for step in 0..per_scan {
                self.integration(array, time(start_s + (step as f64 + 0.5) * self.integration_s), &mut o);
            }
            if o.visibilities.len() > before {
                let times = o.visibilities[before..].iter().map(|v| v.mjd);
                let (first, last) = times.fold((f64::INFINITY, f64::NEG_INFINITY), |s, t| (s.0.min(t), s.1.max(t)));
                let half = 0.5 * self.integration_s / day;
                o.scans.push((first - half, last + half));
            }
        }
        if o.visibilities.is_empty() {
            return Err(Error::Invalid(format!(
                "no two stations of {} see {} (dec {:.2} deg) within their elevation limits at any time of the schedule: change --start, --hours or the array",
                array.name, self.source, self.dec_deg
            )));
        }
        o.rows = o.visibilities.len();
        o.sort();
        Ok(o)
    }

    fn integration(&self, array: &Array, mjd: f64, o: &mut Observation) {
        let up: Vec<usize> = (0..array.stations.len())
            .filter(|s| {
                let station = &array.stations[*s];
                let (low, high) = array.elevation_limits_deg(station);
                let low = self.elevation_min_deg.unwrap_or(low);
                (low..=high).contains(&elevation_rad(station.position_m, self.ra_deg, self.dec_deg, mjd).to_degrees())
            })
            .collect();
        for (i, &station1) in up.iter().enumerate() {
            for &station2 in &up[i + 1..] {
                let (a, b) = (&array.stations[station1], &array.stations[station2]);
                let (u_m, v_m) = uv_m(a.position_m, b.position_m, self.ra_deg, self.dec_deg, mjd);
                for (band, settings) in self.bands.iter().enumerate() {
                    let per_m = settings.frequency_hz / LIGHT_M_S;
                    o.visibilities.push(Visibility {
                        mjd,
                        integration_s: self.integration_s,
                        station1,
                        station2,
                        u_lambda: u_m * per_m,
                        v_lambda: v_m * per_m,
                        band,
                        value_jy: Complex64::ZERO,
                        sigma_jy: baseline_sigma_jy(a.sefd_jy, b.sefd_jy, settings.bandwidth_hz, self.integration_s),
                    });
                }
            }
        }
    }

    fn check(&self, array: &Array) -> Result<()> {
        let positive = [("--hours", self.hours), ("--scan-s", self.scan_s), ("--integration-s", self.integration_s)];
        let bands =
            self.bands.iter().flat_map(|b| [("--frequency-ghz", b.frequency_hz / 1e9), ("--bandwidth-ghz", b.bandwidth_hz / 1e9)]);
        for (name, value) in positive.into_iter().chain(bands) {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Invalid(format!("found {name} {value}, expected a positive number")));
            }
        }
        if !(self.gap_s.is_finite() && self.gap_s >= 0.0) {
            return Err(Error::Invalid(format!("found --gap-s {}, expected seconds, 0 or more", self.gap_s)));
        }
        if self.bands.is_empty() {
            return Err(Error::Invalid("found no band, expected at least one: give --frequency-ghz".into()));
        }
        if !(-90.0..=90.0).contains(&self.dec_deg) || !self.ra_deg.is_finite() {
            return Err(Error::Invalid(format!(
                "found --ra-deg {} and --dec-deg {} (the image's where they are not given), expected a direction: degrees, declinations of -90 to 90",
                self.ra_deg, self.dec_deg
            )));
        }
        if !(0.0..=100_000.0).contains(&self.start_mjd) {
            return Err(Error::Invalid(format!(
                "found --start at MJD {}, expected 0 to 100000 (the years 1858 to 2132)",
                self.start_mjd
            )));
        }
        let n = array.stations.len() as f64;
        let scans = (self.hours * 3600.0 / (self.scan_s + self.gap_s)).max(1.0);
        let visibilities = scans * (self.scan_s / self.integration_s).max(1.0) * n * (n - 1.0) / 2.0 * self.bands.len() as f64;
        if visibilities > MAX_VISIBILITIES {
            return Err(Error::Invalid(format!(
                "the schedule makes up to {visibilities:.0} visibilities, expected at most {MAX_VISIBILITIES:.0}: lengthen --integration-s or shorten --hours"
            )));
        }
        Ok(())
    }
}
