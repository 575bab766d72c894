//! The network of Dhariwal and Nichol 2021 (arXiv:2105.05233, appendix B; "ADM"), with the names of its checkpoints.

use super::{Encoder, Sizes, check_sizes};
use crate::unet::builder::{Builder, Groups, Heads, Names, Queries, Start, Style};
use crate::unet::layout::{Naming, Place, Shape, lay_out};
use crate::unet::plan::{Embedding, Label, Plan, Positions};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The sizes of a guided-diffusion network, with the key names of its constructor or those of its scripts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuidedDiffusionConfig {
    /// Pixels along each side of an image.
    pub image_size: usize,
    /// Channels of an image.
    #[serde(default = "super::three")]
    pub in_channels: usize,
    /// Feature channels at full resolution, before the multipliers.
    #[serde(alias = "num_channels")]
    pub model_channels: usize,
    /// Channels of the output: those of an image, or twice as many with a learned variance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<usize>,
    /// Whether the variance is learned, where `out_channels` does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learn_sigma: Option<bool>,
    /// Residual blocks per resolution (one more in the decoder).
    pub num_res_blocks: usize,
    /// Where blocks attend.
    pub attention_resolutions: Resolutions,
    /// Multiplier of the feature channels for each resolution.
    #[serde(default)]
    pub channel_mult: Channels,
    /// Attention heads, where `num_head_channels` is -1.
    #[serde(default = "one")]
    pub num_heads: usize,
    /// Channels of an attention head, or -1.
    #[serde(default = "minus_one")]
    pub num_head_channels: i64,
    /// Whether the embedding gives scale and shift of the second normalisation of a block.
    #[serde(default)]
    pub use_scale_shift_norm: bool,
    /// Whether residual blocks change the resolution; must be true.
    #[serde(default)]
    pub resblock_updown: bool,
    /// Whether queries, keys and values are stored as (3, head, channel) rather than as (head, 3, channel).
    #[serde(default)]
    pub use_new_attention_order: bool,
    /// Classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// Whether it is class-conditional with the 1000 classes of ImageNet, where `num_classes` does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_cond: Option<bool>,
    /// The class for which a class-conditional network is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
}

fn one() -> usize {
    1
}
fn minus_one() -> i64 {
    -1
}

/// Where blocks attend: the constructor takes factors of downsampling, the scripts a text of resolutions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Resolutions {
    /// Factors by which the side is smaller.
    Factors(Vec<usize>),
    /// Sides, such as "32,16,8".
    Sides(String),
}

/// Multipliers of the feature channels: a list, or a text as in the scripts, where "" stands for those usual for the image's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Channels {
    /// Finest first.
    List(Vec<usize>),
    /// Such as "1,2,3,4".
    Text(String),
}

impl Default for Channels {
    fn default() -> Self {
        Channels::Text(String::new())
    }
}

fn numbers(key: &str, text: &str) -> Result<Vec<usize>> {
    let parse = |part: &str| {
        let part = part.trim();
        part.parse().map_err(|_| {
            Error::Invalid(format!("{key} is {text:?}, in which {part:?} is no whole number; expected such as \"32,16,8\""))
        })
    };
    text.split(',').map(parse).collect()
}

impl GuidedDiffusionConfig {
    fn mult(&self) -> Result<Vec<usize>> {
        match &self.channel_mult {
            Channels::List(list) => Ok(list.clone()),
            Channels::Text(text) if !text.is_empty() => numbers("channel_mult", text),
            Channels::Text(_) => match self.image_size {
                256 => Ok(vec![1, 1, 2, 2, 4, 4]),
                128 => Ok(vec![1, 1, 2, 3, 4]),
                64 => Ok(vec![1, 2, 3, 4]),
                other => {
                    Err(Error::Invalid(format!("channel_mult is not given and image_size is {other}; give such as \"1,2,3,4\"")))
                }
            },
        }
    }

    fn classes(&self) -> usize {
        self.num_classes.unwrap_or(if self.class_cond == Some(true) { 1000 } else { 0 })
    }

    fn outputs(&self) -> usize {
        self.out_channels.unwrap_or(if self.learn_sigma == Some(true) { 2 * self.in_channels } else { self.in_channels })
    }

