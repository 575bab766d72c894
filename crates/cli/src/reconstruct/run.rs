//! What all reconstructions share: options, plan, progress, signals, output folder.

use super::config::{RECORD, merge};
use super::progress::{Display, Log};
use crate::units::counted;
use crate::{Outcome, Unusable};
use anyhow::{Context, Result, anyhow, bail};
use halation_compute::Tensor;
use halation_inverse::{
    Dps, DpsWeight, Drive, Driven, GaussianMixture, Langevin, Plan, PnpDm, Problem, STATE_FILE, Solver, check_needs, drive,
};
use halation_io::{Existing, OutputDir, Started, partial_of, sha256_of_file};
use halation_nn::Denoiser;
use halation_posterior::{Ensemble, quantiles, write_ensemble};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The methods that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SolverName {
    /// Annealed Langevin dynamics scaled by the data's curvature, with restarts; for any data
    Langevin,
    /// Annealed split Gibbs over two weighted populations; for linear problems
    PnpDm,
    /// Diffusion posterior sampling: approximate
    Dps,
}

/// Weight of the likelihood in `dps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weighting {
    /// The published, tuned step
    Paper,
    /// What Bayes' rule gives
    Bayes,
}

/// Options of the solver and its cost; the same for every kind of data.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct SolverOptions {
    /// Method [default: langevin for VLBI, pnp-dm for linear problems]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver: Option<SolverName>,
    /// Number of posterior images [default: 20]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<u64>,
    /// Seed of all random numbers [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Noise levels [default: 440 (langevin), 232 with four network calls each (pnp-dm)]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<usize>,
    /// Particles of both populations together, an even number or the next one [default: as many as draws, at least 20 (langevin); four for each draw beyond a dozen, at least 32 (pnp-dm)]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub population: Option<usize>,
    /// Descents after the first (langevin) [default: 5]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<usize>,
    /// Weight of the likelihood (dps) [default: paper]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dps_weight: Option<Weighting>,
    /// Step size of the paper's weight (dps) [default: 1]
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dps_zeta: Option<f64>,
}

/// Where the output goes and what happens when there is one.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OutputOptions {
    /// Output folder
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Replace an output that is there
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Go on with an interrupted run
    #[arg(long)]
    pub resume: bool,
    /// Say what would be done and what it costs, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Options from a TOML file, for example the run.toml of another run; the command line goes before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl OutputOptions {
    fn existing(&self) -> Existing {
        match (self.force, self.resume) {
            (true, _) => Existing::Force,
            (_, true) => Existing::Resume,
            _ => Existing::Refuse { resumable: true },
        }
    }

    /// `given` completed from --config and, under --resume, from the interrupted run.
    ///
    /// # Errors
    /// An output folder that cannot be used, a configuration that cannot be read or understood.
    pub fn complete<T: Serialize + DeserializeOwned>(&self, given: &T) -> Result<T> {
        OutputDir::check(&self.out, self.existing()).context(Unusable)?;
        // Of a run that is finished as well, so that resuming it with other settings is noticed.
        let before = [partial_of(&self.out).join("run.toml"), self.out.join("run.toml")].into_iter().find(|path| path.is_file());
        let mut under: Vec<&Path> = Vec::new();
        if let Some(before) = before.as_deref().filter(|_| self.resume) {
            under.push(before);
        }
        under.extend(self.config.as_deref());
        merge(given, &under).context(Unusable)
    }
}

/// A prior with what its file says.
pub(crate) struct LoadedPrior {
    pub denoiser: Box<dyn Denoiser>,
    pub path: PathBuf,
    pub sha256: String,
    /// Smallest and largest pixel value in the network's units.
    pub range: [f64; 2],
    /// All metadata strings of the file.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// Loads a prior of any kind, by name or file.
///
/// # Errors
/// The file cannot be read or is no prior.
pub(crate) fn load_prior(name: &Path) -> Result<LoadedPrior> {
    let path = &crate::find::prior(name).context(Unusable)?;
    let (info, file) = halation_nn::read_prior(path).context(Unusable)?;
    let stated = file.metadata.contains_key("range");
    let (denoiser, range): (Box<dyn Denoiser>, [f64; 2]) = match info.kind.as_str() {
        "gaussian_mixture" => {
            let mixture = GaussianMixture::read(path).context(Unusable)?;
            let range = if stated { info.card.range } else { mixture.range() };
            (Box::new(mixture), range)
        }
        _ => (Box::new(halation_nn::load_prior(path).context(Unusable)?.0), info.card.range),
    };
    if !(range[1] > range[0] && range[0].is_finite() && range[1].is_finite()) {
        return Err(anyhow!(
            "{}: metadata range: found {range:?}, expected the smallest and the largest pixel value",
            path.display()
        )
        .context(Unusable));
    }
    let path = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
    Ok(LoadedPrior { denoiser, path, sha256: info.sha256, range, metadata: file.metadata })
}

/// What one run does beside solving.
pub(crate) struct Job<'a> {
    /// The verb, for example `reconstruct linear`.
    pub command: &'static str,
    pub output: &'a OutputOptions,
    pub solver: &'a SolverOptions,
    /// What is used where no solver is named.
    pub default_solver: SolverName,
    /// All options but those of the solver, complete: with the solver's they are run.toml.
    pub options: toml::Table,
    pub inputs: &'a [PathBuf],
    pub prior: &'a LoadedPrior,
    /// What the data are, in lines: for --dry-run and log.txt.
    pub summary: Vec<String>,
    /// Further root attributes of the ensemble, for example the assumptions that were made.
    pub attributes: Vec<(String, String)>,
    /// Writes the files of this kind of data beside posterior.h5 into the folder.
    pub write: &'a dyn Fn(&Ensemble, &Path) -> Result<()>,
}

