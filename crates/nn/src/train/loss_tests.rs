//! The losses on normal data, where the best network is known in closed form.

use super::images::Level;
use super::tests::{Gaussian, MEAN, SD, tiny};
use super::*;
use crate::Denoiser;
use crate::precond::combined;
use crate::schedule::{Betas, DiscreteSchedule, VpSchedule};

fn losses() -> [Loss; 6] {
    let eps = |kind| Loss::Eps(DiscreteSchedule::new(kind, 1000).unwrap());
    [
        Loss::edm(),
        eps(Betas::Linear),
        eps(Betas::Cosine),
        Loss::RectifiedFlow,
        Loss::Ve { sigma_min: 0.02, sigma_max: 3.0 },
        Loss::Vp,
    ]
}

/// Var(p x0 + q eps | a x0 + b eps) for normal x0 of variance SD^2.
fn conditional_variance((p, q): (f64, f64), (a, b): (f64, f64)) -> f64 {
    let v = SD * SD;
    p * p * v + q * q - (p * a * v + q * b).powi(2) / (a * a * v + b * b)
}

/// The smallest value of a loss as its paper writes it: the mean over its own times of the conditional variance of its own target.
pub(super) fn smallest(loss: &Loss) -> f64 {
    const N: usize = 100_000;
    let mean = |f: &dyn Fn(f64) -> f64| (0..N).map(|i| f((i as f64 + 0.5) / N as f64)).sum::<f64>() / N as f64;
    match loss {
        Loss::Edm { sigma_data, p_mean, p_std } => {
            // Midpoints of the standard normal within ten standard deviations.
            let density = |z: f64| (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
            20.0 * mean(&|u| {
                let z = 20.0 * (u - 0.5);
                let s = (p_mean + p_std * z).exp();
                let v = SD * SD * s * s / (SD * SD + s * s);
                density(z) * v * (s * s + sigma_data * sigma_data) / (s * sigma_data).powi(2)
            })
        }
        Loss::Eps(schedule) => {
            let steps = schedule.steps();
            (0..steps).map(|t| conditional_variance((0.0, 1.0), schedule.coefficients(t))).sum::<f64>() / steps as f64
        }
        Loss::RectifiedFlow => mean(&|u| {
            let t = 1e-3 + 0.998 * u;
            conditional_variance((1.0, -1.0), (t, 1.0 - t))
        }),
        Loss::Ve { sigma_min, sigma_max } => {
            // The integral of SD^2 / (SD^2 + sigma^2) over ln sigma.
            let along = |s: f64| -0.5 * (SD * SD / (s * s)).ln_1p();
            (along(*sigma_max) - along(*sigma_min)) / (sigma_max / sigma_min).ln()
        }
        Loss::Consistency(_) => unreachable!("no denoiser"),
        Loss::Vp => mean(&|u| conditional_variance((0.0, 1.0), VpSchedule::default().coefficients(1e-5 + (1.0 - 1e-5) * u))),
    }
}

/// Mean and standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt())
}

