//! From an observation to the visibilities that a likelihood uses: averaged, with systematic noise, without intra-site and faint ones.

use crate::{Band, Error, INTRA_SITE_M, Observation, PreparationReport, Result, Station, Visibility, ZERO_BASELINE_LAMBDA};
use num_complex::Complex64;
use std::collections::BTreeMap;
use std::ops::Range;

const SECOND_DAYS: f64 = 1.0 / 86_400.0;

/// How to prepare an observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrepareSettings {
    /// Systematic noise as a fraction f of the averaged amplitude: sigma^2 += (f |V|)^2.
    pub systematic: f64,
    /// Averaged visibilities with |V| / sigma below this are dropped; 0 keeps all. Closures are Gaussian only above about 3.
    pub min_snr: f64,
    /// Stations closer than this are one site: their baseline sees the total flux, not the structure.
    /// Metres.
    pub same_site_m: f64,
    /// Projected length below which a baseline counts as intra-site when a station's position is unknown.
    /// Wavelengths.
    pub same_site_lambda: f64,
}

impl Default for PrepareSettings {
    fn default() -> Self {
        Self { systematic: 0.01, min_snr: 3.0, same_site_m: INTRA_SITE_M, same_site_lambda: ZERO_BASELINE_LAMBDA }
    }
}

/// One integration: what was observed in one band during one scan. Closures and gains never reach beyond it.
#[derive(Clone, Debug, PartialEq)]
pub struct Integration {
    /// Index of the band.
    pub band: usize,
    /// Index of the scan.
    pub scan: usize,
    /// Mean time of its visibilities, modified Julian day.
    pub mjd: f64,
    /// Its visibilities in [`Prepared::visibilities`].
    pub range: Range<usize>,
}

/// Visibilities that are ready for a likelihood.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Name of the source.
    pub source: String,
    /// All stations that the observation lists; visibilities index it.
    pub stations: Vec<Station>,
    /// The bands.
    pub bands: Vec<Band>,
    /// Averaged visibilities, station1 < station2, sorted by integration, then stations; one per baseline and integration.
    pub visibilities: Vec<Visibility>,
    /// The integrations that have a visibility left, sorted by scan, then band.
    pub integrations: Vec<Integration>,
    /// The intra-site visibilities that were set aside: they hold the total flux, extended emission included.
    pub intra_site: Vec<Visibility>,
    /// What was done and counted.
    pub report: PreparationReport,
}

impl Prepared {
    /// The shortest projected baseline between sites, wavelengths.
    pub fn min_baseline_lambda(&self) -> f64 {
        self.visibilities.iter().map(Visibility::baseline_lambda).fold(f64::INFINITY, f64::min)
    }

    /// The visibilities of one integration.
    pub fn of(&self, integration: &Integration) -> &[Visibility] {
        &self.visibilities[integration.range.clone()]
    }

    /// Name of a station.
    pub fn name(&self, station: usize) -> &str {
        &self.stations[station].name
    }
}

