use super::{ImageScale, SummaryPlot};
use crate::{Ensemble, Error, Result, Summary};
use ndarray::{Array2, s};

/// The images of one channel of an ensemble, as a [`SummaryPlot`] borrows them.
#[derive(Clone, Debug)]
pub struct PlotImages {
    mean: Array2<f64>,
    std: Array2<f64>,
    draws: Vec<Array2<f64>>,
    notes: Vec<String>,
    scale: Option<ImageScale>,
}

impl PlotImages {
    /// Mean, standard deviation and the eight heaviest draws (in their order) of `channel`; a draw's note is its first reduced chi2.
    ///
    /// # Errors
    /// There is no such channel, or the ensemble's parts do not fit.
    pub fn of(ensemble: &Ensemble, summary: &Summary, channel: usize) -> Result<Self> {
        let (_, draws, channels, ..) = ensemble.images.dim();
        if channel >= channels {
            return Err(Error::shape("channel", format!("{channel}, expected one of {channels}, counted from 0")));
        }
        let weights = ensemble.checked_weights()?;
        let mut shown: Vec<usize> = (0..weights.len()).collect();
        shown.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
        shown.truncate(8);
        shown.sort_unstable();
        let chi2 =
            ensemble.sample_stats.iter().find(|(name, v)| is_reduced_chi2(name) && v.values.len() == weights.len()).map(|(_, v)| v);
        let chi2: Vec<f64> = chi2.map(|v| v.values.iter().copied().collect()).unwrap_or_default();
        let notes = shown.iter().map(|i| chi2.get(*i).map(|c| format!("\u{3c7}\u{b2}/N {c:.2}")).unwrap_or_default()).collect();
        let plane = |a: &ndarray::Array3<f32>| a.slice(s![channel, .., ..]).mapv(f64::from);
        Ok(Self {
            mean: plane(&summary.mean),
            std: plane(&summary.std),
            draws: shown.iter().map(|i| ensemble.images.slice(s![i / draws, i % draws, channel, .., ..]).mapv(f64::from)).collect(),
            notes,
            scale: scale_of(ensemble),
        })
    }

    /// A summary picture of the images alone, with title, label and small print from the ensemble's attributes (`object` or `input`,
    /// `label`, `version`, `solver`, `seed`); the caller adds uv coverage, truth and data panels.
    pub fn plot(&self, ensemble: &Ensemble) -> SummaryPlot<'_> {
        let attribute = |name: &str| ensemble.attributes.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let kind = ensemble.output_kind.in_words();
        let print = [("halation", "version"), ("solver", "solver"), ("prior", "prior"), ("seed", "seed"), ("device", "device")];
        let print: Vec<String> = print.iter().filter_map(|(what, name)| attribute(name).map(|v| format!("{what} {v}"))).collect();
        SummaryPlot {
            title: attribute("title").or(attribute("object")).or(attribute("input")).unwrap_or("Reconstruction").to_string(),
            label: attribute("label").map_or_else(|| kind.to_string(), |label| format!("{kind} \u{b7} {label}")),
            footer: print.join(" \u{b7} "),
            unit: ensemble.unit.clone(),
            scale: self.scale.clone(),
            uv: Vec::new(),
            truth: None,
            mean: self.mean.view(),
            std: self.std.view(),
            draws: self.draws.iter().map(|d| d.view()).collect(),
            total_draws: ensemble.draws(),
            draw_notes: self.notes.clone(),
            data: Vec::new(),
        }
    }
}

/// Whether a per-draw statistic is a reduced chi2, by its name.
pub(crate) fn is_reduced_chi2(name: &str) -> bool {
    name.starts_with("reduced_chi2") || name.starts_with("chi2")
}

fn scale_of(ensemble: &Ensemble) -> Option<ImageScale> {
    let x = &ensemble.x.values;
    let pixel = (x.last()? - x.first()?).abs() / (x.len() as f64 - 1.0);
    if !(pixel > 0.0 && pixel.is_finite()) {
        return None;
    }
    match ensemble.x.unit.as_str() {
        "" | "pixel" | "1" => None,
        // Angles are on the sky.
        "rad" => Some(ImageScale { pixel: pixel * 648e9 / std::f64::consts::PI, unit: "\u{b5}as".into(), sky: true }),
        unit => Some(ImageScale { pixel, unit: unit.replace("um", "\u{b5}m"), sky: false }),
    }
}
