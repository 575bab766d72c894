use super::*;
use crate::testing::{
    Curved, Opaque, check_moments, g1, g2, golden, golden_problem, likelihood, mean_and_covariance, problem, rows, run,
};
use crate::{Checkpoint, DenseOperator, Likelihood, LinearGaussianLikelihood};
use halation_lapack as _;
use ndarray::arr2;

/// A Gaussian posterior: moments, for one descent and for several, with the shared curvature of a linear problem and with particles' own.
#[test]
fn gaussian_posterior_with_and_without_restarts() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.5]]);
    let likelihood = likelihood(&a, &[0.9], 0.3);
    let exact = prior.posterior(a.view(), &[0.9], &[0.3]).unwrap();
    let linear = problem(&prior, prior.range(), &likelihood);
    let curved = Curved(&likelihood);
    let own = Problem { likelihood: &curved, ..problem(&prior, prior.range(), &likelihood) };
    for (levels, restarts) in [(60, 0), (120, 1)] {
        for (what, problem) in [("shared", &linear), ("own", &own)] {
            let ensemble = run(&Langevin { levels, restarts, ..Default::default() }, problem, 3, 0..600);
            check_moments(&ensemble, &exact, 400.0, &format!("{what} curvature, {restarts} restarts"));
        }
    }
}

/// On the golden image problem of 256 pixels and 84 data against the closed form.
#[test]
fn golden_fourier_problem() {
    let Some(path) = golden("gaussian_fourier") else { return };
    let (prior, file) = golden_problem(&path);
    let operator = DenseOperator::new(file.image_shape, file.a.view()).unwrap();
    let likelihood = LinearGaussianLikelihood::new(operator, file.y.to_vec(), file.sigma.to_vec()).unwrap();
    let exact = prior.posterior(file.a.view(), &file.y.to_vec(), &file.sigma.to_vec()).unwrap();
    let problem = problem(&prior, prior.range(), &likelihood);
    let ensemble = run(&Langevin::default(), &problem, 0, 0..64);
    let (mean, covariance) = mean_and_covariance(&rows(&ensemble));
    let expected = exact.covariance();
    let d = mean.len() as f64;
    let scale = (expected.diag().sum() / d).sqrt();
    let error = (mean.iter().zip(exact.mean()).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / d).sqrt() / scale;
    let spread = (0..mean.len()).map(|i| (covariance[(i, i)] / expected[(i, i)]).sqrt()).sum::<f64>() / d;
    let chi2 = ensemble.sample_stats["reduced_chi2_data"].values.mean().unwrap();
    let draws = exact.sample(Philox::new(1), 0..400).unwrap();
    let own = (0..400).map(|i| crate::Domain::reduced_chi2(&likelihood, draws.item(i)).unwrap()[0].1).sum::<f64>() / 400.0;
    println!("mean off by {error}, spread {spread}, chi2 {chi2} against {own}");
    assert!(error < 0.4, "RMS error of the mean {error}");
    assert!((spread - 1.0).abs() < 0.1, "standard deviations {spread} times the exact ones");
    assert!((chi2 / own - 1.0).abs() < 0.1, "chi2 {chi2} against {own}");
}

/// The same bits through a wrapper that shows nothing but the trait and cuts batches into threes, and for one thread or four.
#[test]
fn any_batch_and_any_threads() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let solver = Langevin { levels: 20, restarts: 1, ..Default::default() };
    let images = |prior: &dyn halation_nn::Denoiser, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&solver, &problem(prior, [-2.0, 2.0], &likelihood), 5, 0..20).images)
    };
    let plain = images(&prior, 1);
    assert_eq!(plain, images(&Opaque(&prior), 1));
    assert_eq!(plain, images(&prior, 4));
}