/// The steps, in this order: coherent average per scan, band and baseline with inverse variance (V, u, v and time with the weights
/// 1/sigma^2; sigma = 1/sqrt(sum of weights)); sigma^2 += (f |V|)^2, after averaging because before it would average away;
/// intra-site baselines set aside; |V|/sigma below the limit dropped. Each step is counted in the report.
///
/// Two stations are one site when their distance is below `same_site_m`, or, where a position is unknown (all zeros), when the
/// projected baseline is below `same_site_lambda`.
///
/// # Errors
/// Settings out of range, a visibility that is not a number or whose sigma is not positive, a station index beyond the list, and
/// nothing left.
pub fn prepare(observation: &Observation, settings: &PrepareSettings) -> Result<Prepared> {
    check(observation, settings)?;
    let (scans, scan_of) = assign_scans(observation);
    let averaged = average(observation, &scan_of);
    let mut report = PreparationReport::new(observation, settings, scans.len(), averaged.len());
    let mut kept: Vec<(usize, Visibility)> = Vec::new();
    let mut intra_site = Vec::new();
    for (scan, mut v) in averaged {
        let amplitude = v.value_jy.norm();
        v.sigma_jy = v.sigma_jy.hypot(settings.systematic * amplitude);
        if same_site(observation, &v, settings) {
            intra_site.push(v);
            continue;
        }
        report.max_baseline_lambda = report.max_baseline_lambda.max(v.baseline_lambda());
        if amplitude < settings.min_snr * v.sigma_jy {
            report.low_snr += 1;
        } else {
            kept.push((scan, v));
        }
    }
    if kept.is_empty() {
        return Err(Error::Invalid(format!(
            "{}: no visibility is left: {} averaged, {} within one site, {} with S/N below {}; expected data between sites: lower the S/N limit or use another file",
            observation.source,
            report.averaged,
            intra_site.len(),
            report.low_snr,
            settings.min_snr
        )));
    }
    kept.sort_by_key(|(scan, v)| (*scan, v.band, v.station1, v.station2));
    let mut integrations: Vec<Integration> = Vec::new();
    for (k, (scan, v)) in kept.iter().enumerate() {
        match integrations.last_mut() {
            Some(last) if last.scan == *scan && last.band == v.band => {
                last.mjd += v.mjd;
                last.range.end = k + 1;
            }
            _ => integrations.push(Integration { band: v.band, scan: *scan, mjd: v.mjd, range: k..k + 1 }),
        }
    }
    integrations.iter_mut().for_each(|i| i.mjd /= i.range.len() as f64);
    report.intra_site = intra_site.len();
    report.kept = kept.len();
    report.integrations = integrations.len();
    report.set_zero_baseline_flux(&intra_site);
    let visibilities: Vec<Visibility> = kept.into_iter().map(|(_, v)| v).collect();
    report.count_closures(observation, &visibilities, &integrations);
    Ok(Prepared {
        source: observation.source.clone(),
        stations: observation.stations.clone(),
        bands: observation.bands.clone(),
        visibilities,
        integrations,
        intra_site,
        report,
    })
}

fn check(observation: &Observation, settings: &PrepareSettings) -> Result<()> {
    let PrepareSettings { systematic, min_snr, same_site_m, same_site_lambda } = *settings;
    if !(0.0..1.0).contains(&systematic) {
        return Err(Error::Invalid(format!(
            "systematic noise: found {systematic}, expected a fraction in [0, 1), for example 0.01"
        )));
    }
    for (name, value) in [("S/N limit", min_snr), ("same-site distance", same_site_m), ("same-site baseline", same_site_lambda)] {
        if !value.is_finite() || value < 0.0 {
            return Err(Error::Invalid(format!("{name}: found {value}, expected a number that is not negative")));
        }
    }
    for (row, v) in observation.visibilities.iter().enumerate() {
        let numbers = [v.mjd, v.u_lambda, v.v_lambda, v.value_jy.re, v.value_jy.im];
        if numbers.iter().any(|x| !x.is_finite()) || !v.sigma_jy.is_finite() || v.sigma_jy <= 0.0 {
            return Err(Error::Invalid(format!(
                "{}: visibility {row} at MJD {:.6}: found V = {} Jy, sigma = {} Jy, (u, v) = ({}, {}), expected finite numbers and a positive sigma: flag it",
                observation.source, v.mjd, v.value_jy, v.sigma_jy, v.u_lambda, v.v_lambda
            )));
        }
        if v.station1.max(v.station2) >= observation.stations.len() || v.station1 == v.station2 || v.band >= observation.bands.len()
        {
            return Err(Error::Invalid(format!(
                "{}: visibility {row}: found stations {} and {} and band {}, expected two different ones of {} stations and one of {} bands",
                observation.source,
                v.station1,
                v.station2,
                v.band,
                observation.stations.len(),
                observation.bands.len()
            )));
        }
    }
    Ok(())
}

