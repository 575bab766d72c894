//! Where an annealed population stands.

use crate::Problem;
use crate::curvature::SharedBasis;
use crate::solver::{put_tensor, tensor_of};
use crate::{Checkpoint, Error, Result};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use std::sync::Arc;

/// Both populations, one after the other along the first axis of every tensor.
pub struct PnpDmState {
    pub(super) rng: Philox,
    pub(super) draws: u64,
    pub(super) step: usize,
    pub(super) x: Tensor,
    /// D(z, rho) of the sweep that made `x`, and the noise of that sweep under a flat prior.
    pub(super) mean: Tensor,
    pub(super) flat: Tensor,
    pub(super) log_weights: Vec<f64>,
    pub(super) ancestors: Vec<u64>,
    pub(super) ladder: Vec<f64>,
    pub(super) curvature: f64,
    pub(super) log_evidence: [f64; 2],
    pub(super) smallest_ess: [f64; 2],
    pub(super) resamplings: [u64; 2],
    /// Not saved: it follows from the problem.
    pub(super) basis: Option<Arc<SharedBasis>>,
}

impl PnpDmState {
    pub(super) fn start(rng: Philox, draws: u64, x: Tensor, basis: Arc<SharedBasis>, ladder: Vec<f64>, curvature: f64) -> Self {
        let n = x.draws();
        Self {
            rng,
            draws,
            step: 0,
            mean: x.clone(),
            flat: Tensor::zeros(x.shape()),
            x,
            log_weights: vec![0.0; n],
            ancestors: (0..n as u64).collect(),
            ladder,
            curvature,
            log_evidence: [0.0; 2],
            smallest_ess: [n as f64 / 2.0; 2],
            resamplings: [0; 2],
            basis: Some(basis),
        }
    }

    /// The eigenbasis of J J^T, computed at first use after a restart.
    pub(super) fn basis(&mut self, problem: &Problem) -> Result<Arc<SharedBasis>> {
        let basis = match self.basis.take() {
            Some(basis) => basis,
            None => Arc::new(SharedBasis::of(problem.likelihood)?),
        };
        self.basis = Some(basis.clone());
        Ok(basis)
    }

    /// Noise levels of the anneal.
    pub fn ladder(&self) -> &[f64] {
        &self.ladder
    }
}

impl Checkpoint for PnpDmState {
    const REVISION: u32 = 1;

    fn save(&self) -> TensorFile {
        let mut file = TensorFile::new();
        put_tensor(&mut file, "x", &self.x);
        put_tensor(&mut file, "mean", &self.mean);
        put_tensor(&mut file, "flat", &self.flat);
        let n = self.log_weights.len();
        file.insert_f64("log_weights", &[n], self.log_weights.clone());
        file.insert_u64("ancestors", &[n], self.ancestors.clone());
        file.insert_f64("ladder", &[self.ladder.len()], self.ladder.clone());
        let [e0, e1] = self.log_evidence;
        let [s0, s1] = self.smallest_ess;
        file.insert_f64("numbers", &[5], vec![self.curvature, e0, e1, s0, s1]);
        let counts = vec![self.rng.seed(), self.draws, self.step as u64, self.resamplings[0], self.resamplings[1]];
        file.insert_u64("counts", &[5], counts);
        file
    }

    fn restore(file: &TensorFile) -> Result<Self> {
        let (numbers, counts) = (file.f64s("numbers")?.1, file.u64s("counts")?.1);
        let (&[curvature, e0, e1, s0, s1], &[seed, draws, step, r0, r1]) = (numbers, counts) else {
            return Err(Error::Invalid(
                "the saved state of pnp-dm holds other counts than this version writes; start again with --force".into(),
            ));
        };
        let state = Self {
            rng: Philox::new(seed),
            draws,
            step: step as usize,
            x: tensor_of(file, "x")?,
            mean: tensor_of(file, "mean")?,
            flat: tensor_of(file, "flat")?,
            log_weights: file.f64s("log_weights")?.1.to_vec(),
            ancestors: file.u64s("ancestors")?.1.to_vec(),
            ladder: file.f64s("ladder")?.1.to_vec(),
            curvature,
            log_evidence: [e0, e1],
            smallest_ess: [s0, s1],
            resamplings: [r0, r1],
            basis: None,
        };
        let n = state.x.draws();
        let same = [&state.mean, &state.flat].iter().all(|t| t.shape() == state.x.shape());
        if !same
            || state.log_weights.len() != n
            || state.ancestors.len() != n
            || !n.is_multiple_of(2)
            || n == 0
            || state.ladder.len() < 2
        {
            return Err(Error::Invalid("the saved state of pnp-dm does not fit together; start again with --force".into()));
        }
        Ok(state)
    }
}
