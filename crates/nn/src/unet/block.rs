use super::config::{Block, Conv, Norm};
use super::{Gradients, SongUNet};
use crate::Result;
use halation_compute::{
    AffineGrads, AttentionWeights, ConvWeights, Epilogue, GroupStats, Map, Tensor, attention, attention_backward, conv2d,
    conv2d_input_grad, group_norm, group_norm_backward, group_norm_stats, resample, resample_backward, scaled_sum, sum_pixels,
};
use std::f32::consts::FRAC_1_SQRT_2;
use std::sync::Arc;

/// Added to the variance in every normalisation of this family.
pub(super) const EPS: f64 = 1e-6;

/// What the backward pass of a block needs; activations between normalisation and convolution are computed again.
pub(super) struct BlockTape {
    x: Arc<Map>,
    stats0: GroupStats,
    h: Map,
    stats1: GroupStats,
    attention: Option<AttentionTape>,
}

struct AttentionTape {
    x: Map,
    stats: GroupStats,
    qkv: Map,
    weights: AttentionWeights,
    mixed: Map,
}

impl SongUNet {
    pub(super) fn weights(&self, conv: &Conv) -> &ConvWeights {
        &self.packed[conv.id]
    }

    /// Normalisation, silu where wanted, resampling where wanted.
    pub(super) fn activation(
        &self,
        x: &Map,
        norm: &Norm,
        stats: &GroupStats,
        silu: bool,
        how: Option<halation_compute::Resample>,
        pad: usize,
    ) -> Result<Map> {
        let inner = if how.is_some() { 0 } else { pad };
        let a = group_norm(x, stats, self.affine(norm), silu, inner)?;
        Ok(match how {
            None => a,
            Some(how) => resample(&a, how, pad)?,
        })
    }

    pub(super) fn block_forward(&self, block: &Block, x: Arc<Map>, embedding: &Map) -> Result<(Map, BlockTape)> {
        let stats0 = group_norm_stats(&x, block.norm0.groups, EPS)?;
        let a = self.activation(&x, &block.norm0, &stats0, true, block.resample, 1)?;
        let shift = conv2d(embedding, self.weights(&block.affine), Epilogue::default())?.to_tensor();
        let shift = shift.reshape(&[shift.draws(), block.outputs])?;
        let h = conv2d(&a, self.weights(&block.conv0), Epilogue { shift: Some(&shift), ..Epilogue::default() })?;
        drop(a);
        let stats1 = group_norm_stats(&h, block.norm1.groups, EPS)?;
        let a = self.activation(&h, &block.norm1, &stats1, true, None, 1)?;
        let skip = match &block.skip {
            None => None,
            Some(conv) => {
                let resampled = block.resample.map(|how| resample(&x, how, 0)).transpose()?;
                Some(conv2d(resampled.as_ref().unwrap_or(&x), self.weights(conv), Epilogue::default())?)
            }
        };
        let residual = Some(skip.as_ref().unwrap_or(&x));
        let mut out = conv2d(&a, self.weights(&block.conv1), Epilogue { residual, scale: FRAC_1_SQRT_2, ..Epilogue::default() })?;
        drop((a, skip));
        let mut tape = BlockTape { x, stats0, h, stats1, attention: None };
        if let Some(layers) = &block.attention {
            let stats = group_norm_stats(&out, layers.norm.groups, EPS)?;
            let a = self.activation(&out, &layers.norm, &stats, false, None, 0)?;
            let qkv = conv2d(&a, self.weights(&layers.qkv), Epilogue::default())?;
            let (mixed, weights) = attention(&qkv, 1)?;
            let epilogue = Epilogue { residual: Some(&out), scale: FRAC_1_SQRT_2, ..Epilogue::default() };
            let attended = conv2d(&mixed, self.weights(&layers.proj), epilogue)?;
            tape.attention = Some(AttentionTape { x: std::mem::replace(&mut out, attended), stats, qkv, weights, mixed });
        }
        Ok((out, tape))
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
            let scaled = scaled_sum(&g, None, FRAC_1_SQRT_2, 0)?;
            let g_mixed = conv2d_input_grad(&scaled, self.weights(&layers.proj), Epilogue::default())?;
            let g_qkv = attention_backward(&tape.qkv, 1, &tape.weights, &g_mixed)?;
            let g_a = conv2d_input_grad(&g_qkv, self.weights(&layers.qkv), Epilogue::default())?;
            if let Some(gradients) = gradients.as_deref_mut() {
                gradients.convs[layers.proj.id].accumulate(&tape.mixed, &scaled)?;
                let a = self.activation(&tape.x, &layers.norm, &tape.stats, false, None, 0)?;
                gradients.convs[layers.qkv.id].accumulate(&a, &g_qkv)?;
            }
            g = self.norm_backward(g_a, &tape.x, &layers.norm, &tape.stats, false, Some(&scaled), 0, gradients.as_deref_mut())?;
        }
        let scaled = scaled_sum(&g, None, FRAC_1_SQRT_2, 1)?;
        drop(g);
        let g_a = conv2d_input_grad(&scaled, self.weights(&block.conv1), Epilogue::default())?;
        let g_h = self.norm_backward(g_a, &tape.h, &block.norm1, &tape.stats1, true, None, 1, gradients.as_deref_mut())?;
        if let Some(gradients) = gradients.as_deref_mut() {
            let a = self.activation(&tape.h, &block.norm1, &tape.stats1, true, None, 1)?;
            gradients.convs[block.conv1.id].accumulate(&a, &scaled)?;
            drop(a);
            let a = self.activation(&tape.x, &block.norm0, &tape.stats0, true, block.resample, 1)?;
            gradients.convs[block.conv0.id].accumulate(&a, &g_h)?;
            let g_shift = sum_pixels(&g_h);
            let g_shift = Map::from_tensor(&g_shift.reshape(&[g_shift.draws(), block.outputs, 1, 1])?, 0)?;
            gradients.convs[block.affine.id].accumulate(embedding, &g_shift)?;
            let sum = gradients.embedding.take();
            let epilogue = Epilogue { residual: sum.as_ref(), ..Epilogue::default() };
            gradients.embedding = Some(conv2d_input_grad(&g_shift, self.weights(&block.affine), epilogue)?);
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
            through_skip = through_skip.map(|g| resample_backward(&g, how)).transpose()?;
        }
        let residual = Some(through_skip.as_ref().unwrap_or(&scaled));
        self.norm_backward(g_a, &tape.x, &block.norm0, &tape.stats0, true, residual, 0, gradients)
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

/// Positional embedding of `noise` values, (draw, channels): sines, then cosines, of noise * 10000^(-i / (half - 1)).
pub(super) fn positional(noise: &[f32], channels: usize) -> Result<Tensor> {
    let half = channels / 2;
    let mut out = Tensor::zeros(&[noise.len(), channels, 1, 1]);
    for (row, noise) in out.data_mut().chunks_exact_mut(channels).zip(noise) {
        for i in 0..half {
            let frequency = 1e-4f64.powf(i as f64 / (half.max(2) - 1) as f64) as f32;
            // The product is rounded to f32 as in the networks that were trained with it; the phase can be hundreds of radians.
            let phase = (noise * frequency) as f64;
            row[i] = phase.sin() as f32;
            row[half + i] = phase.cos() as f32;
        }
    }
    Ok(out)
}
