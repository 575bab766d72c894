//! The same networks in f64, from the plain operations of [`halation_compute::reference`].

use super::UNet;
use super::plan::{Block, Conv, Init, Join, Norm, Positions};
use crate::Result;
use halation_compute::reference::{
    Array, attention, concat_channels, conv2d, cropped, downsample, downsample_smooth, framed, group_norm, silu, upsample,
    upsample_smooth,
};
use halation_compute::{Philox, Resample, Tensor};

fn resampled(x: &Array, how: Option<Resample>) -> Array {
    match how {
        None => x.clone(),
        Some(Resample::Down) => downsample(x),
        Some(Resample::Up) => upsample(x),
        Some(Resample::SmoothDown) => downsample_smooth(x),
        Some(Resample::SmoothUp) => upsample_smooth(x),
    }
}

fn sum(x: &Array, y: &Array, scale: f64) -> Array {
    let sum = x.plus(1.0, y);
    Array { shape: sum.shape, data: sum.data.iter().map(|v| v * scale).collect() }
}

fn activated(x: Array) -> Array {
    Array { shape: x.shape, data: x.data.into_iter().map(silu).collect() }
}

impl UNet {
    /// Parameters of the sizes at which every layer matters, drawn from `seed`, for tests and benchmarks: the family's own starting values
    /// switch most branches off.
    pub fn full_size_theta(&self, seed: u64) -> Vec<f32> {
        let mut theta = self.theta.clone();
        let rng = Philox::new(seed).stream(1);
        for (i, p) in self.plan.parameters.iter().enumerate() {
            let mut numbers = rng.sequence(i as u64, 0);
            let (centre, width) = match p.init {
                Init::Uniform { limit, .. } => (0.0, limit),
                Init::Constant(value) => (value as f64, 0.2),
                Init::Normal(_) => continue,
            };
            theta[p.offset..p.offset + p.len()].iter_mut().for_each(|v| *v = (centre + width * numbers.range(-1.0, 1.0)) as f32);
        }
        theta
    }