    fn check(&self, mult: &[usize]) -> Result<()> {
        check_sizes(&Sizes {
            side: ("image_size", self.image_size),
            channels: ("in_channels", self.in_channels),
            model: ("model_channels", self.model_channels),
            mult: ("channel_mult", mult),
            blocks: ("num_res_blocks", self.num_res_blocks),
        })?;
        let fail = |message: String| Err(Error::Invalid(message));
        if !self.resblock_updown {
            return fail(
                "resblock_updown is false, expected true: networks that resample by strided convolutions are not read".into(),
            );
        }
        if ![self.in_channels, 2 * self.in_channels].contains(&self.outputs()) {
            let found = self.outputs();
            return fail(format!("out_channels is {found}, expected in_channels ({}) or twice as many", self.in_channels));
        }
        if !matches!(self.num_head_channels, -1 | 1..=4096) || !(1..=4096).contains(&self.num_heads) {
            return fail(format!(
                "num_head_channels is {}, num_heads {}; expected -1 or 1 to 4096, and 1 to 4096",
                self.num_head_channels, self.num_heads
            ));
        }
        let classes = self.classes();
        if classes > 1 << 20 || self.class.is_some_and(|c| c >= classes) {
            return fail(format!("num_classes is {classes}, class {:?}; expected a class below num_classes", self.class));
        }
        Ok(())
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        let mult = self.mult()?;
        self.check(&mult)?;
        let c = self.model_channels;
        let mut b = Builder::new(self.style(), 4 * c);
        let map0 = b.linear("time_embed.0", c, 4 * c);
        let map1 = b.linear("time_embed.2", 4 * c, 4 * c);
        let classes = self.classes();
        let label = (classes > 0).then(|| Label {
            weight: b.weight("label_emb.weight", [classes, 4 * c], 1),
            bias: None,
            classes,
            width: 4 * c,
            class_major: true,
            factor: 1.0,
            first: false,
            class: self.class,
        });
        let sides: Vec<usize> = (0..mult.len()).map(|l| self.image_size >> l).collect();
        let attends: Vec<bool> = match &self.attention_resolutions {
            Resolutions::Factors(factors) => (0..mult.len()).map(|l| factors.contains(&(1 << l))).collect(),
            Resolutions::Sides(text) => {
                let listed = numbers("attention_resolutions", text)?;
                sides.iter().map(|s| listed.contains(s)).collect()
            }
        };
        let shape = Shape {
            inputs: self.in_channels,
            outputs: self.outputs(),
            side: self.image_size,
            first: c * mult[0],
            channels: mult.iter().map(|m| c * m).collect(),
            blocks: self.num_res_blocks,
            attends,
            last_attends: false,
            encoder: Encoder::Standard,
            images: false,
        };
        let embedding = Embedding { positions: Positions::CosinesFirst, map0, map1, label };
        Ok(lay_out(b, embedding, shape, &mut GuidedNames::default()))
    }

    fn style(&self) -> Style {
        Style {
            groups: Groups::ThirtyTwo,
            eps: 1e-5,
            scale: 1.0,
            scale_shift: self.use_scale_shift_norm,
            projects: false,
            heads: usize::try_from(self.num_head_channels).map_or(Heads::Count(self.num_heads), Heads::Width),
            queries: if self.use_new_attention_order { Queries::PartMajor } else { Queries::HeadMajor },
            start: Start::FanIn,
            smooth: false,
        }
    }
}

/// Blocks are numbered in the encoder and in the decoder; a block that doubles the resolution stands in one entry with the one before.
#[derive(Default)]
struct GuidedNames {
    inputs: usize,
    outputs: usize,
    /// Modules of the decoder's present entry.
    modules: usize,
}

impl Naming for GuidedNames {
    fn first(&mut self, _: usize) -> String {
        "input_blocks.0.0".into()
    }

    fn block(&mut self, place: Place, _: usize, attention: bool) -> Names {
        let (block, attends) = match place {
            Place::Down | Place::Encoder(_) => {
                self.inputs += 1;
                (format!("input_blocks.{}.0", self.inputs), format!("input_blocks.{}.1", self.inputs))
            }
            Place::Middle(i) => (format!("middle_block.{}", 2 * i), "middle_block.1".into()),
            Place::Up => (format!("output_blocks.{}.{}", self.outputs - 1, self.modules), String::new()),
            Place::Decoder(_) => {
                self.outputs += 1;
                self.modules = if attention { 2 } else { 1 };
                (format!("output_blocks.{}.0", self.outputs - 1), format!("output_blocks.{}.1", self.outputs - 1))
            }
        };
        Names {
            norm0: format!("{block}.in_layers.0"),
            conv0: format!("{block}.in_layers.2"),
            affine: format!("{block}.emb_layers.1"),
            norm1: format!("{block}.out_layers.0"),
            conv1: format!("{block}.out_layers.3"),
            skip: format!("{block}.skip_connection"),
            norm2: format!("{attends}.norm"),
            qkv: format!("{attends}.qkv"),
            proj: format!("{attends}.proj_out"),
        }
    }

    /// The family has no such layer.
    fn join(&mut self, _: usize) -> String {
        String::new()
    }

    fn to_image(&mut self, _: usize) -> (String, String) {
        ("out.0".into(), "out.2".into())
    }
}
