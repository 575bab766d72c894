//! Lays out the layers of a network one by one and gives each its place in the parameter vector.

use super::plan::{Attention, Block, Conv, Init, Norm, Order, Parameter};
use halation_compute::{ConvShape, Resample};

/// What the residual blocks of a family have in common.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub groups: Groups,
    /// Added to the variance in every normalisation.
    pub eps: f64,
    /// Factor on the sum of both branches of a block.
    pub scale: f32,
    pub scale_shift: bool,
    /// A block that resamples has a 1x1 convolution in its skip branch even where the channels stay.
    pub projects: bool,
    pub heads: Heads,
    pub queries: Queries,
    pub start: Start,
    /// Resampling by (1, 3, 3, 1) rather than by means and copies.
    pub smooth: bool,
}

impl Style {
    pub fn down(&self) -> Resample {
        if self.smooth { Resample::SmoothDown } else { Resample::Down }
    }

    pub fn up(&self) -> Resample {
        if self.smooth { Resample::SmoothUp } else { Resample::Up }
    }
}

/// Groups of a normalisation.
#[derive(Clone, Copy)]
pub(super) enum Groups {
    /// min(32, C / 4).
    AtLeastFour,
    /// 32.
    ThirtyTwo,
}

/// Attention heads.
#[derive(Clone, Copy)]
pub(super) enum Heads {
    Count(usize),
    /// Channels of each.
    Width(usize),
}

impl Heads {
    fn of(self, channels: usize) -> usize {
        match self {
            Heads::Count(n) => n,
            Heads::Width(w) => channels / w,
        }
    }
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Queries {
    /// One layer, (channel, 3).
    Interleaved,
    /// One layer, (head, 3, channel of the head).
    HeadMajor,
    /// One layer, (3, head, channel of the head).
    PartMajor,
    /// Three layers, each (input, output).
    Nin,
}

/// How weights begin.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Start {
    /// Uniform in +-gain sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, eq. 16), biases zero.
    Glorot,
    /// Uniform in +-1 / sqrt(fan in), biases as well; closing layers zero.
    FanIn,
}

/// What a layer is for, which settles how it begins.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Plain,
    /// The last one of a branch: branches that begin near zero make each block begin near the identity.
    Closing,
    Queries,
}

/// Names of a block's layers in a checkpoint. Those of attention are never used for a block without.
pub(super) struct Names {
    pub norm0: String,
    pub conv0: String,
    pub affine: String,
    pub norm1: String,
    pub conv1: String,
    pub skip: String,
    pub norm2: String,
    pub qkv: String,
    pub proj: String,
}

/// Sizes of a block.
pub(super) struct Sizes {
    pub inputs: usize,
    pub appended: Option<usize>,
    pub outputs: usize,
    pub attention: bool,
    pub resample: Option<Resample>,
}

pub(super) struct Builder {
    pub style: Style,
    /// Width of the embedding.
    pub embedding: usize,
    pub convs: Vec<Conv>,
    pub norms: Vec<Norm>,
    pub parameters: Vec<Parameter>,
    elements: usize,
}

impl Builder {
    pub fn new(style: Style, embedding: usize) -> Self {
        Self { style, embedding, convs: Vec::new(), norms: Vec::new(), parameters: Vec::new(), elements: 0 }
    }

    fn parameter(&mut self, name: String, shape: &[usize], init: Init) -> usize {
        let offset = self.elements;
        self.elements += shape.iter().product::<usize>();
        self.parameters.push(Parameter { name, shape: shape.to_vec(), offset, trainable: true, init });
        offset
    }

    /// A tensor that training leaves alone.
    pub fn frozen(&mut self, name: &str, shape: &[usize], init: Init) -> usize {
        let offset = self.parameter(name.into(), shape, init);
        if let Some(p) = self.parameters.last_mut() {
            p.trainable = false;
        }
        offset
    }

    /// A weight without a bias, (`shape`), of a layer with `inputs`.
    pub fn weight(&mut self, name: &str, shape: [usize; 2], inputs: usize) -> usize {
        self.parameter(name.into(), &shape, Init::Uniform { gain: 1.0, limit: 1.0 / (inputs as f64).sqrt() })
    }

    pub fn bias(&mut self, name: &str, len: usize) -> usize {
        self.parameter(name.into(), &[len], Init::Constant(0.0))
    }

    fn inits(&self, role: Role, fan_in: usize, fan_out: usize) -> (Init, Init) {
        match self.style.start {
            Start::Glorot => {
                let gain = match role {
                    Role::Plain => 1.0,
                    Role::Closing => 1e-5,
                    Role::Queries => 0.2f32.sqrt(),
                };
                (Init::Uniform { gain, limit: (6.0 / (fan_in + fan_out) as f64).sqrt() }, Init::Constant(0.0))
            }
            Start::FanIn => {
                let gain = if role == Role::Closing { 0.0 } else { 1.0 };
                let init = Init::Uniform { gain, limit: 1.0 / (fan_in as f64).sqrt() };
                (init, init)
            }
        }
    }

