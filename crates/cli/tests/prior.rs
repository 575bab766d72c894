//! `halation prior` from the outside: training that is stopped and resumed, samples, information, and evaluation against golden files.

use halation_io::{SkyImage, TensorFile, write_fits_image};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn halation(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_halation")).args(args).output().expect("the binary runs")
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let out = halation(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[track_caller]
fn is_refused(args: &[&str], says: &[&str]) {
    let out = halation(args);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {message}");
    says.iter().for_each(|s| assert!(message.contains(s), "{s:?} is not in {message:?}"));
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    (d / b.iter().map(|b| (*b as f64).powi(2)).sum::<f64>()).sqrt()
}

#[test]
fn train_resume_info_and_sample() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    let train = |out: &str, images: &str, more: &[&str]| {
        let common =
            ["prior", "train", "vlbi-sources", "-o", out, "--images", images, "--res", "16", "--channels", "16", "--mult", "1,1"];
        let rest = ["--attn", "8", "--batch", "4", "--seed", "7", "--warmup", "40"];
        [&common[..], &rest, more].concat().into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
    run(train(&whole, "24", &[]));
    run(train(&parts, "12", &["--schedule", "constant"]));
    let again = train(&parts, "24", &[]);
    is_refused(&again.iter().map(String::as_str).collect::<Vec<_>>(), &["--resume"]);
    run(train(&parts, "24", &["--resume", "--threads", "1"]));
    let prior = |run: &str| PathBuf::from(run).join("prior.safetensors").to_string_lossy().into_owned();
    let bytes = |file: &str| std::fs::read(file).expect("prior");
    assert!(bytes(&prior(&whole)) == bytes(&prior(&parts)), "a resumed run must give the same file");

    let info: serde_json::Value = serde_json::from_str(&succeeds(&["prior", "info", &prior(&whole), "--json"])).expect("JSON");
    assert_eq!((info["kind"].as_str(), &info["image_shape"]), (Some("unet"), &serde_json::json!([1, 16, 16])));
    assert_eq!(info["extra"]["images_seen"], "24");
    assert_eq!(info["sha256"].as_str().map(str::len), Some(64));

    assert_eq!(info["extra"]["fov_uas"], "[100.0,250.0]");

    let (sheet, samples) = (path("sheet.png"), path("samples.safetensors"));
    succeeds(&["prior", "sample", &prior(&whole), "-n", "5", "--steps", "4", "-o", &sheet]);
    assert!(bytes(&sheet).starts_with(b"\x89PNG"));
    succeeds(&["prior", "sample", &prior(&whole), "-n", "5", "--steps", "4", "-o", &samples]);
    let file = TensorFile::read(Path::new(&samples)).expect("samples");
    let (shape, values) = file.f32s("samples").expect("samples");
    assert!(shape == [5, 1, 16, 16] && values.iter().all(|v| v.is_finite()));
    is_refused(&["prior", "sample", &prior(&whole), "-o", &path("sheet.gif")], &["gif", ".png"]);
    for what in [&["prior", "train"], &["prior", "info"], &["prior", "sample"], &["prior", "eval"], &["simulate", "sources"]] {
        assert!(succeeds(&[what[0], what[1], "--help"]).contains("Example: halation"), "{what:?}");
    }
    is_refused(&["prior", "info", &path("absent")], &["absent"]);
    is_refused(&["prior", "train", "cats", "-o", &path("x"), "--images", "1"], &["cats", "vlbi-sources"]);
}

/// The loss stands in the prior's file, from which it is loaded with the preconditioning that belongs to it, resumed and gone on from.
#[test]
fn train_with_other_losses() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let train = |out: &str, images: &str, more: &[&str]| {
        succeeds(&[&["prior", "train", "vlbi-sources", "-o", &path(out), "--images", images][..], more].concat())
    };
    let small = ["--res", "16", "--channels", "16", "--mult", "1,1", "--attn", "8", "--batch", "4"];
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    for (loss, more, precond, setting) in [
        ("eps", &["--noise-schedule", "cosine", "--diffusion-steps", "500"][..], "eps", ("diffusion_steps", 500.0)),
        ("rectified-flow", &[], "rectified_flow", ("", 0.0)),
        ("ve", &["--sigma-max", "50"], "ve", ("sigma_max", 50.0)),
        ("vp", &[], "vp", ("", 0.0)),
    ] {
        train(loss, "8", &[&small[..], &["--loss", loss], more].concat());
        train(loss, "12", &["--resume"]);
        let prior = path(&format!("{loss}/prior.safetensors"));
        let info = json(&succeeds(&["prior", "info", &prior, "--json"]));
        let training = json(info["extra"]["training"].as_str().expect("settings"));
        assert_eq!(
            (training["loss"].as_str(), training.get(setting.0).and_then(|v| v.as_f64())),
            (Some(loss), (!setting.0.is_empty()).then_some(setting.1))
        );
        assert_eq!(json(info["config"].as_str().expect("config"))["precond"], precond);
        succeeds(&["prior", "sample", &prior, "-n", "2", "--steps", "3", "-o", &path(&format!("{loss}.png"))]);
        let from = ["prior", "train", "vlbi-sources", "-o", &path("on"), "--images", "16", "--from", &prior];
        is_refused(&[&from[..], &["--loss", "edm"]].concat(), &["--loss", loss, "--from"]);
        train(&format!("{loss}-on"), "16", &["--from", &prior, "--batch", "4"]);
    }
    let refused = |more: &[&str], says: &[&str]| {
        is_refused(&[&["prior", "train", "vlbi-sources", "-o", &path("none"), "--images", "8"][..], more].concat(), says);
    };
    refused(&["--loss", "vp", "--p-mean", "-1"], &["--p-mean", "--loss edm", "vp"]);
    refused(&["--noise-schedule", "linear"], &["--noise-schedule", "--loss eps", "edm"]);
    refused(&["--loss", "ve", "--sigma-min", "200"], &["sigma_max is 100", "200"]);
    refused(&["--loss", "eps", "--diffusion-steps", "1"], &["diffusion_steps is 1"]);
    assert!(!Path::new(&path("none")).exists());
}

/// From images alone and from a teacher's paths, which a resumed run has to be given again; samples in one call or several; refused where a denoiser is
/// needed.
#[test]
fn train_a_consistency_model() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let train = |out: &str| ["prior", "train", "vlbi-sources", "-o", &path(out)].map(str::to_string);
    let run = |out: &str, more: &[&str]| succeeds(&[&train(out).each_ref().map(String::as_str)[..], more].concat());
    let refused = |out: &str, more: &[&str], says: &[&str]| {
        is_refused(&[&train(out).each_ref().map(String::as_str)[..], more].concat(), says);
    };
    let small = ["--res", "16", "--channels", "16", "--mult", "1,1", "--attn", "8", "--batch", "4"];
    let consistency = [&small[..], &["--loss", "consistency"]].concat();
    let (teacher, other) = (path("teacher/prior.safetensors"), path("other/prior.safetensors"));
    run("teacher", &[&small[..], &["--images", "8"]].concat());
    run("other", &[&small[..], &["--images", "4"]].concat());
    refused("none", &consistency, &["--images", "--intervals N,N"]);
    refused("none", &[&small[..], &["--teacher", &teacher, "--images", "8"]].concat(), &["--teacher", "--loss consistency"]);
    run("alone", &[&consistency[..], &["--images", "8", "--intervals", "4,16"]].concat());
    run("taught", &["--batch", "4", "--loss", "consistency", "--images", "16", "--from", &teacher, "--teacher", &teacher]);
    let more = ["--resume", "--images", "20"];
    refused("taught", &more, &["has the teacher with SHA-256", "--teacher"]);
    refused("taught", &[&more[..], &["--teacher", &other]].concat(), &[&other, "found the SHA-256", "give the same file"]);
    run("taught", &[&more[..], &["--teacher", &teacher]].concat());
    let model = path("taught/prior.safetensors");
    for more in [&["--steps", "1"][..], &[]] {
        succeeds(&[&["prior", "sample", &model, "-n", "2", "-o", &path("sheet.png")][..], more].concat());
    }
    let sheet = path("none.png");
    is_refused(&["prior", "sample", &model, "--sampler", "heun", "-o", &sheet], &["a consistency model", "--sampler consistency"]);
    is_refused(&["prior", "sample", &teacher, "--sampler", "consistency", "-o", &sheet], &["a denoiser", "--sampler ancestral"]);
    is_refused(&["prior", "eval", &model, "--source", "vlbi-sources"], &["found a consistency model", "expected a denoiser"]);
    let observation = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/demo/ring.uvfits");
    is_refused(
        &["reconstruct", "vlbi", observation, "-o", &path("out"), "--prior", &model, "--dry-run"],
        &["found a consistency model"],
    );
}

