//! Consistency models of normal data, where the best network is linear and known for any grid.

use super::images::Level;
use super::tests::{Gaussian, MEAN, SD, tiny};
use super::*;
use crate::prior::{PriorCard, load_prior, load_unet_prior};
use crate::{SampleConfig, Sampler, Wiener, sample};
use std::path::PathBuf;

/// A grid that is coarse enough for its own error to be seen.
fn coarse() -> Consistency {
    Consistency { sigma_min: 0.02, sigma_max: 4.0, first_intervals: 12, last_intervals: 12, ..Consistency::new(0) }
}

/// By which an image in `from` comes nearer to the mean on its way to `to`, what a level below says of it left out: the regression of x0 + to eps on
/// x0 + from eps, or a step of Heun's method.
fn nearer(teacher: bool, from: f64, to: f64) -> f64 {
    let v = SD * SD;
    if !teacher {
        return (v + from * to) / (v + from * from);
    }
    let slope = |s: f64| s / (v + s * s);
    1.0 + 0.5 * (to - from) * (slope(from) + slope(to) * (1.0 + (to - from) * slope(from)))
}

/// The best model at `upper`, m + k (x - m), is the best one a level lower of what is expected there, whatever the metric, since what is left is normal.
fn best(c: &Consistency, teacher: bool, upper: f64) -> f64 {
    let mut k = 1.0;
    let mut at = upper;
    while at > c.sigma_min * 1.0001 {
        let lower = c.lower(at, 0);
        k *= nearer(teacher, at, lower);
        at = lower;
    }
    k
}

/// What the path leads to.
fn end_of_path(c: &Consistency, sigma: f64) -> f64 {
    SD.hypot(c.sigma_min) / SD.hypot(sigma)
}

/// The closed form of a grid goes over into that of the path, to first order in the intervals without a teacher, to second with one.
#[test]
fn fine_grids_lead_to_the_end_of_the_path() {
    let error = |teacher, intervals| {
        let c = Consistency { first_intervals: intervals, last_intervals: intervals, ..coarse() };
        best(&c, teacher, c.sigma_max) / end_of_path(&c, c.sigma_max) - 1.0
    };
    for (teacher, order, at_800) in [(false, 2.0, 0.01), (true, 4.0, 1e-4)] {
        let [first, second] = [400, 800].map(|n| error(teacher, n));
        println!("{teacher}: {first} {second}");
        assert!((first / second - order).abs() < 0.1 * order && second.abs() < at_800, "{teacher}: {first} {second}");
    }
}

/// Derivatives of the loss along a shift and a stretch of the model at the upper level, at the best model moved by both in units of the standard deviation
/// at the end of the path: means with standard errors.
fn slopes(c: &Consistency, teacher: bool, shift: f64, stretch: f64) -> [(f64, f64); 2] {
    const DRAWS: u64 = 20_000;
    let loss = Loss::Consistency(c.clone());
    let mut found = [const { Vec::new() }; 2];
    // The denoiser of normal pixels.
    let normal = Wiener::new([1, 4, 4], vec![MEAN as f32; 16], vec![SD * SD; 16]).unwrap();
    let mut numbers = Philox::new(11).sequence(0, 0);
    for draw in 0..DRAWS {
        let upper = loss.sigma(Level { normal: numbers.normal(), uniform: numbers.uniform() }, 0);
        let lower = loss.lower(upper, 0);
        let of_level = loss.precond().at(upper);
        if of_level.out == 0.0 {
            continue;
        }
        let [unit, eps] = [1, 2].map(|seed| Philox::new(seed).normal(draw..draw + 1, 0, &[1, 4, 4]).unwrap());
        let path = |s: f64| combined(&unit, &eps, std::iter::once((SD, s)));
        let add_mean = |mut x: Tensor| {
            x.data_mut().iter_mut().for_each(|v| *v += MEAN as f32);
            x
        };
        let noisy = add_mean(path(upper));
        let below =
            if teacher { flow_step(&normal, &noisy, &[upper as f32], &[lower as f32]).unwrap() } else { add_mean(path(lower)) };
        let model = |x: &Tensor, k: f64| {
            Tensor::from_vec(&[1, 1, 4, 4], x.data().iter().map(|v| (MEAN + k * (f64::from(*v) - MEAN)) as f32).collect()).unwrap()
        };
        let target = model(&below, best(c, teacher, lower));
        let z = |x: f32| (f64::from(x) - MEAN) / SD.hypot(upper);
        let k = best(c, teacher, upper);
        let f = noisy.data().iter().map(|x| {
            let said = MEAN + k * (f64::from(*x) - MEAN) + SD * (shift + stretch * z(*x));
            ((said - of_level.skip * f64::from(*x)) / of_level.out) as f32
        });
        let f = Tensor::from_vec(&[1, 1, 4, 4], f.collect()).unwrap();
        let levels = [upper as f32, lower as f32];
        let (gradient, _) = loss.gradient_and_value(
            [&target, &combined(&noisy, &f, std::iter::once((of_level.skip, of_level.out)))],
            levels,
            &of_level,
            1.0,
        );
        // Levels alike, whatever their distance, so that none outweighs the others.
        let along = |direction: &dyn Fn(f32) -> f64| {
            let parts = gradient.data().iter().zip(noisy.data()).map(|(g, x)| f64::from(*g) * SD * direction(*x) / of_level.out);
            parts.sum::<f64>() * (upper - lower)
        };
        found[0].push(along(&|_| 1.0));
        found[1].push(along(&z));
    }
    found.map(|values| {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt())
    })
}

