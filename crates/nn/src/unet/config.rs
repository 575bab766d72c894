use crate::{Error, Result};
use halation_compute::{ConvShape, Resample};
use serde::{Deserialize, Serialize};

/// The sizes of a U-Net of the EDM family, with the key names of that family's configuration files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UNetConfig {
    /// Pixels along each side of an image.
    pub img_resolution: usize,
    /// Channels of an image.
    pub img_channels: usize,
    /// Feature channels at full resolution, before the multipliers.
    pub model_channels: usize,
    /// Multiplier of the feature channels for each resolution, finest first; each next one has half the side.
    pub channel_mult: Vec<usize>,
    /// Resolutions with self-attention.
    pub attn_resolutions: Vec<usize>,
    /// Residual blocks per resolution (one more in the decoder).
    pub num_blocks: usize,
}

impl UNetConfig {
    /// Checks that a network can be built from these sizes.
    ///
    /// # Errors
    /// Names the setting, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Invalid(message));
        let Self { img_resolution, img_channels, model_channels, channel_mult, num_blocks, .. } = self;
        if channel_mult.is_empty() || channel_mult.len() > 16 || channel_mult.iter().any(|m| *m == 0 || *m > 64) {
            return fail(format!("channel_mult is {channel_mult:?}, expected 1 to 16 numbers from 1 to 64"));
        }
        let halvings = channel_mult.len() - 1;
        if *img_resolution == 0 || *img_resolution > 1 << 14 || img_resolution % (1 << halvings) != 0 {
            return fail(format!(
                "img_resolution is {img_resolution}, expected a multiple of {} up to {}: channel_mult has {} entries, so the side is halved {halvings} times",
                1 << halvings,
                1 << 14,
                channel_mult.len()
            ));
        }
        if *img_channels == 0 || *img_channels > 1024 {
            return fail(format!("img_channels is {img_channels}, expected 1 to 1024"));
        }
        if *num_blocks == 0 || *num_blocks > 64 {
            return fail(format!("num_blocks is {num_blocks}, expected 1 to 64"));
        }
        if *model_channels < 4 || *model_channels > 4096 || model_channels % 4 != 0 {
            return fail(format!("model_channels is {model_channels}, expected a multiple of 4 up to 4096"));
        }
        // Every width that occurs, sums with skips included, must split into min(32, C/4) equal groups.
        let plan = Plan::new(self);
        match plan.blocks.iter().flat_map(Block::norms).find(|n| n.channels % n.groups != 0) {
            Some(n) => fail(format!(
                "{} channels do not split into {} equal groups of the normalisation: choose model_channels a multiple of 32",
                n.channels, n.groups
            )),
            None => Ok(()),
        }
    }
}

/// A parameter tensor: its name in a checkpoint, its shape there, and where it begins in the flat parameter vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name without any prefix, such as `enc.64x64_block0.conv0.weight`.
    pub name: String,
    /// Shape in the checkpoint: (output, input, ky, kx), (output, input) or (channel).
    pub shape: Vec<usize>,
    /// First element in the flat vector.
    pub offset: usize,
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
    /// Uniform in +-gain sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, eq. 16).
    Uniform {
        gain: f32,
        fan_sum: usize,
    },
    Constant(f32),
}

/// A convolution or linear layer: which packed weights, which parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub id: usize,
    pub shape: ConvShape,
    pub weight: usize,
    pub bias: usize,
    /// Output channels are stored as (channel, 3) and used as (3, channel): queries, keys and values.
    pub interleaved: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub id: usize,
    pub channels: usize,
    pub groups: usize,
    pub weight: usize,
    pub bias: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub norm: Norm,
    pub qkv: Conv,
    pub proj: Conv,
}

/// A residual block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub outputs: usize,
    /// Channels of a skip connection that are appended to the input.
    pub appended: Option<usize>,
    pub resample: Option<Resample>,
    pub norm0: Norm,
    pub conv0: Conv,
    pub affine: Conv,
    pub norm1: Norm,
    pub conv1: Conv,
    pub skip: Option<Conv>,
    pub attention: Option<Attention>,
}

impl Block {
    fn norms(&self) -> impl Iterator<Item = &Norm> {
        [&self.norm0, &self.norm1].into_iter().chain(self.attention.as_ref().map(|a| &a.norm))
    }
}

/// All layers of the DDPM++ network of the EDM family (Song et al. 2021, arXiv:2011.13456, appendix H; layout and names of Karras et al. 2022,
/// arXiv:2206.00364, appendix F.2) and their parameters in the order of construction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub map0: Conv,
    pub map1: Conv,
    pub first: Conv,
    /// Encoder, then decoder.
    pub blocks: Vec<Block>,
    pub encoder: usize,
    pub out_norm: Norm,
    pub out_conv: Conv,
    pub convs: Vec<Conv>,
    pub norms: Vec<Norm>,
    pub parameters: Vec<Parameter>,
}

#[derive(Default)]
struct Builder {
    convs: Vec<Conv>,
    norms: Vec<Norm>,
    parameters: Vec<Parameter>,
    elements: usize,
    embedding: usize,
}

impl Builder {
    fn parameter(&mut self, name: String, shape: Vec<usize>, init: Init) -> usize {
        let offset = self.elements;
        self.elements += shape.iter().product::<usize>();
        self.parameters.push(Parameter { name, shape, offset, init });
        offset
    }

