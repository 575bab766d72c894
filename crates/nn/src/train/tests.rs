use super::images::turn;
use super::*;
use crate::family::EdmForm;
use crate::prior::{PriorCard, add_prior_metadata, load_prior, read_prior_metadata};
use crate::{Denoiser, UNetConfig};
use halation_io::TensorFile;
use std::collections::BTreeMap;

/// Gaussian images whose denoiser is known: x0 = mean + C^(1/2) z, here independent pixels with mean 0.3 and standard deviation 0.25.
pub(super) struct Gaussian {
    pub side: usize,
}

pub(super) const MEAN: f64 = 0.3;
pub(super) const SD: f64 = 0.25;

impl ImageSource for Gaussian {
    fn describe(&self) -> String {
        format!("independent normal pixels, {} on a side", self.side)
    }
    fn item_shape(&self) -> [usize; 3] {
        [1, self.side, self.side]
    }
    fn len(&self) -> Option<u64> {
        None
    }
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("unit_of_length".into(), "none".into())])
    }
    fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
        Philox::new(77).fill_normal(index, 0, out);
        out.iter_mut().for_each(|v| *v = (MEAN + SD * *v as f64) as f32);
        Ok(())
    }
}

pub(super) fn tiny(side: usize) -> TrainConfig {
    let unet = UNetConfig {
        img_resolution: side,
        img_channels: 1,
        model_channels: 16,
        channel_mult: vec![1, 1],
        attn_resolutions: vec![],
        num_blocks: 1,
        form: EdmForm::default(),
    };
    TrainConfig { batch: 16, warmup_images: 320, ema_half_life: 500.0, ..TrainConfig::new(unet) }
}

#[track_caller]
fn is_the_same(a: &Trainer, b: &Trainer) {
    assert!(a.denoiser.net().theta() == b.denoiser.net().theta());
    assert!(a.ema == b.ema && a.adam == b.adam);
    assert_eq!((&a.config, a.images, &a.log, a.since_log), (&b.config, b.images, &b.log, b.since_log));
}

#[test]
fn resume_gives_the_same_bits() {
    let source = Gaussian { side: 8 };
    let folder = tempfile::tempdir().unwrap();
    let card = PriorCard { range: [-1.0, 1.0], ..PriorCard::default() };
    let config = TrainConfig {
        batch: 5,
        dihedral: true,
        accumulation: 2,
        validation_images: 3,
        optimizer: Optimizer::Radam,
        weight_decay: 0.1,
        ..tiny(8)
    };
    let mut whole = Trainer::new(config.clone(), &source).unwrap();
    for _ in 0..60 {
        whole.step().unwrap();
    }
    let mut first = Trainer::new(config, &source).unwrap();
    for _ in 0..37 {
        first.step().unwrap();
    }
    first.save(folder.path(), &card).unwrap();
    drop(first);
    let mut second = Trainer::resume(folder.path(), &source).unwrap();
    // Another number of threads as well.
    rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| {
        for _ in 37..60 {
            second.step().unwrap();
        }
    });
    is_the_same(&whole, &second);
    assert_eq!(whole.log.len(), 1);

    second.save(folder.path(), &card).unwrap();
    let info = read_prior_metadata(&folder.path().join(PRIOR)).unwrap();
    assert_eq!((info.kind.as_str(), info.card.trained_on), ("unet", source.describe()));
    assert_eq!(info.card.extra["images_seen"], "300");
    assert_eq!(info.card.extra["unit_of_length"], "none");
    let (prior, _) = load_prior(&folder.path().join(PRIOR)).unwrap();
    let x = Philox::new(1).normal(0..2, 0, &[1, 8, 8]).unwrap();
    assert_eq!(prior.denoise(&x, &[0.5, 2.0]).unwrap(), second.averaged().unwrap().denoise(&x, &[0.5, 2.0]).unwrap());
    let log = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
    assert_eq!(serde_json::from_str::<LogLine>(log.trim()).unwrap(), second.log[0]);

    let other = Trainer::resume(folder.path(), &Gaussian { side: 16 });
    assert!(other.err().unwrap().to_string().contains("trained on"));
}

