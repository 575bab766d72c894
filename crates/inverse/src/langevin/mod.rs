//! `langevin`: annealed Langevin dynamics scaled by the data's curvature, in several descents.
//!
//! Prior samples are noised and led down the noise levels again by Langevin dynamics for the state given the data (see [`step`]). The first descents leave part of
//! them in wrong structures. So at the end of each descent states that data and prior together rule out (see [`choice`]) are dropped, the others copied in their
//! place, noised again to a level at which their structure is kept in the rough alone, and led down anew (restarts: Xu et al. 2023, arXiv 2306.14878). The last
//! descents draw the details alone anew and end where the likelihood may be taken at the noisy state itself, which needs no guess of the denoised image's error.
//! Structures are then judged by all particles that share them (see [`families`]).
//!
//! Two populations are compared with each other. Where they meet, what one has found rules out states of the other; only where one has found nothing as
//! good, it goes on from the other's states, and then they are not compared. Draws that fit as no image of the prior would, where there are no better
//! ones, are counted in the label.

mod choice;
mod families;
mod levels;
mod metric;
mod state;
mod step;
#[cfg(test)]
mod tests;

pub use state::LangevinState;

use crate::curvature::{shared_basis, typical_curvature};
use crate::denoising_error::{self, denoising_errors};
use crate::plausibility;
use crate::populations::{self, Ended, Returned};
use crate::start::{START_CALLS, sample_prior};
use crate::{Draws, Error, Needs, Plan, Problem, Result, Solver, StepInfo, check_needs};
use choice::Judged;
use families::Families;
use halation_compute::{Philox, Tensor};
use halation_nn::schedule::geometric;
use halation_posterior::{Ensemble, OutputKind};
use levels::{BOTTOM, Descent, LAST, TOP, TURN, descents, sigmas};
use std::ops::Range;
use step::{END_CALLS, Known, Level, Moving, ended, guided, settled, turn};

/// Settings of the annealed Langevin dynamics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Langevin {
    /// Noise levels of all descents together.
    pub levels: usize,
    /// Particles of both populations together; none: as many as draws, at least 20.
    pub population: Option<usize>,
    /// Descents after the first.
    pub restarts: usize,
}

impl Default for Langevin {
    fn default() -> Self {
        Self { levels: 440, population: None, restarts: 5 }
    }
}

/// Purposes of random numbers.
const START: u16 = 1;
const ERRORS: u16 = 2;
const NOISE: u16 = 3;
const SELECT: u16 = 4;
const RELABEL: u16 = 5;
const PRIOR: u16 = 6;
const DYNAMICS: u16 = 7;

/// How many times what was measured the denoising error is taken to be at high noise: data taken as too sharp there force details that stay, data taken as too
/// blunt are met later.
const CAUTION: f64 = 3.0;
/// Noise levels in pixel ranges between which that falls to one, evenly in ln sigma; in the last descent.
const CAUTIOUS: [f64; 2] = [0.3, 0.05];
const CAUTIOUS_LAST: [f64; 2] = [0.1, 0.015];
/// Levels at which the denoising error is measured, and prior samples on which.
const NODES: usize = 12;
const TRUTHS: usize = 24;

/// A thousand times as many as are useful; beyond it a typing error is likelier.
const MOST_LEVELS: usize = 1_000_000;

impl Langevin {
    fn particles(&self, draws: usize) -> Result<usize> {
        let particles = populations::particles(self.population.unwrap_or_else(|| draws.max(20)), draws)?;
        let descents = self.restarts.saturating_add(1);
        let fewest = descents.saturating_mul(4);
        if self.levels < fewest || self.levels > MOST_LEVELS {
            return Err(Error::Invalid(format!(
                "langevin with {} levels and {} restarts; expected at least four levels for each of the {descents} descents, {fewest} together, and \
                 at most {MOST_LEVELS}",
                self.levels, self.restarts,
            )));
        }
        Ok(particles)
    }

    fn descents(&self) -> Vec<Descent> {
        descents(self.levels, self.restarts)
    }

    /// Network calls of a particle for the first `done` levels, with those at the start and after every descent; a pullback counts as one more.
    fn evaluations(&self, done: usize) -> u64 {
        let mut calls = START_CALLS + NODES as u64 + plausibility::CALLS;
        for descent in self.descents() {
            let done = done.saturating_sub(descent.first).min(descent.len());
            let guided = done.min(descent.len() - descent.counts[2]);
            calls += (done + guided) as u64;
            if done == descent.len() {
                calls += plausibility::CALLS + if descent.counts[2] > 0 { END_CALLS as u64 - 1 } else { 0 };
            }
        }
        calls
    }

