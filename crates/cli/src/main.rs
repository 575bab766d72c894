//! The binary `halation`: arguments to a validated configuration to a run. No science in it.

use clap::{Parser, Subcommand};
use halation_compute::CpuLevel;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

mod assess;
mod bench;
mod devices;
mod find;
mod info;
mod prior;
mod reconstruct;
mod report;
mod simulate;
mod units;

/// Posterior images from indirect, noisy data with diffusion priors.
#[derive(Parser)]
#[command(name = "halation", version, about, max_term_width = 120)]
struct Cli {
    /// Threads [default: what affinity and cgroup quota allow]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// Instruction set of the network's kernels: portable, avx2 or avx512, so that a network call has the bits of another processor [default: the best one]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = cpu_level)]
    cpu_level: Option<CpuLevel>,
    #[command(subcommand)]
    verb: Verb,
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number of at least 1".into())
}

fn cpu_level(name: &str) -> Result<CpuLevel, String> {
    let all = [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512];
    all.into_iter().find(|l| l.name() == name).ok_or_else(|| "expected portable, avx2 or avx512".into())
}

#[derive(Subcommand)]
enum Verb {
    /// Reconstruct a posterior ensemble from data
    #[command(subcommand)]
    Reconstruct(reconstruct::What),
    /// Say what an input file holds
    Info(info::Args),
    /// Simulate data in the formats that the instruments write, with the truth beside it
    #[command(subcommand)]
    Simulate(simulate::What),
    /// Train, inspect, sample and check priors
    #[command(subcommand)]
    Prior(prior::What),
    /// Fit, calibration, image metrics and ring features of an ensemble
    Assess(assess::Args),
    /// Write one self-contained HTML page about an ensemble
    Report(report::Args),
    /// List the devices that can compute
    Devices(devices::Args),
    /// Time the parts and print JSON
    #[command(subcommand)]
    Bench(bench::What),
}

/// How a run ended, where that is not simply success.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// Stopped by a signal; `--resume` goes on.
    Interrupted,
}

/// Marks an error as the user's arguments or input: exit code 2 instead of 1.
#[derive(Debug)]
pub(crate) struct Unusable;

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "unusable arguments or input")
    }
}

/// `{:#}` of an error, but causes that repeat what was already said are left out.
fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(|c| c.to_string()) {
        if cause != Unusable.to_string() && !parts.iter().any(|p| p.contains(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}

/// `--option -5` as `--option=-5`: no option of this program begins with a digit, and the parser would take the number for one.
fn with_negative_values(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    for arg in args {
        let number =
            arg.to_str().and_then(|a| a.strip_prefix('-')).is_some_and(|a| a.starts_with(|c: char| c.is_ascii_digit() || c == '.'));
        match out
            .last_mut()
            .filter(|last| number && last.to_str().is_some_and(|l| l.starts_with("--") && l.len() > 2 && !l.contains('=')))
        {
            Some(last) => {
                last.push("=");
                last.push(arg);
            }
            None => out.push(arg),
        }
    }
    out
}

/// Where nobody reads on, as in `halation ... | head -1`, the program ends there as others do (128 + the signal) rather than by a panic of `println!`.
fn end_with_the_reader() -> std::io::Result<()> {
    let at_once = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 141, at_once).map(drop)
}

fn main() -> ExitCode {
    if let Err(error) = end_with_the_reader() {
        eprintln!("halation: error: signal handler: {error}");
        return ExitCode::from(1);
    }
    let cli = Cli::parse_from(with_negative_values(std::env::args_os()));
    halation_lapack::one_thread();
    if let Some(threads) = cli.threads
        && let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()
    {
        eprintln!("halation: error: --threads {threads}: {error}");
        return ExitCode::from(2);
    }
    if let Some(level) = cli.cpu_level
        && let Err(error) = CpuLevel::force(level)
    {
        eprintln!("halation: error: --cpu-level {}: {error}", level.name());
        return ExitCode::from(2);
    }
    let outcome = match cli.verb {
        Verb::Reconstruct(what) => reconstruct::run(what),
        Verb::Info(args) => info::run(args),
        Verb::Simulate(what) => simulate::run(what),
        Verb::Prior(what) => prior::run(what),
        Verb::Assess(args) => assess::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Devices(args) => devices::run(args),
        Verb::Bench(what) => bench::run(what),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            let unusable = error.is::<Unusable>();
            eprintln!("halation: error: {}", message(&error));
            ExitCode::from(if unusable { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number after an option is its value; anything else stays what it is.
    #[test]
    fn negative_values() {
        let joined = |args: &[&str]| with_negative_values(args.iter().map(OsString::from));
        assert_eq!(joined(&["--seed", "-5", "-o", "x"]), ["--seed=-5", "-o", "x"].map(OsString::from));
        assert_eq!(joined(&["--levels", "-.5"]), ["--levels=-.5"].map(OsString::from));
        assert_eq!(joined(&["--json", "-o", "-n", "-5", "--", "-5"]), ["--json", "-o", "-n", "-5", "--", "-5"].map(OsString::from));
    }
}
