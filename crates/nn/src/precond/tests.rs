//! Each convention against its own process: a network that is right about x0 and eps in its convention makes the denoiser that is right.

use super::*;
use crate::Denoiser;
use crate::checkpoint::Architecture;
use crate::schedule::Betas;
use crate::unet::UNet;
use halation_compute::{Philox, Tensor};

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

/// A network that tells the background: D by its formula, pixels of the background that it is sure of, and the pullback by differences.
#[test]
fn the_background_is_an_atom() {
    let config = r#"{"precond": "edm", "img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1, 2],
        "attn_resolutions": [], "num_blocks": 1, "background": -1.0}"#;
    let Architecture { family, precond } = Architecture::parse(config).unwrap();
    let mut net = UNet::new(family, 1).unwrap();
    let mut theta = net.full_size_theta(3);
    // The logit's own bias: shares between 0 and 1.
    let bias = net.parameters().iter().find(|p| p.name == "dec.8x8_aux_conv.bias").unwrap().offset + 1;
    theta[bias] = 5.0;
    net.set_theta(theta).unwrap();
    let denoiser = UNetDenoiser::new(net, precond);
    let shape = [2, 1, 8, 8];
    let noise = |seed| Philox::new(seed).normal(0..2, 0, &shape[1..]).unwrap();
    let sigma = [0.01f32, 0.5];
    let with = |step: f32, direction: &Tensor| {
        let value = |i: usize| {
            let source = if i % 64 < 20 { 1.2 } else { 0.0 };
            -1.0 + source + sigma[i / 64] * (noise(2).data()[i] + step * direction.data()[i])
        };
        Tensor::from_vec(&shape, (0..128).map(value).collect()).unwrap()
    };
    let (direction, v) = (noise(3), noise(4));
    let x = with(0.0, &direction);
    let c = denoiser.coefficients(&x, &sigma).unwrap();
    let (input, noise) = denoiser.network_input(&x, &c);
    let f = denoiser.net().forward(&input, &noise).unwrap();
    assert_eq!(f.shape(), [2, 2, 8, 8]);
    let found = denoiser.denoise(&x, &sigma).unwrap();
    let mut shares = Vec::new();
    for (i, (x, d)) in x.data().iter().zip(found.data()).enumerate() {
        let (draw, pixel) = (i / 64, i % 64);
        let [f, logit] = [0, 1].map(|channel| f64::from(f.data()[(2 * draw + channel) * 64 + pixel]));
        let r = (f64::from(*x) + 1.0) / f64::from(sigma[draw]);
        let g = 1.0 / (1.0 + (4.0 - logit + 0.5 * r * r).exp());
        let expected = (1.0 - g) * (c[draw].skip * f64::from(*x) + c[draw].out * f) - g;
        assert!((f64::from(*d) - expected).abs() < 1e-5, "{i}: {d} {expected}");
        shares.push(g);
    }
    assert!(shares[..20].iter().all(|g| *g < 1e-6) && shares[20..64].iter().any(|g| (0.2..0.8).contains(g)), "{shares:?}");
    let dot = |a: &Tensor, b: &Tensor, draw: usize| -> f64 {
        a.item(draw).iter().zip(b.item(draw)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let vjp = denoiser.denoise_with_pullback(&x, &sigma).unwrap().1.vjp(&v).unwrap();
    let [up, down] = [0.01, -0.01].map(|step| denoiser.denoise(&with(step, &direction), &sigma).unwrap());
    for (draw, sigma) in sigma.iter().enumerate() {
        let expected = (dot(&up, &v, draw) - dot(&down, &v, draw)) / (0.02 * f64::from(*sigma));
        let found = dot(&vjp, &direction, draw);
        println!("{draw}: {found} {expected}");
        assert!((found - expected).abs() < 2e-3 * dot(&vjp, &vjp, draw).sqrt() * 8.0, "{draw}: {found} {expected}");
    }
}

#[test]
fn nearest_level() {
    let levels = [10.0, 4.0, 1.0];
    let found = [20.0, 8.0, 6.9, 2.6, 2.4, 0.1].map(|sigma| nearest(&levels, sigma));
    assert_eq!(found, [0, 0, 1, 1, 2, 2]);
}
