//! `halation reconstruct`: from data to an ensemble.

use crate::Outcome;

mod config;
mod linear;
mod run;

#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Any y = A x + n with a matrix A and independent Gaussian noise
    Linear(linear::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Linear(args) => linear::run(args),
    }
}
