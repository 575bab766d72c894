use crate::Outcome;
use clap::Subcommand;

mod convert;
mod eval;
mod info;
mod quality;
mod ring_share;
mod sample;
mod train;

/// What is done with priors. The text of each is that of its arguments: one here would hide it, with its example.
#[derive(Subcommand)]
pub(crate) enum What {
    Train(Box<train::Args>),
    Info(info::Args),
    Sample(sample::Args),
    Eval(eval::Args),
    Convert(convert::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Train(args) => train::run(*args),
        What::Info(args) => info::run(args),
        What::Sample(args) => sample::run(args),
        What::Eval(args) => eval::run(args),
        What::Convert(args) => convert::run(args),
    }
}