/// A step in several passes, of which some are uneven, has the bits of one in a single pass.
#[test]
fn accumulation_keeps_the_bits() {
    let source = Gaussian { side: 8 };
    for batch in [1, 5, 19, 24] {
        let run = |accumulation: usize| {
            let mut trainer = Trainer::new(TrainConfig { batch, accumulation, dihedral: true, ..tiny(8) }, &source).unwrap();
            let steps: Vec<StepInfo> = (0..3).map(|_| trainer.step().unwrap()).collect();
            (steps, trainer.denoiser.net().theta().to_vec(), trainer.denoiser.net().flat_gradients(&trainer.gradients))
        };
        let whole = run(1);
        for accumulation in [2, 3, 7, batch] {
            if accumulation <= batch {
                assert!(run(accumulation) == whole, "{batch} images in {accumulation} passes");
            }
            for pass in 0..accumulation {
                let images = GradientSum::places(batch, pass, accumulation).iter().map(|r| r.len()).sum::<usize>();
                assert!(images.abs_diff(batch / accumulation) <= 1, "{batch} images, pass {pass} of {accumulation}: {images}");
            }
        }
    }
}

/// A gradient whose norm is above the limit goes into the moments at the limit, one below it as it is; no single element is cut.
#[test]
fn gradients_are_clipped_by_their_global_norm() {
    let source = Gaussian { side: 8 };
    let step = |clip: f64| {
        let mut trainer = Trainer::new(TrainConfig { clip, ..tiny(8) }, &source).unwrap();
        let info = trainer.step().unwrap();
        (info.gradient_norm, trainer.adam.first)
    };
    let (found, free) = step(1e9);
    assert!((norm(&free) / (0.1 * found) - 1.0).abs() < 1e-5);
    let (same, clipped) = step(0.25 * found);
    assert_eq!(same, found);
    for (clipped, free) in clipped.iter().zip(&free) {
        assert!((clipped - 0.25 * free).abs() <= 1e-6 * free.abs(), "{clipped} {free}");
    }
}

/// Numbered images: all pixels of image k are k.
struct Numbered(u64);

impl ImageSource for Numbered {
    fn describe(&self) -> String {
        format!("{} numbered images", self.0)
    }
    fn item_shape(&self) -> [usize; 3] {
        [1, 8, 8]
    }
    fn len(&self) -> Option<u64> {
        Some(self.0)
    }
    fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
        out.fill(index as f32);
        Ok(())
    }
}

/// No image is both trained on and held out, and each is one of them.
#[test]
fn held_out_images_are_not_trained_on() {
    for (len, validation_images) in [(7, 2), (10, 9), (23, 5), (5, 1)] {
        let source = Numbered(len);
        let config = TrainConfig { validation_images, ..tiny(8) };
        let trainer = Trainer::new(config, &source).unwrap();
        let held_out: Vec<u64> = (0..validation_images).map(|i| trainer.held_out().index(i)).collect();
        let trained: Vec<u64> = (0..len - validation_images).map(|j| trainer.held_out().training_index(j)).collect();
        let mut all = [held_out.clone(), trained.clone()].concat();
        all.sort();
        assert!(all == (0..len).collect::<Vec<_>>() && trained.is_sorted(), "{held_out:?} {trained:?}");
        let (clean, ..) = trainer.batch(0..400).unwrap();
        let seen: std::collections::BTreeSet<u64> = clean.data().iter().map(|v| *v as u64).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), trained);
    }
    let message = Trainer::new(TrainConfig { validation_images: 3, ..tiny(8) }, &Numbered(3)).err().unwrap().to_string();
    assert!(message.contains("validation_images is 3") && message.contains("3 numbered images has 3 images"), "{message}");
}

