//! The posterior of a Gaussian mixture prior under a linear Gaussian likelihood, in closed form (conjugacy, component by component).

use crate::numeric::{Factor, dot, log_sum_exp};
use crate::{Error, GaussianMixture, Result};
use halation_compute::{Philox, Tensor};
use halation_nn::Denoiser;
use ndarray::{Array1, Array2, Array3, ArrayView2};

/// A mixture posterior: K_k = C_k A^T (A C_k A^T + S)^-1, m'_k = m_k + K_k (y - A m_k), C'_k = C_k - K_k A C_k,
/// w'_k proportional to w_k N(y; A m_k, A C_k A^T + S), S = diag(sigma^2).
#[derive(Clone, Debug)]
pub struct MixturePosterior {
    /// w'_k, summing to one.
    pub weights: Array1<f64>,
    /// m'_k, (M, d).
    pub means: Array2<f64>,
    /// C'_k, (M, d, d).
    pub covariances: Array3<f64>,
    /// log p(y).
    pub log_evidence: f64,
    shape: [usize; 3],
}

impl GaussianMixture {
    /// The posterior given `data` = `a` x + n, n ~ N(0, diag(`sigma`^2)); `a` is (m, d).
    ///
    /// # Errors
    /// Shapes that do not fit, or a data covariance that cannot be factored.
    pub fn posterior(&self, a: ArrayView2<f64>, data: &[f64], sigma: &[f64]) -> Result<MixturePosterior> {
        let shape = self.item_shape();
        let (m, d) = a.dim();
        if data.len() != m || sigma.len() != m || shape.iter().product::<usize>() != d {
            return Err(Error::Invalid(format!(
                "a matrix {:?} with {} data and {} sigma on images of shape {shape:?}; these do not fit",
                a.dim(),
                data.len(),
                sigma.len()
            )));
        }
        let count = self.components.len();
        let (mut logs, mut means, mut covariances) = (Vec::new(), Array2::zeros((count, d)), Array3::zeros((count, d, d)));
        for (k, c) in self.components.iter().enumerate() {
            let covariance = c.covariance();
            let ac = a.dot(&covariance);
            let mut s = ac.dot(&a.t());
            s = (&s + &s.t()) * 0.5;
            s.diag_mut().iter_mut().zip(sigma).for_each(|(v, sigma)| *v += sigma * sigma);
            let factor = Factor::new(&s, "the data covariance of the closed form")?;
            let residual: Vec<f64> = data.iter().zip(a.dot(&c.mean)).map(|(y, am)| y - am).collect();
            let solved = factor.solve(&residual);
            logs.push(c.log_weight - 0.5 * (dot(&residual, &solved) + factor.log_det() + m as f64 * std::f64::consts::TAU.ln()));
            means.row_mut(k).assign(&(&c.mean + &ac.t().dot(&Array1::from(solved))));
            let w = factor.half_solve(&ac)?;
            covariances.index_axis_mut(ndarray::Axis(0), k).assign(&(&covariance - &w.t().dot(&w)));
        }
        let log_evidence = log_sum_exp(&logs);
        let weights = logs.iter().map(|l| (l - log_evidence).exp()).collect();
        Ok(MixturePosterior { weights, means, covariances, log_evidence, shape })
    }
}

impl MixturePosterior {
    /// Posterior mean, (d).
    pub fn mean(&self) -> Array1<f64> {
        self.weights.dot(&self.means)
    }

    /// Posterior covariance, (d, d).
    pub fn covariance(&self) -> Array2<f64> {
        let mean = self.mean();
        let d = mean.len();
        let mut total = Array2::zeros((d, d));
        for ((w, m), c) in self.weights.iter().zip(self.means.rows()).zip(self.covariances.outer_iter()) {
            let away = (&m - &mean).insert_axis(ndarray::Axis(1));
            total = total + (&c + &away.dot(&away.t())) * *w;
        }
        total
    }

