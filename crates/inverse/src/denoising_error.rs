//! How far denoised images are from the truth as the data see it: what the guidance stands on.

use crate::curvature::{SharedBasis, linearise};
use crate::{Error, Problem, Result, Whitened};
use halation_compute::{Philox, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Numbers of a [`DenoisingError`] in a saved state.
pub(crate) const FIELDS: usize = 6;

/// The error at one noise level as standard deviation per unit length of image space, for an image of brightness b (see [`ln_brightness`]):
/// ln e = `ln_error` + `slope` (ln b - `centre`), with ln b held within `bounds`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DenoisingError {
    pub sigma: f64,
    pub ln_error: f64,
    pub slope: f64,
    centre: f64,
    bounds: [f64; 2],
}

impl DenoisingError {
    /// Least squares for what was found at `sigma` on images of brightness exp(`at`).
    fn fit(sigma: f64, at: &[f64], ln_errors: &[f64]) -> Self {
        let n = at.len() as f64;
        let centre = at.iter().sum::<f64>() / n;
        let ln_error = ln_errors.iter().sum::<f64>() / n;
        let spread: f64 = at.iter().map(|a| (a - centre).powi(2)).sum();
        let slope = at.iter().zip(ln_errors).map(|(a, e)| (a - centre) * (e - ln_error)).sum::<f64>() / spread;
        let slope = if slope.is_finite() { slope } else { 0.0 };
        let bounds = [at.iter().copied().fold(f64::INFINITY, f64::min), at.iter().copied().fold(f64::NEG_INFINITY, f64::max)];
        Self { sigma, ln_error, slope, centre, bounds }
    }

    fn ln_at(&self, ln_brightness: f64) -> f64 {
        self.ln_error + self.slope * (ln_brightness.clamp(self.bounds[0], self.bounds[1]) - self.centre)
    }

    pub fn to_array(self) -> [f64; FIELDS] {
        [self.sigma, self.ln_error, self.slope, self.centre, self.bounds[0], self.bounds[1]]
    }

    pub fn of_array(&[sigma, ln_error, slope, centre, low, high]: &[f64; FIELDS]) -> Self {
        Self { sigma, ln_error, slope, centre, bounds: [low, high] }
    }
}

/// Logarithm of an image's pixels over the bottom of the pixel range, summed and in units of the range: of a source, its flux over that of its brightest pixel.
fn ln_brightness(problem: &Problem, image: &[f32]) -> f64 {
    let above = |v: &f32| (f64::from(*v) - problem.range[0]).max(0.0);
    (image.iter().map(above).sum::<f64>() / problem.pixel_range()).max(f64::MIN_POSITIVE).ln()
}

/// A line for the log.
pub(crate) fn said(errors: &[DenoisingError]) -> String {
    let each: Vec<String> =
        errors.iter().map(|e| format!("{:.3}: {:.3} ({:+.2})", e.sigma, e.ln_error.exp() / e.sigma, e.slope)).collect();
    format!("denoising error along the data over the noise level (and its power of the image's brightness): {}", each.join(", "))
}

/// The error of the denoised `image` at `sigma`, by interpolation in logarithms between the levels of `nodes` (falling, evenly spaced in the logarithm);
/// below the last in proportion to sigma.
pub(crate) fn error_at(nodes: &[DenoisingError], problem: &Problem, sigma: f64, image: &[f32]) -> f64 {
    let b = ln_brightness(problem, image);
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
    let step = (last.sigma / first.sigma).ln() / (nodes.len() - 1) as f64;
    let at = ((sigma / first.sigma).ln() / step).max(0.0);
    let i = at as usize;
    if i + 1 >= nodes.len() {
        return last.ln_at(b).exp() * sigma / last.sigma;
    }
    let (low, high) = (nodes[i].ln_at(b), nodes[i + 1].ln_at(b));
    (low + (at - i as f64) * (high - low)).exp()
}