/// At the best model of a coarse grid neither loss has a slope; a fiftieth of the data's standard deviation away from it both are seen.
#[test]
fn the_best_model_minimises_the_loss() {
    let c = coarse();
    for teacher in [false, true] {
        let at_best = slopes(&c, teacher, 0.0, 0.0);
        println!("teacher {teacher}: {at_best:.5?}");
        // Where a teacher leaves no scatter, rounding does.
        for (slope, error) in at_best {
            assert!(slope.abs() < 4.0 * error + 1e-3, "teacher {teacher}: slope {slope} +- {error}");
        }
        let [shift, _] = slopes(&c, teacher, 0.02, 0.0);
        let [_, stretch] = slopes(&c, teacher, 0.0, -0.02);
        println!("  moved: {shift:.5?} {stretch:.5?}");
        assert!(shift.0 > 6.0 * shift.1 + 0.01 && stretch.0 < -6.0 * stretch.1 - 0.01, "teacher {teacher}: {shift:?} {stretch:?}");
    }
}

/// Intervals double evenly up to the last; levels are those of the grid, and every draw falls on one.
#[test]
fn grids_grow_and_hold_every_level() {
    let c = Consistency { first_intervals: 10, last_intervals: 80, ..Consistency::new(4000) };
    let found: Vec<usize> = [0, 999, 1000, 2000, 2999, 3000, 4000, 1 << 40].iter().map(|seen| c.intervals(*seen)).collect();
    assert_eq!(found, [10, 10, 20, 40, 40, 80, 80, 80]);
    assert_eq!(Consistency { first_intervals: 40, last_intervals: 40, ..Consistency::new(0) }.intervals(0), 40);
    let karras = crate::schedule::karras_sigmas(11, 0.002, 80.0, 7.0);
    for normal in [-9.0, -3.0, -1.0, 0.0, 1.5, 2.0, 9.0] {
        let upper = c.upper(normal, 0);
        let i = karras.iter().position(|s| (s / upper - 1.0).abs() < 1e-9).unwrap();
        let sigma = (-1.1f64 + 2.0 * normal).exp();
        assert!((c.lower(upper, 0) / karras[i + 1] - 1.0).abs() < 1e-9);
        assert!(i == 0 && sigma > upper || i == 9 && sigma < karras[10] || (karras[i + 1]..upper).contains(&sigma), "{normal}");
        assert_eq!(c.lower(f64::from(upper as f32), 0), c.lower(upper, 0));
    }
}

fn run(trainer: &mut Trainer, steps: usize) {
    for _ in 0..steps {
        trainer.step().unwrap();
    }
}

/// A run of 8 x 8 images with what its folder holds: a trained model, with a teacher where a path is given.
fn trained(teacher: Option<&PathBuf>, steps: usize) -> tempfile::TempDir {
    let source = Gaussian { side: 8 };
    let sha256 = teacher.map(|path| halation_io::sha256_of_file(path).unwrap());
    let loss = Loss::Consistency(Consistency { sigma_data: SD, teacher_sha256: sha256, ..coarse() });
    // The metric's gradient does not fade with the residual; the learning rate must.
    let config = TrainConfig { learning_rate: 3e-3, schedule: Schedule::Cosine(16 * 1000), loss, ..tiny(8) };
    let mut trainer = Trainer::new(config, &source).unwrap();
    if let Some(path) = teacher {
        assert!(trainer.step().unwrap_err().to_string().contains("no teacher is given"));
        trainer.set_teacher(path).unwrap();
    }
    run(&mut trainer, steps);
    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path(), &PriorCard::default()).unwrap();
    folder
}

