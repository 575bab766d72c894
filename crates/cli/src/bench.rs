use crate::Outcome;

#[derive(clap::Subcommand)]
pub(crate) enum What {}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {}
}
