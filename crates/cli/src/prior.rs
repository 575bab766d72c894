use crate::Outcome;
use clap::Subcommand;

mod eval;
mod info;
mod quality;
mod ring_share;
mod sample;
mod train;

/// What is done with priors.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Train a diffusion prior on simulated images
    Train(train::Args),
    /// Say what a prior file is
    Info(info::Args),
    /// Draw images from a prior
    Sample(sample::Args),
    /// Evaluate a network on given inputs, or measure a prior: denoising errors and ring share
    Eval(eval::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Train(args) => train::run(args),
        What::Info(args) => info::run(args),
        What::Sample(args) => sample::run(args),
        What::Eval(args) => eval::run(args),
    }
}
