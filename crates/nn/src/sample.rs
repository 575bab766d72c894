use crate::precond::combined;
use crate::schedule::{geometric, karras_sigmas};
use crate::{Denoiser, Error, Result};
use halation_compute::{Philox, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// How a sampler goes from one noise level to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// The reverse of the noising, with fresh noise at each level ([`ancestral_step`]); levels evenly spaced in the logarithm, one network call each. Where the
    /// network is not exact, its errors at high noise are mended at lower noise.
    Ancestral,
    /// The probability flow by Heun's method with fresh noise along the way (Karras et al. 2022, arXiv:2206.00364, algorithm 2; algorithm 1 without fresh
    /// noise), with its levels (eq. 5); two network calls a level but the last.
    Heun {
        /// Spacing of the levels: larger values put more of them at small noise.
        rho: f64,
        /// Total amount of fresh noise, 0 for a deterministic path.
        churn: f64,
        /// Noise levels between which fresh noise is added.
        churn_range: (f64, f64),
        /// Standard deviation of the fresh noise.
        churn_noise: f64,
    },
    /// Of a consistency model: to the end of the path, noise again, at levels that are evenly spaced in the logarithm (Song et al. 2023,
    /// arXiv:2303.01469, algorithm 1); one network call a level.
    Consistency {
        /// The noise that is left in the model's images, its sigma_min.
        blur: f64,
    },
}

impl Sampler {
    /// The name by which users ask for it and by which results say how they were made.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ancestral => "ancestral",
            Self::Heun { .. } => "heun",
            Self::Consistency { .. } => "consistency",
        }
    }

    /// Heun's method with the settings of Karras et al.
    pub fn heun(churn: f64) -> Self {
        Self::Heun { rho: 7.0, churn, churn_range: (0.05, 50.0), churn_noise: 1.003 }
    }
}

/// Settings of [`sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleConfig {
    /// Noise levels.
    pub steps: usize,
    /// Smallest noise level.
    pub sigma_min: f64,
    /// Largest noise level, at which sampling begins.
    pub sigma_max: f64,
    /// How to go from one level to the next.
    pub sampler: Sampler,
}

impl SampleConfig {
    /// Ancestral sampling with `steps` levels between 0.002 and 80.
    pub fn new(steps: usize) -> Self {
        Self { steps, sigma_min: 0.002, sigma_max: 80.0, sampler: Sampler::Ancestral }
    }
}

/// The reverse transition from noise level `sigma` to `next`, in place: z' = (next/sigma)^2 z + (1 - (next/sigma)^2) m + next sqrt(1 - (next/sigma)^2) eps with
/// standard normal `noise` eps.
///
/// With the denoised image for m, which is the mean of x0 alone, a step loses the variance of x0 given z. Denoised images of a reverse process are a
/// martingale: half of its last increment, from `before` (the denoised image one level before; none at the first) to `denoised`, puts it back to second order in
/// ln(sigma/next) where the levels are evenly spaced in the logarithm (Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver++(2M), got to by another way).
pub fn ancestral_step(z: &mut Tensor, denoised: &Tensor, before: Option<&Tensor>, noise: &Tensor, sigma: f64, next: f64) {
    let alpha = (next / sigma).powi(2);
    let scale = (next * (1.0 - alpha).sqrt()) as f32;
    let parts = z.data_mut().par_iter_mut().zip(denoised.data()).zip(before.unwrap_or(denoised).data()).zip(noise.data());
    parts.for_each(|(((z, d), before), e)| {
        let mean = d + 0.5 * (d - before);
        *z = alpha as f32 * *z + (1.0 - alpha) as f32 * mean + scale * e;
    });
}

