//! Inverse problems: forward operators, likelihoods, posteriors known in closed form, solvers and the driver that runs them.

mod agreement;
mod check;
mod curvature;
mod denoising_error;
mod dps;
mod driver;
mod error;
mod field_posterior;
mod gaussian_field;
mod langevin;
mod likelihood;
mod linear;
mod mixture;
mod mixture_posterior;
mod numeric;
mod operator;
mod plausibility;
mod pnp_dm;
mod populations;
mod problem;
mod solver;
mod start;
#[cfg(test)]
mod testing;

pub use agreement::Agreement;
pub use check::{Checked, check_likelihood, check_linear, check_vjp};
pub use dps::{Dps, DpsState, DpsWeight};
pub use driver::{Drive, Driven, Progress, STATE_FILE, drive};
pub use error::{Error, Result};
pub use field_posterior::{DirectionPosterior, FieldConditioning, FieldPosterior};
pub use gaussian_field::GaussianField;
pub use langevin::{Langevin, LangevinState};
pub use likelihood::{Likelihood, LinearGaussian, Whitened};
pub use linear::{DenseOperator, LinearGaussianLikelihood};
pub use mixture::GaussianMixture;
pub use mixture_posterior::MixturePosterior;
pub use operator::{ForwardOperator, LinearOperator};
pub use pnp_dm::{PnpDm, PnpDmState};
pub use problem::{Domain, Presented, Problem};
pub use solver::{Checkpoint, Draws, Needs, Plan, Solver, StepInfo, check_needs};
pub use start::{START_CALLS, sample_prior};
