//! Networks of Karras et al. 2022 (arXiv:2206.00364, appendix F.2), with the names of their checkpoints.

use super::{Sizes, check_sizes};
use crate::unet::builder::{Builder, Groups, Heads, Names, Queries, Start, Style};
use crate::unet::layout::{Naming, Place, Shape, lay_out};
use crate::unet::plan::{Embedding, Init, Label, Plan, Positions};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f32::consts::FRAC_1_SQRT_2;

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
    /// Which network of the family; DDPM++ where nothing else is said.
    #[serde(flatten)]
    pub form: EdmForm,
}

/// Which network of the EDM family, with the key names of its constructors. Sizes and layers that are those of DDPM++ are left out in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmForm {
    /// The network.
    pub model_type: EdmModel,
    /// What a noise value becomes first.
    #[serde(skip_serializing_if = "is_default")]
    pub embedding_type: EmbeddingType,
    /// Channels of that over `model_channels`.
    #[serde(skip_serializing_if = "is_one")]
    pub channel_mult_noise: usize,
    /// Width of the mapped embedding over `model_channels`.
    #[serde(skip_serializing_if = "is_four")]
    pub channel_mult_emb: usize,
    /// How the encoder sees the image.
    #[serde(skip_serializing_if = "is_default")]
    pub encoder_type: Encoder,
    /// Where the decoder makes images.
    #[serde(skip_serializing_if = "is_default")]
    pub decoder_type: Decoder,
    /// Taps of the resampling filter, [1, 1] or [1, 3, 3, 1].
    #[serde(skip_serializing_if = "is_box")]
    pub resample_filter: Vec<usize>,
    /// Channels of the output where they are not those of an image (twice as many with a learned variance).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<usize>,
    /// Classes of a class-conditional network.
    #[serde(skip_serializing_if = "is_default")]
    pub label_dim: usize,
    /// The class for which the network is used; without it, none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
    /// Augmentation labels that the network was trained with; it is used without augmentation, so they are held and do nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub augment_dim: usize,
    /// What pixels have where there is nothing. With it the network says of every pixel, after the channels of the image, how probable that is
    /// ([`crate::UNetDenoiser`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<f64>,
}

impl Default for EdmForm {
    fn default() -> Self {
        Self {
            model_type: EdmModel::default(),
            embedding_type: EmbeddingType::default(),
            channel_mult_noise: 1,
            channel_mult_emb: 4,
            encoder_type: Encoder::default(),
            decoder_type: Decoder::default(),
            resample_filter: vec![1, 1],
            out_channels: None,
            label_dim: 0,
            class: None,
            augment_dim: 0,
            background: None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn is_one(value: &usize) -> bool {
    *value == 1
}
fn is_four(value: &usize) -> bool {
    *value == 4
}
fn is_box(value: &[usize]) -> bool {
    value == [1, 1]
}

/// A network of the EDM family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum EdmModel {
    /// DDPM++ and NCSN++ (Song et al. 2021, arXiv:2011.13456, appendix H).
    #[default]
    SongUNet,
    /// ADM (Dhariwal and Nichol 2021, arXiv:2105.05233) in this family's layout.
    DhariwalUNet,
}

/// What a noise value becomes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingType {
    /// Sines and cosines at frequencies in geometric progression.
    #[default]
    Positional,
    /// Sines and cosines at random frequencies.
    Fourier,
}

/// How the encoder sees the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// Once.
    #[default]
    Standard,
    /// Halved, through a 1x1 convolution, on each level.
    Skip,
    /// Each level's map is convolved, halved and added to the next one.
    Residual,
}

/// Where the decoder makes images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// At the end.
    #[default]
    Standard,
    /// On each level; they are enlarged and added.
    Skip,
}