/// For draws of the loss's own noise levels: its value and its derivatives along a shift and a stretch of the denoiser, at the best denoiser
/// D(x) = m + k (x - m), k = s^2 / (s^2 + sigma^2), moved by `shift` and `stretch` in units of its error at that level.
fn at_denoiser(loss: &Loss, shift: f64, stretch: f64) -> [Vec<f64>; 3] {
    const DRAWS: u64 = 20_000;
    let shape = [1, 4, 4];
    let precond = loss.precond();
    let mut found = [const { Vec::new() }; 3];
    let mut numbers = Philox::new(11).sequence(0, 0);
    for draw in 0..DRAWS {
        let level = Level { normal: numbers.normal(), uniform: numbers.uniform() };
        let sigma = loss.sigma(level, 0) as f32;
        let c = precond.at(sigma as f64);
        let s = sigma as f64;
        let total = SD.hypot(s);
        // Error of the best denoiser, and the standardised x.
        let (error, z) = (SD * s / total, |x: f32| (x as f64 - MEAN) / total);
        let [unit, eps] = [1, 2].map(|seed| Philox::new(seed).normal(draw..draw + 1, 0, &shape).unwrap());
        let of = |f: &dyn Fn(usize) -> f64| Tensor::from_vec(&[1, 1, 4, 4], (0..16).map(|i| f(i) as f32).collect()).unwrap();
        let clean = of(&|i| MEAN + SD * unit.data()[i] as f64);
        let noisy = combined(&clean, &eps, std::iter::once((1.0, s)));
        let denoised = |x: f32| MEAN + SD * SD / total * z(x) + error * (shift + stretch * z(x));
        let f = of(&|i| (denoised(noisy.data()[i]) - c.skip * noisy.data()[i] as f64) / c.out);
        let (gradient, value) =
            loss.gradient_and_value([&clean, &combined(&noisy, &f, std::iter::once((c.skip, c.out)))], [sigma, 0.0], &c, 1.0);
        let along = |direction: &dyn Fn(f32) -> f64| {
            gradient.data().iter().zip(noisy.data()).map(|(g, x)| *g as f64 * error * direction(*x) / c.out).sum::<f64>()
        };
        found[0].push(value);
        found[1].push(along(&|_| 1.0));
        found[2].push(along(&z));
    }
    found
}

/// At the best denoiser each loss has the smallest value that its paper's own formula gives and no slope; a twentieth of the error away from
/// it, it has a slope that is seen.
#[test]
fn the_best_denoiser_minimises_each_loss() {
    for loss in losses() {
        let [value, shift, stretch] = at_denoiser(&loss, 0.0, 0.0).map(|v| mean_and_error(&v));
        let expected = smallest(&loss);
        println!("{loss}: {:.5} +- {:.5}, formula {expected:.5}; slopes {shift:.4?} {stretch:.4?}", value.0, value.1);
        assert!((value.0 - expected).abs() < 4.0 * value.1 && value.1 < 0.02 * expected, "{loss}: {value:?}, expected {expected}");
        for (slope, error) in [shift, stretch] {
            assert!(slope.abs() < 4.0 * error, "{loss}: slope {slope} +- {error}");
        }
        let [_, shift, _] = at_denoiser(&loss, 0.05, 0.0).map(|v| mean_and_error(&v));
        let [_, _, stretch] = at_denoiser(&loss, 0.0, -0.05).map(|v| mean_and_error(&v));
        println!("  moved: {shift:.4?} {stretch:.4?}");
        assert!(shift.0 > 6.0 * shift.1 && stretch.0 < -6.0 * stretch.1, "{loss}: slopes {shift:?}, {stretch:?}");
    }
}

/// Settings come back from files, a loss of one preconditioning is not another's, and what cannot be meant is an error.
#[test]
fn settings_of_losses() {
    for loss in losses() {
        let config = TrainConfig { loss, ..tiny(8) };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config, "{text}");
    }
    let eps = serde_json::to_value(TrainConfig { loss: losses()[2].clone(), ..tiny(8) }).unwrap();
    for (key, value, says) in [
        ("loss", serde_json::json!("hinge"), "hinge"),
        ("diffusion_steps", serde_json::json!(1), "diffusion_steps is 1"),
        ("noise_schedule", serde_json::json!("steep"), "scaled_linear"),
    ] {
        let mut settings = eps.clone();
        settings[key] = value;
        let message = serde_json::from_value::<TrainConfig>(settings).unwrap_err().to_string();
        assert!(message.contains(says), "{says:?} is not in {message:?}");
    }
    for (loss, says) in [
        (Loss::Edm { sigma_data: 0.0, p_mean: -1.2, p_std: 1.2 }, "sigma_data is 0"),
        (Loss::Edm { sigma_data: 0.5, p_mean: f64::NAN, p_std: 1.2 }, "p_mean is NaN"),
        (Loss::Ve { sigma_min: 2.0, sigma_max: 1.0 }, "sigma_max is 1"),
    ] {
        let message = Trainer::new(TrainConfig { loss, ..tiny(8) }, &Gaussian { side: 8 }).err().unwrap().to_string();
        assert!(message.contains(says), "{says:?} is not in {message:?}");
    }
}

