use super::{Consistency, Loss, TrainConfig, Trainer};
use crate::prior::{PriorInfo, load_prior, load_unet_prior};
use crate::unet::Parameter;
use crate::{Denoiser, Error, Family, ImageSource, Result};
use std::path::Path;

/// A prior from which a run goes on. Its file holds the averaged network alone: the run begins there, with a new optimiser.
pub struct Start {
    /// What the file says.
    pub info: PriorInfo,
    /// The usual settings, with the prior's own network, loss, seed, number of images seen and held out.
    pub config: TrainConfig,
    theta: Vec<f32>,
}

impl Start {
    /// Reads a prior made by [`Trainer::save`].
    ///
    /// # Errors
    /// When the file is no U-Net of the EDM family with the preconditioning of the loss that it was trained with, or does not say how many
    /// images it has seen.
    pub fn read(path: &Path) -> Result<Self> {
        let (denoiser, info) = load_unet_prior(path)?;
        let fail = |message: &str| Error::Checkpoint { path: path.to_path_buf(), message: message.into() };
        let (made_by, images) = training_of(&info)?
            .ok_or_else(|| fail("found no metadata \"training\" and \"images_seen\", expected those of `halation prior train`"))?;
        let found = info.config.as_deref().unwrap_or_default();
        let Family::Edm(unet) = denoiser.net().family() else {
            return Err(fail(&format!("found the network {found}, expected family \"edm\", with which training goes on")));
        };
        if *denoiser.precond() != made_by.loss.precond() {
            let loss = &made_by.loss;
            return Err(fail(&format!(
                "found the network {found}, expected the precond of the loss that metadata training states, {loss}; the file was \
                 changed by hand: use the one that `halation prior train` wrote"
            )));
        }
        let config = TrainConfig {
            loss: made_by.loss,
            validation_images: made_by.validation_images,
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
    /// seen. Of `config`, what the prior settles (network, first image) is taken from there.
    ///
    /// # Errors
    /// As [`Trainer::new`], and for a loss whose preconditioning is not that of the prior, or held-out images that the prior has seen.
    pub fn from_prior(start: Start, config: TrainConfig, source: &'a dyn ImageSource) -> Result<Self> {
        let Start { info, config: own, theta } = start;
        if !config.loss.goes_on_from(&own.loss.precond()) {
            let (found, expected) = (&config.loss, &own.loss);
            let path = info.path.display();
            return Err(Error::Invalid(format!(
                "the loss is {found}, but {path} was trained with {expected}, and a network keeps its preconditioning; give that loss, or, for the same data, consistency after edm"
            )));
        }
        let (found, expected) = (config.validation_images, own.validation_images);
        if found != expected && source.len().is_some() && info.card.trained_on == source.describe() {
            let path = info.path.display();
            return Err(Error::Invalid(format!(
                "validation_images is {found}, but {path} was trained on these images with {expected} held out; hold out as many, or the \
                 network has seen some of them"
            )));
        }
        let TrainConfig { mut unet, first_image, from_sha256, .. } = own;
        let before = Family::from(unet.clone()).parameters()?;
        unet.form.background = match config.loss {
            Loss::Consistency(_) => None,
            _ => unet.form.background.or(config.unet.form.background),
        };
        let theta = fitted(&theta, &before, &Family::from(unet.clone()).parameters()?);
        let mut trainer = Self::new(TrainConfig { unet, first_image, from_sha256, ..config }, source)?;
        trainer.denoiser.net_mut().set_theta(theta.clone())?;
        trainer.ema = theta;
        Ok(trainer)
    }
}

/// Parameters of a network that tells the background or not, from those of one with the other choice: outputs of the last layer are added, which say nothing,
/// or left out.
fn fitted(theta: &[f32], before: &[Parameter], now: &[Parameter]) -> Vec<f32> {
    let mut out = Vec::new();
    for (before, now) in before.iter().zip(now) {
        let kept = before.len().min(now.len());
        out.extend_from_slice(&theta[before.offset..before.offset + kept]);
        out.resize(now.offset + now.len(), 0.0);
    }
    out
}

impl Trainer<'_> {
    /// Gives a consistency model the teacher that its settings name by SHA-256.
    ///
    /// # Errors
    /// When the file is another one, is no denoiser, or makes other images.
    pub fn set_teacher(&mut self, path: &Path) -> Result<()> {
        let (teacher, info) = load_prior(path)?;
        let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
        let expected = match &self.config.loss {
            Loss::Consistency(Consistency { teacher_sha256: Some(sha256), .. }) => sha256,
            loss => return Err(fail(format!("the loss is {loss}, which takes no teacher; leave it out"))),
        };
        if info.sha256 != *expected {
            let found = info.sha256;
            return Err(fail(format!("found the SHA-256 {found}, the run's teacher has {expected}; give the same file")));
        }
        let (found, expected) = (teacher.item_shape(), self.source.item_shape());
        if found != expected {
            return Err(fail(format!(
                "it makes images of shape {found:?}, the run's are {expected:?} (channel, y, x); give another teacher"
            )));
        }
        self.teacher = Some(teacher);
        Ok(())
    }

    /// The SHA-256 of the teacher that the run needs and has not been given.
    pub fn missing_teacher(&self) -> Option<&str> {
        match (&self.config.loss, &self.teacher) {
            (Loss::Consistency(consistency), None) => consistency.teacher_sha256.as_deref(),
            _ => None,
        }
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
