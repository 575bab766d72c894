use crate::Outcome;
use clap::Subcommand;

mod train;

/// What is done with priors.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Train a diffusion prior on simulated images
    Train(train::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Train(args) => train::run(args),
    }
}
