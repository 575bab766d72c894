//! Every operation against its f64 reference over odd shapes, and every backward pass against central differences of that reference.

use crate::reference::{self, Array};
use crate::*;

fn random(shape: [usize; 4], stream: u16) -> Tensor {
    Philox::new(11).stream(stream).normal(0..shape[0] as u64, 0, &shape[1..]).unwrap()
}

fn array(x: &Tensor) -> Array {
    Array::new(x.shape().try_into().unwrap(), x.data())
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| *v as f64).collect()
}

/// Relative L2 distance of f32 values from their f64 reference.
#[track_caller]
fn close(what: &str, found: &Tensor, expected: &Array, tolerance: f64) {
    assert_eq!(found.shape(), expected.shape, "{what}");
    let difference: f64 = found.data().iter().zip(&expected.data).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
    let norm: f64 = expected.data.iter().map(|v| v * v).sum();
    assert!((difference / norm).sqrt() < tolerance, "{what}: relative error {:e}", (difference / norm).sqrt());
}

fn dot(a: &Array, b: &Array) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum()
}

/// <g, df/dx dx> by central differences of the reference, against <vjp, dx>. f64 differences with step 1e-5 err by some 1e-9;
/// the tolerance is f32 rounding over the sums involved, relative to the product of norms.
#[track_caller]
fn check_vjp(what: &str, f: impl Fn(&Array) -> Array, x: &Array, g: &Tensor, vjp: &Tensor) {
    let g = array(g);
    for stream in [900, 901] {
        let dx = array(&random(x.shape, stream));
        let step = 1e-5;
        let change = f(&x.plus(step, &dx)).plus(-1.0, &f(&x.plus(-step, &dx)));
        let expected = dot(&g, &change) / (2.0 * step);
        let vjp = array(vjp);
        let found = dot(&vjp, &dx);
        let size = dot(&vjp, &vjp).sqrt() * dot(&dx, &dx).sqrt();
        assert!((found - expected).abs() < 2e-6 * size, "{what}: {found} against {expected}, size {size}");
    }
}

const SHAPES: [([usize; 4], usize); 14] = [
    ([1, 1, 1, 1], 1),
    ([2, 1, 5, 7], 32),
    ([1, 3, 31, 33], 5),
    ([2, 17, 4, 9], 31),
    ([1, 32, 8, 8], 33),
    ([1, 33, 3, 2], 1),
    ([2, 48, 6, 13], 48),
    ([1, 64, 16, 16], 65),
    ([1, 16, 1, 64], 16),
    ([3, 8, 11, 1], 97),
    // Whole tiles of 2x2, by way of the transforms.
    ([2, 16, 2, 2], 16),
    ([1, 33, 6, 10], 31),
    ([2, 64, 8, 8], 48),
    ([1, 32, 62, 18], 17),
];

