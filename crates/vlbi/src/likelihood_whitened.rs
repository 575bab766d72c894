//! The whitened residual at one image with its Jacobian.

use crate::VlbiLikelihood;
use crate::integration_terms::TermJacobian;
use crate::likelihood::Evaluation;
use halation_inverse::Whitened;
use ndarray::{Array2, s};
use rayon::prelude::*;

/// r(z) and J = dr/dz = P R A du/dz: R is block diagonal over integrations, A the Fourier map, P the projection that takes out a
/// free flux scale. No matrix has the size of the image.
pub(crate) struct Linearised<'a> {
    likelihood: &'a VlbiLikelihood,
    at: Evaluation,
    blocks: Vec<TermJacobian>,
}

impl<'a> Linearised<'a> {
    pub fn new(likelihood: &'a VlbiLikelihood, at: Evaluation) -> Self {
        let blocks = likelihood
            .terms()
            .iter()
            .map(|term| term.jacobian(&at.re[term.range.clone()], &at.im[term.range.clone()], at.scale))
            .collect();
        Self { likelihood, at, blocks }
    }

    /// dr / d sum(u) through the scale c = F / sum(u), where there is one.
    fn along_sum(&self) -> Option<Vec<f64>> {
        let sum = self.at.sum?;
        Some(self.blocks.iter().flat_map(|b| &b.log_scale).map(|d| -d / sum).collect())
    }
}

impl Whitened for Linearised<'_> {
    fn value(&self) -> &[f64] {
        &self.at.residual
    }

    fn jvp(&self, v: &[f64]) -> Vec<f64> {
        let units = self.likelihood.settings().units;
        let image: Vec<f64> = v.iter().map(|x| units.scale * x).collect();
        let (re, im) = self.likelihood.fourier().forward(&image);
        let mut out = vec![0.0; self.at.residual.len()];
        for (term, block) in self.likelihood.terms().iter().zip(&self.blocks) {
            let (re, im) = (&re[term.range.clone()], &im[term.range.clone()]);
            for (r, row) in term.rows().enumerate() {
                let dot = |m: &Array2<f64>, x: &[f64]| m.row(r).iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
                out[row] = dot(&block.re, re) + dot(&block.im, im);
            }
        }
        if let Some(direction) = self.along_sum() {
            let sum: f64 = image.iter().sum();
            out.iter_mut().zip(direction).for_each(|(x, d)| *x += d * sum);
        }
        self.likelihood.project(&mut out);
        out
    }

    fn vjp(&self, w: &[f64]) -> Vec<f64> {
        let scale = self.likelihood.settings().units.scale;
        let mut image = self.likelihood.pull(&self.at, w);
        image.iter_mut().for_each(|g| *g *= scale);
        image
    }

    fn gram(&self) -> Array2<f64> {
        let likelihood = self.likelihood;
        let (cos, sin) = likelihood.fourier_gram();
        let terms = likelihood.terms();
        let rows = self.at.residual.len();
        let scale = likelihood.settings().units.scale.powi(2);
        // Row block p of R A A^T R^T, its columns only up to block p: the rest follows by symmetry.
        let strips: Vec<Array2<f64>> = (0..terms.len())
            .into_par_iter()
            .map(|p| {
                let range = terms[p].range.clone();
                let end = terms[p].range.end;
                let re = self.blocks[p].re.dot(&cos.slice(s![range.clone(), ..end]));
                let im = self.blocks[p].im.dot(&sin.slice(s![range, ..end]));
                let mut strip = Array2::zeros((terms[p].rows().len(), terms[p].rows().end));
                for (term, block) in terms.iter().zip(&self.blocks).take(p + 1) {
                    let columns = term.range.clone();
                    let product =
                        re.slice(s![.., columns.clone()]).dot(&block.re.t()) + im.slice(s![.., columns]).dot(&block.im.t());
                    strip.slice_mut(s![.., term.rows()]).assign(&product);
                }
                strip
            })
            .collect();
        let mut gram = Array2::zeros((rows, rows));
        for (term, strip) in terms.iter().zip(&strips) {
            for (r, row) in term.rows().enumerate() {
                for column in 0..=row {
                    gram[[row, column]] = scale * strip[[r, column]];
                    gram[[column, row]] = gram[[row, column]];
                }
            }
        }
        if let Some(direction) = self.along_sum() {
            self.add_sum_terms(&mut gram, &direction, scale);
        }
        if let Some(direction) = likelihood.free_scale() {
            project_both_sides(&mut gram, direction);
        }
        gram
    }

    /// ln(V + n) - ln V = n/V - (n/V)^2/2 + ...: the square has variance v^2 in real and imaginary part, v that of n/V in each. It differs between
    /// visibilities where the linear term is the same for neighbours, so it is taken as independent.
    fn covariance(&self, rho: f64) -> Array2<f64> {
        let mut covariance = self.gram();
        covariance.iter_mut().for_each(|v| *v *= rho * rho);
        if self.at.second_order.is_empty() {
            return covariance;
        }
        let mut rest = Array2::zeros(covariance.raw_dim());
        for (term, block) in self.likelihood.terms().iter().zip(&self.blocks) {
            let mut along = Array2::zeros((term.rows().len(), 2 * term.range.len()));
            for (k, at) in term.range.clone().enumerate() {
                let (re, im, sd) = (self.at.re[at], self.at.im[at], self.at.second_order[at].sqrt());
                for r in 0..term.rows().len() {
                    let (a, b) = (block.re[[r, k]], block.im[[r, k]]);
                    along[[r, 2 * k]] = sd * (a * re + b * im);
                    along[[r, 2 * k + 1]] = sd * (b * re - a * im);
                }
            }
            rest.slice_mut(s![term.rows(), term.rows()]).assign(&along.dot(&along.t()));
        }
        if let Some(direction) = self.likelihood.free_scale() {
            project_both_sides(&mut rest, direction);
        }
        covariance + rest
    }
}

impl Linearised<'_> {
    /// With J = (R A + d 1^T) du/dz the products with the image of ones join: R A 1 d^T + d (R A 1)^T + n^2 d d^T.
    fn add_sum_terms(&self, gram: &mut Array2<f64>, d: &[f64], scale: f64) {
        let ones = self.likelihood.fourier().ones();
        let pixels = self.likelihood.fourier().grid().len() as f64;
        let mut a = vec![0.0; d.len()];
        for (term, block) in self.likelihood.terms().iter().zip(&self.blocks) {
            for (r, row) in term.rows().enumerate() {
                a[row] = block.re.row(r).iter().zip(&ones[term.range.clone()]).map(|(x, y)| x * y).sum();
            }
        }
        for row in 0..d.len() {
            for column in 0..d.len() {
                gram[[row, column]] += scale * (a[row] * d[column] + d[row] * a[column] + pixels * d[row] * d[column]);
            }
        }
    }
}

/// (1 - e e^T) G (1 - e e^T) for a unit vector e.
fn project_both_sides(gram: &mut Array2<f64>, e: &[f64]) {
    let g_e: Vec<f64> = gram.rows().into_iter().map(|row| row.iter().zip(e).map(|(a, b)| a * b).sum()).collect();
    let e_g_e: f64 = g_e.iter().zip(e).map(|(a, b)| a * b).sum();
    for row in 0..e.len() {
        for column in 0..e.len() {
            gram[[row, column]] += e_g_e * e[row] * e[column] - g_e[row] * e[column] - e[row] * g_e[column];
        }
    }
}