impl UNetConfig {
    /// Checks that a network can be built from these sizes.
    ///
    /// # Errors
    /// Names the setting, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        super::Family::from(self.clone()).validate()
    }

    pub(super) fn check(&self) -> Result<()> {
        check_sizes(&Sizes {
            side: ("img_resolution", self.img_resolution),
            channels: ("img_channels", self.img_channels),
            model: ("model_channels", self.model_channels),
            mult: ("channel_mult", &self.channel_mult),
            blocks: ("num_blocks", self.num_blocks),
        })?;
        let fail = |message: String| Err(Error::Invalid(message));
        let form = &self.form;
        if ![&[1, 1][..], &[1, 3, 3, 1]].contains(&&form.resample_filter[..]) {
            return fail(format!("resample_filter is {:?}, expected [1, 1] or [1, 3, 3, 1]", form.resample_filter));
        }
        for (name, value) in [("channel_mult_noise", form.channel_mult_noise), ("channel_mult_emb", form.channel_mult_emb)] {
            if !(1..=16).contains(&value) {
                return fail(format!("{name} is {value}, expected 1 to 16"));
            }
        }
        if let Some(found) = form.out_channels
            && ![self.img_channels, 2 * self.img_channels].contains(&found)
        {
            return fail(format!("out_channels is {found}, expected img_channels ({}) or twice as many", self.img_channels));
        }
        if form.label_dim > 1 << 20 || form.augment_dim > 1 << 20 || form.class.is_some_and(|c| c >= form.label_dim) {
            return fail(format!(
                "label_dim is {}, class {:?}, augment_dim {}; expected a class below label_dim, and both sizes up to {}",
                form.label_dim,
                form.class,
                form.augment_dim,
                1 << 20
            ));
        }
        if let Some(background) = form.background
            && (!background.is_finite() || form.out_channels.is_some())
        {
            return fail(format!(
                "background is {background}, out_channels {:?}; expected the value of pixels where there is nothing, and then no out_channels",
                form.out_channels
            ));
        }
        let shared = EdmForm {
            embedding_type: EmbeddingType::default(),
            channel_mult_noise: 1,
            encoder_type: Encoder::default(),
            decoder_type: Decoder::default(),
            resample_filter: vec![1, 1],
            ..form.clone()
        };
        if form.model_type == EdmModel::DhariwalUNet && *form != shared {
            return fail(
                "model_type is \"DhariwalUNet\" with settings that only a SongUNet has; leave embedding_type, channel_mult_noise, \
                 encoder_type, decoder_type and resample_filter out"
                    .into(),
            );
        }
        Ok(())
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        self.check()?;
        let (song, form, c) = (self.form.model_type == EdmModel::SongUNet, &self.form, self.model_channels);
        let mut b = Builder::new(if song { song_style(form) } else { dhariwal_style() }, form.channel_mult_emb * c);
        let width = form.channel_mult_noise * c;
        let positions = match (song, form.embedding_type) {
            (false, _) => Positions::CosinesFirst,
            (true, EmbeddingType::Positional) => Positions::SinesFirst,
            (true, EmbeddingType::Fourier) => Positions::Fourier(b.frozen("map_noise.freqs", &[width / 2], Init::Normal(16.0))),
        };
        let mut label = None;
        if song && form.label_dim > 0 {
            label = Some(Label {
                weight: b.weight("map_label.weight", [width, form.label_dim], form.label_dim),
                bias: Some(b.bias("map_label.bias", width)),
                width,
                factor: (form.label_dim as f32).sqrt(),
                first: true,
                ..self.label()
            });
        }
        if form.augment_dim > 0 {
            b.frozen("map_augment.weight", &[width, form.augment_dim], Init::Constant(0.0));
        }
        let map0 = b.linear("map_layer0", width, b.embedding);
        let map1 = b.linear("map_layer1", b.embedding, b.embedding);
        if !song && form.label_dim > 0 {
            let weight = b.weight("map_label.weight", [b.embedding, form.label_dim], form.label_dim);
            label = Some(Label { weight, width: b.embedding, ..self.label() });
        }
        let embedding = Embedding { positions, map0, map1, label };
        Ok(lay_out(b, embedding, self.shape(), &mut EdmNames { song, residual: form.encoder_type == Encoder::Residual }))
    }

    pub(super) fn shape(&self) -> Shape {
        let (song, c) = (self.form.model_type == EdmModel::SongUNet, self.model_channels);
        Shape {
            inputs: self.img_channels,
            outputs: self.form.out_channels.unwrap_or(self.img_channels * if self.form.background.is_some() { 2 } else { 1 }),
            side: self.img_resolution,
            first: if song { c } else { c * self.channel_mult[0] },
            channels: self.channel_mult.iter().map(|m| c * m).collect(),
            blocks: self.num_blocks,
            attends: (0..self.channel_mult.len()).map(|l| self.attn_resolutions.contains(&(self.img_resolution >> l))).collect(),
            last_attends: song,
            encoder: self.form.encoder_type,
            images: self.form.decoder_type == Decoder::Skip,
        }
    }

    fn label(&self) -> Label {
        let (classes, class) = (self.form.label_dim, self.form.class);
        Label { weight: 0, bias: None, classes, width: 0, class_major: false, factor: 1.0, first: false, class }
    }
}

/// DDPM++ and NCSN++.
pub(super) fn song_style(form: &EdmForm) -> Style {
    Style {
        groups: Groups::AtLeastFour,
        eps: 1e-6,
        scale: FRAC_1_SQRT_2,
        scale_shift: false,
        projects: true,
        heads: Heads::Count(1),
        queries: Queries::Interleaved,
        start: Start::Glorot,
        smooth: form.resample_filter.len() == 4,
    }
}

fn dhariwal_style() -> Style {
    Style {
        groups: Groups::AtLeastFour,
        eps: 1e-5,
        scale: 1.0,
        scale_shift: true,
        projects: false,
        heads: Heads::Width(64),
        queries: Queries::Interleaved,
        start: Start::FanIn,
        smooth: false,
    }
}

struct EdmNames {
    song: bool,
    residual: bool,
}

impl Naming for EdmNames {
    fn first(&mut self, side: usize) -> String {
        format!("enc.{side}x{side}_conv")
    }

    fn block(&mut self, place: Place, side: usize, _: bool) -> Names {
        let block = match place {
            Place::Down => format!("enc.{side}x{side}_down"),
            Place::Encoder(i) => format!("enc.{side}x{side}_block{i}"),
            Place::Middle(i) => format!("dec.{side}x{side}_in{i}"),
            Place::Up => format!("dec.{side}x{side}_up"),
            Place::Decoder(i) => format!("dec.{side}x{side}_block{i}"),
        };
        let layer = |name: &str| format!("{block}.{name}");
        Names {
            norm0: layer("norm0"),
            conv0: layer("conv0"),
            affine: layer("affine"),
            norm1: layer("norm1"),
            conv1: layer("conv1"),
            skip: layer("skip"),
            norm2: layer("norm2"),
            qkv: layer("qkv"),
            proj: layer("proj"),
        }
    }

    fn join(&mut self, side: usize) -> String {
        let kind = if self.residual { "residual" } else { "skip" };
        format!("enc.{side}x{side}_aux_{kind}")
    }

    fn to_image(&mut self, side: usize) -> (String, String) {
        if self.song {
            (format!("dec.{side}x{side}_aux_norm"), format!("dec.{side}x{side}_aux_conv"))
        } else {
            ("out_norm".into(), "out_conv".into())
        }
    }
}
