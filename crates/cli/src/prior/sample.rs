use crate::{Outcome, Unusable};
use anyhow::{Context, bail};
use clap::ValueEnum;
use halation_compute::Philox;
use halation_io::{Colours, OutputFile, TensorFile, contact_sheet};
use halation_nn::{Denoiser, Precond, SampleConfig, Sampler, load_unet_prior, sample};
use indicatif::ProgressBar;
use ndarray::ArrayView2;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Draw images from a prior and write them as a contact sheet (PNG) or as tensors (safetensors), by the ending of the name.
///
/// Example: halation prior sample data/priors/vlbi-64.safetensors -n 64 -o sheet.png
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The prior
    file: PathBuf,
    /// Number of images
    #[arg(short, long, default_value_t = 64)]
    number: usize,
    /// How to go from one noise level to the next [default: ancestral; consistency for a consistency model, which has no other]
    #[arg(long, value_enum)]
    sampler: Option<Method>,
    /// Noise levels of the sampler [default: 40; 2 of a consistency model]
    #[arg(long)]
    steps: Option<usize>,
    /// With --sampler heun: fresh noise along the way, 0 for none
    #[arg(long, default_value_t = 0.0)]
    churn: f64,
    /// Largest noise level
    #[arg(long, default_value_t = 80.0)]
    sigma_max: f64,
    /// Smallest noise level [default: 0.002; 0.8 of a consistency model]
    #[arg(long)]
    sigma_min: Option<f64>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What to write: *.png or *.safetensors
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Method {
    /// Fresh noise at each level, one network call a level: the prior as the solvers have it
    #[value(name = Sampler::Ancestral.name())]
    Ancestral,
    /// The probability flow by Heun's method (Karras et al. 2022), two network calls a level
    #[value(name = Sampler::heun(0.0).name())]
    Heun,
    /// Of a consistency model: to the end of the path, noise again, one network call a level
    Consistency,
}

/// Noise levels unless others are asked for.
pub(super) const STEPS: usize = 40;

/// Stream of the random numbers: far from those of training and of the solvers.
const STREAM: u16 = 0x5a00;

/// Images that go through the network together: what bounds the memory.
const BATCH: u64 = 64;

/// Samples 0 to `number` of the prior, one after another; `each` is called after every level of every batch with the images in it.
pub(super) fn draw(
    prior: &dyn Denoiser,
    number: u64,
    config: &SampleConfig,
    seed: u64,
    mut each: impl FnMut(u64),
) -> halation_nn::Result<Vec<f32>> {
    let rng = Philox::new(seed).stream(STREAM);
    let mut samples = Vec::new();
    for first in (0..number).step_by(BATCH as usize) {
        let draws = first..(first + BATCH).min(number);
        let count = draws.end - draws.start;
        samples.extend_from_slice(sample(prior, rng, draws, config, |_| each(count))?.data());
    }
    Ok(samples)
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let ending = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    if !["png", "safetensors"].contains(&ending.as_str()) {
        let message = format!("{}: found the ending {ending:?}, expected .png or .safetensors", args.out.display());
        bail!(anyhow::anyhow!(message).context(Unusable));
    }
    if args.number == 0 {
        bail!(anyhow::anyhow!("-n 0: expected at least one image").context(Unusable));
    }
    OutputFile::check(&args.out).context(Unusable)?;
    let path = crate::find::prior(&args.file).context(Unusable)?;
    let (prior, info) = load_unet_prior(&path).context(Unusable)?;
    let blur = match *prior.precond() {
        Precond::Consistency { sigma_min, .. } => Some(sigma_min),
        _ => None,
    };
    let usual = if blur.is_some() { Method::Consistency } else { Method::Ancestral };
    let sampler = match (args.sampler.unwrap_or(usual), blur) {
        (Method::Consistency, Some(blur)) if args.churn == 0.0 => Sampler::Consistency { blur },
        (Method::Heun, None) => Sampler::heun(args.churn),
        (Method::Ancestral, None) if args.churn == 0.0 => Sampler::Ancestral,
        (method, blur) => {
            let method = method.to_possible_value().map_or(String::new(), |v| v.get_name().to_string());
            let (what, goes) = match blur {
                Some(_) => ("a consistency model", "--sampler consistency without --churn"),
                None => {
                    ("a denoiser", "--sampler ancestral, which always adds fresh noise, or --sampler heun, which may have --churn")
                }
            };
            let message =
                format!("{} is {what}: found --sampler {method} and --churn {}, expected {goes}", args.file.display(), args.churn);
            bail!(anyhow::anyhow!(message).context(Unusable))
        }
    };
    let (steps, sigma_min) = if blur.is_some() { (2, 0.8) } else { (STEPS, 0.002) };
    let steps = args.steps.unwrap_or(steps);
    let (sigma_max, sigma_min) = (args.sigma_max, args.sigma_min.unwrap_or(sigma_min));
    let config = SampleConfig { steps, sigma_min, sigma_max, sampler };
    let number = args.number as u64;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(number * steps as u64) } else { ProgressBar::hidden() };
    let samples = draw(&prior, number, &config, args.seed, |n| bar.inc(n)).context(Unusable)?;
    bar.finish_and_clear();
    let [channels, height, width] = prior.item_shape();
    if ending == "png" {
        let planes = samples.chunks_exact(channels * height * width);
        let images =
            planes.map(|item| ArrayView2::from_shape((height, width), &item[..height * width])).collect::<Result<Vec<_>, _>>()?;
        let [low, high] = info.card.range.map(|v| v as f32);
        let columns = (args.number as f64).sqrt().ceil() as usize;
        contact_sheet(&images, columns, if width < 100 { 2 } else { 1 }, Some((low, high)), Colours::Ember).write_png(&args.out)?;
    } else {
        let mut file = TensorFile::new();
        file.insert_f32("samples", &[args.number, channels, height, width], samples);
        for (key, value) in [("prior_sha256", info.sha256), ("seed", args.seed.to_string()), ("sampler", format!("{config:?}"))] {
            file.metadata.insert(key.into(), value);
        }
        file.write(&args.out)?;
    }
    eprintln!("halation: {} images of {} in {}", args.number, args.file.display(), args.out.display());
    Ok(Outcome::Done)
}
