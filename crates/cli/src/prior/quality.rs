//! `halation prior eval --source`: the figures of a prior's card.

use super::ring_share::{RingShares, ring_shares};
use super::sample;
use crate::{Outcome, Unusable, units};
use anyhow::{Context, anyhow, bail};
use halation_nn::quality::{DenoisingError, LOW_FREQUENCY, denoising_errors};
use halation_nn::train::{TrainingImages, training_of};
use halation_nn::{Denoiser, ImageSource, PriorInfo, SampleConfig, Wiener, add_prior_metadata, load_prior};
use halation_vlbi::ring::passes_ring_gate;
use halation_vlbi::sources::{SOURCES, SourceSimulator};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
#[command(next_help_heading = "Measuring a prior")]
pub(crate) struct Options {
    /// Measure the prior against this source of images: `vlbi-sources` or `vlbi-sources-spots`
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// Fresh images, and as many of the training run, evenly spaced over it
    #[arg(long, value_name = "N", default_value_t = 256, requires = "source", value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    images: u64,
    /// Further fresh images: for the linear denoiser and for the simulator's ring share
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "source", value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    reference: u64,
    /// Noise levels
    #[arg(
        long,
        value_name = "SIGMA,...",
        value_delimiter = ',',
        default_value = "0.001,0.003,0.01,0.03,0.1,0.2,0.5,1,2,5,10,40",
        requires = "source"
    )]
    sigmas: Vec<f64>,
    /// Seed of fresh images, noise and samples [default: that of the training run plus one]
    #[arg(long, requires = "source")]
    seed: Option<u64>,
    /// Seed of the training run, for a file that does not say it
    #[arg(long, value_name = "SEED", requires_all = ["source", "train_images"])]
    train_seed: Option<u64>,
    /// Images that the training run saw, for a file that does not say it
    #[arg(long, value_name = "N", requires_all = ["source", "train_seed"])]
    train_images: Option<u64>,
    /// Samples of the prior for its ring share, 0 for none
    #[arg(long, value_name = "N", default_value_t = 500, requires = "source", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    samples: u64,
    /// Field of view in which samples go through the ring gate
    #[arg(long, value_name = "ANGLE", default_value = "128uas", value_parser = units::angle_rad, requires = "source")]
    fov: f64,
    /// Store the ring share of the samples in the prior file as metadata `ring_probability`, which reconstructions show beside their own
    /// (with how it was found in `ring_probability_from`, and what the source says about a prior trained on it). After training: a
    /// running one rewrites the file
    #[arg(long, requires = "source")]
    record: bool,
    /// Print JSON
    #[arg(long, requires = "source")]
    json: bool,
}

/// The training run of a prior, as far as its images go.
struct Run {
    seed: u64,
    dihedral: bool,
    images: Range<u64>,
}

impl Run {
    fn saw(&self) -> u64 {
        self.images.end.saturating_sub(self.images.start)
    }
}

/// The training run on this source, or why its images cannot be made again.
fn training_run(source: &str, options: &Options, info: &PriorInfo, size: usize) -> anyhow::Result<Result<Run, String>> {
    if let (Some(seed), Some(images)) = (options.train_seed, options.train_images) {
        return Ok(Ok(Run { seed, dihedral: false, images: 0..images }));
    }
    let Some((config, seen)) = training_of(info)? else {
        return Ok(Err("the file has no metadata \"training\" and \"images_seen\"; give --train-seed and --train-images".into()));
    };
    if SourceSimulator::named(source, config.seed, size)?.describe() != info.card.trained_on {
        return Ok(Err("metadata trained_on does not describe this version of the source".into()));
    }
    Ok(Ok(Run { seed: config.seed, dihedral: config.dihedral, images: config.first_image..seen }))
}

/// The errors at one noise level.
#[derive(Serialize)]
struct Row {
    fresh: DenoisingError,
    training: Option<DenoisingError>,
    linear: DenoisingError,
}

impl Row {
    /// RMS error on fresh images over that on training images, and its standard error.
    fn fresh_over_training(&self) -> Option<(f64, f64)> {
        let training = self.training?;
        let ratio = self.fresh.rms / training.rms;
        Some((ratio, ratio * (self.fresh.rms_error / self.fresh.rms).hypot(training.rms_error / training.rms)))
    }
}

/// A bar on a terminal, otherwise a line at the start and every half a minute.
struct Stage {
    bar: ProgressBar,
    name: &'static str,
    last: Instant,
}