/// A state that was written down and read back continues to the same bits, also across a choice.
#[test]
fn checkpoint_continues_to_the_same_bits() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let solver = Langevin { levels: 24, restarts: 2, ..Default::default() };
    let whole = run(&solver, &problem, 1, 0..20);
    let firsts: Vec<usize> = solver.descents().iter().map(|d| d.first).collect();
    for stop in [1, firsts[1] - 1, firsts[1], firsts[2] + 2, 23] {
        let mut state = solver.init(&problem, Philox::new(1), 0..20).unwrap();
        (0..stop).for_each(|_| assert!(!solver.step(&problem, &mut state).unwrap().done()));
        let mut state = LangevinState::restore(&state.save()).unwrap();
        while !solver.step(&problem, &mut state).unwrap().done() {}
        let resumed = solver.finish(&problem, state).unwrap();
        assert_eq!((resumed.images, resumed.attributes), (whole.images.clone(), whole.attributes.clone()), "stopped after {stop}");
    }
    let mut broken = solver.init(&problem, Philox::new(1), 0..20).unwrap().save();
    broken.tensors.remove("sigmas");
    assert!(LangevinState::restore(&broken).is_err());
}

fn judged(log_weight: &[f64], ruled_out: f64) -> Judged {
    Judged { log_prior: vec![-1.0; log_weight.len()], log_weight: log_weight.to_vec(), ruled_out, open: 0.0 }
}

