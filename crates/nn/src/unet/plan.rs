//! What a network consists of: its layers in the order in which they run, and its parameters in the order of its checkpoints.

use halation_compute::{ConvShape, Resample};

/// A parameter tensor: its name in a checkpoint, its shape there, and where it begins in the flat parameter vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name without any prefix, such as `enc.64x64_block0.conv0.weight`.
    pub name: String,
    /// Shape in the checkpoint: (output, input, ky, kx), (output, input) or (channel).
    pub shape: Vec<usize>,
    /// First element in the flat vector.
    pub offset: usize,
    /// Whether training changes it: not the frequencies of a Fourier embedding, nor what this library has no use for.
    pub trainable: bool,
    pub(crate) init: Init,
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    /// Uniform in +-gain limit.
    Uniform {
        gain: f32,
        limit: f64,
    },
    /// Normal with this standard deviation.
    Normal(f64),
    Constant(f32),
}

/// A convolution or linear layer: which packed weights, which parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub id: usize,
    pub shape: ConvShape,
    pub weight: usize,
    pub bias: usize,
    pub order: Order,
}

/// Where a layer's weights lie in the parameter vector, beginning at its `weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    /// (output, input, ky, kx), biases elsewhere.
    Plain,
    /// Outputs are stored as (channel, 3) and used as (3, channel): queries, keys and values beside each other.
    Interleaved,
    /// Outputs are stored as (head, 3, channel of the head) and used as (3, head, channel of the head).
    HeadMajor { heads: usize },
    /// `parts` layers of equal size one after another, each (input, output) and then its biases.
    Transposed { parts: usize },
}

impl Conv {
    /// Where in the parameter vector the weight of output `row` for element `k` of (input, ky, kx) lies.
    pub fn weight_at(&self, row: usize, k: usize) -> usize {
        let per_row = self.shape.inputs * self.shape.kernel * self.shape.kernel;
        match self.order {
            Order::Transposed { parts } => {
                let size = self.shape.outputs / parts;
                self.weight + row / size * (per_row + 1) * size + k * size + row % size
            }
            _ => self.weight + self.stored_row(row) * per_row + k,
        }
    }

    /// Where in the parameter vector the bias of output `row` lies.
    pub fn bias_at(&self, row: usize) -> usize {
        match self.order {
            Order::Transposed { parts } => {
                let size = self.shape.outputs / parts;
                self.weight + row / size * (self.shape.inputs + 1) * size + self.shape.inputs * size + row % size
            }
            _ => self.bias + self.stored_row(row),
        }
    }

    /// The place among the stored outputs of the one that is used as `row`.
    fn stored_row(&self, row: usize) -> usize {
        let c = self.shape.outputs / 3;
        match self.order {
            Order::Plain | Order::Transposed { .. } => row,
            Order::Interleaved => (row % c) * 3 + row / c,
            Order::HeadMajor { heads } => {
                let size = c / heads;
                let (part, head, channel) = (row / c, row % c / size, row % size);
                (head * 3 + part) * size + channel
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub id: usize,
    pub channels: usize,
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    pub weight: usize,
    pub bias: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub heads: usize,
    pub norm: Norm,
    pub qkv: Conv,
    pub proj: Conv,
}

/// A residual block: h = conv0(resample(silu(norm0 x))); h = silu(norm1 of h with the embedding); out = (skip(x) + conv1(h)) scale; then
/// attention, (out + proj(attend(qkv(norm out)))) scale.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub outputs: usize,
    /// Channels of a skip connection that are appended to the input.
    pub appended: Option<usize>,
    pub resample: Option<Resample>,
    /// Factor on the sum of both branches.
    pub scale: f32,
    /// The embedding gives scale and shift of the second normalisation, (1 + scale) norm1(h) + shift, rather than a shift of its input.
    pub scale_shift: bool,
    pub norm0: Norm,
    pub conv0: Conv,
    pub affine: Conv,
    pub norm1: Norm,
    pub conv1: Conv,
    pub skip: Option<Conv>,
    pub attention: Option<Attention>,
    /// What joins the output from the image pyramid of the encoder.
    pub join: Option<Join>,
    /// What makes an image of the output; images of coarser levels, enlarged, are added.
    pub to_image: Option<ToImage>,
}

impl Block {
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let others = self.attention.as_ref().map(|a| &a.norm).into_iter().chain(self.to_image.as_ref().map(|t| &t.norm));
        [&self.norm0, &self.norm1].into_iter().chain(others)
    }
}

/// How the image, halved level by level beside the encoder, comes in (Song et al. 2021, arXiv:2011.13456, appendix H).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Join {
    /// The halved image through a 1x1 convolution is added.
    Skip { conv: Conv, how: Resample },
    /// The branch itself is convolved, halved and added, times 1/sqrt 2; the sum is the branch from then on.
    Residual { conv: Conv, how: Resample },
}