    fn add(&mut self, shape: ConvShape, weight: usize, bias: usize, order: Order) -> Conv {
        let conv = Conv { id: self.convs.len(), shape, weight, bias, order };
        self.convs.push(conv);
        conv
    }

    /// A layer whose weight has the two axes of a linear one in a checkpoint.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Conv {
        let (init, bias) = self.inits(Role::Plain, inputs, outputs);
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs], init);
        let bias = self.parameter(format!("{name}.bias"), &[outputs], bias);
        self.add(ConvShape { inputs, outputs, kernel: 1 }, weight, bias, Order::Plain)
    }

    pub fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize, role: Role) -> Conv {
        self.ordered(name, inputs, outputs, kernel, role, Order::Plain)
    }

    fn ordered(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize, role: Role, order: Order) -> Conv {
        let area = kernel * kernel;
        let (init, bias) = self.inits(role, inputs * area, outputs * area);
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs, kernel, kernel], init);
        let bias = self.parameter(format!("{name}.bias"), &[outputs], bias);
        self.add(ConvShape { inputs, outputs, kernel }, weight, bias, order)
    }

    /// `parts` pixelwise layers, each with its weight W (input, output) and its bias b, as one.
    fn nin(&mut self, names: &[String], channels: usize, role: Role) -> Conv {
        let (init, bias) = self.inits(role, channels, channels);
        let first = self.elements;
        for name in names {
            self.parameter(format!("{name}.W"), &[channels, channels], init);
            self.parameter(format!("{name}.b"), &[channels], bias);
        }
        let shape = ConvShape { inputs: channels, outputs: names.len() * channels, kernel: 1 };
        self.add(shape, first, first, Order::Transposed { parts: names.len() })
    }

    pub fn norm(&mut self, name: &str, channels: usize) -> Norm {
        let groups = match self.style.groups {
            Groups::AtLeastFour => (channels / 4).clamp(1, 32),
            Groups::ThirtyTwo => 32,
        };
        let norm = Norm {
            id: self.norms.len(),
            channels,
            groups,
            eps: self.style.eps,
            weight: self.parameter(format!("{name}.weight"), &[channels], Init::Constant(1.0)),
            bias: self.parameter(format!("{name}.bias"), &[channels], Init::Constant(0.0)),
        };
        self.norms.push(norm);
        norm
    }

    pub fn block(&mut self, names: &Names, sizes: Sizes) -> Block {
        let Sizes { inputs, appended, outputs, attention, resample } = sizes;
        let Style { scale, scale_shift, projects, .. } = self.style;
        let wide = inputs + appended.unwrap_or(0);
        let embedding = self.embedding;
        Block {
            outputs,
            appended,
            resample,
            scale,
            scale_shift,
            norm0: self.norm(&names.norm0, wide),
            conv0: self.conv(&names.conv0, wide, outputs, 3, Role::Plain),
            affine: self.linear(&names.affine, embedding, if scale_shift { 2 * outputs } else { outputs }),
            norm1: self.norm(&names.norm1, outputs),
            conv1: self.conv(&names.conv1, outputs, outputs, 3, Role::Closing),
            skip: (wide != outputs || (projects && resample.is_some()))
                .then(|| self.conv(&names.skip, wide, outputs, 1, Role::Plain)),
            attention: attention.then(|| self.attention(names, outputs)),
            join: None,
            to_image: None,
        }
    }

    fn attention(&mut self, names: &Names, channels: usize) -> Attention {
        let heads = self.style.heads.of(channels);
        let norm = self.norm(&names.norm2, channels);
        if self.style.queries == Queries::Nin {
            let parts = [0, 1, 2].map(|i| format!("{}_{i}", names.qkv));
            let qkv = self.nin(&parts, channels, Role::Plain);
            return Attention { heads, norm, qkv, proj: self.nin(&[format!("{}_3", names.proj)], channels, Role::Closing) };
        }
        let order = match self.style.queries {
            Queries::Interleaved => Order::Interleaved,
            Queries::HeadMajor => Order::HeadMajor { heads },
            Queries::PartMajor | Queries::Nin => Order::Plain,
        };
        let qkv = self.ordered(&names.qkv, channels, 3 * channels, 1, Role::Queries, order);
        Attention { heads, norm, qkv, proj: self.conv(&names.proj, channels, channels, 1, Role::Closing) }
    }
}