/// Measures the error at each of `sigmas` on `truths` (prior samples x0). That of one truth is the e under which J (D(x0 + sigma eps, sigma) - x0) is most
/// probable as e J N(0, 1) seen through the data's noise: every direction of the data counts by how much it can tell. `shared` is the basis of a linear problem.
pub(crate) fn denoising_errors(
    problem: &Problem,
    shared: Option<&Arc<SharedBasis>>,
    truths: &Tensor,
    sigmas: &[f64],
    rng: Philox,
) -> Result<Vec<DenoisingError>> {
    let n = truths.draws();
    let of = |i: usize| -> Result<(Box<dyn Whitened + '_>, Arc<SharedBasis>)> {
        let at = linearise(problem.likelihood, truths.item(i))?;
        let basis = match shared {
            Some(basis) => basis.clone(),
            None => Arc::new(SharedBasis::new(&at.gram())?),
        };
        Ok((at, basis))
    };
    let at: Vec<_> = (0..n).into_par_iter().map(of).collect::<Result<_>>()?;
    let mut errors = Vec::with_capacity(sigmas.len());
    for (step, sigma) in sigmas.iter().enumerate() {
        let noise = rng.normal(0..n as u64, step as u32, &problem.prior.item_shape())?;
        let noisy = truths.data().iter().zip(noise.data()).map(|(x, e)| x + *sigma as f32 * e).collect();
        let denoised = problem.prior.denoise(&Tensor::from_vec(truths.shape(), noisy)?, &vec![*sigma as f32; n])?;
        let found = |i: usize| {
            let (at, basis) = &at[i];
            let error: Vec<f64> = denoised.item(i).iter().zip(truths.item(i)).map(|(d, x)| f64::from(*d - *x)).collect();
            ln_error(&basis.rotate(&at.jvp(&error)), &basis.values)
        };
        let ln_errors: Vec<f64> = (0..n).map(found).collect();
        let at: Vec<f64> = (0..n).map(|i| ln_brightness(problem, denoised.item(i))).collect();
        let error = DenoisingError::fit(*sigma, &at, &ln_errors);
        if !error.ln_error.is_finite() {
            return Err(Error::Numerical(format!(
                "the prior's denoising error at noise level {sigma} is {} as the data see it; expected a positive number: the prior's network is damaged, or the data do not depend on the image",
                error.ln_error.exp()
            )));
        }
        errors.push(error);
    }
    Ok(errors)
}

