use super::*;
use halation_posterior::{Axis, OutputKind, Variable, write_ensemble};
use halation_vlbi::MICROARCSECOND_RAD as UAS;
use ndarray::{Array1, Array5, ArrayD, IxDyn};

const N: usize = 48;
const FOV_UAS: f64 = 120.0;

fn ring(diameter: f64, east: f64, jitter: u64) -> Vec<f64> {
    let grid = ImageGrid::new(N, FOV_UAS * UAS).unwrap();
    let mut noise = halation_compute::Philox::new(jitter).sequence(0, 0);
    (0..grid.len())
        .map(|k| {
            let (e, n) = (grid.l_rad(k % N) / UAS - east, grid.m_rad(k / N) / UAS);
            let r = e.hypot(n);
            let ring = (-0.5 * ((r - 0.5 * diameter) / 4.0).powi(2)).exp() * (1.0 - 0.5 * n / r.max(1.0));
            ring + 0.01 * ring * noise.normal()
        })
        .collect()
}

fn ensemble(images: &[Vec<f64>]) -> Ensemble {
    let draws = images.len();
    let axis = |name: &str, sign: f64| Axis {
        name: name.into(),
        unit: "rad".into(),
        values: (0..N).map(|k| sign * (k as f64 - 0.5 * (N as f64 - 1.0)) * FOV_UAS * UAS / N as f64).collect(),
    };
    let flat: Vec<f32> = images.iter().flatten().map(|v| *v as f32).collect();
    let chi2 = (0..draws).map(|k| 0.9 + 0.01 * k as f64).collect();
    let variable = Variable {
        dims: vec!["chain".into(), "draw".into()],
        unit: String::new(),
        description: "reduced chi2 of the closure phases".into(),
        values: ArrayD::from_shape_vec(IxDyn(&[1, draws]), chi2).unwrap(),
    };
    Ensemble {
        images: Array5::from_shape_vec((1, draws, 1, N, N), flat).unwrap(),
        unit: "Jy/pixel".into(),
        channels: vec!["I".into()],
        y: axis("y", 1.0),
        x: axis("x", -1.0),
        weights: Array1::from_elem(draws, 1.0 / draws as f64),
        sample_stats: [("reduced_chi2_closure_phase".to_string(), variable)].into(),
        observed_data: Default::default(),
        posterior_predictive: Default::default(),
        attributes: [("solver".to_string(), "test".to_string())].into(),
        output_kind: OutputKind::Samples,
    }
}

