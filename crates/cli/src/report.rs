use crate::{Outcome, Unusable};
use anyhow::Context;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Example:
  halation reconstruct vlbi m87.uvfits -o m87
  halation report m87                    writes m87/report.html, which opens in any browser and needs no other file")]
pub(crate) struct Args {
    /// Folder of a finished reconstruction
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Page to write [default: OUT/report.html]
    #[arg(short, long, value_name = "PAGE.html")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let page = halation_posterior::report::write_report(&args.out, args.output.as_deref()).context(Unusable)?;
    println!("{}", page.display());
    Ok(Outcome::Done)
}
