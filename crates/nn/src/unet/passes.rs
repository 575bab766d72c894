//! The network on some draws, forward and backward.

use super::UNet;
use super::block::BlockTape;
use super::embedding::EmbeddingTape;
use super::gradients::Gradients;
use super::pyramid::{JoinTape, ToImageTape};
use crate::{Error, Result};
use halation_compute::{
    Epilogue, Map, Tensor, concat_channels, conv2d, conv2d_input_grad, resample_backward, scaled_sum, split_channels,
};
use std::sync::Arc;

/// What the backward passes of some draws need.
pub(super) struct PartTape {
    embedding: EmbeddingTape,
    x: Arc<Map>,
    blocks: Vec<StageTape>,
}

struct StageTape {
    block: BlockTape,
    join: Option<JoinTape>,
    to_image: Option<ToImageTape>,
}

impl UNet {
    pub(super) fn part_forward(&self, x: &Tensor, noise: &[f32]) -> Result<(Tensor, PartTape)> {
        let embedding = self.embed(noise)?;
        let x = Arc::new(Map::from_tensor(x, 1)?);
        let mut h = Arc::new(conv2d(&x, self.weights(&self.plan.first), Epilogue::default())?);
        let mut aux = x.clone();
        let mut image = None;
        let mut blocks = Vec::with_capacity(self.plan.blocks.len());
        let mut skips = vec![h.clone()];
        for (i, block) in self.plan.blocks.iter().enumerate() {
            if block.appended.is_some()
                && let Some(skip) = skips.pop()
            {
                h = Arc::new(concat_channels(&h, &skip)?);
            }
            let (out, tape) = self.block_forward(block, h, &embedding.embedding)?;
            let mut stage = StageTape { block: tape, join: None, to_image: None };
            h = match &block.join {
                None => Arc::new(out),
                Some(join) => {
                    let (joined, tape) = self.join_forward(join, out, &mut aux)?;
                    stage.join = Some(tape);
                    joined
                }
            };
            if let Some(layers) = &block.to_image {
                let (made, tape) = self.to_image_forward(layers, h.clone(), image.take())?;
                image = Some(made);
                stage.to_image = Some(tape);
            }
            blocks.push(stage);
            if i < self.plan.encoder {
                skips.push(h.clone());
            }
        }
        let image = image.ok_or_else(|| Error::Invalid("the network has no layer that makes an image".into()))?;
        Ok((image.to_tensor(), PartTape { embedding, x, blocks }))
    }

    /// The gradient of the input where `input` wants it, from that of the output; with `gradients`, those of the parameters are added there.
    pub(super) fn part_backward(
        &self,
        tape: &PartTape,
        g: &Tensor,
        mut gradients: Option<&mut Gradients>,
        input: bool,
    ) -> Result<Option<Tensor>> {
        let mut g_image = Map::from_tensor(g, 1)?;
        if let Some(gradients) = gradients.as_deref_mut() {
            gradients.embedding = None;
        }
        // Gradients of the skip connections: the decoder's blocks give them first output first, the encoder's take them last output first.
        let mut skips: Vec<Map> = Vec::new();
        let mut g_aux = None;
        // Of the present block's output; none before the layers that make the finest image.
        let mut g: Option<Map> = None;
        for (i, (block, tape_of)) in self.plan.blocks.iter().zip(&tape.blocks).enumerate().rev() {
            if i < self.plan.encoder
                && let (Some(skip), Some(through)) = (skips.pop(), &g)
            {
                g = Some(scaled_sum(through, Some(&skip), 1.0, 0)?);
            }
            if let (Some(layers), Some(image_tape)) = (&block.to_image, &tape_of.to_image) {
                if g.is_some() {
                    // This level's image was enlarged for the next finer one.
                    g_image = scaled_sum(&resample_backward(&g_image, layers.how)?, None, 1.0, 1)?;
                }
                g = Some(self.to_image_backward(layers, image_tape, &g_image, g.as_ref(), gradients.as_deref_mut())?);
            }
            let mut through =
                g.take().ok_or_else(|| Error::Invalid("the network's last block has no layer that makes an image".into()))?;
            if let (Some(join), Some(tape)) = (&block.join, &tape_of.join) {
                through = self.join_backward(join, tape, through, &mut g_aux, gradients.as_deref_mut())?;
            }
            through = self.block_backward(block, &tape_of.block, through, &tape.embedding.embedding, gradients.as_deref_mut())?;
            if let Some(appended) = block.appended {
                let (main, skip) = split_channels(&through, through.channels() - appended)?;
                through = main;
                skips.push(skip);
            }
            g = Some(through);
        }
        // What is left is the first convolution's own skip connection.
        let g = match (g, skips.pop()) {
            (Some(g), Some(skip)) => scaled_sum(&g, Some(&skip), 1.0, 1)?,
            _ => return Err(Error::Invalid("the network has no skip connection from its first layer".into())),
        };
        if let Some(gradients) = gradients {
            gradients.convs[self.plan.first.id].accumulate(&tape.x, &g)?;
            self.embed_backward(&tape.embedding, gradients)?;
        }
        if !input {
            return Ok(None);
        }
        let epilogue = Epilogue { residual: g_aux.as_ref(), ..Epilogue::default() };
        Ok(Some(conv2d_input_grad(&g, self.weights(&self.plan.first), epilogue)?.to_tensor()))
    }
}