/// ln e, e^2 = v the variance for which data that are off by the `coefficients` c_i and by noise of variance 1 are most probable, in the mean over the noise, when
/// taken as normal with variance 1 + v g_i: the root of sum w_i (c_i^2 - v g_i), w_i = g_i / (1 + v g_i)^2, by fixed point.
///
/// Few directions leave v a scatter, the logarithm of which has a mean below zero: were the c_i normal with variance v g_i, v would be chi^2_n / n with
/// n = (sum w_i g_i)^2 / sum (w_i g_i)^2, and E ln(chi^2_n / n) = psi(n/2) - ln(n/2), which is -1/n - 1/(3 n^2) within 0.07 from n = 1 on. It is taken off.
fn ln_error(coefficients: &[f64], values: &[f64]) -> f64 {
    let mut v = coefficients.iter().map(|c| c * c).sum::<f64>() / values.iter().sum::<f64>();
    let mut n = 1.0;
    for _ in 0..100 {
        let (mut seen, mut scale, mut squares) = (0.0, 0.0, 0.0);
        for (c, g) in coefficients.iter().zip(values) {
            let weight = g / (1.0 + v * g).powi(2);
            seen += weight * c * c;
            scale += weight * g;
            squares += (weight * g).powi(2);
        }
        let before = v;
        (v, n) = (seen / scale, scale * scale / squares);
        if (v / before - 1.0).abs() < 1e-3 {
            break;
        }
    }
    0.5 * (v.ln() + 1.0 / n + 1.0 / (3.0 * n * n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::shared_basis;
    use crate::testing::{Curved, g1, likelihood, problem};
    use halation_lapack as _;
    use ndarray::arr2;

    /// Coefficients of exactly the variance that is looked for, from directions that say nothing to such that say all.
    #[test]
    fn a_variance_is_found_again() {
        let values: Vec<f64> = (0..200).map(|i| 10f64.powf(-4.0 + 0.05 * f64::from(i))).collect();
        let v: f64 = 0.03;
        let coefficients: Vec<f64> = values.iter().map(|g| (v * g).sqrt()).collect();
        let found = ln_error(&coefficients, &values);
        // About 100 directions have v g above 1; their scatter is allowed for.
        assert!((found - 0.5 * v.ln()).abs() < 0.01, "{found}, expected {}", 0.5 * v.ln());
    }

    /// The mean of ln e over many truths does not depend on how many directions the data have.
    #[test]
    fn few_directions_leave_no_bias() {
        for (n, tolerance) in [(1, 0.06), (2, 0.03), (20, 0.03)] {
            let values = vec![1e4; n];
            let truths = 4000;
            let mean = (0..truths)
                .map(|i| {
                    let mut rng = Philox::new(8).sequence(i, n as u32);
                    let coefficients: Vec<f64> = (0..n).map(|_| 0.2 * 1e2 * rng.normal()).collect();
                    ln_error(&coefficients, &values)
                })
                .sum::<f64>()
                / truths as f64;
            assert!((mean - 0.2f64.ln()).abs() < tolerance, "{n} directions: {mean}, expected {}", 0.2f64.ln());
        }
    }

    /// A power of the brightness comes back, goes no farther than it was seen, and is interpolated in the logarithm of the noise level.
    #[test]
    fn the_error_follows_the_brightness() {
        let at = [-1.0, 0.0, 0.5, 2.0];
        let ln = |sigma: f64| at.map(|b| (0.1 * sigma).ln() + 0.5 * b);
        let nodes = [1.0, 0.1].map(|sigma| DenoisingError::fit(sigma, &at, &ln(sigma)));
        let prior = g1();
        let a = arr2(&[[1.0, 0.5]]);
        let likelihood = likelihood(&a, &[0.9], 0.3);
        let problem = problem(&prior, [-1.0, 1.0], &likelihood);
        // Two pixels of z: b = ln((z0 + 1 + z1 + 1) / 2).
        for (z, factor) in [(0.0, 1.0), (1.0, 2f64.sqrt()), (-1.0, (-0.5f64).exp())] {
            for (sigma, expected) in [(1.0, 0.1), (0.3, 0.03), (0.1, 0.01), (0.01, 0.001)] {
                let found = error_at(&nodes, &problem, sigma, &[z, z]);
                assert!((found / (expected * factor) - 1.0).abs() < 1e-6, "z {z}, sigma {sigma}: {found}");
            }
        }
        assert_eq!(DenoisingError::of_array(&nodes[0].to_array()), nodes[0]);
    }

    /// Of a Gaussian prior of covariance S the denoised image is off by (1/S + 1/sigma^2)^-1, for data with one curvature and with particles' own.
    #[test]
    fn the_error_of_a_gaussian_prior() {
        let prior = g1();
        let a = arr2(&[[1.0, 0.5]]);
        let likelihood = likelihood(&a, &[0.9], 0.01);
        let shared = problem(&prior, prior.range(), &likelihood);
        let curved = Curved(&likelihood);
        let own = Problem { likelihood: &curved, ..problem(&prior, prior.range(), &likelihood) };
        let truths = crate::start::sample_prior(&prior, shared.pixel_range(), Philox::new(4), 0..2000).unwrap();
        let direction = [1.0 / 1.25f64.sqrt(), 0.5 / 1.25f64.sqrt()];
        for sigma in [2.0, 0.3] {
            // With direct observation of both pixels at this noise the posterior's covariance is that of the error.
            let exact = prior.posterior(arr2(&[[1.0, 0.0], [0.0, 1.0]]).view(), &[0.0; 2], &[sigma; 2]).unwrap().covariance();
            let variance: f64 =
                (0..2).flat_map(|i| (0..2).map(move |j| (i, j))).map(|(i, j)| direction[i] * exact[(i, j)] * direction[j]).sum();
            for problem in [&shared, &own] {
                let basis = shared_basis(problem).unwrap();
                let found = denoising_errors(problem, basis.as_ref(), &truths, &[sigma], Philox::new(5)).unwrap()[0].ln_error;
                assert!((found - 0.5 * variance.ln()).abs() < 0.08, "sigma {sigma}: {found}, expected {}", 0.5 * variance.ln());
            }
        }
    }
}
