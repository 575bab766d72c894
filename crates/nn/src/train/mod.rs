//! Training of a denoiser with one of the losses of the field ([`Loss`]).
//!
//! Everything random is a function of seed and image number, so a run that is stopped and resumed gives the same bits as one that is not.

mod config;
mod consistency;
mod images;
mod loss;
mod optimizer;
mod start;
mod state;
mod validation;

pub use config::{Schedule, TrainConfig};
pub use consistency::Consistency;
pub use images::TrainingImages;
pub use loss::Loss;
pub use optimizer::Optimizer;
pub use start::{Start, training_of};
pub use state::{CHECKPOINT, LOG, PRIOR, saved_config};

use crate::precond::combined;
use crate::sample::flow_step;
use crate::{Denoiser, Error, GradientSum, ImageSource, Result, UNet, UNetDenoiser};
use halation_compute::{Philox, Tensor};
use optimizer::{Adam, average, norm};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// One line of the loss log: means over the steps since the last line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Mean of the loss per pixel.
    pub loss: f64,
    /// Mean of the gradient norm before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean of the averaged network's loss per pixel on the held-out images, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// A training run: network, moving average, optimiser and counters.
pub struct Trainer<'a> {
    config: TrainConfig,
    source: &'a dyn ImageSource,
    denoiser: UNetDenoiser,
    ema: Vec<f32>,
    adam: Adam,
    images: u64,
    log: Vec<LogLine>,
    /// Sums of loss and gradient norm and number of steps since the last line of the log.
    since_log: (f64, f64, u64),
    gradients: GradientSum,
    /// Whose probability flow a consistency model learns to follow.
    teacher: Option<UNetDenoiser>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// Mean over the batch of the loss per pixel.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

/// Steps per line of the log.
const LOG_STEPS: u64 = 50;

/// Stream of the noise. Starting values use 1, images and noise levels 2, validation 4.
const NOISE: u16 = 3;

impl<'a> Trainer<'a> {
    /// A run from the start.
    ///
    /// # Errors
    /// When the settings do not fit together or the source has images of another shape.
    pub fn new(config: TrainConfig, source: &'a dyn ImageSource) -> Result<Self> {
        config.validate()?;
        let net = UNet::new(config.unet.clone(), config.seed)?;
        let expected = net.item_shape();
        if source.item_shape() != expected {
            return Err(Error::Invalid(format!(
                "{} gives images of shape {:?}, the network takes {expected:?} (channel, y, x); give a network and a source that agree",
                source.describe(),
                source.item_shape()
            )));
        }
        if source.is_empty() {
            return Err(Error::Invalid(format!("{} has no images, expected at least one", source.describe())));
        }
        if let Some(len) = source.len().filter(|len| *len <= config.validation_images) {
            let (name, held_out) = (source.describe(), config.validation_images);
            return Err(Error::Invalid(format!(
                "validation_images is {held_out}, but {name} has {len} images, of which some must be left to train on; hold out fewer"
            )));
        }
        let (ema, adam, gradients) = (net.theta().to_vec(), Adam::new(net.theta().len()), net.gradient_sum());
        let denoiser = UNetDenoiser::new(net, config.loss.precond());
        let images = config.first_image;
        Ok(Self {
            config,
            source,
            denoiser,
            ema,
            adam,
            images,
            log: Vec::new(),
            since_log: (0.0, 0.0, 0),
            gradients,
            teacher: None,
        })
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Steps of this run done.
    pub fn steps(&self) -> u64 {
        self.adam.steps
    }

    /// Images seen, with those of the prior that the run goes on from.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// The loss log so far.
    pub fn log(&self) -> &[LogLine] {
        &self.log
    }

    /// The network with its present parameters.
    pub fn denoiser(&self) -> &UNetDenoiser {
        &self.denoiser
    }

    /// The network with the moving average of its parameters: what samples best.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn averaged(&self) -> Result<UNetDenoiser> {
        let net = UNet::with_parameters(self.config.unet.clone(), self.ema.clone())?;
        Ok(UNetDenoiser::new(net, self.denoiser.precond().clone()))
    }

