//! `pnp-dm`: split Gibbs (Wu et al. 2024, arXiv 2405.18782) as an annealed, weighted population.
//!
//! At level k the target is pi_k(x, z) proportional to p(x) N(z; x, rho_k^2) L(z), the x of which follows p(x) L_rho(x) with the
//! likelihood seen through a Gaussian of width rho (see `curvature`). Particles carry weights L_{k+1}(x)/L_k(x) from level to level
//! (annealed importance sampling, Neal 2001; resampling, Del Moral et al. 2006), then both conditionals are drawn in turn:
//! z by randomise-then-optimise, x by a reverse diffusion from rho with the prior's denoiser. At the end the weights L(x)/L_rho(x) take
//! the last level to the posterior itself. Two populations that never meet are compared with each other.
//!
//! All settings follow from the problem: rho falls geometrically from the level at which the likelihood hardly prefers any prior sample
//! (effective sample size 80 %, at least three times the pixel standard deviation of prior samples) to
//! 1/2 / sqrt(largest eigenvalue of J^T J).
//!
//! A nonlinear problem is weighted only near its data, where L_rho(x) can be had from a linearisation; far from them the prior half takes
//! more calls, close to them both halves are overrelaxed, and every sweep ends in the gauge of the prior.

mod agreement;
mod curvature;
mod prior_half;
mod state;
#[cfg(test)]
mod tests;

pub use agreement::Agreement;
pub use state::PnpDmState;

use crate::numeric::log_sum_exp;
use crate::start::{START_CALLS, sample_prior};
use crate::{Draws, Error, Needs, Plan, Problem, Result, Solver, StepInfo, check_needs};
use curvature::{LikelihoodHalf, SharedBasis, Split, control_variates, largest_curvature, linearise, log_likelihood, split};
use halation_compute::{Philox, Tensor};
use halation_posterior::{Ensemble, OutputKind};
use prior_half::{CALLS, FAR_CALLS, flat_variance, prior_half, prior_half_far};
use rayon::prelude::*;
use std::ops::Range;

