//! The network of Song et al. 2021 (arXiv:2011.13456, appendix H) in the layout of its own code: one list of modules. It is the SongUNet of
//! the EDM family, which was written after it, under other names and with queries, keys and values in layers of their own.

use super::edm::{Decoder, EdmForm, EmbeddingType, Encoder, UNetConfig, song_style};
use crate::unet::builder::{Builder, Names, Queries, Style};
use crate::unet::layout::{Naming, Place, lay_out};
use crate::unet::plan::{Embedding, Init, Plan, Positions};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The sizes of a score_sde network, with the key names of its configurations (`model.*` and `data.*`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreSdeConfig {
    /// Pixels along each side of an image.
    pub image_size: usize,
    /// Channels of an image.
    #[serde(default = "super::three")]
    pub num_channels: usize,
    /// Feature channels at full resolution, before the multipliers.
    pub nf: usize,
    /// Multiplier of the feature channels for each resolution, finest first.
    pub ch_mult: Vec<usize>,
    /// Residual blocks per resolution (one more in the decoder).
    pub num_res_blocks: usize,
    /// Resolutions with self-attention.
    pub attn_resolutions: Vec<usize>,
    /// What a noise value becomes first.
    pub embedding_type: EmbeddingType,
    /// Whether resampling smooths by (1, 3, 3, 1).
    pub fir: bool,
    /// Where the decoder makes images.
    pub progressive: Progressive,
    /// How the encoder sees the image.
    pub progressive_input: ProgressiveInput,
    /// Whether the sum of the branches of a block is scaled by 1/sqrt 2; must be true.
    #[serde(default = "yes")]
    pub skip_rescale: bool,
}

fn yes() -> bool {
    true
}

/// Where the decoder makes images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progressive {
    /// At the end.
    None,
    /// On each level; they are enlarged and added.
    OutputSkip,
}

/// How the encoder sees the image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressiveInput {
    /// Once.
    None,
    /// Halved, through a 1x1 convolution, on each level.
    InputSkip,
    /// Each level's map is convolved, halved and added to the next one.
    Residual,
}

impl ScoreSdeConfig {
    /// The same network in the words of the EDM family.
    fn as_edm(&self) -> UNetConfig {
        let fourier = self.embedding_type == EmbeddingType::Fourier;
        UNetConfig {
            img_resolution: self.image_size,
            img_channels: self.num_channels,
            model_channels: self.nf,
            channel_mult: self.ch_mult.clone(),
            attn_resolutions: self.attn_resolutions.clone(),
            num_blocks: self.num_res_blocks,
            form: EdmForm {
                embedding_type: self.embedding_type,
                channel_mult_noise: if fourier { 2 } else { 1 },
                encoder_type: match self.progressive_input {
                    ProgressiveInput::None => Encoder::Standard,
                    ProgressiveInput::InputSkip => Encoder::Skip,
                    ProgressiveInput::Residual => Encoder::Residual,
                },
                decoder_type: match self.progressive {
                    Progressive::None => Decoder::Standard,
                    Progressive::OutputSkip => Decoder::Skip,
                },
                resample_filter: if self.fir { vec![1, 3, 3, 1] } else { vec![1, 1] },
                ..EdmForm::default()
            },
        }
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        let edm = self.as_edm();
        edm.check()?;
        if !self.skip_rescale {
            return Err(Error::Invalid("skip_rescale is false, expected true: networks without that scale are not read".into()));
        }
        if self.progressive_input == ProgressiveInput::Residual && !self.fir {
            let message = "progressive_input is \"residual\" with fir false, expected true: networks that resample by strided \
                           convolutions are not read";
            return Err(Error::Invalid(message.into()));
        }
        let c = self.nf;
        let mut names = ModuleNames { next: 0, residual: self.progressive_input == ProgressiveInput::Residual };
        let style = Style { queries: Queries::Nin, ..song_style(&edm.form) };
        let mut b = Builder::new(style, 4 * c);
        let (positions, width) = match self.embedding_type {
            EmbeddingType::Positional => (Positions::SinesFirst, c),
            EmbeddingType::Fourier => {
                (Positions::Fourier(b.frozen(&format!("{}.W", names.module()), &[c], Init::Normal(16.0))), 2 * c)
            }
        };
        let map0 = b.linear(&names.module(), width, 4 * c);
        let map1 = b.linear(&names.module(), 4 * c, 4 * c);
        Ok(lay_out(b, Embedding { positions, map0, map1, label: None }, edm.shape(), &mut names))
    }
}

/// Modules are numbered in the order in which they run; attention is a module of its own.
struct ModuleNames {
    next: usize,
    residual: bool,
}

impl ModuleNames {
    fn module(&mut self) -> String {
        self.next += 1;
        format!("all_modules.{}", self.next - 1)
    }
}

impl Naming for ModuleNames {
    fn first(&mut self, _: usize) -> String {
        self.module()
    }

    fn block(&mut self, _: Place, _: usize, attention: bool) -> Names {
        let block = self.module();
        let attends = if attention { self.module() } else { String::new() };
        Names {
            norm0: format!("{block}.GroupNorm_0"),
            conv0: format!("{block}.Conv_0"),
            affine: format!("{block}.Dense_0"),
            norm1: format!("{block}.GroupNorm_1"),
            conv1: format!("{block}.Conv_1"),
            skip: format!("{block}.Conv_2"),
            norm2: format!("{attends}.GroupNorm_0"),
            qkv: format!("{attends}.NIN"),
            proj: format!("{attends}.NIN"),
        }
    }

    fn join(&mut self, _: usize) -> String {
        format!("{}.{}", self.module(), if self.residual { "Conv2d_0" } else { "Conv_0" })
    }

    fn to_image(&mut self, _: usize) -> (String, String) {
        (self.module(), self.module())
    }
}
