//! The DDPM++ U-Net of the EDM family: forward, input gradient alone, parameter gradients.

mod block;
mod config;
mod reference;

use config::Init;
pub use config::{Parameter, UNetConfig};

use crate::{Error, Result};
use block::{BlockTape, EPS, positional};
use config::{Norm, Plan};
use halation_compute::{
    Affine, ConvGrads, ConvWeights, Epilogue, GroupStats, Map, Philox, Tensor, concat_channels, conv2d, conv2d_input_grad,
    group_norm_stats, scaled_sum, serial, silu, silu_backward, split_channels,
};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Chunks of draws over which parameter gradients are summed: a constant, so that sums do not depend on the number of threads.
const CHUNKS: usize = 8;

/// The network F(x, c_noise) of Karras et al. 2022 in its DDPM++ form, with its parameters.
pub struct SongUNet {
    config: UNetConfig,
    plan: Plan,
    theta: Vec<f32>,
    packed: Vec<ConvWeights>,
}

/// What the backward passes of some draws need.
pub struct Tape {
    parts: Vec<(Range<usize>, PartTape)>,
}

struct PartTape {
    positions: Map,
    embed0: Tensor,
    embed1: Tensor,
    embedding: Map,
    x: Map,
    blocks: Vec<BlockTape>,
    last: Map,
    last_stats: GroupStats,
}

/// Sums of parameter gradients over some draws.
pub(crate) struct Gradients {
    convs: Vec<ConvGrads>,
    norms: Vec<(Vec<f32>, Vec<f32>)>,
    /// Gradient of the embedding while a backward pass runs.
    embedding: Option<Map>,
}

impl Gradients {
    fn zeros(plan: &Plan) -> Self {
        Self {
            convs: plan.convs.iter().map(|c| ConvGrads::zeros(c.shape)).collect(),
            norms: plan.norms.iter().map(|n| (vec![0.0; n.channels], vec![0.0; n.channels])).collect(),
            embedding: None,
        }
    }

    fn clear(&mut self) {
        self.convs.iter_mut().for_each(ConvGrads::clear);
        self.norms.iter_mut().for_each(|(w, b)| {
            w.fill(0.0);
            b.fill(0.0);
        });
    }
}

/// Parameter gradients of a batch, kept from step to step so that their memory is.
pub struct GradientSum {
    chunks: Vec<Gradients>,
}

/// The rows of a (channel, 3) interleaved layer in the order (3, channel).
fn deinterleaved(row: usize, outputs: usize) -> usize {
    let c = outputs / 3;
    (row % c) * 3 + row / c
}

impl SongUNet {
    /// A network with the starting values of its family, drawn from `seed`.
    ///
    /// # Errors
    /// When no network can have this configuration.
    pub fn new(config: UNetConfig, seed: u64) -> Result<Self> {
        config.validate()?;
        let plan = Plan::new(&config);
        let mut theta = vec![0.0; plan.elements()];
        let rng = Philox::new(seed).stream(1);
        for (i, p) in plan.parameters.iter().enumerate() {
            let part = &mut theta[p.offset..p.offset + p.len()];
            match p.init {
                Init::Constant(value) => part.fill(value),
                Init::Uniform { gain, fan_sum } => {
                    let limit = gain as f64 * (6.0 / fan_sum as f64).sqrt();
                    let mut numbers = rng.sequence(i as u64, 0);
                    part.iter_mut().for_each(|v| *v = numbers.range(-limit, limit) as f32);
                }
            }
        }
        Self::with_parameters(config, theta)
    }

    /// A network with given parameters, flat in the order of [`SongUNet::parameters`].
    ///
    /// # Errors
    /// When no network can have this configuration or the number of values does not fit it.
    pub fn with_parameters(config: UNetConfig, theta: Vec<f32>) -> Result<Self> {
        config.validate()?;
        let plan = Plan::new(&config);
        if theta.len() != plan.elements() {
            return Err(Error::Invalid(format!("found {} parameter values, this network has {}", theta.len(), plan.elements())));
        }
        let mut net = Self { config, plan, theta: Vec::new(), packed: Vec::new() };
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
        let pack = |conv: &config::Conv| {
            let (inputs, outputs) = (conv.shape.inputs, conv.shape.outputs);
            let weight = &theta[conv.weight..conv.weight + conv.shape.weights()];
            let bias = &theta[conv.bias..conv.bias + outputs];
            if !conv.interleaved {
                return Ok(ConvWeights::new(conv.shape, weight, bias)?);
            }
            let row = |r: usize| deinterleaved(r, outputs);
            let weight: Vec<f32> =
                (0..outputs).flat_map(|r| weight[row(r) * inputs..(row(r) + 1) * inputs].iter().copied()).collect();
            let bias: Vec<f32> = (0..outputs).map(|r| bias[row(r)]).collect();
            Ok(ConvWeights::new(conv.shape, &weight, &bias)?)
        };
        self.packed = self.plan.convs.par_iter().map(pack).collect::<Result<_>>()?;
        Ok(())
    }

