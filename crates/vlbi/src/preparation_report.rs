use crate::closures::{closure_amplitude_basis, cycle_basis};
use crate::{Integration, Observation, PrepareSettings, Visibility};
use std::fmt;

/// What the preparation of an observation did, step by step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PreparationReport {
    /// Groups in the files, before flagging.
    pub rows: usize,
    /// Unflagged visibilities.
    pub unflagged: usize,
    /// Scans.
    pub scans: usize,
    /// Visibilities after the average per scan, band and baseline.
    pub averaged: usize,
    /// The systematic noise that was added, as a fraction of the amplitude.
    pub systematic: f64,
    /// Averaged visibilities within one site, set aside.
    pub intra_site: usize,
    /// The S/N limit.
    pub min_snr: f64,
    /// Averaged visibilities dropped below that limit.
    pub low_snr: usize,
    /// Visibilities left.
    pub kept: usize,
    /// Integrations (scan and band) with a visibility left.
    pub integrations: usize,
    /// Independent closure phases.
    pub closure_phases: usize,
    /// Independent log closure amplitudes.
    pub log_closure_amplitudes: usize,
    /// The largest number of stations in one integration.
    pub max_stations: usize,
    /// Median |V| of the intra-site baselines: the total flux density, extended emission included, Jy.
    pub zero_baseline_flux_jy: Option<f64>,
    /// Longest projected baseline between sites, before the S/N limit, wavelengths.
    pub max_baseline_lambda: f64,
    /// Largest |V| between sites: the compact flux density is at least about this, Jy.
    pub max_inter_site_flux_jy: f64,
}

impl PreparationReport {
    pub(crate) fn new(observation: &Observation, settings: &PrepareSettings, scans: usize, averaged: usize) -> Self {
        Self {
            rows: observation.rows,
            unflagged: observation.visibilities.len(),
            scans,
            averaged,
            systematic: settings.systematic,
            intra_site: 0,
            min_snr: settings.min_snr,
            low_snr: 0,
            kept: 0,
            integrations: 0,
            closure_phases: 0,
            log_closure_amplitudes: 0,
            max_stations: 0,
            zero_baseline_flux_jy: None,
            max_baseline_lambda: 0.0,
            max_inter_site_flux_jy: 0.0,
        }
    }

    pub(crate) fn set_zero_baseline_flux(&mut self, intra_site: &[Visibility]) {
        let mut amplitudes: Vec<f64> = intra_site.iter().filter(|v| v.snr() >= 3.0).map(|v| v.value_jy.norm()).collect();
        amplitudes.sort_by(f64::total_cmp);
        let n = amplitudes.len();
        self.zero_baseline_flux_jy = (n > 0).then(|| 0.5 * (amplitudes[(n - 1) / 2] + amplitudes[n / 2]));
    }

    pub(crate) fn count_closures(&mut self, observation: &Observation, visibilities: &[Visibility], integrations: &[Integration]) {
        for integration in integrations {
            let part = &visibilities[integration.range.clone()];
            self.closure_phases += cycle_basis(part).len();
            self.log_closure_amplitudes += closure_amplitude_basis(part).len();
            let present = |s: usize| part.iter().any(|v| v.station1 == s || v.station2 == s);
            self.max_stations = self.max_stations.max((0..observation.stations.len()).filter(|&s| present(s)).count());
        }
        self.max_inter_site_flux_jy = visibilities.iter().map(|v| v.value_jy.norm()).fold(0.0, f64::max);
    }
}

impl fmt::Display for PreparationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows, {} unflagged visibilities", self.rows, self.unflagged)?;
        writeln!(f, "{} after averaging over {} scans, per band and baseline", self.averaged, self.scans)?;
        writeln!(f, "systematic noise: {} % of the amplitude", 100.0 * self.systematic)?;
        write!(f, "{} within one site set aside", self.intra_site)?;
        match self.zero_baseline_flux_jy {
            Some(flux) => {
                writeln!(f, " (total flux density {flux:.3} Jy; between sites at most {:.3} Jy)", self.max_inter_site_flux_jy)?
            }
            None => writeln!(f, " (no total flux density; between sites at most {:.3} Jy)", self.max_inter_site_flux_jy)?,
        }
        writeln!(f, "{} with S/N below {} dropped", self.low_snr, self.min_snr)?;
        write!(
            f,
            "{} visibilities in {} integrations left: {} closure phases, {} log closure amplitudes",
            self.kept, self.integrations, self.closure_phases, self.log_closure_amplitudes
        )?;
        if self.log_closure_amplitudes == 0 {
            write!(
                f,
                "\nat most {} stations in one integration: log closure amplitudes need 4, closure phases 3",
                self.max_stations
            )?;
        }
        if self.min_snr < 3.0 {
            write!(f, "\nfaint data kept: closures are Gaussian only above S/N of about 3, the likelihood is approximate below")?;
        }
        Ok(())
    }
}
