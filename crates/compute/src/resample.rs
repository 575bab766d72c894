use crate::map::for_chunks;
use crate::{Error, Map, Result, smooth};

/// Change of resolution by a factor of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Mean over 2x2 pixels; height and width must be even.
    Down,
    /// Each pixel becomes 2x2 equal ones.
    Up,
    /// Every second pixel of the image smoothed by (1, 3, 3, 1) / 8 in each direction, zero outside; height and width must be even.
    SmoothDown,
    /// Zeros between the pixels, smoothed by (1, 3, 3, 1) / 4 in each direction: four times the transpose of [`Resample::SmoothDown`].
    SmoothUp,
}

impl Resample {
    /// Whether the resolution becomes half, rather than double.
    pub fn halves(self) -> bool {
        matches!(self, Resample::Down | Resample::SmoothDown)
    }
}

/// Halves or doubles the resolution; the result has a border of `pad`.
///
/// # Errors
/// When an odd size is to be halved.
pub fn resample(x: &Map, how: Resample, pad: usize) -> Result<Map> {
    match how {
        Resample::Down => fold(x, 0.25, pad),
        Resample::Up => Ok(spread(x, 1.0, pad)),
        Resample::SmoothDown => smooth::fold(x, 1.0, 0, pad),
        Resample::SmoothUp => smooth::spread(x, 4.0, 0, pad),
    }
}

/// Input gradient of [`resample`] from the gradient of its output, without a border.
///
/// # Errors
/// When the gradient cannot come from that change.
pub fn resample_backward(g: &Map, how: Resample) -> Result<Map> {
    match how {
        Resample::Down => Ok(spread(g, 0.25, 0)),
        Resample::Up => fold(g, 1.0, 0),
        Resample::SmoothDown => smooth::spread(g, 1.0, 0, 0),
        Resample::SmoothUp => smooth::fold(g, 4.0, 0, 0),
    }
}

/// [`Resample::SmoothDown`] of an image whose outermost pixel on each side stands for what the filter reads beyond the edge, where it finds
/// zeros otherwise: the result has half the side without that frame.
///
/// # Errors
/// When the size is odd.
pub fn smooth_down_framed(x: &Map, pad: usize) -> Result<Map> {
    smooth::fold(x, 1.0, 1, pad)
}

/// Input gradient of [`smooth_down_framed`], with a border of `pad`.
///
/// # Errors
/// None that input can cause.
pub fn smooth_down_framed_backward(g: &Map, pad: usize) -> Result<Map> {
    smooth::spread(g, 1.0, 1, pad)
}

/// Sums of 2x2 pixels times `factor`.
fn fold(x: &Map, factor: f32, pad: usize) -> Result<Map> {
    let [height, width, c] = x.item_shape();
    if height % 2 != 0 || width % 2 != 0 {
        return Err(Error::shape("resample", &[x.draws(), height, width, c], "even height and width"));
    }
    let mut out = Map::stale(x.draws(), [height / 2, width / 2, c], pad);
    out.fill_rows(|d, y, out| {
        let (above, below) = (x.row(d, 2 * y), x.row(d, 2 * y + 1));
        for ((out, a), b) in out.chunks_exact_mut(c).zip(above.chunks_exact(2 * c)).zip(below.chunks_exact(2 * c)) {
            let ((a0, a1), (b0, b1)) = (a.split_at(c), b.split_at(c));
            for i in 0..c {
                out[i] = ((a0[i] + a1[i]) + (b0[i] + b1[i])) * factor;
            }
        }
    });
    Ok(out)
}

/// Each pixel times `factor` in 2x2 places.
fn spread(x: &Map, factor: f32, pad: usize) -> Map {
    let [height, width, c] = x.item_shape();
    let mut out = Map::stale(x.draws(), [2 * height, 2 * width, c], pad);
    out.fill_rows(|d, y, out| {
        for (out, x) in out.chunks_exact_mut(2 * c).zip(x.row(d, y / 2).chunks_exact(c)) {
            let (left, right) = out.split_at_mut(c);
            for i in 0..c {
                left[i] = x[i] * factor;
                right[i] = left[i];
            }
        }
    });
    out
}

/// Channels of `a`, then of `b`.
///
/// # Errors
/// When draws or sizes differ.
pub fn concat_channels(a: &Map, b: &Map) -> Result<Map> {
    let ([height, width, ca], [hb, wb, cb]) = (a.item_shape(), b.item_shape());
    if (a.draws(), height, width) != (b.draws(), hb, wb) {
        return Err(Error::shape("concat_channels", &[b.draws(), hb, wb, cb], format!("{} draws of {height}x{width}", a.draws())));
    }
    let mut out = Map::stale(a.draws(), [height, width, ca + cb], 0);
    out.fill_rows(|d, y, out| {
        for ((out, a), b) in out.chunks_exact_mut(ca + cb).zip(a.row(d, y).chunks_exact(ca)).zip(b.row(d, y).chunks_exact(cb)) {
            out[..ca].copy_from_slice(a);
            out[ca..].copy_from_slice(b);
        }
    });
    Ok(out)
}

/// The first `first` channels and the others: the input gradients of [`concat_channels`].
///
/// # Errors
/// When there are fewer channels.
pub fn split_channels(x: &Map, first: usize) -> Result<(Map, Map)> {
    let [height, width, c] = x.item_shape();
    if first > c {
        return Err(Error::shape("split_channels", &[x.draws(), height, width, c], format!("at least {first} channels")));
    }
    let part = |from: usize, to: usize| {
        let mut out = Map::stale(x.draws(), [height, width, to - from], 0);
        out.fill_rows(|d, y, out| {
            for (out, x) in out.chunks_exact_mut(to - from).zip(x.row(d, y).chunks_exact(c)) {
                out.copy_from_slice(&x[from..to]);
            }
        });
        out
    };
    Ok((part(0, first), part(first, c)))
}

/// (x + other) * scale with a border of `pad`.
///
/// # Errors
/// When the shapes differ.
pub fn scaled_sum(x: &Map, other: Option<&Map>, scale: f32, pad: usize) -> Result<Map> {
    if let Some(other) = other {
        other.expect_like("scaled_sum", x)?;
    }
    let mut out = Map::stale(x.draws(), x.item_shape(), pad);
    out.fill_rows(|d, y, out| match other {
        None => out.iter_mut().zip(x.row(d, y)).for_each(|(o, x)| *o = x * scale),
        Some(other) => {
            out.iter_mut().zip(x.row(d, y)).zip(other.row(d, y)).for_each(|((o, x), other)| *o = (x + other) * scale);
        }
    });
    Ok(out)
}

/// Sum over the pixels of each draw and channel, (draw, channel): the gradient of a shift that all pixels share.
pub fn sum_pixels(x: &Map) -> crate::Tensor {
    let mut out = crate::Tensor::zeros(&[x.draws(), x.channels()]);
    let c = x.channels();
    for_chunks(out.data_mut(), c, |d, out| {
        let mut sums = vec![0.0f64; c];
        for y in 0..x.height() {
            let mut row = vec![0.0f32; c];
            for pixel in x.row(d, y).chunks_exact(c) {
                row.iter_mut().zip(pixel).for_each(|(s, v)| *s += v);
            }
            sums.iter_mut().zip(&row).for_each(|(s, r)| *s += *r as f64);
        }
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = *s as f32);
    });
    out
}
