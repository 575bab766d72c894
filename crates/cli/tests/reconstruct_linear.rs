//! `halation reconstruct linear` as its users run it: a mixture prior, a matrix, interruption, resume, bad input.

use halation_io::{Described, H5Reader, H5Writer, TensorFile};
use ndarray::{ArrayD, IxDyn};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// HDF5 locks a file that it writes, and a process that another test starts meanwhile would inherit the lock: one at a time.
static FILES_OR_PROCESSES: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    FILES_OR_PROCESSES.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Folder(tempfile::TempDir);

impl Folder {
    /// Two modes in three pixels, of which a matrix sees two combinations.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut prior = TensorFile::new();
        prior.metadata.insert("kind".into(), "gaussian_mixture".into());
        prior.metadata.insert("image_shape".into(), "[1, 1, 3]".into());
        prior.insert_f64("weights", &[2], vec![0.6, 0.4]);
        prior.insert_f64("means", &[2, 3], vec![-1.0, 0.0, 0.5, 1.0, 0.5, 0.0]);
        let mut covariances = vec![0.0; 18];
        for k in 0..2 {
            (0..3).for_each(|i| covariances[k * 9 + i * 4] = 0.05 + 0.02 * i as f64);
        }
        prior.insert_f64("covariances", &[2, 3, 3], covariances);
        prior.write(&folder.path().join("prior.safetensors")).unwrap();
        let me = Self(folder);
        me.problem("problem.h5", 0.2, 0.3);
        me
    }

    fn problem(&self, name: &str, sigma: f64, first: f64) {
        let _alone = alone();
        let w = H5Writer::create(&self.path(name)).unwrap();
        let a = ArrayD::from_shape_vec(IxDyn(&[2, 3]), vec![1.0, 0.5, 0.0, 0.0, 1.0, -1.0]).unwrap();
        let y = ArrayD::from_shape_vec(IxDyn(&[2]), vec![first, 0.1]).unwrap();
        w.f64s("/", "A", &a.view(), &[], Described::default()).unwrap();
        w.f64s("/", "y", &y.view(), &[], Described::default()).unwrap();
        w.attribute_f64s("/", "sigma", &[sigma]).unwrap();
        w.attribute_f64s("/", "image_shape", &[1.0, 1.0, 3.0]).unwrap();
        w.finish().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_halation"));
        command.current_dir(self.0.path()).args(["reconstruct", "linear"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let _alone = alone();
        self.command(arguments).spawn().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.spawn(arguments).wait_with_output().unwrap()
    }

    /// Runs and expects exit code 2 with `expected` on stderr and nothing written.
    fn refused(&self, arguments: &[&str], expected: &[&str]) {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        expected.iter().for_each(|e| assert!(text.contains(e), "{arguments:?}: {text} lacks {e}"));
        assert!(!self.path("bad").exists() && !self.path("bad.partial").exists(), "{arguments:?} left something behind");
    }
}

fn images(folder: &Path) -> ArrayD<f64> {
    let _alone = alone();
    H5Reader::open(&folder.join("posterior.h5")).unwrap().f64s("posterior/image").unwrap()
}

fn success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const INPUT: [&str; 3] = ["problem.h5", "--prior", "prior.safetensors"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&INPUT[..], more].concat()
}

#[test]
fn output_reproduces_itself_on_any_number_of_threads() {
    let f = Folder::new();
    success(&f.run(&with(&["-o", "a", "--levels", "30", "--seed", "5"])));
    for name in ["posterior.h5", "summary.png", "run.toml", "log.txt"] {
        assert!(f.path("a").join(name).is_file(), "{name}");
    }
    assert!(!f.path("a").join("state.safetensors").exists() && !f.path("a.partial").exists());
    let first = images(&f.path("a"));
    assert_eq!(first.shape(), [2, 10, 1, 1, 3]);
    success(&f.run(&["--config", "a/run.toml", "-o", "b", "--threads", "3"]));
    assert_eq!(first, images(&f.path("b")));
    success(&f.run(&["--config", "a/run.toml", "-o", "c", "--threads", "1", "--seed", "6"]));
    assert_ne!(first, images(&f.path("c")));
    let toml = std::fs::read_to_string(f.path("a/run.toml")).unwrap();
    for key in ["draws = 20", "seed = 5", "levels = 30", "population = 32", "solver = \"pnp-dm\"", "prior_sha256", "agree", "cost"]
    {
        assert!(toml.contains(key), "{key} is not in {toml}");
    }
    let log = std::fs::read_to_string(f.path("a/log.txt")).unwrap();
    assert!(log.contains("largest eigenvalue of J^T J") && log.contains("distinct_ancestors"), "{log}");
    success(&f.run(&with(&["-o", "d", "--solver", "dps", "--draws", "3"])));
    assert!(std::fs::read_to_string(f.path("d/run.toml")).unwrap().contains("approximate"));
}