/// Scan limits without duplicates (files of several bands list the same scans), and the scan of every visibility. Visibilities in
/// no listed scan form their own, parted where the gap exceeds a minute and two integrations.
fn assign_scans(observation: &Observation) -> (Vec<(f64, f64)>, Vec<usize>) {
    let mut listed = observation.scans.clone();
    listed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut scans: Vec<(f64, f64)> = Vec::new();
    for (start, end) in listed {
        match scans.last_mut() {
            // The same scan as two files give it: their limits differ by integrations, neighbours do not overlap by half.
            Some(last) if last.1 - start > 0.5 * (end - start).min(last.1 - last.0) || (start, end) == *last => {
                last.1 = last.1.max(end);
            }
            _ => scans.push((start, end)),
        }
    }
    let find = |v: &Visibility| {
        let slack = (0.5 * v.integration_s + 1.0) * SECOND_DAYS;
        let distance = |s: &(f64, f64)| (s.0 - v.mjd).max(v.mjd - s.1).max(0.0);
        let near = scans.iter().enumerate().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)))?;
        (distance(near.1) <= slack).then_some(near.0)
    };
    let mut scan_of: Vec<Option<usize>> = observation.visibilities.iter().map(find).collect();
    let mut free: Vec<usize> = (0..scan_of.len()).filter(|&k| scan_of[k].is_none()).collect();
    free.sort_by(|&a, &b| observation.visibilities[a].mjd.total_cmp(&observation.visibilities[b].mjd));
    let mut previous: Option<f64> = None;
    for k in free {
        let v = &observation.visibilities[k];
        let gap_days = (2.0 * v.integration_s).max(60.0) * SECOND_DAYS;
        if previous.is_none_or(|before| v.mjd - before > gap_days) {
            scans.push((v.mjd, v.mjd));
        }
        previous = Some(v.mjd);
        scan_of[k] = Some(scans.len() - 1);
        if let Some(last) = scans.last_mut() {
            last.1 = v.mjd;
        }
    }
    // Numbered by time whatever the list was.
    let mut order: Vec<usize> = (0..scans.len()).collect();
    order.sort_by(|&a, &b| scans[a].0.total_cmp(&scans[b].0));
    let mut rank = vec![0; scans.len()];
    order.iter().enumerate().for_each(|(new, &old)| rank[old] = new);
    let sorted = order.iter().map(|&k| scans[k]).collect();
    (sorted, scan_of.into_iter().map(|s| s.map_or(0, |s| rank[s])).collect())
}

/// Inverse-variance averages per (scan, band, baseline), turned so that station1 < station2.
fn average(observation: &Observation, scan_of: &[usize]) -> Vec<(usize, Visibility)> {
    #[derive(Default)]
    struct Sum {
        weight: f64,
        value: Complex64,
        u: f64,
        v: f64,
        days: f64,
        integration_s: f64,
    }
    let origin = observation.visibilities.first().map_or(0.0, |v| v.mjd);
    let mut sums: BTreeMap<(usize, usize, usize, usize), Sum> = BTreeMap::new();
    for (v, &scan) in observation.visibilities.iter().zip(scan_of) {
        let v = v.ordered();
        let sum = sums.entry((scan, v.band, v.station1, v.station2)).or_default();
        let weight = v.sigma_jy.powi(-2);
        sum.weight += weight;
        sum.value += weight * v.value_jy;
        sum.u += weight * v.u_lambda;
        sum.v += weight * v.v_lambda;
        // Relative to the first time, or the day number's digits would be lost in the products.
        sum.days += weight * (v.mjd - origin);
        sum.integration_s += v.integration_s;
    }
    sums.into_iter()
        .map(|((scan, band, station1, station2), s)| {
            let visibility = Visibility {
                mjd: origin + s.days / s.weight,
                integration_s: s.integration_s,
                station1,
                station2,
                u_lambda: s.u / s.weight,
                v_lambda: s.v / s.weight,
                band,
                value_jy: s.value / s.weight,
                sigma_jy: s.weight.sqrt().recip(),
            };
            (scan, visibility)
        })
        .collect()
}