#[test]
fn convolution_and_its_gradients() {
    for (shape, outputs) in SHAPES {
        for kernel in [1, 3, 5] {
            let what = format!("conv {shape:?} -> {outputs}, kernel {kernel}");
            let [draws, inputs, height, width] = shape;
            let conv = ConvShape { inputs, outputs, kernel };
            let x = random(shape, 1);
            let w = random([outputs, inputs, kernel, kernel], 2);
            let b = random([1, outputs, 1, 1], 3);
            let packed = ConvWeights::new(conv, w.data(), b.data()).unwrap();
            let map = Map::from_tensor(&x, kernel / 2).unwrap();
            let out = conv2d(&map, &packed, Epilogue::default()).unwrap();
            let (w64, b64) = (f64s(w.data()), f64s(b.data()));
            close(&what, &out.to_tensor(), &reference::conv2d(&array(&x), &w64, &b64, kernel), 1e-6);

            let shift = Philox::new(5).normal(0..draws as u64, 0, &[outputs]).unwrap();
            let residual = random([draws, outputs, height, width], 4);
            let residual_map = Map::from_tensor(&residual, 0).unwrap();
            let pad = inputs % 2;
            let epilogue = Epilogue { shift: Some(&shift), residual: Some(&residual_map), scale: 0.7, pad };
            let fused = conv2d(&map, &packed, epilogue).unwrap();
            let plain = reference::conv2d(&array(&x), &w64, &b64, kernel);
            let residual = array(&residual);
            let expected = Array::from_fn(plain.shape, |n, c, y, px| {
                (plain.at(n, c, y, px) + shift.item(n)[c] as f64 + residual.at(n, c, y, px)) * 0.7f32 as f64
            });
            assert_eq!(fused.pad(), pad);
            close(&format!("{what}, epilogue"), &fused.to_tensor(), &expected, 1e-6);

            let g = random([draws, outputs, height, width], 6);
            let g_map = Map::from_tensor(&g, kernel / 2).unwrap();
            let gx = conv2d_input_grad(&g_map, &packed, Epilogue::default()).unwrap().to_tensor();
            check_vjp(&what, |x| reference::conv2d(x, &w64, &b64, kernel), &array(&x), &g, &gx);

            let mut grads = ConvGrads::zeros(conv);
            grads.accumulate(&map, &g_map).unwrap();
            let (mut gw, mut gb) = (vec![0.0; w.len()], vec![0.0; outputs]);
            grads.unpack(&mut gw, &mut gb);
            let gw = Tensor::from_vec(w.shape(), gw).unwrap();
            let gb = Tensor::from_vec(b.shape(), gb).unwrap();
            check_vjp(&format!("{what}, weight"), |w| reference::conv2d(&array(&x), &w.data, &b64, kernel), &array(&w), &g, &gw);
            check_vjp(&format!("{what}, bias"), |b| reference::conv2d(&array(&x), &w64, &b.data, kernel), &array(&b), &g, &gb);
        }
    }
}

#[test]
fn group_norm_and_its_gradients() {
    for (shape, groups) in [([1, 4, 1, 1], 1), ([2, 6, 5, 7], 3), ([1, 32, 8, 8], 8), ([2, 33, 3, 31], 11), ([1, 96, 4, 6], 24)] {
        for silu in [false, true] {
            let what = format!("group norm {shape:?}, {groups} groups, silu {silu}");
            let c = shape[1];
            // A mean far from zero is what costs digits.
            let mut x = random(shape, 1);
            x.data_mut().iter_mut().for_each(|v| *v = *v * 0.5 + 3.0);
            let (w, b) = (random([1, c, 1, 1], 2), random([1, c, 1, 1], 3));
            let (w64, b64) = (f64s(w.data()), f64s(b.data()));
            let affine = Affine { weight: w.data(), bias: b.data() };
            let map = Map::from_tensor(&x, 0).unwrap();
            let stats = group_norm_stats(&map, groups, 1e-6).unwrap();
            let out = group_norm(&map, &stats, affine, silu, 1).unwrap();
            close(&what, &out.to_tensor(), &reference::group_norm(&array(&x), groups, 1e-6, &w64, &b64, silu), 1e-6);

            let (g, residual) = (random(shape, 4), random(shape, 5));
            let (mut gw, mut gb) = (vec![0.0; c], vec![0.0; c]);
            let grads = AffineGrads { weight: &mut gw, bias: &mut gb };
            let residual_map = Map::from_tensor(&residual, 1).unwrap();
            let g_map = Map::from_tensor(&g, 0).unwrap();
            let gx =
                group_norm_backward(g_map, &map, &stats, affine, silu, Some(&residual_map), 1, Some(grads)).unwrap().to_tensor();
            let mut vjp = gx.clone();
            vjp.data_mut().iter_mut().zip(residual.data()).for_each(|(v, r)| *v -= r);
            check_vjp(&what, |x| reference::group_norm(x, groups, 1e-6, &w64, &b64, silu), &array(&x), &g, &vjp);
            let gw = Tensor::from_vec(&[1, c, 1, 1], gw).unwrap();
            let gb = Tensor::from_vec(&[1, c, 1, 1], gb).unwrap();
            let with = |w: &[f64], b: &[f64]| reference::group_norm(&array(&x), groups, 1e-6, w, b, silu);
            check_vjp(&format!("{what}, weight"), |w| with(&w.data, &b64), &array(&w), &g, &gw);
            check_vjp(&format!("{what}, bias"), |b| with(&w64, &b.data), &array(&b), &g, &gb);
        }
    }
}

