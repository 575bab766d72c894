//! How well an image fits: reduced chi2 per data product, and the predictions behind it.

use crate::closures::relative_variance;
use crate::closures_minimal::{minimal_quadrangles, minimal_triangles};
use crate::likelihood::{Evaluation, smallest_sum};
use crate::{DataProducts, FluxScale, Prepared, VlbiLikelihood};
use num_complex::Complex64;

/// Reduced chi2 of one data product.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ChiSquare {
    /// `closure_phase`, `log_closure_amplitude`, `log_amplitude` or `visibility`.
    pub product: &'static str,
    /// Number of independent data N.
    pub independent: usize,
    /// r^T S^-1 r / N with the full covariance S: 1 is expected of the truth.
    pub whitened: f64,
    /// Number of data in ehtim's minimal set; none where there is no such definition.
    pub diagonal_count: Option<usize>,
    /// ehtim's definition on its minimal set, correlations ignored: 2/N sum (1 - cos d) / s^2 for closure phases,
    /// 1/N sum (d / s)^2 for log closure amplitudes.
    pub diagonal: Option<f64>,
}

impl std::fmt::Display for ChiSquare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:.3} (whitened, N = {})", self.product, self.whitened, self.independent)?;
        match (self.diagonal, self.diagonal_count) {
            (Some(value), Some(count)) => write!(f, ", {value:.3} (diagonal, minimal set, N = {count})"),
            _ => Ok(()),
        }
    }
}

/// What an image predicts for the prepared visibilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Complex visibilities, one per [`Prepared::visibilities`], Jy. Their common scale is the settings' flux where that is given,
    /// the best-fitting one where it is free; their phases keep the image's position.
    pub visibilities_jy: Vec<Complex64>,
    /// ln c of that scale: I = c u in Jy/pixel, so the total compact flux density is c sum(u).
    pub log_scale: f64,
}

impl VlbiLikelihood {
    /// Reduced chi2 per data product of an image u (n^2 pixels in the network's gauge, or in any unit where the flux is free).
    pub fn chi2(&self, image: &[f64]) -> Vec<ChiSquare> {
        let at = self.evaluate(image);
        let model: Vec<Complex64> = at.re.iter().zip(&at.im).map(|(&a, &b)| Complex64::new(a, b)).collect();
        let rows = |pick: fn(&crate::integration_terms::Term) -> std::ops::Range<usize>| {
            let rows = self.terms().iter().flat_map(pick);
            let (mut count, mut sum) = (0, 0.0);
            for row in rows {
                count += 1;
                sum += at.residual[row].powi(2);
            }
            (count, sum)
        };
        let mut out = Vec::new();
        let mut push = |product, (count, sum): (usize, f64), lost: usize, diagonal: Option<(usize, f64)>| {
            if count > lost {
                let independent = count - lost;
                out.push(ChiSquare {
                    product,
                    independent,
                    whitened: sum / independent as f64,
                    diagonal_count: diagonal.map(|d| d.0),
                    diagonal: diagonal.map(|d| d.1),
                });
            }
        };
        push("closure_phase", rows(|t| t.phase_rows.clone()), 0, diagonal_phase(self.prepared(), &model));
        let amplitudes = rows(|t| t.amplitude_rows.clone());
        if self.settings().data == DataProducts::Closures {
            push("log_closure_amplitude", amplitudes, 0, diagonal_amplitude(self.prepared(), &model));
        } else {
            push("log_amplitude", amplitudes, self.free_scale().is_some() as usize, None);
        }
        push("visibility", rows(|t| t.complex_rows.clone()), 0, None);
        out
    }

    /// The visibilities that an image u predicts.
    pub fn predict(&self, image: &[f64]) -> Prediction {
        let at = self.evaluate(image);
        // Closures are evaluated without a scale; whoever draws amplitudes wants the one that was given.
        let log_scale = match self.settings().flux {
            FluxScale::Free => at.free_log_scale.unwrap_or_else(|| self.best_log_scale(&at)),
            FluxScale::PixelJy(scale) => scale.ln(),
            FluxScale::TotalJy(flux) => (flux / image.iter().sum::<f64>().max(smallest_sum(image.len()))).ln(),
        };
        let c = log_scale.exp();
        let visibilities_jy = at.re.iter().zip(&at.im).map(|(&a, &b)| c * Complex64::new(a, b)).collect();
        Prediction { visibilities_jy, log_scale }
    }

    /// For closures, which know no scale: weighted mean of ln|V| - ln|A u|; the weights count noise and the budget of station gains.
    fn best_log_scale(&self, at: &Evaluation) -> f64 {
        let (mut weights, mut sum) = (0.0, 0.0);
        for (k, v) in self.prepared().visibilities.iter().enumerate() {
            let gain = |s: usize| self.settings().gains.sigma(self.prepared().name(s)).powi(2);
            let weight = 1.0 / (relative_variance(v) + gain(v.station1) + gain(v.station2));
            let model = at.re[k].hypot(at.im[k]);
            if model > 0.0 {
                weights += weight;
                sum += weight * (v.value_jy.norm().ln() - model.ln());
            }
        }
        if weights > 0.0 { sum / weights } else { 0.0 }
    }
}

/// (N, 2/N sum (1 - cos d) / s^2) over minimal triangles.
fn diagonal_phase(prepared: &Prepared, model: &[Complex64]) -> Option<(usize, f64)> {
    let mut terms = Vec::new();
    for integration in &prepared.integrations {
        let (data, first) = (prepared.of(integration), integration.range.start);
        for triangle in minimal_triangles(data) {
            let (mut difference, mut variance) = (0.0, 0.0);
            for (k, sign) in triangle.legs {
                difference += sign * (data[k].value_jy.arg() - model[first + k].arg());
                variance += relative_variance(&data[k]);
            }
            terms.push(2.0 * (1.0 - difference.cos()) / variance);
        }
    }
    mean(&terms)
}

/// (N, 1/N sum (d / s)^2) over minimal quadrangles.
fn diagonal_amplitude(prepared: &Prepared, model: &[Complex64]) -> Option<(usize, f64)> {
    let mut terms = Vec::new();
    for integration in &prepared.integrations {
        let (data, first) = (prepared.of(integration), integration.range.start);
        for quadrangle in minimal_quadrangles(data) {
            let (mut difference, mut variance) = (0.0, 0.0);
            for (k, weight) in quadrangle.legs {
                difference += weight * (data[k].value_jy.norm().ln() - model[first + k].norm().ln());
                variance += weight * weight * relative_variance(&data[k]);
            }
            terms.push(difference * difference / variance);
        }
    }
    mean(&terms)
}

fn mean(terms: &[f64]) -> Option<(usize, f64)> {
    (!terms.is_empty()).then(|| (terms.len(), terms.iter().sum::<f64>() / terms.len() as f64))
}
