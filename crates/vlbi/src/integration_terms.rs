//! The residuals of one integration as functions of its model visibilities, whitened.

use crate::closures::{Cycle, closure_amplitude_basis, cycle_basis, relative_variance};
use crate::dense::{cholesky, combinations, solve_lower, times, weighted_gram};
use crate::{DataProducts, LikelihoodSettings, Prepared, Result, Visibility};
use ndarray::Array2;
use num_complex::Complex64;
use std::f64::consts::{PI, TAU};
use std::ops::Range;

/// Below this, |V|^2 of the model (in units of u summed over pixels) is taken as this: an image of zeros has no closures, and
/// its gradient is zero there rather than not a number.
const SMALLEST_POWER: f64 = 1e-24;

/// What one integration contributes: whitened closure phases, then whitened log-amplitude combinations, or complex visibilities.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// Its visibilities.
    pub range: Range<usize>,
    /// Residual rows of closure phases.
    pub phase_rows: Range<usize>,
    /// Residual rows of log-amplitudes, closed or not.
    pub amplitude_rows: Range<usize>,
    /// Residual rows of complex visibilities: all real parts, then all imaginary parts.
    pub complex_rows: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Polar(Box<Polar>),
    Complex { data: Vec<Complex64>, sigma_jy: Vec<f64> },
}

#[derive(Clone, Debug)]
struct Polar {
    cycles: Vec<Cycle>,
    closure_phase: Vec<f64>,
    /// L^{-1} of the closure phases' covariance.
    whiten_phase: Array2<f64>,
    /// L^{-1} C: from phases to whitened closure phases.
    phase: Array2<f64>,
    log_amplitude: Vec<f64>,
    /// From log-amplitudes to whitened residuals.
    amplitude: Array2<f64>,
}

/// The Jacobian of one integration's residual rows with respect to (Re V, Im V) of its own visibilities; V in units of sum(u).
pub(crate) struct TermJacobian {
    pub re: Array2<f64>,
    pub im: Array2<f64>,
    /// Derivative with respect to the scale's logarithm ln c, where V_Jy = c V.
    pub log_scale: Vec<f64>,
}

impl Term {
    /// The term of integration `index`, with its first residual row at `first_row`.
    pub fn new(prepared: &Prepared, index: usize, settings: &LikelihoodSettings, first_row: usize) -> Result<Self> {
        let range = prepared.integrations[index].range.clone();
        let visibilities = &prepared.visibilities[range.clone()];
        if settings.data == DataProducts::CalibratedVisibilities {
            let rows = first_row..first_row + 2 * visibilities.len();
            let data = visibilities.iter().map(|v| v.value_jy).collect();
            let sigma_jy = visibilities.iter().map(|v| v.sigma_jy).collect();
            let kind = Kind::Complex { data, sigma_jy };
            return Ok(Self {
                range,
                phase_rows: first_row..first_row,
                amplitude_rows: first_row..first_row,
                complex_rows: rows,
                kind,
            });
        }
        let n = visibilities.len();
        let variance: Vec<f64> = visibilities.iter().map(relative_variance).collect();
        let cycles = cycle_basis(visibilities);
        let t = combinations(cycles.iter().map(|c| &c.legs), n);
        let l = cholesky(&weighted_gram(&t, &variance))?;
        let data_phase: Vec<f64> = visibilities.iter().map(|v| v.value_jy.arg()).collect();
        let amplitude = if settings.data == DataProducts::Closures {
            let basis = closure_amplitude_basis(visibilities);
            let c = combinations(basis.iter().map(|b| &b.legs), n);
            solve_lower(&cholesky(&weighted_gram(&c, &variance))?, &c)
        } else {
            solve_lower(&cholesky(&amplitude_covariance(prepared, visibilities, settings))?, &Array2::eye(n))
        };
        let phase_rows = first_row..first_row + cycles.len();
        let amplitude_rows = phase_rows.end..phase_rows.end + amplitude.nrows();
        let polar = Polar {
            closure_phase: times(&t, &data_phase),
            whiten_phase: solve_lower(&l, &Array2::eye(cycles.len())),
            phase: solve_lower(&l, &t),
            log_amplitude: visibilities.iter().map(|v| v.value_jy.norm().ln()).collect(),
            amplitude,
            cycles,
        };
        let end = amplitude_rows.end;
        Ok(Self { range, phase_rows, amplitude_rows, complex_rows: end..end, kind: Kind::Polar(Box::new(polar)) })
    }

    /// All its residual rows.
    pub fn rows(&self) -> Range<usize> {
        self.phase_rows.start..self.complex_rows.end
    }

    /// The whitened residual for model visibilities c V (Jy), written into `out` (its rows).
    pub fn residual(&self, re: &[f64], im: &[f64], scale: f64, out: &mut [f64]) {
        match &self.kind {
            Kind::Polar(p) => p.residual(re, im, scale, out),
            Kind::Complex { data, sigma_jy } => {
                let n = data.len();
                for k in 0..n {
                    out[k] = (data[k].re - scale * re[k]) / sigma_jy[k];
                    out[n + k] = (data[k].im - scale * im[k]) / sigma_jy[k];
                }
            }
        }
    }

