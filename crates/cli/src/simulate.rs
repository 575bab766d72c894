use crate::Outcome;
use clap::Subcommand;

mod sources;
mod vlbi;

/// What is simulated.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Visibilities of an image through the uv coverage of a file or of an array and a schedule
    Vlbi(vlbi::Args),
    // The text is that of its arguments: one here would hide it, with its example.
    Sources(sources::Args),
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Vlbi(args) => vlbi::run(args),
        What::Sources(args) => sources::run(args),
    }
}
