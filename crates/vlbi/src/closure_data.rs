use crate::closures::{closure_amplitude_basis, cycle_basis, relative_variance};
use crate::integration_terms::wrap;
use crate::{Prepared, Visibility};
use num_complex::Complex64;

/// One closure phase of the complete set.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosurePhase {
    /// The stations in the order of the walk: three for a triangle, more where the baselines form none.
    pub stations: Vec<usize>,
    /// Index of the integration.
    pub integration: usize,
    /// Index of the band.
    pub band: usize,
    /// Mean time, modified Julian day.
    pub mjd: f64,
    /// The longest of its baselines, wavelengths.
    pub longest_baseline_lambda: f64,
    /// Observed closure phase in [-pi, pi].
    pub value_rad: f64,
    /// Its standard deviation by linear propagation, sqrt(sum sigma^2 / |V|^2).
    pub sigma_rad: f64,
    legs: Vec<(usize, f64)>,
}

/// One log closure amplitude of the complete set: an integer combination of ln|V| without station gains.
#[derive(Clone, Debug, PartialEq)]
pub struct LogClosureAmplitude {
    /// (index in [`Prepared::visibilities`], weight).
    pub legs: Vec<(usize, f64)>,
    /// Index of the integration.
    pub integration: usize,
    /// Index of the band.
    pub band: usize,
    /// Mean time, modified Julian day.
    pub mjd: f64,
    /// The longest of its baselines, wavelengths.
    pub longest_baseline_lambda: f64,
    /// Observed value.
    pub value: f64,
    /// Its standard deviation by linear propagation.
    pub sigma: f64,
}

/// All closure quantities of an observation, with their values. They are complete, not independent in noise: the likelihood
/// whitens them with their covariance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClosureData {
    /// Closure phases.
    pub phases: Vec<ClosurePhase>,
    /// Log closure amplitudes.
    pub amplitudes: Vec<LogClosureAmplitude>,
}

impl ClosureData {
    /// The closure quantities of all integrations.
    pub fn of(prepared: &Prepared) -> Self {
        let all = &prepared.visibilities;
        let mut out = Self::default();
        for (index, integration) in prepared.integrations.iter().enumerate() {
            let (first, band, mjd) = (integration.range.start, integration.band, integration.mjd);
            let global = |legs: Vec<(usize, f64)>| legs.into_iter().map(|(k, w)| (first + k, w)).collect::<Vec<_>>();
            for cycle in cycle_basis(prepared.of(integration)) {
                let legs = global(cycle.legs);
                out.phases.push(ClosurePhase {
                    stations: cycle.stations,
                    integration: index,
                    band,
                    mjd,
                    longest_baseline_lambda: longest(all, &legs),
                    value_rad: wrap(sum(&legs, |k| all[k].value_jy.arg())),
                    sigma_rad: deviation(all, &legs),
                    legs,
                });
            }
            for amplitude in closure_amplitude_basis(prepared.of(integration)) {
                let legs = global(amplitude.legs);
                out.amplitudes.push(LogClosureAmplitude {
                    integration: index,
                    band,
                    mjd,
                    longest_baseline_lambda: longest(all, &legs),
                    value: sum(&legs, |k| all[k].value_jy.norm().ln()),
                    sigma: deviation(all, &legs),
                    legs,
                });
            }
        }
        out
    }

    /// Closure phases of model visibilities, each within half a turn of the observed one.
    pub fn model_phases_rad(&self, model: &[Complex64]) -> Vec<f64> {
        let near = |c: &ClosurePhase| c.value_rad + wrap(sum(&c.legs, |k| model[k].arg()) - c.value_rad);
        self.phases.iter().map(near).collect()
    }

    /// Log closure amplitudes of model visibilities.
    pub fn model_log_amplitudes(&self, model: &[Complex64]) -> Vec<f64> {
        self.amplitudes.iter().map(|c| sum(&c.legs, |k| model[k].norm().ln())).collect()
    }
}

fn sum(legs: &[(usize, f64)], of: impl Fn(usize) -> f64) -> f64 {
    legs.iter().map(|&(k, w)| w * of(k)).sum()
}

fn deviation(all: &[Visibility], legs: &[(usize, f64)]) -> f64 {
    legs.iter().map(|&(k, w)| w * w * relative_variance(&all[k])).sum::<f64>().sqrt()
}

fn longest(all: &[Visibility], legs: &[(usize, f64)]) -> f64 {
    legs.iter().map(|&(k, _)| all[k].baseline_lambda()).fold(0.0, f64::max)
}