/// States that are ruled out go, the others stay alike; a population that found nothing as good goes on from the other's states and says so.
#[test]
fn choices_drop_what_is_ruled_out() {
    let prior = g2();
    let a = arr2(&[[0.6, 0.8]]);
    let likelihood = likelihood(&a, &[0.4], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let solver = Langevin { levels: 24, restarts: 1, population: Some(8) };
    let mut state = solver.init(&problem, Philox::new(1), 0..8).unwrap();
    let all = [-10.0, -11.0, -40.0, -30.0, -12.0, -90.0, -12.5, -33.0];
    state.choose(&judged(&all, 5.0), false, false).unwrap();
    assert_eq!(state.ancestors, [0, 0, 1, 1, 4, 4, 6, 6]);
    assert_eq!((state.fewest_kept, state.lost), ([2, 2], None));
    let mut state = solver.init(&problem, Philox::new(1), 0..8).unwrap();
    let all = [-10.0, -11.0, -40.0, -30.0, -112.0, -190.0, -112.5, -133.0];
    state.choose(&judged(&all, 5.0), false, true).unwrap();
    assert!(state.ancestors.iter().all(|a| *a < 2) && state.lost == Some(1), "{:?}", state.ancestors);
}

/// Where images are finished, structures that hold less than another of their population beyond chance go, and what one population has found rules out those of
/// the other before the last descent alone; what differs by chance stays.
#[test]
fn finished_structures_are_judged_together() {
    let prior = g2();
    let likelihood = likelihood(&arr2(&[[0.6, 0.8]]), &[0.4], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let solver = Langevin { levels: 24, restarts: 1, population: Some(12) };
    let chosen = |of: [u64; 12], all: [f64; 12], last: bool| {
        let mut state = solver.init(&problem, Philox::new(1), 0..12).unwrap();
        state.families.of = of.to_vec();
        state.choose(&judged(&all, 60.0), true, last).unwrap();
        (state.families.of, state.lost)
    };
    let of = [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9];
    let good = [-40.0, -41.0, -39.0];
    let bad = [-54.0, -56.0, -55.0];
    let all = |parts: [[f64; 3]; 4]| std::array::from_fn(|i| parts[i / 3][i % 3]);
    assert_eq!(chosen(of, all([good, bad, bad, bad]), false), ([[0; 6], [6, 6, 6, 9, 9, 9]].concat(), None));
    assert_eq!(chosen(of, all([good, bad, bad, bad]), true), (vec![0; 12], Some(1)));
    assert_eq!(chosen(of, all([good, [-49.0; 3], good, good]), true), (of.to_vec(), None));
    // A family that was far better before, but has lost all of its particles now, does not rule out those that stand.
    let mut state = solver.init(&problem, Philox::new(1), 0..12).unwrap();
    state.families.of = of.to_vec();
    state.families.seen[0] = [3.0, 0.0, 0.0];
    state.choose(&judged(&all([[-900.0; 3], good, good, good]), 60.0), true, true).unwrap();
    assert_eq!((state.families.of, state.lost), ([[3; 6], [6, 6, 6, 9, 9, 9]].concat(), None));
}

/// Two Gaussian priors, one three times as wide along what the data see and ten times along what they do not: samples of the posteriors have log weights that
/// differ by the logarithms of the evidence, whatever the widths.
#[test]
fn log_weights_are_evidence() {
    use crate::GaussianMixture;
    use crate::denoising_error::denoising_errors;
    use ndarray::{Array1, Array2, arr1};
    let (seen, noise, y) = (30, 0.05, 0.2);
    let a = Array2::from_shape_fn((seen, 2 * seen), |(i, j)| f64::from(u8::from(i == j)));
    let data = vec![y; seen];
    let weight = |[along, across]: [f64; 2]| {
        let variances = Array1::from_shape_fn(2 * seen, |i| if i < seen { along * along } else { across * across });
        let covariance = Array2::from_diag(&variances).insert_axis(ndarray::Axis(0));
        let mean = Array2::zeros((1, 2 * seen));
        let prior = GaussianMixture::new([1, 1, 2 * seen], arr1(&[1.0]).view(), mean.view(), covariance.view()).unwrap();
        let likelihood = likelihood(&a, &data, noise);
        let problem = problem(&prior, [-1.0, 1.0], &likelihood);
        let images = prior.posterior(a.view(), &data, &vec![noise; seen]).unwrap().sample(Philox::new(4), 0..200).unwrap();
        let truths = crate::start::sample_prior(&prior, 2.0, Philox::new(2), 0..200).unwrap();
        let errors = denoising_errors(&problem, None, &truths, &[4.0, 2.0], Philox::new(5)).unwrap();
        let log_likelihood: Vec<f64> = likelihood.neg_log_and_grad(&images).unwrap().0.iter().map(|v| -v).collect();
        let judged = Judged::of(&problem, &images, &log_likelihood, &errors, Philox::new(3)).unwrap();
        let whole = along * along + noise * noise;
        let evidence = -0.5 * seen as f64 * (y * y / whole + (whole / (noise * noise)).ln());
        (judged.log_weight.iter().sum::<f64>() / 200.0, evidence)
    };
    let (narrow, wide) = (weight([0.3, 0.1]), weight([0.9, 1.0]));
    println!("{narrow:?} {wide:?}");
    assert!(((wide.0 - narrow.0) - (wide.1 - narrow.1)).abs() < 3.0, "{narrow:?}, {wide:?}");
}

/// Draws that fit but that the prior does not know are counted in the label where there are no others, and left out where there are; natural ones are
/// not.
#[test]
fn draws_unlike_the_prior_are_said() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.0]]);
    let likelihood = likelihood(&a, &[0.3], 0.3);
    let problem = problem(&prior, [-1.0, 1.0], &likelihood);
    let solver = Langevin { levels: 24, restarts: 1, population: Some(4) };
    let says = "4 of 4 draws ARE UNLIKE ANY IMAGE OF THE PRIOR";
    for (unknown, far, says, repeats) in
        [([true; 4], 40.0, Some(says), false), ([true; 4], 3.0, None, false), ([false, false, false, true], 40.0, None, true)]
    {
        let mut state = solver.init(&problem, Philox::new(1), 0..4).unwrap();
        while !solver.step(&problem, &mut state).unwrap().done() {}
        let images =
            unknown.iter().enumerate().flat_map(|(i, unknown)| [0.3, if *unknown { far + 0.1 * i as f32 } else { -0.2 }]).collect();
        state.x = Tensor::from_vec(&[4, 1, 1, 2], images).unwrap();
        let ensemble = solver.finish(&problem, state).unwrap();
        let label = &ensemble.attributes["label"];
        assert_eq!(label.contains("UNLIKE"), says.is_some(), "{label}");
        assert!(label.starts_with(says.unwrap_or("two populations")), "{label}");
        assert_eq!(label.contains("1 of 4 draws repeat others"), repeats, "{label}");
        assert_eq!(ensemble.sample_stats["log_prior"].values.len(), 4);
    }
}