/// Runs the solver that the job names on `problem` and writes the output folder.
///
/// # Errors
/// Unusable options or input, an output that is in the way, or a failure on the way.
pub(crate) fn execute(problem: &Problem, job: &Job) -> Result<Outcome> {
    let o = job.solver;
    let name = o.solver.unwrap_or(job.default_solver);
    if name != SolverName::Dps && (o.dps_weight.is_some() || o.dps_zeta.is_some()) {
        return Err(anyhow!("--dps-weight and --dps-zeta belong to --solver dps").context(Unusable));
    }
    let draws = o.draws.unwrap_or(20) as usize;
    let of_populations = |levels: usize, particles: usize, restarts: Option<usize>| SolverOptions {
        solver: Some(name),
        levels: Some(levels),
        population: Some(particles),
        restarts,
        ..o.clone()
    };
    match name {
        SolverName::Langevin => {
            let default = Langevin::default();
            let solver = Langevin {
                levels: o.levels.unwrap_or(default.levels),
                population: o.population,
                restarts: o.restarts.unwrap_or(default.restarts),
            };
            let particles = solver.plan(problem, draws).context(Unusable)?.particles;
            let solver = Langevin { population: Some(particles), ..solver };
            with_solver(problem, job, &solver, of_populations(solver.levels, particles, Some(solver.restarts)))
        }
        SolverName::PnpDm => {
            if o.restarts.is_some() {
                return Err(anyhow!("--restarts belongs to --solver langevin").context(Unusable));
            }
            let default = PnpDm::default();
            let solver = PnpDm { levels: o.levels.unwrap_or(default.levels), population: o.population, ..default };
            let particles = solver.plan(problem, draws).context(Unusable)?.particles;
            let solver = PnpDm { population: Some(particles), ..solver };
            with_solver(problem, job, &solver, of_populations(solver.levels, particles, None))
        }
        SolverName::Dps => {
            if o.levels.is_some() || o.population.is_some() || o.restarts.is_some() {
                return Err(anyhow!("--levels and --population belong to --solver langevin and pnp-dm, --restarts to langevin")
                    .context(Unusable));
            }
            let zeta = o.dps_zeta.unwrap_or(1.0);
            if !(zeta.is_finite() && zeta > 0.0) {
                return Err(anyhow!("--dps-zeta {zeta}: expected a positive number").context(Unusable));
            }
            let weighting = o.dps_weight.unwrap_or(Weighting::Paper);
            let weight = match weighting {
                Weighting::Paper => DpsWeight::Paper { zeta },
                Weighting::Bayes => DpsWeight::Bayes,
            };
            let complete =
                SolverOptions { solver: Some(SolverName::Dps), dps_weight: Some(weighting), dps_zeta: Some(zeta), ..o.clone() };
            with_solver(problem, job, &Dps { weight }, complete)
        }
    }
}

