use super::{TrainConfig, Trainer};
use crate::prior::{PriorInfo, load_unet_prior};
use crate::{Error, Family, ImageSource, Precond, Result};
use std::path::Path;

/// A prior from which a run goes on. Its file holds the averaged network alone: the run begins there, with a new optimiser.
pub struct Start {
    /// What the file says.
    pub info: PriorInfo,
    /// The usual settings, with the prior's own network, sigma_data, seed and number of images.
    pub config: TrainConfig,
    theta: Vec<f32>,
}

impl Start {
    /// Reads a prior made by [`Trainer::save`].
    ///
    /// # Errors
    /// When the file is no U-Net with the EDM preconditioning, or does not say how many images it has seen.
    pub fn read(path: &Path) -> Result<Self> {
        let (denoiser, info) = load_unet_prior(path)?;
        let fail = |message: &str| Error::Checkpoint { path: path.to_path_buf(), message: message.into() };
        let (Precond::Edm { sigma_data }, Family::Edm(unet)) = (denoiser.precond(), denoiser.net().family()) else {
            let found = info.config.as_deref().unwrap_or_default();
            return Err(fail(&format!(
                "found the network {found}, expected family and precond \"edm\", with which training goes on"
            )));
        };
        let (made_by, images) = training_of(&info)?
            .ok_or_else(|| fail("found no metadata \"training\" and \"images_seen\", expected those of `halation prior train`"))?;
        let config = TrainConfig {
            sigma_data: *sigma_data,
            seed: made_by.seed,
            first_image: images,
            from_sha256: Some(info.sha256.clone()),
            ..TrainConfig::new(unet.clone())
        };
        Ok(Self { theta: denoiser.net().theta().to_vec(), info, config })
    }
}

impl<'a> Trainer<'a> {
    /// A run that goes on from a prior: network and moving average begin as its network, images are counted on from those that it has
    /// seen. Of `config`, what the prior settles (network, sigma_data, first image) is taken from there.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn from_prior(start: Start, config: TrainConfig, source: &'a dyn ImageSource) -> Result<Self> {
        let Start { config: own, theta, .. } = start;
        let TrainConfig { unet, sigma_data, first_image, from_sha256, .. } = own;
        let mut trainer = Self::new(TrainConfig { unet, sigma_data, first_image, from_sha256, ..config }, source)?;
        trainer.denoiser.net_mut().set_theta(theta.clone())?;
        trainer.ema = theta;
        Ok(trainer)
    }
}

/// The settings of the run that made a prior and the number of images seen, where its metadata say both.
///
/// # Errors
/// When they cannot be understood.
pub fn training_of(info: &PriorInfo) -> Result<Option<(TrainConfig, u64)>> {
    let (Some(training), Some(seen)) = (info.card.extra.get("training"), info.card.extra.get("images_seen")) else {
        return Ok(None);
    };
    let fail = |message: String| Error::Checkpoint { path: info.path.clone(), message };
    let config = serde_json::from_str(training).map_err(|e| {
        fail(format!("metadata training: found {training:?}, expected the settings of a training run as JSON: {e}"))
    })?;
    let images =
        seen.parse().map_err(|e| fail(format!("metadata images_seen: found {seen:?}, expected a number of images: {e}")))?;
    Ok(Some((config, images)))
}
