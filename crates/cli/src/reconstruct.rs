//! `halation reconstruct`: from data to an ensemble.

use crate::Outcome;

mod config;
mod linear;
mod progress;
mod run;
mod vlbi;
mod vlbi_output;

#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Any y = A x + n with a matrix A and independent Gaussian noise
    Linear(linear::Args),
    /// Black holes and jets from visibilities in UVFITS
    Vlbi(vlbi::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Linear(args) => linear::run(args),
        What::Vlbi(args) => vlbi::run(args),
    }
}