/// Passes change no weight of a prior, and the log states the loss on held-out images.
#[test]
fn train_with_accumulation_and_validation() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let small = ["--res", "16", "--channels", "16", "--mult", "1,1", "--attn", "8", "--batch", "2", "--images", "100"];
    let train =
        |out: &str, more: &[&str]| succeeds(&[&["prior", "train", "vlbi-sources", "-o", &path(out)][..], &small, more].concat());
    train("whole", &[]);
    train("passes", &["--accumulation", "2", "--validation", "3"]);
    let read = |file: &str| TensorFile::read(Path::new(&path(file))).expect(file);
    assert!(read("whole/prior.safetensors").tensors == read("passes/prior.safetensors").tensors);
    let log = std::fs::read_to_string(path("passes/log.jsonl")).expect("log");
    let line: serde_json::Value = serde_json::from_str(log.trim()).expect("JSON");
    assert!(line["validation_loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss.is_finite()), "{line}");
    let none = path("none");
    is_refused(
        &["prior", "train", "vlbi-sources", "-o", &none, "--batch", "4", "--accumulation", "5"],
        &["accumulation is 5", "4"],
    );
}

/// A laboratory's own images: the size comes from them, a stopped run goes on to the same bits, and what cannot be meant is refused.
#[test]
fn train_on_a_folder_of_images() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(path("images")).expect("folder");
    let write = |name: &str, side: usize, value: f64| {
        let pixels = ndarray::Array2::from_shape_fn((side, side), |(y, x)| value * ((y * side + x) % 7) as f64);
        write_fits_image(Path::new(&path(name)), &SkyImage::new(pixels, 1e-11), &[]).expect("image");
    };
    (0..6).for_each(|i| write(&format!("images/{i}.fits"), 8, 1.0 + i as f64));
    let (images, small) = (path("images"), ["--channels", "16", "--mult", "1,1", "--attn", "4", "--batch", "2"]);
    let train = |out: &str, to: &str, more: &[&str]| {
        succeeds(&[&["prior", "train", &images, "-o", &path(out), "--images", to][..], more].concat())
    };
    let settings =
        [&small[..], &["--validation", "2", "--augment", "--loss", "vp", "--optimizer", "radam", "--weight-decay", "0.01"]]
            .concat();
    train("whole", "12", &settings);
    train("parts", "6", &settings);
    train("parts", "12", &["--resume", "--threads", "1"]);
    let prior = path("whole/prior.safetensors");
    let bytes = |file: &str| std::fs::read(file).expect("prior");
    assert!(bytes(&prior) == bytes(&path("parts/prior.safetensors")), "a resumed run must give the same file");
    let info: serde_json::Value = serde_json::from_str(&succeeds(&["prior", "info", &prior, "--json"])).expect("JSON");
    assert_eq!((&info["image_shape"], &info["range"]), (&serde_json::json!([1, 8, 8]), &serde_json::json!([-1.0, 1.0])));
    assert_eq!(info["unit"], "z = 2 (v - 0) / (36 - 0) - 1 with pixel value v");
    assert!(info["trained_on"].as_str().is_some_and(|s| s.starts_with("6 images of 6 files, SHA-256 ")));
    train("on", "16", &["--from", &prior, "--batch", "2"]);
    train("ranged", "4", &[&small[..], &["--range", "-36,36"]].concat());

    let refused = |more: &[&str], says: &[&str]| {
        is_refused(&[&["prior", "train", &images, "-o", &path("none"), "--images", "20"][..], more].concat(), says);
    };
    refused(&["--range", "0,10"], &["value", "0 to 10"]);
    refused(&["--range", "10,0"], &["10,0", "increasing"]);
    refused(&["--weight-decay", "1e4"], &["weight_decay is 10000"]);
    refused(&["--res", "16"], &["[1, 8, 8]", "[1, 16, 16]"]);
    refused(&["--validation", "6"], &["validation_images is 6", "6 images"]);
    refused(&["--from", &prior, "--range", "0,72"], &["72", "--range"]);
    refused(&["--from", &prior, "--validation", "1"], &["validation_images is 1", "2 held out"]);
    is_refused(&["prior", "train", "vlbi-sources", "-o", &path("none"), "--range", "0,1"], &["--range", "folder"]);
    write("images/6.fits", 8, 3.0);
    is_refused(&["prior", "train", &images, "-o", &path("parts"), "--resume"], &["6 images of 6 files", "7 images of 7 files"]);
    write("images/6.fits", 4, 3.0);
    refused(&[], &["6.fits", "[1, 4, 4]", "[1, 8, 8]", "0.fits"]);
    assert!(!Path::new(&path("none")).exists());
}

