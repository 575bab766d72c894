use super::validation::HeldOut;
use crate::{Error, ImageSource, Result};
use halation_compute::Philox;

/// The clean images that a training run sees, by their number in the run: image k of a source without end, an image drawn at random of
/// one with an end, turned where the run turns its images.
#[derive(Clone, Copy)]
pub struct TrainingImages<'a> {
    source: &'a dyn ImageSource,
    seed: u64,
    dihedral: bool,
    held_out: HeldOut,
}

/// Independent random numbers for the noise level of one image; each loss takes the one that its law of sigma is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    /// Standard normal.
    pub normal: f64,
    /// Uniform in (0, 1).
    pub uniform: f64,
}

/// Stream of random numbers for noise levels, the choice of images and their turns.
const CHOICE: u16 = 2;

impl<'a> TrainingImages<'a> {
    /// Those of the run on `source` with this seed; `dihedral` as in [`super::TrainConfig`].
    pub fn new(source: &'a dyn ImageSource, seed: u64, dihedral: bool) -> Self {
        Self { source, seed, dihedral, held_out: HeldOut { images: 0, of: source.len() } }
    }

    /// The same without the images that a run with this setting of `validation_images` holds out.
    pub fn without_validation(self, images: u64) -> Self {
        Self { held_out: HeldOut { images, ..self.held_out }, ..self }
    }

    /// Writes clean image `number` of the run; returns the random numbers of which the run makes its noise level.
    pub(super) fn fill_and_level(&self, number: u64, clean: &mut [f32]) -> Result<Level> {
        let mut numbers = Philox::new(self.seed).stream(CHOICE).sequence(number, 0);
        let normal = numbers.normal();
        let index = self.source.len().map_or(number, |len| {
            let images = len - self.held_out.images;
            self.held_out.training_index((numbers.uniform() * images as f64) as u64 % images)
        });
        self.source.fill(index, clean)?;
        check(self.source, index, clean)?;
        if self.dihedral {
            turn(clean, self.source.item_shape(), numbers.next_u32());
        }
        Ok(Level { normal, uniform: numbers.uniform() })
    }
}

/// Refuses an image with values that are not finite.
pub(super) fn check(source: &dyn ImageSource, index: u64, image: &[f32]) -> Result<()> {
    match image.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(bad) => Err(Error::Invalid(format!("{}: image {index} holds {bad}, expected finite values", source.describe()))),
    }
}

impl ImageSource for TrainingImages<'_> {
    fn describe(&self) -> String {
        format!("the images of a training run with seed {} on {}", self.seed, self.source.describe())
    }

    fn item_shape(&self) -> [usize; 3] {
        self.source.item_shape()
    }

    /// A run may go on for ever, unless there is nothing to see.
    fn len(&self) -> Option<u64> {
        self.source.is_empty().then_some(0)
    }

    fn fill(&self, number: u64, out: &mut [f32]) -> Result<()> {
        self.fill_and_level(number, out).map(|_| ())
    }
}

/// One of the eight turns and mirrorings of a square, chosen by the low bits of `which`; images that are not square are only mirrored.
pub(super) fn turn(image: &mut [f32], [c, h, w]: [usize; 3], which: u32) {
    for plane in image.chunks_exact_mut(h * w).take(c) {
        let original = plane.to_vec();
        for y in 0..h {
            for x in 0..w {
                let yy = if which & 1 == 0 { y } else { h - 1 - y };
                let xx = if which & 2 == 0 { x } else { w - 1 - x };
                plane[y * w + x] = if which & 4 != 0 && h == w { original[xx * w + yy] } else { original[yy * w + xx] };
            }
        }
    }
}
