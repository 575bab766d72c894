use crate::schedule::VpSchedule;
use crate::unet::{SongUNet, Tape};
use crate::{Denoiser, Error, Pullback, Result};
use halation_compute::Tensor;
use serde::{Deserialize, Serialize};

/// How a network F becomes a denoiser: D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, arXiv:2206.00364, table 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precond {
    /// Karras et al.'s own, which keeps input and target at unit variance for data of standard deviation `sigma_data`.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// The network predicts the noise of the variance-preserving process; its noise value is 999 t(sigma).
    Vp,
}

/// The four coefficients at one sigma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor of x.
    pub skip: f64,
    /// Factor of the network's output.
    pub out: f64,
    /// Factor of the network's input.
    pub input: f64,
    /// The network's noise value.
    pub noise: f64,
}

impl Precond {
    /// The coefficients at `sigma`.
    pub fn at(&self, sigma: f64) -> Coefficients {
        match *self {
            Precond::Edm { sigma_data } => {
                let total = sigma.hypot(sigma_data);
                Coefficients {
                    skip: (sigma_data / total).powi(2),
                    out: sigma * sigma_data / total,
                    input: 1.0 / total,
                    noise: sigma.ln() / 4.0,
                }
            }
            Precond::Vp => Coefficients {
                skip: 1.0,
                out: -sigma,
                input: 1.0 / (1.0 + sigma * sigma).sqrt(),
                noise: 999.0 * VpSchedule::default().time(sigma),
            },
        }
    }
}

/// A U-Net with its preconditioning: a denoiser.
pub struct UNetDenoiser {
    net: SongUNet,
    precond: Precond,
}

impl UNetDenoiser {
    /// Puts the two together.
    pub fn new(net: SongUNet, precond: Precond) -> Self {
        Self { net, precond }
    }

    /// The network.
    pub fn net(&self) -> &SongUNet {
        &self.net
    }

    /// The network, to change its parameters.
    pub fn net_mut(&mut self) -> &mut SongUNet {
        &mut self.net
    }

    /// The preconditioning.
    pub fn precond(&self) -> Precond {
        self.precond
    }

    /// The coefficients of each draw.
    ///
    /// # Errors
    /// When a sigma is not a positive number or their count is not that of draws.
    pub fn coefficients(&self, x: &Tensor, sigma: &[f32]) -> Result<Vec<Coefficients>> {
        let [c, h, w] = self.net.item_shape();
        x.expect_shape("denoise", &[sigma.len(), c, h, w])?;
        match sigma.iter().position(|s| !s.is_finite() || *s <= 0.0) {
            Some(i) => Err(Error::Invalid(format!("sigma of draw {i} is {}, expected a positive number", sigma[i]))),
            None => Ok(sigma.iter().map(|s| self.precond.at(*s as f64)).collect()),
        }
    }

    /// Gradients of sum(cotangent * D(x, sigma)) with respect to the network's parameters, flat in their order.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`], and when `cotangent` does not have the shape of `x`.
    pub fn parameter_gradients(&self, x: &Tensor, sigma: &[f32], cotangent: &Tensor) -> Result<Vec<f32>> {
        let c = self.coefficients(x, sigma)?;
        cotangent.expect_shape("parameter_gradients", x.shape())?;
        let (input, noise) = self.network_input(x, &c);
        let mut sum = self.net.gradient_sum();
        self.net.accumulate(&mut sum, &input, &noise, |d, _| {
            let g = cotangent.select(&[d])?;
            Ok((scaled(&g, std::iter::once(c[d].out)), 0.0))
        })?;
        Ok(self.net.flat_gradients(&sum))
    }

    /// The network's input and noise values for `x`.
    pub(crate) fn network_input(&self, x: &Tensor, c: &[Coefficients]) -> (Tensor, Vec<f32>) {
        (scaled(x, c.iter().map(|c| c.input)), c.iter().map(|c| c.noise as f32).collect())
    }
}

/// Each draw times its own factor.
pub(crate) fn scaled(x: &Tensor, factors: impl Iterator<Item = f64>) -> Tensor {
    let mut out = x.clone();
    let n = x.item_len().max(1);
    for (item, f) in out.data_mut().chunks_exact_mut(n).zip(factors) {
        let f = f as f32;
        item.iter_mut().for_each(|v| *v *= f);
    }
    out
}

/// Per draw a x + b y.
pub(crate) fn combined(x: &Tensor, y: &Tensor, factors: impl Iterator<Item = (f64, f64)>) -> Tensor {
    let mut out = x.clone();
    let n = x.item_len().max(1);
    for ((out, y), (a, b)) in out.data_mut().chunks_exact_mut(n).zip(y.data().chunks_exact(n)).zip(factors) {
        let (a, b) = (a as f32, b as f32);
        out.iter_mut().zip(y).for_each(|(o, y)| *o = a * *o + b * y);
    }
    out
}

impl Denoiser for UNetDenoiser {
    fn item_shape(&self) -> [usize; 3] {
        self.net.item_shape()
    }

    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> Result<Tensor> {
        let c = self.coefficients(x, sigma)?;
        let (input, noise) = self.network_input(x, &c);
        let f = self.net.forward(&input, &noise)?;
        Ok(combined(x, &f, c.iter().map(|c| (c.skip, c.out))))
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        let coefficients = self.coefficients(x, sigma)?;
        let (input, noise) = self.network_input(x, &coefficients);
        let (f, tape) = self.net.forward_with_tape(&input, &noise)?;
        let out = combined(x, &f, coefficients.iter().map(|c| (c.skip, c.out)));
        Ok((out, Box::new(UNetPullback { net: &self.net, tape, coefficients })))
    }
}

struct UNetPullback<'a> {
    net: &'a SongUNet,
    tape: Tape,
    coefficients: Vec<Coefficients>,
}

impl Pullback for UNetPullback<'_> {
    fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        let g = scaled(v, self.coefficients.iter().map(|c| c.out));
        let g = self.net.vjp(&self.tape, &g)?;
        Ok(combined(v, &g, self.coefficients.iter().map(|c| (c.skip, c.input))))
    }
}