/// Weights and biases of each draw, with gradients of their own.
#[test]
fn group_norm_with_parameters_of_each_draw() {
    let (shape, groups) = ([3, 33, 5, 4], 11);
    let c = shape[1];
    let x = random(shape, 1);
    let (w, b, g) = (random([3, c, 1, 1], 2), random([3, c, 1, 1], 3), random(shape, 4));
    let affine = Affine { weight: w.data(), bias: b.data() };
    let map = Map::from_tensor(&x, 0).unwrap();
    let stats = group_norm_stats(&map, groups, 1e-5).unwrap();
    let out = group_norm(&map, &stats, affine, true, 0).unwrap().to_tensor();
    let (mut gw, mut gb) = (vec![0.0; 3 * c], vec![0.0; 3 * c]);
    let grads = AffineGrads { weight: &mut gw, bias: &mut gb };
    let gx = group_norm_backward(Map::from_tensor(&g, 0).unwrap(), &map, &stats, affine, true, None, 0, Some(grads))
        .unwrap()
        .to_tensor();
    for d in 0..3 {
        // Each draw is the shared normalisation with its own parameters.
        let alone = Map::from_tensor(&x.select(&[d]).unwrap(), 0).unwrap();
        let stats = group_norm_stats(&alone, groups, 1e-5).unwrap();
        let affine = Affine { weight: w.item(d), bias: b.item(d) };
        assert_eq!(group_norm(&alone, &stats, affine, true, 0).unwrap().to_tensor().data(), out.item(d));
        let (mut own_w, mut own_b) = (vec![0.0; c], vec![0.0; c]);
        let grads = AffineGrads { weight: &mut own_w, bias: &mut own_b };
        let g = Map::from_tensor(&g.select(&[d]).unwrap(), 0).unwrap();
        let own = group_norm_backward(g, &alone, &stats, affine, true, None, 0, Some(grads)).unwrap().to_tensor();
        assert_eq!(own.data(), gx.item(d));
        assert_eq!((&gw[d * c..(d + 1) * c], &gb[d * c..(d + 1) * c]), (&own_w[..], &own_b[..]));
    }
    let short = AffineGrads { weight: &mut gw[..c], bias: &mut gb[..c] };
    assert!(group_norm_backward(Map::from_tensor(&g, 0).unwrap(), &map, &stats, affine, true, None, 0, Some(short)).is_err());
}

#[test]
fn attention_and_its_gradient() {
    for (draws, c, heads, height, width) in [
        (1, 1, 1, 1, 1),
        (2, 5, 1, 3, 7),
        (1, 31, 1, 4, 33),
        (2, 64, 1, 16, 16),
        (2, 6, 3, 5, 7),
        (1, 32, 2, 3, 33),
        (1, 64, 4, 16, 16),
    ] {
        let what = format!("attention {draws} {c} {heads} {height} {width}");
        let qkv = random([draws, 3 * c, height, width], 1);
        let map = Map::from_tensor(&qkv, 0).unwrap();
        let (out, weights) = attention(&map, heads).unwrap();
        close(&what, &out.to_tensor(), &reference::attention(&array(&qkv), heads), 1e-6);
        let g = random([draws, c, height, width], 2);
        let gx = attention_backward(&map, heads, &weights, &Map::from_tensor(&g, 0).unwrap()).unwrap();
        if c * height * width < 5000 {
            check_vjp(&what, |x| reference::attention(x, heads), &array(&qkv), &g, &gx.to_tensor());
        }
    }
}