    /// Goes on with another decay of the learning rate: the end of a run may be settled late.
    ///
    /// # Errors
    /// When the schedule is not possible.
    pub fn set_schedule(&mut self, schedule: Schedule) -> Result<()> {
        let config = TrainConfig { schedule, ..self.config.clone() };
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// The clean images, noise levels and noisy images at these places of the next step's batch.
    fn batch(&self, places: impl Iterator<Item = usize>) -> Result<(Tensor, Vec<f32>, Tensor)> {
        let [c, h, w] = self.source.item_shape();
        let places: Vec<usize> = places.collect();
        let shape = [places.len(), c, h, w];
        let n = c * h * w;
        let (mut clean, mut noisy) = (Tensor::zeros(&shape), Tensor::zeros(&shape));
        let mut sigma = vec![0.0f32; places.len()];
        let rng = Philox::new(self.config.seed);
        let images = TrainingImages::new(self.source, self.config.seed, self.config.dihedral)
            .without_validation(self.config.validation_images);
        let items = clean.data_mut().par_chunks_mut(n).zip(noisy.data_mut().par_chunks_mut(n)).zip(&mut sigma).zip(places);
        items.with_max_len(1).try_for_each(|(((clean, noisy), sigma), place)| -> Result<()> {
            let image = self.images + place as u64;
            let level = images.fill_and_level(image, clean)?;
            *sigma = self.config.loss.sigma(level, self.seen()) as f32;
            rng.stream(NOISE).fill_normal(image, 0, noisy);
            noisy.iter_mut().zip(clean).for_each(|(e, x)| *e = *x + *sigma * *e);
            Ok(())
        })?;
        Ok((clean, sigma, noisy))
    }

    /// Images of this run.
    fn seen(&self) -> u64 {
        self.images - self.config.first_image
    }

    /// What `denoiser` is to give for each noisy image, and the noise level that this has: the clean image, or what a consistency model says of
    /// the same path one level lower.
    fn target(&self, denoiser: &UNetDenoiser, clean: Tensor, noisy: &Tensor, sigma: &[f32]) -> Result<(Tensor, Vec<f32>)> {
        let loss = &self.config.loss;
        let lower: Vec<f32> = sigma.iter().map(|s| loss.lower(f64::from(*s), self.seen()) as f32).collect();
        let Loss::Consistency(_) = loss else { return Ok((clean, lower)) };
        if let Some(sha256) = self.missing_teacher() {
            return Err(Error::Invalid(format!("no teacher is given, expected the prior with SHA-256 {sha256}")));
        }
        let below = match &self.teacher {
            Some(teacher) => flow_step(teacher, noisy, sigma, &lower)?,
            None => {
                let shares = sigma.iter().zip(&lower).map(|(s, l)| f64::from(*l) / f64::from(*s));
                combined(&clean, noisy, shares.map(|share| (1.0 - share, share)))
            }
        };
        Ok((denoiser.denoise(&below, &lower)?, lower))
    }

    /// One step of the optimiser on the next batch.
    ///
    /// # Errors
    /// When the source fails, or loss or gradient are not finite: the step is not done then, and the checkpoints on disk stay.
    pub fn step(&mut self) -> Result<StepInfo> {
        let batch = self.config.batch as f64;
        let mut losses = vec![0.0; self.config.batch];
        self.gradients.clear();
        for pass in 0..self.config.accumulation {
            let places = GradientSum::places(self.config.batch, pass, self.config.accumulation);
            let (clean, sigma, noisy) = self.batch(places.iter().cloned().flatten())?;
            let coefficients = self.denoiser.coefficients(&noisy, &sigma)?;
            let (input, noise) = self.denoiser.network_input(&noisy, &coefficients);
            let loss = &self.config.loss;
            let (target, lower) = self.target(&self.denoiser, clean, &noisy, &sigma)?;
            let of_pass = self.denoiser.net().add_gradients(&mut self.gradients, &input, &noise, &places, |d, f| {
                let (target, noisy, c) = (target.select(&[d])?, noisy.select(&[d])?, &coefficients[d..=d]);
                let (denoised, atom) = self.denoiser.made_of(&noisy, f, &sigma[d..=d], c)?;
                let (gradient, value) =
                    loss.gradient_and_value([&target, &denoised], [sigma[d], lower[d]], &coefficients[d], batch);
                Ok((self.denoiser.to_output(atom.as_ref(), gradient, c), value))
            })?;
            places.into_iter().flatten().zip(of_pass).for_each(|(place, loss)| losses[place] = loss);
        }
        let loss = losses.iter().sum::<f64>() / batch;
        let gradients = self.denoiser.net().flat_gradients(&self.gradients);
        let gradient_norm = norm(&gradients);
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(Error::Invalid(format!(
                "step {}: loss {loss}, gradient norm {gradient_norm}, expected finite numbers; the last checkpoint is kept: \
                 resume from it with a smaller learning rate than {}",
                self.adam.steps + 1,
                self.config.learning_rate
            )));
        }
        let learning_rate = self.config.rate(self.images);
        let scale = (self.config.clip / gradient_norm).min(1.0);
        let (adam, optimizer, decay) = (&mut self.adam, self.config.optimizer, self.config.weight_decay);
        self.denoiser.net_mut().update(|theta| adam.step(optimizer, theta, &gradients, scale, learning_rate, decay))?;
        self.images += self.config.batch as u64;
        let half_life = self.config.ema_half_life.min(self.images as f64 * self.config.ema_ramp);
        average(&mut self.ema, self.denoiser.net().theta(), 0.5f64.powf(batch / half_life));
        self.since_log.0 += loss;
        self.since_log.1 += gradient_norm;
        self.since_log.2 += 1;
        if self.adam.steps.is_multiple_of(LOG_STEPS) {
            let (loss, gradient_norm, n) = std::mem::take(&mut self.since_log);
            let (step, images, n) = (self.adam.steps, self.images, n as f64);
            let validation_loss = self.validation_loss()?;
            let (loss, gradient_norm) = (loss / n, gradient_norm / n);
            self.log.push(LogLine { step, images, loss, gradient_norm, learning_rate, validation_loss });
        }
        Ok(StepInfo { loss, gradient_norm, learning_rate })
    }
}

#[cfg(test)]
mod consistency_tests;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;
