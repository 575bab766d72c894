use crate::{LinearOperator, Result};
use halation_compute::Tensor;
use ndarray::Array2;

/// -log p(y | x) up to a constant that does not depend on x, honest in temperature: 1/2 sum r^2 / sigma^2 for Gaussian noise.
///
/// x is (draw, channel, y, x) in the prior's own units (the map to physical units is part of the likelihood).
pub trait Likelihood: Send + Sync {
    /// (channel, y, x) of one image.
    fn item_shape(&self) -> [usize; 3];

    /// -log p(y | x) of every draw and its gradient.
    fn neg_log_and_grad(&self, x: &Tensor) -> Result<(Vec<f64>, Tensor)>;

    /// The whitened residual at one image, when the likelihood has one: |r|^2 / 2 = neg_log.
    ///
    /// `x` is one image (item_shape flattened, row-major). `langevin` and `pnp-dm` stand on it.
    fn residual(&self, x: &[f32]) -> Result<Option<Box<dyn Whitened + '_>>> {
        let _ = x;
        Ok(None)
    }

    /// As [`Likelihood::residual`], as far as it can be seen through Gaussian noise of standard deviation `rho` in every pixel of x: where
    /// the residual takes logarithms or angles of numbers that are no larger than this noise, it and its derivatives stop growing.
    /// Its value r and covariance S are for log E exp(-|r(x + rho h)|^2 / 2) ~ -1/2 r^T (1 + S)^-1 r - 1/2 log det(1 + S);
    /// rho = 0 and linear problems give the residual itself.
    fn residual_under_noise(&self, x: &[f32], rho: f64) -> Result<Option<Box<dyn Whitened + '_>>> {
        let _ = rho;
        self.residual(x)
    }

    /// The linear operator and noise when the problem is linear and Gaussian.
    fn linear_gaussian(&self) -> Option<LinearGaussian<'_>> {
        None
    }
}

/// The whitened residual r(x) of one image and its Jacobian J = dr/dx. Sizes: r has `len` entries, x has as many as the image has pixels.
pub trait Whitened: Send {
    /// r(x), in f64.
    fn value(&self) -> &[f64];
    /// J v.
    fn jvp(&self, v: &[f64]) -> Vec<f64>;
    /// J^T w.
    fn vjp(&self, w: &[f64]) -> Vec<f64>;
    /// J J^T (len x len), which solvers factor: data space is far smaller than image space.
    fn gram(&self) -> Array2<f64>;
    /// Covariance of r under Gaussian noise of standard deviation `rho` in every pixel of x: rho^2 J J^T, and what the linearisation leaves
    /// out where it was made for this noise ([`Likelihood::residual_under_noise`]).
    fn covariance(&self, rho: f64) -> Array2<f64> {
        self.gram() * (rho * rho)
    }
}

/// y = A x + n, n ~ N(0, diag(sigma^2)).
pub struct LinearGaussian<'a> {
    /// A.
    pub operator: &'a dyn LinearOperator,
    /// y.
    pub data: &'a [f64],
    /// Standard deviation of each datum.
    pub sigma: &'a [f64],
}
