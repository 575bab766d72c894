//! Diffusion priors: the [`Denoiser`] trait, networks, checkpoints, training and unconditional samplers.

pub mod checkpoint;
mod denoiser;
mod error;
mod precond;
pub mod schedule;
mod source;
mod unet;

pub use denoiser::{Denoiser, Pullback};
pub use error::{Error, Result};
pub use precond::{Coefficients, Precond, UNetDenoiser};
pub use source::ImageSource;
pub use unet::{GradientSum, Parameter, SongUNet, Tape, UNetConfig};