    /// The sizes.
    pub fn config(&self) -> &UNetConfig {
        &self.config
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
        let UNetConfig { img_resolution: r, img_channels: c, .. } = self.config;
        [c, r, r]
    }

    /// Multiply-adds of the convolutions and linear layers of one forward pass of one draw, times two, and of attention.
    pub fn flops(&self) -> f64 {
        let mut total = 0.0;
        let mut side = self.config.img_resolution;
        let conv = |c: &config::Conv, pixels: usize| 2.0 * c.shape.weights() as f64 * pixels as f64;
        for c in [&self.plan.first, &self.plan.out_conv] {
            total += conv(c, side * side);
        }
        total += conv(&self.plan.map0, 1) + conv(&self.plan.map1, 1);
        for block in &self.plan.blocks {
            if let Some(how) = block.resample {
                side = if how.halves() { side / 2 } else { side * 2 };
            }
            let pixels = side * side;
            total += conv(&block.conv0, pixels) + conv(&block.conv1, pixels) + conv(&block.affine, 1);
            total += block.skip.as_ref().map_or(0.0, |c| conv(c, pixels));
            if let Some(a) = &block.attention {
                total += conv(&a.qkv, pixels) + conv(&a.proj, pixels) + 4.0 * (pixels * pixels * block.outputs) as f64;
            }
        }
        total
    }