/// The EDM step, operation by operation as it was when the shipped prior was trained: its bits stay.
#[test]
fn edm_steps_keep_their_bits() {
    let source = Gaussian { side: 8 };
    let mut trainer = Trainer::new(TrainConfig { batch: 5, seed: 2, ..tiny(8) }, &source).unwrap();
    for _ in 0..3 {
        trainer.step().unwrap();
    }
    let (clean, sigma, noisy) = trainer.batch(0..5).unwrap();
    for (i, found) in sigma.iter().enumerate() {
        let normal = Philox::new(2).stream(2).sequence(15 + i as u64, 0).normal();
        assert_eq!(*found, (-1.2 + 1.2 * normal).exp() as f32);
    }
    let coefficients = trainer.denoiser.coefficients(&noisy, &sigma).unwrap();
    let (input, noise) = trainer.denoiser.network_input(&noisy, &coefficients);
    let mut sum = trainer.denoiser.net().gradient_sum();
    let losses = trainer.denoiser.net().accumulate(&mut sum, &input, &noise, |d, f| {
        let (c, s) = (coefficients[d], sigma[d] as f64);
        let denoised = combined(&noisy.select(&[d])?, f, std::iter::once((c.skip, c.out)));
        let residual = combined(&denoised, &clean.select(&[d])?, std::iter::once((1.0, -1.0)));
        let weight = (s * s + 0.5 * 0.5) / (s * 0.5).powi(2);
        let square: f64 = residual.data().iter().map(|r| (*r as f64).powi(2)).sum();
        let factor = 2.0 * weight * c.out / (64.0 * 5.0);
        Ok((crate::precond::scaled(&residual, std::iter::once(factor)), weight * square / 64.0))
    });
    let expected = trainer.denoiser.net().flat_gradients(&sum);
    let step = trainer.step().unwrap();
    assert_eq!(step.loss, losses.unwrap().iter().sum::<f64>() / 5.0);
    assert!(trainer.denoiser.net().flat_gradients(&trainer.gradients) == expected);
}

/// A trained network comes to the best denoiser, read from its file as a user would: the excess error is the squared distance to it.
#[test]
fn training_with_each_loss_comes_to_the_best_denoiser() {
    let source = Gaussian { side: 8 };
    for loss in losses() {
        let config = TrainConfig { learning_rate: 3e-3, loss: loss.clone(), ..tiny(8) };
        let mut trainer = Trainer::new(config, &source).unwrap();
        // A variance-exploding network sees x unscaled and learns later what is small beside it.
        let steps = if matches!(loss, Loss::Ve { .. }) { 1400 } else { 700 };
        for _ in 0..steps {
            trainer.step().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path(), &crate::PriorCard::default()).unwrap();
        let (denoiser, _) = crate::prior::load_unet_prior(&folder.path().join(PRIOR)).unwrap();
        assert_eq!(*denoiser.precond(), loss.precond());
        let draws = 64;
        let mut x0 = Tensor::zeros(&[draws, 1, 8, 8]);
        x0.data_mut().chunks_exact_mut(64).enumerate().for_each(|(i, out)| source.fill(1 << 40 | i as u64, out).unwrap());
        for sigma in [0.1, 0.3, 1.0] {
            let eps = Philox::new(5).normal(0..draws as u64, 0, &[1, 8, 8]).unwrap();
            let x = combined(&x0, &eps, std::iter::repeat((1.0, sigma)));
            let found = denoiser.denoise(&x, &vec![sigma as f32; draws]).unwrap();
            let variance = SD * SD + sigma * sigma;
            let best = |i: usize| MEAN + SD * SD / variance * (x.data()[i] as f64 - MEAN);
            let excess = (0..x.len()).map(|i| (found.data()[i] as f64 - best(i)).powi(2)).sum::<f64>() / x.len() as f64;
            let smallest = SD * SD * sigma * sigma / variance;
            println!("{loss} at {sigma}: excess {:.4} of the smallest error", excess / smallest);
            assert!(excess < 0.05 * smallest, "{loss} at {sigma}: excess error {excess} beside the smallest possible {smallest}");
        }
    }
}
