//! `halation reconstruct linear`.

use super::run::{Job, OutputOptions, SolverOptions, execute, load_prior, required};
use crate::{Outcome, Unusable};
use anyhow::{Context, Result};
use halation_inverse::{DenseOperator, LinearGaussianLikelihood, Problem};
use halation_io::{Colours, contact_sheet, read_linear_problem};
use halation_posterior::{Axis, Ensemble, Summary};
use ndarray::{Array2, Array3, Axis as Axis0};
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
            inputs: &[path],
            prior: &prior,
            summary,
            attributes: Vec::new(),
            write: &write,
        },
    )
}

/// summary.png: mean, standard deviation and eight draws of the first channel, all but the standard deviation on one scale.
fn write(ensemble: &Ensemble, folder: &Path) -> Result<()> {
    const DRAWS: usize = 8;
    const SIZE: usize = 128;
    let summary = Summary::of(ensemble)?;
    let first = |a: &Array3<f32>| a.index_axis(Axis0(0), 0).to_owned();
    let mean = first(&summary.mean);
    let (low, high) = mean.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    let scale = (high - low).max(f32::MIN_POSITIVE);
    // Everything on one scale from 0 to 1, the standard deviation by its own largest value.
    let unit = |a: Array2<f32>| a.mapv(|v| (v - low) / scale);
    let std = first(&summary.std);
    let top = std.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let mut tiles = vec![unit(mean), std / top];
    for chain in ensemble.images.outer_iter() {
        tiles.extend(
            chain.outer_iter().take(DRAWS / ensemble.images.dim().0.max(1)).map(|d| unit(d.index_axis(Axis0(0), 0).to_owned())),
        );
    }
    let views: Vec<_> = tiles.iter().map(|t| t.view()).collect();
    let zoom = (SIZE / tiles[0].nrows().max(tiles[0].ncols()).max(1)).max(1);
    contact_sheet(&views, 5, zoom, Some((0.0, 1.0)), Colours::Gray).write_png(&folder.join("summary.png"))?;
    Ok(())
}