    fn affine(&self, norm: &Norm) -> Affine<'_> {
        Affine {
            weight: &self.theta[norm.weight..norm.weight + norm.channels],
            bias: &self.theta[norm.bias..norm.bias + norm.channels],
        }
    }

    fn check(&self, x: &Tensor, noise: &[f32]) -> Result<()> {
        let [c, h, w] = self.item_shape();
        x.expect_shape("SongUNet", &[noise.len(), c, h, w])?;
        Ok(())
    }

    /// Draws that are computed together: one by one on their own threads when there are enough of them, otherwise all in one, so that
    /// threads share the rows. The bits are the same.
    fn parts(draws: usize) -> Vec<Range<usize>> {
        if draws >= rayon::current_num_threads() {
            (0..draws).map(|d| d..d + 1).collect()
        } else {
            std::iter::once(0..draws).collect()
        }
    }

    fn for_parts<T: Send, R: Send>(parts: Vec<T>, f: impl Fn(T) -> Result<R> + Sync + Send) -> Result<Vec<R>> {
        if parts.len() > 1 {
            // One draw at a time on each thread bounds the memory by the number of threads.
            parts.into_par_iter().with_max_len(1).map(|part| serial(|| f(part))).collect()
        } else {
            parts.into_iter().map(f).collect()
        }
    }

    /// F(x, c_noise): x (draw, channel, y, x), one noise value per draw.
    ///
    /// # Errors
    /// When the shape of `x` is not the network's or the number of noise values not that of draws.
    pub fn forward(&self, x: &Tensor, noise: &[f32]) -> Result<Tensor> {
        self.check(x, noise)?;
        let outputs =
            Self::for_parts(Self::parts(x.draws()), |range| Ok(self.part_forward(&draws_of(x, &range)?, &noise[range])?.0))?;
        concat(x, outputs)
    }

    /// F(x, c_noise) and what its backward passes need.
    ///
    /// # Errors
    /// As [`SongUNet::forward`].
    pub fn forward_with_tape(&self, x: &Tensor, noise: &[f32]) -> Result<(Tensor, Tape)> {
        self.check(x, noise)?;
        let run = |range: Range<usize>| Ok((range.clone(), self.part_forward(&draws_of(x, &range)?, &noise[range])?));
        let (mut outputs, mut parts) = (Vec::new(), Vec::new());
        for (range, (out, tape)) in Self::for_parts(Self::parts(x.draws()), run)? {
            outputs.push(out);
            parts.push((range, tape));
        }
        Ok((concat(x, outputs)?, Tape { parts }))
    }

    /// The transposed Jacobian dF/dx at the tape's point times `g`; no parameter gradient is computed.
    ///
    /// # Errors
    /// When `g` does not have the shape of the tape's input.
    pub fn vjp(&self, tape: &Tape, g: &Tensor) -> Result<Tensor> {
        let draws = tape.parts.last().map_or(0, |(range, _)| range.end);
        let [c, h, w] = self.item_shape();
        g.expect_shape("SongUNet::vjp", &[draws, c, h, w])?;
        let run = |(range, tape): &(Range<usize>, PartTape)| self.part_backward(tape, &draws_of(g, range)?, None, true);
        let parts = Self::for_parts(tape.parts.iter().collect(), run)?;
        concat(g, parts.into_iter().flatten().collect())
    }

    /// Empty sums for [`SongUNet::accumulate`].
    pub fn gradient_sum(&self) -> GradientSum {
        GradientSum { chunks: (0..CHUNKS).map(|_| Gradients::zeros(&self.plan)).collect() }
    }

    /// Replaces `sum` by the parameter gradients of sum over draws of <cotangent(draw, F), F>, F being a draw's output. `cotangent` also
    /// gives a number per draw (a loss), which are returned. Draws are summed in eight chunks of fixed size, so that the result does not
    /// depend on threads.
    ///
    /// # Errors
    /// When shapes do not fit or `cotangent` fails.
    pub fn accumulate(
        &self,
        sum: &mut GradientSum,
        x: &Tensor,
        noise: &[f32],
        cotangent: impl Fn(usize, &Tensor) -> Result<(Tensor, f64)> + Sync,
    ) -> Result<Vec<f64>> {
        self.check(x, noise)?;
        let draws = x.draws();
        let run = |(k, gradients): (usize, &mut Gradients)| -> Result<Vec<f64>> {
            gradients.clear();
            let mut losses = Vec::new();
            for d in k * draws / CHUNKS..(k + 1) * draws / CHUNKS {
                let (out, tape) = self.part_forward(&draws_of(x, &(d..d + 1))?, &noise[d..d + 1])?;
                let (g, loss) = cotangent(d, &out)?;
                g.expect_shape("SongUNet::accumulate", out.shape())?;
                self.part_backward(&tape, &g, Some(gradients), false)?;
                losses.push(loss);
            }
            Ok(losses)
        };
        let chunks: Vec<Vec<f64>> = if rayon::current_num_threads() <= CHUNKS && draws > 1 {
            sum.chunks.par_iter_mut().enumerate().with_max_len(1).map(|chunk| serial(|| run(chunk))).collect::<Result<_>>()?
        } else {
            sum.chunks.par_iter_mut().enumerate().with_max_len(1).map(run).collect::<Result<_>>()?
        };
        Ok(chunks.concat())
    }

    /// The sum of all chunks, in their order, flat like the parameters.
    pub fn flat_gradients(&self, sum: &GradientSum) -> Vec<f32> {
        let add = |conv: &config::Conv| {
            let mut total = ConvGrads::zeros(conv.shape);
            sum.chunks.iter().for_each(|chunk| total.add(&chunk.convs[conv.id]));
            let (mut weight, mut bias) = (vec![0.0; conv.shape.weights()], vec![0.0; conv.shape.outputs]);
            total.unpack(&mut weight, &mut bias);
            (weight, bias)
        };
        let totals: Vec<(Vec<f32>, Vec<f32>)> = self.plan.convs.par_iter().map(add).collect();
        let mut flat = vec![0.0; self.theta.len()];
        for (conv, (weight, bias)) in self.plan.convs.iter().zip(totals) {
            let (inputs, outputs) = (conv.shape.inputs, conv.shape.outputs);
            if conv.interleaved {
                for r in 0..outputs {
                    let to = deinterleaved(r, outputs);
                    flat[conv.weight + to * inputs..][..inputs].copy_from_slice(&weight[r * inputs..(r + 1) * inputs]);
                    flat[conv.bias + to] = bias[r];
                }
            } else {
                flat[conv.weight..][..weight.len()].copy_from_slice(&weight);
                flat[conv.bias..][..bias.len()].copy_from_slice(&bias);
            }
        }
        for norm in &self.plan.norms {
            for chunk in &sum.chunks {
                let (weight, bias) = &chunk.norms[norm.id];
                for (offset, part) in [(norm.weight, weight), (norm.bias, bias)] {
                    flat[offset..][..part.len()].iter_mut().zip(part).for_each(|(f, p)| *f += p);
                }
            }
        }
        flat
    }

    fn part_forward(&self, x: &Tensor, noise: &[f32]) -> Result<(Tensor, PartTape)> {
        let positions = Map::from_tensor(&positional(noise, self.config.model_channels)?, 0)?;
        let embed0 = conv2d(&positions, self.weights(&self.plan.map0), Epilogue::default())?.to_tensor();
        let embed1 = Map::from_tensor(&silu(&embed0), 0)?;
        let embed1 = conv2d(&embed1, self.weights(&self.plan.map1), Epilogue::default())?.to_tensor();
        let embedding = Map::from_tensor(&silu(&embed1), 0)?;
        let x = Map::from_tensor(x, 1)?;
        let mut h = Arc::new(conv2d(&x, self.weights(&self.plan.first), Epilogue::default())?);
        let mut blocks = Vec::with_capacity(self.plan.blocks.len());
        let mut skips = vec![h.clone()];
        for (i, block) in self.plan.blocks.iter().enumerate() {
            if block.appended.is_some()
                && let Some(skip) = skips.pop()
            {
                h = Arc::new(concat_channels(&h, &skip)?);
            }
            let (out, tape) = self.block_forward(block, h, &embedding)?;
            blocks.push(tape);
            h = Arc::new(out);
            if i < self.plan.encoder {
                skips.push(h.clone());
            }
        }
        let norm = &self.plan.out_norm;
        let last_stats = group_norm_stats(&h, norm.groups, EPS)?;
        let a = self.activation(&h, norm, &last_stats, true, None, 1)?;
        let out = conv2d(&a, self.weights(&self.plan.out_conv), Epilogue::default())?.to_tensor();
        let last = Arc::into_inner(h).ok_or_else(|| Error::Invalid("the last block's output is also a skip connection".into()))?;
        Ok((out, PartTape { positions, embed0, embed1, embedding, x, blocks, last, last_stats }))
    }

    fn part_backward(
        &self,
        tape: &PartTape,
        g: &Tensor,
        mut gradients: Option<&mut Gradients>,
        input: bool,
    ) -> Result<Option<Tensor>> {
        let g = Map::from_tensor(g, 1)?;
        let norm = &self.plan.out_norm;
        if let Some(gradients) = gradients.as_deref_mut() {
            let a = self.activation(&tape.last, norm, &tape.last_stats, true, None, 1)?;
            gradients.convs[self.plan.out_conv.id].accumulate(&a, &g)?;
            gradients.embedding = None;
        }
        let g = conv2d_input_grad(&g, self.weights(&self.plan.out_conv), Epilogue::default())?;
        let mut g = self.norm_backward(g, &tape.last, norm, &tape.last_stats, true, None, 0, gradients.as_deref_mut())?;
        // Gradients of the skip connections: the decoder's blocks give them first output first, the encoder's take them last output first.
        let mut skips: Vec<Map> = Vec::new();
        for (i, (block, tape_of)) in self.plan.blocks.iter().zip(&tape.blocks).enumerate().rev() {
            if i < self.plan.encoder
                && let Some(skip) = skips.pop()
            {
                g = scaled_sum(&g, Some(&skip), 1.0, 0)?;
            }
            g = self.block_backward(block, tape_of, g, &tape.embedding, gradients.as_deref_mut())?;
            if let Some(appended) = block.appended {
                let (main, skip) = split_channels(&g, g.channels() - appended)?;
                g = main;
                skips.push(skip);
            }
        }
        // What is left is the first convolution's own skip connection.
        if let Some(skip) = skips.pop() {
            g = scaled_sum(&g, Some(&skip), 1.0, 1)?;
        }
        if let Some(gradients) = gradients {
            gradients.convs[self.plan.first.id].accumulate(&tape.x, &g)?;
            if let Some(g) = gradients.embedding.take() {
                let g = silu_backward(&tape.embed1, &g.to_tensor())?;
                let g = Map::from_tensor(&g, 0)?;
                let hidden = Map::from_tensor(&silu(&tape.embed0), 0)?;
                gradients.convs[self.plan.map1.id].accumulate(&hidden, &g)?;
                let g = conv2d_input_grad(&g, self.weights(&self.plan.map1), Epilogue::default())?;
                let g = Map::from_tensor(&silu_backward(&tape.embed0, &g.to_tensor())?, 0)?;
                gradients.convs[self.plan.map0.id].accumulate(&tape.positions, &g)?;
            }
        }
        if !input {
            return Ok(None);
        }
        Ok(Some(conv2d_input_grad(&g, self.weights(&self.plan.first), Epilogue::default())?.to_tensor()))
    }
}

fn draws_of(x: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    if *range == (0..x.draws()) {
        return Ok(x.clone());
    }
    let mut shape = x.shape().to_vec();
    shape[0] = range.len();
    Ok(Tensor::from_vec(&shape, x.data()[range.start * x.item_len()..range.end * x.item_len()].to_vec())?)
}

fn concat(like: &Tensor, parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(match <[Tensor; 1]>::try_from(parts) {
        Ok([only]) => only,
        Err(parts) if parts.is_empty() => like.clone(),
        Err(parts) => Tensor::concat_draws(&parts)?,
    })
}