    /// Independent exact draws, (draws, channel, y, x).
    ///
    /// # Errors
    /// A covariance has no eigen-decomposition.
    pub fn sample(&self, rng: Philox, draws: std::ops::Range<u64>) -> Result<Tensor> {
        Ok(self.mixture()?.sample(rng, draws))
    }

    /// The posterior as a mixture, with its own denoiser.
    ///
    /// # Errors
    /// A covariance has no eigen-decomposition.
    pub fn mixture(&self) -> Result<GaussianMixture> {
        // Symmetric to rounding, as the constructor asks.
        let symmetric = (&self.covariances + &self.covariances.view().permuted_axes([0, 2, 1])) * 0.5;
        GaussianMixture::new(self.shape, self.weights.view(), self.means.view(), symmetric.view())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g1, g2, golden, golden_problem};
    use halation_lapack as _;

    fn close(got: f64, expected: f64, tolerance: f64, what: &str) {
        assert!((got - expected).abs() <= tolerance, "{what}: {got} against {expected}");
    }

    /// Fixture G1 (a Gaussian): mean, covariance, evidence, denoiser and posterior score to the printed digits.
    #[test]
    fn fixture_g1() {
        let prior = g1();
        let a = ndarray::arr2(&[[1.0, 0.5]]);
        let post = prior.posterior(a.view(), &[0.9], &[0.3]).unwrap();
        close(post.log_evidence, -1.36685658, 1e-8, "log p(y)");
        for (i, m) in [0.78148148, 0.17037037].into_iter().enumerate() {
            close(post.mean()[i], m, 1e-8, "mean");
        }
        for (ij, c) in [((0, 0), 0.10582011), ((0, 1), -0.08783069), ((1, 1), 0.27089947)] {
            close(post.covariance()[ij], c, 1e-8, "covariance");
        }
        let at = |x: [f32; 2], s: f32, mixture: &GaussianMixture| {
            mixture.denoise(&Tensor::from_vec(&[1, 1, 1, 2], x.to_vec()).unwrap(), &[s]).unwrap().data().to_vec()
        };
        // (a, b) = (1, .5) at (.5, -.3).
        let d = at([0.5, -0.3], 0.5, &prior);
        close(d[0] as f64, 0.42913386, 1e-6, "D");
        close(d[1] as f64, -0.23569554, 1e-6, "D");
        // The exact posterior score: (D_post - x) / sigma^2.
        let d = at([0.5, -0.3], 0.5, &post.mixture().unwrap());
        close((d[0] as f64 - 0.5) / 0.25, 1.05800879, 3e-6, "posterior score");
        close((d[1] as f64 + 0.3) / 0.25, 1.08139102, 3e-6, "posterior score");
        // (a, b) = (.8, .6) at the same x: x/a, b/a.
        let d = at([0.5 / 0.8, -0.3 / 0.8], 0.75, &prior);
        close(d[0] as f64, 0.45079940, 1e-6, "D");
        close(d[1] as f64, -0.22604010, 1e-6, "D");
    }

