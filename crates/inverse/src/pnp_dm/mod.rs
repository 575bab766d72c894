//! `pnp-dm`: split Gibbs (Wu et al. 2024, arXiv 2405.18782) as an annealed, weighted population.
//!
//! At level k the target is pi_k(x, z) proportional to p(x) N(z; x, rho_k^2) L(z), the x of which follows p(x) L_rho(x) with the
//! likelihood seen through a Gaussian of width rho (see `curvature`). Particles carry weights L_{k+1}(x)/L_k(x) from level to level
//! (annealed importance sampling, Neal 2001; resampling, Del Moral et al. 2006), then both conditionals are drawn in turn:
//! z by randomise-then-optimise (Bardsley et al. 2014, exact here), x by a reverse diffusion from rho with the prior's denoiser. At the end the weights L(x)/L_rho(x) take
//! the last level to the posterior itself. Two populations that never meet are compared with each other.
//!
//! All settings follow from the problem: rho falls geometrically from the level at which the likelihood hardly prefers any prior sample
//! (effective sample size 80 %, at least three times the pixel standard deviation of prior samples) to
//! 1/2 / sqrt(largest eigenvalue of J^T J).
//!
//! For linear problems with Gaussian noise: there L_rho(x) is known, and one solve draws z exactly.

mod likelihood_half;
mod prior_half;
mod state;
#[cfg(test)]
mod tests;

pub use state::PnpDmState;

use crate::agreement;
use crate::curvature::{SharedBasis, linearise};
use crate::numeric::{effective, log_sum_exp, systematic};
use crate::populations;
use crate::start::{START_CALLS, sample_prior};
use crate::{Draws, Error, Needs, Plan, Problem, Result, Solver, StepInfo, check_needs};
use halation_compute::{Philox, Tensor};
use halation_nn::schedule::geometric;
use halation_posterior::{Ensemble, OutputKind};
use likelihood_half::{Split, control_variates, likelihood_half, log_likelihood, split};
use prior_half::{CALLS, flat_variance, prior_half};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Settings of the annealed split Gibbs sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PnpDm {
    /// Noise levels of the anneal, of four network calls each.
    pub levels: usize,
    /// Particles of both populations together; none: four for each draw beyond a dozen, at least 32.
    pub population: Option<usize>,
    /// Sweeps at the last level, after the last resampling, until copies have parted.
    pub settle: usize,
    /// A population is resampled when its effective sample size falls below this share.
    pub resample_below: f64,
    /// Smallest rho in units of 1 / sqrt(largest eigenvalue of J^T J).
    pub last_rho: f64,
}

impl Default for PnpDm {
    fn default() -> Self {
        Self { levels: 232, population: None, settle: 8, resample_below: 0.25, last_rho: 0.5 }
    }
}

/// Purposes of random numbers.
const START: u16 = 1;
const LIKELIHOOD_IMAGE: u16 = 2;
const LIKELIHOOD_DATA: u16 = 3;
const PRIOR: u16 = 4;
const RESAMPLE: u16 = 5;
const RELABEL: u16 = 6;

impl PnpDm {
    fn particles(&self, draws: usize) -> Result<usize> {
        let wanted = self.population.unwrap_or_else(|| (4 * draws).saturating_sub(48).max(32));
        let particles = populations::particles(wanted, draws)?;
        if self.levels < 2 || !(self.last_rho > 0.0) || !(0.0..=1.0).contains(&self.resample_below) {
            return Err(Error::Invalid(format!(
                "pnp-dm with {} levels, last_rho {} and resample_below {}; expected at least 2 levels, a positive number and a share",
                self.levels, self.last_rho, self.resample_below
            )));
        }
        Ok(particles)
    }

    fn evaluations(&self, steps: usize) -> u64 {
        START_CALLS + (steps * CALLS) as u64
    }

