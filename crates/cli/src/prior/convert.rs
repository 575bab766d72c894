use crate::{Outcome, Unusable};
use anyhow::Context;
use halation_io::{OutputFile, sha256_of_file};
use halation_nn::PriorCard;
use halation_nn::checkpoint::read_foreign;
use halation_nn::prior::write_unet_prior;
use std::path::PathBuf;

/// Make a prior file of a checkpoint of another program: PyTorch (.pt, .pth) or safetensors.
///
/// Reads the U-Nets of EDM (SongUNet: DDPM++, NCSN++; DhariwalUNet), guided-diffusion (ADM), the OpenAI consistency models, score_sde and
/// rectified flow. Only tensors are read: the code of a pickle never runs, and a file that names classes of its own is refused. Averaged (EMA)
/// weights are preferred to raw ones. Every tensor must be used once and none be left over. docs/checkpoints.md says what config.json holds.
///
/// Example: halation prior convert ffhq_10m.pt --arch config.json --trained-on FFHQ -o ffhq-256.safetensors
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    checkpoint: PathBuf,
    /// Its architecture, when no config.json beside the file says it
    #[arg(long, value_name = "CONFIG.json")]
    arch: Option<PathBuf>,
    /// The key of the file under which the weights are, such as ema, model or ema.shadow_params
    #[arg(long, value_name = "KEY")]
    weights: Option<String>,
    /// Smallest and largest value of an image in the network's own units
    #[arg(long, value_name = "MIN,MAX", allow_hyphen_values = true, value_parser = crate::units::range, default_value = "-1,1")]
    range: [f64; 2],
    /// What a value means
    #[arg(long, default_value = "")]
    unit: String,
    /// The images that it was trained on
    #[arg(long, default_value = "")]
    trained_on: String,
    /// How it was made, in words
    #[arg(long, default_value = "")]
    card: String,
    /// The prior
    #[arg(short, long, value_name = "OUT.safetensors")]
    out: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    OutputFile::check(&args.out).context(Unusable)?;
    let (denoiser, weights) = read_foreign(&args.checkpoint, args.arch.as_deref(), args.weights.as_deref()).context(Unusable)?;
    let name = args.checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let mut card =
        PriorCard { range: args.range, unit: args.unit, trained_on: args.trained_on, card: args.card, extra: Default::default() };
    card.extra.insert("converted_from".into(), format!("{name}, sha256 {}", sha256_of_file(&args.checkpoint)?));
    if !weights.is_empty() {
        card.extra.insert("converted_weights".into(), weights.clone());
    }
    write_unet_prior(&args.out, &denoiser, &card)?;
    let net = denoiser.net();
    let of = if weights.is_empty() { String::new() } else { format!(" of {weights}") };
    println!("{}: {} tensors{of}, {} parameters", args.out.display(), net.parameters().len(), net.theta().len());
    Ok(Outcome::Done)
}
