use crate::map::{Buffer, for_chunk_pairs, for_chunks};
use crate::simd::{ChannelOp, PixelOp, Simd, each_channel, each_element};
use crate::{Error, Map, Result, Tensor};

/// Scale and shift of a normalisation: one value per channel, or, for scales and shifts that an embedding sets, (draw, channel).
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// Factor on the normalised value.
    pub weight: &'a [f32],
    /// Added after it.
    pub bias: &'a [f32],
}

/// Mean and reciprocal standard deviation of each group of channels, per draw, repeated for each channel of the group.
pub struct GroupStats {
    groups: usize,
    channels: usize,
    mean: Vec<f32>,
    /// What rounding the mean to f32 left over.
    mean_rest: Vec<f32>,
    rstd: Vec<f32>,
}

/// Statistics of group normalisation (Wu and He 2018, arXiv:1803.08494, eq. 7): channels are split into `groups` neighbouring groups,
/// each normalised over its channels and all pixels; rstd = 1 / sqrt(variance + eps).
///
/// # Errors
/// When the channels cannot be split into `groups` of equal size.
pub fn group_norm_stats(x: &Map, groups: usize, eps: f64) -> Result<GroupStats> {
    let [height, width, channels] = x.item_shape();
    if groups == 0 || channels % groups != 0 {
        return Err(Error::shape(
            "group_norm_stats",
            &[x.draws(), height, width, channels],
            format!("channels in {groups} equal groups"),
        ));
    }
    // Sums of a row in f32, of rows in f64. Values are taken relative to the channel's first pixel, so that a mean that is large beside
    // the spread costs no digits.
    let mut rows = Buffer::stale(x.draws() * height * 2 * channels);
    for_chunks(&mut rows, 2 * channels, |i, sums| {
        let (d, y) = (i / height, i % height);
        each_channel(channels, RowMoments { row: x.row(d, y), origin: &x.row(d, 0)[..channels], sums });
    });
    let [mut mean, mut mean_rest, mut rstd] = [const { Vec::<f32>::new() }; 3].map(|_| vec![0.0; x.draws() * channels]);
    let size = channels / groups;
    let pixels = (height * width) as f64;
    for d in 0..x.draws() {
        let mut sums = vec![0.0f64; 2 * channels];
        for row in rows[d * height * 2 * channels..].chunks_exact(2 * channels).take(height) {
            sums.iter_mut().zip(row).for_each(|(s, r)| *s += *r as f64);
        }
        let (first, second) = sums.split_at(channels);
        for g in 0..groups {
            let members = g * size..(g + 1) * size;
            let channel_mean = |c: usize| x.row(d, 0)[c] as f64 + first[c] / pixels;
            let m = members.clone().map(channel_mean).sum::<f64>() / size as f64;
            let var = members
                .clone()
                .map(|c| {
                    let within = first[c] / pixels;
                    second[c] / pixels - within * within + (channel_mean(c) - m).powi(2)
                })
                .sum::<f64>()
                / size as f64;
            mean[d * channels..][members.clone()].fill(m as f32);
            mean_rest[d * channels..][members.clone()].fill((m - m as f32 as f64) as f32);
            rstd[d * channels..][members].fill((1.0 / (var.max(0.0) + eps).sqrt()) as f32);
        }
    }
    Ok(GroupStats { groups, channels, mean, mean_rest, rstd })
}

impl GroupStats {
    fn check(&self, op: &'static str, x: &Map, affine: Affine) -> Result<()> {
        let c = self.channels;
        let fits = |v: &[f32]| v.len() == c || v.len() == self.mean.len();
        if x.channels() != c || self.mean.len() != x.draws() * c || !fits(affine.weight) || affine.bias.len() != affine.weight.len()
        {
            let found = [x.draws(), x.height(), x.width(), x.channels()];
            return Err(Error::shape(
                op,
                &found,
                format!("statistics, weight and bias of {} draws with {c} channels", self.mean.len() / c),
            ));
        }
        Ok(())
    }

    /// Normalisation as u = a (x - mean) + b with the rounded mean: a, and b with what rounding left over, per draw and channel.
    fn lines(&self, affine: Affine) -> Vec<(f32, f32)> {
        let parameters = affine.weight.iter().zip(affine.bias).cycle();
        let stats = self.rstd.iter().zip(&self.mean_rest);
        stats.zip(parameters).map(|((rstd, rest), (w, b))| (rstd * w, b - rstd * w * rest)).collect()
    }

