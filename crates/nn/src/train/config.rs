use super::loss::{Loss, loss_or_edm};
use super::optimizer::Optimizer;
use crate::{Error, Result, UNetConfig};
use serde::{Deserialize, Serialize};

/// Learning rate against images seen, after the warm-up, as a factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "images")]
pub enum Schedule {
    /// 1 throughout.
    Constant,
    /// Half a cosine from 1 at the first image of the run to 0 at this number of images.
    Cosine(u64),
    /// sqrt(n / seen) once more than n images were seen (Karras et al. 2024, arXiv:2312.02696, eq. 67): for runs without a set end.
    InverseSqrt(u64),
}

/// Everything that, with the source of the images, determines a training run to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The network.
    pub unet: UNetConfig,
    /// The loss, whose settings stand beside the others in files.
    #[serde(flatten, deserialize_with = "loss_or_edm")]
    pub loss: Loss,
    /// Images per step.
    pub batch: usize,
    /// Forward and backward passes into which a step's images are split, so that fewer are in memory at a time. The bits are the same.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Images of the source that are held out, on which the averaged network's loss is measured.
    #[serde(default)]
    pub validation_images: u64,
    /// What makes a step of a gradient.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Share of every parameter, times the learning rate, by which a step shrinks it (AdamW where the optimiser is Adam).
    #[serde(default)]
    pub weight_decay: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Its decay.
    pub schedule: Schedule,
    /// Images over which the learning rate rises linearly from zero, from the first image of the run.
    pub warmup_images: u64,
    /// Half-life of the moving average of the parameters, in images.
    pub ema_half_life: f64,
    /// The half-life is at most this share of the images seen, so that the start is forgotten.
    pub ema_ramp: f64,
    /// Gradients of a larger norm are scaled down to it.
    pub clip: f64,
    /// Whether each image is turned and mirrored at random; only for sources that have no preferred direction and do not do it themselves.
    pub dihedral: bool,
    /// Seed of starting values, noise and order.
    pub seed: u64,
    /// Image with which the run begins: not 0 where it goes on from a prior.
    #[serde(default)]
    pub first_image: u64,
    /// SHA-256 of the prior that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_sha256: Option<String>,
}

fn one() -> usize {
    1
}

/// Refuses a setting that is no positive number.
pub(super) fn positive(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::Invalid(format!("{name} is {value}, expected a positive number")))
}

/// Refuses noise levels that are not positive or do not rise.
pub(super) fn levels(sigma_min: f64, sigma_max: f64) -> Result<()> {
    positive("sigma_min", sigma_min)?;
    positive("sigma_max", sigma_max)?;
    if sigma_max <= sigma_min {
        return Err(Error::Invalid(format!("sigma_max is {sigma_max}, expected more than sigma_min = {sigma_min}")));
    }
    Ok(())
}

/// Refuses a law of ln sigma that is none.
pub(super) fn normal(p_mean: f64, p_std: f64) -> Result<()> {
    positive("p_std", p_std)?;
    if !p_mean.is_finite() {
        return Err(Error::Invalid(format!("p_mean is {p_mean}, expected a number")));
    }
    Ok(())
}

impl TrainConfig {
    /// The usual settings for a network of these sizes.
    pub fn new(unet: UNetConfig) -> Self {
        Self {
            unet,
            loss: Loss::edm(),
            batch: 32,
            accumulation: 1,
            validation_images: 0,
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            warmup_images: 5_000,
            ema_half_life: 20_000.0,
            ema_ramp: 0.05,
            clip: 1.0,
            dihedral: false,
            seed: 0,
            first_image: 0,
            from_sha256: None,
        }
    }

    /// Checks each setting.
    ///
    /// # Errors
    /// Names the setting, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        self.loss.validate()?;
        for (name, value) in [
            ("learning_rate", self.learning_rate),
            ("ema_half_life", self.ema_half_life),
            ("ema_ramp", self.ema_ramp),
            ("clip", self.clip),
        ] {
            positive(name, value)?;
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0) {
            let (found, most) = (self.weight_decay, 1.0 / self.learning_rate);
            return Err(Error::Invalid(format!("weight_decay is {found}, expected 0 to 1 / learning_rate, which is {most}")));
        }
        if let (Loss::Consistency(_), Some(value)) = (&self.loss, self.unet.form.background) {
            return Err(Error::Invalid(format!(
                "the network tells the background ({value}), so that it cannot be a consistency model, which leaves an image at its smallest noise as it is; \
                 start from a prior that does not, or from none"
            )));
        }
        if self.batch == 0 || self.batch > 1 << 16 {
            return Err(Error::Invalid(format!("batch is {}, expected 1 to 65536", self.batch)));
        }
        if self.accumulation == 0 || self.accumulation > self.batch {
            let (found, batch) = (self.accumulation, self.batch);
            return Err(Error::Invalid(format!(
                "accumulation is {found} passes a step, expected 1 to the batch of {batch} images"
            )));
        }
        match self.schedule {
            Schedule::Cosine(end) if end <= self.first_image => Err(Error::Invalid(format!(
                "the schedule ends at {end} images, expected more than the {} with which the run begins",
                self.first_image
            ))),
            Schedule::InverseSqrt(0) => Err(Error::Invalid("the schedule's images are 0, expected more".into())),
            _ => Ok(()),
        }
    }

    /// The learning rate after `images` images.
    pub fn rate(&self, images: u64) -> f64 {
        let since = images.saturating_sub(self.first_image);
        let warm =
            if self.warmup_images == 0 { 1.0 } else { ((since + self.batch as u64) as f64 / self.warmup_images as f64).min(1.0) };
        let factor = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine(end) => {
                let done = since as f64 / end.saturating_sub(self.first_image) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
            Schedule::InverseSqrt(n) => 1.0 / (images as f64 / n as f64).max(1.0).sqrt(),
        };
        self.learning_rate * warm * factor
    }
}