#[test]
fn resampling_concatenation_and_sums() {
    let x = random([2, 5, 6, 10], 1);
    let map = Map::from_tensor(&x, 0).unwrap();
    let down = resample(&map, Resample::Down, 1).unwrap().to_tensor();
    close("down", &down, &reference::downsample(&array(&x)), 1e-6);
    let g = random([2, 5, 3, 5], 2);
    let back = resample_backward(&Map::from_tensor(&g, 0).unwrap(), Resample::Down).unwrap().to_tensor();
    check_vjp("down", reference::downsample, &array(&x), &g, &back);
    let up = resample(&map, Resample::Up, 0).unwrap().to_tensor();
    close("up", &up, &reference::upsample(&array(&x)), 1e-7);
    let g = random([2, 5, 12, 20], 3);
    let back = resample_backward(&Map::from_tensor(&g, 0).unwrap(), Resample::Up).unwrap().to_tensor();
    check_vjp("up", reference::upsample, &array(&x), &g, &back);
    assert!(resample(&Map::from_tensor(&random([1, 2, 3, 4], 1), 0).unwrap(), Resample::Down, 0).is_err());

    let y = random([2, 3, 6, 10], 4);
    let both = concat_channels(&map, &Map::from_tensor(&y, 1).unwrap()).unwrap();
    close("concat", &both.to_tensor(), &reference::concat_channels(&array(&x), &array(&y)), 1e-7);
    let (a, b) = split_channels(&both, 5).unwrap();
    assert_eq!((a.to_tensor(), b.to_tensor()), (x.clone(), y));

    let sums = sum_pixels(&map);
    for (d, c) in [(0, 0), (1, 4)] {
        let expected: f64 = (0..60).map(|p| array(&x).at(d, c, p / 10, p % 10)).sum();
        assert!((sums.item(d)[c] as f64 - expected).abs() < 1e-5);
    }
}

#[test]
fn smooth_resampling() {
    for shape in [[2, 5, 6, 10], [1, 1, 2, 2], [1, 17, 4, 8]] {
        let x = random(shape, 1);
        let map = Map::from_tensor(&x, 0).unwrap();
        let [n, c, h, w] = shape;
        for (how, exact, shape) in [
            (Resample::SmoothDown, reference::downsample_smooth as fn(&Array) -> Array, [n, c, h / 2, w / 2]),
            (Resample::SmoothUp, reference::upsample_smooth, [n, c, 2 * h, 2 * w]),
        ] {
            close("smooth", &resample(&map, how, 1).unwrap().to_tensor(), &exact(&array(&x)), 1e-6);
            let g = random(shape, 2);
            let back = resample_backward(&Map::from_tensor(&g, 0).unwrap(), how).unwrap().to_tensor();
            check_vjp("smooth", exact, &array(&x), &g, &back);
        }
        // A frame of zeros is what lies outside; with something in it, its gradient comes back.
        let widened = Map::from_tensor(&x, 2).unwrap().widen(1).unwrap();
        assert_eq!((widened.height(), widened.pad()), (h + 2, 1));
        close("frame", &widened.to_tensor(), &reference::framed(&array(&x), 1), 1e-7);
        assert_eq!(widened.crop(1, 1).unwrap().to_tensor(), x);
        let down = smooth_down_framed(&widened, 0).unwrap().to_tensor();
        close("framed", &down, &reference::downsample_smooth(&array(&x)), 1e-6);
        let framed = random([n, c, h + 2, w + 2], 5);
        // A second frame of zeros shifts the filter by two pixels, one of the result: what it gives there is not wanted.
        let exact = |x: &Array| reference::cropped(&reference::downsample_smooth(&reference::framed(x, 1)), 1);
        let down = smooth_down_framed(&Map::from_tensor(&framed, 0).unwrap(), 1).unwrap().to_tensor();
        close("framed", &down, &exact(&array(&framed)), 1e-6);
        let g = random([n, c, h / 2, w / 2], 6);
        let back = smooth_down_framed_backward(&Map::from_tensor(&g, 0).unwrap(), 0).unwrap().to_tensor();
        check_vjp("framed", exact, &array(&framed), &g, &back);
    }
}