/// A run from a prior needs no setting that the prior has, and refuses another one; stopped and resumed it gives the same file.
#[test]
fn train_goes_on_from_a_prior() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let small = ["--res", "16", "--channels", "16", "--mult", "1,1", "--attn", "8", "--batch", "4", "--seed", "7"];
    succeeds(&[&["prior", "train", "vlbi-sources", "-o", &path("first"), "--images", "12"][..], &small].concat());
    let prior = path("first/prior.safetensors");
    let (whole, parts) = (path("whole"), path("parts"));
    let train = |out: &str, images: &str, more: &[&str]| {
        succeeds(&[&["prior", "train", "vlbi-sources", "-o", out, "--images", images][..], more].concat())
    };
    let settings = ["--from", &prior, "--batch", "3", "--warmup", "6", "--lr", "5e-4"];
    train(&whole, "24", &settings);
    train(&parts, "18", &[&settings[..], &["--channels", "16"]].concat());
    train(&parts, "24", &["--resume", "--threads", "1"]);
    let bytes = |run: &str| std::fs::read(Path::new(run).join("prior.safetensors")).expect("prior");
    assert!(bytes(&whole) == bytes(&parts), "a resumed run must give the same file");
    let json = |args: &[&str]| serde_json::from_str::<serde_json::Value>(&succeeds(args)).expect("JSON");
    let info = json(&["prior", "info", &path("whole/prior.safetensors"), "--json"]);
    let training: serde_json::Value = serde_json::from_str(info["extra"]["training"].as_str().expect("settings")).expect("JSON");
    assert_eq!((&training["seed"], &training["first_image"]), (&serde_json::json!(7), &serde_json::json!(12)));
    assert_eq!((info["extra"]["images_seen"].as_str(), training["batch"].as_u64()), (Some("24"), Some(3)));
    assert_eq!(training["from_sha256"], json(&["prior", "info", &prior, "--json"])["sha256"]);
    // The run's own images are those after the prior's.
    let quick = ["--images", "12", "--reference", "20", "--sigmas", "1", "--samples", "0", "--json"];
    let name = path("whole/prior.safetensors");
    let report = json(&[&["prior", "eval", &name, "--source", "vlbi-sources"][..], &quick].concat());
    assert_eq!(report["training"], serde_json::json!({ "seed": 7, "first": 12, "images_seen": 24, "images": 12 }));

    let out = path("out");
    let refused = |more: &[&str], says: &[&str]| {
        is_refused(&[&["prior", "train", "vlbi-sources", "-o", &out, "--from", &prior][..], more].concat(), says);
    };
    for (option, other, has) in [
        ("--res", "32", "16"),
        ("--channels", "32", "16"),
        ("--mult", "1,2", "[1, 1]"),
        ("--attn", "16", "[8]"),
        ("--blocks", "2", "1"),
        ("--sigma-data", "0.25", "0.5"),
    ] {
        refused(&[option, other], &[option, other.rsplit(',').next().expect("value"), "prior.safetensors", has]);
    }
    refused(&["--images", "12"], &["--images 12", "has seen 12"]);
    refused(&["--resume"], &["--from", "--resume"]);
    is_refused(&["prior", "train", "vlbi-sources", "-o", &whole, "--from", &prior, "--images", "30"], &["holds a training run"]);
    let mut file = TensorFile::read(Path::new(&prior)).expect("prior");
    file.metadata.insert("range".into(), "[0.0,1.0]".into());
    file.write(Path::new(&prior)).expect("prior");
    refused(&[], &["[0.0, 1.0]", "[-1.0, 1.0]"]);
    assert!(!Path::new(&out).exists());
}

