//! `dps`: diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687), the usual approximate baseline.
//!
//! The likelihood of a noisy image is replaced by that of its denoised one, grad log p(y | x_sigma) = -J^T grad neg_log(D(x_sigma)).
//! Steps are the ancestral ones of DDPM's 1000 noise levels (beta linear from 1e-4 to 0.02), written in the variance-exploding state.

use crate::populations;
use crate::solver::{put_tensor, tensor_of};
use crate::{Checkpoint, Draws, Error, Needs, Plan, Problem, Result, Solver, StepInfo, check_needs};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use halation_posterior::{Ensemble, OutputKind};
use std::ops::Range;

/// Weight of the likelihood's gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DpsWeight {
    /// The published step, zeta / |r| times the gradient of |r|^2 / 2 in the variance-preserving state. The paper's residual is not divided
    /// by the noise; here the whitened residual is divided by the norm of its Jacobian, so that zeta does not depend on units. A tuned weight.
    Paper {
        /// The paper's step size.
        zeta: f64,
    },
    /// The weight that Bayes' rule gives: D - sigma^2 J^T grad neg_log(D) in place of D.
    Bayes,
}

/// Settings of `dps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dps {
    /// The weight.
    pub weight: DpsWeight,
}

impl Default for Dps {
    fn default() -> Self {
        Self { weight: DpsWeight::Paper { zeta: 1.0 } }
    }
}

/// Noise levels of DDPM's linear schedule.
const LEVELS: usize = 1000;

