//! The likelihood half of split Gibbs and the tempered likelihood L_rho(x), both in data space.

use crate::curvature::{SharedBasis, linearise};
use crate::{Likelihood, Result};

/// Randomise-then-optimise (Bardsley et al. 2014, SIAM J. Sci. Comput. 36, A1895): z = argmin 1/2 |r(z) + e|^2 + |z - u|^2 / (2 rho^2) with
/// u = x + rho h, an exact draw from N(z; x, rho^2) L(z) for h, e ~ N(0, 1) where r is linear:
/// z = u - rho^2 J^T (1 + rho^2 J J^T)^-1 (r(x) + e + J (u - x)).
pub(super) fn likelihood_half(
    likelihood: &dyn Likelihood,
    basis: &SharedBasis,
    x: &[f32],
    rho: f64,
    h: &[f32],
    e: &[f32],
) -> Result<Vec<f32>> {
    let at = linearise(likelihood, x)?;
    let ahead = at.jvp(&h.iter().map(|h| rho * f64::from(*h)).collect::<Vec<_>>());
    let target: Vec<f64> = at.value().iter().zip(e).zip(&ahead).map(|((r, e), a)| r + f64::from(*e) + a).collect();
    let pull = at.vjp(&basis.solve(&target, rho));
    Ok(x.iter().zip(h).zip(&pull).map(|((x, h), p)| (f64::from(*x) + rho * f64::from(*h) - rho * rho * p) as f32).collect())
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// log L_rho(x) of one particle, up to a constant.
pub(super) fn log_likelihood(likelihood: &dyn Likelihood, basis: &SharedBasis, x: &[f32], rho: f64) -> Result<f64> {
    Ok(basis.log_likelihood(linearise(likelihood, x)?.value(), rho))
}

/// The residual of one particle in the shared basis, split into that of its conditional mean and the noise of its draw.
pub(super) struct Split {
    /// Residual at D(z, rho).
    pub mean: Vec<f64>,
    /// J (x - D).
    pub noise: Vec<f64>,
    /// J times the noise that a flat prior would have left.
    pub flat: Vec<f64>,
}

pub(super) fn split(likelihood: &dyn Likelihood, basis: &SharedBasis, x: &[f32], mean: &[f32], flat: &[f32]) -> Result<Split> {
    let at = linearise(likelihood, x)?;
    let away: Vec<f64> = x.iter().zip(mean).map(|(x, m)| (*x - *m) as f64).collect();
    let flat: Vec<f64> = flat.iter().map(|v| *v as f64).collect();
    let noise = basis.rotate(&at.jvp(&away));
    let residual = basis.rotate(at.value());
    Ok(Split { mean: difference(&residual, &noise), noise, flat: basis.rotate(&at.jvp(&flat)) })
}

/// Control variates for the log weights of one population of a linear problem.
///
/// In a direction that the likelihood half redraws anyway (rho^2 g large), the noise of x in its own weight says nothing about the
/// particle's future; left in, it makes resampling throw ancestors away. The part of x - D that is explained by the flat-prior noise
/// has a known law, so its contribution to the log weight is replaced by its expectation. `h`^2 (the squared share of a direction that a
/// likelihood half forgets, rho^2 g / (1 + rho^2 g)) keeps the weight where the noise stays in memory.
/// Returns what is to be added to each log weight.
pub(super) fn control_variates(splits: &[Split], values: &[f64], rho_old: f64, rho_new: f64, flat_variance: f64) -> Vec<f64> {
    let mut correction = vec![0.0; splits.len()];
    for (i, g) in values.iter().enumerate() {
        let (v0, v1) = (1.0 + rho_old * rho_old * g, 1.0 + rho_new * rho_new * g);
        let gain = 1.0 / v1 - 1.0 / v0;
        let (mut xy, mut yy) = (0.0, 0.0);
        for s in splits {
            xy += s.noise[i] * s.flat[i];
            yy += s.flat[i] * s.flat[i];
        }
        if yy <= 0.0 {
            continue;
        }
        let beta = (xy / yy).clamp(0.0, 1.0) * (1.0 - 1.0 / v0).powi(2);
        let expected = flat_variance * rho_old * rho_old * g;
        for (c, s) in correction.iter_mut().zip(splits) {
            *c += 0.5 * gain * (2.0 * s.mean[i] * beta * s.flat[i] + beta * beta * (s.flat[i] * s.flat[i] - expected));
        }
    }
    correction
}