/// The figures of a prior's card: errors on fresh and training images and of the linear denoiser, and the ring share, which --record
/// stores in the file and nothing else does.
#[test]
fn eval_measures_a_prior_against_its_source() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().to_string_lossy().into_owned();
    let small = ["--res", "32", "--channels", "16", "--mult", "1,1", "--attn", "8", "--batch", "4", "--seed", "7", "--images", "8"];
    succeeds(&[&["prior", "train", "vlbi-sources", "-o", &out][..], &small].concat());
    let prior = folder.path().join("prior.safetensors");
    let name = prior.to_string_lossy().into_owned();
    let base = ["prior", "eval", &name, "--source", "vlbi-sources"];
    let quick = ["--images", "12", "--reference", "100", "--sigmas", "0.01,1,30"];
    let eval = |more: &[&str]| succeeds(&[&base[..], &quick, more].concat());
    let before = std::fs::read(&prior).expect("prior");
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let report = json(&eval(&["--samples", "0", "--json"]));
    assert!(std::fs::read(&prior).expect("prior") == before, "only --record writes");
    assert_eq!((&report["ring_gate"], &report["fresh"]["seed"]), (&serde_json::Value::Null, &serde_json::json!(8)));
    assert_eq!(report["training"], serde_json::json!({ "seed": 7, "first": 0, "images_seen": 8, "images": 8 }));
    let rows = report["denoising"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let number = |kind: &str, key: &str| row[kind][key].as_f64().expect(key);
        let sigma = row["sigma"].as_f64().expect("sigma");
        // The linear denoiser is better than the data at every level, in the low modes within the scatter of the noise.
        assert!(number("linear", "rms") < sigma, "{row}");
        assert!(number("linear", "low_over_sigma") < 1.0 + 5.0 * number("linear", "low_over_sigma_error"), "{row}");
        assert!(number("fresh", "rms") > 0.0 && number("training", "rms") > 0.0, "{row}");
        let ratio = number("fresh", "rms") / number("training", "rms");
        assert!((row["fresh_over_training"].as_f64().expect("ratio") / ratio - 1.0).abs() < 1e-12);
    }

    // The gate takes longer than the network.
    let few = ["--images", "2", "--reference", "10", "--sigmas", "1", "--samples", "3"];
    let report = json(&succeeds(&[&base[..], &few, &["--seed", "11", "--json", "--record"]].concat()));
    let shares = &report["ring_gate"]["shares"];
    assert_eq!((&shares["prior"]["images"], &shares["simulator"]["images"]), (&serde_json::json!(3), &serde_json::json!(10)));
    assert!((shares["fov_uas"].as_f64().expect("field") - 128.0).abs() < 1e-9);
    let info = json(&succeeds(&["prior", "info", &name, "--json"]));
    let stored: f64 = info["extra"]["ring_probability"].as_str().and_then(|s| s.parse().ok()).expect("a number");
    assert_eq!(Some(stored), shares["prior"]["share"].as_f64());
    assert_eq!(json(info["extra"]["ring_probability_from"].as_str().expect("how"))["seed"], 11);
    assert!(succeeds(&["prior", "info", &name]).contains("ring_probability"));
    let (old, new) = (folder.path().join("old.safetensors"), TensorFile::read(&prior).expect("prior"));
    std::fs::write(&old, before).expect("old");
    assert_eq!(TensorFile::read(&old).expect("old").tensors, new.tensors);

    // A file that does not say how it was trained: no training images unless they are named.
    let bare = folder.path().join("bare.safetensors").to_string_lossy().into_owned();
    let mut file = new;
    file.metadata.remove("training");
    file.write(Path::new(&bare)).expect("bare");
    let start = ["prior", "eval", &bare, "--source", "vlbi-sources", "--samples", "0"];
    let text = succeeds(&[&start[..], &quick].concat());
    assert!(text.contains("not measured") && text.contains("--train-seed") && text.contains("Wiener"), "{text}");
    let text = succeeds(&[&start[..], &quick, &["--train-seed", "7", "--train-images", "8"]].concat());
    assert!(text.contains("8 of the 8 images that the run of seed 7 saw"), "{text}");

    let refused = |more: &[&str], says: &[&str]| is_refused(&[&base[..], more].concat(), says);
    refused(&["--seed", "7"], &["--seed 7", "training"]);
    refused(&["--record", "--samples", "0"], &["--record", "--samples 500"]);
    refused(&["--sigmas", "0.1,-1", "--reference", "2"], &["-1", "positive"]);
    refused(&["--images", "1"], &["--images"]);
    refused(&["--io", "x.safetensors"], &["--source"]);
    refused(&["--grads"], &["--source"]);
    is_refused(&["prior", "eval", &name, "--source", "cats"], &["cats", "vlbi-sources"]);
    is_refused(&["prior", "eval", &name], &["--io", "--source vlbi-sources"]);
    is_refused(&["prior", "eval", &name, "--io", "x.safetensors"], &["-o OUT"]);
    is_refused(&["prior", "eval", &name, "--record"], &["--source"]);
    for (key, value) in [("training", "{}"), ("images_seen", "many"), ("range", "[0.0,1.0]")] {
        let mut file = TensorFile::read(&prior).expect("prior");
        file.metadata.insert(key.into(), value.into());
        file.write(Path::new(&bare)).expect("bare");
        is_refused(&start, &["bare.safetensors", if key == "range" { "[0.0, 1.0]" } else { key }]);
    }
}

