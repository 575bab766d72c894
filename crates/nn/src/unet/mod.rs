//! U-Nets of all published families: forward, input gradient alone, parameter gradients.
//!
//! A [`Family`] lays out the layers ([`plan`]) and gives each parameter the name that it has in the family's checkpoints; one executor runs
//! every plan.

mod batch;
mod block;
mod builder;
mod embedding;
pub mod family;
mod gradients;
mod layout;
mod passes;
mod plan;
mod pyramid;
mod reference;
#[cfg(test)]
mod tests;

pub use batch::Tape;
pub use family::{Family, UNetConfig};
pub use gradients::GradientSum;
pub use plan::Parameter;

use crate::{Error, Result};
use halation_compute::{Affine, ConvWeights, Philox};
use plan::{Conv, Init, Norm, Order, Plan};
use rayon::prelude::*;

/// The network F(x, c_noise) of a family, with its parameters.
pub struct UNet {
    family: Family,
    plan: Plan,
    theta: Vec<f32>,
    packed: Vec<ConvWeights>,
}

impl UNet {
    /// A network with the starting values of its family, drawn from `seed`.
    ///
    /// # Errors
    /// When no network can have this configuration.
    pub fn new(family: impl Into<Family>, seed: u64) -> Result<Self> {
        let family = family.into();
        let plan = family.plan()?;
        let mut theta = vec![0.0; plan.elements()];
        let rng = Philox::new(seed).stream(1);
        for (i, p) in plan.parameters.iter().enumerate() {
            let part = &mut theta[p.offset..p.offset + p.len()];
            let mut numbers = rng.sequence(i as u64, 0);
            match p.init {
                Init::Constant(value) => part.fill(value),
                Init::Normal(width) => part.iter_mut().for_each(|v| *v = (width * numbers.normal()) as f32),
                Init::Uniform { gain, limit } => {
                    let limit = gain as f64 * limit;
                    part.iter_mut().for_each(|v| *v = numbers.range(-limit, limit) as f32);
                }
            }
        }
        Self::with_parameters(family, theta)
    }

    /// A network with given parameters, flat in the order of [`UNet::parameters`].
    ///
    /// # Errors
    /// When no network can have this configuration or the number of values does not fit it.
    pub fn with_parameters(family: impl Into<Family>, theta: Vec<f32>) -> Result<Self> {
        let family = family.into();
        let plan = family.plan()?;
        if plan.embedding.label.is_some_and(|label| label.class_major && label.class.is_none()) {
            let message = "the network is class-conditional and no class is given; add \"class\": N to its configuration";
            return Err(Error::Invalid(message.into()));
        }
        let mut net = Self { family, plan, theta: Vec::new(), packed: Vec::new() };
        net.set_theta(theta)?;
        Ok(net)
    }

    /// Replaces all parameters.
    ///
    /// # Errors
    /// When their number does not fit.
    pub fn set_theta(&mut self, theta: Vec<f32>) -> Result<()> {
        if theta.len() != self.plan.elements() {
            return Err(Error::Invalid(format!(
                "found {} parameter values, this network has {}",
                theta.len(),
                self.plan.elements()
            )));
        }
        self.theta = theta;
        self.repack()
    }

    /// Lets `f` change the parameters.
    pub(crate) fn update(&mut self, f: impl FnOnce(&mut [f32])) -> Result<()> {
        f(&mut self.theta);
        self.repack()
    }

    fn repack(&mut self) -> Result<()> {
        let theta = &self.theta;
        let pack = |conv: &Conv| {
            let outputs = conv.shape.outputs;
            if conv.order == Order::Plain {
                let weight = &theta[conv.weight..conv.weight + conv.shape.weights()];
                return Ok(ConvWeights::new(conv.shape, weight, &theta[conv.bias..conv.bias + outputs])?);
            }
            let per_row = conv.shape.weights() / outputs;
            let weight: Vec<f32> = (0..conv.shape.weights()).map(|i| theta[conv.weight_at(i / per_row, i % per_row)]).collect();
            let bias: Vec<f32> = (0..outputs).map(|row| theta[conv.bias_at(row)]).collect();
            Ok(ConvWeights::new(conv.shape, &weight, &bias)?)
        };
        self.packed = self.plan.convs.par_iter().map(pack).collect::<Result<_>>()?;
        Ok(())
    }

    /// The family and the sizes.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Names, shapes and places of the parameter tensors.
    pub fn parameters(&self) -> &[Parameter] {
        &self.plan.parameters
    }

    /// All parameters, flat.
    pub fn theta(&self) -> &[f32] {
        &self.theta
    }

    /// (channel, y, x) of an image.
    pub fn item_shape(&self) -> [usize; 3] {
        self.family.item_shape()
    }

    /// Channels of the output: those of an image, or more where the network also says a variance.
    pub fn out_channels(&self) -> usize {
        self.plan.outputs
    }

    /// Multiply-adds of the convolutions and linear layers of one forward pass of one draw, times two, and of attention.
    pub fn flops(&self) -> f64 {
        self.plan.flops()
    }

    fn weights(&self, conv: &Conv) -> &ConvWeights {
        &self.packed[conv.id]
    }

    fn affine(&self, norm: &Norm) -> Affine<'_> {
        Affine {
            weight: &self.theta[norm.weight..norm.weight + norm.channels],
            bias: &self.theta[norm.bias..norm.bias + norm.channels],
        }
    }
}
