//! `guided`: reverse diffusion guided by the data, with restarts.
//!
//! Prior samples are noised and led down the noise levels again, their denoised images pulled towards the data at each level (see `step`). The
//! first descent leaves part of them in wrong structures: such that do not fit, and such that fit as no image of the prior would. So at its end, where
//! log p(data | state) can be trusted, states that it and the prior together rule out are dropped, the others copied in their place, noised again to
//! a level at which their structure is kept in the rough alone, and led down anew (restarts: Xu et al. 2023, arXiv 2306.14878), several times. Were each step
//! exact, noising and descending would leave the posterior as it is; so copies part, and the last descent leaves the posterior's own spread, less the
//! few images that lost their way.
//!
//! Where structure is settled, each level is followed by a corrector (see [`step`]), without which a descent keeps every error that it makes.
//!
//! Two populations are compared with each other. Where they meet, what one has found rules out states of the other; only where one has found nothing as
//! good, it goes on from the other's states, and then they are not compared. Draws that fit as no image of the prior would, where there are no better
//! ones, are counted in the label.

mod state;
mod step;
#[cfg(test)]
mod tests;

pub use state::GuidedState;

use crate::curvature::{shared_basis, typical_curvature};
use crate::denoising_error::{self, denoising_errors};
use crate::plausibility::{self, Plausibility, log_prior};
use crate::populations::{self, Ended, Returned};
use crate::start::{START_CALLS, sample_prior};
use crate::{Draws, Error, Needs, Plan, Problem, Result, Solver, StepInfo, check_needs};
use halation_compute::{Philox, Tensor};
use halation_nn::ancestral_step;
use halation_nn::schedule::geometric;
use halation_posterior::{Ensemble, OutputKind};
use std::ops::Range;
use step::{carry, drift, guide, kick};

/// Settings of the guided reverse diffusion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guided {
    /// Noise levels of all descents together.
    pub levels: usize,
    /// Particles of both populations together; none: as many as draws, at least 24.
    pub population: Option<usize>,
    /// Descents after the first.
    pub restarts: usize,
}

impl Default for Guided {
    fn default() -> Self {
        Self { levels: 158, population: None, restarts: 3 }
    }
}

/// Purposes of random numbers.
const START: u16 = 1;
const ERRORS: u16 = 2;
const NOISE: u16 = 3;
const SELECT: u16 = 4;
const RELABEL: u16 = 5;
const PRIOR: u16 = 6;
const CORRECTOR: u16 = 7;

/// Noise level of the first descent's start in pixel ranges: of a prior sample only the rough structure is left.
const TOP: f64 = 2.0;
/// Levels of the first restart and of all others, in pixel ranges.
const RESTART: [f64; 2] = [1.0, 0.5];
/// At and below this many pixel ranges each level has a corrector; above, of all structure only the rough is left.
const CORRECTED: f64 = 1.0;
/// Where every descent but the last ends, in pixel ranges: the structure is settled, and the linearisation good.
const BOTTOM: f64 = 0.05;
/// Of the last descent, which alone is returned, levels are this many times as dense; below `BOTTOM`, where all but the pixels' own noise is settled, half as
/// dense as that.
const LAST_DENSITY: f64 = 2.5;
/// Where the last descent is taken to end, in pixel ranges, when the levels are shared out: the cost must be known before the data's curvature is measured.
const NOMINAL_LAST: f64 = 0.0015;
/// Levels at which the denoising error is measured, and prior samples on which.
const NODES: usize = 12;
const TRUTHS: usize = 24;
/// States the log posterior of which (log-likelihood and log prior) falls short of the best by more than this are not chosen. Within one structure it
/// should differ by less (standard deviation 3 to 7), but the descents scatter by as much; wrong structures that fit as well fall short by 30 to 250.
const RULED_OUT: f64 = 40.0;
/// Standard deviations of the log posterior by which a state may fall short of the best, where open degrees of freedom are so many that this is more.
const RULED_OUT_SD: f64 = 6.0;
/// At the end, what falls short by this many times what it may at a choice is left out.
const FINAL: f64 = 2.0;

impl Guided {
    fn particles(&self, draws: usize) -> Result<usize> {
        let particles = populations::particles(self.population.unwrap_or_else(|| draws.max(24)), draws)?;
        if self.levels < self.restarts.saturating_add(1).saturating_mul(4) {
            return Err(Error::Invalid(format!(
                "guided with {} levels and {} restarts; expected at least four levels for each of the {} descents",
                self.levels,
                self.restarts,
                self.restarts + 1
            )));
        }
        Ok(particles)
    }

