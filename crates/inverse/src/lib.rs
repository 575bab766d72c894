//! Inverse problems: forward operators, likelihoods, posteriors known in closed form, solvers and the driver that runs them.

mod error;
mod gaussian_field;
mod likelihood;
mod operator;

pub use error::{Error, Result};
pub use gaussian_field::{FieldPosterior, GaussianField};
pub use likelihood::{Likelihood, LinearGaussian, Whitened};
pub use operator::{ForwardOperator, LinearOperator};