    /// `kernel` 0 is a linear layer, whose weight has two axes in a checkpoint.
    fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize, gain: f32) -> Conv {
        let area = kernel.max(1) * kernel.max(1);
        let shape = if kernel == 0 { vec![outputs, inputs] } else { vec![outputs, inputs, kernel, kernel] };
        let init = Init::Uniform { gain, fan_sum: (inputs + outputs) * area };
        let conv = Conv {
            id: self.convs.len(),
            shape: ConvShape { inputs, outputs, kernel: kernel.max(1) },
            weight: self.parameter(format!("{name}.weight"), shape, init),
            bias: self.parameter(format!("{name}.bias"), vec![outputs], Init::Constant(0.0)),
            interleaved: false,
        };
        self.convs.push(conv);
        conv
    }

    fn norm(&mut self, name: &str, channels: usize) -> Norm {
        let norm = Norm {
            id: self.norms.len(),
            channels,
            groups: (channels / 4).clamp(1, 32),
            weight: self.parameter(format!("{name}.weight"), vec![channels], Init::Constant(1.0)),
            bias: self.parameter(format!("{name}.bias"), vec![channels], Init::Constant(0.0)),
        };
        self.norms.push(norm);
        norm
    }

    fn block(
        &mut self,
        name: &str,
        inputs: usize,
        appended: Option<usize>,
        outputs: usize,
        attention: bool,
        how: Option<Resample>,
    ) -> Block {
        let wide = inputs + appended.unwrap_or(0);
        let embedding = self.embedding;
        Block {
            outputs,
            appended,
            resample: how,
            norm0: self.norm(&format!("{name}.norm0"), wide),
            conv0: self.conv(&format!("{name}.conv0"), wide, outputs, 3, 1.0),
            affine: self.conv(&format!("{name}.affine"), embedding, outputs, 0, 1.0),
            norm1: self.norm(&format!("{name}.norm1"), outputs),
            // Branches that begin near zero make each block begin near the identity.
            conv1: self.conv(&format!("{name}.conv1"), outputs, outputs, 3, 1e-5),
            skip: (wide != outputs || how.is_some()).then(|| self.conv(&format!("{name}.skip"), wide, outputs, 1, 1.0)),
            attention: attention.then(|| {
                let norm = self.norm(&format!("{name}.norm2"), outputs);
                let mut qkv = self.conv(&format!("{name}.qkv"), outputs, 3 * outputs, 1, 0.2f32.sqrt());
                qkv.interleaved = true;
                self.convs[qkv.id] = qkv;
                Attention { norm, qkv, proj: self.conv(&format!("{name}.proj"), outputs, outputs, 1, 1e-5) }
            }),
        }
    }
}

impl Plan {
    pub fn new(config: &UNetConfig) -> Self {
        let c = config.model_channels;
        let mut b = Builder { embedding: 4 * c, ..Builder::default() };
        let map0 = b.conv("map_layer0", c, 4 * c, 0, 1.0);
        let map1 = b.conv("map_layer1", 4 * c, 4 * c, 0, 1.0);
        let side = |level: usize| config.img_resolution >> level;
        let attends = |level: usize| config.attn_resolutions.contains(&side(level));
        let last = config.channel_mult.len() - 1;
        let first = b.conv(&format!("enc.{0}x{0}_conv", side(0)), config.img_channels, c, 3, 1.0);
        let mut blocks = Vec::new();
        let mut channels = c;
        let mut skips = vec![c];
        for (level, mult) in config.channel_mult.iter().enumerate() {
            let r = side(level);
            if level > 0 {
                blocks.push(b.block(&format!("enc.{r}x{r}_down"), channels, None, channels, false, Some(Resample::Down)));
                skips.push(channels);
            }
            for i in 0..config.num_blocks {
                blocks.push(b.block(&format!("enc.{r}x{r}_block{i}"), channels, None, c * mult, attends(level), None));
                channels = c * mult;
                skips.push(channels);
            }
        }
        let encoder = blocks.len();
        for (level, mult) in config.channel_mult.iter().enumerate().rev() {
            let r = side(level);
            if level == last {
                blocks.push(b.block(&format!("dec.{r}x{r}_in0"), channels, None, channels, true, None));
                blocks.push(b.block(&format!("dec.{r}x{r}_in1"), channels, None, channels, false, None));
            } else {
                blocks.push(b.block(&format!("dec.{r}x{r}_up"), channels, None, channels, false, Some(Resample::Up)));
            }
            for i in 0..=config.num_blocks {
                let attention = i == config.num_blocks && attends(level);
                // The encoder made as many maps as the decoder takes back: one first, then per level its blocks and one resampling.
                let appended = skips.pop();
                blocks.push(b.block(&format!("dec.{r}x{r}_block{i}"), channels, appended, c * mult, attention, None));
                channels = c * mult;
            }
        }
        let out_norm = b.norm(&format!("dec.{0}x{0}_aux_norm", side(0)), channels);
        let out_conv = b.conv(&format!("dec.{0}x{0}_aux_conv", side(0)), channels, config.img_channels, 3, 1e-5);
        let Builder { convs, norms, parameters, .. } = b;
        Plan { map0, map1, first, blocks, encoder, out_norm, out_conv, convs, norms, parameters }
    }

    /// Number of elements of all parameters together.
    pub fn elements(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.offset + p.len())
    }
}
