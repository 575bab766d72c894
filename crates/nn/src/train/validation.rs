use super::Trainer;
use super::images::{Level, check};
use crate::Result;
use halation_compute::{Philox, Tensor, serial};
use rayon::prelude::*;

/// Images of a source that a run does not train on: evenly spread over a source with an end, since files often lie in groups; of one
/// without, those from 2^40 on, to which no run comes.
#[derive(Clone, Copy)]
pub(super) struct HeldOut {
    /// How many.
    pub images: u64,
    /// Images of the source, none when there is no end.
    pub of: Option<u64>,
}

impl HeldOut {
    /// The index in the source of held-out image `i`.
    pub fn index(&self, i: u64) -> u64 {
        match self.of {
            None => (1 << 40) + i,
            Some(len) => ((2 * i as u128 + 1) * len as u128 / (2 * self.images as u128)) as u64,
        }
    }

    /// The index in a source with an end of the `j`-th image that is not held out.
    pub fn training_index(&self, j: u64) -> u64 {
        // Held-out image i has index(i) - i training images before it, a number that does not fall.
        let (mut low, mut high) = (0, self.images);
        while low < high {
            let middle = (low + high) / 2;
            if self.index(middle) - middle <= j {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        j + low
    }
}

/// Stream of noise levels (step 0) and noise (step 1) of the held-out images.
const VALIDATION: u16 = 4;

impl Trainer<'_> {
    /// The mean loss per pixel of the averaged network on the held-out images, with the same noise each time; none when there are no such
    /// images.
    ///
    /// # Errors
    /// When the source fails.
    pub fn validation_loss(&self) -> Result<Option<f64>> {
        let held_out = self.held_out();
        if held_out.images == 0 {
            return Ok(None);
        }
        let denoiser = self.averaged()?;
        let [c, h, w] = self.source.item_shape();
        let rng = Philox::new(self.config.seed).stream(VALIDATION);
        let loss_of = |i: u64| -> Result<f64> {
            let (mut clean, mut noisy) = (Tensor::zeros(&[1, c, h, w]), Tensor::zeros(&[1, c, h, w]));
            let index = held_out.index(i);
            self.source.fill(index, clean.data_mut())?;
            check(self.source, index, clean.data())?;
            let mut numbers = rng.sequence(i, 0);
            let level = Level { normal: numbers.normal(), uniform: numbers.uniform() };
            let sigma = self.config.loss.sigma(level, self.seen()) as f32;
            rng.fill_normal(i, 1, noisy.data_mut());
            noisy.data_mut().iter_mut().zip(clean.data()).for_each(|(e, x)| *e = *x + sigma * *e);
            let coefficients = denoiser.coefficients(&noisy, &[sigma])?;
            let (input, noise) = denoiser.network_input(&noisy, &coefficients);
            let f = denoiser.net().forward(&input, &noise)?;
            let (target, lower) = self.target(&denoiser, clean, &noisy, &[sigma])?;
            let denoised = denoiser.made_of(&noisy, &f, &[sigma], &coefficients)?.0;
            Ok(self.config.loss.gradient_and_value([&target, &denoised], [sigma, lower[0]], &coefficients[0], 1.0).1)
        };
        let images = (0..held_out.images as usize).into_par_iter().with_max_len(1);
        let losses: Vec<f64> = images.map(|i| serial(|| loss_of(i as u64))).collect::<Result<_>>()?;
        Ok(Some(losses.iter().sum::<f64>() / losses.len() as f64))
    }

    pub(super) fn held_out(&self) -> HeldOut {
        HeldOut { images: self.config.validation_images, of: self.source.len() }
    }
}