    /// The level at which prior samples keep 80 % of their effective number, at least three pixel standard deviations.
    fn first_rho(&self, problem: &Problem, basis: &SharedBasis, x: &Tensor) -> Result<f64> {
        const GROWTH: f64 = 1.25;
        const STEPS: usize = 60;
        const SHARE: f64 = 0.8;
        let count = x.len() as f64;
        let mean = x.data().iter().map(|v| *v as f64).sum::<f64>() / count;
        let sd = (x.data().iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / count).sqrt();
        let mut rho = 3.0 * sd;
        if !(rho > 0.0 && rho.is_finite()) {
            return Err(Error::Numerical(format!(
                "prior samples have the pixel standard deviation {sd}; the prior is constant or not finite"
            )));
        }
        for _ in 0..STEPS {
            let logs = weights_at(problem, basis, x, None, rho)?;
            let half = logs.len() / 2;
            if [&logs[..half], &logs[half..]].iter().all(|l| effective(l) >= SHARE * half as f64) {
                break;
            }
            rho *= GROWTH;
        }
        Ok(rho)
    }

    /// The last level and the largest eigenvalue of J^T J.
    fn last_rho(&self, basis: &SharedBasis) -> Result<(f64, f64)> {
        let top = basis.values.iter().copied().fold(0.0, f64::max);
        if !(top > 0.0 && top.is_finite()) {
            return Err(Error::Numerical(format!("the largest eigenvalue of J^T J is {top}: the data do not depend on the image")));
        }
        Ok((self.last_rho / top.sqrt(), top))
    }

    fn resample(&self, state: &mut PnpDmState, population: usize, level: usize) -> Result<()> {
        let half = state.x.draws() / 2;
        let range = population * half..(population + 1) * half;
        let logs = &state.log_weights[range.clone()];
        state.log_evidence[population] += log_sum_exp(logs) - (half as f64).ln();
        let u = state.rng.stream(RESAMPLE).sequence(population as u64, level as u32).uniform();
        let chosen = systematic(logs, half, u);
        let index: Vec<usize> =
            (0..2 * half).map(|i| if range.contains(&i) { range.start + chosen[i - range.start] } else { i }).collect();
        state.x = state.x.select(&index)?;
        state.mean = state.mean.select(&index)?;
        state.flat = state.flat.select(&index)?;
        state.ancestors = index.iter().map(|i| state.ancestors[*i]).collect();
        state.log_weights[range].fill(0.0);
        state.resamplings[population] += 1;
        Ok(())
    }

    fn weigh(&self, problem: &Problem, state: &mut PnpDmState, rho_old: Option<f64>, rho: f64) -> Result<()> {
        let basis = state.basis(problem)?;
        let logs = weights_at(problem, &basis, &state.x, rho_old, rho)?;
        state.log_weights.iter_mut().zip(&logs).for_each(|(w, l)| *w += l);
        if let Some(rho_old) = rho_old {
            let splits: Vec<Split> = (0..state.x.draws())
                .into_par_iter()
                .map(|i| split(problem.likelihood, &basis, state.x.item(i), state.mean.item(i), state.flat.item(i)))
                .collect::<Result<_>>()?;
            let half = splits.len() / 2;
            for (p, part) in splits.chunks(half).enumerate() {
                let correction = control_variates(part, &basis.values, rho_old, rho, flat_variance());
                state.log_weights[p * half..(p + 1) * half].iter_mut().zip(correction).for_each(|(w, c)| *w += c);
            }
        }
        finite_weights(&state.log_weights, rho)
    }

    /// Both conditionals at level `rho`.
    fn sweep(&self, problem: &Problem, state: &mut PnpDmState, rho: f64) -> Result<()> {
        let step = state.step as u32;
        let (images, data) = (state.rng.stream(LIKELIHOOD_IMAGE), state.rng.stream(LIKELIHOOD_DATA));
        let (n, d) = (state.x.draws(), problem.len());
        let basis = state.basis(problem)?;
        let x = &state.x;
        let items: Vec<Vec<f32>> = (0..n)
            .into_par_iter()
            .map(|i| {
                let (mut h, mut e) = (vec![0.0; d], vec![0.0; basis.values.len()]);
                images.fill_normal(i as u64, step, &mut h);
                data.fill_normal(i as u64, step, &mut e);
                likelihood_half(problem.likelihood, &basis, x.item(i), rho, &h, &e)
            })
            .collect::<Result<_>>()?;
        let z = Tensor::from_vec(&problem.shape(n), items.concat())?;
        let draw = prior_half(problem.prior, z, rho, state.rng.stream(PRIOR), step * CALLS as u32)?;
        (state.x, state.mean, state.flat) = (draw.x, draw.mean, draw.flat);
        if let Some(i) = state.x.data().iter().position(|v| !v.is_finite()) {
            return Err(Error::Numerical(format!("particle {} is not finite after the prior half at rho = {rho}", i / d)));
        }
        Ok(())
    }
}

