//! The operations of a network once more, in f64 and as plainly as their definitions, for tests and for measuring the error of the fast
//! ones. Arrays are row-major (draw, channel, y, x).

/// An f64 array (draw, channel, y, x).
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Lengths of the four axes.
    pub shape: [usize; 4],
    /// Elements in row-major order.
    pub data: Vec<f64>,
}

impl Array {
    /// An array whose element (draw, channel, y, x) is `f` of those four.
    pub fn from_fn(shape: [usize; 4], mut f: impl FnMut(usize, usize, usize, usize) -> f64) -> Self {
        let mut data = Vec::with_capacity(shape.iter().product());
        for n in 0..shape[0] {
            for c in 0..shape[1] {
                for y in 0..shape[2] {
                    for x in 0..shape[3] {
                        data.push(f(n, c, y, x));
                    }
                }
            }
        }
        Self { shape, data }
    }

    /// From f32 values.
    pub fn new(shape: [usize; 4], data: &[f32]) -> Self {
        Self { shape, data: data.iter().map(|v| *v as f64).collect() }
    }

    /// Element (draw, channel, y, x).
    pub fn at(&self, n: usize, c: usize, y: usize, x: usize) -> f64 {
        self.data[((n * self.shape[1] + c) * self.shape[2] + y) * self.shape[3] + x]
    }

    /// The array plus `step` times another.
    pub fn plus(&self, step: f64, other: &Array) -> Array {
        Array { shape: self.shape, data: self.data.iter().zip(&other.data).map(|(a, b)| a + step * b).collect() }
    }
}

/// Cross-correlation with a border of zeros: weights (output, input, ky, kx) of odd side `kernel`.
pub fn conv2d(x: &Array, weight: &[f64], bias: &[f64], kernel: usize) -> Array {
    let [draws, inputs, height, width] = x.shape;
    let r = kernel / 2;
    Array::from_fn([draws, bias.len(), height, width], |n, o, y, px| {
        let mut sum = bias[o];
        for i in 0..inputs {
            for ky in 0..kernel {
                for kx in 0..kernel {
                    let (yy, xx) = ((y + ky).wrapping_sub(r), (px + kx).wrapping_sub(r));
                    if yy < height && xx < width {
                        sum += weight[((o * inputs + i) * kernel + ky) * kernel + kx] * x.at(n, i, yy, xx);
                    }
                }
            }
        }
        sum
    })
}

/// Group normalisation, weight and bias per channel, and u sigmoid(u) where `with_silu`.
pub fn group_norm(x: &Array, groups: usize, eps: f64, weight: &[f64], bias: &[f64], with_silu: bool) -> Array {
    let [_, channels, height, width] = x.shape;
    let size = channels / groups;
    let count = (size * height * width) as f64;
    // Mean and variance of each (draw, group).
    let moments: Vec<(f64, f64)> = x
        .data
        .chunks_exact(size * height * width)
        .map(|v| {
            let mean = v.iter().sum::<f64>() / count;
            (mean, v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
        })
        .collect();
    Array::from_fn(x.shape, |n, c, y, px| {
        let (mean, var) = moments[n * groups + c / size];
        let u = (x.at(n, c, y, px) - mean) / (var + eps).sqrt() * weight[c] + bias[c];
        if with_silu { silu(u) } else { u }
    })
}

/// x / (1 + e^-x)
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Attention over pixels; channels are queries, keys, values, each of `heads` heads one after another.
pub fn attention(qkv: &Array, heads: usize) -> Array {
    let [draws, c3, height, width] = qkv.shape;
    let c = c3 / 3;
    let size = c / heads;
    let at = |n: usize, c: usize, p: usize| qkv.at(n, c, p / width, p % width);
    Array::from_fn([draws, c, height, width], |n, channel, y, px| {
        let query = y * width + px;
        let head = channel / size * size..(channel / size + 1) * size;
        let score = |key: usize| head.clone().map(|i| at(n, i, query) * at(n, c + i, key)).sum::<f64>() / (size as f64).sqrt();
        let scores: Vec<f64> = (0..height * width).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        scores.iter().enumerate().map(|(key, s)| (s - max).exp() / total * at(n, 2 * c + channel, key)).sum()
    })
}

/// Mean over 2x2 pixels.
pub fn downsample(x: &Array) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, h / 2, w / 2], |n, c, y, px| {
        (x.at(n, c, 2 * y, 2 * px)
            + x.at(n, c, 2 * y, 2 * px + 1)
            + x.at(n, c, 2 * y + 1, 2 * px)
            + x.at(n, c, 2 * y + 1, 2 * px + 1))
            / 4.0
    })
}

/// Each pixel in 2x2 places.
pub fn upsample(x: &Array) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, 2 * h, 2 * w], |n, c, y, px| x.at(n, c, y / 2, px / 2))
}

/// Taps of the smooth filter, those of (1, 3, 3, 1) / 8 in each direction.
const SMOOTH: [f64; 4] = [0.125, 0.375, 0.375, 0.125];

/// Every second pixel of the image, zero outside, smoothed by (1, 3, 3, 1) / 8 in each direction.
pub fn downsample_smooth(x: &Array) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, h / 2, w / 2], |n, c, y, px| {
        let mut sum = 0.0;
        for (ky, fy) in SMOOTH.iter().enumerate() {
            for (kx, fx) in SMOOTH.iter().enumerate() {
                let (yy, xx) = ((2 * y + ky).wrapping_sub(1), (2 * px + kx).wrapping_sub(1));
                if yy < h && xx < w {
                    sum += fy * fx * x.at(n, c, yy, xx);
                }
            }
        }
        sum
    })
}

/// Zeros between the pixels, then smoothing by (1, 3, 3, 1) / 4 in each direction: four times the transpose of [`downsample_smooth`].
pub fn upsample_smooth(x: &Array) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, 2 * h, 2 * w], |n, c, y, px| {
        let mut sum = 0.0;
        for (ky, fy) in SMOOTH.iter().enumerate() {
            for (kx, fx) in SMOOTH.iter().enumerate() {
                let (yy, xx) = ((y + 1).wrapping_sub(ky), (px + 1).wrapping_sub(kx));
                if yy % 2 == 0 && xx % 2 == 0 && yy / 2 < h && xx / 2 < w {
                    sum += 4.0 * fy * fx * x.at(n, c, yy / 2, xx / 2);
                }
            }
        }
        sum
    })
}

/// The image in a frame of `by` zeros.
pub fn framed(x: &Array, by: usize) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, h + 2 * by, w + 2 * by], |n, c, y, px| {
        let (y, px) = (y.wrapping_sub(by), px.wrapping_sub(by));
        if y < h && px < w { x.at(n, c, y, px) } else { 0.0 }
    })
}

/// The image without a frame of `by` pixels.
pub fn cropped(x: &Array, by: usize) -> Array {
    let [n, c, h, w] = x.shape;
    Array::from_fn([n, c, h - 2 * by, w - 2 * by], |n, c, y, px| x.at(n, c, y + by, px + by))
}

/// Channels of `a`, then of `b`.
pub fn concat_channels(a: &Array, b: &Array) -> Array {
    let [n, ca, h, w] = a.shape;
    Array::from_fn([n, ca + b.shape[1], h, w], |n, c, y, px| if c < ca { a.at(n, c, y, px) } else { b.at(n, c - ca, y, px) })
}