fn same_site(observation: &Observation, v: &Visibility, settings: &PrepareSettings) -> bool {
    let [a, b] = [v.station1, v.station2].map(|s| observation.stations[s].position_m);
    if a == [0.0; 3] || b == [0.0; 3] {
        return v.baseline_lambda() < settings.same_site_lambda;
    }
    a.iter().zip(&b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt() < settings.same_site_m
}

impl Visibility {
    /// The same visibility with station1 < station2: turning a baseline changes the sign of (u, v) and conjugates V.
    pub fn ordered(self) -> Self {
        if self.station1 < self.station2 {
            return self;
        }
        Self {
            station1: self.station2,
            station2: self.station1,
            u_lambda: -self.u_lambda,
            v_lambda: -self.v_lambda,
            value_jy: self.value_jy.conj(),
            ..self
        }
    }

    /// |V| / sigma.
    pub fn snr(&self) -> f64 {
        self.value_jy.norm() / self.sigma_jy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{observation, visibility};

    #[test]
    fn inverse_variance_average_per_scan_and_band() {
        let mut o = observation(3, 2);
        o.scans = vec![(10.0, 10.01), (10.0, 10.0101), (10.02, 10.03)];
        o.visibilities = vec![
            visibility(10.001, 0, 1, 0, (2.0, 1.0), (1e9, 2e9), 0.1),
            // The same baseline turned round.
            visibility(10.004, 1, 0, 0, (1.0, -0.5), (-2e9, -2e9), 0.2),
            visibility(10.004, 0, 1, 1, (5.0, 0.0), (1e9, 2e9), 0.1),
            visibility(10.025, 0, 1, 0, (7.0, 0.0), (1e9, 2e9), 0.1),
            // In no scan, twice.
            visibility(10.5, 0, 2, 0, (7.0, 0.0), (1e9, 2e9), 0.1),
            visibility(10.6, 0, 2, 0, (7.0, 0.0), (1e9, 2e9), 0.1),
        ];
        let p = prepare(&o, &PrepareSettings { systematic: 0.0, ..Default::default() }).unwrap();
        assert_eq!(p.visibilities.len(), 5);
        let v = &p.visibilities[0];
        assert!((v.value_jy - Complex64::new((2.0 * 100.0 + 25.0) / 125.0, (100.0 + 0.5 * 25.0) / 125.0)).norm() < 1e-14);
        assert!((v.u_lambda - 1.2e9).abs() < 1e-3 && (v.v_lambda - 2e9).abs() < 1e-3);
        assert!((v.sigma_jy - 125f64.sqrt().recip()).abs() < 1e-15);
        assert!((v.mjd - 10.0016).abs() < 1e-9);
        assert_eq!(p.integrations.iter().map(|i| (i.scan, i.band)).collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn systematic_noise_is_added_after_averaging_and_counts_for_the_limit() {
        let mut o = observation(4, 1);
        o.visibilities = (0..100).map(|k| visibility(10.0 + 1e-5 * k as f64, 0, 1, 0, (3.0, 4.0), (1e9, 0.0), 0.1)).collect();
        o.visibilities.push(visibility(10.0, 2, 3, 0, (0.29, 0.0), (1e9, 0.0), 0.1));
        let p = prepare(&o, &PrepareSettings { systematic: 0.1, ..Default::default() }).unwrap();
        assert_eq!((p.visibilities.len(), p.report.low_snr), (1, 1));
        assert!((p.visibilities[0].sigma_jy - 0.01f64.hypot(0.5)).abs() < 1e-12);
    }

    #[test]
    fn intra_site_by_distance_or_by_projected_length() {
        let mut o = observation(4, 1);
        o.stations[1].position_m = [o.stations[0].position_m[0] + 2e3, o.stations[0].position_m[1], o.stations[0].position_m[2]];
        o.stations[3].position_m = [0.0; 3];
        o.visibilities = vec![
            visibility(10.0, 0, 1, 0, (1.2, 0.0), (1e6, 1e6), 0.01),
            visibility(10.0, 0, 2, 0, (0.5, 0.0), (5e7, 0.0), 0.01),
            visibility(10.0, 0, 3, 0, (0.5, 0.0), (5e7, 0.0), 0.01),
            visibility(10.0, 2, 3, 0, (0.5, 0.0), (5e9, 0.0), 0.01),
        ];
        let p = prepare(&o, &PrepareSettings::default()).unwrap();
        assert_eq!(p.intra_site.len(), 2);
        assert_eq!(p.visibilities.iter().map(|v| (v.station1, v.station2)).collect::<Vec<_>>(), [(0, 2), (2, 3)]);
        assert!((p.report.zero_baseline_flux_jy.unwrap() - 0.85).abs() < 1e-12, "median of 1.2 and 0.5");
    }

    #[test]
    fn bad_input_is_an_error() {
        let mut o = observation(3, 1);
        let message = |o: &Observation, s: &PrepareSettings| prepare(o, s).unwrap_err().to_string();
        assert!(message(&o, &PrepareSettings::default()).contains("no visibility is left"));
        o.visibilities = vec![visibility(10.0, 0, 1, 0, (f64::NAN, 0.0), (1e9, 0.0), 0.1)];
        assert!(message(&o, &PrepareSettings::default()).contains("visibility 0"));
        o.visibilities = vec![visibility(10.0, 0, 7, 0, (1.0, 0.0), (1e9, 0.0), 0.1)];
        assert!(message(&o, &PrepareSettings::default()).contains("3 stations"));
        assert!(message(&o, &PrepareSettings { systematic: -1.0, ..Default::default() }).contains("systematic"));
    }
}
