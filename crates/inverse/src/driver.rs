//! Runs any solver step by step: progress, saving, interruption, resume.

use crate::{Checkpoint, Error, Problem, Result, Solver, StepInfo};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use halation_nn::{Denoiser, Pullback};
use halation_posterior::Ensemble;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a run is driven.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Folder that the run owns; the state is rewritten there.
    pub folder: PathBuf,
    /// Number of draws.
    pub draws: u64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Everything that decides the result, in a text: a saved state of another text is refused.
    pub fingerprint: String,
    /// Time between two savings.
    pub save_every: Duration,
}

/// Progress of a run after a step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What the step did.
    pub info: StepInfo,
    /// Seconds since this process took up the run.
    pub elapsed_s: f64,
    /// Seconds left, at the pace of this process.
    pub left_s: f64,
}

/// How a drive ended.
#[derive(Debug)]
pub enum Driven {
    /// With an ensemble.
    Done(Box<Ensemble>),
    /// Stopped; the state is saved and the run can be resumed, from the start where no step is done.
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps in all.
        total: usize,
    },
}

/// Name of the saved state in the run's folder.
pub const STATE_FILE: &str = "state.safetensors";

fn save<S: Checkpoint>(state: &S, solver: &str, drive: &Drive, step: usize, total: usize) -> Result<()> {
    let mut file = state.save();
    file.metadata.insert("kind".into(), "solver_state".into());
    file.metadata.insert("solver".into(), solver.into());
    file.metadata.insert("revision".into(), S::REVISION.to_string());
    file.metadata.insert("fingerprint".into(), drive.fingerprint.clone());
    file.metadata.insert("step".into(), step.to_string());
    file.metadata.insert("total".into(), total.to_string());
    Ok(file.write(&drive.folder.join(STATE_FILE))?)
}

/// The saved state, and whether no step is left to do.
fn load<S: Checkpoint>(path: &Path, solver: &str, drive: &Drive) -> Result<(S, bool)> {
    let file = TensorFile::read(path)?;
    let refuse = |place: &str, found: &str, expected: &str| {
        Err(Error::Io(halation_io::Error::content(
            path,
            format!("metadata {place}"),
            format!(
                "was written with {found}, this run has {expected}; resume with the same settings and inputs, or start again with --force"
            ),
        )))
    };
    let found = file.text("solver")?;
    if found != solver {
        return refuse("solver", found, solver);
    }
    let revision = file.metadata.get("revision").map_or("none", String::as_str);
    if revision != S::REVISION.to_string() {
        return refuse("revision", &format!("solver revision {revision}"), &S::REVISION.to_string());
    }
    if file.text("fingerprint")? != drive.fingerprint {
        return refuse("fingerprint", "other settings, inputs or prior", "its own");
    }
    Ok((S::restore(&file)?, file.text("step")? == file.text("total")?))
}

/// A prior that fails once `stop` is set.
struct Stoppable<'a> {
    prior: &'a dyn Denoiser,
    stop: &'a AtomicBool,
}

impl Stoppable<'_> {
    fn check(&self) -> halation_nn::Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(halation_nn::Error::Invalid("stopped".into())) } else { Ok(()) }
    }
}

impl Denoiser for Stoppable<'_> {
    fn item_shape(&self) -> [usize; 3] {
        self.prior.item_shape()
    }
    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<Tensor> {
        self.check()?;
        self.prior.denoise(x, sigma)
    }
    fn denoise_with_pullback<'b>(&'b self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<(Tensor, Box<dyn Pullback + 'b>)> {
        self.check()?;
        self.prior.denoise_with_pullback(x, sigma)
    }
}