#[test]
fn silu_and_its_gradient() {
    let x = random([1, 1, 1, 1003], 1);
    let y = silu(&x);
    let f = |x: &Array| Array { shape: x.shape, data: x.data.iter().map(|v| reference::silu(*v)).collect() };
    close("silu", &y, &f(&array(&x)), 1e-6);
    let g = random([1, 1, 1, 1003], 2);
    check_vjp("silu", f, &array(&x), &g, &silu_backward(&x, &g).unwrap());
}

/// The same bits for a draw whatever its batch, on one thread, on several, and inside `serial`.
#[test]
fn bits_depend_on_neither_batch_nor_threads() {
    let x = random([5, 33, 7, 9], 1);
    let conv = ConvShape { inputs: 33, outputs: 99, kernel: 3 };
    let w = random([99, 33, 3, 3], 2);
    let packed = ConvWeights::new(conv, w.data(), &[0.1; 99]).unwrap();
    let (one, zero) = ([1.0; 33], [0.0; 33]);
    let all = |x: &Tensor| {
        let map = Map::from_tensor(x, 0).unwrap();
        let stats = group_norm_stats(&map, 11, 1e-6).unwrap();
        let affine = Affine { weight: &one, bias: &zero };
        let a = group_norm(&map, &stats, affine, true, 1).unwrap();
        let qkv = conv2d(&a, &packed, Epilogue::default()).unwrap();
        let (out, weights) = attention(&qkv, 3).unwrap();
        let g = attention_backward(&qkv, 3, &weights, &out).unwrap();
        let mut grads = ConvGrads::zeros(conv);
        grads.accumulate(&a, &g).unwrap();
        let (mut gw, mut gb) = (vec![0.0; w.len()], vec![0.0; 99]);
        grads.unpack(&mut gw, &mut gb);
        let padded = scaled_sum(&g, None, 1.0, 1).unwrap();
        let ga = conv2d_input_grad(&padded, &packed, Epilogue::default()).unwrap();
        (group_norm_backward(ga, &map, &stats, affine, true, None, 0, None).unwrap().to_tensor(), gw, gb)
    };
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let expected = pool(1).install(|| all(&x));
    assert!(pool(5).install(|| all(&x)) == expected);
    assert!(serial(|| all(&x)) == expected);
    for d in 0..5 {
        let alone = all(&x.select(&[d]).unwrap());
        assert_eq!(alone.0.item(0), expected.0.item(d));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let conv = ConvShape { inputs: 4, outputs: 2, kernel: 3 };
    assert!(ConvWeights::new(conv, &[0.0; 71], &[0.0; 2]).is_err());
    assert!(ConvWeights::new(ConvShape { kernel: 2, ..conv }, &[0.0; 32], &[0.0; 2]).is_err());
    let w = ConvWeights::new(conv, &[0.0; 72], &[0.0; 2]).unwrap();
    assert!(conv2d(&Map::from_tensor(&random([1, 4, 5, 5], 0), 0).unwrap(), &w, Epilogue::default()).is_err());
    assert!(conv2d(&Map::from_tensor(&random([1, 3, 5, 5], 0), 1).unwrap(), &w, Epilogue::default()).is_err());
    assert!(group_norm_stats(&Map::from_tensor(&random([1, 4, 5, 5], 0), 0).unwrap(), 3, 1e-6).is_err());
    let qkv = Map::from_tensor(&random([1, 6, 5, 5], 0), 0).unwrap();
    assert!(attention(&Map::from_tensor(&random([1, 4, 5, 5], 0), 0).unwrap(), 1).is_err());
    assert!(attention(&qkv, 4).is_err() && attention(&qkv, 0).is_err());
    assert!(smooth_down_framed(&qkv, 0).is_err() && qkv.crop(3, 0).is_err() && qkv.widen(1).is_err());
}