/// The validation loss is the loss: on normal data a trained network has the smallest one that the closed form gives, an untrained one has
/// not. It is in the log and comes back with it.
#[test]
fn validation_loss_is_that_of_the_averaged_network() {
    let source = Gaussian { side: 8 };
    let config = TrainConfig { learning_rate: 3e-3, validation_images: 400, ..tiny(8) };
    let mut trainer = Trainer::new(config, &source).unwrap();
    let before = trainer.validation_loss().unwrap().unwrap();
    for _ in 0..500 {
        trainer.step().unwrap();
    }
    let smallest = super::loss_tests::smallest(&Loss::edm());
    let found = trainer.validation_loss().unwrap().unwrap();
    println!("validation loss {before} before, {found} after, closed form {smallest}");
    // The loss of one image scatters by 0.34, so the mean over 400 by 0.017; 0.05 are three of these.
    assert!((found - smallest).abs() < 0.05 && before > 1.3 * smallest, "{before} before, {found} after, expected {smallest}");
    assert_eq!(trainer.log.last().unwrap().validation_loss, Some(found));

    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path(), &PriorCard::default()).unwrap();
    let resumed = Trainer::resume(folder.path(), &source).unwrap();
    is_the_same(&trainer, &resumed);
    assert_eq!(resumed.validation_loss().unwrap(), Some(found));
}

/// Going on from a prior keeps its held-out images unseen.
#[test]
fn a_run_from_a_prior_holds_the_same_images_out() {
    let source = Numbered(12);
    let folder = tempfile::tempdir().unwrap();
    Trainer::new(TrainConfig { validation_images: 4, ..tiny(8) }, &source)
        .unwrap()
        .save(folder.path(), &PriorCard::default())
        .unwrap();
    let start = || Start::read(&folder.path().join(PRIOR)).unwrap();
    assert_eq!(start().config.validation_images, 4);
    let from = |validation_images| TrainConfig { validation_images, ..tiny(8) };
    let message = Trainer::from_prior(start(), from(3), &source).err().unwrap().to_string();
    assert!(message.contains("validation_images is 3") && message.contains("with 4 held out"), "{message}");
    assert!(Trainer::from_prior(start(), from(4), &source).is_ok() && Trainer::from_prior(start(), from(3), &Numbered(13)).is_ok());
}

/// A run from a prior begins with its network and its next image, and can be stopped as any other.
#[test]
fn a_run_goes_on_from_a_prior() {
    let source = Gaussian { side: 8 };
    let folder = tempfile::tempdir().unwrap();
    let card = PriorCard { range: [-1.0, 1.0], ..PriorCard::default() };
    let at = |sigma_data| Loss::Edm { sigma_data, p_mean: -1.2, p_std: 1.2 };
    let config = TrainConfig { batch: 5, dihedral: true, seed: 3, loss: at(0.4), ..tiny(8) };
    let mut before = Trainer::new(config.clone(), &source).unwrap();
    for _ in 0..9 {
        before.step().unwrap();
    }
    before.save(folder.path(), &card).unwrap();
    let start = || Start::read(&folder.path().join(PRIOR)).unwrap();
    assert_eq!((start().config.seed, start().config.first_image), (3, 45));

    // What the prior settles is not taken from the command's settings.
    let mut next = TrainConfig { schedule: Schedule::Cosine(200), unet: tiny(16).unet, ..config.clone() };
    let mut whole = Trainer::from_prior(start(), next.clone(), &source).unwrap();
    assert!(whole.ema == before.ema && whole.denoiser.net().theta() == before.ema);
    assert_eq!(whole.config.unet, config.unet);
    assert_eq!((whole.images, whole.steps(), whole.log.len()), (45, 0, 0));
    let mut image = [0.0; 64];
    TrainingImages::new(&source, 3, true).fill(45, &mut image).unwrap();
    assert_eq!(whole.batch(0..5).unwrap().0.data()[..64], image);
    // The first step of Adam moves no parameter by more than the rate, which warms up anew.
    let step = whole.step().unwrap();
    assert_eq!(step.learning_rate, config.learning_rate * 5.0 / 320.0);
    let moved = whole.denoiser.net().theta().iter().zip(&before.ema).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) as f64;
    assert!(moved > 0.9 * step.learning_rate && moved < 1.1 * step.learning_rate, "{moved}");
    for _ in 1..30 {
        whole.step().unwrap();
    }

    let run = tempfile::tempdir().unwrap();
    let mut first = Trainer::from_prior(start(), next.clone(), &source).unwrap();
    for _ in 0..13 {
        first.step().unwrap();
    }
    first.save(run.path(), &card).unwrap();
    let mut second = Trainer::resume(run.path(), &source).unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| {
        for _ in 13..30 {
            second.step().unwrap();
        }
    });
    is_the_same(&whole, &second);
    second.save(run.path(), &card).unwrap();
    let (training, images) = training_of(&read_prior_metadata(&run.path().join(PRIOR)).unwrap()).unwrap().unwrap();
    assert_eq!((&training, images), (&whole.config, 195));
    assert_eq!(training.from_sha256, Some(start().info.sha256));

    let refused = |result: Result<Trainer>, says: &str| {
        let message = result.err().unwrap().to_string();
        assert!(message.contains(says), "{says:?} is not in {message:?}");
    };
    refused(Trainer::from_prior(start(), next.clone(), &Gaussian { side: 16 }), "[1, 16, 16]");
    next.schedule = Schedule::Cosine(45);
    refused(Trainer::from_prior(start(), next.clone(), &source), "45");
    for loss in [at(0.5), Loss::Vp] {
        next.loss = loss;
        refused(Trainer::from_prior(start(), next.clone(), &source), "sigma_data 0.4");
    }
}

