//! The walk through the levels that all families share: encoder, middle, decoder with skip connections (Ronneberger et al. 2015,
//! arXiv:1505.04597). Families differ in names, sizes and the layers of a block.

use super::builder::{Builder, Names, Role, Sizes};
use super::family::Encoder;
use super::plan::{Block, Embedding, Join, Plan, ToImage};

/// Where a block stands.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Place {
    Down,
    Encoder(usize),
    Middle(usize),
    Up,
    Decoder(usize),
}

/// Names of layers in the checkpoints of a family, asked for in the order of construction.
pub(super) trait Naming {
    /// The first convolution; `side` is the resolution.
    fn first(&mut self, side: usize) -> String;
    /// A block whose output has this side.
    fn block(&mut self, place: Place, side: usize, attention: bool) -> Names;
    /// The convolution through which the image pyramid joins.
    fn join(&mut self, side: usize) -> String;
    /// Normalisation and convolution to an image.
    fn to_image(&mut self, side: usize) -> (String, String);
}

/// Sizes of a network.
pub(super) struct Shape {
    pub inputs: usize,
    pub outputs: usize,
    pub side: usize,
    /// Channels after the first convolution.
    pub first: usize,
    /// Channels of each level, finest first.
    pub channels: Vec<usize>,
    /// Blocks of each level of the encoder; the decoder has one more.
    pub blocks: usize,
    /// Whether the blocks of a level attend.
    pub attends: Vec<bool>,
    /// In the decoder only the last block of such a level attends.
    pub last_attends: bool,
    pub encoder: Encoder,
    /// The decoder makes an image on each level, rather than on the finest alone.
    pub images: bool,
}

/// Adds the U-Net to the layers of the embedding, which are in the builder already.
pub(super) fn lay_out(mut b: Builder, embedding: Embedding, shape: Shape, names: &mut dyn Naming) -> Plan {
    let side = |level: usize| shape.side >> level;
    let last = shape.channels.len() - 1;
    let (down, up) = (b.style.down(), b.style.up());
    let first = b.conv(&names.first(side(0)), shape.inputs, shape.first, 3, Role::Plain);
    let mut blocks: Vec<Block> = Vec::new();
    let mut channels = shape.first;
    let mut skips = vec![channels];
    let mut pyramid = shape.inputs;
    let plain = |inputs, outputs, attention| Sizes { inputs, appended: None, outputs, attention, resample: None };
    for (level, outputs) in shape.channels.iter().copied().enumerate() {
        if level > 0 {
            let name = names.block(Place::Down, side(level), false);
            let mut block = b.block(&name, Sizes { resample: Some(down), ..plain(channels, channels, false) });
            block.join = match shape.encoder {
                Encoder::Standard => None,
                Encoder::Skip => {
                    let conv = b.conv(&names.join(side(level)), pyramid, channels, 1, Role::Plain);
                    Some(Join::Skip { conv, how: down })
                }
                Encoder::Residual => {
                    let conv = b.conv(&names.join(side(level)), pyramid, channels, 3, Role::Plain);
                    pyramid = channels;
                    Some(Join::Residual { conv, how: down })
                }
            };
            blocks.push(block);
            skips.push(channels);
        }
        for i in 0..shape.blocks {
            let attention = shape.attends[level];
            let name = names.block(Place::Encoder(i), side(level), attention);
            blocks.push(b.block(&name, plain(channels, outputs, attention)));
            channels = outputs;
            skips.push(channels);
        }
    }
    let encoder = blocks.len();
    for (level, outputs) in shape.channels.iter().copied().enumerate().rev() {
        if level == last {
            for i in 0..2 {
                let name = names.block(Place::Middle(i), side(level), i == 0);
                blocks.push(b.block(&name, plain(channels, channels, i == 0)));
            }
        } else {
            let name = names.block(Place::Up, side(level), false);
            blocks.push(b.block(&name, Sizes { resample: Some(up), ..plain(channels, channels, false) }));
        }
        for i in 0..=shape.blocks {
            let attention = shape.attends[level] && (i == shape.blocks || !shape.last_attends);
            // The encoder made as many maps as the decoder takes back: one first, then per level its blocks and one resampling.
            let appended = skips.pop();
            let name = names.block(Place::Decoder(i), side(level), attention);
            let mut block = b.block(&name, Sizes { appended, ..plain(channels, outputs, attention) });
            channels = outputs;
            if i == shape.blocks && (shape.images || level == 0) {
                let (norm, conv) = names.to_image(side(level));
                let (norm, conv) = (b.norm(&norm, channels), b.conv(&conv, channels, shape.outputs, 3, Role::Closing));
                block.to_image = Some(ToImage { norm, conv, how: up });
            }
            blocks.push(block);
        }
    }
    let Shape { outputs, side, .. } = shape;
    let Builder { convs, norms, parameters, .. } = b;
    Plan { outputs, side, embedding, first, blocks, encoder, convs, norms, parameters }
}
