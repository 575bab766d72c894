//! `halation reconstruct linear`.

use super::run::{Job, OutputOptions, SolverOptions, execute, load_prior, required};
use crate::{Outcome, Unusable};
use anyhow::{Context, Result};
use halation_inverse::{DenseOperator, LinearGaussianLikelihood, Problem};
use halation_io::read_linear_problem;
use halation_posterior::plot::{DataPanel, PlotImages};
use halation_posterior::{Axis, Ensemble, Summary};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Options that a TOML file may give as well.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct Options {
    /// HDF5 file with A (m x d), y (m), sigma (attribute, or dataset of m) and attribute image_shape
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<PathBuf>,
    /// Prior: a safetensors file of a network or of a Gaussian mixture
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prior: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(after_help = "Example: halation reconstruct linear problem.h5 -o out --prior prior.safetensors --draws 64 --seed 1")]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    solver: SolverOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Both groups of options as one table, as they stand in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct All {
    #[serde(flatten)]
    options: Options,
    #[serde(flatten)]
    solver: SolverOptions,
}

pub(crate) fn run(args: Args) -> Result<Outcome> {
    let All { options, solver } = args.output.complete(&All { options: args.options, solver: args.solver })?;
    let path = required(&options.problem, "PROBLEM.h5").context(Unusable)?;
    let file = read_linear_problem(path).context(Unusable)?;
    let path = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let prior = load_prior(required(&options.prior, "--prior").context(Unusable)?)?;
    let operator = DenseOperator::new(file.image_shape, file.a.view()).context(Unusable)?;
    let likelihood = LinearGaussianLikelihood::new(operator, file.y.to_vec(), file.sigma.to_vec()).context(Unusable)?;
    let [channels, y, x] = file.image_shape;
    let axis = |name: &str, n: usize| Axis { name: name.into(), unit: "pixel".into(), values: (0..n).map(|i| i as f64).collect() };
    let problem = Problem {
        likelihood: &likelihood,
        prior: prior.denoiser.as_ref(),
        domain: &likelihood,
        range: prior.range,
        unit: prior.metadata.get("unit").cloned().unwrap_or_default(),
        channels: (0..channels).map(|i| i.to_string()).collect(),
        y: axis("y", y),
        x: axis("x", x),
    };
    let complete = Options { problem: Some(path.clone()), prior: Some(prior.path.clone()) };
    let summary = vec![format!(
        "data: {}: {} data, image of {channels} x {y} x {x} (channel, y, x), sigma {:.4e} to {:.4e}",
        path.display(),
        file.y.len(),
        file.sigma.iter().copied().fold(f64::INFINITY, f64::min),
        file.sigma.iter().copied().fold(0.0, f64::max)
    )];
    execute(
        &problem,
        &Job {
            command: "reconstruct linear",
            output: &args.output,
            solver: &solver,
            default_solver: super::run::SolverName::PnpDm,
            options: toml::Table::try_from(&complete)?,
            attributes: vec![("input".into(), path.file_name().unwrap_or_default().display().to_string())],
            inputs: &[path],
            prior: &prior,
            summary,
            write: &write,
        },
    )
}

/// summary.png: mean, standard deviation and draws of the first channel, and the data with the draws' predictions.
fn write(ensemble: &Ensemble, folder: &Path) -> Result<()> {
    let summary = Summary::of(ensemble)?;
    let images = PlotImages::of(ensemble, &summary, 0)?;
    let mut plot = images.plot(ensemble);
    if ensemble.channels.len() > 1 {
        plot.title = format!("{}, the first of {} channels", plot.title, ensemble.channels.len());
    }
    let weights = ensemble.checked_weights()?;
    let observed = |name: &str| -> Result<Vec<f64>> {
        let variable = ensemble.observed_data.get(name).with_context(|| format!("the ensemble has no data {name}"))?;
        Ok(variable.values.iter().copied().collect())
    };
    let y = observed("y")?;
    let predicted = ensemble.posterior_predictive.get("y").context("the ensemble has no prediction of y")?;
    let rows = predicted.values.to_shape((weights.len(), y.len()))?;
    let panel = DataPanel {
        title: "Data".into(),
        x_label: "Datum".into(),
        y_label: "y".into(),
        x: (0..y.len()).map(|i| i as f64).collect(),
        y,
        sigma: observed("sigma")?,
        ..Default::default()
    };
    plot.data = vec![panel.with_predictions(&rows.view(), &weights)?];
    plot.draw()?.write_png(&folder.join("summary.png"))?;
    Ok(())
}