#[test]
fn eval_agrees_with_the_golden_files() {
    let shared = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let sets = shared.join("golden/unet");
    if !sets.is_dir() {
        eprintln!("skipped: prior eval against golden files needs {}", sets.display());
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out.safetensors");
    let name = |p: &Path| p.to_string_lossy().into_owned();
    for (set, tolerance) in
        [("songunet_ddpmpp_vp", 1e-5), ("songunet_ncsnpp_ve", 1e-4), ("dhariwal_edm", 1e-4), ("guided_diffusion_adm", 1e-4)]
    {
        let at = |f: &str| name(&sets.join(set).join(f));
        succeeds(&["prior", "eval", &at("weights.safetensors"), "--io", &at("io.safetensors"), "-o", &name(&out), "--grads"]);
        let read = |path: &str| TensorFile::read(Path::new(path)).expect(path);
        let (found, io, grads) = (read(&name(&out)), read(&at("io.safetensors")), read(&at("grads.safetensors")));
        for key in ["output", "vjp_x"] {
            let error = distance(found.f32s(key).expect(key).1, io.f32s(key).expect(key).1);
            assert!(error < tolerance, "{set}: {key}: {error:e}");
        }
        for key in grads.tensors.keys().filter(|k| !k.ends_with("#l2")) {
            let expected = grads.f32s(key).expect(key).1;
            let ours = found.f32s(&format!("grad.{}", key.trim_start_matches("model."))).expect(key).1;
            let error = distance(&ours[..expected.len()], expected);
            // Biases without any effect have gradients of rounding alone.
            let rounding = expected.iter().chain(ours).all(|v| v.abs() < 1e-4);
            assert!(error < 10.0 * tolerance || rounding, "{set}: {key}: {error:e}");
        }
        std::fs::remove_file(&out).expect("removed");
    }
    let at = |f: &str| name(&sets.join("songunet_ddpmpp_vp").join(f));
    is_refused(
        &["prior", "eval", &at("io.safetensors"), "--arch", &at("config.json"), "--io", &at("io.safetensors"), "-o", &name(&out)],
        &["missing"],
    );
}

#[test]
fn convert_writes_a_whole_prior_or_none() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let at = |file: &str| root.join(file).to_string_lossy().into_owned();
    let (shipped, torch, out) =
        (at("data/priors/vlbi-64.safetensors"), at("crates/io/src/torch/example.pt"), path("prior.safetensors"));

    let printed = succeeds(&["prior", "convert", &shipped, "--range", "0,2", "--unit", "Jy", "--trained-on", "disks", "-o", &out]);
    assert!(printed.contains("prior.safetensors") && printed.contains("parameters"), "{printed}");
    let read = |file: &str| TensorFile::read(Path::new(file)).expect(file);
    let (before, after) = (read(&shipped), read(&out));
    assert!(before.tensors == after.tensors, "a conversion must keep every weight");
    assert!(after.metadata["converted_from"].starts_with("vlbi-64.safetensors, sha256 "));
    let info: serde_json::Value = serde_json::from_str(&succeeds(&["prior", "info", &out, "--json"])).expect("JSON");
    assert_eq!(
        (&info["range"], &info["unit"], &info["trained_on"]),
        (&serde_json::json!([0.0, 2.0]), &"Jy".into(), &"disks".into())
    );

    let (arch, none) = (path("config.json"), path("none.safetensors"));
    std::fs::write(
        &arch,
        r#"{"precond": "vp", "img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1], "attn_resolutions": [],
            "num_blocks": 1}"#,
    )
    .expect("written");
    std::fs::write(path("cut.pt"), &std::fs::read(&torch).expect("read")[..3000]).expect("written");
    let refused = |args: &[&str], says: &[&str]| {
        is_refused(&[&["prior", "convert"], args, &["-o", &none]].concat(), says);
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("folder").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    };
    refused(&[&torch, "--arch", &arch, "--weights", "net"], &["example.pt", "missing: ", "left over: ", "check config.json"]);
    refused(&[&torch, "--arch", &arch, "--weights", "teacher"], &["example.pt", "teacher", "ema.shadow_params"]);
    refused(&[&torch], &["example.pt", "--arch"]);
    refused(&[&path("cut.pt"), "--arch", &arch], &["cut.pt", "not a whole zip archive", "fetch the file again"]);
    refused(&[&shipped, "--range", "1,0"], &["--range"]);
    refused(&[&path("absent.pt"), "--arch", &arch], &["absent.pt"]);
}