/// A population that is lost before the last descent still has its own draws after it; one that is lost there has the other's. Both are said.
#[test]
fn a_lost_population_is_said() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.5]]);
    let likelihood = likelihood(&a, &[0.9], 0.3);
    let problem = problem(&prior, [-1.0, 1.0], &likelihood);
    let solver = Langevin { levels: 24, restarts: 1, population: Some(8) };
    for lost_at_the_end in [false, true] {
        let mut state = solver.init(&problem, Philox::new(1), 0..8).unwrap();
        while !solver.step(&problem, &mut state).unwrap().done() {}
        let mut expected = [0, 1, 2, 3, 4, 5, 6, 7];
        if lost_at_the_end {
            state.x.data_mut()[8..].fill(30.0);
            expected = [0, 1, 2, 3, 0, 1, 2, 3];
        } else {
            state.lost = Some(1);
        }
        let images: Vec<f32> = expected.iter().flat_map(|i| state.x.item(*i).to_vec()).collect();
        let ensemble = solver.finish(&problem, state).unwrap();
        assert_eq!(ensemble.images.iter().copied().collect::<Vec<_>>(), images, "{lost_at_the_end}");
        assert!(ensemble.attributes["label"].starts_with("ONE OF TWO POPULATIONS"), "{:?}", ensemble.attributes);
        assert!(!ensemble.attributes.contains_key("populations_p_value"));
    }
}

/// What `--dry-run` prints: start, denoising errors, two calls for a guided level, one for a settled one, and twelve pairs for the log prior of prior samples and
/// after each descent.
#[test]
fn cost_is_known_before() {
    let prior = g1();
    let likelihood = likelihood(&arr2(&[[1.0, 0.5]]), &[0.9], 0.3);
    let solver = Langevin::default();
    let settled: usize = solver.descents().iter().map(|d| d.counts[2]).sum();
    let plan = solver.plan(&problem(&prior, prior.range(), &likelihood), 20).unwrap();
    assert_eq!((plan.particles, plan.steps), (20, 440));
    assert_eq!(plan.network_evaluations, 40 + 12 + (2 * 440 - settled as u64) + 7 * 24 + 3 * 4);
    assert!(plan.network_evaluations <= 1000, "{}", plan.network_evaluations);
}

/// Levels fall within each descent, begin and end where they should, and are as many as asked for.
#[test]
fn levels_cover_every_descent() {
    for (levels, restarts, turn) in [(440, 5, 0.03), (440, 5, 0.004), (100, 1, 0.03), (24, 5, 0.03), (12, 2, 0.02), (4, 0, 0.03)] {
        let all = levels::descents(levels, restarts);
        assert_eq!((all.len(), all.iter().map(Descent::len).sum::<usize>()), (restarts + 1, levels));
        let mut next = 0;
        for (i, descent) in all.iter().enumerate() {
            assert_eq!(descent.first, next);
            next += descent.len();
            let sigmas = levels::sigmas(i, descent, turn);
            assert_eq!(sigmas.len(), descent.len());
            assert!(sigmas.windows(2).all(|w| w[1] < w[0]), "{sigmas:?}");
            let from = [2.0, 1.0, 0.5, 0.1, 0.1, 0.1][i];
            assert!((sigmas[0] - from).abs() < 1e-12, "{sigmas:?}");
            let whole = i > 2 || i == restarts;
            let last = if whole { f64::min(LAST, 0.5 * turn) } else { BOTTOM };
            assert!((sigmas[sigmas.len() - 1] / last - 1.0).abs() < 1e-12, "{sigmas:?}");
            assert_eq!(descent.counts[2] > 0, whole);
            if whole {
                assert!((sigmas[sigmas.len() - descent.counts[2]] / turn - 1.0).abs() < 1e-12, "{sigmas:?}");
            }
        }
    }
}

#[test]
fn unusable_settings_are_named() {
    let prior = g1();
    let a = arr2(&[[1.0, 0.5]]);
    let likelihood: LinearGaussianLikelihood = likelihood(&a, &[0.9], 0.3);
    let problem = problem(&prior, prior.range(), &likelihood);
    let message = |solver: Langevin, draws| solver.plan(&problem, draws).unwrap_err().to_string();
    assert!(message(Langevin::default(), 0).contains("at least one"));
    assert!(message(Langevin { population: Some(10), ..Default::default() }, 20).contains("10 particles for 20 draws"));
    assert!(message(Langevin { levels: 10, ..Default::default() }, 20).contains("10 levels"));
}
