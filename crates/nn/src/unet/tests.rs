use super::family::Family;
use super::*;
use crate::checkpoint::Architecture;
use halation_compute::{Philox, Tensor};

fn family(config: &str) -> Family {
    Architecture::parse(config).unwrap_or_else(|e| panic!("{config}: {e}")).family
}

/// Small networks that together have every kind of layer of every family: channels that fill no vector, several blocks, no attention in the
/// encoder, one resolution, image pyramids, labels, learned variances. The second number scales the noise values: Fourier features turn them
/// into phases of a hundred radians and more, which lose digits in f32.
const NETWORKS: [(&str, f32); 13] = [
    (
        r#"{"precond": "vp", "img_resolution": 8, "img_channels": 3, "model_channels": 20, "channel_mult": [1, 2], "attn_resolutions": [4],
            "num_blocks": 2}"#,
        1.0,
    ),
    (
        r#"{"precond": "vp", "img_resolution": 16, "img_channels": 1, "model_channels": 32, "channel_mult": [1, 2, 2],
            "attn_resolutions": [16], "num_blocks": 1}"#,
        1.0,
    ),
    (
        r#"{"precond": "vp", "img_resolution": 5, "img_channels": 2, "model_channels": 16, "channel_mult": [2], "attn_resolutions": [],
            "num_blocks": 1}"#,
        1.0,
    ),
    (
        r#"{"precond": "ve", "img_resolution": 8, "img_channels": 2, "model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [4],
            "num_blocks": 1, "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
            "resample_filter": [1, 3, 3, 1], "label_dim": 3, "class": 1, "augment_dim": 9}"#,
        1e-3,
    ),
    (
        r#"{"precond": "ve", "img_resolution": 8, "img_channels": 2, "model_channels": 16, "channel_mult": [1, 1, 2],
            "attn_resolutions": [], "num_blocks": 1, "encoder_type": "skip", "decoder_type": "skip", "label_dim": 3}"#,
        1.0,
    ),
    (
        r#"{"precond": "ve", "img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [],
            "num_blocks": 1, "encoder_type": "residual", "decoder_type": "skip", "channel_mult_emb": 2}"#,
        1.0,
    ),
    (
        r#"{"precond": "edm", "img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [],
            "num_blocks": 1, "background": -1.0, "encoder_type": "residual"}"#,
        1.0,
    ),
    (
        r#"{"precond": "edm", "model_type": "DhariwalUNet", "img_resolution": 8, "img_channels": 1, "model_channels": 64,
            "channel_mult": [1, 2], "attn_resolutions": [8], "num_blocks": 1, "label_dim": 2, "class": 0}"#,
        1.0,
    ),
    (
        r#"{"family": "guided_diffusion", "image_size": 8, "in_channels": 1, "out_channels": 2, "model_channels": 32, "num_res_blocks": 1,
            "attention_resolutions": [1, 2], "channel_mult": [1, 2], "num_head_channels": 16, "use_scale_shift_norm": true,
            "resblock_updown": true}"#,
        1.0,
    ),
    (
        r#"{"family": "consistency_models", "image_size": 8, "in_channels": 2, "num_channels": 32, "num_res_blocks": 1,
            "attention_resolutions": "4", "channel_mult": "1,1", "num_heads": 4, "resblock_updown": true, "num_classes": 5, "class": 3}"#,
        1.0,
    ),
    (
        r#"{"family": "score_sde", "image_size": 8, "num_channels": 2, "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1,
            "attn_resolutions": [4], "embedding_type": "fourier", "fir": true, "progressive": "output_skip",
            "progressive_input": "input_skip"}"#,
        1e-3,
    ),
    (
        r#"{"family": "score_sde", "precond": "rectified_flow", "image_size": 8, "num_channels": 1, "nf": 16, "ch_mult": [1, 1],
            "num_res_blocks": 1, "attn_resolutions": [8], "embedding_type": "positional", "fir": true, "progressive": "none",
            "progressive_input": "residual"}"#,
        1.0,
    ),
    (
        r#"{"family": "score_sde", "precond": "vp", "image_size": 8, "num_channels": 1, "nf": 16, "ch_mult": [1, 2],
            "num_res_blocks": 1, "attn_resolutions": [4], "embedding_type": "positional", "fir": false, "progressive": "none",
            "progressive_input": "none"}"#,
        1.0,
    ),
];

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt()
}

