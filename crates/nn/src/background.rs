use crate::{Denoiser, Pullback, Result};
use halation_compute::Tensor;
use rayon::prelude::*;

/// A denoiser of images whose background is known to have one value, told so: for networks that do not tell it themselves ([`crate::UNetDenoiser`]).
///
/// U-Nets with group normalisation hardly see an offset of all pixels: at low noise they leave it as they find it, so that samples keep the offset which they
/// had at high noise, and with it a share of their flux, although nearly every pixel says what it should be. Here the level of the background of D(x, sigma)
/// is found, the mode m of its pixel values d that Gaussian weights of width h define, sum (d - m) exp(-(d - m)^2 / 2 h^2) = 0, from their lower tenth on,
/// and D moved by what this level is off. Above `FALL` that is not done, since the mean of all images that are possible has no one background, nor below `RISE`,
/// where what faint structure does to the level is more than what is to be mended.
pub struct KnownBackground<D> {
    denoiser: D,
    /// Of the background, in the images' units.
    value: f64,
    /// Of pixel values, from the smallest to the largest.
    range: f64,
}

/// Noise levels in pixel ranges between which the background is set: from none to all of what it is off and back, evenly in ln sigma.
const RISE: [f64; 2] = [0.0015, 0.003];
const FALL: [f64; 2] = [0.15, 0.25];
/// h over sigma, and what is added to it, in pixel ranges: more than twice the ripples that networks leave in the background, so that the pixels of the background
/// have one mode.
const WIDTH: f64 = 0.04;
const LEAST_WIDTH: f64 = 3e-4;
/// Pixels farther from the level than this many h count no more.
const FAR: f64 = 6.0;

/// How the pixels of one image are moved, and how that depends on them.
struct Move {
    by: f64,
    /// Derivative of `by` with respect to each pixel at fixed weights; empty where it does not move. (The whole derivative has the sum of (1 - r^2) w below the
    /// line, which is small where the mode is broad: steps along it run away.)
    slope: Vec<f64>,
}

impl<D: Denoiser> KnownBackground<D> {
    /// `denoiser` for images with pixel values from `range[0]` to `range[1]` on a background of `value`.
    pub fn new(denoiser: D, value: f64, range: [f64; 2]) -> Self {
        Self { denoiser, value, range: range[1] - range[0] }
    }

    /// The share of what the background is off that is taken away.
    fn share(&self, sigma: f64) -> f64 {
        let along = |[low, high]: [f64; 2]| ((sigma / (self.range * low)).ln() / (high / low).ln()).clamp(0.0, 1.0);
        along(RISE) * (1.0 - along(FALL))
    }

    fn to_level(&self, denoised: &[f32], sigma: f64) -> Move {
        let share = self.share(sigma);
        if share == 0.0 {
            return Move { by: 0.0, slope: Vec::new() };
        }
        let width = WIDTH * sigma + LEAST_WIDTH * self.range;
        let off: Vec<f64> = denoised.iter().map(|d| f64::from(*d) - self.value).collect();
        let level = mode(&off, width);
        let weights: Vec<f64> = off.iter().map(|v| weight((v - level) / width)).collect();
        let total: f64 = weights.iter().sum();
        Move { by: -share * level, slope: weights.iter().map(|w| -share * w / total).collect() }
    }

    /// Moves each draw to the level and says how.
    fn set(&self, denoised: &mut Tensor, sigma: &[f32]) -> Vec<Move> {
        let n = denoised.item_len().max(1);
        let draws = denoised.data_mut().par_chunks_exact_mut(n).zip(sigma);
        draws
            .map(|(d, sigma)| {
                let moved = self.to_level(d, f64::from(*sigma));
                d.iter_mut().for_each(|v| *v += moved.by as f32);
                moved
            })
            .collect()
    }
}

fn weight(r: f64) -> f64 {
    if r.abs() < FAR { (-0.5 * r * r).exp() } else { 0.0 }
}

/// The mode of `values` at this width that is reached from their lower tenth.
fn mode(values: &[f64], width: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // A tenth of the darkest: from a quartile on, images with a wide halo led to a level of the halo.
    let mut level = sorted[sorted.len() / 10];
    for _ in 0..200 {
        let near =
            &sorted[sorted.partition_point(|v| *v < level - FAR * width)..sorted.partition_point(|v| *v < level + FAR * width)];
        let (mut sum, mut weights) = (0.0, 0.0);
        for v in near {
            let w = weight((v - level) / width);
            sum += w * v;
            weights += w;
        }
        let next = sum / weights;
        let done = (next - level).abs() < 1e-6 * width;
        level = next;
        if done {
            break;
        }
    }
    level
}

impl<D: Denoiser> Denoiser for KnownBackground<D> {
    fn item_shape(&self) -> [usize; 3] {
        self.denoiser.item_shape()
    }

    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> Result<Tensor> {
        let mut denoised = self.denoiser.denoise(x, sigma)?;
        self.set(&mut denoised, sigma);
        Ok(denoised)
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        let (mut denoised, pullback) = self.denoiser.denoise_with_pullback(x, sigma)?;
        let moves = self.set(&mut denoised, sigma);
        Ok((denoised, Box::new(Moved { pullback, moves })))
    }
}

