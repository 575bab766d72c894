//! The same network in f64, from the plain operations of [`halation_compute::reference`].

use super::SongUNet;
use super::block::EPS;
use super::config::{Block, Conv, Init, Norm};
use crate::Result;
use halation_compute::reference::{
    Array, attention, concat_channels, conv2d, downsample, downsample_smooth, group_norm, silu, upsample, upsample_smooth,
};
use halation_compute::{Philox, Resample, Tensor};

impl SongUNet {
    /// Parameters of the sizes at which every layer matters, drawn from `seed`, for tests and benchmarks: the family's own starting values
    /// switch most branches off.
    pub fn full_size_theta(&self, seed: u64) -> Vec<f32> {
        let mut theta = self.theta.clone();
        let rng = Philox::new(seed).stream(1);
        for (i, p) in self.plan.parameters.iter().enumerate() {
            let mut numbers = rng.sequence(i as u64, 0);
            let (centre, width) = match p.init {
                Init::Uniform { fan_sum, .. } => (0.0, (6.0 / fan_sum as f64).sqrt()),
                Init::Constant(value) => (value as f64, 0.2),
            };
            theta[p.offset..p.offset + p.len()].iter_mut().for_each(|v| *v = (centre + width * numbers.range(-1.0, 1.0)) as f32);
        }
        theta
    }

    /// F(x, c_noise) in f64, one plain operation after another: slow, and the measure of what [`SongUNet::forward`] rounds away.
    ///
    /// # Errors
    /// As [`SongUNet::forward`].
    pub fn reference_forward(&self, x: &Tensor, noise: &[f32]) -> Result<Vec<f64>> {
        self.check(x, noise)?;
        let [c, h, w] = self.item_shape();
        let x = Array::new([noise.len(), c, h, w], x.data());
        let half = self.config.model_channels / 2;
        let positions = Array::from_fn([noise.len(), 2 * half, 1, 1], |n, i, _, _| {
            let frequency = 1e-4f64.powf((i % half) as f64 / (half.max(2) - 1) as f64);
            let phase = noise[n] as f64 * frequency;
            if i < half { phase.sin() } else { phase.cos() }
        });
        let activated = |x: Array| Array { shape: x.shape, data: x.data.into_iter().map(silu).collect() };
        let embedding = activated(self.exact_conv(&positions, &self.plan.map0));
        let embedding = activated(self.exact_conv(&embedding, &self.plan.map1));
        let mut h = self.exact_conv(&x, &self.plan.first);
        let mut skips = vec![h.clone()];
        for (i, block) in self.plan.blocks.iter().enumerate() {
            if block.appended.is_some()
                && let Some(skip) = skips.pop()
            {
                h = concat_channels(&h, &skip);
            }
            h = self.exact_block(&h, block, &embedding);
            if i < self.plan.encoder {
                skips.push(h.clone());
            }
        }
        let a = self.exact_norm(&h, &self.plan.out_norm, true);
        Ok(self.exact_conv(&a, &self.plan.out_conv).data)
    }

    fn wide(&self, offset: usize, len: usize) -> Vec<f64> {
        self.theta[offset..offset + len].iter().map(|v| *v as f64).collect()
    }

    fn exact_conv(&self, x: &Array, conv: &Conv) -> Array {
        let weight = self.wide(conv.weight, conv.shape.weights());
        conv2d(x, &weight, &self.wide(conv.bias, conv.shape.outputs), conv.shape.kernel)
    }

    fn exact_norm(&self, x: &Array, norm: &Norm, with_silu: bool) -> Array {
        let (weight, bias) = (self.wide(norm.weight, norm.channels), self.wide(norm.bias, norm.channels));
        group_norm(x, norm.groups, EPS, &weight, &bias, with_silu)
    }

