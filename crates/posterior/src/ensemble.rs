use crate::{Error, Result};
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

impl OutputKind {
    /// The name that pictures and pages show.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Samples => "Posterior samples",
            Self::Particles => "Particles of a variational approximation",
            Self::Mean => "Posterior mean",
            Self::Mode => "Posterior mode",
        }
    }
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

impl Ensemble {
    /// Number of draws over all chains.
    pub fn draws(&self) -> usize {
        let (chains, draws, ..) = self.images.dim();
        chains * draws
    }

    /// The weights, checked: as many as draws, none negative, summing to one within 1e-6 (then made to sum to one).
    ///
    /// # Errors
    /// No draw, another number of weights, or weights that are no weights.
    pub fn checked_weights(&self) -> Result<Vec<f64>> {
        let sum: f64 = self.weights.sum();
        if self.draws() == 0 || self.weights.len() != self.draws() {
            return Err(Error::shape(
                "weights",
                format!("{} weights for {} draws, expected one for each of at least one draw", self.weights.len(), self.draws()),
            ));
        }
        if self.weights.iter().any(|w| !(*w >= 0.0 && w.is_finite())) || (sum - 1.0).abs() > 1e-6 {
            return Err(Error::shape("weights", format!("sum to {sum}, expected non-negative weights that sum to one")));
        }
        Ok(self.weights.iter().map(|w| w / sum).collect())
    }

    /// Checks that all parts fit: weights, axes and channels with the images, dimensions with the values of every variable.
    ///
    /// # Errors
    /// The first part that does not fit.
    pub fn check(&self) -> Result<()> {
        self.checked_weights()?;
        let (chains, draws, channels, ny, nx) = self.images.dim();
        for (what, found, expected) in
            [("channels", self.channels.len(), channels), ("y axis", self.y.values.len(), ny), ("x axis", self.x.values.len(), nx)]
        {
            if found != expected {
                return Err(Error::shape(what, format!("{found} entries, but the images {:?} have {expected}", self.images.dim())));
            }
        }
        let clash = ["chain", "draw", "channel", "image"].contains(&self.y.name.as_str())
            || ["chain", "draw", "channel", "image"].contains(&self.x.name.as_str());
        if self.y.name == self.x.name || self.y.name.is_empty() || self.x.name.is_empty() || clash {
            return Err(Error::shape(
                "axes",
                format!("names {:?} and {:?}, expected two names of their own", self.y.name, self.x.name),
            ));
        }
        for (group, all) in [
            ("sample_stats", &self.sample_stats),
            ("observed_data", &self.observed_data),
            ("posterior_predictive", &self.posterior_predictive),
        ] {
            for (name, v) in all {
                let place = format!("{group}/{name}");
                if name.is_empty() || name.contains('/') || v.dims.iter().any(|d| d.is_empty() || d.contains('/')) {
                    return Err(Error::shape(place, "names must not be empty or hold a slash"));
                }
                if v.dims.len() != v.values.ndim() {
                    return Err(Error::shape(place, format!("shape {:?} with dimensions {:?}", v.values.shape(), v.dims)));
                }
                for (dim, length) in v.dims.iter().zip(v.values.shape()) {
                    let expected = match dim.as_str() {
                        "chain" => chains,
                        "draw" => draws,
                        _ => continue,
                    };
                    if *length != expected {
                        return Err(Error::shape(
                            place,
                            format!("dimension {dim} has length {length}, but the images have {expected}"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