    /// By how much the denoising error is taken larger than measured at `sigma`.
    fn caution(&self, problem: &Problem, descent: usize, sigma: f64) -> f64 {
        let [high, low] = if descent == self.restarts && descent > 2 { CAUTIOUS_LAST } else { CAUTIOUS };
        let at = (sigma / (low * problem.pixel_range())).ln() / (high / low).ln();
        CAUTION.powf(at.clamp(0.0, 1.0))
    }

    /// The noise levels of descent `i`, which turns where the data of `images` allow it.
    fn sigmas(&self, problem: &Problem, images: &Tensor, i: usize) -> Result<Vec<f64>> {
        let range = problem.pixel_range();
        let turn = turn(problem, images, TURN * range)? / range;
        Ok(sigmas(i, &self.descents()[i], turn).into_iter().map(|s| s * range).collect())
    }
}

impl Solver for Langevin {
    type State = LangevinState;

    fn name(&self) -> &'static str {
        "langevin"
    }

    fn label(&self) -> String {
        "annealed Langevin dynamics with restarts, spread not proven".into()
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
        Ok(Plan { particles, steps: self.levels, network_evaluations: self.evaluations(self.levels), memory_bytes })
    }

    fn rehearse(&self, problem: &Problem, image: &[f32]) -> Result<()> {
        step::rehearse(problem, image, BOTTOM * problem.pixel_range())
    }

    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<LangevinState> {
        check_needs(self, problem)?;
        populations::whole(self.name(), &draws)?;
        let particles = self.particles(draws.end as usize)?;
        let range = problem.pixel_range();
        let truths = sample_prior(problem.prior, range, rng.stream(START), 0..particles.max(TRUTHS) as u64)?;
        let x = truths.select(&(0..particles).collect::<Vec<_>>())?;
        let curvature = typical_curvature(problem, &x)?;
        let data = problem.likelihood.residual(x.item(0))?.map_or(0, |at| at.value().len());
        let truths = truths.select(&(0..TRUTHS).collect::<Vec<_>>())?;
        let top = TOP * range;
        let nodes = geometric(top, LAST * range, NODES);
        let samples = plausibility::log_prior(problem, &truths, [TOP, BOTTOM], rng.stream(PRIOR))?;
        let known = samples.log_prior.into_iter().fold(f64::INFINITY, f64::min);
        let basis = shared_basis(problem)?;
        let errors = denoising_errors(problem, basis.as_ref(), &truths, &nodes, rng.stream(ERRORS))?;
        let noise = rng.stream(NOISE).normal(0..particles as u64, 0, &problem.prior.item_shape())?;
        let z = x.data().iter().zip(noise.data()).map(|(x, e)| x + top as f32 * e).collect();
        Ok(LangevinState {
            rng,
            draws: draws.end,
            step: 0,
            z: Tensor::from_vec(x.shape(), z)?,
            sigmas: self.sigmas(problem, &x, 0)?,
            descent: 0,
            x,
            momentum: rng.stream(DYNAMICS).normal(0..particles as u64, 0, &problem.prior.item_shape())?,
            data_momentum: vec![0.0; particles * data],
            ancestors: (0..particles as u64).collect(),
            families: Families::new((0..particles as u64).collect()),
            errors,
            curvature,
            known,
            fewest_kept: [particles / 2; 2],
            lost: None,
            basis,
        })
    }

    fn describe(&self, state: &LangevinState) -> Vec<String> {
        vec![
            format!(
                "largest eigenvalue of J^T J {:.4e}; {} levels in {} descents; {} particles in two populations",
                state.curvature,
                self.levels,
                self.restarts + 1,
                state.x.draws()
            ),
            denoising_error::said(&state.errors),
        ]
    }

    fn step(&self, problem: &Problem, state: &mut LangevinState) -> Result<StepInfo> {
        let k = state.step;
        let basis = state.basis(problem)?;
        let basis = basis.as_deref();
        let descent = &self.descents()[state.descent];
        let at = k - descent.first;
        let level = Level { sigma: state.sigmas[at], next: state.sigmas.get(at + 1).copied() };
        let settling = at + descent.counts[2] >= descent.len();
        let moving = Moving { z: &mut state.z, momentum: &mut state.momentum, data_momentum: &mut state.data_momentum };
        let noise = |i: u64| state.rng.stream(DYNAMICS).sequence(i, k as u32 + 1);
        let known = if settling {
            let images = match level.next {
                Some(next) => settled(problem, basis, moving, noise, [level.sigma, next])?,
                None => ended(problem, basis, moving.z, level.sigma)?,
            };
            Known { images, log_likelihood: Vec::new() }
        } else {
            let caution = self.caution(problem, state.descent, level.sigma);
            guided(problem, basis, moving, noise, level, (&state.errors, caution))?
        };
        populations::finite(&known.images, level.sigma)?;
        state.x = known.images;
        let stage = match state.descent {
            _ if settling => "settling",
            0 => "descent",
            _ => "restart",
        };
        if level.next.is_none() && state.descent < self.restarts {
            let judged = state.judge(problem, (!settling).then_some(known.log_likelihood))?;
            let last = state.descent + 1 == self.restarts;
            state.choose(&judged, settling, last)?;
            state.descent += 1;
            state.sigmas = self.sigmas(problem, &state.x, state.descent)?;
            state.curvature = typical_curvature(problem, &state.x)?;
            let up = state.sigmas[0] as f32;
            let noise = state.rng.stream(NOISE).normal(0..state.x.draws() as u64, k as u32 + 1, &problem.prior.item_shape())?;
            state.z.data_mut().iter_mut().zip(state.x.data()).zip(noise.data()).for_each(|((z, x), e)| *z = x + up * e);
        }
        state.step += 1;
        Ok(StepInfo {
            stage,
            step: state.step,
            total: self.levels,
            network_evaluations: self.evaluations(state.step),
            reduced_chi2: problem.median_chi2(&state.x)?,
            effective_samples: None,
        })
    }

    fn finish(&self, problem: &Problem, mut state: LangevinState) -> Result<Ensemble> {
        let draws = state.draws as usize;
        let judged = state.judge(problem, None)?;
        let (kept, lost_now) = state.standing(&judged, true, true);
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
            ("sigma_first_last".into(), pair([TOP * problem.pixel_range(), state.sigmas[state.sigmas.len() - 1]])),
            ("fewest_states_kept".into(), format!("{} {}", state.fewest_kept[0], state.fewest_kept[1])),
        ]);
        let draws = Draws {
            images,
            chains: if ancestors.len().is_multiple_of(2) { 2 } else { 1 },
            network_evaluations: self.evaluations(self.levels),
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
                (
                    "log_weight".into(),
                    "what the posterior holds about the image, up to a constant".into(),
                    index.iter().map(|i| judged.log_weight[*i]).collect(),
                ),
            ],
            attributes,
        };
        problem.ensemble(draws, self.output_kind())
    }
}

