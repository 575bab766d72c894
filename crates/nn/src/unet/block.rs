//! A residual block, forward and backward.

use super::UNet;
use super::gradients::Gradients;
use super::plan::{Attention, Block, Norm};
use crate::Result;
use halation_compute::{
    Affine, AffineGrads, AttentionWeights, Epilogue, GroupStats, Map, Resample, Tensor, attention, attention_backward, conv2d,
    conv2d_input_grad, group_norm, group_norm_backward, group_norm_stats, resample, resample_backward, scaled_sum, sum_pixels,
};
use std::sync::Arc;

/// What the backward pass of a block needs; activations between normalisation and convolution are computed again.
pub(super) struct BlockTape {
    x: Arc<Map>,
    stats0: GroupStats,
    h: Map,
    stats1: GroupStats,
    modulation: Option<Modulation>,
    attention: Option<AttentionTape>,
}

struct AttentionTape {
    x: Map,
    stats: GroupStats,
    qkv: Map,
    weights: AttentionWeights,
    mixed: Map,
}

/// Weight and bias of a normalisation that the embedding changes: (1 + scale) norm + shift. Each is (draw, channel).
struct Modulation {
    /// 1 + scale.
    factor: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Modulation {
    /// `parameters` are scales, then shifts, of each draw.
    fn new(shared: Affine, parameters: &Tensor) -> Self {
        let c = shared.weight.len();
        let mut new = Self { factor: Vec::new(), weight: Vec::new(), bias: Vec::new() };
        for d in 0..parameters.draws() {
            let (scale, shift) = parameters.item(d).split_at(c);
            let factor = scale.iter().map(|s| 1.0 + s);
            new.weight.extend(factor.clone().zip(shared.weight).map(|(f, w)| f * w));
            new.bias.extend(factor.clone().zip(shared.bias).zip(shift).map(|((f, b), shift)| f * b + shift));
            new.factor.extend(factor);
        }
        new
    }

    fn affine(&self) -> Affine<'_> {
        Affine { weight: &self.weight, bias: &self.bias }
    }
}

impl UNet {
    /// Normalisation, silu where wanted, resampling where wanted.
    pub(super) fn activation(
        &self,
        x: &Map,
        affine: Affine,
        stats: &GroupStats,
        silu: bool,
        how: Option<Resample>,
        pad: usize,
    ) -> Result<Map> {
        let inner = if how.is_some() { 0 } else { pad };
        let a = group_norm(x, stats, affine, silu, inner)?;
        Ok(match how {
            None => a,
            Some(how) => resample(&a, how, pad)?,
        })
    }

    pub(super) fn block_forward(&self, block: &Block, x: Arc<Map>, embedding: &Map) -> Result<(Map, BlockTape)> {
        let stats0 = group_norm_stats(&x, block.norm0.groups, block.norm0.eps)?;
        let a = self.activation(&x, self.affine(&block.norm0), &stats0, true, block.resample, 1)?;
        let given = conv2d(embedding, self.weights(&block.affine), Epilogue::default())?.to_tensor();
        let given = given.reshape(&[given.draws(), block.affine.shape.outputs])?;
        let shift = if block.scale_shift { None } else { Some(&given) };
        let h = conv2d(&a, self.weights(&block.conv0), Epilogue { shift, ..Epilogue::default() })?;
        drop(a);
        let stats1 = group_norm_stats(&h, block.norm1.groups, block.norm1.eps)?;
        let modulation = block.scale_shift.then(|| Modulation::new(self.affine(&block.norm1), &given));
        let affine1 = modulation.as_ref().map_or_else(|| self.affine(&block.norm1), Modulation::affine);
        let a = self.activation(&h, affine1, &stats1, true, None, 1)?;
        let resampled = block.resample.map(|how| resample(&x, how, 0)).transpose()?;
        let straight = resampled.as_ref().unwrap_or(&x);
        let skip = block.skip.as_ref().map(|conv| conv2d(straight, self.weights(conv), Epilogue::default())).transpose()?;
        let residual = Some(skip.as_ref().unwrap_or(straight));
        let mut out = conv2d(&a, self.weights(&block.conv1), Epilogue { residual, scale: block.scale, ..Epilogue::default() })?;
        drop((a, skip, resampled));
        let mut tape = BlockTape { x, stats0, h, stats1, modulation, attention: None };
        if let Some(layers) = &block.attention {
            let (attended, of_attention) = self.attention_forward(layers, out, block.scale)?;
            out = attended;
            tape.attention = Some(of_attention);
        }
        Ok((out, tape))
    }