    /// Network calls of a particle for these levels done, with those at the start and after `judged` descents; a pullback counts as one more.
    fn evaluations(&self, done: &[f64], range: f64, judged: usize) -> u64 {
        let guided = done.len() + done.iter().filter(|sigma| **sigma <= CORRECTED * range).count();
        START_CALLS + (NODES + 2 * guided) as u64 + (1 + judged as u64) * plausibility::CALLS
    }

    /// All levels, descent after descent, and the last index of every descent. The levels are shared by the descents' lengths in ln sigma.
    fn ladder(&self, range: f64, last: f64) -> (Vec<f64>, Vec<usize>) {
        let from = |i: usize| range * if i == 0 { TOP } else { RESTART[(i - 1).min(1)] };
        let length = |i: usize| {
            let settled = (from(i) / (BOTTOM * range)).ln();
            if i < self.restarts { settled } else { LAST_DENSITY * (settled + 0.5 * (BOTTOM / NOMINAL_LAST).ln()) }
        };
        let total: f64 = (0..=self.restarts).map(length).sum();
        let (mut ladder, mut ends, mut done) = (Vec::new(), Vec::new(), 0.0);
        for i in 0..=self.restarts {
            done += length(i);
            // At least the two ends of every descent; the shares add up to all levels.
            let after = 2 * (self.restarts - i);
            let upto = ((self.levels as f64 * done / total).round() as usize).clamp(ladder.len() + 2, self.levels - after);
            let n = upto - ladder.len();
            if i < self.restarts {
                ladder.extend(geometric(from(i), BOTTOM * range, n));
            } else {
                ladder.extend(last_descent(from(i), BOTTOM * range, last, n));
            }
            ends.push(ladder.len() - 1);
        }
        (ladder, ends)
    }

    /// The last noise level, half of the smallest standard deviation that the data leave, and the largest eigenvalue of J^T J, the median over
    /// images of the population.
    fn last_level(&self, problem: &Problem, x: &Tensor) -> Result<(f64, f64)> {
        let top = typical_curvature(problem, x)?;
        Ok((0.5 / top.sqrt(), top))
    }
}

/// `n` levels from `from` to `last` (or half of `from`, if that is less), evenly spaced in the logarithm, below `settled` twice as far apart.
fn last_descent(from: f64, settled: f64, last: f64, n: usize) -> Vec<f64> {
    let last = last.min(0.5 * from);
    let settled = settled.clamp(last, from);
    let (dense, thin) = ((from / settled).ln(), 0.5 * (settled / last).ln());
    let level = |i: usize| {
        let at = (dense + thin) * i as f64 / (n - 1) as f64;
        if at <= dense { from * (-at).exp() } else { settled * (-2.0 * (at - dense)).exp() }
    };
    (0..n).map(level).collect()
}

impl Solver for Guided {
    type State = GuidedState;