#[test]
fn a_run_goes_on_only_from_a_prior_that_training_made() {
    let source = Gaussian { side: 8 };
    let folder = tempfile::tempdir().unwrap();
    Trainer::new(tiny(8), &source).unwrap().save(folder.path(), &PriorCard::default()).unwrap();
    let path = folder.path().join(PRIOR);
    let prior = TensorFile::read(&path).unwrap();
    let vp = prior.metadata["config"].replace("\"precond\":\"edm\"", "\"precond\":\"vp\"");
    for (key, value, says) in [
        ("kind", Some("gaussian_mixture"), "\"unet\""),
        ("config", Some(vp.as_str()), "vp"),
        ("images_seen", Some("many"), "many"),
        ("images_seen", None, "images_seen"),
        ("training", None, "training"),
    ] {
        let mut file = prior.clone();
        match value {
            Some(value) => file.metadata.insert(key.into(), value.into()),
            None => file.metadata.remove(key),
        };
        file.write(&path).unwrap();
        let message = Start::read(&path).err().unwrap().to_string();
        assert!(message.contains("prior.safetensors") && message.contains(says), "{says:?} is not in {message:?}");
    }
    let message = Start::read(&folder.path().join(CHECKPOINT)).err().unwrap().to_string();
    assert!(message.contains("\"training\"") && message.contains("expected a prior"), "{message}");
}

/// Entries that are added later change nothing else, and cannot replace what makes the file a network.
#[test]
fn metadata_are_added_to_a_prior() {
    let source = Gaussian { side: 8 };
    let folder = tempfile::tempdir().unwrap();
    let trainer = Trainer::new(tiny(8), &source).unwrap();
    trainer.save(folder.path(), &PriorCard { range: [-1.0, 1.0], card: "a card".into(), ..PriorCard::default() }).unwrap();
    let path = folder.path().join(PRIOR);
    let before = TensorFile::read(&path).unwrap();
    let entry = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.to_string())]);
    add_prior_metadata(&path, &entry("share", "0.5")).unwrap();
    add_prior_metadata(&path, &entry("share", "0.25")).unwrap();
    let after = TensorFile::read(&path).unwrap();
    assert_eq!(before.tensors, after.tensors);
    assert_eq!(after.metadata["share"], "0.25");
    assert!(before.metadata.iter().all(|(k, v)| after.metadata[k] == *v) && after.metadata.len() == before.metadata.len() + 1);
    let bytes = std::fs::read(&path).unwrap();
    assert!(add_prior_metadata(&path, &entry("config", "{}")).err().unwrap().to_string().contains("config"));
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// The images of a run by number are those that its steps see.
#[test]
fn training_images_are_those_of_the_steps() {
    struct Three;
    impl ImageSource for Three {
        fn describe(&self) -> String {
            "three images".into()
        }
        fn item_shape(&self) -> [usize; 3] {
            [1, 8, 8]
        }
        fn len(&self) -> Option<u64> {
            Some(3)
        }
        fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
            out.iter_mut().enumerate().for_each(|(i, v)| *v = (index * 64 + i as u64) as f32 / 192.0);
            Ok(())
        }
    }
    for source in [&Gaussian { side: 8 } as &dyn ImageSource, &Three] {
        let config = TrainConfig { batch: 3, dihedral: true, seed: 9, ..tiny(8) };
        let images = TrainingImages::new(source, config.seed, config.dihedral);
        let mut trainer = Trainer::new(config, source).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.extend_from_slice(trainer.batch(0..3).unwrap().0.data());
            trainer.step().unwrap();
        }
        for (number, seen) in seen.chunks_exact(64).enumerate() {
            let mut image = [0.0; 64];
            images.fill(number as u64, &mut image).unwrap();
            assert_eq!(seen, image);
        }
    }
}