    fn of_draw<'a>(&'a self, d: usize, (a, b): &'a (Vec<f32>, Vec<f32>)) -> Line<'a> {
        let range = d * self.channels..(d + 1) * self.channels;
        Line { mean: &self.mean[range.clone()], a: &a[range.clone()], b: &b[range] }
    }
}

/// u = a (x - mean) + b per channel. The mean is taken off first: a x + (b - a mean) would lose digits where it is large.
#[derive(Clone, Copy)]
struct Line<'a> {
    mean: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl Line<'_> {
    /// x - mean and u for the channels from `c` on.
    #[inline(always)]
    unsafe fn at<V: Simd>(&self, x: V, c: usize) -> (V, V) {
        // SAFETY: the caller guarantees instruction set and channels.
        unsafe {
            let centred = x.sub(V::load(self.mean.as_ptr().add(c)));
            (centred, centred.fma(V::load(self.a.as_ptr().add(c)), V::load(self.b.as_ptr().add(c))))
        }
    }
}

/// Group normalisation, scaled and shifted, and, with `silu`, followed by u * sigmoid(u); the result has a border of `pad`.
///
/// # Errors
/// When `stats` or `affine` belong to other maps.
pub fn group_norm(x: &Map, stats: &GroupStats, affine: Affine, silu: bool, pad: usize) -> Result<Map> {
    stats.check("group_norm", x, affine)?;
    let lines_of: (Vec<f32>, Vec<f32>) = stats.lines(affine).into_iter().unzip();
    let c = x.channels();
    let mut out = Map::stale(x.draws(), x.item_shape(), pad);
    out.fill_rows(|d, y, out| {
        each_element(c, out.len(), NormRow { x: x.row(d, y), line: stats.of_draw(d, &lines_of), silu, out });
    });
    Ok(out)
}

/// Gradients with respect to weight and bias of a normalisation, of their lengths; summed over draws where these share them.
pub struct AffineGrads<'a> {
    /// Added to.
    pub weight: &'a mut [f32],
    /// Added to.
    pub bias: &'a mut [f32],
}