    /// The transposed Jacobian times `w` (its rows): cotangents of (Re V, Im V), added, and of ln c, returned.
    pub fn pull(&self, re: &[f64], im: &[f64], scale: f64, w: &[f64], to_re: &mut [f64], to_im: &mut [f64]) -> f64 {
        match &self.kind {
            Kind::Polar(p) => p.pull(re, im, w, to_re, to_im),
            Kind::Complex { data, sigma_jy } => {
                let n = data.len();
                let mut to_scale = 0.0;
                for k in 0..n {
                    let (a, b) = (-scale * w[k] / sigma_jy[k], -scale * w[n + k] / sigma_jy[k]);
                    to_re[k] += a;
                    to_im[k] += b;
                    to_scale += a * re[k] + b * im[k];
                }
                to_scale
            }
        }
    }

    /// The Jacobian as matrices.
    pub fn jacobian(&self, re: &[f64], im: &[f64], scale: f64) -> TermJacobian {
        let (rows, n) = (self.rows().len(), self.range.len());
        let mut out = TermJacobian { re: Array2::zeros((rows, n)), im: Array2::zeros((rows, n)), log_scale: vec![0.0; rows] };
        match &self.kind {
            Kind::Polar(p) => {
                let cycles = p.phase.nrows();
                for k in 0..n {
                    let power = power(re[k], im[k]);
                    for r in 0..cycles {
                        out.re[[r, k]] = p.phase[[r, k]] * im[k] / power;
                        out.im[[r, k]] = -p.phase[[r, k]] * re[k] / power;
                    }
                    for r in 0..p.amplitude.nrows() {
                        out.re[[cycles + r, k]] = -p.amplitude[[r, k]] * re[k] / power;
                        out.im[[cycles + r, k]] = -p.amplitude[[r, k]] * im[k] / power;
                        out.log_scale[cycles + r] -= p.amplitude[[r, k]];
                    }
                }
            }
            Kind::Complex { sigma_jy, .. } => {
                for k in 0..n {
                    out.re[[k, k]] = -scale / sigma_jy[k];
                    out.im[[n + k, k]] = -scale / sigma_jy[k];
                    out.log_scale[k] = -scale * re[k] / sigma_jy[k];
                    out.log_scale[n + k] = -scale * im[k] / sigma_jy[k];
                }
            }
        }
        out
    }
}

impl Polar {
    fn residual(&self, re: &[f64], im: &[f64], scale: f64, out: &mut [f64]) {
        let phase: Vec<f64> = re.iter().zip(im).map(|(a, b)| b.atan2(*a)).collect();
        // Wrapped on the integer cycles: after whitening a turn would no longer be recognised.
        let wrapped: Vec<f64> = self
            .cycles
            .iter()
            .zip(&self.closure_phase)
            .map(|(cycle, data)| wrap(data - cycle.legs.iter().map(|&(k, s)| s * phase[k]).sum::<f64>()))
            .collect();
        let cycles = self.cycles.len();
        out[..cycles].copy_from_slice(&times(&self.whiten_phase, &wrapped));
        let shift = scale.ln();
        let difference: Vec<f64> = (0..re.len()).map(|k| self.log_amplitude[k] - 0.5 * power(re[k], im[k]).ln() - shift).collect();
        out[cycles..].copy_from_slice(&times(&self.amplitude, &difference));
    }

    fn pull(&self, re: &[f64], im: &[f64], w: &[f64], to_re: &mut [f64], to_im: &mut [f64]) -> f64 {
        let (w_phase, w_amplitude) = w.split_at(self.cycles.len());
        let mut to_scale = 0.0;
        for k in 0..re.len() {
            let phase: f64 = self.phase.column(k).iter().zip(w_phase).map(|(a, b)| a * b).sum();
            let amplitude: f64 = self.amplitude.column(k).iter().zip(w_amplitude).map(|(a, b)| a * b).sum();
            let power = power(re[k], im[k]);
            to_re[k] += (phase * im[k] - amplitude * re[k]) / power;
            to_im[k] += (-phase * re[k] - amplitude * im[k]) / power;
            to_scale -= amplitude;
        }
        to_scale
    }
}

fn power(re: f64, im: f64) -> f64 {
    (re * re + im * im).max(SMALLEST_POWER)
}

/// An angle brought to [-pi, pi].
pub(crate) fn wrap(angle: f64) -> f64 {
    let turned = angle - TAU * (angle / TAU).round();
    turned.clamp(-PI, PI)
}

/// D + G S G^T: thermal and systematic noise of ln|V|, and station log-gains that each baseline of the station shares.
fn amplitude_covariance(prepared: &Prepared, visibilities: &[Visibility], settings: &LikelihoodSettings) -> Array2<f64> {
    let n = visibilities.len();
    Array2::from_shape_fn((n, n), |(i, j)| {
        let (a, b) = (&visibilities[i], &visibilities[j]);
        let gain = |s: usize| settings.gains.sigma(prepared.name(s)).powi(2);
        let shared = |s: usize| if s == b.station1 || s == b.station2 { gain(s) } else { 0.0 };
        let noise = if i == j { relative_variance(a) } else { 0.0 };
        noise + shared(a.station1) + shared(a.station2)
    })
}
