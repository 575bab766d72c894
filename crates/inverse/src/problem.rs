//! A problem: likelihood, prior, and what their numbers mean.

use crate::{Draws, Error, Likelihood, Result};
use halation_compute::Tensor;
use halation_nn::Denoiser;
use halation_posterior::{Axis, Ensemble, OutputKind, Variable};
use ndarray::{Array1, Array5, ArrayD, IxDyn};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// One draw as it is written: in physical units, with what was removed or measured on the way.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The image (channel, y, x), row-major, in the problem's unit.
    pub image: Vec<f32>,
    /// Per-draw numbers by name, for example the shift that was removed.
    pub stats: BTreeMap<String, f64>,
}

/// What only the domain knows: its data products, its gauge and its units.
pub trait Domain: Send + Sync {
    /// Reduced chi2 of every data product for one image in the prior's units.
    ///
    /// # Errors
    /// The forward model failed.
    fn reduced_chi2(&self, image: &[f32]) -> Result<Vec<(String, f64)>>;

    /// The image in physical units, after the gauge.
    ///
    /// # Errors
    /// The image cannot be presented.
    fn present(&self, image: &[f32]) -> Result<Presented>;

    /// Takes out of all draws together what differs between them by freedom of the data alone (a residual shift), so that pixel statistics
    /// compare like with like; what is removed goes into their numbers.
    ///
    /// # Errors
    /// The draws cannot be aligned.
    fn align(&self, draws: &mut [Presented]) -> Result<()> {
        let _ = draws;
        Ok(())
    }

    /// The observed data by name.
    fn observed(&self) -> BTreeMap<String, Variable>;

    /// What one image predicts for each entry of [`Domain::observed`], in the same order and length.
    ///
    /// # Errors
    /// The forward model failed.
    fn predict(&self, image: &[f32]) -> Result<BTreeMap<String, ArrayD<f64>>>;
}

/// Likelihood, prior, grid and units.
#[derive(Clone)]
pub struct Problem<'a> {
    /// p(y | x).
    pub likelihood: &'a dyn Likelihood,
    /// p(x).
    pub prior: &'a dyn Denoiser,
    /// Data products, gauge and units.
    pub domain: &'a dyn Domain,
    /// Smallest and largest pixel value of the prior's own units.
    pub range: [f64; 2],
    /// Unit of the presented images.
    pub unit: String,
    /// Channel names.
    pub channels: Vec<String>,
    /// The y axis.
    pub y: Axis,
    /// The x axis.
    pub x: Axis,
}

