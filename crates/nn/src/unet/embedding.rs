//! From a noise value to the embedding that every block sees: positions, two linear layers, silu after each; a class adds its vector.

use super::UNet;
use super::gradients::Gradients;
use super::plan::{Label, Positions};
use crate::Result;
use halation_compute::{Epilogue, Map, Tensor, conv2d, conv2d_input_grad, silu, silu_backward};
use std::f32::consts::TAU;

pub(super) struct EmbeddingTape {
    positions: Map,
    embed0: Tensor,
    embed1: Tensor,
    /// (draw, embedding) after the last silu.
    pub embedding: Map,
}

impl UNet {
    pub(super) fn embed(&self, noise: &[f32]) -> Result<EmbeddingTape> {
        let mut positions = self.positions(noise);
        self.add_label(&mut positions, true);
        let positions = Map::from_tensor(&positions, 0)?;
        let embed0 = conv2d(&positions, self.weights(&self.plan.embedding.map0), Epilogue::default())?.to_tensor();
        let embed1 = Map::from_tensor(&silu(&embed0), 0)?;
        let mut embed1 = conv2d(&embed1, self.weights(&self.plan.embedding.map1), Epilogue::default())?.to_tensor();
        self.add_label(&mut embed1, false);
        let embedding = Map::from_tensor(&silu(&embed1), 0)?;
        Ok(EmbeddingTape { positions, embed0, embed1, embedding })
    }

    /// Adds the gradients of the mapping layers, from the sum of the embedding's gradients.
    pub(super) fn embed_backward(&self, tape: &EmbeddingTape, gradients: &mut Gradients) -> Result<()> {
        let Some(g) = gradients.embedding.take() else { return Ok(()) };
        let g = silu_backward(&tape.embed1, &g.to_tensor())?;
        self.label_backward(&g, false, gradients);
        let g = Map::from_tensor(&g, 0)?;
        let hidden = Map::from_tensor(&silu(&tape.embed0), 0)?;
        gradients.convs[self.plan.embedding.map1.id].accumulate(&hidden, &g)?;
        let g = conv2d_input_grad(&g, self.weights(&self.plan.embedding.map1), Epilogue::default())?;
        let g = Map::from_tensor(&silu_backward(&tape.embed0, &g.to_tensor())?, 0)?;
        gradients.convs[self.plan.embedding.map0.id].accumulate(&tape.positions, &g)?;
        if self.plan.embedding.label.is_some_and(|label| label.first) {
            let g = conv2d_input_grad(&g, self.weights(&self.plan.embedding.map0), Epilogue::default())?.to_tensor();
            self.label_backward(&g, true, gradients);
        }
        Ok(())
    }

    fn add_label(&self, x: &mut Tensor, first: bool) {
        let Some(label) = self.plan.embedding.label.filter(|l| l.first == first) else { return };
        let vector = label.vector(&self.theta);
        x.data_mut().chunks_exact_mut(label.width).for_each(|row| row.iter_mut().zip(&vector).for_each(|(x, v)| *x += v));
    }

    fn label_backward(&self, g: &Tensor, first: bool, gradients: &mut Gradients) {
        let Some(label) = self.plan.embedding.label.filter(|l| l.first == first) else { return };
        for row in g.data().chunks_exact(label.width) {
            gradients.label.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
        }
    }

    /// Positional embedding of `noise` values, (draw, channel, 1, 1).
    fn positions(&self, noise: &[f32]) -> Tensor {
        let channels = self.plan.embedding.map0.shape.inputs;
        let half = channels / 2;
        let (sines, cosines) = match self.plan.embedding.positions {
            Positions::SinesFirst | Positions::Fourier(_) => (0, half),
            Positions::CosinesFirst => (half, 0),
        };
        let frequencies: Vec<f32> = (0..half).map(|i| self.frequency(i, half)).collect();
        let mut out = Tensor::zeros(&[noise.len(), channels, 1, 1]);
        for (row, noise) in out.data_mut().chunks_exact_mut(channels).zip(noise) {
            for (i, frequency) in frequencies.iter().enumerate() {
                // The product is rounded to f32 as in the networks that were trained with it; the phase can be hundreds of radians.
                let phase = (noise * frequency) as f64;
                row[sines + i] = phase.sin() as f32;
                row[cosines + i] = phase.cos() as f32;
            }
        }
        out
    }

    fn frequency(&self, i: usize, half: usize) -> f32 {
        match self.plan.embedding.positions {
            Positions::SinesFirst => 1e-4f64.powf(i as f64 / (half.max(2) - 1) as f64) as f32,
            Positions::CosinesFirst => 1e-4f64.powf(i as f64 / half as f64) as f32,
            Positions::Fourier(offset) => TAU * self.theta[offset + i],
        }
    }
}

impl Label {
    /// What is added for the class.
    pub(super) fn vector(&self, theta: &[f32]) -> Vec<f32> {
        let bias = |i: usize| self.bias.map_or(0.0, |b| theta[b + i]);
        let weight = |i: usize| self.place(i).map_or(0.0, |at| self.factor * theta[at]);
        (0..self.width).map(|i| weight(i) + bias(i)).collect()
    }

    /// Where the weight of channel `i` for the class lies.
    fn place(&self, i: usize) -> Option<usize> {
        let class = self.class?;
        Some(self.weight + if self.class_major { class * self.width + i } else { i * self.classes + class })
    }

    /// Adds the gradients of the parameters, from that of the vector.
    pub(super) fn spread(&self, g: &[f32], flat: &mut [f32]) {
        for (i, g) in g.iter().enumerate() {
            if let Some(at) = self.place(i) {
                flat[at] += self.factor * g;
            }
            if let Some(bias) = self.bias {
                flat[bias + i] += g;
            }
        }
    }
}