    fn name(&self) -> &'static str {
        "guided"
    }

    fn label(&self) -> String {
        "guided reverse diffusion with restarts, spread not proven".into()
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![
            ("levels".into(), self.levels.to_string()),
            ("population".into(), self.population.map_or("auto".into(), |p| p.to_string())),
            ("restarts".into(), self.restarts.to_string()),
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
        let image = vec![0.25 * problem.pixel_range() as f32; problem.len()];
        let m = problem.likelihood.residual(&image)?.map_or(0, |at| at.value().len()) as u64;
        let threads = rayon::current_num_threads() as u64;
        let memory_bytes = particles as u64 * d * 4 * 8 + threads * (d * 8 * 6 + m * m * 8 * 6);
        let range = problem.pixel_range();
        let (ladder, ends) = self.ladder(range, NOMINAL_LAST * range);
        let network_evaluations = self.evaluations(&ladder, range, ends.len());
        Ok(Plan { particles, steps: self.levels, network_evaluations, memory_bytes })
    }

    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<GuidedState> {
        check_needs(self, problem)?;
        populations::whole(self.name(), &draws)?;
        let particles = self.particles(draws.end as usize)?;
        let range = problem.pixel_range();
        let truths = sample_prior(problem.prior, range, rng.stream(START), 0..particles.max(TRUTHS) as u64)?;
        let x = truths.select(&(0..particles).collect::<Vec<_>>())?;
        let (last, curvature) = self.last_level(problem, &x)?;
        let (ladder, ends) = self.ladder(range, last);
        let truths = truths.select(&(0..TRUTHS).collect::<Vec<_>>())?;
        let (top, low) = (ladder[0], 0.1 * ladder[ladder.len() - 1]);
        let nodes = geometric(top, low, NODES);
        let known =
            log_prior(problem, &truths, [TOP, BOTTOM], rng.stream(PRIOR))?.log_prior.into_iter().fold(f64::INFINITY, f64::min);
        let basis = shared_basis(problem)?;
        let errors = denoising_errors(problem, basis.as_ref(), &truths, &nodes, rng.stream(ERRORS))?;
        let noise = rng.stream(NOISE).normal(0..particles as u64, 0, &problem.prior.item_shape())?;
        let z = x.data().iter().zip(noise.data()).map(|(x, e)| x + top as f32 * e).collect();
        Ok(GuidedState {
            rng,
            draws: draws.end,
            step: 0,
            z: Tensor::from_vec(x.shape(), z)?,
            before: x.clone(),
            x,
            momentum: rng.stream(CORRECTOR).normal(0..particles as u64, 0, &problem.prior.item_shape())?,
            ancestors: (0..particles as u64).collect(),
            ladder,
            ends,
            errors,
            curvature,
            known,
            fewest_kept: [particles / 2; 2],
            lost: None,
            basis,
        })
    }

    fn describe(&self, state: &GuidedState) -> Vec<String> {
        vec![
            format!(
                "largest eigenvalue of J^T J {:.4e}; {} levels in {} descents from {:.4} to {:.4}; {} particles in two populations",
                state.curvature,
                state.ladder.len(),
                state.ends.len(),
                state.ladder[0],
                state.ladder[state.ladder.len() - 1],
                state.x.draws()
            ),
            denoising_error::said(&state.errors),
        ]
    }

    fn step(&self, problem: &Problem, state: &mut GuidedState) -> Result<StepInfo> {
        let k = state.step;
        let sigma = state.ladder[k];
        let n = state.x.draws();
        let item = problem.prior.item_shape();
        let basis = state.basis(problem)?;
        let descent = state.ends.iter().position(|end| k <= *end).unwrap_or(0);
        let begins = k == 0 || state.ends.contains(&(k - 1));
        let mut guided = guide(problem, basis.as_deref(), &state.z, sigma, &state.errors)?;
        if sigma <= CORRECTED * problem.pixel_range() {
            let noise = state.rng.stream(CORRECTOR).normal(0..n as u64, k as u32 + 1, &item)?;
            let predicted = guided.denoised;
            drift(&mut state.z, &mut state.momentum, &predicted, &noise, sigma);
            guided = guide(problem, basis.as_deref(), &state.z, sigma, &state.errors)?;
            kick(&mut state.momentum, &state.z, &guided.denoised, sigma);
            carry(&mut state.before, &predicted, &guided.denoised);
        }
        populations::finite(&guided.denoised, sigma)?;
        let noise = state.rng.stream(NOISE).normal(0..n as u64, k as u32 + 1, &item)?;
        if k + 1 == state.ladder.len() {
            state.x = guided.denoised;
        } else if state.ends[descent] == k {
            state.x = guided.denoised;
            let last = descent + 2 == state.ends.len();
            let judged = Judged::of(problem, &state.x, guided.log_likelihood, state.rng)?;
            state.choose(&judged, last)?;
            if last {
                // The curvature where the data have had their say may differ from that at prior samples.
                let (last, curvature) = self.last_level(problem, &state.x)?;
                let rest = &mut state.ladder[k + 1..];
                let renewed = last_descent(rest[0], BOTTOM * problem.pixel_range(), last, rest.len());
                rest.copy_from_slice(&renewed);
                state.curvature = curvature;
            }
            let up = (state.ladder[k + 1].powi(2) - sigma * sigma).max(0.0).sqrt() as f32;
            state.z.data_mut().iter_mut().zip(noise.data()).for_each(|(z, e)| *z += up * e);
        } else {
            let before = (!begins).then_some(&state.before);
            ancestral_step(&mut state.z, &guided.denoised, before, &noise, sigma, state.ladder[k + 1]);
            state.before = guided.denoised.clone();
            state.x = guided.denoised;
        }
        state.step += 1;
        Ok(StepInfo {
            stage: if descent == 0 { "descent" } else { "restart" },
            step: state.step,
            total: state.ladder.len(),
            network_evaluations: self.evaluations(
                &state.ladder[..state.step],
                problem.pixel_range(),
                state.ends.iter().filter(|end| **end < state.step).count(),
            ),
            reduced_chi2: problem.median_chi2(&state.x)?,
            effective_samples: None,
        })
    }

    fn finish(&self, problem: &Problem, state: GuidedState) -> Result<Ensemble> {
        let draws = state.draws as usize;
        let log_likelihood: Vec<f64> = problem.likelihood.neg_log_and_grad(&state.x)?.0.iter().map(|v| -v).collect();
        let judged = Judged::of(problem, &state.x, log_likelihood, state.rng)?;
        let (kept, lost_now) = judged.standing(FINAL, true);
        let ended = Ended {
            x: &state.x,
            kept,
            lost_now,
            lost_before: state.lost,
            ancestors: &state.ancestors,
            log_prior: &judged.log_prior,
            known: state.known,
        };
        let Returned { index, images, ancestors, mut attributes } =
            ended.draw(problem, draws, &self.label(), state.rng.stream(RELABEL))?;
        let pair = |v: [f64; 2]| format!("{:.6} {:.6}", v[0], v[1]);
        attributes.extend([
            ("largest_curvature".into(), format!("{:.6e}", state.curvature)),
            ("sigma_first_last".into(), pair([state.ladder[0], state.ladder[state.ladder.len() - 1]])),
            ("fewest_states_kept".into(), format!("{} {}", state.fewest_kept[0], state.fewest_kept[1])),
        ]);
        let draws = Draws {
            images,
            chains: if ancestors.len().is_multiple_of(2) { 2 } else { 1 },
            network_evaluations: self.evaluations(&state.ladder, problem.pixel_range(), state.ends.len()),
            stats: vec![
                (
                    "ancestor".into(),
                    "prior sample from which this draw descends through the choices at the restarts".into(),
                    ancestors.iter().map(|a| *a as f64).collect(),
                ),
                (
                    "log_prior".into(),
                    format!("log prior of the image between noise levels of {TOP} and {BOTTOM} pixel ranges, up to a constant"),
                    index.iter().map(|i| judged.log_prior[*i]).collect(),
                ),
            ],
            attributes,
        };
        problem.ensemble(draws, self.output_kind())
    }
}

