use super::{Coefficients, Precond};
use crate::unet::{Tape, UNet};
use crate::{Denoiser, Error, Pullback, Result};
use halation_compute::Tensor;
use std::borrow::Cow;

/// A U-Net with its preconditioning: a denoiser.
///
/// Most pixels of many images are background: they have one value b exactly. A network whose configuration states b says of every pixel besides F how probable that is,
/// by a logit G:
///
/// D = (1 - g) (c_skip x + c_out F) + g b,    g = 1 / (1 + exp(4 - G + r^2 / 2)),    r = (x - b) / sigma:
///
/// the posterior of a pixel has an atom at b, for which the pixel itself speaks by r, its neighbours by G, and D is the mean of both parts. A network without would have to
/// be exact to a small part of sigma where it is certain; it leaves smooth ripples and offsets of the background as it finds them, which data of low frequencies do not see either.
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
        let g = scaled(cotangent, c.iter().map(|c| c.out));
        let mut sum = self.net.gradient_sum();
        self.net.accumulate(&mut sum, &input, &noise, |d, f| {
            let (_, atom) = self.made_of(&x.select(&[d])?, f, &sigma[d..=d], &c[d..=d])?;
            Ok((self.to_output(atom.as_ref(), g.select(&[d])?, &c[d..=d]), 0.0))
        })?;
        Ok(self.net.flat_gradients(&sum))
    }

    /// What the network's output `f` makes of `x`: D, and what its pullback needs of the atom.
    pub(crate) fn made_of(&self, x: &Tensor, f: &Tensor, sigma: &[f32], c: &[Coefficients]) -> Result<(Tensor, Option<Atom>)> {
        let mut denoised = combined(x, self.part(f, 0)?.as_ref(), c.iter().map(|c| (c.skip, c.out)));
        let Some(background) = self.net.family().background() else { return Ok((denoised, None)) };
        let background = background as f32;
        let (mut share, mut slope, mut own) = (self.part(f, 1)?.into_owned(), denoised.clone(), x.clone());
        let n = x.item_len().max(1);
        let draws = denoised.data_mut().chunks_exact_mut(n).zip(share.data_mut().chunks_exact_mut(n));
        let draws = draws.zip(slope.data_mut().chunks_exact_mut(n)).zip(own.data_mut().chunks_exact_mut(n)).zip(sigma);
        for ((((denoised, share), slope), own), sigma) in draws {
            for (((d, g), slope), own) in denoised.iter_mut().zip(share).zip(slope).zip(own) {
                let r = (*own - background) / sigma;
                *g = 1.0 / (1.0 + (0.5 * r * r - *g - BIAS).exp());
                let away = background - *d;
                *d += *g * away;
                *slope = away * *g * (1.0 - *g);
                *own = -r / sigma;
            }
        }
        Ok((denoised, Some(Atom { share, slope, own })))
    }

    /// The gradient of the network's output from that of D times c_out.
    pub(crate) fn to_output(&self, atom: Option<&Atom>, g: Tensor, c: &[Coefficients]) -> Tensor {
        let Some(Atom { share, slope, .. }) = atom else { return self.widened(g) };
        let n = g.item_len();
        let mut both = Tensor::zeros(&[g.draws(), self.net.out_channels(), g.shape()[2], g.shape()[3]]);
        let of_draws = g.data().chunks_exact(n).zip(share.data().chunks_exact(n)).zip(slope.data().chunks_exact(n)).zip(c);
        for (both, (((g, share), slope), c)) in both.data_mut().chunks_exact_mut(2 * n).zip(of_draws) {
            let (of_f, of_logit) = both.split_at_mut(n);
            of_f.iter_mut().zip(g).zip(share).for_each(|((out, g), share)| *out = (1.0 - share) * g);
            of_logit.iter_mut().zip(g).zip(slope).for_each(|((out, g), slope)| *out = g / c.out as f32 * slope);
        }
        both
    }

    /// Of the network's output as many channels as an image has: the image's, or the next ones.
    fn part<'f>(&self, f: &'f Tensor, which: usize) -> Result<Cow<'f, Tensor>> {
        let [c, h, w] = self.net.item_shape();
        if self.net.out_channels() == c {
            return Ok(Cow::Borrowed(f));
        }
        let n = c * h * w;
        let items = (0..f.draws()).flat_map(|d| f.item(d)[which * n..(which + 1) * n].iter().copied()).collect();
        Ok(Cow::Owned(Tensor::from_vec(&[f.draws(), c, h, w], items)?))
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

/// The part of pixels that have the value of the background.
pub(crate) struct Atom {
    /// g.
    share: Tensor,
    /// b less what the rest says, times g (1 - g): the slope of D along the logit.
    slope: Tensor,
    /// -r / sigma: the slope of the logit along the pixel itself.
    own: Tensor,
}

/// Added to the logit, so that a network that says nothing leaves images nearly as they are.
const BIAS: f32 = -4.0;

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
        Ok(self.made_of(x, &self.net.forward(&input, &noise)?, sigma, &c)?.0)
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        let coefficients = self.coefficients(x, sigma)?;
        let (input, noise) = self.network_input(x, &coefficients);
        let (f, tape) = self.net.forward_with_tape(&input, &noise)?;
        let (out, atom) = self.made_of(x, &f, sigma, &coefficients)?;
        Ok((out, Box::new(UNetPullback { denoiser: self, tape, coefficients, atom })))
    }
}

struct UNetPullback<'a> {
    denoiser: &'a UNetDenoiser,
    tape: Tape,
    coefficients: Vec<Coefficients>,
    atom: Option<Atom>,
}

impl Pullback for UNetPullback<'_> {
    fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        let g = scaled(v, self.coefficients.iter().map(|c| c.out));
        let g = self.denoiser.net.vjp(&self.tape, &self.denoiser.to_output(self.atom.as_ref(), g, &self.coefficients))?;
        let Some(Atom { share, slope, own }) = &self.atom else {
            return Ok(combined(v, &g, self.coefficients.iter().map(|c| (c.skip, c.input))));
        };
        let mut rest = v.clone();
        rest.data_mut().iter_mut().zip(share.data()).for_each(|(v, share)| *v *= 1.0 - share);
        let mut out = combined(&rest, &g, self.coefficients.iter().map(|c| (c.skip, c.input)));
        let pixels = out.data_mut().iter_mut().zip(v.data()).zip(slope.data().iter().zip(own.data()));
        pixels.for_each(|((out, v), (slope, own))| *out += v * slope * own);
        Ok(out)
    }
}
