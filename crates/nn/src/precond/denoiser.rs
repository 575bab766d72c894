use super::{Coefficients, Precond};
use crate::unet::{Tape, UNet};
use crate::{Denoiser, Error, Pullback, Result};
use halation_compute::Tensor;

/// A U-Net with its preconditioning: a denoiser.
pub struct UNetDenoiser {
    net: UNet,
    precond: Precond,
}

impl UNetDenoiser {
    /// Puts the two together.
    pub fn new(net: UNet, precond: Precond) -> Self {
        Self { net, precond }
    }

    /// The network.
    pub fn net(&self) -> &UNet {
        &self.net
    }

    /// The network, to change its parameters.
    pub fn net_mut(&mut self) -> &mut UNet {
        &mut self.net
    }

    /// The preconditioning.
    pub fn precond(&self) -> &Precond {
        &self.precond
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
        self.net.parameter_gradients(&input, &noise, &self.widened(scaled(cotangent, c.iter().map(|c| c.out))))
    }

    /// Of the network's output the channels of an image; others say a variance.
    fn image_of(&self, f: Tensor) -> Result<Tensor> {
        let [c, h, w] = self.net.item_shape();
        if self.net.out_channels() == c {
            return Ok(f);
        }
        let items = (0..f.draws()).flat_map(|d| f.item(d)[..c * h * w].iter().copied()).collect();
        Ok(Tensor::from_vec(&[f.draws(), c, h, w], items)?)
    }

    /// The gradient of the network's output from that of the channels of an image.
    fn widened(&self, g: Tensor) -> Tensor {
        let [c, h, w] = self.net.item_shape();
        let channels = self.net.out_channels();
        if channels == c {
            return g;
        }
        let mut wide = Tensor::zeros(&[g.draws(), channels, h, w]);
        let items = wide.data_mut().chunks_exact_mut(channels * h * w);
        items.zip(g.data().chunks_exact(c * h * w)).for_each(|(wide, g)| wide[..c * h * w].copy_from_slice(g));
        wide
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
        let f = self.image_of(self.net.forward(&input, &noise)?)?;
        Ok(combined(x, &f, c.iter().map(|c| (c.skip, c.out))))
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        let coefficients = self.coefficients(x, sigma)?;
        let (input, noise) = self.network_input(x, &coefficients);
        let (f, tape) = self.net.forward_with_tape(&input, &noise)?;
        let out = combined(x, &self.image_of(f)?, coefficients.iter().map(|c| (c.skip, c.out)));
        Ok((out, Box::new(UNetPullback { denoiser: self, tape, coefficients })))
    }
}

struct UNetPullback<'a> {
    denoiser: &'a UNetDenoiser,
    tape: Tape,
    coefficients: Vec<Coefficients>,
}

impl Pullback for UNetPullback<'_> {
    fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        let g = scaled(v, self.coefficients.iter().map(|c| c.out));
        let g = self.denoiser.net.vjp(&self.tape, &self.denoiser.widened(g))?;
        Ok(combined(v, &g, self.coefficients.iter().map(|c| (c.skip, c.input))))
    }
}