/// sqrt((1 - abar) / abar) of the noise level that is reached after `step` steps, from the highest down; zero at the end.
fn sigma_after(step: usize) -> f64 {
    if step >= LEVELS {
        return 0.0;
    }
    let beta = |t: usize| 1e-4 + (0.02 - 1e-4) * t as f64 / (LEVELS - 1) as f64;
    let alpha_bar: f64 = (0..LEVELS - step).map(|t| 1.0 - beta(t)).product();
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

/// Where `dps` stands.
pub struct DpsState {
    rng: Philox,
    first: u64,
    step: usize,
    x: Tensor,
    /// 1 / |J|, the noise of the data in units of the image.
    noise: f64,
}

impl Checkpoint for DpsState {
    const REVISION: u32 = 1;

    fn save(&self) -> TensorFile {
        let mut file = TensorFile::new();
        put_tensor(&mut file, "x", &self.x);
        file.insert_u64("counts", &[3], vec![self.rng.seed(), self.first, self.step as u64]);
        file.insert_f64("noise", &[1], vec![self.noise]);
        file
    }

    fn restore(file: &TensorFile) -> Result<Self> {
        let (&[seed, first, step], &[noise]) = (file.u64s("counts")?.1, file.f64s("noise")?.1) else {
            return Err(Error::Invalid(
                "the saved state of dps holds other counts than this version writes; start again with --force".into(),
            ));
        };
        Ok(Self { rng: Philox::new(seed), first, step: step as usize, x: tensor_of(file, "x")?, noise })
    }
}

impl Solver for Dps {
    type State = DpsState;

    fn name(&self) -> &'static str {
        "dps"
    }

    fn label(&self) -> String {
        match self.weight {
            DpsWeight::Paper { zeta } => {
                format!("DPS with the tuned weight zeta = {zeta}: approximate, neither spread nor mode weights are calibrated")
            }
            DpsWeight::Bayes => "DPS with the Bayes weight: approximate, neither spread nor mode weights are calibrated".into(),
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![(
            "weight".into(),
            match self.weight {
                DpsWeight::Paper { zeta } => format!("paper, zeta {zeta}"),
                DpsWeight::Bayes => "bayes".into(),
            },
        )]
    }

    fn needs(&self) -> Needs {
        Needs { residual: matches!(self.weight, DpsWeight::Paper { .. }), linear_gaussian: false }
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Samples
    }

    fn plan(&self, problem: &Problem, draws: usize) -> Result<Plan> {
        Ok(Plan {
            particles: draws,
            steps: LEVELS,
            network_evaluations: 2 * LEVELS as u64,
            memory_bytes: draws as u64 * problem.len() as u64 * 4 * 8,
        })
    }

    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<DpsState> {
        check_needs(self, problem)?;
        if draws.is_empty() {
            return Err(Error::Invalid("0 draws were asked for; expected at least one".into()));
        }
        let mut x = rng.normal(draws.clone(), 0, &problem.prior.item_shape())?;
        let top = sigma_after(0) as f32;
        x.data_mut().iter_mut().for_each(|v| *v *= top);
        let noise = if self.needs().residual {
            let image = vec![0.25 * problem.pixel_range() as f32; problem.len()];
            let gram = problem.likelihood.residual(&image)?.map(|at| at.gram());
            let top = gram.map_or(0.0, |g| crate::numeric::largest_eigenvalue(&g));
            if !(top > 0.0) {
                return Err(Error::Numerical(format!(
                    "the largest eigenvalue of J^T J is {top}: the data do not depend on the image"
                )));
            }
            1.0 / top.sqrt()
        } else {
            0.0
        };
        Ok(DpsState { rng, first: draws.start, step: 0, x, noise })
    }

    fn step(&self, problem: &Problem, state: &mut DpsState) -> Result<StepInfo> {
        let (s, t) = (sigma_after(state.step), sigma_after(state.step + 1));
        let n = state.x.draws();
        let (d, pullback) = problem.prior.denoise_with_pullback(&state.x, &vec![s as f32; n])?;
        let (neg_log, gradient) = problem.likelihood.neg_log_and_grad(&d)?;
        let g = pullback.vjp(&gradient)?;
        drop(pullback);
        let alpha = (t / s).powi(2);
        let spread = (t * (1.0 - alpha).sqrt()) as f32;
        let noise = state.rng.normal(state.first..state.first + n as u64, 1 + state.step as u32, &problem.prior.item_shape())?;
        let item = problem.len();
        for (i, misfit) in neg_log.iter().enumerate() {
            let pull = match self.weight {
                DpsWeight::Bayes => (1.0 - alpha) * s * s,
                // x = x_vp sqrt(1 + sigma^2): once for the gradient, once for the step.
                DpsWeight::Paper { zeta } => {
                    zeta * state.noise / (2.0 * misfit).sqrt().max(f64::MIN_POSITIVE) * ((1.0 + s * s) * (1.0 + t * t)).sqrt()
                }
            } as f32;
            let range = i * item..(i + 1) * item;
            let (d, g, e) = (&d.data()[range.clone()], &g.data()[range.clone()], &noise.data()[range.clone()]);
            for (j, x) in state.x.data_mut()[range].iter_mut().enumerate() {
                *x = alpha as f32 * *x + (1.0 - alpha as f32) * d[j] - pull * g[j] + spread * e[j];
            }
        }
        if let Some(i) = state.x.data().iter().position(|v| !v.is_finite()) {
            return Err(Error::Numerical(format!(
                "draw {} of dps diverged at noise level {t:.3e}: the data are stiffer than its explicit steps allow; use another solver (langevin, or pnp-dm for linear problems), or the paper's weight with a smaller zeta",
                i / item
            )));
        }
        state.step += 1;
        Ok(StepInfo {
            stage: "diffusion",
            step: state.step,
            total: LEVELS,
            network_evaluations: 2 * state.step as u64,
            // Before the image has formed its fit says nothing; the denoised image's is what the step looks at.
            reduced_chi2: problem.median_chi2(if t == 0.0 { &state.x } else { &d })?,
            effective_samples: None,
        })
    }

    fn finish(&self, problem: &Problem, state: DpsState) -> Result<Ensemble> {
        let misfit = populations::misfit_said(problem, &state.x)?;
        let draws = Draws {
            network_evaluations: 2 * state.step as u64,
            images: state.x,
            chains: 1,
            stats: Vec::new(),
            attributes: vec![("label".into(), format!("{misfit}{}", self.label()))],
        };
        problem.ensemble(draws, self.output_kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g1, problem, run};
    use crate::{DenseOperator, LinearGaussianLikelihood};
    use halation_lapack as _;
    use ndarray::arr2;

    fn likelihood() -> LinearGaussianLikelihood {
        LinearGaussianLikelihood::new(DenseOperator::new([1, 1, 2], arr2(&[[1.0, 0.5]]).view()).unwrap(), vec![0.9], vec![0.3])
            .unwrap()
    }

    #[test]
    fn schedule_ends() {
        // DDPM's linear schedule spans sigma = 157.4 ... 0.01.
        assert!((sigma_after(0) - 157.4).abs() < 0.1);
        assert!((sigma_after(LEVELS - 1) - 0.01).abs() < 1e-4);
        assert_eq!(sigma_after(LEVELS), 0.0);
    }

    /// The known bias of DPS with the Bayes weight on fixture G1 (an independent run of 4000: mean .785 .227, variances .079 .226), which
    /// is not the posterior (.781 .170, .106 .271): this is the method, not a lesser sampler.
    #[test]
    fn bayes_weight_has_the_known_bias() {
        let (prior, likelihood) = (g1(), likelihood());
        let problem = problem(&prior, prior.range(), &likelihood);
        let n = 2000;
        let ensemble = run(&Dps { weight: DpsWeight::Bayes }, &problem, 0, 0..n as u64);
        let x: Vec<f64> = ensemble.images.iter().map(|v| *v as f64).collect();
        for (i, (mean, variance)) in [(0.785, 0.079), (0.227, 0.226)].into_iter().enumerate() {
            let values: Vec<f64> = x.iter().skip(i).step_by(2).copied().collect();
            let m = values.iter().sum::<f64>() / n as f64;
            let v = values.iter().map(|x| (x - m).powi(2)).sum::<f64>() / n as f64;
            // Both runs have errors: four standard errors of 2000 and 4000 draws together.
            let se = (variance / n as f64 * 1.5f64).sqrt();
            assert!((m - mean).abs() < 4.0 * se + 0.002, "mean {i}: {m} against {mean}");
            assert!((v / variance - 1.0).abs() < 4.0 * (3.0 / n as f64).sqrt() + 0.01, "variance {i}: {v} against {variance}");
        }
    }

    /// A step so small that the draws are those of the prior misses sharp data, and the label says so, like the other solvers'.
    #[test]
    fn label_says_that_the_data_are_missed() {
        let operator = DenseOperator::new([1, 1, 2], arr2(&[[1.0, 0.5]]).view()).unwrap();
        let (prior, likelihood) = (g1(), LinearGaussianLikelihood::new(operator, vec![0.9], vec![1e-3]).unwrap());
        let ensemble = run(&Dps { weight: DpsWeight::Paper { zeta: 1e-6 } }, &problem(&prior, prior.range(), &likelihood), 0, 0..5);
        let label = &ensemble.attributes["label"];
        assert!(
            label.starts_with("DOES NOT FIT THE DATA (median reduced chi2 of data is") && label.contains("; DPS with"),
            "{label}"
        );
    }

    /// Draws are functions of seed and index, and a saved state continues to the same bits.
    #[test]
    fn draws_stand_alone_and_resume() {
        let (prior, likelihood) = (g1(), likelihood());
        let problem = problem(&prior, prior.range(), &likelihood);
        let all = run(&Dps::default(), &problem, 0, 0..5).images;
        let some = run(&Dps::default(), &problem, 0, 2..4).images;
        assert_eq!(all.slice(ndarray::s![.., 2..4, .., .., ..]), some);
        let mut state = Dps::default().init(&problem, Philox::new(0), 0..5).unwrap();
        (0..300).for_each(|_| assert!(!Dps::default().step(&problem, &mut state).unwrap().done()));
        let mut state = DpsState::restore(&state.save()).unwrap();
        while !Dps::default().step(&problem, &mut state).unwrap().done() {}
        assert_eq!(Dps::default().finish(&problem, state).unwrap().images, all);
    }
}