    fn attention_forward(&self, layers: &Attention, x: Map, scale: f32) -> Result<(Map, AttentionTape)> {
        let stats = group_norm_stats(&x, layers.norm.groups, layers.norm.eps)?;
        let a = self.activation(&x, self.affine(&layers.norm), &stats, false, None, 0)?;
        let qkv = conv2d(&a, self.weights(&layers.qkv), Epilogue::default())?;
        let (mixed, weights) = attention(&qkv, layers.heads)?;
        let epilogue = Epilogue { residual: Some(&x), scale, ..Epilogue::default() };
        let attended = conv2d(&mixed, self.weights(&layers.proj), epilogue)?;
        Ok((attended, AttentionTape { x, stats, qkv, weights, mixed }))
    }

    /// The gradient of the block's input from that of its output; with `gradients`, those of its parameters are added there and the
    /// embedding's to its sum.
    pub(super) fn block_backward(
        &self,
        block: &Block,
        tape: &BlockTape,
        g: Map,
        embedding: &Map,
        mut gradients: Option<&mut Gradients>,
    ) -> Result<Map> {
        let mut g = g;
        if let (Some(layers), Some(tape)) = (&block.attention, &tape.attention) {
            g = self.attention_backward(layers, tape, g, block.scale, gradients.as_deref_mut())?;
        }
        let scaled = scaled_sum(&g, None, block.scale, 1)?;
        drop(g);
        let g_a = conv2d_input_grad(&scaled, self.weights(&block.conv1), Epilogue::default())?;
        let affine1 = tape.modulation.as_ref().map_or_else(|| self.affine(&block.norm1), Modulation::affine);
        let (g_h, g_given) = match (&tape.modulation, gradients.as_deref_mut()) {
            (Some(modulation), Some(gradients)) => self.modulated_backward(block, tape, modulation, g_a, gradients)?,
            (Some(_), None) => (group_norm_backward(g_a, &tape.h, &tape.stats1, affine1, true, None, 1, None)?, None),
            (None, gradients) => (self.norm_backward(g_a, &tape.h, &block.norm1, &tape.stats1, true, None, 1, gradients)?, None),
        };
        if let Some(gradients) = gradients.as_deref_mut() {
            let a = self.activation(&tape.h, affine1, &tape.stats1, true, None, 1)?;
            gradients.convs[block.conv1.id].accumulate(&a, &scaled)?;
            drop(a);
            let a = self.activation(&tape.x, self.affine(&block.norm0), &tape.stats0, true, block.resample, 1)?;
            gradients.convs[block.conv0.id].accumulate(&a, &g_h)?;
            let g_given = g_given.unwrap_or_else(|| sum_pixels(&g_h));
            let g_given = Map::from_tensor(&g_given.reshape(&[g_given.draws(), block.affine.shape.outputs, 1, 1])?, 0)?;
            gradients.convs[block.affine.id].accumulate(embedding, &g_given)?;
            let sum = gradients.embedding.take();
            let epilogue = Epilogue { residual: sum.as_ref(), ..Epilogue::default() };
            gradients.embedding = Some(conv2d_input_grad(&g_given, self.weights(&block.affine), epilogue)?);
        }
        let mut g_a = conv2d_input_grad(&g_h, self.weights(&block.conv0), Epilogue::default())?;
        drop(g_h);
        let mut through_skip = None;
        if let Some(conv) = &block.skip {
            if let Some(gradients) = gradients.as_deref_mut() {
                let resampled = block.resample.map(|how| resample(&tape.x, how, 0)).transpose()?;
                gradients.convs[conv.id].accumulate(resampled.as_ref().unwrap_or(&tape.x), &scaled)?;
            }
            through_skip = Some(conv2d_input_grad(&scaled, self.weights(conv), Epilogue::default())?);
        }
        if let Some(how) = block.resample {
            g_a = resample_backward(&g_a, how)?;
            through_skip = Some(resample_backward(through_skip.as_ref().unwrap_or(&scaled), how)?);
        }
        let residual = Some(through_skip.as_ref().unwrap_or(&scaled));
        self.norm_backward(g_a, &tape.x, &block.norm0, &tape.stats0, true, residual, 0, gradients)
    }

