//! Diffusion priors: the [`Denoiser`] trait, networks, checkpoints, training and unconditional samplers.

pub mod checkpoint;
mod denoiser;
mod error;
mod folder;
mod precond;
pub mod prior;
pub mod quality;
mod sample;
pub mod schedule;
mod source;
pub mod train;
mod unet;
mod wiener;

pub use denoiser::{Denoiser, Pullback};
pub use error::{Error, Result};
pub use folder::ImageFolder;
pub use precond::{Coefficients, Precond, UNetDenoiser};
pub use prior::{PriorCard, PriorInfo, add_prior_metadata, load_prior, load_unet_prior, read_prior, read_prior_metadata};
pub use sample::{SampleConfig, Sampler, ancestral_step, sample};
pub use source::ImageSource;
pub use unet::{Family, GradientSum, Parameter, Tape, UNet, UNetConfig, family};
pub use wiener::Wiener;