/// The fast networks against f64: output, and the pullback and parameter gradients against differences of the f64 network along random
/// directions.
#[test]
fn networks_match_f64() {
    for (config, scale) in NETWORKS {
        let mut net = UNet::new(family(config), 1).unwrap();
        net.set_theta(net.full_size_theta(3)).unwrap();
        let shape = net.item_shape();
        let x = Philox::new(2).normal(0..3, 0, &shape).unwrap();
        let noise = [0.1, -0.7, 400.0].map(|v| v * scale);
        let (found, exact) = (net.forward(&x, &noise).unwrap(), net.reference_forward(&x, &noise).unwrap());
        let d: f64 = found.data().iter().zip(&exact).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
        let error = (d / exact.iter().map(|b| b * b).sum::<f64>()).sqrt();
        println!("{error:e} {config}");
        assert!(error < 2e-5, "{config}: {error:e}");

        let x = x.select(&[0]).unwrap();
        let (out, tape) = net.forward_with_tape(&x, &noise[..1]).unwrap();
        // Along a direction d, <F, F(. + s d) - F(. - s d)> / 2s is the gradient of <F, F'> times d. Rounding of . +- s d to f32 dominates.
        let step = 1.0 / 1024.0;
        let slope = |plus: Vec<f64>, minus: Vec<f64>| -> f64 {
            let difference = plus.iter().zip(&minus).map(|(p, m)| (p - m) / (2.0 * step as f64));
            out.data().iter().zip(difference).map(|(o, d)| *o as f64 * d).sum()
        };
        let moved = |v: &[f32], direction: &[f32], s: f32| v.iter().zip(direction).map(|(v, d)| v + s * d).collect::<Vec<f32>>();
        let compare = |what: &str, found: &[f32], direction: &[f32], expected: f64| {
            let (size, found) =
                (norm(found) * norm(direction), found.iter().zip(direction).map(|(f, d)| *f as f64 * *d as f64).sum::<f64>());
            assert!((found - expected).abs() < 1e-4 * size, "{config}: {what} {found} against {expected}, size {size}");
        };

        let vjp = net.vjp(&tape, &out).unwrap();
        let direction = Philox::new(9).normal(0..1, 0, &shape).unwrap();
        let at = |s: f32| {
            let x = Tensor::from_vec(x.shape(), moved(x.data(), direction.data(), s)).unwrap();
            net.reference_forward(&x, &noise[..1]).unwrap()
        };
        compare("pullback", vjp.data(), direction.data(), slope(at(step), at(-step)));

        let gradients = net.parameter_gradients(&x, &noise[..1], &out).unwrap();
        let mut direction = Philox::new(10).normal(0..1, 0, &[net.theta().len()]).unwrap().into_vec();
        for p in net.parameters().iter().filter(|p| !p.trainable) {
            assert!(gradients[p.offset..p.offset + p.len()].iter().all(|g| *g == 0.0), "{config}: {} has a gradient", p.name);
            direction[p.offset..p.offset + p.len()].fill(0.0);
        }
        // Along the gradient, so that the part along the direction is large; every tensor takes part by its share of it.
        let length = norm(&gradients);
        direction.iter_mut().zip(&gradients).for_each(|(d, g)| *d = 0.1 * *d + (*g as f64 / length) as f32);
        let at = |s: f32| {
            let net = UNet::with_parameters(net.family().clone(), moved(net.theta(), &direction, s)).unwrap();
            net.reference_forward(&x, &noise[..1]).unwrap()
        };
        compare("gradient", &gradients, &direction, slope(at(step), at(-step)));
    }
}

/// Tensors and parameters of published networks, as their checkpoints have them. Not counted: the constants that are no parameters, a
/// resampling filter in each of the two layers of a block of the EDM family that resamples, and the noise levels of score_sde.
#[test]
fn published_sizes() {
    let edm = |precond: &str, model: &str, resolution: usize, mult: &str| {
        format!(
            r#"{{"precond": "{precond}", "model_type": "{model}", "img_resolution": {resolution}, "img_channels": 1,
                "model_channels": 128, "channel_mult": {mult}, "attn_resolutions": [16], "num_blocks": 1}}"#
        )
    };
    let guided = |family: &str, sizes: &str| {
        format!(
            r#"{{"family": "{family}", {sizes}, "num_head_channels": 64, "resblock_updown": true, "class": null,
                "attention_resolutions": "32,16,8"}}"#
        )
    };
    for (name, config, tensors, parameters) in [
        ("EDM black holes", edm("vp", "SongUNet", 64, "[1, 2, 2]"), 208 - 4 * 2, 20_041_217),
        ("EDM inverse scattering", edm("edm", "DhariwalUNet", 128, "[1, 1, 1, 2, 2]"), 322 - 8 * 2, 26_790_785),
        (
            "ADM FFHQ-256",
            guided(
                "guided_diffusion",
                r#""image_size": 256, "num_channels": 128, "num_res_blocks": 1, "learn_sigma": true, "use_scale_shift_norm": true"#,
            )
            .replace("32,16,8", "16"),
            362,
            93_563_910,
        ),
        (
            "ADM ImageNet-256",
            guided(
                "guided_diffusion",
                r#""image_size": 256, "num_channels": 256, "num_res_blocks": 2, "learn_sigma": true, "use_scale_shift_norm": true"#,
            ),
            566,
            552_814_086,
        ),
        (
            "consistency LSUN-256",
            guided("consistency_models", r#""image_size": 256, "num_channels": 256, "num_res_blocks": 2"#),
            566,
            526_304_771,
        ),
        (
            "consistency ImageNet-64",
            guided(
                "consistency_models",
                r#""image_size": 64, "num_channels": 192, "num_res_blocks": 3, "use_scale_shift_norm": true, "class_cond": true"#,
            ),
            541,
            295_899_267,
        ),
        (
            "NCSN++ FFHQ-256",
            r#"{"family": "score_sde", "image_size": 256, "nf": 128, "ch_mult": [1, 1, 2, 2, 2, 2, 2], "num_res_blocks": 2,
                "attn_resolutions": [16], "embedding_type": "fourier", "fir": true, "progressive": "output_skip",
                "progressive_input": "input_skip"}"#
                .into(),
            646 - 1,
            65_574_549,
        ),
    ] {
        let found = family(&config).parameters().unwrap();
        assert_eq!((found.len(), found.iter().map(Parameter::len).sum::<usize>()), (tensors, parameters), "{name}");
    }
    let net = UNet::new(family(&edm("vp", "SongUNet", 64, "[1, 2, 2]").replace("128", "32")), 0).unwrap();
    assert!((2.2e9..2.8e9).contains(&net.flops()), "{}", net.flops());
}