struct Moved<'a> {
    pullback: Box<dyn Pullback + 'a>,
    moves: Vec<Move>,
}

impl Pullback for Moved<'_> {
    fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        let mut v = v.clone();
        let n = v.item_len().max(1);
        for (v, moved) in v.data_mut().chunks_exact_mut(n).zip(&self.moves) {
            let sum: f64 = v.iter().map(|v| f64::from(*v)).sum();
            v.iter_mut().zip(&moved.slope).for_each(|(v, s)| *v += (sum * s) as f32);
        }
        self.pullback.vjp(&v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_compute::Philox;

    /// x itself, scaled.
    struct Scaled(f32);

    struct By(f32);

    impl Pullback for By {
        fn vjp(&self, v: &Tensor) -> Result<Tensor> {
            let mut v = v.clone();
            v.data_mut().iter_mut().for_each(|v| *v *= self.0);
            Ok(v)
        }
    }

    impl Denoiser for Scaled {
        fn item_shape(&self) -> [usize; 3] {
            [1, 16, 16]
        }
        fn denoise(&self, x: &Tensor, _: &[f32]) -> Result<Tensor> {
            By(self.0).vjp(x)
        }
        fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
            Ok((self.denoise(x, sigma)?, Box::new(By(self.0))))
        }
    }

    /// A bright block and a faint halo on a background of -1, lifted by an offset, with ripples of this size.
    fn lifted(offset: f32, ripple: f32) -> Tensor {
        let noise = Philox::new(3).normal(0..1, 0, &[1, 16, 16]).unwrap();
        let value = |i: usize| match (i / 16, i % 16) {
            (5..8, 5..8) => 0.7,
            (3..10, 3..10) => -0.9,
            _ => -1.0,
        };
        Tensor::from_vec(&[1, 1, 16, 16], (0..256).map(|i| value(i) + offset + ripple * noise.data()[i]).collect()).unwrap()
    }

    /// An offset goes where it should and stays where it should; block and halo keep their distance from the background.
    #[test]
    fn an_offset_is_taken_away() {
        let known = KnownBackground::new(Scaled(1.0), -1.0, [-1.0, 1.0]);
        for (sigma, left) in [(0.002, 1.0), (0.01, 0.0), (0.03, 0.0), (0.1, 0.0), (0.3, 0.0), (0.6, 1.0)] {
            for offset in [-0.02f32, 0.0, 0.02] {
                let x = lifted(offset, 1e-4);
                let found = known.denoise(&x, &[sigma]).unwrap();
                let moved: Vec<f32> = found.data().iter().zip(x.data()).map(|(f, x)| f - x).collect();
                assert!(moved.iter().all(|m| (m - moved[0]).abs() < 1e-6), "sigma {sigma}: {moved:?}");
                assert!((moved[0] - (left - 1.0) * offset).abs() < 1e-4, "sigma {sigma}, offset {offset}: {}", moved[0]);
            }
        }
    }

    /// The pullback is that of the whole, by differences, for ripples far below h, where weights stay; each draw has its own level.
    #[test]
    fn pullback_is_the_jacobian() {
        let known = KnownBackground::new(Scaled(0.8), -1.0, [-1.0, 1.0]);
        let (x, sigma) = (lifted(0.01, 1e-4), [0.1f32]);
        let of = |step| Philox::new(2).normal(0..1, step, &[1, 16, 16]).unwrap();
        let (u, v) = (of(1), of(2));
        let (_, pullback) = known.denoise_with_pullback(&x, &sigma).unwrap();
        let vjp = pullback.vjp(&v).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let step = 1e-4f32;
        let moved = |sign: f32| {
            let data = x.data().iter().zip(u.data()).map(|(x, u)| x + sign * step * u).collect();
            known.denoise(&Tensor::from_vec(x.shape(), data).unwrap(), &sigma).unwrap()
        };
        let [up, down] = [1.0, -1.0].map(moved);
        let ju: Vec<f32> = up.data().iter().zip(down.data()).map(|(a, b)| (a - b) / (2.0 * step)).collect();
        let (expected, found) = (dot(&ju, v.data()), dot(u.data(), vjp.data()));
        let plain = 0.8 * dot(u.data(), v.data());
        assert!((expected - found).abs() < 0.02 && (plain - found).abs() > 0.2, "{expected} {found} {plain}");
        let two = Tensor::from_vec(&[2, 1, 16, 16], [lifted(0.02, 1e-4).into_vec(), x.data().to_vec()].concat()).unwrap();
        assert_eq!(known.denoise(&two, &[0.1, 0.1]).unwrap().item(1), known.denoise(&x, &sigma).unwrap().item(0));
    }
}