fn with_solver<S: Solver>(problem: &Problem, job: &Job, solver: &S, mut options: SolverOptions) -> Result<Outcome> {
    let (draws, seed) = (options.draws.unwrap_or(20), options.seed.unwrap_or(0));
    (options.draws, options.seed) = (Some(draws), Some(seed));
    check_needs(solver, problem).with_context(|| job.prior.path.display().to_string()).context(Unusable)?;
    let plan = solver.plan(problem, draws as usize).context(Unusable)?;
    let memory = available_memory();
    if let Some(available) = memory
        && plan.memory_bytes > available
    {
        return Err(anyhow!(
            "{draws} draws need {} beside the network's own memory, found {} available; ask for fewer draws or particles",
            bytes(plan.memory_bytes),
            bytes(available)
        )
        .context(Unusable));
    }
    let mut steering = job.options.clone();
    steering.extend(toml::Table::try_from(&options)?);
    let mut inputs = toml::Table::new();
    for path in job.inputs {
        inputs.insert(path.display().to_string(), sha256_of_file(path).context(Unusable)?.into());
    }
    let fingerprint =
        format!("{}{}{}prior {}", toml::to_string(&steering)?, toml::to_string(&inputs)?, job.command, job.prior.sha256);
    let mut lines = job.summary.clone();
    lines.push(format!("prior: {} ({:?} pixels)", job.prior.path.display(), problem.prior.item_shape()));
    lines.push(format!("solver: {}: {}", solver.name(), solver.label()));
    lines.push(format!(
        "plan: {} from {} particles, {} steps, {} network evaluations of a particle ({:.0} for each draw), {} beside the network's memory",
        counted(draws, "draw"),
        plan.particles,
        plan.steps,
        plan.network_evaluations,
        plan.network_evaluations as f64 * plan.particles as f64 / draws as f64,
        bytes(plan.memory_bytes)
    ));
    if job.output.dry_run {
        lines.push(timing(problem, solver, &plan)?);
        lines.iter().for_each(|l| println!("{l}"));
        return Ok(Outcome::Done);
    }
    let (folder, begun_by) = match OutputDir::begin(&job.output.out, job.output.existing()).context(Unusable)? {
        Started::Fresh(folder) => (folder, None),
        Started::Resumed(folder) => {
            let begun_by = same_settings(&folder.path().join("run.toml"), &steering).context(Unusable)?;
            (folder, begun_by)
        }
        Started::Complete(path) => {
            same_settings(&path.join("run.toml"), &steering).context(Unusable)?;
            eprintln!("halation: {} is complete", path.display());
            return Ok(Outcome::Done);
        }
    };
    let mut record = toml::Table::new();
    let mut note = |key: &str, value: String| {
        record.insert(key.into(), value.into());
    };
    note("version", env!("CARGO_PKG_VERSION").into());
    note("command", job.command.into());
    let now = std::env::args().collect::<Vec<_>>().join(" ");
    match begun_by {
        Some(first) => {
            note("command_line", first);
            note("resumed_by", now);
        }
        None => note("command_line", now),
    }
    note("device", "cpu".into());
    note("cpu_level", halation_compute::CpuLevel::current().name().into());
    note("prior_sha256", job.prior.sha256.clone());
    for (name, value) in solver.settings() {
        note(&format!("solver_{name}"), value);
    }
    record.insert("inputs_sha256".into(), inputs.clone().into());
    write_run_toml(&folder, &steering, &record)?;
    let mut log = Log::open(&folder)?;
    for line in &lines {
        log.line(line)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the process at once; the state of the last saving stays.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let settings = Drive { folder: folder.path().to_path_buf(), draws, seed, fingerprint, save_every: Duration::from_secs(60) };
    let display = RefCell::new(Display::new());
    let begin = Instant::now();
    let mut trouble = None;
    if !folder.path().join(STATE_FILE).is_file() {
        display.borrow().say("start: prior samples and what the solver measures on them");
    }
    let driven = drive(
        solver,
        problem,
        &settings,
        &stop,
        |state, resumed| {
            let told = if resumed { log.line("resumed") } else { Ok(()) };
            let described = solver.describe(state);
            trouble = told.and_then(|()| described.iter().try_for_each(|l| log.line(l))).err();
            described.iter().for_each(|l| display.borrow().say(l));
        },
        |progress| display.borrow_mut().show(progress),
    );
    display.borrow().end();
    if let Some(error) = trouble {
        return Err(error);
    }
    let mut ensemble = match driven.with_context(|| format!("solver {}", solver.name()))? {
        Driven::Done(ensemble) => *ensemble,
        Driven::Interrupted { step, total } => {
            log.line(&format!("interrupted after step {step} of {total}"))?;
            if step == 0 {
                eprintln!("halation: stopped before the first step; --resume begins again");
            } else {
                eprintln!("halation: stopped after step {step} of {total}; --resume goes on from there");
            }
            return Ok(Outcome::Interrupted);
        }
    };
    let cost = format!(
        "{} network evaluations of a particle, {} particles, {:.1} s in the last process",
        plan.network_evaluations,
        plan.particles,
        begin.elapsed().as_secs_f64()
    );
    let a = &mut ensemble.attributes;
    for (name, value) in &job.attributes {
        a.insert(name.clone(), value.clone());
    }
    for (name, value) in &record {
        if let Some(text) = value.as_str() {
            a.insert(name.clone(), text.into());
        }
    }
    a.insert("seed".into(), seed.to_string());
    a.insert("solver".into(), solver.name().into());
    a.insert("settings".into(), toml::to_string(&steering)?);
    a.insert(
        "inputs_sha256".into(),
        inputs.iter().map(|(k, v)| format!("{k} {}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join("\n"),
    );
    a.insert("network_evaluations".into(), plan.network_evaluations.to_string());
    let label = a.get("label").cloned().unwrap_or_else(|| solver.label());
    write_ensemble(&ensemble, &folder.path().join("posterior.h5"))?;
    (job.write)(&ensemble, folder.path())?;
    record.insert("label".into(), label.clone().into());
    record.insert("cost".into(), cost.clone().into());
    write_run_toml(&folder, &steering, &record)?;
    for (name, value) in &ensemble.attributes {
        if name != "settings" {
            log.line(&format!("{name}: {value}"))?;
        }
    }
    log.line(&cost)?;
    let state = folder.path().join(STATE_FILE);
    std::fs::remove_file(&state).with_context(|| state.display().to_string())?;
    let out = folder.finish()?;
    let weights = ensemble.checked_weights()?;
    let fit: Vec<String> = ensemble
        .sample_stats
        .iter()
        .filter_map(|(name, v)| Some((name.strip_prefix("reduced_chi2_")?, v)))
        .map(|(name, v)| {
            let values: Vec<f64> = v.values.iter().copied().collect();
            let median = quantiles(&values, &weights, &[0.5])?;
            Ok(format!("{name} {:.3}", median[0]))
        })
        .collect::<Result<_>>()?;
    println!("{}: {}, median reduced chi2 {}", out.display(), counted(draws, "draw"), fit.join(", "));
    println!("{label}");
    Ok(Outcome::Done)
}

fn write_run_toml(folder: &OutputDir, steering: &toml::Table, record: &toml::Table) -> Result<()> {
    let mut all = steering.clone();
    all.insert(RECORD.into(), record.clone().into());
    folder.write("run.toml", toml::to_string(&all)?.as_bytes())?;
    Ok(())
}

/// Fails unless the run that is resumed has the settings `now`; nothing of it has been touched yet. Gives the command line that began it,
/// where that is recorded.
fn same_settings(path: &Path, now: &toml::Table) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let (before, record) = super::config::read(path)?;
    let differs = before.keys().chain(now.keys()).find(|k| before.get(*k) != now.get(*k));
    let show = |t: &toml::Table, k: &String| t.get(k).map_or("nothing".into(), |v| v.to_string());
    match differs {
        None => Ok(record.get("command_line").and_then(|c| c.as_str()).map(str::to_string)),
        Some(key) => Err(anyhow!(
            "{}: {key}: the run that is there has {}, this one {}; resume with the same settings (they need not be given), or start again with --force",
            path.display(),
            show(&before, key),
            show(now, key)
        )),
    }
}

/// A network call with its pullback, and what the data cost in a step, timed and taken as often as the plan says.
fn timing<S: Solver>(problem: &Problem, solver: &S, plan: &Plan) -> Result<String> {
    let batch = plan.particles.min(8);
    let x = Tensor::zeros(&problem.shape(batch));
    let sigma = vec![(0.5 * problem.pixel_range()) as f32; batch];
    let network = || -> Result<()> {
        let (denoised, pullback) = problem.prior.denoise_with_pullback(&x, &sigma)?;
        pullback.vjp(&denoised)?;
        Ok(())
    };
    let image = vec![0.25 * problem.pixel_range() as f32; problem.len()];
    let data = || (0..batch).into_par_iter().try_for_each(|_| solver.rehearse(problem, &image)).map_err(Into::into);
    let calls = plan.particles as f64 * plan.network_evaluations as f64;
    let minutes =
        [seconds(&network)? / (2 * batch) as f64 * calls, seconds(&data)? / batch as f64 * (plan.particles * plan.steps) as f64]
            .map(|seconds| seconds / 60.0);
    Ok(format!(
        "time: about {:.1} minutes on {} threads, {:.1} in the network and {:.1} for the data, as one step took now",
        minutes[0] + minutes[1],
        rayon::current_num_threads(),
        minutes[0],
        minutes[1]
    ))
}

/// How long `work` takes once caches and thread pools are warm.
fn seconds(work: &dyn Fn() -> Result<()>) -> Result<f64> {
    work()?;
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Bytes that this process may still take, as far as the system says.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group =
        number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(group.map_or(free, |g| g.min(free)))
}

fn bytes(n: u64) -> String {
    if n >= 1 << 30 {
        format!("{:.1} GiB", n as f64 / (1u64 << 30) as f64)
    } else {
        format!("{:.1} MiB", n as f64 / (1u64 << 20) as f64)
    }
}

/// An input that has to be named on the command line or in the configuration.
///
/// # Errors
/// It is nowhere.
pub(crate) fn required<'a, T>(value: &'a Option<T>, name: &str) -> Result<&'a T> {
    match value {
        Some(value) => Ok(value),
        None => bail!("{name} is missing; give it on the command line or in the file of --config"),
    }
}
