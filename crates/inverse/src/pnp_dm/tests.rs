use super::*;
use crate::testing::{
    Curved, Opaque, check_moments, g1, g2, golden, golden_problem, likelihood, mean_and_covariance, problem, rows, run,
};
use crate::{Checkpoint, DenseOperator, GaussianMixture, LinearGaussianLikelihood};
use halation_lapack as _;
use ndarray::arr2;

/// A Gaussian posterior: moments, also with twice the levels, so the anneal is long enough and its length does not matter.
#[test]
fn gaussian_posterior_at_any_anneal() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.5]]);
    let likelihood = likelihood(&a, &[0.9], 0.3);
    let exact = prior.posterior(a.view(), &[0.9], &[0.3]).unwrap();
    let problem = problem(&prior, prior.range(), &likelihood);
    for levels in [60, 120, 240] {
        let ensemble = run(&PnpDm { levels, ..Default::default() }, &problem, 3, 0..600);
        check_moments(&ensemble, &exact, 400.0, &format!("{levels} levels"));
    }
}

/// Mode weights of a mixture posterior, .925 / .066 / .009 where the prior has .5 / .3 / .2, and the moments within the first mode.
#[test]
fn mixture_posterior_weights() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let exact = prior.posterior(a.view(), &[0.4], &[0.3]).unwrap();
    let problem = problem(&prior, prior.range(), &likelihood);
    let ensemble = run(&PnpDm::default(), &problem, 0, 0..1000);
    let mut shares = [0.0; 3];
    for x in rows(&ensemble) {
        let distance = |k: usize| (0..2).map(|i| (x[i] - exact.means[(k, i)]).powi(2)).sum::<f64>();
        let nearest = (0..3).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
        shares[nearest] += 1.0 / 1000.0;
    }
    // The modes are five standard deviations apart; a share of 1000 draws errs by 0.008, twice that for shared ancestry.
    let tv = 0.5 * (0..3).map(|k| (shares[k] - exact.weights[k]).abs()).sum::<f64>();
    assert!(tv < 0.04, "{shares:?} against {}", exact.weights);
    assert!(ensemble.attributes["label"].contains("agree"), "{:?}", ensemble.attributes);
}

/// The same bits through a wrapper that shows nothing but the trait and cuts batches into threes, and for one thread or four.
#[test]
fn mixture_only_through_the_trait_and_any_batch() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let solver = PnpDm { levels: 20, ..Default::default() };
    let images = |prior: &dyn halation_nn::Denoiser, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&solver, &problem(prior, [-2.0, 2.0], &likelihood), 5, 0..20).images)
    };
    let plain = images(&prior, 1);
    assert_eq!(plain, images(&Opaque(&prior), 1));
    assert_eq!(plain, images(&prior, 4));
}

/// A state that was written down and read back continues to the same bits.
#[test]
fn checkpoint_continues_to_the_same_bits() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let solver = PnpDm { levels: 12, settle: 3, resample_below: 0.95, ..Default::default() };
    let whole = run(&solver, &problem, 1, 0..20);
    for stop in [1, 7, 14] {
        let mut state = solver.init(&problem, Philox::new(1), 0..20).unwrap();
        (0..stop).for_each(|_| assert!(!solver.step(&problem, &mut state).unwrap().done()));
        let mut state = PnpDmState::restore(&state.save()).unwrap();
        while !solver.step(&problem, &mut state).unwrap().done() {}
        let resumed = solver.finish(&problem, state).unwrap();
        assert_eq!((resumed.images, resumed.attributes), (whole.images.clone(), whole.attributes.clone()), "stopped after {stop}");
    }
    let mut broken = solver.init(&problem, Philox::new(1), 0..20).unwrap().save();
    broken.tensors.remove("ladder");
    assert!(PnpDmState::restore(&broken).is_err());
}

#[test]
fn unusable_settings_are_named() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.5]]);
    let likelihood = likelihood(&a, &[0.9], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let message = |solver: PnpDm, draws| solver.plan(&problem, draws).unwrap_err().to_string();
    assert!(message(PnpDm::default(), 0).contains("at least one"));
    assert!(message(PnpDm { population: Some(10), ..Default::default() }, 20).contains("10 particles for 20 draws"));
    assert!(message(PnpDm { levels: 1, ..Default::default() }, 20).contains("1 levels"));
    let small =
        GaussianMixture::new([1, 1, 1], ndarray::arr1(&[1.0]).view(), arr2(&[[0.0]]).view(), ndarray::arr3(&[[[1.0]]]).view())
            .unwrap();
    let curved = Curved(&likelihood);
    let nonlinear = Problem { likelihood: &curved, ..crate::testing::problem(&prior, prior.range(), &likelihood) };
    let error = PnpDm::default().init(&nonlinear, Philox::new(0), 0..4).err().unwrap().to_string();
    assert!(error.contains("linear") && error.contains("langevin"), "{error}");
    let wrong = Problem { prior: &small, ..problem };
    let error = PnpDm::default().init(&wrong, Philox::new(0), 0..4).err().unwrap().to_string();
    assert!(error.contains("[1, 1, 1]") && error.contains("[1, 1, 2]"), "{error}");
}

/// On the golden image problem of 256 pixels and 84 data: mean and variances against the closed form, and chi2 as the posterior's own.
#[test]
fn golden_fourier_problem() {
    let Some(path) = golden("gaussian_fourier") else { return };
    let (prior, file) = golden_problem(&path);
    let operator = DenseOperator::new(file.image_shape, file.a.view()).unwrap();
    let likelihood = LinearGaussianLikelihood::new(operator, file.y.to_vec(), file.sigma.to_vec()).unwrap();
    let exact = prior.posterior(file.a.view(), &file.y.to_vec(), &file.sigma.to_vec()).unwrap();
    let problem = problem(&prior, prior.range(), &likelihood);
    let ensemble = run(&PnpDm::default(), &problem, 0, 0..64);
    let x = rows(&ensemble);
    let (mean, covariance) = mean_and_covariance(&x);
    let expected = exact.covariance();
    let d = mean.len() as f64;
    let scale = (expected.diag().sum() / d).sqrt();
    let error = (mean.iter().zip(exact.mean()).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / d).sqrt() / scale;
    // A quarter of the variance lies in one direction: the RMS error of 64 perfect draws is 0.125, its 99th percentile 0.24.
    assert!(error < 0.3, "RMS error of the mean {error}");
    let spread = (0..mean.len()).map(|i| (covariance[(i, i)] / expected[(i, i)]).sqrt()).sum::<f64>() / d;
    assert!((spread - 1.0).abs() < 0.1, "standard deviations {spread} times the exact ones");
    let chi2 = ensemble.sample_stats["reduced_chi2_data"].values.mean().unwrap();
    let draws = exact.sample(Philox::new(1), 0..400).unwrap();
    let own = (0..400).map(|i| crate::Domain::reduced_chi2(&likelihood, draws.item(i)).unwrap()[0].1).sum::<f64>() / 400.0;
    assert!((chi2 / own - 1.0).abs() < 0.1, "chi2 {chi2} against {own}");
}