    /// Fixture G2 (three components).
    #[test]
    fn fixture_g2() {
        let prior = g2();
        let post = prior.posterior(ndarray::arr2(&[[0.6, 0.8]]).view(), &[0.4], &[0.3]).unwrap();
        close(post.log_evidence, -1.79111474, 1e-8, "log p(y)");
        for (k, w) in [0.92452763, 0.06610110, 0.00937127].into_iter().enumerate() {
            close(post.weights[k], w, 1e-8, "weight");
        }
        for (ki, m) in [((0, 0), -0.91220557), ((0, 1), 0.79871520), ((1, 0), 0.86666667), ((2, 1), -0.91811765)] {
            close(post.means[ki], m, 1e-8, "component mean");
        }
        for (kij, c) in [((0, 0, 0), 0.06222698), ((1, 0, 1), -0.028), ((2, 1, 1), 0.05590588)] {
            close(post.covariances[kij], c, 1e-8, "component covariance");
        }
        for (i, m) in [-0.77893624, 0.76949101].into_iter().enumerate() {
            close(post.mean()[i], m, 1e-8, "mean");
        }
        for (ij, c) in [((0, 0), 0.27960063), ((0, 1), -0.04479528), ((1, 1), 0.06384163)] {
            close(post.covariance()[ij], c, 1e-8, "covariance");
        }
        let x = Tensor::from_vec(&[1, 1, 1, 2], vec![0.5 / 0.8, -0.3 / 0.8]).unwrap();
        let (d, pullback) = prior.denoise_with_pullback(&x, &[0.75]).unwrap();
        close(d.data()[0] as f64, 0.50542877, 1e-6, "D");
        close(d.data()[1] as f64, -0.29088142, 1e-6, "D");
        // Cov(x0 | x_t) = sigma^2 J.
        for (j, column) in [[0.38007373, 0.11392128], [0.11392128, 1.12040552]].into_iter().enumerate() {
            let mut e = Tensor::zeros(&[1, 1, 1, 2]);
            e.data_mut()[j] = 1.0;
            let got = pullback.vjp(&e).unwrap();
            for (got, expected) in got.data().iter().zip(column) {
                close(*got as f64 * 0.5625, expected, 1e-6, "Cov(x0 | x)");
            }
        }
    }

    /// The 1-D toy with its two noise levels.
    #[test]
    fn fixture_1d() {
        let prior = GaussianMixture::new(
            [1, 1, 1],
            ndarray::arr1(&[0.5, 0.5]).view(),
            ndarray::arr2(&[[-1.0], [1.5]]).view(),
            ndarray::arr3(&[[[0.16]], [[0.09]]]).view(),
        )
        .unwrap();
        let a = ndarray::arr2(&[[1.0]]);
        for (sigma, y, w, mean, variance) in
            [(0.5, 0.2, 0.65375607, 0.05261036, 0.73135561), (1.0, 0.3, 0.47526546, 0.34506431, 1.33974552)]
        {
            let post = prior.posterior(a.view(), &[y], &[sigma]).unwrap();
            close(post.weights[0], w, 1e-8, "weight");
            close(post.mean()[0], mean, 1e-8, "mean");
            close(post.covariance()[(0, 0)], variance, 1e-8, "variance");
        }
    }

    /// Every golden problem: mixture weights, mean and covariance of the independent closed form, and the moments of exact draws.
    #[test]
    fn golden_posteriors() {
        for name in
            ["gaussian_fourier", "gmm1d", "gmm2d_ring", "gmm2d_two_modes", "gmm2d_unequal", "gmm_image_blur", "gmm_image_unequal"]
        {
            let Some(path) = golden(name) else { continue };
            let (prior, problem) = golden_problem(&path);
            let sigma = problem.sigma.to_vec();
            let post = prior.posterior(problem.a.view(), &problem.y.to_vec(), &sigma).unwrap();
            let exact = halation_io::H5Reader::open(&path.join("exact.h5")).unwrap();
            let (mean, covariance) = (exact.f64s("mean").unwrap(), exact.f64s("covariance").unwrap());
            let scale = covariance.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            for (got, expected) in post.mean().iter().zip(&mean) {
                close(*got, *expected, 1e-7 * scale.sqrt(), name);
            }
            for (got, expected) in post.covariance().iter().zip(&covariance) {
                close(*got, *expected, 1e-7 * scale, name);
            }
            for (got, expected) in post.weights.iter().zip(&exact.f64s("mixture/weights").unwrap()) {
                close(*got, *expected, 1e-8, name);
            }
            let draws = 4000;
            let x = post.sample(Philox::new(9), 0..draws).unwrap();
            for i in 0..x.item_len() {
                let values: Vec<f64> = (0..draws as usize).map(|k| x.item(k)[i] as f64).collect();
                let m = values.iter().sum::<f64>() / draws as f64;
                let sd = covariance[[i, i]].sqrt();
                // Five standard errors: with 600 pixels in all, one in a thousand runs would fail by chance.
                close(m, mean[[i]], 5.0 * sd / (draws as f64).sqrt(), name);
            }
        }
    }
}