fn finite_weights(logs: &[f64], rho: f64) -> Result<()> {
    match logs.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(Error::Numerical(format!("the weight of particle {i} is {} at rho = {rho}", logs[i]))),
        None => Ok(()),
    }
}

/// log L_rho(x) - log L_rho_old(x) of every particle; `rho_old` none: from no likelihood at all.
fn weights_at(problem: &Problem, basis: &SharedBasis, x: &Tensor, rho_old: Option<f64>, rho: f64) -> Result<Vec<f64>> {
    let value = |i: usize, rho: f64| log_likelihood(problem.likelihood, basis, x.item(i), rho);
    (0..x.draws())
        .into_par_iter()
        .map(|i| Ok(value(i, rho)? - rho_old.map(|rho| value(i, rho)).transpose()?.unwrap_or(0.0)))
        .collect()
}

impl Solver for PnpDm {
    type State = PnpDmState;

    fn name(&self) -> &'static str {
        "pnp-dm"
    }

    fn label(&self) -> String {
        "annealed split Gibbs: within-mode calibrated, mode weights checked by two populations".into()
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![
            ("levels".into(), self.levels.to_string()),
            ("population".into(), self.population.map_or("auto".into(), |p| p.to_string())),
            ("settle".into(), self.settle.to_string()),
            ("resample_below".into(), self.resample_below.to_string()),
            ("last_rho".into(), self.last_rho.to_string()),
        ]
    }

    fn needs(&self) -> Needs {
        Needs { residual: true, linear_gaussian: true }
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Samples
    }

    fn plan(&self, problem: &Problem, draws: usize) -> Result<Plan> {
        let particles = self.particles(draws)?;
        let d = problem.len() as u64;
        let m = linearise(problem.likelihood, &vec![0.25 * problem.pixel_range() as f32; problem.len()])?.value().len() as u64;
        // Eight images of a particle at once in f32, a handful in f64 per thread, and m x m matrices.
        let threads = rayon::current_num_threads() as u64;
        let memory_bytes = particles as u64 * d * 4 * 10 + threads * (d * 8 * 10 + m * m * 8 * 4) + particles as u64 * m * 8 * 3;
        let steps = self.levels + self.settle;
        Ok(Plan { particles, steps, network_evaluations: self.evaluations(steps), memory_bytes })
    }

    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<PnpDmState> {
        check_needs(self, problem)?;
        populations::whole(self.name(), &draws)?;
        let particles = self.particles(draws.end as usize)?;
        let x = sample_prior(problem.prior, problem.pixel_range(), rng.stream(START), 0..particles as u64)?;
        let basis = Arc::new(SharedBasis::of(problem.likelihood)?);
        let first = self.first_rho(problem, &basis, &x)?;
        let (last, curvature) = self.last_rho(&basis)?;
        let ladder = geometric(first, last.min(first), self.levels);
        Ok(PnpDmState::start(rng, draws.end, x, basis, ladder, curvature))
    }

    fn describe(&self, state: &PnpDmState) -> Vec<String> {
        let ladder = state.ladder();
        vec![format!(
            "largest eigenvalue of J^T J {:.4e}; rho from {:.4} to {:.4} in {} levels; {} particles in two populations",
            state.curvature,
            ladder[0],
            ladder[ladder.len() - 1],
            ladder.len(),
            state.x.draws()
        )]
    }

    fn step(&self, problem: &Problem, state: &mut PnpDmState) -> Result<StepInfo> {
        let k = state.step;
        let levels = state.ladder.len();
        let half = state.x.draws() / 2;
        let rho = state.ladder[k.min(levels - 1)];
        let before = k.checked_sub(1).map(|k| state.ladder[k.min(levels - 1)]);
        if k < levels {
            self.weigh(problem, state, before, rho)?;
        }
        for p in 0..2 {
            let ess = effective(&state.log_weights[p * half..(p + 1) * half]);
            state.smallest_ess[p] = state.smallest_ess[p].min(ess);
            let last_chance = k == levels && ess < half as f64 * (1.0 - 1e-9);
            if (k < levels && ess < self.resample_below * half as f64) || last_chance {
                self.resample(state, p, k)?;
            }
        }
        self.sweep(problem, state, rho)?;
        state.step += 1;
        let network_evaluations = self.evaluations(state.step);
        let ess = (0..2).map(|p| effective(&state.log_weights[p * half..(p + 1) * half])).fold(f64::INFINITY, f64::min);
        Ok(StepInfo {
            stage: if k < levels { "anneal" } else { "settle" },
            step: state.step,
            total: levels + self.settle,
            network_evaluations,
            reduced_chi2: problem.median_chi2(&state.x)?,
            effective_samples: Some(ess),
        })
    }

    fn finish(&self, problem: &Problem, mut state: PnpDmState) -> Result<Ensemble> {
        let levels = state.ladder.len();
        let rho = state.ladder[levels - 1];
        // From the last level to the likelihood itself: log L(x) - log L_rho(x).
        let half = state.x.draws() / 2;
        let basis = state.basis(problem)?;
        let logs = weights_at(problem, &basis, &state.x, Some(rho), 0.0)?;
        state.log_weights.iter_mut().zip(&logs).for_each(|(w, l)| *w += l);
        let draws = state.draws as usize;
        let mut final_ess = [0.0; 2];
        for (p, logs) in state.log_weights.chunks(half).enumerate() {
            final_ess[p] = effective(logs);
            state.log_evidence[p] += log_sum_exp(logs) - (half as f64).ln();
        }
        let shares = populations::shares(draws);
        let index: Vec<usize> = (0..2)
            .flat_map(|p| {
                let u = state.rng.stream(RESAMPLE).sequence(p as u64, u32::MAX).uniform();
                let chosen = systematic(&state.log_weights[p * half..(p + 1) * half], shares[p], u);
                chosen.into_iter().map(move |i| p * half + i)
            })
            .collect();
        let images = state.x.select(&index)?;
        let ancestors: Vec<u64> = index.iter().map(|i| state.ancestors[*i]).collect();
        let agreement = agreement::compare(&images, shares[0], &ancestors, state.rng.stream(RELABEL))?;
        let verdict = if agreement.agree() { "agree" } else { "do not agree" };
        let misfit = populations::misfit_said(problem, &images)?;
        let pair = |v: [f64; 2]| format!("{:.6} {:.6}", v[0], v[1]);
        let mut attributes = vec![
            ("label".into(), format!("{misfit}{} ({verdict})", self.label())),
            ("log_evidence".into(), pair(state.log_evidence)),
            ("largest_curvature".into(), format!("{:.6e}", state.curvature)),
            ("rho_first_last".into(), pair([state.ladder[0], rho])),
            ("smallest_effective_sample_size".into(), pair(state.smallest_ess)),
            ("final_effective_sample_size".into(), pair(final_ess)),
            ("resamplings".into(), format!("{} {}", state.resamplings[0], state.resamplings[1])),
        ];
        attributes.extend(populations::attributes(state.x.draws(), &ancestors, Some(&agreement)));
        let draws = Draws {
            images,
            chains: if shares[0] == shares[1] { 2 } else { 1 },
            network_evaluations: self.evaluations(state.step),
            stats: vec![(
                "ancestor".into(),
                "prior sample from which this draw descends; draws of one ancestor in one chain share their history".into(),
                ancestors.iter().map(|a| *a as f64).collect(),
            )],
            attributes,
        };
        problem.ensemble(draws, self.output_kind())
    }
}
