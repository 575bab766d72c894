use crate::Outcome;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}