#[test]
fn interrupted_and_resumed() {
    let f = Folder::new();
    let options = ["--levels", "6000", "--draws", "6", "--population", "12"];
    success(&f.run(&with(&[&["-o", "whole"], &options[..]].concat())));
    let child = f.spawn(&with(&[&["-o", "part"], &options[..]].concat()));
    // run.toml is there before the solver starts; a moment later the run is under way.
    let begin = Instant::now();
    while !f.path("part.partial/run.toml").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the run does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(60));
    success(&Command::new("kill").args(["-TERM", &child.id().to_string()]).output().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "{text}");
    assert!(f.path("part.partial/state.safetensors").is_file() && !f.path("part").exists());
    let again = f.run(&with(&["-o", "part"]));
    assert_eq!(again.status.code(), Some(2), "an unfinished run is neither overwritten nor continued unasked");
    // Whoever reads it meanwhile is told so, by either name.
    for (verb, name) in
        [("info", "part"), ("info", "part.partial"), ("assess", "part"), ("assess", "part.partial"), ("report", "part")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_halation")).current_dir(f.0.path()).args([verb, name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && text.contains("part.partial: output: is of a run that is not finished"),
            "{text}"
        );
        assert!(text.contains("`halation reconstruct linear -o part --resume`"), "{text}");
    }
    let other = f.run(&with(&["-o", "part", "--resume", "--seed", "9"]));
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(2) && text.contains("seed") && text.contains("--force"), "{text}");
    // The run's own settings come back without being given.
    success(&f.run(&["-o", "part", "--resume"]));
    let record = std::fs::read_to_string(f.path("part/run.toml")).unwrap();
    let line = |key: &str| record.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_string();
    assert!(line("command_line").contains("--levels 6000") && line("resumed_by").contains("--resume"), "{record}");
    // Of a finished run as well, other settings are noticed.
    success(&f.run(&["-o", "part", "--resume"]));
    let other = f.run(&with(&["-o", "part", "--resume", "--seed", "9"]));
    let text = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && text.contains("seed") && text.contains("--force"), "{text}");
    assert_eq!(images(&f.path("whole")), images(&f.path("part")));
    assert!(!f.path("part.partial").exists());
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let f = Folder::new();
    f.refused(&["none.h5", "--prior", "prior.safetensors", "-o", "bad"], &["none.h5"]);
    f.refused(&["problem.h5", "--prior", "none.safetensors", "-o", "bad"], &["none.safetensors"]);
    f.refused(&["problem.h5", "-o", "bad"], &["--prior is missing"]);
    f.refused(&["--prior", "prior.safetensors", "-o", "bad"], &["PROBLEM.h5 is missing"]);
    f.problem("nan.h5", 0.2, f64::NAN);
    f.refused(&["nan.h5", "--prior", "prior.safetensors", "-o", "bad"], &["nan.h5", "dataset y", "NaN"]);
    f.problem("zero.h5", 0.0, 0.3);
    f.refused(&["zero.h5", "--prior", "prior.safetensors", "-o", "bad"], &["zero.h5", "sigma", "positive"]);
    f.refused(&with(&["-o", "bad", "--draws", "0"]), &["at least one"]);
    f.refused(&with(&["-o", "bad", "--draws", "40", "--population", "8"]), &["8 particles for 40 draws"]);
    f.refused(&with(&["-o", "bad", "--draws", "400000000000"]), &["fewer draws"]);
    f.refused(&with(&["-o", "bad", "--solver", "dps", "--levels", "9"]), &["--levels", "pnp-dm"]);
    std::fs::write(f.path("odd.toml"), "colour = 1\n").unwrap();
    f.refused(&with(&["-o", "bad", "--config", "odd.toml"]), &["odd.toml", "colour"]);
    std::fs::write(f.path("text.h5"), "no HDF5").unwrap();
    f.refused(&["text.h5", "--prior", "prior.safetensors", "-o", "bad"], &["text.h5"]);
    let mut wrong = TensorFile::read(&f.path("prior.safetensors")).unwrap();
    wrong.metadata.insert("image_shape".into(), "[1, 3, 1]".into());
    wrong.write(&f.path("wrong.safetensors")).unwrap();
    f.refused(&["problem.h5", "--prior", "wrong.safetensors", "-o", "bad"], &["[1, 3, 1]", "[1, 1, 3]"]);
    std::fs::create_dir(f.path("there")).unwrap();
    for more in [&[][..], &["--dry-run"]] {
        f.refused(&[&with(&["-o", "there"]), more].concat(), &["there", "--force"]);
        f.refused(&[&with(&["-o", "no/such/out"]), more].concat(), &["no/such does not exist", "mkdir -p no/such"]);
    }
    let plan = f.run(&with(&["-o", "bad", "--dry-run"]));
    success(&plan);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    ["2 data", "32 particles", "1000 network evaluations", "minutes", "MiB"]
        .iter()
        .for_each(|e| assert!(text.contains(e), "{text}"));
    assert!(!f.path("bad.partial").exists());
}
