//! Sums of parameter gradients.

use super::UNet;
use super::plan::{Conv, Order, Plan};
use halation_compute::{ConvGrads, Map};
use rayon::prelude::*;
use std::ops::Range;

/// Chunks of draws over which parameter gradients are summed: a constant, so that sums do not depend on the number of threads.
pub(super) const CHUNKS: usize = 8;

/// Sums of parameter gradients over some draws.
pub(super) struct Gradients {
    pub convs: Vec<ConvGrads>,
    pub norms: Vec<(Vec<f32>, Vec<f32>)>,
    /// Of the vector of the class.
    pub label: Vec<f32>,
    /// Gradient of the embedding while a backward pass runs.
    pub embedding: Option<Map>,
}

impl Gradients {
    fn zeros(plan: &Plan) -> Self {
        Self {
            convs: plan.convs.iter().map(|c| ConvGrads::zeros(c.shape)).collect(),
            norms: plan.norms.iter().map(|n| (vec![0.0; n.channels], vec![0.0; n.channels])).collect(),
            label: vec![0.0; plan.embedding.label.map_or(0, |l| l.width)],
            embedding: None,
        }
    }

    pub fn clear(&mut self) {
        self.convs.iter_mut().for_each(ConvGrads::clear);
        self.norms.iter_mut().for_each(|(w, b)| {
            w.fill(0.0);
            b.fill(0.0);
        });
        self.label.fill(0.0);
    }
}

/// Parameter gradients of a batch, kept from step to step so that their memory is.
pub struct GradientSum {
    pub(super) chunks: Vec<Gradients>,
}

impl GradientSum {
    /// Back to zero.
    pub fn clear(&mut self) {
        self.chunks.iter_mut().for_each(Gradients::clear);
    }

    /// The places in a batch of the draws that go to each chunk in one of several passes. Over all passes a chunk sees the draws that it
    /// sees in a single one, in the same order; the n-th draws of all chunks come before the next ones, so that passes are even.
    pub fn places(batch: usize, pass: usize, passes: usize) -> [Range<usize>; CHUNKS] {
        let start = |k: usize| k * batch / CHUNKS;
        let (first, end) = (pass * batch / passes, (pass + 1) * batch / passes);
        let mut places = std::array::from_fn(|k| start(k)..start(k));
        let longest = batch.div_ceil(CHUNKS);
        let in_turn = (0..longest).flat_map(|n| (0..CHUNKS).map(move |k| (n, k))).filter(|(n, k)| start(*k) + n < start(k + 1));
        for (count, (n, k)) in in_turn.enumerate() {
            let next = start(k) + n + 1;
            if count < first {
                places[k] = next..next;
            } else if count < end {
                places[k].end = next;
            }
        }
        places
    }
}

impl UNet {
    /// Empty sums for [`UNet::accumulate`] and [`UNet::add_gradients`].
    pub fn gradient_sum(&self) -> GradientSum {
        GradientSum { chunks: (0..CHUNKS).map(|_| Gradients::zeros(&self.plan)).collect() }
    }

    /// The sum of all chunks, in their order, flat like the parameters.
    pub fn flat_gradients(&self, sum: &GradientSum) -> Vec<f32> {
        let add = |conv: &Conv| {
            let mut total = ConvGrads::zeros(conv.shape);
            sum.chunks.iter().for_each(|chunk| total.add(&chunk.convs[conv.id]));
            let (mut weight, mut bias) = (vec![0.0; conv.shape.weights()], vec![0.0; conv.shape.outputs]);
            total.unpack(&mut weight, &mut bias);
            (weight, bias)
        };
        let totals: Vec<(Vec<f32>, Vec<f32>)> = self.plan.convs.par_iter().map(add).collect();
        let mut flat = vec![0.0; self.theta.len()];
        for (conv, (weight, bias)) in self.plan.convs.iter().zip(totals) {
            if conv.order == Order::Plain {
                flat[conv.weight..][..weight.len()].copy_from_slice(&weight);
                flat[conv.bias..][..bias.len()].copy_from_slice(&bias);
                continue;
            }
            let per_row = weight.len() / conv.shape.outputs;
            weight.iter().enumerate().for_each(|(i, g)| flat[conv.weight_at(i / per_row, i % per_row)] = *g);
            bias.iter().enumerate().for_each(|(row, g)| flat[conv.bias_at(row)] = *g);
        }
        for norm in &self.plan.norms {
            for chunk in &sum.chunks {
                let (weight, bias) = &chunk.norms[norm.id];
                for (offset, part) in [(norm.weight, weight), (norm.bias, bias)] {
                    flat[offset..][..part.len()].iter_mut().zip(part).for_each(|(f, p)| *f += p);
                }
            }
        }
        if let Some(label) = &self.plan.embedding.label {
            sum.chunks.iter().for_each(|chunk| label.spread(&chunk.label, &mut flat));
        }
        flat
    }
}
