use crate::{Outcome, Unusable, find};
use anyhow::{Context, anyhow, bail};
use halation_io::sha256_of_file;
use halation_nn::family::EdmForm;
use halation_nn::train::{CHECKPOINT, Loss, Optimizer, PRIOR, Schedule, Start, StepInfo, TrainConfig, Trainer, saved_config};
use halation_nn::{ImageFolder, ImageSource, PriorCard, UNetConfig};
use halation_vlbi::sources::{SOURCES, SourceSimulator};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Debug;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod loss;

use loss::LossArgs;

/// Train a diffusion prior (a U-Net denoiser) on simulated images or on those of a folder.
///
/// The folder holds, rewritten every few minutes, a checkpoint to resume from, the prior itself (the moving average of the network) and
/// the loss log.
///
/// Example: halation prior train vlbi-sources -o vlbi-64 --images 400000 --schedule cosine
///
/// A run goes on from a finished prior with --from: with its network, from the image at which it ended, with a new optimiser.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the images come from: a folder of PNG, TIFF, FITS or HDF5 files, all square and of one size, or `vlbi-sources`, the simulator of
    /// compact radio sources, or `vlbi-sources-spots`, the same with faint spots around 40 % of them, rougher structure noise and no blur
    /// narrower than two pixels (disks: one)
    source: String,
    /// Folder of the run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from a finished prior: a file, or the name of a shipped one
    #[arg(long, value_name = "PRIOR", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Pixel values that the network sees as -1 and 1, for a folder [default: the smallest and the largest in it]; to be given again with
    /// --resume
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true, value_parser = crate::units::range)]
    range: Option<[f64; 2]>,
    /// Pixels along each side [default: 64; those of the images of a folder]
    #[arg(long)]
    res: Option<usize>,
    /// Feature channels at full resolution [default: 32]
    #[arg(long)]
    channels: Option<usize>,
    /// Multipliers of the feature channels, one per resolution, each half of the one before [default: 1,2,2]
    #[arg(long, value_delimiter = ',')]
    mult: Option<Vec<usize>>,
    /// Resolutions with self-attention [default: 16]
    #[arg(long, value_delimiter = ',')]
    attn: Option<Vec<usize>>,
    /// Residual blocks per resolution [default: 1]
    #[arg(long)]
    blocks: Option<usize>,
    /// Images per step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Passes into which the images of a step are split, to hold fewer in memory; the result is the same to the bit
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulation: usize,
    /// Images held out of the source, on which the log states the loss of the averaged network [default: 0; that of the prior with --from]
    #[arg(long, value_name = "N")]
    validation: Option<u64>,
    /// Stop after this many images in all, with those that the prior of --from has seen
    #[arg(long, value_name = "N")]
    images: Option<u64>,
    /// Stop after this many minutes of this command
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// What makes a step of a gradient: adam, or radam, which needs no warm-up
    #[arg(long, value_name = "NAME", default_value = "adam", value_parser = ["adam", "radam"])]
    optimizer: String,
    /// Share of each parameter, times the learning rate, by which a step shrinks it (with adam: AdamW)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    weight_decay: f64,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Decay of the learning rate: constant, cosine (to zero at --images) or inverse-sqrt (from --decay-images on); with --resume a
    /// given one replaces that of the run
    #[arg(long, value_name = "NAME", value_parser = ["constant", "cosine", "inverse-sqrt"])]
    schedule: Option<String>,
    /// Images after which inverse-sqrt begins
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    decay_images: u64,
    /// Images over which the learning rate rises from zero
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    warmup: u64,
    /// Half-life of the moving average of the network, in images
    #[arg(long, value_name = "N", default_value_t = 20_000.0)]
    ema: f64,
    #[command(flatten)]
    loss: LossArgs,
    /// With --loss consistency: the prior whose paths the model learns, a file or the name of a shipped one (consistency distillation); without one
    /// it learns from the images alone. To be given again with --resume
    #[arg(long, value_name = "PRIOR")]
    teacher: Option<PathBuf>,
    /// Norm to which larger gradients are scaled down
    #[arg(long, default_value_t = 1.0)]
    clip: f64,
    /// Turn and mirror each image at random, for sources that do not do so themselves
    #[arg(long)]
    augment: bool,
    /// Seed of the images, of the network's start and of the noise [default: 0; that of the run or prior with --resume or --from]
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes between checkpoints
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    save_every: f64,
    /// Go on with the run in the folder, with its own settings
    #[arg(long)]
    resume: bool,
}

struct Opened {
    source: Box<dyn ImageSource>,
    card: PriorCard,
}

/// The images of a folder, where the source is one.
fn open_folder(args: &Args) -> anyhow::Result<Option<ImageFolder>> {
    let folder = Path::new(&args.source);
    match (folder.is_dir(), args.range) {
        (true, range) => Ok(Some(ImageFolder::open(folder, range).context(Unusable)?)),
        (false, None) => Ok(None),
        (false, Some(_)) => {
            bail!(anyhow!("--range is for a folder of images, and {:?} is none; leave it out", args.source).context(Unusable))
        }
    }
}