/// Normalisation, silu, convolution to an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToImage {
    pub norm: Norm,
    pub conv: Conv,
    /// How the image of the coarser levels is enlarged.
    pub how: Resample,
}

/// What a noise value becomes before the mapping layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Positions {
    /// Sines, then cosines, of noise 10000^(-i / (half - 1)).
    SinesFirst,
    /// Cosines, then sines, of noise 10000^(-i / half).
    CosinesFirst,
    /// Sines, then cosines, of 2 pi noise W (Tancik et al. 2020, arXiv:2006.10739), the frequencies W beginning here in the parameter vector.
    Fourier(usize),
}

/// The vector of a class, added before or after the mapping layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub weight: usize,
    pub bias: Option<usize>,
    pub classes: usize,
    pub width: usize,
    /// (class, channel) rather than (channel, class).
    pub class_major: bool,
    pub factor: f32,
    /// Added to what goes into the first mapping layer rather than to what comes out of the second.
    pub first: bool,
    /// The class that the network is used for; none of them where the family knows that.
    pub class: Option<usize>,
}

/// From a noise value to the embedding that every block sees: positions, two linear layers with silu after each, the vector of a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedding {
    pub positions: Positions,
    pub map0: Conv,
    pub map1: Conv,
    pub label: Option<Label>,
}

/// All layers of a network and its parameters in the order of construction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub outputs: usize,
    pub side: usize,
    pub embedding: Embedding,
    pub first: Conv,
    /// Encoder, then decoder; the last one makes an image.
    pub blocks: Vec<Block>,
    pub encoder: usize,
    pub convs: Vec<Conv>,
    pub norms: Vec<Norm>,
    pub parameters: Vec<Parameter>,
}

impl Plan {
    /// Number of elements of all parameters together.
    pub fn elements(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.offset + p.len())
    }

    /// Multiply-adds of the convolutions and linear layers of one forward pass of one draw, times two, and of attention.
    pub fn flops(&self) -> f64 {
        let conv = |c: &Conv, pixels: usize| 2.0 * c.shape.weights() as f64 * pixels as f64;
        let mut side = self.side;
        let mut total = conv(&self.first, side * side) + conv(&self.embedding.map0, 1) + conv(&self.embedding.map1, 1);
        for block in &self.blocks {
            if let Some(how) = block.resample {
                side = if how.halves() { side / 2 } else { side * 2 };
            }
            let pixels = side * side;
            total += conv(&block.conv0, pixels) + conv(&block.conv1, pixels) + conv(&block.affine, 1);
            total += block.skip.as_ref().map_or(0.0, |c| conv(c, pixels));
            total += block.to_image.map_or(0.0, |t| conv(&t.conv, pixels));
            total += block.join.map_or(0.0, |join| match join {
                Join::Skip { conv: c, .. } => conv(&c, pixels),
                Join::Residual { conv: c, .. } => conv(&c, 4 * pixels),
            });
            if let Some(a) = &block.attention {
                total += conv(&a.qkv, pixels) + conv(&a.proj, pixels) + 4.0 * (pixels * pixels * block.outputs) as f64;
            }
        }
        total
    }
}