/// The gradient that a step uses is that of the loss: against central differences of the loss along two directions of parameter space.
#[test]
fn loss_gradient_matches_differences() {
    let source = Gaussian { side: 8 };
    let mut trainer = Trainer::new(TrainConfig { batch: 3, ..tiny(8) }, &source).unwrap();
    // Away from the start, where the last layers of all branches are nearly zero.
    for _ in 0..5 {
        trainer.step().unwrap();
    }
    let theta = trainer.denoiser.net().theta().to_vec();
    let images = trainer.images;
    let mut loss_at = |theta: &[f32]| {
        trainer.denoiser.net_mut().set_theta(theta.to_vec()).unwrap();
        trainer.images = images;
        let loss = trainer.step().unwrap().loss;
        (loss, trainer.denoiser.net().flat_gradients(&trainer.gradients))
    };
    let (_, gradient) = loss_at(&theta);
    for stream in [50, 51] {
        let direction = Philox::new(1).stream(stream).normal(0..1, 0, &[theta.len()]).unwrap();
        let step = 1e-3;
        let moved = |s: f32| theta.iter().zip(direction.data()).map(|(t, d)| t + s * d).collect::<Vec<f32>>();
        let numeric = (loss_at(&moved(step)).0 - loss_at(&moved(-step)).0) / (2.0 * step as f64);
        let exact: f64 = gradient.iter().zip(direction.data()).map(|(g, d)| *g as f64 * *d as f64).sum();
        let size = norm(&gradient) * norm(direction.data()) / (theta.len() as f64).sqrt();
        assert!((numeric - exact).abs() < 0.01 * exact.abs().max(size), "{numeric} against {exact}, typical size {size}");
    }
}

#[test]
fn bad_settings_and_sources_are_errors() {
    struct Broken;
    impl ImageSource for Broken {
        fn describe(&self) -> String {
            "broken".into()
        }
        fn item_shape(&self) -> [usize; 3] {
            [1, 8, 8]
        }
        fn len(&self) -> Option<u64> {
            Some(3)
        }
        fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
            assert!(index < 3);
            out.fill(f32::NAN);
            Ok(())
        }
    }
    let message = |e: Error| e.to_string();
    assert!(message(Trainer::new(tiny(8), &Broken).unwrap().step().err().unwrap()).contains("NaN"));
    assert!(message(Trainer::new(tiny(16), &Broken).err().unwrap()).contains("[1, 8, 8]"));
    for (config, name) in [
        (TrainConfig { batch: 0, ..tiny(8) }, "batch"),
        (TrainConfig { accumulation: 17, ..tiny(8) }, "accumulation"),
        (TrainConfig { weight_decay: -1.0, ..tiny(8) }, "weight_decay is -1"),
        (TrainConfig { weight_decay: 2000.0, ..tiny(8) }, "weight_decay is 2000"),
        (TrainConfig { learning_rate: f64::NAN, ..tiny(8) }, "learning_rate"),
        (TrainConfig { schedule: Schedule::Cosine(0), ..tiny(8) }, "schedule"),
        (TrainConfig { unet: UNetConfig { img_resolution: 9, ..tiny(8).unet }, ..tiny(8) }, "img_resolution"),
    ] {
        assert!(message(config.validate().err().unwrap()).contains(name), "{name}");
    }
}