fn folder_source(folder: ImageFolder) -> Opened {
    let [low, high] = folder.range();
    let card = PriorCard {
        range: [-1.0, 1.0],
        unit: format!("z = 2 (v - {low}) / ({high} - {low}) - 1 with pixel value v"),
        card: "Diffusion prior made with `halation prior train`; the settings are in `training`.".into(),
        ..PriorCard::default()
    };
    Opened { source: Box::new(folder), card }
}

fn open_simulator(name: &str, seed: u64, res: usize) -> anyhow::Result<Opened> {
    if !SOURCES.contains(&name) {
        let message = format!("no source of images and no folder is called {name:?}; there are {}", SOURCES.join(" and "));
        bail!(anyhow!(message).context(Unusable));
    }
    let source = SourceSimulator::named(name, seed, res).context(Unusable)?;
    let card = PriorCard {
        range: [-1.0, 1.0],
        unit: "z = 2u - 1 with u = image/max; brightness I = F u / sum(u) for total flux F; flux centroid at the centre".into(),
        card:
            "Diffusion prior for images of compact radio sources, made with `halation prior train`; the settings are in `training`."
                .into(),
        ..PriorCard::default()
    };
    Ok(Opened { source: Box::new(source), card })
}

fn schedule(args: &Args) -> anyhow::Result<Option<Schedule>> {
    Ok(match (args.schedule.as_deref(), args.images) {
        (None, _) => None,
        (Some("cosine"), Some(images)) => Some(Schedule::Cosine(images)),
        (Some("cosine"), None) => bail!(anyhow!("--schedule cosine needs --images, at which it ends").context(Unusable)),
        (Some("inverse-sqrt"), _) => Some(Schedule::InverseSqrt(args.decay_images)),
        (Some(_), _) => Some(Schedule::Constant),
    })
}

/// The prior of --from, where one is given.
fn open_start(args: &Args) -> anyhow::Result<Option<Start>> {
    let Some(name) = &args.from else { return Ok(None) };
    let start = Start::read(&find::prior(name).context(Unusable)?).context(Unusable)?;
    let (path, seen) = (start.info.path.display(), start.config.first_image);
    if let Some(images) = args.images.filter(|n| *n <= seen) {
        bail!(anyhow!("--images {images} counts all images, and {path} has seen {seen}; give more than that").context(Unusable));
    }
    Ok(Some(start))
}

