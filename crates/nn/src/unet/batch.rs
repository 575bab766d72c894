//! The network on a batch: draws on threads, forward passes, input gradients, sums of parameter gradients.

use super::UNet;
use super::gradients::{CHUNKS, GradientSum, Gradients};
use super::passes::PartTape;
use crate::{Error, Result};
use halation_compute::{Tensor, serial};
use rayon::prelude::*;
use std::ops::Range;

/// What the backward passes of some draws need.
pub struct Tape {
    parts: Vec<(Range<usize>, PartTape)>,
}

impl UNet {
    pub(super) fn check(&self, x: &Tensor, noise: &[f32]) -> Result<()> {
        let [c, h, w] = self.item_shape();
        x.expect_shape("UNet", &[noise.len(), c, h, w])?;
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
    /// As [`UNet::forward`].
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
        let [_, h, w] = self.item_shape();
        g.expect_shape("UNet::vjp", &[draws, self.out_channels(), h, w])?;
        let run = |(range, tape): &(Range<usize>, PartTape)| self.part_backward(tape, &draws_of(g, range)?, None, true);
        let parts = Self::for_parts(tape.parts.iter().collect(), run)?;
        concat(g, parts.into_iter().flatten().collect())
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
        sum.clear();
        self.add_gradients(sum, x, noise, &GradientSum::places(x.draws(), 0, 1), cotangent)
    }

    /// As [`UNet::accumulate`] for a part of a batch, adding to `sum`: `x` holds the draws at `places` of the batch, chunk by chunk. All
    /// passes over a batch give the bits of one.
    ///
    /// # Errors
    /// As [`UNet::accumulate`], and when the places are not as many as the draws.
    pub fn add_gradients(
        &self,
        sum: &mut GradientSum,
        x: &Tensor,
        noise: &[f32],
        places: &[Range<usize>; CHUNKS],
        cotangent: impl Fn(usize, &Tensor) -> Result<(Tensor, f64)> + Sync,
    ) -> Result<Vec<f64>> {
        self.check(x, noise)?;
        let draws = x.draws();
        let before = |k: usize| places[..k].iter().map(Range::len).sum::<usize>();
        if before(CHUNKS) != draws {
            return Err(Error::Invalid(format!("places {places:?} are {}, expected those of {draws} draws", before(CHUNKS))));
        }
        let run = |(k, gradients): (usize, &mut Gradients)| -> Result<Vec<f64>> {
            let mut losses = Vec::new();
            for d in before(k)..before(k + 1) {
                let (out, tape) = self.part_forward(&draws_of(x, &(d..d + 1))?, &noise[d..d + 1])?;
                let (g, loss) = cotangent(d, &out)?;
                g.expect_shape("UNet::accumulate", out.shape())?;
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
}

impl UNet {
    /// Gradients of sum(g * F(x, noise)) with respect to the parameters, flat in their order; `g` has the shape of F's output.
    ///
    /// # Errors
    /// As [`UNet::forward`], and when `g` has another shape.
    pub fn parameter_gradients(&self, x: &Tensor, noise: &[f32], g: &Tensor) -> Result<Vec<f32>> {
        let [_, h, w] = self.item_shape();
        g.expect_shape("UNet::parameter_gradients", &[x.draws(), self.out_channels(), h, w])?;
        let mut sum = self.gradient_sum();
        self.accumulate(&mut sum, x, noise, |d, _| Ok((g.select(&[d])?, 0.0)))?;
        Ok(self.flat_gradients(&sum))
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
