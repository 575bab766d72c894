//! What the prior says of an image.

use crate::numeric::geometric;
use crate::{Problem, Result};
use halation_compute::{Philox, Tensor};

/// Noise levels of the integral; each costs two network calls.
const LEVELS: usize = 12;

/// Network calls of [`log_prior`] per image.
pub(super) const CALLS: u64 = 2 * LEVELS as u64;

/// What the prior says of images.
pub(super) struct Expected {
    /// log p(x) of every image as far as the lower noise level resolves it, up to a constant that all share.
    pub log_prior: Vec<f64>,
    /// Dimensions that the prior leaves open at the lower noise level: squared error of the denoiser over sigma^2, the median over images.
    pub open: f64,
}

/// log p(x) between two noise levels, given in pixel ranges:
/// log p(x) = -int E|x - D(x + sigma eps, sigma)|^2 / sigma^2 d ln sigma (Kong, Brekelmans & Ver Steeg 2023, ICLR, with their SNR = 1 / sigma^2). What
/// the denoiser cannot guess, it did not expect. The mean is taken over eps and -eps, the same for all images, so that their differences are
/// less noisy than the values.
pub(super) fn log_prior(problem: &Problem, images: &Tensor, [top, bottom]: [f64; 2], rng: Philox) -> Result<Expected> {
    let n = images.draws();
    let levels = geometric(top * problem.pixel_range(), bottom * problem.pixel_range(), LEVELS);
    let step = (top / bottom).ln() / (LEVELS - 1) as f64;
    let mut log_prior = vec![0.0; n];
    let mut open = vec![0.0; n];
    for (i, sigma) in levels.iter().enumerate() {
        let noise = rng.normal(0..1, i as u32, &problem.prior.item_shape())?;
        open.fill(0.0);
        for sign in [1.0, -1.0] {
            let scale = (sign * sigma) as f32;
            let noisy = (0..n).flat_map(|k| images.item(k).iter().zip(noise.data()).map(move |(x, e)| x + scale * e)).collect();
            let denoised = problem.prior.denoise(&Tensor::from_vec(images.shape(), noisy)?, &vec![*sigma as f32; n])?;
            for (k, open) in open.iter_mut().enumerate() {
                let error: f64 = images.item(k).iter().zip(denoised.item(k)).map(|(x, d)| f64::from(x - d).powi(2)).sum();
                *open += 0.5 * error / (sigma * sigma);
            }
        }
        // Trapezoids.
        let weight = if i == 0 || i + 1 == LEVELS { 0.5 * step } else { step };
        log_prior.iter_mut().zip(&open).for_each(|(log, open)| *log -= weight * open);
    }
    open.sort_by(f64::total_cmp);
    Ok(Expected { log_prior, open: 0.5 * (open[(n - 1) / 2] + open[n / 2]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g1, likelihood, problem};
    use halation_lapack as _;
    use ndarray::arr2;

    /// Of a Gaussian prior N(mu, S) the integral is log N(x; mu, S + bottom^2) - log N(x; mu, S + top^2) up to a constant.
    #[test]
    fn gaussian_prior_has_its_own_density() {
        let prior = g1();
        let likelihood = likelihood(&arr2(&[[1.0, 0.5]]), &[0.9], 0.3);
        let problem = problem(&prior, [-1.0, 1.0], &likelihood);
        let x = [[0.3, -0.2], [1.5, 0.4], [-2.0, 1.0], [0.0, -3.0]];
        let images = Tensor::from_vec(&[4, 1, 1, 2], x.concat()).unwrap();
        let found = log_prior(&problem, &images, [2.0, 0.05], Philox::new(1)).unwrap();
        let smoothed = |x: [f32; 2], sigma: f64| {
            let (a, b, c) = (1.0 + sigma * sigma, 0.6, 0.8 + sigma * sigma);
            let (u, v) = (f64::from(x[0]) - 0.3, f64::from(x[1]) + 0.2);
            -0.5 * (c * u * u - 2.0 * b * u * v + a * v * v) / (a * c - b * b)
        };
        for (k, x) in x.into_iter().enumerate() {
            let expected = smoothed(x, 0.1) - smoothed(x, 4.0);
            let difference = found.log_prior[k] - found.log_prior[0];
            assert!((difference - expected).abs() < 0.02 * expected.abs() + 1e-4, "{x:?}: {difference}, expected {expected}");
        }
    }
}