    fn exact_block(&self, x: &Array, block: &Block, embedding: &Array) -> Array {
        let resampled = |x: Array| match block.resample {
            None => x,
            Some(Resample::Down) => downsample(&x),
            Some(Resample::Up) => upsample(&x),
            Some(Resample::SmoothDown) => downsample_smooth(&x),
            Some(Resample::SmoothUp) => upsample_smooth(&x),
        };
        let half = |x: &Array, y: &Array| {
            let sum = x.plus(1.0, y);
            Array { shape: sum.shape, data: sum.data.iter().map(|v| v * std::f64::consts::FRAC_1_SQRT_2).collect() }
        };
        let h = self.exact_conv(&resampled(self.exact_norm(x, &block.norm0, true)), &block.conv0);
        let shift = self.exact_conv(embedding, &block.affine);
        let h = Array::from_fn(h.shape, |n, c, y, px| h.at(n, c, y, px) + shift.at(n, c, 0, 0));
        let h = self.exact_conv(&self.exact_norm(&h, &block.norm1, true), &block.conv1);
        let skip = resampled(x.clone());
        let out = half(&h, &block.skip.as_ref().map_or_else(|| skip.clone(), |conv| self.exact_conv(&skip, conv)));
        let Some(layers) = &block.attention else { return out };
        let qkv = self.exact_conv(&self.exact_norm(&out, &layers.norm, false), &layers.qkv);
        // The layer's outputs are (channel, 3): queries, keys and values of each channel beside each other.
        let c = block.outputs;
        let qkv = Array::from_fn(qkv.shape, |n, i, y, px| qkv.at(n, i % c * 3 + i / c, y, px));
        half(&self.exact_conv(&attention(&qkv, 1), &layers.proj), &out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UNetConfig;

    /// The fast network against f64, over sizes that the golden file does not have: three channels, several blocks, no attention in the
    /// encoder, channels that fill no vector, and a single resolution.
    #[test]
    fn forward_matches_f64() {
        for (resolution, img_channels, model_channels, mult, blocks, attention) in
            [(8, 3, 20, vec![1, 2], 2, vec![4]), (16, 1, 32, vec![1, 2, 2], 1, vec![16]), (5, 2, 16, vec![2], 1, vec![])]
        {
            let config = UNetConfig {
                img_resolution: resolution,
                img_channels,
                model_channels,
                channel_mult: mult,
                attn_resolutions: attention,
                num_blocks: blocks,
            };
            let mut net = SongUNet::new(config.clone(), 1).unwrap();
            net.set_theta(net.full_size_theta(3)).unwrap();
            let x = Philox::new(2).normal(0..3, 0, &[img_channels, resolution, resolution]).unwrap();
            let noise = [0.1, -0.7, 400.0];
            let (found, exact) = (net.forward(&x, &noise).unwrap(), net.reference_forward(&x, &noise).unwrap());
            let d: f64 = found.data().iter().zip(&exact).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
            let error = (d / exact.iter().map(|b| b * b).sum::<f64>()).sqrt();
            println!("{config:?}: {error:e}");
            // Phases of hundreds of radians lose digits in f32, which the f64 network does not.
            assert!(error < 2e-5, "{config:?}: {error:e}");

            // The pullback against differences of the f64 network along a random direction.
            let x = x.select(&[0]).unwrap();
            let (out, tape) = net.forward_with_tape(&x, &noise[..1]).unwrap();
            let vjp = net.vjp(&tape, &out).unwrap();
            let direction = Philox::new(9).normal(0..1, 0, &[img_channels, resolution, resolution]).unwrap();
            let step = 1.0 / 1024.0;
            let moved = |s: f32| {
                let mut x = x.clone();
                x.data_mut().iter_mut().zip(direction.data()).for_each(|(x, d)| *x += s * d);
                net.reference_forward(&x, &noise[..1]).unwrap()
            };
            let (plus, minus) = (moved(step), moved(-step));
            let difference = |i: usize| (plus[i] - minus[i]) / (2.0 * step as f64);
            let expected: f64 = (0..out.len()).map(|i| out.data()[i] as f64 * difference(i)).sum();
            let found: f64 = vjp.data().iter().zip(direction.data()).map(|(v, d)| *v as f64 * *d as f64).sum();
            let norm = |x: &[f32]| x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
            let size = norm(vjp.data()) * norm(direction.data());
            // Rounding of x +- step d to f32 (6e-8 / 1e-3) dominates.
            assert!((found - expected).abs() < 1e-4 * size, "{config:?}: {found} against {expected}, size {size}");
        }
    }

    /// The network of the golden file and of the benchmark has the parameters and the work that are stated for it.
    #[test]
    fn sizes() {
        let config = |mult: &[usize], channels| UNetConfig {
            img_resolution: 64,
            img_channels: 1,
            model_channels: channels,
            channel_mult: mult.to_vec(),
            attn_resolutions: vec![16],
            num_blocks: 1,
        };
        let net = SongUNet::new(config(&[1, 2, 2], 32), 0).unwrap();
        assert!((1.2e6..1.4e6).contains(&(net.theta().len() as f64)), "{}", net.theta().len());
        assert!((2.2e9..2.8e9).contains(&net.flops()), "{}", net.flops());
        // The published black-hole network has 20,041,217 parameters.
        let net = SongUNet::new(config(&[1, 2, 2], 128), 0).unwrap();
        assert_eq!(net.theta().len(), 20_041_217);
    }
}
