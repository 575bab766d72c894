use crate::{Outcome, Unusable};
use anyhow::Context;
use std::path::PathBuf;

/// Say what a prior file is: its kind, its images, its origin and its hash.
///
/// Example: halation prior info data/priors/vlbi-64.safetensors
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The prior: a name or a file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let info = halation_nn::read_prior_metadata(&crate::find::prior(&args.file).context(Unusable)?).context(Unusable)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&info)?);
        return Ok(Outcome::Done);
    }
    let shape: Vec<String> = info.image_shape.iter().map(usize::to_string).collect();
    println!("{}: {}, {} parameters", info.path.display(), info.kind, info.parameters);
    println!("images      {} (channel, y, x), values {} to {}", shape.join(" x "), info.card.range[0], info.card.range[1]);
    for (name, text) in [("unit", &info.card.unit), ("trained on", &info.card.trained_on), ("card", &info.card.card)] {
        if !text.is_empty() {
            println!("{name:11} {text}");
        }
    }
    if let Some(config) = &info.config {
        println!("network     {config}");
    }
    // Among them fov_uas, the fields of a VLBI prior, and ring_probability, the share of its samples that pass the ring gate.
    let width = info.card.extra.keys().map(String::len).max().unwrap_or(0).max(11);
    for (name, text) in &info.card.extra {
        println!("{name:width$} {text}");
    }
    println!("sha256      {}", info.sha256);
    Ok(Outcome::Done)
}
