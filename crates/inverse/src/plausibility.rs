//! What the prior says of an image.

use crate::{Error, Problem, Result};
use halation_compute::{Philox, Tensor};
use halation_nn::schedule::geometric;

/// Noise levels of the integral; each costs two network calls.
const LEVELS: usize = 12;

/// Network calls of [`log_prior`] per image.
pub(crate) const CALLS: u64 = 2 * LEVELS as u64;

/// What the prior says of images.
pub(crate) struct Plausibility {
    /// log p of every image.
    pub log_prior: Vec<f64>,
    /// What the prior holds about every image: log p and the logarithm of the volume, int tr(dD/dx) d ln sigma. Its mean over the samples of a prior does not
    /// depend on the prior, nor on how complex the samples are, since E|x - D|^2 = sigma^2 E tr(dD/dx) at every level (Tweedie).
    pub log_mass: Vec<f64>,
    /// Degrees of freedom that the prior leaves open at the lowest level, mean over the images: E|x - D|^2 / sigma^2. Of d open degrees of a Gaussian
    /// log p of its samples has variance d/2.
    pub open: f64,
}

/// log p of every image between two noise levels, given in pixel ranges: log p_bottom(x) - log p_top(x), p_sigma the prior seen through noise sigma, up
/// to a constant; what the prior prefers at coarser levels is left out.
/// log p(x) = -int E|x - D(x + sigma eps, sigma)|^2 / sigma^2 d ln sigma (Kong, Brekelmans & Ver Steeg 2023, ICLR, with their SNR = 1 / sigma^2). What
/// the denoiser cannot guess, it did not expect. The mean is taken over eps and -eps, the same for all images, so that their differences are
/// less noisy than the values.
pub(crate) fn log_prior(problem: &Problem, images: &Tensor, [top, bottom]: [f64; 2], rng: Philox) -> Result<Plausibility> {
    let n = images.draws();
    let levels = geometric(top * problem.pixel_range(), bottom * problem.pixel_range(), LEVELS);
    let step = (top / bottom).ln() / (LEVELS - 1) as f64;
    let (mut log_prior, mut log_mass, mut open) = (vec![0.0; n], vec![0.0; n], 0.0);
    for (i, sigma) in levels.iter().enumerate() {
        let noise = rng.normal(0..1, i as u32, &problem.prior.item_shape())?;
        // Trapezoids, halved for the two signs.
        let weight = 0.5 * step * if i == 0 || i + 1 == LEVELS { 0.5 } else { 1.0 };
        for sign in [1.0, -1.0] {
            let scale = (sign * sigma) as f32;
            let noisy = (0..n).flat_map(|k| images.item(k).iter().zip(noise.data()).map(move |(x, e)| x + scale * e)).collect();
            let denoised = problem.prior.denoise(&Tensor::from_vec(images.shape(), noisy)?, &vec![*sigma as f32; n])?;
            for (k, log) in log_prior.iter_mut().enumerate() {
                let error: f64 = images.item(k).iter().zip(denoised.item(k)).map(|(x, d)| f64::from(x - d).powi(2)).sum();
                if !error.is_finite() {
                    return Err(Error::Numerical(format!(
                        "the denoised image of particle {k} is not finite at noise level {sigma}"
                    )));
                }
                *log -= weight * error / (sigma * sigma);
                // Hutchinson's estimate of the trace by eps^T (D(x + sigma eps) - D(x - sigma eps)) / (2 sigma).
                let trace: f64 = denoised.item(k).iter().zip(noise.data()).map(|(d, e)| sign * f64::from(*d) * f64::from(*e)).sum();
                log_mass[k] += weight * (trace / sigma - error / (sigma * sigma));
                if i + 1 == LEVELS {
                    open += 0.5 * error / (sigma * sigma * n as f64);
                }
            }
        }
    }
    Ok(Plausibility { log_prior, log_mass, open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g1, likelihood, problem};
    use crate::{DenseOperator, GaussianField, LinearGaussianLikelihood};
    use halation_lapack as _;
    use ndarray::{Array2, arr2};

    /// Of a Gaussian prior N(mu, S) the integral is log N(x; mu, S + bottom^2) - log N(x; mu, S + top^2) up to a constant.
    #[test]
    fn gaussian_prior_has_its_own_density() {
        let prior = g1();
        let likelihood = likelihood(&arr2(&[[1.0, 0.5]]), &[0.9], 0.3);
        let problem = problem(&prior, [-1.0, 1.0], &likelihood);
        let x = [[0.3, -0.2], [1.5, 0.4], [-2.0, 1.0], [0.0, -3.0]];
        let images = Tensor::from_vec(&[4, 1, 1, 2], x.concat()).unwrap();
        let found = log_prior(&problem, &images, [2.0, 0.05], Philox::new(1)).unwrap().log_prior;
        let smoothed = |x: [f32; 2], sigma: f64| {
            let (a, b, c) = (1.0 + sigma * sigma, 0.6, 0.8 + sigma * sigma);
            let (u, v) = (f64::from(x[0]) - 0.3, f64::from(x[1]) + 0.2);
            -0.5 * (c * u * u - 2.0 * b * u * v + a * v * v) / (a * c - b * b)
        };
        for (k, x) in x.into_iter().enumerate() {
            let expected = smoothed(x, 0.1) - smoothed(x, 4.0);
            let difference = found[k] - found[0];
            assert!((difference - expected).abs() < 0.02 * expected.abs() + 1e-4, "{x:?}: {difference}, expected {expected}");
        }
    }

    /// A Gaussian field leaves open the sum over its modes of power / (power + sigma^2). One noise image for all: 256 modes to 20 %.
    #[test]
    fn open_degrees_of_a_field() {
        let n = 16;
        let field = GaussianField::new(n, vec![0.0; n * n], 0.3, 1.5, 1.5).unwrap();
        let operator = DenseOperator::new([1, n, n], Array2::ones((1, n * n)).view()).unwrap();
        let likelihood = LinearGaussianLikelihood::new(operator, vec![0.0], vec![1.0]).unwrap();
        let problem = problem(&field, [-1.0, 1.0], &likelihood);
        let images = field.sample(Philox::new(2), 0..8).unwrap();
        let open = log_prior(&problem, &images, [2.0, 0.05], Philox::new(1)).unwrap().open;
        let expected: f64 = field.power_grid().iter().map(|p| p / (p + 0.01)).sum();
        assert!((open / expected - 1.0).abs() < 0.2, "{open}, expected {expected}");
    }
}