/// Runs `solver` from its saved state where the folder holds one, else from the start, until it is done or `stop` is set.
///
/// The state is written every [`Drive::save_every`] and when `stop` is seen, after the step in progress. A run that was stopped and
/// resumed gives the same bits as one that was not.
///
/// # Errors
/// Those of the solver; a state that was saved with other settings; a folder that cannot be written.
pub fn drive<S: Solver>(
    solver: &S,
    problem: &Problem,
    drive: &Drive,
    stop: &AtomicBool,
    mut started: impl FnMut(&S::State, bool),
    mut progress: impl FnMut(&Progress),
) -> Result<Driven> {
    let path = drive.folder.join(STATE_FILE);
    let resumed = path.is_file();
    let begin = Instant::now();
    let (mut state, complete) = if resumed {
        load(&path, solver.name(), drive)?
    } else {
        // Before the first step there is nothing to save, and no need to wait for it.
        let prior = Stoppable { prior: problem.prior, stop };
        let state = solver.init(&Problem { prior: &prior, ..problem.clone() }, Philox::new(drive.seed), 0..drive.draws);
        if stop.load(Ordering::Relaxed) {
            return Ok(Driven::Interrupted { step: 0, total: solver.plan(problem, drive.draws as usize)?.steps });
        }
        (state?, false)
    };
    started(&state, resumed);
    if complete {
        return Ok(Driven::Done(Box::new(solver.finish(problem, state)?)));
    }
    let mut saved = Instant::now();
    let mut first: Option<(Instant, usize)> = None;
    loop {
        let info = solver.step(problem, &mut state)?;
        let now = Instant::now();
        // The first step of a process pays for warming up, so the pace is taken from the second on.
        let left_s = match first {
            None => {
                first = Some((now, info.step));
                f64::NAN
            }
            Some((from, step)) => {
                (now - from).as_secs_f64() / (info.step - step).max(1) as f64 * info.total.saturating_sub(info.step) as f64
            }
        };
        let (step, total, done) = (info.step, info.total, info.done());
        progress(&Progress { info, elapsed_s: begin.elapsed().as_secs_f64(), left_s });
        if done {
            // Kept until the output is written: what follows may fail on a full disk.
            save(&state, solver.name(), drive, step, total)?;
            return Ok(Driven::Done(Box::new(solver.finish(problem, state)?)));
        }
        let stopped = stop.load(Ordering::Relaxed);
        if stopped || saved.elapsed() >= drive.save_every {
            save(&state, solver.name(), drive, step, total)?;
            saved = Instant::now();
        }
        if stopped {
            return Ok(Driven::Interrupted { step, total });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g2, problem};
    use crate::{DenseOperator, LinearGaussianLikelihood, PnpDm};
    use halation_lapack as _;
    use ndarray::arr2;

    /// Stopped after every few steps and resumed until it ends: the images of the run that was not.
    #[test]
    fn interrupted_runs_end_with_the_same_bits() {
        let prior = g2();
        let operator = DenseOperator::new([1, 1, 2], arr2(&[[0.6, 0.8]]).view()).unwrap();
        let likelihood = LinearGaussianLikelihood::new(operator, vec![0.4], vec![0.3]).unwrap();
        let problem = problem(&prior, prior.range(), &likelihood);
        let solver = PnpDm { levels: 15, settle: 2, ..Default::default() };
        let folder = tempfile::tempdir().unwrap();
        let settings = |name: &str| {
            let folder = folder.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Drive { folder, draws: 20, seed: 7, fingerprint: "a".into(), save_every: Duration::from_secs(60) }
        };
        let never = AtomicBool::new(false);
        let whole = match drive(&solver, &problem, &settings("whole"), &never, |_, _| {}, |_| {}).unwrap() {
            Driven::Done(ensemble) => *ensemble,
            Driven::Interrupted { .. } => panic!("nobody asked to stop"),
        };
        let part = settings("part");
        let mut rounds = 0;
        let pieces = loop {
            let stop = AtomicBool::new(false);
            let ended = drive(
                &solver,
                &problem,
                &part,
                &stop,
                |_, _| {},
                |p| {
                    if p.info.step % 4 == 0 {
                        stop.store(true, Ordering::Relaxed);
                    }
                },
            );
            rounds += 1;
            match ended.unwrap() {
                Driven::Done(ensemble) => break *ensemble,
                Driven::Interrupted { step, total } => assert!(step % 4 == 0 && step < total),
            }
        };
        assert_eq!(rounds, 5);
        assert_eq!((&pieces.images, &pieces.attributes), (&whole.images, &whole.attributes));
        // Where only writing the output failed, nothing is left to do but the end.
        let again = match drive(&solver, &problem, &part, &never, |_, _| {}, |_| panic!("a step after the last")).unwrap() {
            Driven::Done(ensemble) => *ensemble,
            Driven::Interrupted { .. } => panic!("nobody asked to stop"),
        };
        assert_eq!((again.images, again.attributes), (whole.images, whole.attributes));
        // Asked to stop before the first step: at the next network call, and nothing is saved.
        let new = settings("new");
        let ended = drive(&solver, &problem, &new, &AtomicBool::new(true), |_, _| panic!("started"), |_| panic!("a step")).unwrap();
        assert!(matches!(ended, Driven::Interrupted { step: 0, total } if total > 0) && !new.folder.join(STATE_FILE).exists());
        let refused = |settings: &Drive, place: &str| {
            let error = drive(&solver, &problem, settings, &never, |_, _| {}, |_| {}).unwrap_err().to_string();
            assert!(error.contains("--force") && error.contains("state.safetensors") && error.contains(place), "{error}");
        };
        // The same folder with other settings is refused, and a state of an earlier solver, which said nothing of its revision.
        let other = Drive { fingerprint: "b".into(), ..part.clone() };
        refused(&other, "fingerprint");
        let path = part.folder.join(STATE_FILE);
        let mut file = TensorFile::read(&path).unwrap();
        file.metadata.remove("revision");
        file.write(&path).unwrap();
        refused(&part, "revision");
    }
}