#[test]
fn chi2_and_ring_features_of_known_draws() {
    let images: Vec<Vec<f64>> = (0..21).map(|k| ring(38.0 + 0.4 * k as f64, 0.0, k)).collect();
    let e = ensemble(&images);
    let (medians, all) = chi2(&e, "reduced_chi2_").unwrap();
    assert!((medians["closure_phase"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(all["closure_phase"].as_array().unwrap().len(), 21);
    assert!(chi2(&e, "diagonal_chi2_").unwrap().0.is_empty());
    let draws = draws_of(&e);
    let grid = draws.grid.unwrap();
    assert!((grid.fov_rad / (FOV_UAS * UAS) - 1.0).abs() < 1e-9);
    let features: Vec<_> = draws.images.iter().map(|i| ring_features(&grid, i, &RingOptions::default()).unwrap()).collect();
    assert!(features.iter().all(|f| f.is_some_and(|f| f.is_ring())));
    let summary = ring_summary(&features, &draws.weights).unwrap();
    let q = |name: &str, q: &str| summary[name][q].as_f64().unwrap();
    assert!((q("diameter_uas", "q50") - 42.0).abs() < 0.5 && (q("diameter_uas", "q05") - 38.0).abs() < 0.9, "{summary}");
    assert!((q("position_angle_deg", "q50") - 180.0).abs() < 3.0, "{summary}");
}

/// Bright sides on both sides of North: the limits stay in one piece.
#[test]
fn position_angles_wrap() {
    let grid = ImageGrid::new(N, FOV_UAS * UAS).unwrap();
    let base = ring_features(&grid, &ring(40.0, 0.0, 0), &RingOptions::default()).unwrap().unwrap();
    let angles = [350.0, 355.0, 2.0, 8.0, 15.0];
    let features: Vec<_> = angles.iter().map(|a| Some(RingFeatures { position_angle_deg: *a, ..base })).collect();
    let q = ring_summary(&features, &[0.2; 5]).unwrap()["position_angle_deg"].clone();
    let (low, middle, high) = (q["q05"].as_f64().unwrap(), q["q50"].as_f64().unwrap(), q["q95"].as_f64().unwrap());
    assert!((high - low - 25.0).abs() < 1e-9 && (middle.rem_euclid(360.0) - 2.0).abs() < 1e-9, "{q}");
}

/// Through the files: a truth on another grid, shifted and brighter, is recognised; the command prints valid JSON keys.
#[test]
fn truth_on_another_grid() {
    let folder = tempfile::tempdir().unwrap();
    let images: Vec<Vec<f64>> = (0..20).map(|k| ring(42.0, 0.0, 100 + k)).collect();
    write_ensemble(&ensemble(&images), &folder.path().join("posterior.h5")).unwrap();
    std::fs::write(folder.path().join("run.toml"), "[prior]\nprior_ring_probability = 0.25\n").unwrap();
    let read = read_ensemble(&folder.path().join("posterior.h5")).unwrap();
    assert_eq!(prior_ring_probability(&read, Some(folder.path())), Some(0.25));
    assert_eq!(prior_ring_probability(&read, None), None);
    let draws = draws_of(&read);
    let grid = draws.grid.unwrap();
    let truth: Vec<f64> = ring(42.0, 7.5, 999).iter().map(|v| 3.0 * v).collect();
    let fine = ndarray::Array2::from_shape_fn((2 * N, 2 * N), |(j, i)| 0.25 * truth[j / 2 * N + i / 2]);
    let path = folder.path().join("truth.fits");
    halation_io::write_fits_image(&path, &halation_io::SkyImage::new(fine, FOV_UAS * UAS / (2 * N) as f64), &[]).unwrap();
    let found = truth::compare(&path, &draws, &grid, &RingOptions::default(), 0).unwrap();
    let score = |name: &str| found["mean"][name].as_f64().unwrap();
    assert!(score("correlation") > 0.999 && score("correlation_20uas") > 0.999, "{found}");
    assert!((score("shift_east_uas") - 7.5).abs() < 0.1 && score("shift_north_uas").abs() < 0.1, "{found}");
    assert!((found["flux_ratio"].as_f64().unwrap() * 3.0 - 1.0).abs() < 0.01, "{found}");
    assert!(score("nrmse") < 0.05 && score("psnr_db") > 30.0 && score("ssim") > 0.95, "{found}");
    // The truth differs from the draws as they differ among themselves: one per cent noise of its own.
    let inside = found["coverage"]["inside"][2].as_f64().unwrap();
    assert!((0.8..=0.98).contains(&inside), "{found}");
    // Shift and brightness of the truth do not count; rings of one shape have one share, which a single pixel's noise of one per cent hardly moves.
    let share = &found["bright_flux_share"];
    let of_truth = share["truth"].as_f64().unwrap();
    assert!(of_truth > 0.2 && of_truth < 0.95, "{share}");
    assert!(share["draws"].as_array().unwrap().iter().all(|d| (d.as_f64().unwrap() - of_truth).abs() < 0.01), "{share}");
    for json in [true, false] {
        let args = Args {
            out: folder.path().to_path_buf(),
            truth: Some(path.clone()),
            json,
            largest_ring: 95.0 * UAS,
            rex_lengths: false,
            seed: 0,
        };
        assert!(matches!(run(args), Ok(Outcome::Done)));
    }
    assert!(truth::compare(&folder.path().join("absent.fits"), &draws, &grid, &RingOptions::default(), 0).is_err());
}

/// Copies are counted, and what random places between few draws would pass for coverage is said.
#[test]
fn few_or_equal_draws_are_no_evidence() {
    let images = [ring(40.0, 0.0, 1), ring(40.0, 0.0, 1), ring(42.0, 0.0, 2)];
    assert_eq!(distinct(&images), 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("truth.fits");
    let grid = ImageGrid::new(N, FOV_UAS * UAS).unwrap();
    let truth = ndarray::Array2::from_shape_vec((N, N), ring(60.0, 0.0, 3)).unwrap();
    halation_io::write_fits_image(&path, &halation_io::SkyImage::new(truth, grid.pixel_rad()), &[]).unwrap();
    for (draws, expected) in [(4, [0.0, 0.5, 0.75, 0.875]), (19, [0.0, 0.0, 0.0, 0.5])] {
        let e = ensemble(&vec![ring(40.0, 0.0, 1); draws]);
        let draws = draws_of(&e);
        let truth = truth::compare(&path, &draws, draws.grid.as_ref().unwrap(), &RingOptions::default(), 0).unwrap();
        // A ring of 60 uas, laid over the bright side of rings of 40 uas, leaves it elsewhere.
        let share = |v: &serde_json::Value| v.as_f64().unwrap();
        assert!(share(&truth["bright_flux_share"]["truth"]) < share(&truth["bright_flux_share"]["draws"][0]) - 0.1, "{truth}");
        let beyond = truth["coverage"]["inside_if_beyond_all"].as_array().unwrap();
        for (found, expected) in beyond.iter().zip(expected) {
            assert!((found.as_f64().unwrap() - expected).abs() < 1e-9, "{beyond:?}");
        }
    }
}