/// A setting of the network: as given, else as found. A run from a prior cannot have another network, so there both must agree.
fn setting<T: PartialEq + Debug>(start: &Option<Start>, option: &str, given: Option<T>, found: T) -> anyhow::Result<T> {
    match (given, start) {
        (Some(given), Some(start)) if given != found => {
            let path = start.info.path.display();
            bail!(
                anyhow!("{option} is {given:?}, but {path} has {found:?}, which --from keeps; leave {option} out")
                    .context(Unusable)
            )
        }
        (given, _) => Ok(given.unwrap_or(found)),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let start = open_start(&args)?;
    let folder = open_folder(&args)?;
    let mut base = match &start {
        Some(start) => start.config.clone(),
        None if args.resume => saved_config(&args.out).context(Unusable)?,
        None => TrainConfig::new(UNetConfig {
            img_resolution: 64,
            img_channels: 1,
            model_channels: 32,
            channel_mult: vec![1, 2, 2],
            attn_resolutions: vec![16],
            num_blocks: 1,
            form: EdmForm::default(),
        }),
    };
    if let (Some(folder), None, false) = (&folder, &start, args.resume) {
        base.unet.img_resolution = folder.item_shape()[1];
    }
    let res = setting(&start, "--res", args.res, base.unet.img_resolution)?;
    let seed = args.seed.unwrap_or(base.seed);
    let is_folder = folder.is_some();
    let Opened { source, card } = match folder {
        Some(folder) => folder_source(folder),
        None => open_simulator(&args.source, seed, res)?,
    };
    if let Some(Start { info, .. }) = start.as_ref().filter(|s| is_folder && s.info.card.unit != card.unit) {
        let (path, found, expected) = (info.path.display(), &info.card.unit, &card.unit);
        let message =
            format!("{path}: found the unit {found:?}, {} has {expected:?}; give --range so that both are one", args.source);
        bail!(anyhow!(message).context(Unusable));
    }
    if let Some(Start { info, .. }) = start.as_ref().filter(|s| s.info.card.range != card.range) {
        let message = format!(
            "{}: found values {:?}, {} has {:?}; give a prior trained on such images",
            info.path.display(),
            info.card.range,
            args.source,
            card.range
        );
        bail!(anyhow!(message).context(Unusable));
    }
    let schedule = schedule(&args)?;
    let teacher = args.teacher.as_deref().map(|name| find::prior(name).context(Unusable)).transpose()?;
    let mut trainer = if args.resume {
        let mut trainer = Trainer::resume(&args.out, source.as_ref()).context(Unusable)?;
        if let Some(schedule) = schedule {
            trainer.set_schedule(schedule).context(Unusable)?;
        }
        trainer
    } else {
        if args.out.join(CHECKPOINT).exists() {
            let message = format!("{} holds a training run; give --resume to go on with it, or another folder", args.out.display());
            bail!(anyhow!(message).context(Unusable));
        }
        let sha256 = teacher.as_deref().map(|path| sha256_of_file(path).context(Unusable)).transpose()?;
        let loss = args.loss.loss(&start, &base.loss, sha256, args.images)?;
        // A consistency model leaves an image at its smallest noise as it is.
        let background = if let Loss::Consistency(_) = loss { None } else { source.background().or(base.unet.form.background) };
        let unet = UNetConfig {
            img_resolution: res,
            img_channels: source.item_shape()[0],
            model_channels: setting(&start, "--channels", args.channels, base.unet.model_channels)?,
            channel_mult: setting(&start, "--mult", args.mult, base.unet.channel_mult)?,
            attn_resolutions: setting(&start, "--attn", args.attn, base.unet.attn_resolutions)?,
            num_blocks: setting(&start, "--blocks", args.blocks, base.unet.num_blocks)?,
            form: EdmForm { background, ..base.unet.form },
        };
        let config = TrainConfig {
            loss,
            batch: args.batch,
            accumulation: args.accumulation,
            validation_images: args.validation.unwrap_or(base.validation_images),
            optimizer: if args.optimizer == "radam" { Optimizer::Radam } else { Optimizer::Adam },
            weight_decay: args.weight_decay,
            learning_rate: args.lr,
            schedule: schedule.unwrap_or(Schedule::Constant),
            warmup_images: args.warmup,
            ema_half_life: args.ema,
            clip: args.clip,
            dihedral: args.augment,
            seed,
            ..TrainConfig::new(unet)
        };
        match start {
            Some(start) => Trainer::from_prior(start, config, source.as_ref()).context(Unusable)?,
            None => Trainer::new(config, source.as_ref()).context(Unusable)?,
        }
    };
    if let Some(teacher) = &teacher {
        trainer.set_teacher(teacher).context(Unusable)?;
    }
    if let Some(sha256) = trainer.missing_teacher() {
        bail!(anyhow!("{} has the teacher with SHA-256 {sha256}; give it with --teacher", args.out.display()).context(Unusable));
    }
    if args.images.is_none() && args.minutes.is_none() {
        eprintln!("halation: neither --images nor --minutes is given: the run goes on until it is interrupted");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("signal handler")?;
    }
    eprintln!(
        "halation: {} parameters, {:.2} GFLOP a forward pass, from image {}",
        trainer.denoiser().net().theta().len(),
        trainer.denoiser().net().flops() / 1e9,
        trainer.images()
    );
    let started = Instant::now();
    let first = trainer.images();
    let mut saved = Instant::now();
    let mut progress = Progress::new(args.images);
    let minutes = |m: f64| Duration::from_secs_f64((60.0 * m).clamp(0.0, 1e9));
    let interrupted = loop {
        if args.images.is_some_and(|n| trainer.images() >= n) || args.minutes.is_some_and(|m| started.elapsed() >= minutes(m)) {
            break false;
        }
        if stop.load(Ordering::Relaxed) {
            break true;
        }
        let step = trainer.step()?;
        progress.show(&trainer, &step, (trainer.images() - first) as f64 / started.elapsed().as_secs_f64());
        if saved.elapsed() >= minutes(args.save_every) {
            trainer.save(&args.out, &card)?;
            saved = Instant::now();
        }
    };
    trainer.save(&args.out, &card)?;
    progress.finish();
    eprintln!("halation: {} images seen; prior in {}", trainer.images(), args.out.join(PRIOR).display());
    Ok(if interrupted { Outcome::Interrupted } else { Outcome::Done })
}

/// A bar on a terminal, otherwise a line every half a minute.
struct Progress {
    bar: Option<ProgressBar>,
    loss: Option<f64>,
    last: Option<Instant>,
}

impl Progress {
    fn new(images: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = images.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            if let Ok(style) =
                ProgressStyle::with_template("{elapsed_precise} {wide_bar} {human_pos}/{human_len} images, {msg}, {eta} left")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, loss: None, last: None }
    }

    fn show(&mut self, trainer: &Trainer, step: &StepInfo, rate: f64) {
        // Single losses scatter by their noise level; some hundred steps show the trend.
        let loss = self.loss.map_or(step.loss, |l| l + 0.02 * (step.loss - l));
        self.loss = Some(loss);
        let held_out = trainer.log().last().and_then(|line| line.validation_loss);
        let held_out = held_out.map_or(String::new(), |loss| format!(" ({loss:.4} on held-out images)"));
        let message = format!("loss {loss:.4}{held_out}, gradient {:.2}, {rate:.1} images/s", step.gradient_norm);
        if let Some(bar) = &self.bar {
            bar.set_position(trainer.images());
            bar.set_message(message);
        } else if self.last.is_none_or(|t| t.elapsed() > Duration::from_secs(30)) {
            self.last = Some(Instant::now());
            eprintln!("halation: image {}, {message}", trainer.images());
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
