//! The tempered likelihood L_rho(x) and the likelihood half, both in data space.
//!
//! With the whitened residual linearised at x, r(x + d) = r + J d, the likelihood seen through a Gaussian of width rho is
//! log L_rho(x) = -1/2 r^T (1 + rho^2 G)^-1 r - 1/2 log det(1 + rho^2 G), G = J J^T (exact for linear problems).

use crate::numeric::{Factor, dot, symmetric_eigen};
use crate::{Error, Likelihood, Result, Whitened};
use ndarray::Array2;

/// G of a linear problem, which all particles share, by its eigenvectors.
pub(crate) struct SharedBasis {
    /// Eigenvectors as rows.
    rows: Array2<f64>,
    /// Eigenvalues, none negative.
    pub values: Vec<f64>,
}

impl SharedBasis {
    pub fn new(gram: &Array2<f64>) -> Result<Self> {
        let (values, columns) = symmetric_eigen(gram)?;
        let rows = columns.t().as_standard_layout().into_owned();
        Ok(Self { rows, values: values.iter().map(|v| v.max(0.0)).collect() })
    }

    /// Coefficients along the eigenvectors.
    pub fn rotate(&self, v: &[f64]) -> Vec<f64> {
        let n = v.len();
        self.rows.as_slice().unwrap_or(&[]).chunks_exact(n).map(|row| dot(row, v)).collect()
    }

    fn rotate_back(&self, c: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; c.len()];
        for (row, c) in self.rows.rows().into_iter().zip(c) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += c * v);
        }
        out
    }
}

impl SharedBasis {
    /// (1 + rho^2 G)^-1 v.
    fn solve(&self, v: &[f64], rho: f64) -> Vec<f64> {
        let mut c = self.rotate(v);
        c.iter_mut().zip(&self.values).for_each(|(c, g)| *c /= 1.0 + rho * rho * g);
        self.rotate_back(&c)
    }

    /// log L_rho for the residual `r`.
    fn log_likelihood(&self, r: &[f64], rho: f64) -> f64 {
        let term = |(c, g): (&f64, &f64)| {
            let v = 1.0 + rho * rho * g;
            c * c / v + v.ln()
        };
        -0.5 * self.rotate(r).iter().zip(&self.values).map(term).sum::<f64>()
    }
}

/// (1 + rho^2 G) at one point, ready to be applied inversely.
pub(crate) enum Tempered<'a> {
    Shared {
        basis: &'a SharedBasis,
        rho: f64,
    },
    Own {
        factor: Factor,
    },
    /// Where rounding makes a nearly singular G indefinite, its eigenvectors with the negative eigenvalues set to zero.
    OwnBasis {
        basis: SharedBasis,
        rho: f64,
    },
}

impl<'a> Tempered<'a> {
    /// From the shared basis where there is one, else from the particle's own G.
    pub fn new(basis: Option<&'a SharedBasis>, gram: Option<&Array2<f64>>, rho: f64) -> Result<Self> {
        match (basis, gram) {
            (Some(basis), _) => Ok(Tempered::Shared { basis, rho }),
            (None, Some(gram)) => {
                let mut a = gram * (rho * rho);
                a.diag_mut().iter_mut().for_each(|v| *v += 1.0);
                match Factor::new(&a, "1 + rho^2 J J^T of a particle") {
                    Ok(factor) => Ok(Tempered::Own { factor }),
                    Err(_) => Ok(Tempered::OwnBasis { basis: SharedBasis::new(gram)?, rho }),
                }
            }
            (None, None) => Err(Error::Numerical("no curvature at a particle".into())),
        }
    }

    /// (1 + rho^2 G)^-1 v.
    pub fn solve(&self, v: &[f64]) -> Vec<f64> {
        match self {
            Tempered::Shared { basis, rho } => basis.solve(v, *rho),
            Tempered::OwnBasis { basis, rho } => basis.solve(v, *rho),
            Tempered::Own { factor } => factor.solve(v),
        }
    }

    /// log L_rho for the residual `r`.
    pub fn log_likelihood(&self, r: &[f64]) -> f64 {
        match self {
            Tempered::Shared { basis, rho } => basis.log_likelihood(r, *rho),
            Tempered::OwnBasis { basis, rho } => basis.log_likelihood(r, *rho),
            Tempered::Own { factor } => -0.5 * (dot(r, &factor.solve(r)) + factor.log_det()),
        }
    }
}

/// The residual at `x`.
pub(crate) fn linearise<'a>(likelihood: &'a dyn Likelihood, x: &[f32]) -> Result<Box<dyn Whitened + 'a>> {
    checked(likelihood.residual(x)?)
}

fn checked(whitened: Option<Box<dyn Whitened + '_>>) -> Result<Box<dyn Whitened + '_>> {
    let whitened = whitened.ok_or_else(|| Error::Numerical("the likelihood has no residual at a particle".into()))?;
    if whitened.value().iter().any(|v| !v.is_finite()) {
        return Err(Error::Numerical("the residual of a particle is not finite: the forward model failed at this image".into()));
    }
    Ok(whitened)
}

fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|v| *v as f32).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// 1/2 |r + e|^2 + |z - u|^2 / (2 rho^2).
fn objective(r: &[f64], e: &[f64], z: &[f64], u: &[f64], rho: f64) -> f64 {
    let fit: f64 = r.iter().zip(e).map(|(r, e)| (r + e).powi(2)).sum();
    let step: f64 = z.iter().zip(u).map(|(z, u)| (z - u).powi(2)).sum();
    0.5 * fit + 0.5 * step / (rho * rho)
}