    fn attention_backward(
        &self,
        layers: &Attention,
        tape: &AttentionTape,
        g: Map,
        scale: f32,
        mut gradients: Option<&mut Gradients>,
    ) -> Result<Map> {
        let scaled = scaled_sum(&g, None, scale, 0)?;
        drop(g);
        let g_mixed = conv2d_input_grad(&scaled, self.weights(&layers.proj), Epilogue::default())?;
        let g_qkv = attention_backward(&tape.qkv, layers.heads, &tape.weights, &g_mixed)?;
        let g_a = conv2d_input_grad(&g_qkv, self.weights(&layers.qkv), Epilogue::default())?;
        if let Some(gradients) = gradients.as_deref_mut() {
            gradients.convs[layers.proj.id].accumulate(&tape.mixed, &scaled)?;
            let a = self.activation(&tape.x, self.affine(&layers.norm), &tape.stats, false, None, 0)?;
            gradients.convs[layers.qkv.id].accumulate(&a, &g_qkv)?;
        }
        self.norm_backward(g_a, &tape.x, &layers.norm, &tape.stats, false, Some(&scaled), 0, gradients)
    }

    /// Through silu((1 + scale) norm1(h) + shift): the gradient of h, with a border of one, and of what the embedding gave, scales and then
    /// shifts; those of the normalisation's own weight and bias are added to `gradients`.
    fn modulated_backward(
        &self,
        block: &Block,
        tape: &BlockTape,
        modulation: &Modulation,
        g: Map,
        gradients: &mut Gradients,
    ) -> Result<(Map, Option<Tensor>)> {
        let c = block.outputs;
        let draws = g.draws();
        let (mut g_weight, mut g_bias) = (vec![0.0; draws * c], vec![0.0; draws * c]);
        let grads = AffineGrads { weight: &mut g_weight, bias: &mut g_bias };
        let g_h = group_norm_backward(g, &tape.h, &tape.stats1, modulation.affine(), true, None, 1, Some(grads))?;
        let shared = self.affine(&block.norm1);
        let (own_weight, own_bias) = &mut gradients.norms[block.norm1.id];
        let mut g_given = Tensor::zeros(&[draws, 2 * c]);
        for (i, given) in g_given.data_mut().chunks_exact_mut(2 * c).enumerate() {
            let of_draw = i * c..(i + 1) * c;
            let rows = g_weight[of_draw.clone()].iter().zip(&g_bias[of_draw.clone()]).zip(&modulation.factor[of_draw]);
            for (j, ((gw, gb), factor)) in rows.enumerate() {
                own_weight[j] += gw * factor;
                own_bias[j] += gb * factor;
                given[j] = gw * shared.weight[j] + gb * shared.bias[j];
                given[c + j] = *gb;
            }
        }
        Ok((g_h, Some(g_given)))
    }

    #[allow(clippy::too_many_arguments)] // those of the operation, with the parameters looked up
    pub(super) fn norm_backward(
        &self,
        g: Map,
        x: &Map,
        norm: &Norm,
        stats: &GroupStats,
        silu: bool,
        residual: Option<&Map>,
        pad: usize,
        gradients: Option<&mut Gradients>,
    ) -> Result<Map> {
        let grads = gradients.map(|g| {
            let (weight, bias) = &mut g.norms[norm.id];
            AffineGrads { weight, bias }
        });
        Ok(group_norm_backward(g, x, stats, self.affine(norm), silu, residual, pad, grads)?)
    }
}