/// Input gradient of [`group_norm`] from the gradient `g` of its output, plus `residual`; the result has a border of `pad`.
/// With `grads`, the gradients of weight and bias are added there, draw by draw in order.
///
/// # Errors
/// When shapes do not fit.
#[allow(clippy::too_many_arguments)] // one backward pass needs all that the forward pass had
pub fn group_norm_backward(
    mut g: Map,
    x: &Map,
    stats: &GroupStats,
    affine: Affine,
    silu: bool,
    residual: Option<&Map>,
    pad: usize,
    grads: Option<AffineGrads>,
) -> Result<Map> {
    stats.check("group_norm_backward", x, affine)?;
    g.expect_like("group_norm_backward", x)?;
    if g.pad() != 0 {
        return Err(Error::shape("group_norm_backward", &[g.pad()], "a gradient without a border"));
    }
    if let Some(residual) = residual {
        residual.expect_like("group_norm_backward residual", x)?;
    }
    if grads.as_ref().is_some_and(|g| (g.weight.len(), g.bias.len()) != (affine.weight.len(), affine.bias.len())) {
        let expected = format!("gradients of {} weights and biases", affine.weight.len());
        return Err(Error::shape("group_norm_backward", &[x.draws(), x.channels()], expected));
    }
    let [height, width, c] = x.item_shape();
    let lines_of: (Vec<f32>, Vec<f32>) = stats.lines(affine).into_iter().unzip();
    // First pass: g becomes the gradient of u; per row the sums over pixels of g and of g (x - mean).
    let mut rows = Buffer::stale(x.draws() * height * 2 * c);
    for_chunk_pairs((&mut g.data, width * c), (&mut rows, 2 * c), |i, g, sums| {
        let (d, y) = (i / height, i % height);
        each_channel(c, BackRow { g, x: x.row(d, y), line: stats.of_draw(d, &lines_of), silu, sums });
    });
    let size = c / stats.groups;
    let n = (size * height * width) as f64;
    // Second pass: gx = a g + b (x - mean) + k per channel. With v = weight g and xhat = (x - mean) rstd:
    // gx = rstd (v - mean(v) - xhat mean(v xhat)), means over the group.
    let mut lines = vec![0.0f32; x.draws() * 3 * c];
    let mut grads = grads;
    for d in 0..x.draws() {
        let mut sums = vec![0.0f64; 2 * c];
        for row in rows[d * height * 2 * c..].chunks_exact(2 * c).take(height) {
            sums.iter_mut().zip(row).for_each(|(s, r)| *s += *r as f64);
        }
        let out = &mut lines[d * 3 * c..(d + 1) * 3 * c];
        // Where the parameters of this draw begin.
        let own = if affine.weight.len() == c { 0 } else { d * c };
        let weight = &affine.weight[own..own + c];
        for group in 0..stats.groups {
            let members = group * size..(group + 1) * size;
            let rstd = stats.rstd[d * c + group * size] as f64;
            let rest = stats.mean_rest[d * c + group * size] as f64;
            // The sums were taken with the rounded mean.
            members.clone().for_each(|i| sums[c + i] -= rest * sums[i]);
            let v: f64 = members.clone().map(|i| weight[i] as f64 * sums[i]).sum::<f64>() / n;
            let vx: f64 = members.clone().map(|i| weight[i] as f64 * sums[c + i] * rstd).sum::<f64>() / n;
            for i in members {
                out[i] = (rstd * weight[i] as f64) as f32;
                out[c + i] = (-rstd * rstd * vx) as f32;
                out[2 * c + i] = (rstd * (rstd * vx * rest - v)) as f32;
            }
        }
        if let Some(grads) = &mut grads {
            for i in 0..c {
                grads.bias[own + i] += sums[i] as f32;
                grads.weight[own + i] += (sums[c + i] * stats.rstd[d * c + i] as f64) as f32;
            }
        }
    }
    let mut out = Map::stale(x.draws(), x.item_shape(), pad);
    out.fill_rows(|d, y, out| {
        let residual = residual.map(|r| r.row(d, y));
        let line = &lines[d * 3 * c..(d + 1) * 3 * c];
        let mean = &stats.mean[d * c..(d + 1) * c];
        each_element(c, out.len(), SpreadRow { g: g.row(d, y), x: x.row(d, y), mean, line, residual, out });
    });
    Ok(out)
}

/// Silu, x * sigmoid(x), of every element.
pub fn silu(x: &Tensor) -> Tensor {
    let mut out = x.clone();
    let n = x.len();
    each_element(n, n, Silu { x: x.data(), out: out.data_mut() });
    out
}

/// Input gradient of [`silu`] from the gradient `g` of its output.
///
/// # Errors
/// When the shapes differ.
pub fn silu_backward(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    g.expect_shape("silu_backward", x.shape())?;
    let mut out = g.clone();
    let n = x.len();
    each_element(n, n, SiluBack { x: x.data(), g: out.data_mut() });
    Ok(out)
}

/// d(u sigmoid(u))/du with s = sigmoid(u).
#[inline(always)]
unsafe fn silu_slope<V: Simd>(u: V) -> V {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let s = u.sigmoid();
        let one = V::splat(1.0);
        s.mul(u.fma(one.sub(s), one))
    }
}

struct Silu<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

// SAFETY: inlined; both slices have the same length.
unsafe impl PixelOp for Silu<'_> {
    #[inline(always)]
    unsafe fn at<V: Simd>(&mut self, _: usize, i: usize) {
        // SAFETY: the caller guarantees instruction set and index.
        unsafe {
            let u = V::load(self.x.as_ptr().add(i));
            u.mul(u.sigmoid()).store(self.out.as_mut_ptr().add(i));
        }
    }
}

struct SiluBack<'a> {
    x: &'a [f32],
    g: &'a mut [f32],
}

// SAFETY: inlined; both slices have the same length.
unsafe impl PixelOp for SiluBack<'_> {
    #[inline(always)]
    unsafe fn at<V: Simd>(&mut self, _: usize, i: usize) {
        // SAFETY: the caller guarantees instruction set and index.
        unsafe {
            let g = V::load(self.g.as_ptr().add(i));
            g.mul(silu_slope(V::load(self.x.as_ptr().add(i)))).store(self.g.as_mut_ptr().add(i));
        }
    }
}