/// The likelihood half of one particle: the likelihood linearised at x, from which every solution starts.
pub(crate) struct LikelihoodHalf<'a> {
    likelihood: &'a dyn Likelihood,
    basis: Option<&'a SharedBasis>,
    x: &'a [f32],
    rho: f64,
    at: Box<dyn Whitened + 'a>,
    tempered: Tempered<'a>,
}

impl<'a> LikelihoodHalf<'a> {
    pub fn new(likelihood: &'a dyn Likelihood, basis: Option<&'a SharedBasis>, x: &'a [f32], rho: f64) -> Result<Self> {
        let at = linearise(likelihood, x)?;
        let gram = if basis.is_some() { None } else { Some(at.gram()) };
        let tempered = Tempered::new(basis, gram.as_ref(), rho)?;
        Ok(Self { likelihood, basis, x, rho, at, tempered })
    }

    /// Number of data.
    pub fn data(&self) -> usize {
        self.at.value().len()
    }

    /// Randomise-then-optimise (Bardsley et al. 2014, SIAM J. Sci. Comput. 36, A1895): z = argmin 1/2 |r(z) + e|^2 + |z - u|^2 / (2 rho^2)
    /// with u = x + rho h, by damped Gauss-Newton steps in data space,
    /// z <- u - rho^2 J^T (1 + rho^2 J J^T)^-1 (r(z_k) + e + J (u - z_k)).
    /// One step is exact where r is linear; otherwise two are made, each shortened until the objective falls.
    /// With h = e = 0 this is the mean of z given x (where r is linear).
    pub fn solve(&self, h: &[f32], e: &[f32]) -> Result<Vec<f32>> {
        let rho = self.rho;
        let u: Vec<f64> = self.x.iter().zip(h).map(|(x, h)| *x as f64 + rho * *h as f64).collect();
        let e: Vec<f64> = e.iter().map(|v| *v as f64).collect();
        let z: Vec<f64> = self.x.iter().map(|v| *v as f64).collect();
        let next = gauss_newton(self.at.as_ref(), &self.tempered, &z, &u, &e, rho);
        if self.basis.is_some() {
            return Ok(to_f32(&next));
        }
        let Some(Point { z, at }) = shorten(self.likelihood, self.at.value(), &z, &next, &u, &e, rho)? else {
            return Ok(to_f32(&z));
        };
        let tempered = Tempered::new(None, Some(&at.gram()), rho)?;
        let next = gauss_newton(at.as_ref(), &tempered, &z, &u, &e, rho);
        let z = shorten(self.likelihood, at.value(), &z, &next, &u, &e, rho)?.map_or(z, |p| p.z);
        Ok(to_f32(&z))
    }
}

fn gauss_newton(at: &dyn Whitened, tempered: &Tempered, z: &[f64], u: &[f64], e: &[f64], rho: f64) -> Vec<f64> {
    let ahead = at.jvp(&difference(u, z));
    let target: Vec<f64> = at.value().iter().zip(e).zip(&ahead).map(|((r, e), a)| r + e + a).collect();
    let pull = at.vjp(&tempered.solve(&target));
    u.iter().zip(&pull).map(|(u, p)| u - rho * rho * p).collect()
}

/// An image with the likelihood linearised there.
struct Point<'a> {
    z: Vec<f64>,
    at: Box<dyn Whitened + 'a>,
}

/// The first of z + (next - z) 2^-k at which the objective is below that at z, with its linearisation; none when all fail.
fn shorten<'a>(
    likelihood: &'a dyn Likelihood,
    r: &[f64],
    z: &[f64],
    next: &[f64],
    u: &[f64],
    e: &[f64],
    rho: f64,
) -> Result<Option<Point<'a>>> {
    const HALVINGS: i32 = 8;
    let before = objective(r, e, z, u, rho);
    for k in 0..HALVINGS {
        let trial: Vec<f64> = z.iter().zip(next).map(|(z, n)| z + 0.5f64.powi(k) * (n - z)).collect();
        // A trial that leaves the domain of the forward model is only too long.
        if let Some(there) = likelihood.residual(&to_f32(&trial))? {
            let value = objective(there.value(), e, &trial, u, rho);
            if value.is_finite() && value < before {
                return Ok(Some(Point { z: trial, at: there }));
            }
        }
    }
    Ok(None)
}

/// log L_rho(x) of one particle, up to a constant. Where the problem is nonlinear, the residual is that under the level's noise: a function
/// of x and rho alone, so that the weights from level to level telescope.
pub(crate) fn log_likelihood(likelihood: &dyn Likelihood, basis: Option<&SharedBasis>, x: &[f32], rho: f64) -> Result<f64> {
    let at = checked(likelihood.residual_under_noise(x, rho)?)?;
    let gram = if basis.is_some() { None } else { Some(at.gram()) };
    Ok(Tempered::new(basis, gram.as_ref(), rho)?.log_likelihood(at.value()))
}

/// The residual of one particle in the shared basis, split into that of its conditional mean and the noise of its draw.
pub(crate) struct Split {
    /// Residual at D(z, rho).
    pub mean: Vec<f64>,
    /// J (x - D).
    pub noise: Vec<f64>,
    /// J times the noise that a flat prior would have left.
    pub flat: Vec<f64>,
}

pub(crate) fn split(likelihood: &dyn Likelihood, basis: &SharedBasis, x: &[f32], mean: &[f32], flat: &[f32]) -> Result<Split> {
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
pub(crate) fn control_variates(splits: &[Split], values: &[f64], rho_old: f64, rho_new: f64, flat_variance: f64) -> Vec<f64> {
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

/// |J^T J|, the largest eigenvalue, at one image.
pub(crate) fn largest_curvature(likelihood: &dyn Likelihood, x: &[f32]) -> Result<f64> {
    Ok(crate::numeric::largest_eigenvalue(&linearise(likelihood, x)?.gram()))
}