#[test]
fn learning_rate_schedules() {
    let config = TrainConfig { batch: 10, warmup_images: 100, schedule: Schedule::Cosine(1000), learning_rate: 1.0, ..tiny(8) };
    assert!((config.rate(0) - 0.1).abs() < 1e-12);
    assert!((config.rate(500) - 0.5).abs() < 1e-12 && config.rate(1000) < 1e-12 && config.rate(2000) < 1e-12);
    let config = TrainConfig { schedule: Schedule::InverseSqrt(400), ..config };
    assert!((config.rate(200) - 1.0).abs() < 1e-12 && (config.rate(1600) - 0.5).abs() < 1e-12);

    // A run that begins later: warm-up and cosine count from there.
    let config = TrainConfig { schedule: Schedule::Cosine(5000), first_image: 4000, ..config };
    assert!((config.rate(4000) - 0.1).abs() < 1e-12 && (config.rate(4500) - 0.5).abs() < 1e-12 && config.rate(5000) < 1e-12);
}

/// A prior goes on as one that tells the background, which begins as nearly the same function (away from the background as the same) and learns to.
#[test]
fn a_run_from_a_prior_that_did_not_tell_the_background() {
    let source = Gaussian { side: 8 };
    let folder = tempfile::tempdir().unwrap();
    let before = Trainer::new(tiny(8), &source).unwrap();
    before.save(folder.path(), &PriorCard { range: [-1.0, 1.0], ..PriorCard::default() }).unwrap();
    let start = Start::read(&folder.path().join(PRIOR)).unwrap();
    let mut telling = tiny(8);
    telling.unet.form.background = Some(-9.0);
    let mut trainer = Trainer::from_prior(start, telling, &source).unwrap();
    let (x, sigma) = (Philox::new(1).normal(0..2, 0, &[1, 8, 8]).unwrap(), [0.05, 0.5]);
    assert_eq!(trainer.denoiser.denoise(&x, &sigma).unwrap(), before.denoiser.denoise(&x, &sigma).unwrap());
    let near = Tensor::from_vec(x.shape(), x.data().iter().map(|x| -9.0 + 0.01 * x).collect()).unwrap();
    let [now, then] = [&trainer, &before].map(|t| t.denoiser.denoise(&near, &sigma).unwrap());
    assert!(now.data().iter().zip(then.data()).all(|(n, t)| (0.005..0.02).contains(&((n - t) / (-9.0 - t)))));
    trainer.step().unwrap();
    let parameters = trainer.denoiser.net().parameters();
    let last = parameters.iter().find(|p| p.name == "dec.8x8_aux_conv.weight").unwrap();
    assert_eq!(last.shape, [2, 16, 3, 3]);

    // A consistency model goes on without.
    trainer.save(folder.path(), &PriorCard { range: [-1.0, 1.0], ..PriorCard::default() }).unwrap();
    let start = Start::read(&folder.path().join(PRIOR)).unwrap();
    let consistency = Loss::Consistency(Consistency { sigma_data: 0.5, ..Consistency::new(100) });
    let model = Trainer::from_prior(start, TrainConfig { loss: consistency, ..tiny(8) }, &source).unwrap();
    let (first, end) = (last.offset, last.offset + last.len() / 2);
    assert_eq!(model.ema[first..end], trainer.ema[first..end]);
    assert_eq!((model.ema.len(), model.config.unet.form.background), (before.ema.len(), None));
}

/// Settings that were written before runs could go on from a prior and before there was a choice of losses.
#[test]
fn older_settings_begin_at_the_first_image_with_the_edm_loss() {
    let mut text = serde_json::to_value(tiny(8)).unwrap();
    for key in ["first_image", "loss", "accumulation", "validation_images", "optimizer", "weight_decay"] {
        assert!(text.as_object_mut().unwrap().remove(key).is_some());
    }
    assert_eq!(text["sigma_data"], 0.5);
    assert_eq!(serde_json::from_value::<TrainConfig>(text).unwrap(), tiny(8));
}

#[test]
fn turns_are_the_eight_of_a_square() {
    let original: Vec<f32> = (0..9).map(|v| v as f32).collect();
    let mut seen = std::collections::BTreeSet::new();
    for which in 0..8 {
        let mut image = original.clone();
        turn(&mut image, [1, 3, 3], which);
        let mut sorted = image.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, original);
        assert_eq!(image[4], 4.0);
        seen.insert(image.iter().map(|v| *v as u32).collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 8);
}
