//! Langevin dynamics scaled by the curvature that data and noise give.

use crate::curvature::{SharedBasis, factor_one_plus};
use crate::numeric::{Factor, dot};
use crate::{Result, Whitened};
use halation_compute::Sequence;

/// Step in time, where the stiffest direction swings with frequency 1 at most.
const TIME_STEP: f64 = 0.7;
/// What is left of a momentum after one step.
const PERSISTENCE: f64 = 0.8;

/// A = (1/sigma^2 + J^T C^-1 J)^-1 = sigma^2 - sigma^4 J^T (C + sigma^2 J J^T)^-1 J at one state, C = 1 + e^2 J J^T and what the linearisation leaves out:
/// the inverse of the largest curvature that -log p(state | y) can have at noise level sigma while the denoiser's Jacobian has eigenvalues from 0 to 1.
pub(super) struct Metric<'a> {
    at: Box<dyn Whitened + 'a>,
    sigma: f64,
    data: Data<'a>,
}

/// How C and C + sigma^2 J J^T are solved.
enum Data<'a> {
    /// Of a linear problem by the eigenvectors that all states share; the error e.
    Shared(&'a SharedBasis, f64),
    /// Factors of both, of the first where e is not zero.
    Own(Option<Factor>, Factor),
}

impl<'a> Metric<'a> {
    /// Of the likelihood linearised at a state, `at`, seen through an error e (0: not seen through any).
    pub fn new(at: Box<dyn Whitened + 'a>, basis: Option<&'a SharedBasis>, sigma: f64, error: f64) -> Result<Self> {
        if let Some(basis) = basis {
            return Ok(Self { at, sigma, data: Data::Shared(basis, error) });
        }
        let by_noise = at.gram() * (sigma * sigma);
        let data = if error > 0.0 {
            let covariance = at.covariance(error);
            Data::Own(Some(factor_one_plus(covariance.clone())?), factor_one_plus(covariance + by_noise)?)
        } else {
            Data::Own(None, factor_one_plus(by_noise)?)
        };
        Ok(Self { at, sigma, data })
    }

    /// The whitened residual r.
    pub fn residual(&self) -> &[f64] {
        self.at.value()
    }

    /// J v.
    pub fn jvp(&self, v: &[f64]) -> Vec<f64> {
        self.at.jvp(v)
    }

    /// J^T C^-1 r.
    pub fn pull(&self) -> Vec<f64> {
        let r = self.at.value();
        match &self.data {
            Data::Shared(basis, error) => self.at.vjp(&basis.solve(r, *error)),
            Data::Own(Some(first), _) => self.at.vjp(&first.solve(r)),
            Data::Own(None, _) => self.at.vjp(r),
        }
    }

    /// log p(y | state) = -r^T C^-1 r / 2 - log det C / 2 up to a constant.
    pub fn log_likelihood(&self) -> f64 {
        let r = self.at.value();
        match &self.data {
            Data::Shared(basis, error) => basis.log_likelihood(r, *error),
            Data::Own(Some(first), _) => -0.5 * (dot(r, &first.solve(r)) + first.log_det()),
            Data::Own(None, _) => -0.5 * dot(r, r),
        }
    }

    /// A v.
    pub fn apply(&self, v: &[f64]) -> Vec<f64> {
        let along = self.at.jvp(v);
        let s2 = self.sigma * self.sigma;
        let solved = match &self.data {
            Data::Shared(basis, error) => basis.solve(&along, self.sigma.hypot(*error)),
            Data::Own(_, both) => both.solve(&along),
        };
        v.iter().zip(self.at.vjp(&solved)).map(|(v, p)| s2 * (v - s2 * p)).collect()
    }

    /// How the state moves by one step of underdamped Langevin dynamics, whose force, the score of the distribution, `towards` is A times.
    ///
    /// With B = A [1/sigma, J^T C^-1/2], so that B B^T = A, and momenta w of variance 1 along pixels and data: w += t B^T F, z += t/2 B w, w = 0.8 w + 0.6 n,
    /// z += t/2 B w (kick, drift, fresh noise, drift: BAOAB, Leimkuhler & Matthews 2013, doi:10.1093/amrx/abs010, which leaves the covariance of a Gaussian as
    /// it is for any stable step). So what the data decide moves as fast as what they leave free.
    pub fn langevin(&self, towards: &[f64], along_pixels: &mut [f32], along_data: &mut [f64], mut noise: Sequence) -> Vec<f64> {
        // The momentum before and after it is renewed carries the state for half a step each.
        let mut both = |w: f64, force: f64| {
            let kicked = w + TIME_STEP * force;
            let renewed = PERSISTENCE * kicked + (1.0 - PERSISTENCE * PERSISTENCE).sqrt() * noise.normal();
            (renewed, kicked + renewed)
        };
        let mut carried = self.root(self.at.jvp(towards));
        for (w, force) in along_data.iter_mut().zip(&mut carried) {
            (*w, *force) = both(*w, *force);
        }
        let mut moved = self.at.vjp(&self.transposed_root(carried));
        for ((w, moved), towards) in along_pixels.iter_mut().zip(&mut moved).zip(towards) {
            let (renewed, sum) = both(f64::from(*w), towards / self.sigma);
            *w = renewed as f32;
            *moved += sum / self.sigma;
        }
        self.apply(&moved).into_iter().map(|m| 0.5 * TIME_STEP * m).collect()
    }

    /// C^-1/2 v.
    fn root(&self, v: Vec<f64>) -> Vec<f64> {
        match &self.data {
            Data::Shared(basis, error) => basis.root(&v, *error),
            Data::Own(Some(first), _) => first.half(v),
            Data::Own(None, _) => v,
        }
    }

    fn transposed_root(&self, v: Vec<f64>) -> Vec<f64> {
        match &self.data {
            Data::Shared(basis, error) => basis.root(&v, *error),
            Data::Own(Some(first), _) => first.transposed_half(v),
            Data::Own(None, _) => v,
        }
    }
}
