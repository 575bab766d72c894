use ndarray::{Array1, Array5, ArrayD};
use std::collections::BTreeMap;

/// What the images of an ensemble are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// Draws from the posterior.
    Samples,
    /// Particles of a variational approximation.
    Particles,
    /// The posterior mean.
    Mean,
    /// The posterior's highest point.
    Mode,
}

/// One axis of the image: name, unit and the coordinate of each pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Name of the dimension, for example `y`.
    pub name: String,
    /// Unit of the coordinates, for example `rad`.
    pub unit: String,
    /// Coordinate of every pixel centre.
    pub values: Vec<f64>,
}

/// A named array with named dimensions, for the groups beside the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Names of the dimensions, as many as the array has axes.
    pub dims: Vec<String>,
    /// Unit, empty when dimensionless.
    pub unit: String,
    /// What it is, in a sentence.
    pub description: String,
    /// The values.
    pub values: ArrayD<f64>,
}

/// A posterior ensemble: images, what is known of each draw, the data and their prediction.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// (chain, draw, channel, y, x), in `unit`.
    pub images: Array5<f32>,
    /// Unit of the pixel values, for example `Jy/pixel`.
    pub unit: String,
    /// Channel names.
    pub channels: Vec<String>,
    /// The y axis.
    pub y: Axis,
    /// The x axis.
    pub x: Axis,
    /// Weight of each draw, (chain * draw), summing to one.
    pub weights: Array1<f64>,
    /// Per draw, dims (chain, draw): reduced chi2 per data product, log likelihood, network evaluations, residual shift and scale.
    pub sample_stats: BTreeMap<String, Variable>,
    /// The data.
    pub observed_data: BTreeMap<String, Variable>,
    /// The data that each draw predicts, leading dims (chain, draw).
    pub posterior_predictive: BTreeMap<String, Variable>,
    /// Root attributes: version, command line, seed, solver, settings, device, hashes of prior and inputs.
    pub attributes: BTreeMap<String, String>,
    /// What the images are.
    pub output_kind: OutputKind,
}
