//! Diffusion priors: the [`Denoiser`] trait, networks, checkpoints, training and unconditional samplers.

mod denoiser;
mod error;
mod source;

pub use denoiser::{Denoiser, Pullback};
pub use error::{Error, Result};
pub use source::ImageSource;