/// What data and prior say of every particle, those of one population after those of the other.
struct Judged {
    log_likelihood: Vec<f64>,
    log_prior: Vec<f64>,
    /// How far a log posterior may fall short of the best.
    ruled_out: f64,
}

impl Judged {
    fn of(problem: &Problem, images: &Tensor, log_likelihood: Vec<f64>, rng: Philox) -> Result<Self> {
        let Plausibility { log_prior, open, .. } = log_prior(problem, images, [TOP, BOTTOM], rng.stream(PRIOR))?;
        let ruled_out = RULED_OUT.max(RULED_OUT_SD * (0.5 * open).sqrt());
        Ok(Self { log_likelihood, log_prior, ruled_out })
    }

    /// Which particles stand: those the log posterior of which falls short of the best of their population, or of both where the populations are to
    /// `meet`, by no more than `slack` times what it may. A population of which nothing stands is lost: the other's stand in its place.
    fn standing(&self, slack: f64, meet: bool) -> ([Vec<usize>; 2], Option<usize>) {
        let posterior: Vec<f64> = self.log_likelihood.iter().zip(&self.log_prior).map(|(l, p)| l + p).collect();
        let short = slack * self.ruled_out;
        populations::standing(&posterior, short, if meet { short } else { f64::INFINITY })
    }
}

impl GuidedState {
    /// Drops states that data and prior rule out and copies the others in their place. Those that stay do so with equal weight: their likelihood is in
    /// their descent already.
    fn choose(&mut self, judged: &Judged, last: bool) -> Result<()> {
        let (kept, lost) = judged.standing(1.0, last);
        self.lost = self.lost.or(lost);
        for (fewest, kept) in self.fewest_kept.iter_mut().zip(&kept) {
            *fewest = (*fewest).min(kept.len());
        }
        let index = populations::copies(&kept, self.x.draws() / 2, self.rng.stream(SELECT), self.step);
        self.z = self.z.select(&index)?;
        self.x = self.x.select(&index)?;
        self.ancestors = index.iter().map(|i| self.ancestors[*i]).collect();
        Ok(())
    }
}
