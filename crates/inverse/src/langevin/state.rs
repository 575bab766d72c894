//! Where the populations stand.

use super::families::Families;
use crate::curvature::{SharedBasis, shared_basis};
use crate::denoising_error::{self, DenoisingError};
use crate::solver::{put_tensor, tensor_of};
use crate::{Checkpoint, Error, Problem, Result};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use std::sync::Arc;

/// Both populations, one after the other along the first axis of every tensor.
pub struct LangevinState {
    pub(super) rng: Philox,
    pub(super) draws: u64,
    pub(super) step: usize,
    /// The noisy states at the level of `step`.
    pub(super) z: Tensor,
    /// The images of the last step.
    pub(super) x: Tensor,
    /// Momenta along pixels.
    pub(super) momentum: Tensor,
    /// Momenta along data, particle after particle.
    pub(super) data_momentum: Vec<f64>,
    pub(super) ancestors: Vec<u64>,
    /// Those that share a structure.
    pub(super) families: Families,
    /// The noise levels of this descent, and its number.
    pub(super) sigmas: Vec<f64>,
    pub(super) descent: usize,
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

impl LangevinState {
    /// That of the problem, computed at first use after a resume.
    pub(super) fn basis(&mut self, problem: &Problem) -> Result<Option<Arc<SharedBasis>>> {
        if self.basis.is_none() {
            self.basis = shared_basis(problem)?;
        }
        Ok(self.basis.clone())
    }
}

impl Checkpoint for LangevinState {
    const REVISION: u32 = 2;

    fn save(&self) -> TensorFile {
        let mut file = TensorFile::new();
        put_tensor(&mut file, "z", &self.z);
        put_tensor(&mut file, "x", &self.x);
        put_tensor(&mut file, "momentum", &self.momentum);
        let n = self.ancestors.len();
        file.insert_f64("data_momentum", &[self.data_momentum.len()], self.data_momentum.clone());
        file.insert_u64("ancestors", &[n], self.ancestors.clone());
        file.insert_u64("families", &[n], self.families.of.clone());
        file.insert_f64("families_seen", &[n, 3], self.families.seen.concat());
        file.insert_f64("sigmas", &[self.sigmas.len()], self.sigmas.clone());
        let errors = self.errors.iter().flat_map(|e| e.to_array()).collect();
        file.insert_f64("errors", &[self.errors.len(), denoising_error::FIELDS], errors);
        file.insert_f64("measured", &[2], vec![self.curvature, self.known]);
        let [k0, k1] = self.fewest_kept.map(|k| k as u64);
        let lost = self.lost.map_or(0, |p| p as u64 + 1);
        file.insert_u64("counts", &[7], vec![self.rng.seed(), self.draws, self.step as u64, k0, k1, lost, self.descent as u64]);
        file
    }

    fn restore(file: &TensorFile) -> Result<Self> {
        let damaged = || Error::Invalid("the saved state of langevin does not fit together; start again with --force".into());
        let (&[curvature, known], &[seed, draws, step, k0, k1, lost, descent]) = (file.f64s("measured")?.1, file.u64s("counts")?.1)
        else {
            return Err(damaged());
        };
        let state = Self {
            rng: Philox::new(seed),
            draws,
            step: step as usize,
            z: tensor_of(file, "z")?,
            x: tensor_of(file, "x")?,
            momentum: tensor_of(file, "momentum")?,
            data_momentum: file.f64s("data_momentum")?.1.to_vec(),
            ancestors: file.u64s("ancestors")?.1.to_vec(),
            families: Families {
                of: file.u64s("families")?.1.to_vec(),
                seen: file.f64s("families_seen")?.1.as_chunks().0.to_vec(),
            },
            sigmas: file.f64s("sigmas")?.1.to_vec(),
            descent: descent as usize,
            errors: file.f64s("errors")?.1.as_chunks().0.iter().map(DenoisingError::of_array).collect(),
            curvature,
            known,
            fewest_kept: [k0 as usize, k1 as usize],
            lost: lost.checked_sub(1).map(|p| p as usize),
            basis: None,
        };
        let n = state.x.draws();
        if [&state.z, &state.momentum].iter().any(|t| t.shape() != state.x.shape())
            || [state.ancestors.len(), state.families.of.len(), state.families.seen.len()] != [n; 3]
            || state.families.of.iter().any(|f| *f >= n as u64)
            || !n.is_multiple_of(2)
            || n == 0
            || state.sigmas.is_empty()
            || state.data_momentum.is_empty()
            || !state.data_momentum.len().is_multiple_of(n)
            || state.errors.len() < 2
        {
            return Err(damaged());
        }
        Ok(state)
    }
}