impl LangevinState {
    /// What data and prior say of the images, the log-likelihood of which is that at the images themselves where none is given.
    fn judge(&self, problem: &Problem, log_likelihood: Option<Vec<f64>>) -> Result<Judged> {
        let log_likelihood = match log_likelihood {
            Some(known) => known,
            None => problem.likelihood.neg_log_and_grad(&self.x)?.0.iter().map(|v| -v).collect(),
        };
        Judged::of(problem, &self.x, &log_likelihood, &self.errors, self.rng.stream(PRIOR))
    }

    /// Which particles of each population stand, and the population that found nothing as good as the other did, where the `two` are measured by each other. Where
    /// images are `finished`, structures that hold less than others beyond chance go as well.
    fn standing(&mut self, judged: &Judged, finished: bool, two: bool) -> ([Vec<usize>; 2], Option<usize>) {
        let (mut kept, mut lost) = judged.standing(two);
        if finished && lost.is_none() {
            let both = kept.concat();
            self.families.add(&judged.log_weight, both.iter().copied());
            for kept in &mut kept {
                let ruled_out = self.families.ruled_out(kept, if two { &both } else { kept }, judged.open);
                *kept = kept.iter().zip(ruled_out).filter(|(_, out)| !out).map(|(i, _)| *i).collect();
            }
            lost = populations::replace_lost(&mut kept);
        }
        (kept, lost)
    }

    /// Drops states that data and prior rule out and copies the others in their place. Those that stay do so with equal weight: their likelihood is in
    /// their descent already.
    fn choose(&mut self, judged: &Judged, finished: bool, last: bool) -> Result<()> {
        let (kept, lost) = self.standing(judged, finished, last);
        self.lost = self.lost.or(lost);
        for (fewest, kept) in self.fewest_kept.iter_mut().zip(&kept) {
            *fewest = (*fewest).min(kept.len());
        }
        let index = populations::copies(&kept, self.x.draws() / 2, self.rng.stream(SELECT), self.step);
        self.x = self.x.select(&index)?;
        self.ancestors = index.iter().map(|i| self.ancestors[*i]).collect();
        if finished {
            self.families.of = index.iter().map(|i| self.families.of[*i]).collect();
        } else {
            self.families = Families::new(index.iter().map(|i| *i as u64).collect());
        }
        Ok(())
    }
}
