//! The published families of U-Nets: the sizes of each under the key names of its own configuration files, and its layers under the names of
//! its own checkpoints.

mod edm;
mod guided_diffusion;
mod score_sde;

pub use edm::{Decoder, EdmForm, EdmModel, EmbeddingType, Encoder, UNetConfig};
pub use guided_diffusion::{Channels, GuidedDiffusionConfig, Resolutions};
pub use score_sde::{Progressive, ProgressiveInput, ScoreSdeConfig};

use super::plan::{Block, Parameter, Plan};
use crate::{Error, Result};

/// A network of one of the published families.
#[derive(Clone, Debug, PartialEq)]
pub enum Family {
    /// Karras et al. 2022 (arXiv:2206.00364): SongUNet in its DDPM++ and NCSN++ forms, DhariwalUNet.
    Edm(UNetConfig),
    /// Dhariwal and Nichol 2021 (arXiv:2105.05233), whose network the consistency models of Song et al. 2023 (arXiv:2303.01469) use too.
    GuidedDiffusion(GuidedDiffusionConfig),
    /// Song et al. 2021 (arXiv:2011.13456), whose network rectified flow (Liu et al. 2022, arXiv:2209.03003) uses too.
    ScoreSde(ScoreSdeConfig),
}

impl From<UNetConfig> for Family {
    fn from(config: UNetConfig) -> Self {
        Family::Edm(config)
    }
}

impl Family {
    /// Checks that a network can be built from these sizes.
    ///
    /// # Errors
    /// Names the setting, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        self.plan().map(drop)
    }

    /// Names, shapes and places of the parameter tensors, without making a network.
    ///
    /// # Errors
    /// As [`Family::validate`].
    pub fn parameters(&self) -> Result<Vec<Parameter>> {
        Ok(self.plan()?.parameters)
    }

    /// (channel, y, x) of an image.
    pub fn item_shape(&self) -> [usize; 3] {
        let (channels, side) = match self {
            Family::Edm(c) => (c.img_channels, c.img_resolution),
            Family::GuidedDiffusion(c) => (c.in_channels, c.image_size),
            Family::ScoreSde(c) => (c.num_channels, c.image_size),
        };
        [channels, side, side]
    }

    /// What pixels have where there is nothing, for a network that says how probable that is.
    pub fn background(&self) -> Option<f64> {
        match self {
            Family::Edm(c) => c.form.background,
            Family::GuidedDiffusion(_) | Family::ScoreSde(_) => None,
        }
    }

    pub(crate) fn plan(&self) -> Result<Plan> {
        let plan = match self {
            Family::Edm(config) => config.plan()?,
            Family::GuidedDiffusion(config) => config.plan()?,
            Family::ScoreSde(config) => config.plan()?,
        };
        check_widths(&plan)?;
        Ok(plan)
    }
}

/// Channels of an image where a configuration does not say them.
fn three() -> usize {
    3
}

/// Sizes as they are called in the configuration files of a family, for messages.
struct Sizes<'a> {
    side: (&'a str, usize),
    channels: (&'a str, usize),
    model: (&'a str, usize),
    mult: (&'a str, &'a [usize]),
    blocks: (&'a str, usize),
}

/// Refuses sizes that no network has, before anything is computed from them.
fn check_sizes(sizes: &Sizes) -> Result<()> {
    let fail = |message: String| Err(Error::Invalid(message));
    let Sizes { side, channels, model, mult, blocks } = sizes;
    if mult.1.is_empty() || mult.1.len() > 16 || mult.1.iter().any(|m| *m == 0 || *m > 64) {
        return fail(format!("{} is {:?}, expected 1 to 16 numbers from 1 to 64", mult.0, mult.1));
    }
    let halvings = mult.1.len() - 1;
    if side.1 == 0 || side.1 > 1 << 14 || side.1 % (1 << halvings) != 0 {
        return fail(format!(
            "{} is {}, expected a multiple of {} up to {}: {} has {} entries, so the side is halved {halvings} times",
            side.0,
            side.1,
            1 << halvings,
            1 << 14,
            mult.0,
            mult.1.len()
        ));
    }
    if channels.1 == 0 || channels.1 > 1024 {
        return fail(format!("{} is {}, expected 1 to 1024", channels.0, channels.1));
    }
    if blocks.1 == 0 || blocks.1 > 64 {
        return fail(format!("{} is {}, expected 1 to 64", blocks.0, blocks.1));
    }
    if model.1 < 4 || model.1 > 4096 || model.1 % 4 != 0 {
        return fail(format!("{} is {}, expected a multiple of 4 up to 4096", model.0, model.1));
    }
    Ok(())
}

/// More than any published U-Net has; beyond it a typing error is likelier than a network.
const MOST_PARAMETERS: usize = 1 << 32;

/// Every width that occurs, sums with skips included, must split into equal groups and heads.
fn check_widths(plan: &Plan) -> Result<()> {
    if plan.elements() > MOST_PARAMETERS {
        let found = plan.elements();
        return Err(Error::Invalid(format!("the network would have {found} parameters, expected at most {MOST_PARAMETERS}")));
    }
    if let Some(n) = plan.blocks.iter().flat_map(Block::norms).find(|n| n.channels % n.groups != 0) {
        return Err(Error::Invalid(format!(
            "{} channels do not split into {} equal groups of the normalisation: choose model_channels a multiple of 32",
            n.channels, n.groups
        )));
    }
    let attention = plan.blocks.iter().filter_map(|b| b.attention.as_ref().map(|a| (b.outputs, a.heads)));
    match attention.into_iter().find(|(channels, heads)| *heads == 0 || channels % heads != 0) {
        None => Ok(()),
        Some((channels, heads)) => Err(Error::Invalid(format!(
            "{channels} channels do not split into {heads} equal attention heads: choose model_channels a multiple of the channels of a head"
        ))),
    }
}
