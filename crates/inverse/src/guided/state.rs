//! Where a guided population stands.

use crate::curvature::{SharedBasis, shared_basis};
use crate::denoising_error::{self, DenoisingError};
use crate::solver::{put_tensor, tensor_of};
use crate::{Checkpoint, Error, Problem, Result};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use std::sync::Arc;

/// Both populations, one after the other along the first axis of every tensor.
pub struct GuidedState {
    pub(super) rng: Philox,
    pub(super) draws: u64,
    pub(super) step: usize,
    /// The noisy states at the level of `step`.
    pub(super) z: Tensor,
    /// The denoised images of the last step, and as they were one step before in this descent.
    pub(super) x: Tensor,
    pub(super) before: Tensor,
    /// Of the correctors.
    pub(super) momentum: Tensor,
    pub(super) ancestors: Vec<u64>,
    pub(super) ladder: Vec<f64>,
    /// Index of the last level of every descent.
    pub(super) ends: Vec<usize>,
    /// The denoising error as measured, at falling noise levels.
    pub(super) errors: Vec<DenoisingError>,
    pub(super) curvature: f64,
    /// Lowest log prior of the prior samples.
    pub(super) known: f64,
    /// Fewest states of each population that a choice has kept.
    pub(super) fewest_kept: [usize; 2],
    /// The population that found nothing as good as the other did.
    pub(super) lost: Option<usize>,
    /// Of a linear problem; not saved, it follows from the problem.
    pub(super) basis: Option<Arc<SharedBasis>>,
}

impl GuidedState {
    /// That of the problem, computed at first use after a resume.
    pub(super) fn basis(&mut self, problem: &Problem) -> Result<Option<Arc<SharedBasis>>> {
        if self.basis.is_none() {
            self.basis = shared_basis(problem)?;
        }
        Ok(self.basis.clone())
    }
}

impl Checkpoint for GuidedState {
    const REVISION: u32 = 3;

    fn save(&self) -> TensorFile {
        let mut file = TensorFile::new();
        put_tensor(&mut file, "z", &self.z);
        put_tensor(&mut file, "x", &self.x);
        put_tensor(&mut file, "before", &self.before);
        put_tensor(&mut file, "momentum", &self.momentum);
        let n = self.ancestors.len();
        file.insert_u64("ancestors", &[n], self.ancestors.clone());
        file.insert_f64("ladder", &[self.ladder.len()], self.ladder.clone());
        file.insert_u64("ends", &[self.ends.len()], self.ends.iter().map(|e| *e as u64).collect());
        let errors = self.errors.iter().flat_map(|e| e.to_array()).collect();
        file.insert_f64("errors", &[self.errors.len(), denoising_error::FIELDS], errors);
        file.insert_f64("measured", &[2], vec![self.curvature, self.known]);
        let [k0, k1] = self.fewest_kept.map(|k| k as u64);
        let lost = self.lost.map_or(0, |p| p as u64 + 1);
        file.insert_u64("counts", &[6], vec![self.rng.seed(), self.draws, self.step as u64, k0, k1, lost]);
        file
    }

    fn restore(file: &TensorFile) -> Result<Self> {
        let damaged = || Error::Invalid("the saved state of guided does not fit together; start again with --force".into());
        let (&[curvature, known], &[seed, draws, step, k0, k1, lost]) = (file.f64s("measured")?.1, file.u64s("counts")?.1) else {
            return Err(damaged());
        };
        let state = Self {
            rng: Philox::new(seed),
            draws,
            step: step as usize,
            z: tensor_of(file, "z")?,
            x: tensor_of(file, "x")?,
            before: tensor_of(file, "before")?,
            momentum: tensor_of(file, "momentum")?,
            ancestors: file.u64s("ancestors")?.1.to_vec(),
            ladder: file.f64s("ladder")?.1.to_vec(),
            ends: file.u64s("ends")?.1.iter().map(|e| *e as usize).collect(),
            errors: file.f64s("errors")?.1.as_chunks().0.iter().map(DenoisingError::of_array).collect(),
            curvature,
            known,
            fewest_kept: [k0 as usize, k1 as usize],
            lost: lost.checked_sub(1).map(|p| p as usize),
            basis: None,
        };
        let n = state.x.draws();
        if [&state.z, &state.before, &state.momentum].iter().any(|t| t.shape() != state.x.shape())
            || state.ancestors.len() != n
            || !n.is_multiple_of(2)
            || n == 0
            || state.ends.last() != Some(&(state.ladder.len().wrapping_sub(1)))
            || state.step > state.ladder.len()
            || state.errors.len() < 2
        {
            return Err(damaged());
        }
        Ok(state)
    }
}