/// Sums over the pixels of a row of x - origin and of its square.
struct RowMoments<'a> {
    row: &'a [f32],
    origin: &'a [f32],
    sums: &'a mut [f32],
}

// SAFETY: inlined; `row` holds whole pixels, `origin` the channels, `sums` twice as many.
unsafe impl ChannelOp for RowMoments<'_> {
    #[inline(always)]
    unsafe fn channels<V: Simd>(&mut self, c: usize) {
        let channels = self.origin.len();
        // SAFETY: the caller guarantees instruction set and channels.
        unsafe {
            let origin = V::load(self.origin.as_ptr().add(c));
            let (mut first, mut second) = (V::splat(0.0), V::splat(0.0));
            let mut i = c;
            while i < self.row.len() {
                let v = V::load(self.row.as_ptr().add(i)).sub(origin);
                first = first.add(v);
                second = v.fma(v, second);
                i += channels;
            }
            first.store(self.sums.as_mut_ptr().add(c));
            second.store(self.sums.as_mut_ptr().add(channels + c));
        }
    }
}

/// out = u, then silu where wanted.
struct NormRow<'a> {
    x: &'a [f32],
    line: Line<'a>,
    silu: bool,
    out: &'a mut [f32],
}

// SAFETY: inlined; rows of equal length, `line` holds the channels.
unsafe impl PixelOp for NormRow<'_> {
    #[inline(always)]
    unsafe fn at<V: Simd>(&mut self, c: usize, i: usize) {
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let (_, u) = self.line.at(V::load(self.x.as_ptr().add(i)), c);
            let out = if self.silu { u.mul(u.sigmoid()) } else { u };
            out.store(self.out.as_mut_ptr().add(i));
        }
    }
}

/// g times the slope at u, with its sums over pixels: of g, and of g (x - mean).
struct BackRow<'a> {
    g: &'a mut [f32],
    x: &'a [f32],
    line: Line<'a>,
    silu: bool,
    sums: &'a mut [f32],
}

// SAFETY: inlined; rows of equal length, `line` holds the channels, `sums` twice as many.
unsafe impl ChannelOp for BackRow<'_> {
    #[inline(always)]
    unsafe fn channels<V: Simd>(&mut self, c: usize) {
        let channels = self.line.mean.len();
        // SAFETY: the caller guarantees instruction set and channels.
        unsafe {
            let (mut sum, mut product) = (V::splat(0.0), V::splat(0.0));
            let mut i = c;
            while i < self.x.len() {
                let (centred, u) = self.line.at(V::load(self.x.as_ptr().add(i)), c);
                let mut g = V::load(self.g.as_ptr().add(i));
                if self.silu {
                    g = g.mul(silu_slope(u));
                    g.store(self.g.as_mut_ptr().add(i));
                }
                sum = sum.add(g);
                product = g.fma(centred, product);
                i += channels;
            }
            sum.store(self.sums.as_mut_ptr().add(c));
            product.store(self.sums.as_mut_ptr().add(channels + c));
        }
    }
}

/// out = a g + b (x - mean) + k (+ residual), `line` = a, b, k per channel.
struct SpreadRow<'a> {
    g: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    line: &'a [f32],
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

// SAFETY: inlined; rows of equal length, `mean` holds the channels, `line` three times as many.
unsafe impl PixelOp for SpreadRow<'_> {
    #[inline(always)]
    unsafe fn at<V: Simd>(&mut self, c: usize, i: usize) {
        let channels = self.mean.len();
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let line = self.line.as_ptr();
            let centred = V::load(self.x.as_ptr().add(i)).sub(V::load(self.mean.as_ptr().add(c)));
            let mut v = centred.fma(V::load(line.add(channels + c)), V::load(line.add(2 * channels + c)));
            v = V::load(self.g.as_ptr().add(i)).fma(V::load(line.add(c)), v);
            if let Some(residual) = self.residual {
                v = v.add(V::load(residual.as_ptr().add(i)));
            }
            v.store(self.out.as_mut_ptr().add(i));
        }
    }
}