    /// F(x, c_noise) in f64, one plain operation after another: slow, and the measure of what [`UNet::forward`] rounds away.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn reference_forward(&self, x: &Tensor, noise: &[f32]) -> Result<Vec<f64>> {
        self.check(x, noise)?;
        let [c, h, w] = self.item_shape();
        let x = Array::new([noise.len(), c, h, w], x.data());
        let embedding = self.exact_embedding(noise);
        let mut h = self.exact_conv(&x, &self.plan.first);
        let mut aux = x;
        let mut image: Option<Array> = None;
        let mut skips = vec![h.clone()];
        for (i, block) in self.plan.blocks.iter().enumerate() {
            if block.appended.is_some()
                && let Some(skip) = skips.pop()
            {
                h = concat_channels(&h, &skip);
            }
            h = self.exact_block(&h, block, &embedding);
            match &block.join {
                None => (),
                Some(Join::Skip { conv, how }) => {
                    aux = resampled(&aux, Some(*how));
                    h = sum(&self.exact_conv(&aux, conv), &h, 1.0);
                }
                Some(Join::Residual { conv, how }) => {
                    // A wide frame of zeros: what the filter reads beyond the edge is the convolution's value there. Its own edge is cut off.
                    let halved = resampled(&self.exact_conv(&framed(&aux, 4), conv), Some(*how));
                    h = sum(&cropped(&halved, 2), &h, std::f64::consts::FRAC_1_SQRT_2);
                    aux = h.clone();
                }
            }
            if let Some(layers) = &block.to_image {
                let made = self.exact_conv(&self.exact_norm(&h, &layers.norm, true), &layers.conv);
                image = Some(image.map_or(made.clone(), |coarser| sum(&made, &resampled(&coarser, Some(layers.how)), 1.0)));
            }
            if i < self.plan.encoder {
                skips.push(h.clone());
            }
        }
        Ok(image.map(|image| image.data).unwrap_or_default())
    }

    fn exact_embedding(&self, noise: &[f32]) -> Array {
        let channels = self.plan.embedding.map0.shape.inputs;
        let half = channels / 2;
        let positions = Array::from_fn([noise.len(), channels, 1, 1], |n, i, _, _| {
            let k = i % half;
            let frequency = match self.plan.embedding.positions {
                Positions::SinesFirst => 1e-4f64.powf(k as f64 / (half.max(2) - 1) as f64),
                Positions::CosinesFirst => 1e-4f64.powf(k as f64 / half as f64),
                Positions::Fourier(offset) => std::f64::consts::TAU * self.theta[offset + k] as f64,
            };
            let phase = noise[n] as f64 * frequency;
            let sine = (i < half) != matches!(self.plan.embedding.positions, Positions::CosinesFirst);
            if sine { phase.sin() } else { phase.cos() }
        });
        let labelled = |x: Array, first: bool| match self.plan.embedding.label.filter(|l| l.first == first) {
            None => x,
            Some(label) => {
                let vector = label.vector(&self.theta);
                Array::from_fn(x.shape, |n, c, y, px| x.at(n, c, y, px) + vector[c] as f64)
            }
        };
        let hidden = activated(self.exact_conv(&labelled(positions, true), &self.plan.embedding.map0));
        activated(labelled(self.exact_conv(&hidden, &self.plan.embedding.map1), false))
    }

    fn wide(&self, offset: usize, len: usize) -> Vec<f64> {
        self.theta[offset..offset + len].iter().map(|v| *v as f64).collect()
    }

    fn exact_conv(&self, x: &Array, conv: &Conv) -> Array {
        let per_row = conv.shape.weights() / conv.shape.outputs;
        let weight: Vec<f64> =
            (0..conv.shape.weights()).map(|i| self.theta[conv.weight_at(i / per_row, i % per_row)] as f64).collect();
        let bias: Vec<f64> = (0..conv.shape.outputs).map(|row| self.theta[conv.bias_at(row)] as f64).collect();
        conv2d(x, &weight, &bias, conv.shape.kernel)
    }

    fn exact_norm(&self, x: &Array, norm: &Norm, with_silu: bool) -> Array {
        let (weight, bias) = (self.wide(norm.weight, norm.channels), self.wide(norm.bias, norm.channels));
        group_norm(x, norm.groups, norm.eps, &weight, &bias, with_silu)
    }

    fn exact_block(&self, x: &Array, block: &Block, embedding: &Array) -> Array {
        let scale = if block.scale == 1.0 { 1.0 } else { std::f64::consts::FRAC_1_SQRT_2 };
        let h = self.exact_conv(&resampled(&self.exact_norm(x, &block.norm0, true), block.resample), &block.conv0);
        let given = self.exact_conv(embedding, &block.affine);
        let c = block.outputs;
        let h = if block.scale_shift {
            let h = self.exact_norm(&h, &block.norm1, false);
            let scale_shift = |n, i, y, px| (1.0 + given.at(n, i, 0, 0)) * h.at(n, i, y, px) + given.at(n, c + i, 0, 0);
            activated(Array::from_fn(h.shape, scale_shift))
        } else {
            let h = Array::from_fn(h.shape, |n, i, y, px| h.at(n, i, y, px) + given.at(n, i, 0, 0));
            self.exact_norm(&h, &block.norm1, true)
        };
        let h = self.exact_conv(&h, &block.conv1);
        let skip = resampled(x, block.resample);
        let out = sum(&h, &block.skip.as_ref().map_or_else(|| skip.clone(), |conv| self.exact_conv(&skip, conv)), scale);
        let Some(layers) = &block.attention else { return out };
        let qkv = self.exact_conv(&self.exact_norm(&out, &layers.norm, false), &layers.qkv);
        sum(&self.exact_conv(&attention(&qkv, layers.heads), &layers.proj), &out, scale)
    }
}