impl Problem<'_> {
    /// Width of the prior's pixel range: the length to which solvers refer their noise levels.
    pub fn pixel_range(&self) -> f64 {
        self.range[1] - self.range[0]
    }

    /// Pixels of one image over all channels.
    pub fn len(&self) -> usize {
        self.prior.item_shape().iter().product()
    }

    /// Whether an image has no pixel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// (draws, channel, y, x).
    pub fn shape(&self, draws: usize) -> [usize; 4] {
        let [c, y, x] = self.prior.item_shape();
        [draws, c, y, x]
    }

    /// Median over images of the reduced chi2 of every data product.
    ///
    /// # Errors
    /// The forward model failed.
    pub fn median_chi2(&self, images: &Tensor) -> Result<Vec<(String, f64)>> {
        let all: Vec<Vec<(String, f64)>> =
            (0..images.draws()).into_par_iter().map(|i| self.domain.reduced_chi2(images.item(i))).collect::<Result<_>>()?;
        let Some(first) = all.first() else { return Ok(Vec::new()) };
        Ok(first
            .iter()
            .enumerate()
            .map(|(p, (name, _))| {
                let mut values: Vec<f64> = all.iter().map(|chi2| chi2[p].1).collect();
                values.sort_by(f64::total_cmp);
                (name.clone(), 0.5 * (values[(values.len() - 1) / 2] + values[values.len() / 2]))
            })
            .collect())
    }

    /// Draws in the prior's units to an ensemble in physical units with fit, log likelihood and prediction of every draw.
    ///
    /// # Errors
    /// The forward model failed or parts do not fit each other.
    pub fn ensemble(&self, draws: Draws, kind: OutputKind) -> Result<Ensemble> {
        let n = draws.images.draws();
        if draws.chains == 0 || n == 0 || !n.is_multiple_of(draws.chains) {
            return Err(Error::Invalid(format!("{n} draws cannot be shared by {} chains", draws.chains)));
        }
        let [c, y, x] = self.prior.item_shape();
        let (chains, each) = (draws.chains, n / draws.chains);
        let mut presented: Vec<Presented> =
            (0..n).into_par_iter().map(|i| self.domain.present(draws.images.item(i))).collect::<Result<_>>()?;
        self.domain.align(&mut presented)?;
        let chi2: Vec<Vec<(String, f64)>> =
            (0..n).into_par_iter().map(|i| self.domain.reduced_chi2(draws.images.item(i))).collect::<Result<_>>()?;
        let predicted: Vec<BTreeMap<String, ArrayD<f64>>> =
            (0..n).into_par_iter().map(|i| self.domain.predict(draws.images.item(i))).collect::<Result<_>>()?;
        let (neg_log, _) = self.likelihood.neg_log_and_grad(&draws.images)?;
        let shape_error = |e: ndarray::ShapeError| Error::Invalid(format!("the parts of the ensemble do not fit: {e}"));
        let pixels: Vec<f32> = presented.iter().flat_map(|p| p.image.iter().copied()).collect();
        let images = Array5::from_shape_vec((chains, each, c, y, x), pixels).map_err(shape_error)?;
        let per_draw = |description: &str, values: Vec<f64>| -> Result<Variable> {
            Ok(Variable {
                dims: vec!["chain".into(), "draw".into()],
                unit: String::new(),
                description: description.into(),
                values: ArrayD::from_shape_vec(IxDyn(&[chains, each]), values).map_err(shape_error)?,
            })
        };
        let mut stats = BTreeMap::new();
        for p in 0..chi2[0].len() {
            let values = chi2.iter().map(|c| c[p].1).collect();
            stats.insert(format!("reduced_chi2_{}", chi2[0][p].0), per_draw("reduced chi2", values)?);
        }
        for name in presented[0].stats.keys() {
            let values = presented.iter().map(|p| p.stats.get(name).copied().unwrap_or(f64::NAN)).collect();
            stats.insert(name.clone(), per_draw("what the gauge removed or measured", values)?);
        }
        stats.insert("lp".into(), per_draw("log likelihood up to a constant", neg_log.iter().map(|v| -v).collect())?);
        stats.insert(
            "network_evaluations".into(),
            per_draw("network evaluations of this draw's particle", vec![draws.network_evaluations as f64; n])?,
        );
        for (name, description, values) in draws.stats {
            stats.insert(name, per_draw(&description, values)?);
        }
        let observed_data = self.domain.observed();
        let mut posterior_predictive = BTreeMap::new();
        for (name, observed) in &observed_data {
            let Some(first) = predicted[0].get(name) else { continue };
            let mut shape = vec![chains, each];
            shape.extend_from_slice(first.shape());
            let values: Vec<f64> = predicted.iter().flat_map(|p| p.get(name).into_iter().flat_map(|v| v.iter().copied())).collect();
            let mut dims = vec!["chain".to_string(), "draw".to_string()];
            dims.extend(observed.dims.iter().cloned());
            let values = ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(shape_error)?;
            let description = format!("prediction of {name} without noise");
            posterior_predictive.insert(name.clone(), Variable { dims, unit: observed.unit.clone(), description, values });
        }
        let ensemble = Ensemble {
            images,
            unit: self.unit.clone(),
            channels: self.channels.clone(),
            y: self.y.clone(),
            x: self.x.clone(),
            weights: Array1::from_elem(n, 1.0 / n as f64),
            sample_stats: stats,
            observed_data,
            posterior_predictive,
            attributes: draws.attributes.into_iter().collect(),
            output_kind: kind,
        };
        Ok(ensemble)
    }
}