/// `draws` samples of the prior; draw i is the same whatever range it is asked for in. `each` is told the number of levels done.
///
/// # Errors
/// When the denoiser fails, a setting is not usable, or values that are not finite arise.
pub fn sample(
    denoiser: &dyn Denoiser,
    rng: Philox,
    draws: Range<u64>,
    config: &SampleConfig,
    mut each: impl FnMut(usize),
) -> Result<Tensor> {
    let &SampleConfig { steps, sigma_min, sigma_max, sampler } = config;
    let usable = match sampler {
        Sampler::Ancestral => true,
        Sampler::Consistency { blur } => blur >= 0.0,
        Sampler::Heun { rho, churn, .. } => rho > 0.0 && churn >= 0.0,
    };
    if steps == 0 || !(usable && sigma_min > 0.0 && sigma_max > sigma_min && sigma_max.is_finite()) {
        let churn =
            if let Sampler::Heun { rho, churn, .. } = sampler { format!(", rho {rho}, churn {churn}") } else { String::new() };
        return Err(Error::Invalid(format!(
            "{steps} steps from sigma_max {sigma_max} to sigma_min {sigma_min}{churn}; expected at least one step, 0 < sigma_min < sigma_max, rho above 0 and churn not below it"
        )));
    }
    let n = draws.end.saturating_sub(draws.start) as usize;
    let levels = match sampler {
        Sampler::Ancestral | Sampler::Consistency { .. } => [geometric(sigma_max, sigma_min, steps), vec![0.0]].concat(),
        Sampler::Heun { rho, .. } => karras_sigmas(steps, sigma_min, sigma_max, rho),
    };
    let noise = |step: usize| rng.normal(draws.clone(), step as u32, &denoiser.item_shape());
    let denoise = |x: &Tensor, sigma: f64| denoiser.denoise(x, &vec![sigma as f32; n]);
    let mut x = noise(0)?;
    x.data_mut().iter_mut().for_each(|v| *v *= levels[0] as f32);
    let mut before: Option<Tensor> = None;
    for (i, pair) in levels.windows(2).enumerate() {
        let (sigma, next) = (pair[0], pair[1]);
        match sampler {
            Sampler::Ancestral => {
                let denoised = denoise(&x, sigma)?;
                if next > 0.0 {
                    ancestral_step(&mut x, &denoised, before.as_ref(), &noise(i + 1)?, sigma, next);
                    before = Some(denoised);
                } else {
                    x = denoised;
                }
            }
            Sampler::Consistency { blur } => {
                if i > 0 {
                    add(&mut x, (sigma * sigma - blur * blur).max(0.0).sqrt(), &noise(i)?);
                }
                x = denoise(&x, sigma)?;
            }
            Sampler::Heun { churn, churn_range, churn_noise, .. } => {
                let mut from = sigma;
                if churn > 0.0 && (churn_range.0..=churn_range.1).contains(&sigma) {
                    from = sigma * (1.0 + (churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0));
                    add(&mut x, (from * from - sigma * sigma).sqrt() * churn_noise, &noise(i + 1)?);
                }
                // The last step leads to the denoised image itself.
                x = if next > 0.0 {
                    flow_step(denoiser, &x, &vec![from as f32; n], &vec![next as f32; n])?
                } else {
                    denoise(&x, from)?
                };
            }
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

fn add(x: &mut Tensor, factor: f64, d: &Tensor) {
    let factor = factor as f32;
    x.data_mut().iter_mut().zip(d.data()).for_each(|(x, d)| *x += factor * d);
}

/// A step of Heun's method along the probability flow of a denoiser, dx/dsigma = (x - D) / sigma, each draw from its own level to its own lower one, which is
/// not 0.
pub(crate) fn flow_step(denoiser: &dyn Denoiser, x: &Tensor, from: &[f32], to: &[f32]) -> Result<Tensor> {
    let slope = |x: &Tensor, sigma: &[f32]| -> Result<Tensor> {
        let inverse = || sigma.iter().map(|s| 1.0 / f64::from(*s));
        Ok(combined(x, &denoiser.denoise(x, sigma)?, inverse().map(|i| (i, -i))))
    };
    let along = |x: &Tensor, slope: &Tensor, share: f64| {
        combined(x, slope, from.iter().zip(to).map(|(from, to)| (1.0, share * f64::from(to - from))))
    };
    let first = slope(x, from)?;
    let second = slope(&along(x, &first, 1.0), to)?;
    Ok(along(&along(x, &first, 0.5), &second, 0.5))
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
    fn the_flow_is_followed_to_second_order() {
        let rng = Philox::new(9);
        let start = rng.normal(0..4, 0, &[1, 8, 8]).unwrap();
        assert!(start.data().iter().all(|z| z.abs() < 3.5));
        let error = |steps: usize| {
            let exact = |z: f32| 0.3 + 0.5 * (80.0 * z as f64 - 0.3) / (0.25f64 + 6400.0).sqrt();
            let config = SampleConfig { sampler: Sampler::heun(0.0), ..SampleConfig::new(steps) };
            let found = sample(&Normal, rng, 0..4, &config, |_| ()).unwrap();
            found.data().iter().zip(start.data()).map(|(x, z)| (*x as f64 - exact(*z)).abs()).fold(0.0, f64::max)
        };
        let (coarse, fine) = (error(30), error(60));
        assert!(fine < 8e-3 && (3.5..5.0).contains(&(coarse / fine)), "{coarse} {fine}");
    }

    /// Mean and standard deviation of 16384 values within four standard errors and the discretisation error, and draws that do not depend on the range.
    #[test]
    fn fresh_noise_keeps_the_distribution() {
        let heun = Sampler::Heun { rho: 7.0, churn: 20.0, churn_range: (0.05, 50.0), churn_noise: 1.0 };
        for (sampler, steps, discretisation) in [(heun, 60, 5e-3), (Sampler::Ancestral, 40, 6e-3)] {
            let config = SampleConfig { sampler, ..SampleConfig::new(steps) };
            let x = sample(&Normal, Philox::new(1), 0..256, &config, |_| ()).unwrap();
            let n = x.len() as f64;
            let mean = x.data().iter().map(|v| *v as f64).sum::<f64>() / n;
            let sd = (x.data().iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
            println!("{sampler:?}: {mean} {sd}");
            assert!((mean - 0.3).abs() < 4.0 * 0.5 / n.sqrt(), "{sampler:?}: {mean}");
            assert!((sd - 0.5).abs() < 4.0 * 0.5 / (2.0 * n).sqrt() + discretisation, "{sampler:?}: {sd}");
            let part = sample(&Normal, Philox::new(1), 7..9, &config, |_| ()).unwrap();
            assert_eq!((part.item(0), part.item(1)), (x.item(7), x.item(8)));
        }
        assert!(sample(&Normal, Philox::new(1), 0..1, &SampleConfig::new(0), |_| ()).is_err());
    }
}