/// Settings of the annealed split Gibbs sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PnpDm {
    /// Length of the anneal: its network calls over four. A linear problem has as many noise levels; one that is not has fewer, because the
    /// sweeps far from the data take twelve calls.
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
        let particles = wanted.next_multiple_of(2);
        if draws == 0 {
            return Err(Error::Invalid("0 draws were asked for; expected at least one".into()));
        }
        if wanted < draws.max(4) {
            return Err(Error::Invalid(format!(
                "a population of {wanted} particles for {draws} draws; expected at least as many particles as draws, and four"
            )));
        }
        if self.levels < 2 || !(self.last_rho > 0.0) || !(0.0..=1.0).contains(&self.resample_below) {
            return Err(Error::Invalid(format!(
                "pnp-dm with {} levels, last_rho {} and resample_below {}; expected at least 2 levels, a positive number and a share",
                self.levels, self.last_rho, self.resample_below
            )));
        }
        Ok(particles)
    }

    /// Levels far from the data, where a sweep takes more calls, and all levels.
    fn level_counts(&self, linear: bool) -> (usize, usize) {
        if linear {
            return (0, self.levels);
        }
        let far = ((FAR_SHARE * (self.levels * CALLS) as f64 / FAR_CALLS as f64).round() as usize).max(1);
        (far, far + self.levels.saturating_sub(far * FAR_CALLS / CALLS).max(2))
    }

    fn evaluations(&self, far: usize, steps: usize) -> u64 {
        START_CALLS + (steps.min(far) * FAR_CALLS + steps.saturating_sub(far) * CALLS) as u64
    }

    /// The level at which prior samples keep 80 % of their effective number, at least three pixel standard deviations.
    fn first_rho(&self, problem: &Problem, basis: Option<&SharedBasis>, x: &Tensor) -> Result<f64> {
        const GROWTH: f64 = 1.25;
        const STEPS: usize = 60;
        const SHARE: f64 = 0.8;
        if basis.is_none() {
            return Ok(NONLINEAR_FIRST * problem.pixel_range());
        }
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

    fn last_rho(&self, problem: &Problem, x: &Tensor) -> Result<(f64, f64)> {
        // A linear problem has the same curvature everywhere.
        let points = if problem.likelihood.linear_gaussian().is_some() { 1 } else { x.draws().min(8) };
        let mut values: Vec<f64> = (0..points)
            .into_par_iter()
            .map(|i| largest_curvature(problem.likelihood, x.item(i * x.draws() / points)))
            .collect::<Result<_>>()?;
        values.sort_by(f64::total_cmp);
        let top = values[points / 2];
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
        state.z = state.z.select(&index)?;
        state.ancestors = index.iter().map(|i| state.ancestors[*i]).collect();
        state.log_weights[range].fill(0.0);
        state.resamplings[population] += 1;
        Ok(())
    }

    fn weigh(&self, problem: &Problem, state: &mut PnpDmState, rho_old: Option<f64>, rho: f64) -> Result<()> {
        let logs = weights_at(problem, state.basis.as_ref(), &state.x, rho_old, rho)?;
        state.log_weights.iter_mut().zip(&logs).for_each(|(w, l)| *w += l);
        if let (Some(basis), Some(rho_old)) = (&state.basis, rho_old) {
            let splits: Vec<Split> = (0..state.x.draws())
                .into_par_iter()
                .map(|i| split(problem.likelihood, basis, state.x.item(i), state.mean.item(i), state.flat.item(i)))
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
    fn sweep(&self, problem: &Problem, state: &mut PnpDmState, rho: f64, walk: Walk) -> Result<()> {
        let step = state.step as u32;
        let (images, data) = (state.rng.stream(LIKELIHOOD_IMAGE), state.rng.stream(LIKELIHOOD_DATA));
        let (n, d) = (state.x.draws(), problem.len());
        let (x, z, basis) = (&state.x, &state.z, state.basis.as_ref());
        let items: Vec<Vec<f32>> = (0..n)
            .into_par_iter()
            .map(|i| {
                let half = LikelihoodHalf::new(problem.likelihood, basis, x.item(i), rho)?;
                let (mut h, mut e) = (vec![0.0; d], vec![0.0; half.data()]);
                images.fill_normal(i as u64, step, &mut h);
                data.fill_normal(i as u64, step, &mut e);
                let mut draw = half.solve(&h, &e)?;
                if let Walk::Overrelaxed { before } = walk {
                    h.fill(0.0);
                    e.fill(0.0);
                    overrelax(&mut draw, &half.solve(&h, &e)?, z.item(i), rho / before);
                }
                Ok(draw)
            })
            .collect::<Result<_>>()?;
        state.z = Tensor::from_vec(&problem.shape(n), items.concat())?;
        let half = if matches!(walk, Walk::Far) { prior_half_far } else { prior_half };
        let most_calls = if basis.is_some() { CALLS } else { FAR_CALLS };
        let mut draw = half(problem.prior, state.z.clone(), rho, state.rng.stream(PRIOR), step * most_calls as u32)?;
        if matches!(walk, Walk::Overrelaxed { .. }) {
            let parts = draw.x.data_mut().par_chunks_mut(d).zip(draw.mean.data().par_chunks(d)).zip(state.x.data().par_chunks(d));
            parts.for_each(|((x, mean), previous)| overrelax(x, mean, previous, 1.0));
        }
        (state.x, state.mean, state.flat) = (draw.x, draw.mean, draw.flat);
        if let Some(i) = state.x.data().iter().position(|v| !v.is_finite()) {
            return Err(Error::Numerical(format!("particle {} is not finite after the prior half at rho = {rho}", i / d)));
        }
        Ok(())
    }

    /// Brings every particle back into the gauge of the prior.
    fn regauge(&self, problem: &Problem, state: &mut PnpDmState) -> Result<()> {
        let d = problem.len();
        let pairs = state.x.data_mut().par_chunks_mut(d).zip(state.z.data_mut().par_chunks_mut(d));
        pairs.try_for_each(|(x, z)| problem.domain.regauge(&mut [x, z]))
    }
}

/// How a sweep moves.
#[derive(Clone, Copy)]
enum Walk {
    /// Far from the data of a nonlinear problem: many calls in the prior half.
    Far,
    Near,
    /// Where x and z hold each other within rho, so that plain sweeps walk at random. `before`: the level of the state's x and z.
    Overrelaxed {
        before: f64,
    },
}

/// Adler's overrelaxation (1981, Phys. Rev. D 23, 2901): to the other side of the conditional mean, with as much fresh noise as keeps the
/// variance. Where x and z hold each other within rho, plain Gibbs sweeps walk at random; these keep their direction for
/// 1 / (1 - OVERRELAXATION) sweeps. `ratio`: of the conditional's width to that of `previous`.
fn overrelax(draw: &mut [f32], mean: &[f32], previous: &[f32], ratio: f64) {
    let fresh = (1.0 - OVERRELAXATION * OVERRELAXATION).sqrt() as f32;
    let back = (OVERRELAXATION * ratio) as f32;
    for ((v, m), p) in draw.iter_mut().zip(mean).zip(previous) {
        *v = m - back * (p - m) + fresh * (*v - m);
    }
}

fn finite_weights(logs: &[f64], rho: f64) -> Result<()> {
    match logs.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(Error::Numerical(format!("the weight of particle {i} is {} at rho = {rho}", logs[i]))),
        None => Ok(()),
    }
}

/// log L_rho(x) - log L_rho_old(x) of every particle; `rho_old` none: from no likelihood at all.
fn weights_at(problem: &Problem, basis: Option<&SharedBasis>, x: &Tensor, rho_old: Option<f64>, rho: f64) -> Result<Vec<f64>> {
    let value = |i: usize, rho: f64| log_likelihood(problem.likelihood, basis, x.item(i), rho);
    (0..x.draws())
        .into_par_iter()
        .map(|i| Ok(value(i, rho)? - rho_old.map(|rho| value(i, rho)).transpose()?.unwrap_or(0.0)))
        .collect()
}

/// Fewer ancestors than this in a population are too few for the permutation test to find any difference at 5 %.
const FEWEST_FAMILIES: usize = 4;
/// What the output is where the likelihood is not linear.
const NONLINEAR_LABEL: &str =
    "annealed split Gibbs, linearised weights: spread approximate, mode weights checked by two populations";
/// A median reduced chi2 above this is said in the label.
const LARGEST_CHI2: f64 = 2.0;

/// First level of a nonlinear problem, in pixel ranges: this noise covers any image.
const NONLINEAR_FIRST: f64 = 1.5;
/// Share of the network calls that go into the levels far from the data.
const FAR_SHARE: f64 = 0.3;
/// From this level on, in pixel ranges, a nonlinear problem is near its data: four calls draw from p(x | z), and the likelihood seen through
/// the level's noise gives weights. Above, a sweep forgets all but the roughest structure, and weights would compare faint with bright images by
/// how noise drowns them, by hundreds of nats.
const NONLINEAR_NEAR: f64 = 0.1;
/// From this level on, in pixel ranges, the conditionals of a nonlinear problem are near enough to Gaussian to be overrelaxed.
const NONLINEAR_LOCAL: f64 = 0.04;
/// How far to the other side of the mean overrelaxation goes.
const OVERRELAXATION: f64 = 0.9;

/// Effective sample size of log weights (Kong 1992).
fn effective(logs: &[f64]) -> f64 {
    (2.0 * log_sum_exp(logs) - log_sum_exp(&logs.iter().map(|l| 2.0 * l).collect::<Vec<_>>())).exp()
}

/// Systematic resampling (Kitagawa 1996): `n` indices, index i in proportion to exp(logs[i]), from one uniform number.
fn systematic(logs: &[f64], n: usize, u: f64) -> Vec<usize> {
    let total = log_sum_exp(logs);
    let mut chosen = Vec::with_capacity(n);
    let (mut sum, mut i) = ((logs[0] - total).exp(), 0);
    for k in 0..n {
        let at = (k as f64 + u) / n as f64;
        while sum < at && i + 1 < logs.len() {
            i += 1;
            sum += (logs[i] - total).exp();
        }
        chosen.push(i);
    }
    chosen
}

/// The linear problem's shared eigenbasis, where there is one.
fn shared_basis(problem: &Problem) -> Result<Option<SharedBasis>> {
    if problem.likelihood.linear_gaussian().is_none() {
        return Ok(None);
    }
    Ok(Some(SharedBasis::new(&linearise(problem.likelihood, &vec![0.0; problem.len()])?.gram())?))
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
        Needs { residual: true, linear_gaussian: false }
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
        let (far, levels) = self.level_counts(problem.likelihood.linear_gaussian().is_some());
        let steps = levels + self.settle;
        Ok(Plan { particles, steps, network_evaluations: self.evaluations(far, steps), memory_bytes })
    }

    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<PnpDmState> {
        check_needs(self, problem)?;
        if draws.start != 0 {
            return Err(Error::Invalid(
                "pnp-dm draws from one population, which has no parts: start at draw 0 and use another seed for more".into(),
            ));
        }
        let particles = self.particles(draws.end as usize)?;
        let x = sample_prior(problem.prior, problem.pixel_range(), rng.stream(START), 0..particles as u64, 0)?;
        let basis = shared_basis(problem)?;
        let first = self.first_rho(problem, basis.as_ref(), &x)?;
        let (last, curvature) = self.last_rho(problem, &x)?;
        let (far, levels) = self.level_counts(basis.is_some());
        let ladder = if far == 0 {
            geometric(first, last.min(first), levels)
        } else {
            let near = NONLINEAR_NEAR * problem.pixel_range();
            let mut ladder = geometric(first, near, far + 1);
            ladder.pop();
            ladder.extend(geometric(near, last.min(near), levels - far));
            ladder
        };
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
        if state.basis.is_none() {
            state.basis = shared_basis(problem)?;
        }
        let k = state.step;
        let levels = state.ladder.len();
        let linear = state.basis.is_some();
        let far = self.level_counts(linear).0;
        // The curvature where the data have had their say may differ from that at prior samples.
        if k == levels / 2 && !linear {
            let (last, curvature) = self.last_rho(problem, &state.x)?;
            let here = state.ladder[k - 1];
            let rest = geometric(here, last.min(here), levels - k + 1);
            state.ladder[k..].copy_from_slice(&rest[1..]);
            state.curvature = curvature;
        }
        let half = state.x.draws() / 2;
        let rho = state.ladder[k.min(levels - 1)];
        let before = k.checked_sub(1).map(|k| state.ladder[k.min(levels - 1)]);
        if k < levels && (linear || k > far) {
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
        let walk = match before {
            _ if linear => Walk::Near,
            _ if k < far => Walk::Far,
            Some(before) if before < NONLINEAR_LOCAL * problem.pixel_range() => Walk::Overrelaxed { before },
            _ => Walk::Near,
        };
        self.sweep(problem, state, rho, walk)?;
        if !linear {
            self.regauge(problem, state)?;
        }
        state.step += 1;
        let network_evaluations = self.evaluations(far, state.step);
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
        let logs = weights_at(problem, state.basis.as_ref(), &state.x, Some(rho), 0.0)?;
        state.log_weights.iter_mut().zip(&logs).for_each(|(w, l)| *w += l);
        let draws = state.draws as usize;
        let linear = state.basis.is_some();
        let mut final_ess = [0.0; 2];
        for (p, logs) in state.log_weights.chunks(half).enumerate() {
            final_ess[p] = effective(logs);
            state.log_evidence[p] += log_sum_exp(logs) - (half as f64).ln();
        }
        let choose = |shares: [usize; 2]| -> Vec<usize> {
            (0..2)
                .flat_map(|p| {
                    let u = state.rng.stream(RESAMPLE).sequence(p as u64, u32::MAX).uniform();
                    let chosen = systematic(&state.log_weights[p * half..(p + 1) * half], shares[p], u);
                    chosen.into_iter().map(move |i| p * half + i)
                })
                .collect()
        };
        // What is compared: half of the draws from each population.
        let shares = [draws.div_ceil(2), draws / 2];
        let index = choose(shares);
        let images = state.x.select(&index)?;
        let ancestors: Vec<u64> = index.iter().map(|i| state.ancestors[*i]).collect();
        let distinct = |part: &[u64]| part.iter().collect::<std::collections::BTreeSet<_>>().len();
        let families = [distinct(&ancestors[..shares[0]]), distinct(&ancestors[shares[0]..])];
        // With too few families to exchange, each draw counts as one of its own: the sterner test, for relatives are too alike.
        let exchanged = if families.iter().all(|f| *f >= FEWEST_FAMILIES) { "families" } else { "draws" };
        let family: Vec<u64> = if exchanged == "families" { ancestors.clone() } else { (0..draws as u64).collect() };
        let agreement = agreement::compare(&images, shares[0], &family, state.rng.stream(RELABEL))?;
        // Particles of a nonlinear problem hardly leave the structure in which they froze, so that a difference is no chance.
        let verdict = match agreement.agree() {
            true => "agree",
            false if linear => "do not agree",
            false => "do not agree: THE SPREAD SHOWN IS TOO SMALL",
        };
        // What is returned. The populations of a nonlinear problem can freeze in structures of which one fits far better; they are weighted by
        // their evidence since the weights began (islands of particles, Verge et al. 2015, Stat. Comput. 25, 243).
        let (images, ancestors, shares) = if linear {
            (images, ancestors, shares)
        } else {
            let first = 1.0 / (1.0 + (state.log_evidence[1] - state.log_evidence[0]).exp());
            let u = state.rng.stream(RESAMPLE).sequence(2, u32::MAX).uniform();
            let shares = [(draws as f64 * first + u) as usize, draws - (draws as f64 * first + u) as usize];
            let index = choose(shares);
            let ancestors = index.iter().map(|i| state.ancestors[*i]).collect();
            (state.x.select(&index)?, ancestors, shares)
        };
        let label = if linear { self.label() } else { NONLINEAR_LABEL.into() };
        let misfit = problem.median_chi2(&images)?.into_iter().find(|(_, chi2)| *chi2 > LARGEST_CHI2);
        let verdict = match misfit {
            Some((product, chi2)) => format!("{verdict}); DOES NOT FIT THE DATA (median reduced chi2 of {product} is {chi2:.2}"),
            None => verdict.into(),
        };
        let pair = |v: [f64; 2]| format!("{:.6} {:.6}", v[0], v[1]);
        let mut attributes = vec![
            ("label".into(), format!("{label} ({verdict})")),
            ("largest_curvature".into(), format!("{:.6e}", state.curvature)),
            ("rho_first_last".into(), pair([state.ladder[0], rho])),
            ("particles".into(), state.x.draws().to_string()),
            ("smallest_effective_sample_size".into(), pair(state.smallest_ess)),
            ("final_effective_sample_size".into(), pair(final_ess)),
            ("resamplings".into(), format!("{} {}", state.resamplings[0], state.resamplings[1])),
            ("distinct_ancestors".into(), format!("{} {}", families[0], families[1])),
            ("populations_statistic".into(), format!("{:.6} along {} directions", agreement.statistic, agreement.directions)),
            ("populations_exchanged".into(), exchanged.into()),
            ("populations_draws".into(), format!("{} {}", shares[0], shares[1])),
            ("populations_p_value".into(), format!("{:.4}", agreement.p_value)),
        ];
        // Far from the data the linearisation is too rough for an evidence.
        if state.basis.is_some() {
            attributes.push(("log_evidence".into(), pair(state.log_evidence)));
        }
        let draws = Draws {
            images,
            chains: if shares[0] == shares[1] { 2 } else { 1 },
            network_evaluations: self.evaluations(self.level_counts(state.basis.is_some()).0, state.step),
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

/// `n` levels in geometric progression.
fn geometric(first: f64, last: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| first * (last / first).powf(i as f64 / (n - 1).max(1) as f64)).collect()
}
