use crate::schedule::karras_sigmas;
use crate::{Denoiser, Error, Result};
use halation_compute::{Philox, Tensor};
use std::ops::Range;

/// Settings of the sampler of Karras et al. 2022 (arXiv:2206.00364, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleConfig {
    /// Noise levels; each costs two network calls, the last one.
    pub steps: usize,
    /// Smallest noise level.
    pub sigma_min: f64,
    /// Largest noise level, at which sampling begins.
    pub sigma_max: f64,
    /// Spacing: larger values put more levels at small noise.
    pub rho: f64,
    /// Total amount of fresh noise, 0 for a deterministic path.
    pub churn: f64,
    /// Noise levels between which fresh noise is added.
    pub churn_range: (f64, f64),
    /// Standard deviation of the fresh noise.
    pub churn_noise: f64,
}

impl SampleConfig {
    /// The deterministic sampler with `steps` levels between 0.002 and 80.
    pub fn new(steps: usize) -> Self {
        Self { steps, sigma_min: 0.002, sigma_max: 80.0, rho: 7.0, churn: 0.0, churn_range: (0.05, 50.0), churn_noise: 1.003 }
    }
}

/// Streams of the random numbers: far from those of training.
const START: u16 = 0x5a00;
const CHURN: u16 = 0x5a01;

/// `draws` samples of the prior by the deterministic sampler; draw i is the same whatever range it is asked for in.
///
/// # Errors
/// When the denoiser fails or `steps` is zero.
pub fn sample(denoiser: &dyn Denoiser, draws: Range<u64>, steps: usize, seed: u64) -> Result<Tensor> {
    sample_with(denoiser, draws, &SampleConfig::new(steps), seed, |_| ())
}

/// As [`sample`] with all settings; `each` is told the number of levels done.
///
/// # Errors
/// When the denoiser fails, a setting is not usable, or values that are not finite arise.
pub fn sample_with(
    denoiser: &dyn Denoiser,
    draws: Range<u64>,
    config: &SampleConfig,
    seed: u64,
    mut each: impl FnMut(usize),
) -> Result<Tensor> {
    let &SampleConfig { steps, sigma_min, sigma_max, rho, churn, churn_range, churn_noise } = config;
    if steps == 0 || !(sigma_min > 0.0 && sigma_max > sigma_min && sigma_max.is_finite() && rho > 0.0 && churn >= 0.0) {
        return Err(Error::Invalid(format!("{config:?}: expected steps > 0, 0 < sigma_min < sigma_max, rho > 0, churn >= 0")));
    }
    let rng = Philox::new(seed);
    let n = draws.end.saturating_sub(draws.start) as usize;
    let item = denoiser.item_shape();
    let levels = karras_sigmas(steps, sigma_min, sigma_max, rho);
    let mut x = rng.stream(START).normal(draws.clone(), 0, &item)?;
    x.data_mut().iter_mut().for_each(|v| *v *= levels[0] as f32);
    // dx/dsigma = (x - D) / sigma, the probability flow in sigma.
    let slope = |x: &Tensor, sigma: f64| -> Result<Tensor> {
        let mut d = denoiser.denoise(x, &vec![sigma as f32; n])?;
        let inverse = (1.0 / sigma) as f32;
        d.data_mut().iter_mut().zip(x.data()).for_each(|(d, x)| *d = (x - *d) * inverse);
        Ok(d)
    };
    let add = |x: &mut Tensor, factor: f64, d: &Tensor| {
        let factor = factor as f32;
        x.data_mut().iter_mut().zip(d.data()).for_each(|(x, d)| *x += factor * d);
    };
    for (i, pair) in levels.windows(2).enumerate() {
        let (mut sigma, next) = (pair[0], pair[1]);
        if churn > 0.0 && (churn_range.0..=churn_range.1).contains(&sigma) {
            let raised = sigma * (1.0 + (churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0));
            let noise = rng.stream(CHURN).normal(draws.clone(), i as u32, &item)?;
            add(&mut x, (raised * raised - sigma * sigma).sqrt() * churn_noise, &noise);
            sigma = raised;
        }
        let first = slope(&x, sigma)?;
        let mut moved = x.clone();
        add(&mut moved, next - sigma, &first);
        if next > 0.0 {
            let second = slope(&moved, next)?;
            add(&mut x, 0.5 * (next - sigma), &first);
            add(&mut x, 0.5 * (next - sigma), &second);
        } else {
            x = moved;
        }
        each(i + 1);
    }
    match x.data().iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::Invalid(format!(
            "draw {} became {} while sampling: the prior is not usable",
            at / x.item_len(),
            x.data()[at]
        ))),
        None => Ok(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pullback;

    /// The exact denoiser of pixels that are independently normal with mean 0.3 and standard deviation 0.5.
    struct Normal;
    impl Denoiser for Normal {
        fn item_shape(&self) -> [usize; 3] {
            [1, 8, 8]
        }
        fn denoise(&self, x: &Tensor, sigma: &[f32]) -> Result<Tensor> {
            let mut out = x.clone();
            for (item, s) in out.data_mut().chunks_exact_mut(64).zip(sigma) {
                let shrink = 0.25 / (0.25 + s * s);
                item.iter_mut().for_each(|v| *v = 0.3 + shrink * (*v - 0.3));
            }
            Ok(out)
        }
        fn denoise_with_pullback<'a>(&'a self, _: &Tensor, _: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
            Err(Error::Invalid("not needed here".into()))
        }
    }

    /// The flow of normal data is linear: it maps noise 80 z to 0.3 + 0.5 (80 z - 0.3) / sqrt(0.25 + 80^2). The method is of second order:
    /// twice the levels leave a quarter of the error, which for |z| < 3.5 is below 8e-3 with 60 levels.
    #[test]
    fn normal_data_come_back_to_second_order() {
        let start = Philox::new(9).stream(START).normal(0..4, 0, &[1, 8, 8]).unwrap();
        assert!(start.data().iter().all(|z| z.abs() < 3.5));
        let error = |steps: usize| {
            let exact = |z: f32| 0.3 + 0.5 * (80.0 * z as f64 - 0.3) / (0.25f64 + 6400.0).sqrt();
            let found = sample(&Normal, 0..4, steps, 9).unwrap();
            found.data().iter().zip(start.data()).map(|(x, z)| (*x as f64 - exact(*z)).abs()).fold(0.0, f64::max)
        };
        let (coarse, fine) = (error(30), error(60));
        assert!(fine < 8e-3 && (3.5..5.0).contains(&(coarse / fine)), "{coarse} {fine}");
    }

    #[test]
    fn churn_keeps_the_distribution() {
        let config = SampleConfig { churn: 20.0, churn_noise: 1.0, ..SampleConfig::new(60) };
        let x = sample_with(&Normal, 0..256, &config, 1, |_| ()).unwrap();
        let n = x.len() as f64;
        let mean = x.data().iter().map(|v| *v as f64).sum::<f64>() / n;
        let sd = (x.data().iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Four standard errors of 16384 values, and the discretisation error of 60 levels.
        assert!((mean - 0.3).abs() < 4.0 * 0.5 / n.sqrt() && (sd - 0.5).abs() < 4.0 * 0.5 / (2.0 * n).sqrt() + 5e-3, "{mean} {sd}");
        let part = sample_with(&Normal, 7..9, &config, 1, |_| ()).unwrap();
        assert_eq!((part.item(0), part.item(1)), (x.item(7), x.item(8)));
        assert!(sample(&Normal, 0..1, 0, 0).is_err());
    }
}
