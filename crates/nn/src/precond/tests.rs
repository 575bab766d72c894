//! Each convention against its own process: a network that is right about x0 and eps in its convention makes the denoiser that is right.

use super::*;
use crate::schedule::Betas;
use halation_compute::Philox;

/// For random x0 and eps, x = x0 + sigma eps: the state that the network sees, what a perfect network answers there, and D = x0.
#[test]
fn a_perfect_network_is_a_perfect_denoiser() {
    let discrete = DiscreteSchedule::new(Betas::Linear, 1000).unwrap();
    type Answer = fn(f64, f64, f64) -> f64;
    // What each network says about x0 and eps at its noise value.
    let cases: [(Precond, Answer); 8] = [
        (Precond::Vp, |_, eps, _| eps),
        (Precond::Iddpm, |_, eps, _| eps),
        (Precond::Eps(discrete.clone()), |_, eps, _| eps),
        (Precond::Ve { scale: 0.5 }, |_, eps, _| -eps),
        (Precond::Flow { time: 1.0 }, |x0, eps, _| eps - x0),
        (Precond::RectifiedFlow { logarithmic: false }, |x0, eps, _| x0 - eps),
        (Precond::RectifiedFlow { logarithmic: true }, |x0, eps, noise| (x0 - eps) * noise.exp()),
        // Target of Karras et al., eq. 8: (x0 - c_skip x) / c_out with sigma_data = 1/2.
        (Precond::Edm { sigma_data: 0.5 }, |x0, eps, noise| {
            let sigma = (4.0 * noise).exp();
            let total = (sigma * sigma + 0.25f64).sqrt();
            (x0 - 0.25 / (total * total) * (x0 + sigma * eps)) / (sigma * 0.5 / total)
        }),
    ];
    let mut rng = Philox::new(3).sequence(0, 0);
    for (precond, answer) in cases {
        for _ in 0..20 {
            let (x0, eps, sigma) = (rng.normal(), rng.normal(), rng.range(-3.0, 4.0).exp());
            let c = precond.at(sigma);
            let found = c.skip * (x0 + sigma * eps) + c.out * answer(x0, eps, c.noise);
            assert!((found - x0).abs() < 1e-10 * (1.0 + sigma), "{precond:?} at {sigma}: {found}, expected {x0}");
        }
    }
}

/// The network's input is the state of its own process at the time that its noise value says.
#[test]
fn inputs_are_states() {
    let (vp, discrete) = (VpSchedule::default(), DiscreteSchedule::new(Betas::Cosine, 1000).unwrap());
    for sigma in [0.02, 0.5, 3.0, 40.0] {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()), "{a} {b} at {sigma}");
        let c = Precond::Vp.at(sigma);
        close(c.input, vp.coefficients(c.noise / 999.0).0);
        let c = Precond::Flow { time: 1000.0 }.at(sigma);
        close(c.input, 1.0 - c.noise / 1000.0);
        let c = Precond::RectifiedFlow { logarithmic: false }.at(sigma);
        close(c.input, c.noise / 999.0);
    }
    for t in [0, 3, 700, 999] {
        let c = Precond::Eps(discrete.clone()).at(discrete.sigma(t));
        assert!((c.noise - t as f64).abs() < 1e-7 && (c.input - discrete.coefficients(t).0).abs() < 1e-10);
    }
}

#[test]
fn consistency_keeps_an_image_at_the_smallest_sigma() {
    let precond = Precond::Consistency { sigma_data: 0.5, sigma_min: 0.002, noise_factor: 250.0 };
    for sigma in [0.002, 0.001] {
        let c = precond.at(sigma);
        assert_eq!((c.skip, c.out), (1.0, 0.0));
    }
    let (c, teacher) = (precond.at(80.0), Precond::EdmTeacher { sigma_data: 0.5 }.at(80.0));
    assert_eq!((c.input, c.noise), (teacher.input, teacher.noise));
    assert!((c.out - 0.5).abs() < 1e-4 && c.skip < 1e-4);
}

#[test]
fn nearest_level() {
    let levels = [10.0, 4.0, 1.0];
    let found = [20.0, 8.0, 6.9, 2.6, 2.4, 0.1].map(|sigma| nearest(&levels, sigma));
    assert_eq!(found, [0, 0, 1, 1, 2, 2]);
}
