use super::*;
use crate::{Axis, write_ensemble};
use ndarray::{Array1, Array5, ArrayD};

fn ensemble(draws: usize) -> Ensemble {
    let axis = |name: &str| Axis { name: name.into(), unit: "rad".into(), values: (0..8).map(|i| 1e-11 * i as f64).collect() };
    let per_draw = |f: &dyn Fn(usize) -> f64, unit: &str| Variable {
        dims: vec!["chain".into(), "draw".into()],
        unit: unit.into(),
        description: String::new(),
        values: ArrayD::from_shape_fn(vec![1, draws], |i| f(i[1])),
    };
    Ensemble {
        images: Array5::from_shape_fn((1, draws, 1, 8, 8), |(_, d, _, y, x)| (d + y * x) as f32),
        unit: "Jy/pixel".into(),
        channels: vec!["I".into()],
        y: axis("y"),
        x: axis("x"),
        weights: Array1::from_elem(draws, 1.0 / draws as f64),
        sample_stats: [
            ("reduced_chi2_closure_phase".to_string(), per_draw(&|d| 1.0 + 0.01 * d as f64, "")),
            ("ring_diameter_uas".to_string(), per_draw(&|d| if d == 0 { f64::NAN } else { 42.0 + d as f64 }, "uas")),
        ]
        .into(),
        observed_data: [(
            "closure_phase".to_string(),
            Variable {
                dims: vec!["n".into()],
                unit: "rad".into(),
                description: "phases <wrapped>".into(),
                values: ArrayD::zeros(vec![5]),
            },
        )]
        .into(),
        posterior_predictive: Default::default(),
        attributes: [
            ("object".to_string(), "M87 <script>".to_string()),
            ("label".into(), "annealed split Gibbs: mode weights checked by two populations (do not agree)".into()),
            ("populations_agree".into(), "no".into()),
            ("draws_unlike_prior".into(), "3".into()),
            ("command_line".into(), "halation reconstruct vlbi a.uvfits -o OUT".into()),
        ]
        .into(),
        output_kind: OutputKind::Samples,
    }
}

fn page(e: &Ensemble, files: &[(&str, &str)]) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    write_ensemble(e, &folder.path().join("posterior.h5")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let page = write_report(folder.path(), None)?;
    Ok(std::fs::read_to_string(page).unwrap())
}

#[test]
fn page_is_self_contained_and_says_what_matters() {
    let html = page(&ensemble(21), &[("run.toml", "seed = 0 # <x>"), ("assess.json", "{\"ring_probability\": 0.95}")]).unwrap();
    for expected in [
        "M87 &lt;script&gt;",
        "phases &lt;wrapped&gt;",
        "seed = 0 # &lt;x&gt;",
        "halation reconstruct vlbi a.uvfits -o OUT",
        "reduced chi2 closure phase</td><td>1.1</td><td>1.001 to 1.199</td><td>1</td><td>1.2",
        "(20 of 21 draws)",
        "ring probability",
        "0.95",
        "is not established",
        "3 of 21 draws fit the data with structures unlike any image of the prior",
        "draw 20",
    ] {
        assert!(html.contains(expected), "{expected} is missing");
    }
    assert!(!html.contains("<script") && !html.contains("http"), "nothing is loaded from elsewhere");
    assert_eq!(html.matches("data:image/png;base64,").count(), 22);
}

#[test]
fn few_draws_and_other_kinds_are_named() {
    let mut e = ensemble(4);
    e.output_kind = OutputKind::Mode;
    e.weights = ndarray::arr1(&[0.7, 0.1, 0.1, 0.1]);
    e.attributes.clear();
    e.sample_stats.clear();
    e.observed_data.clear();
    let html = page(&e, &[]).unwrap();
    for expected in [
        "fewer than 20 effective draws",
        "unequal weights",
        "not samples of the posterior",
        "states nothing about the calibration",
        "stored no chi-square",
        "holds no data",
    ] {
        assert!(html.contains(expected), "{expected} is missing");
    }
}

/// What is said of the populations is what the file records of them, and that it is unknown where only the label speaks of them.
#[test]
fn populations_in_words() {
    let mut e = ensemble(21);
    let mut said = |agree: Option<&str>, label: &str| {
        e.attributes.insert("label".into(), label.into());
        match agree {
            Some(agree) => e.attributes.insert("populations_agree".into(), agree.into()),
            None => e.attributes.remove("populations_agree"),
        };
        let html = page(&e, &[]).unwrap();
        ["do not agree: the spread shown is too small", "not confirmed", "It is unknown whether"].map(|words| html.contains(words))
    };
    assert_eq!(said(Some("yes"), "two populations agree"), [false; 3]);
    assert_eq!(said(Some("no"), "two populations differ"), [true, false, false]);
    assert_eq!(said(Some("not compared"), "one population of two"), [false, true, false]);
    assert_eq!(said(None, "mode weights checked by two populations"), [false, false, true]);
    assert_eq!(said(None, "DPS: approximate"), [false; 3]);
}

#[test]
fn missing_or_damaged_parts_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("OUT");
    assert!(write_report(&out, None).unwrap_err().to_string().contains("expected the folder of a finished reconstruction"));
    drop(halation_io::OutputDir::begin(&out, halation_io::Existing::Resume).unwrap());
    assert!(write_report(&out, None).unwrap_err().to_string().contains("--resume"));
    assert!(write_report(&folder.path().join("OUT.partial"), None).unwrap_err().to_string().contains("--resume"));
    assert!(read_ensemble(&out).unwrap_err().to_string().contains("--resume"));
    assert!(page(&ensemble(2), &[("assess.json", "{")]).unwrap_err().to_string().contains("is not JSON"));
}