impl Stage {
    fn new(name: &'static str, length: u64) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(length)
        } else {
            eprintln!("halation: {name}");
            ProgressBar::with_draw_target(Some(length), indicatif::ProgressDrawTarget::hidden())
        };
        Self { bar, name, last: Instant::now() }
    }

    fn add(&mut self, n: u64) {
        self.bar.inc(n);
        if self.bar.is_hidden() && self.last.elapsed() > Duration::from_secs(30) {
            self.last = Instant::now();
            eprintln!("halation: {}, {} of {}", self.name, self.bar.position(), self.bar.length().unwrap_or(0));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Everything that is reported.
struct Report<'a> {
    info: &'a PriorInfo,
    options: &'a Options,
    source: String,
    seed: u64,
    run: Result<(Run, usize), String>,
    rows: Vec<Row>,
    /// How the samples for the ring gate are drawn.
    sampling: SampleConfig,
    rings: Option<RingShares>,
}

pub(super) fn run(path: &Path, source: &str, options: &Options) -> anyhow::Result<Outcome> {
    if !SOURCES.contains(&source) {
        let message = format!("no source of images is called {source:?}; there are {}", SOURCES.join(" and "));
        bail!(anyhow!(message).context(Unusable));
    }
    if options.record && options.samples == 0 {
        bail!(anyhow!("--record stores the ring share of samples, and --samples is 0; give --samples 500").context(Unusable));
    }
    let path = &crate::find::prior(path).context(Unusable)?;
    let (prior, info) = load_prior(path).context(Unusable)?;
    let [channels, size, width] = prior.item_shape();
    if channels != 1 || size != width || info.card.range != [-1.0, 1.0] {
        let message = format!(
            "{}: found images of {channels} x {size} x {width} (channel, y, x) with values {:?}; {source} has one channel, square images \
             and values -1 to 1: give a prior trained on it",
            path.display(),
            info.card.range
        );
        bail!(anyhow!(message).context(Unusable));
    }
    let run = training_run(source, options, &info, size).context(Unusable)?;
    let seed = options.seed.unwrap_or_else(|| run.as_ref().map_or(1, |r| r.seed.wrapping_add(1)));
    if run.as_ref().is_ok_and(|r| r.seed == seed) {
        bail!(anyhow!("--seed {seed} is that of the training run, whose images are not fresh; give another").context(Unusable));
    }
    let reference = options.images..options.images + options.reference;
    let simulator = SourceSimulator::named(source, seed, size).context(Unusable)?;
    // A field that the gate cannot take should not be found out after minutes of sampling.
    passes_ring_gate(&simulator.image(0).1, size, options.fov).context(Unusable)?;

    let levels = options.sigmas.len() as u64;
    let measure = |name, denoiser: &dyn Denoiser, source: &dyn ImageSource, images: &[u64]| {
        let mut stage = Stage::new(name, images.len() as u64 * levels);
        denoising_errors(denoiser, source, images, &options.sigmas, seed, |n| stage.add(n as u64)).context(Unusable)
    };
    let fresh: Vec<u64> = (0..options.images).collect();
    let wiener = Wiener::fit(&simulator, reference.clone()).context(Unusable)?;
    let linear = measure("linear denoiser on fresh images", &wiener, &simulator, &fresh)?;
    let network = measure("network on fresh images", &prior, &simulator, &fresh)?;
    let (run, training) = match run {
        Ok(run) if run.saw() < 2 => (Err(format!("the run saw {} image(s)", run.saw())), None),
        Ok(run) => {
            let count = options.images.min(run.saw());
            let number = |i| run.images.start + (i as u128 * run.saw() as u128 / count as u128) as u64;
            let numbers: Vec<u64> = (0..count).map(number).collect();
            let simulator = SourceSimulator::named(source, run.seed, size).context(Unusable)?;
            let images = TrainingImages::new(&simulator, run.seed, run.dihedral);
            let errors = measure("network on training images", &prior, &images, &numbers)?;
            (Ok((run, numbers.len())), Some(errors))
        }
        Err(why) => (Err(why), None),
    };
    let rows = network.into_iter().zip(linear).enumerate();
    let rows = rows.map(|(i, (fresh, linear))| Row { fresh, training: training.as_ref().map(|t| t[i]), linear }).collect();
    let mut report = Report {
        info: &info,
        options,
        source: simulator.describe(),
        seed,
        run,
        rows,
        sampling: SampleConfig::new(sample::STEPS),
        rings: None,
    };
    if !options.json {
        report.print_errors();
    }
    if options.samples > 0 {
        let mut stage = Stage::new("samples of the prior, images times levels", options.samples * report.sampling.steps as u64);
        let samples = sample::draw(&prior, options.samples, &report.sampling, seed, |n| stage.add(n)).context(Unusable)?;
        drop(stage);
        let stage = Mutex::new(Stage::new("images through the ring gate", options.samples + options.reference));
        let each = || stage.lock().unwrap_or_else(PoisonError::into_inner).add(1);
        report.rings = Some(ring_shares(&samples, &simulator, reference, options.fov, each)?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else if let Some(rings) = &report.rings {
        report.print_rings(rings);
    }
    if let Some(rings) = report.rings.filter(|_| options.record) {
        // What the source has to say belongs to priors trained on it alone.
        let trained_here = report.run.is_ok();
        let mut entries = if trained_here { simulator.metadata() } else { BTreeMap::new() };
        let from = json!({
            "fov_uas": rings.fov_uas, "samples": rings.prior.images, "error": rings.prior.error, "seed": seed,
            "sampler": report.sampling.sampler.name(), "steps": report.sampling.steps,
            "simulator": rings.simulator.share,
        });
        entries.insert("ring_probability".into(), rings.prior.share.to_string());
        entries.insert("ring_probability_from".into(), from.to_string());
        add_prior_metadata(path, &entries)?;
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        eprintln!("halation: {} now in the metadata of {}, whose hash has changed", names.join(", "), path.display());
    }
    Ok(Outcome::Done)
}

impl Report<'_> {
    fn print_errors(&self) {
        let (n, end) = (self.options.images, self.options.images + self.options.reference);
        println!("prior       {} (sha256 {})", self.info.path.display(), self.info.sha256);
        println!("source      {}", self.source);
        println!("fresh       {n} images of seed {}, indices 0 to {}", self.seed, n - 1);
        match &self.run {
            Ok((run, used)) => {
                println!("training    {used} of the {} images that the run of seed {} saw, evenly spaced", run.saw(), run.seed);
            }
            Err(why) => println!("training    not measured: {why}"),
        }
        println!(
            "linear      Wiener denoiser about the mean of {} other images (seed {}, indices {n} to {}):",
            end - n,
            self.seed,
            end - 1
        );
        println!("            each Fourier mode of x - mean times P / (P + sigma^2), P its power in those images");
        println!(
            "errors      RMS per pixel, values -1 to 1; low: modes |k| <= {LOW_FREQUENCY} cycles per field, over sigma (1: as the data)"
        );
        println!(
            "offset      what is left of a shift of all pixels by ten standard deviations of the noise's mean (0: the background is known)"
        );
        println!();
        println!(
            "{:>8}  {:>21}  {:>21}  {:>17}  {:>10}  {:>17}  {:>10}  {:>17}",
            "sigma", "fresh", "training", "fresh/training", "linear", "low: fresh", "low: linear", "offset: fresh"
        );
        for row in &self.rows {
            let pair = |value: f64, error: f64| format!("{value:.3e} +- {error:.1e}");
            let training = row.training.map_or("-".into(), |t| pair(t.rms, t.rms_error));
            let ratio = row.fresh_over_training().map_or("-".into(), |(ratio, error)| format!("{ratio:.3} +- {error:.3}"));
            println!(
                "{:>8}  {:>21}  {training:>21}  {ratio:>17}  {:>10.3e}  {:>17}  {:>10.3}  {:>17}",
                row.fresh.sigma,
                pair(row.fresh.rms, row.fresh.rms_error),
                row.linear.rms,
                format!("{:.3} +- {:.3}", row.fresh.low_over_sigma, row.fresh.low_over_sigma_error),
                row.linear.low_over_sigma,
                format!("{:.3} +- {:.3}", row.fresh.offset_kept, row.fresh.offset_kept_error),
            );
        }
    }

    fn print_rings(&self, rings: &RingShares) {
        let field = format!("all in a field of {:.0} uas", rings.fov_uas);
        let difference = 100.0 * (rings.prior.share - rings.simulator.share);
        let error = 100.0 * rings.prior.error.hypot(rings.simulator.error);
        println!("\nshare of images that pass the ring gate of `halation assess`");
        for (what, share) in [
            (format!("samples of the prior, {field}"), rings.prior),
            (format!("simulator, {field}"), rings.simulator),
            ("simulator, each in its own field".into(), rings.simulator_own_fields),
            ("simulator, labelled a ring".into(), rings.simulator_label),
        ] {
            println!("  {what:<48} {} of {}", share.percent(), share.images);
        }
        println!(
            "  samples less simulator: {difference:.1} +- {error:.1} points ({}, {} levels, seed {})",
            self.sampling.sampler.name(),
            self.sampling.steps,
            self.seed
        );
    }

    fn json(&self) -> serde_json::Value {
        let (n, end) = (self.options.images, self.options.images + self.options.reference);
        let training = match &self.run {
            Ok((run, used)) => {
                json!({ "seed": run.seed, "first": run.images.start, "images_seen": run.images.end, "images": used })
            }
            Err(why) => json!({ "not_measured": why }),
        };
        let SampleConfig { sampler, steps, .. } = self.sampling;
        let ring_gate = self
            .rings
            .map(|rings| json!({ "shares": rings, "sampler": sampler.name(), "sampler_levels": steps, "seed": self.seed }));
        json!({
            "prior": self.info.path,
            "sha256": self.info.sha256,
            "source": self.source,
            "fresh": { "seed": self.seed, "first": 0, "images": n },
            "training": training,
            "linear": {
                "denoiser": "m + F^-1 [P / (P + sigma^2)] F (x - m): mean image m and power P per Fourier mode of the images",
                "seed": self.seed, "first": n, "images": end - n,
            },
            "low_frequency_cycles_per_field": LOW_FREQUENCY,
            "denoising": self.rows.iter().map(|row| {
                let ratio = row.fresh_over_training();
                json!({
                    "sigma": row.fresh.sigma, "fresh": row.fresh, "training": row.training, "linear": row.linear,
                    "fresh_over_training": ratio.map(|r| r.0), "fresh_over_training_error": ratio.map(|r| r.1),
                })
            }).collect::<Vec<_>>(),
            "ring_gate": ring_gate,
        })
    }
}
