//! Complex visibilities with a Gaussian prior on the coverage of 6 April 2017 (M87*, EHT, both bands, 64 x 64 pixels): the sampler against
//! the posterior that is known in closed form. Skipped where the data are not there.
//!
//! The test is one observation with the sampler's default settings. The evidence, ignored because it takes long, is a hundred:
//! `cargo test --release -p halation-vlbi --test closed_form -- --ignored --nocapture` (part of `make proof`).

mod evidence;
mod setup;

use halation_inverse::Langevin;
use halation_lapack as _;
use halation_posterior::calibration::chi2_survival;
use setup::{Case, Prior, coverage, moments};

/// Directions with lambda above this are looked at one by one: in the others the posterior is the prior within half a percent.
const LEAST_LAMBDA: f64 = 0.01;

/// Error bars. Draws that descend from one prior sample are relatives, of unknown correlation r in [0, 1]; with family sizes n_f the mean of S
/// draws has between 1/S and 1/E of the posterior variance, E = S^2 / sum n_f^2, and the variance within an ensemble (with S - 1) an
/// expectation between (1 - 1/E) S/(S - 1) and 1. Each bound below is that of a Gaussian or chi-square variable with its end of
/// these ranges, so that one test in 10,000 would fail by chance (Bonferroni over pixels).
#[test]
fn sampler_meets_the_closed_form() {
    const CHANCE: f64 = 1e-4;
    let Some(observed) = coverage("sampler_meets_the_closed_form") else { return };
    let prior = Prior::new();
    let case = Case::simulate(&prior, &observed, 1);
    let conditioning = case.condition(&prior);
    let lambda = conditioning.signal_to_noise_squared();
    let count = lambda.iter().filter(|l| **l > LEAST_LAMBDA).count();
    let exact = case.exact(&conditioning, count);
    let m = case.problem.likelihood().residual_len() as f64;
    let truth = case.reduced_chi2(&case.truth);
    let survival = chi2_survival(truth * m, m);
    assert!(
        (CHANCE..1.0 - CHANCE).contains(&survival),
        "chi2/m of the truth {truth}: the simulated data are not those of the model"
    );

    let draws = case.sample(&prior, &Langevin::default(), 20, 1);
    let (s, families) = (draws.images.len() as f64, draws.families_effective());
    let along = moments(&draws.coefficients(&conditioning, count), &exact.along());
    let k = count as f64;
    let squares: f64 = along.iter().map(|(z, _)| z * z).sum();
    let ratio = along.iter().map(|(_, v)| v).sum::<f64>() / k;
    let chi2 = draws.reduced_chi2.iter().sum::<f64>() / s;
    let pixels = moments(&draws.images, &exact.pixels());
    let worst = pixels.iter().map(|(z, _)| z * z).fold(0.0, f64::max);
    let (narrowest, widest) = pixels.iter().fold((f64::MAX, 0.0), |(a, b), (_, v)| (v.min(a), v.max(b)));
    eprintln!(
        "{m} data, {count} directions, {} draws worth at least {families:.1}: sum z^2 / k = {:.3} of 1/S to {:.3}, variance {ratio:.3} times the exact one, chi2/m {chi2:.4} (exact {:.4}, sd {:.4}), pixels: largest |z| {:.2}, variances {narrowest:.2} to {widest:.2}",
        s,
        squares * s / k,
        s / families,
        exact.reduced_chi2.0,
        exact.reduced_chi2.1,
        worst.sqrt()
    );
    assert!(chi2_survival(squares * families, k) > CHANCE, "the mean along {count} directions is too far off: {squares}");
    assert!(chi2_survival(squares * s, k) < 1.0 - CHANCE, "the mean along {count} directions is too near: {squares}");
    // Sum over independent directions of variances with at least E - 1 degrees of freedom each.
    let error = 4.0 * (2.0 / (k * (families - 1.0))).sqrt();
    let least = (1.0 - 1.0 / families) * s / (s - 1.0);
    assert!(
        ratio > least * (1.0 - error) && ratio < 1.0 + error,
        "variance {ratio} times the exact one, expected {least} to 1 within {error}"
    );
    let error = 4.0 * exact.reduced_chi2.1 / families.sqrt();
    assert!((chi2 - exact.reduced_chi2.0).abs() < error, "chi2/m {chi2}, exact {}, within {error}", exact.reduced_chi2.0);
    let each = CHANCE / pixels.len() as f64;
    assert!(chi2_survival(worst * families, 1.0) > each, "a pixel's mean is {} standard deviations off", worst.sqrt());
    // One more than the most that E - 1 degrees of freedom allow; at least what they leave of the variance.
    let freedom = families - 1.0;
    assert!(chi2_survival(widest * freedom, freedom) > each, "a pixel's variance is {widest} times the exact one");
    assert!(
        chi2_survival(narrowest / least * freedom, freedom) < 1.0 - each,
        "a pixel's variance is {narrowest} times the exact one"
    );
}