/// A trained network comes to the best model of its grid, and one call makes a sample of it. It is refused where a denoiser is needed, and a run goes on from
/// its folder to the same bits.
#[test]
fn training_comes_to_the_best_model() {
    let source = Gaussian { side: 8 };
    let loss = Loss::Edm { sigma_data: SD, p_mean: -1.2, p_std: 1.2 };
    let mut flow = Trainer::new(TrainConfig { learning_rate: 3e-3, loss, ..tiny(8) }, &source).unwrap();
    run(&mut flow, 700);
    let of_teacher = tempfile::tempdir().unwrap();
    flow.save(of_teacher.path(), &PriorCard::default()).unwrap();
    let averaged = flow.averaged().unwrap();
    let path = of_teacher.path().join(PRIOR);
    for teacher in [None, Some(&path)] {
        let folder = trained(teacher, 1000);
        let file = folder.path().join(PRIOR);
        assert!(load_prior(&file).err().unwrap().to_string().contains("found a consistency model"));
        let (model, _) = load_unet_prior(&file).unwrap();
        let c = coarse();
        let mut x0 = Tensor::zeros(&[64, 1, 8, 8]);
        x0.data_mut().chunks_exact_mut(64).enumerate().for_each(|(i, out)| source.fill(1 << 40 | i as u64, out).unwrap());
        let eps = Philox::new(5).normal(0..64, 0, &[1, 8, 8]).unwrap();
        for level in [4.0, 8.0, 11.0] {
            // Of twelve intervals.
            let [low, high] = [0.02f64, 4.0].map(|s| s.powf(1.0 / 7.0));
            let sigma = (low + level / 12.0 * (high - low)).powi(7);
            let x = combined(&x0, &eps, std::iter::repeat((1.0, sigma)));
            let found = model.denoise(&x, &[sigma as f32; 64]).unwrap();
            // The best model without a teacher; with one, where its own flow leads over the grid.
            let k = best(&c, false, sigma);
            let (mut expected, mut at) = (x.clone(), sigma);
            while teacher.is_some() && at > 1.0001 * c.sigma_min {
                let lower = c.lower(at, 0);
                expected = flow_step(&averaged, &expected, &[at as f32; 64], &[lower as f32; 64]).unwrap();
                at = lower;
            }
            if teacher.is_none() {
                expected.data_mut().iter_mut().for_each(|v| *v = (MEAN + k * (f64::from(*v) - MEAN)) as f32);
            }
            let square: f64 = found.data().iter().zip(expected.data()).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let off = (square / x.len() as f64).sqrt() / SD;
            println!("teacher {}, sigma {sigma:.3}: off by {off:.4} sd", teacher.is_some());
            assert!(off < 0.15, "sigma {sigma}: off by {off} standard deviations of the data");
        }
        let one =
            SampleConfig { sampler: Sampler::Consistency { blur: c.sigma_min }, sigma_max: c.sigma_max, ..SampleConfig::new(1) };
        let samples = sample(&model, Philox::new(7), 0..64, &one, |_| ()).unwrap();
        let n = samples.len() as f64;
        let mean = samples.data().iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let sd = (samples.data().iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let expected = best(&c, teacher.is_some(), c.sigma_max) * c.sigma_max;
        println!("  one call: mean {mean:.4}, sd {sd:.4}, expected {expected:.4}");
        assert!((sd / expected - 1.0).abs() < 0.15, "{sd}, expected {expected}");
    }
    let mut again = Trainer::resume(trained(Some(&path), 3).path(), &source).unwrap();
    assert!(again.set_teacher(&of_teacher.path().join(CHECKPOINT)).is_err());
    again.set_teacher(&path).unwrap();
    run(&mut again, 2);
    let whole = Trainer::resume(trained(Some(&path), 5).path(), &source).unwrap();
    assert!(again.denoiser().net().theta() == whole.denoiser().net().theta());
}
