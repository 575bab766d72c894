//! What every solver is to the driver: a state that advances step by step and can be written down and read back.

use crate::{Error, Problem, Result};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use halation_posterior::{Ensemble, OutputKind};
use std::ops::Range;

/// Named tensors out, named tensors in: a state that continues to the same bits.
pub trait Checkpoint: Sized {
    /// Raised where states of before would go on to another result: they are refused.
    const REVISION: u32;
    /// Everything that the next step depends on.
    fn save(&self) -> TensorFile;
    /// The state that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    /// A tensor is missing or has another type or shape.
    fn restore(file: &TensorFile) -> Result<Self>;
}

/// What a solver cannot do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The likelihood's whitened residual with its Jacobian.
    pub residual: bool,
    /// A linear operator with Gaussian noise.
    pub linear_gaussian: bool,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepInfo {
    /// Stage in words, for example `anneal`.
    pub stage: &'static str,
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub total: usize,
    /// Network evaluations of one particle so far.
    pub network_evaluations: u64,
    /// Median over the particles of the reduced chi2 of every data product.
    pub reduced_chi2: Vec<(String, f64)>,
    /// Smaller effective sample size of the populations, where the solver weighs its particles.
    pub effective_samples: Option<f64>,
}

impl StepInfo {
    /// Whether nothing is left to do.
    pub fn done(&self) -> bool {
        self.step >= self.total
    }
}

/// What a run will cost, for `--dry-run`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Images that travel together through the network.
    pub particles: usize,
    /// Steps in all.
    pub steps: usize,
    /// Network evaluations of one particle in all (a vector-Jacobian product counts as one more).
    pub network_evaluations: u64,
    /// Bytes of the state and of one step's work, without the network's.
    pub memory_bytes: u64,
}

/// A method that turns a problem into an ensemble.
pub trait Solver: Sync {
    /// Where the run stands.
    type State: Checkpoint;
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// What the output is, in a sentence that goes into every output file.
    fn label(&self) -> String;
    /// Settings as (name, value), complete.
    fn settings(&self) -> Vec<(String, String)>;
    /// What the problem has to offer.
    fn needs(&self) -> Needs;
    /// What the images are.
    fn output_kind(&self) -> OutputKind;
    /// What a run costs.
    ///
    /// # Errors
    /// Settings that do not fit the problem.
    fn plan(&self, problem: &Problem, draws: usize) -> Result<Plan>;
    /// Does once what the data cost a particle in a step, for the time that this takes; the network's part is in [`Plan::network_evaluations`].
    ///
    /// # Errors
    /// A likelihood failed.
    fn rehearse(&self, problem: &Problem, image: &[f32]) -> Result<()> {
        let shape = problem.shape(1);
        problem.likelihood.neg_log_and_grad(&Tensor::from_vec(&shape, image.to_vec())?).map(drop)
    }
    /// The state before the first step.
    ///
    /// # Errors
    /// The problem lacks what the solver needs, or a network or likelihood failed.
    fn init(&self, problem: &Problem, rng: Philox, draws: Range<u64>) -> Result<Self::State>;
    /// What the start or a resumed state says about the run, in lines for the user.
    fn describe(&self, state: &Self::State) -> Vec<String> {
        let _ = state;
        Vec::new()
    }
    /// One step.
    ///
    /// # Errors
    /// A network or likelihood failed, or numbers are no longer finite.
    fn step(&self, problem: &Problem, state: &mut Self::State) -> Result<StepInfo>;
    /// The ensemble, once [`StepInfo::done`].
    ///
    /// # Errors
    /// A likelihood failed.
    fn finish(&self, problem: &Problem, state: Self::State) -> Result<Ensemble>;
}

/// Fails, before anything was computed, when `problem` does not offer what `solver` needs.
///
/// # Errors
/// [`Error::Needs`] with solver, capability and remedy.
pub fn check_needs<S: Solver>(solver: &S, problem: &Problem) -> Result<()> {
    let shape = problem.prior.item_shape();
    if shape != problem.likelihood.item_shape() {
        return Err(Error::Invalid(format!(
            "the prior makes images of shape {shape:?} (channel, y, x), the problem has {:?}; use a prior of that size or change the grid",
            problem.likelihood.item_shape()
        )));
    }
    let missing = |needs, remedy: &str| Err(Error::Needs { solver: solver.name(), needs, remedy: remedy.into() });
    let needs = solver.needs();
    if needs.linear_gaussian && problem.likelihood.linear_gaussian().is_none() {
        return missing("a linear operator with Gaussian noise", "use --solver langevin or --solver dps");
    }
    if needs.residual {
        let x = vec![0.25 * problem.pixel_range() as f32; shape.iter().product()];
        if problem.likelihood.residual(&x)?.is_none() {
            return missing("a whitened residual", "use --solver dps");
        }
    }
    Ok(())
}

/// The images of an ensemble in the prior's units, before the problem's map to physical units.
#[derive(Clone, Debug)]
pub struct Draws {
    /// (draw, channel, y, x), chain after chain.
    pub images: Tensor,
    /// Number of chains, which divides the draws.
    pub chains: usize,
    /// Network evaluations of one draw.
    pub network_evaluations: u64,
    /// More per draw: name, description, values.
    pub stats: Vec<(String, String, Vec<f64>)>,
    /// Root attributes.
    pub attributes: Vec<(String, String)>,
}

pub(crate) fn tensor_of(file: &TensorFile, name: &str) -> Result<Tensor> {
    let (shape, values) = file.f32s(name)?;
    Ok(Tensor::from_vec(shape, values.to_vec())?)
}

pub(crate) fn put_tensor(file: &mut TensorFile, name: &str, tensor: &Tensor) {
    file.insert_f32(name, tensor.shape(), tensor.data().to_vec());
}
