use crate::map::{Buffer, for_chunks};
use crate::{Error, Map, Result};

/// Queries of one task; a constant, so that results do not depend on threads.
const QUERIES: usize = 64;

/// Softmax weights of one attention call, (draw, query, key), which the backward pass needs.
pub struct AttentionWeights(Buffer);

struct Sizes {
    pixels: usize,
    channels: usize,
}

fn sizes(op: &'static str, qkv: &Map) -> Result<Sizes> {
    let [height, width, c] = qkv.item_shape();
    if c % 3 != 0 || c == 0 || qkv.pad() != 0 {
        return Err(Error::shape(
            op,
            &[qkv.draws(), height, width, c],
            "queries, keys and values: three times the channels, no border",
        ));
    }
    Ok(Sizes { pixels: height * width, channels: c / 3 })
}

/// C (m, n) = alpha A (m, k) B (k, n), each given as slice, row stride and column stride; one thread.
fn product(
    (m, n, k): (usize, usize, usize),
    c: (&mut [f32], usize),
    a: (&[f32], usize, usize),
    b: (&[f32], usize, usize),
    alpha: f32,
) {
    let last = |rows: usize, cols: usize, rs: usize, cs: usize| (rows.max(1) - 1) * rs + (cols.max(1) - 1) * cs;
    assert!(last(m, n, c.1, 1) < c.0.len() && last(m, k, a.1, a.2) < a.0.len() && last(k, n, b.1, b.2) < b.0.len());
    // SAFETY: the assertion above keeps every element of the three matrices inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.0.as_mut_ptr(),
            1,
            c.1 as isize,
            false,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Self-attention with one head over the pixels of each draw: softmax(Q K^T / sqrt(C)) V. The channels of `qkv` are Q, then K, then V.
///
/// # Errors
/// When the channels are not three equal parts or there is a border.
pub fn attention(qkv: &Map) -> Result<(Map, AttentionWeights)> {
    let Sizes { pixels, channels: c } = sizes("attention", qkv)?;
    let scale = 1.0 / (c as f32).sqrt();
    let mut weights = Buffer::stale(qkv.draws() * pixels * pixels);
    let mut out = Map::stale(qkv.draws(), [qkv.height(), qkv.width(), c], 0);
    let item = |d: usize| &qkv.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c];
    for d in 0..qkv.draws() {
        let x = item(d);
        for_chunks(&mut weights[d * pixels * pixels..(d + 1) * pixels * pixels], QUERIES * pixels, |i, w| {
            let rows = w.len() / pixels;
            let q = &x[i * QUERIES * 3 * c..];
            product((rows, pixels, c), (w, pixels), (q, 3 * c, 1), (&x[c..], 1, 3 * c), scale);
            w.chunks_exact_mut(pixels).for_each(softmax);
        });
        let w = &weights[d * pixels * pixels..(d + 1) * pixels * pixels];
        for_chunks(&mut out.data[d * pixels * c..(d + 1) * pixels * c], QUERIES * c, |i, out| {
            let rows = out.len() / c;
            let w = &w[i * QUERIES * pixels..];
            product((rows, c, pixels), (out, c), (w, pixels, 1), (&x[2 * c..], 3 * c, 1), 1.0);
        });
    }
    Ok((out, AttentionWeights(weights)))
}

/// Gradient of [`attention`] with respect to `qkv` from the gradient `g` of its output.
///
/// # Errors
/// When `weights` or `g` belong to other maps.
pub fn attention_backward(qkv: &Map, weights: &AttentionWeights, g: &Map) -> Result<Map> {
    let Sizes { pixels, channels: c } = sizes("attention_backward", qkv)?;
    let found = [g.draws(), g.height(), g.width(), g.channels()];
    if found != [qkv.draws(), qkv.height(), qkv.width(), c] || g.pad() != 0 || weights.0.len() != qkv.draws() * pixels * pixels {
        return Err(Error::shape("attention_backward", &found, format!("{} draws of {pixels} pixels, {c} channels", qkv.draws())));
    }
    let scale = 1.0 / (c as f32).sqrt();
    let mut out = Map::stale(qkv.draws(), qkv.item_shape(), 0);
    let mut gs = Buffer::stale(pixels * pixels);
    for d in 0..qkv.draws() {
        let x = &qkv.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c];
        let g = &g.data[d * pixels * c..(d + 1) * pixels * c];
        let w = &weights.0[d * pixels * pixels..(d + 1) * pixels * pixels];
        // Through the softmax: gS = W * (gW - rowsum(gW * W)), gW = g V^T.
        for_chunks(&mut gs, QUERIES * pixels, |i, gs| {
            let rows = gs.len() / pixels;
            product((rows, pixels, c), (gs, pixels), (&g[i * QUERIES * c..], c, 1), (&x[2 * c..], 1, 3 * c), 1.0);
            for (gs, w) in gs.chunks_exact_mut(pixels).zip(w[i * QUERIES * pixels..].chunks_exact(pixels)) {
                let dot: f64 = gs.iter().zip(w).map(|(g, w)| (*g * *w) as f64).sum();
                gs.iter_mut().zip(w).for_each(|(g, w)| *g = w * (*g - dot as f32));
            }
        });
        let gs = &gs[..];
        for_chunks(&mut out.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c], QUERIES * 3 * c, |i, out| {
            let rows = out.len() / (3 * c);
            let first = i * QUERIES;
            product((rows, c, pixels), (out, 3 * c), (&gs[first * pixels..], pixels, 1), (&x[c..], 3 * c, 1), scale);
            product((rows, c, pixels), (&mut out[c..], 3 * c), (&gs[first..], 1, pixels), (x, 3 * c, 1), scale);
            product((rows, c, pixels), (&mut out[2 * c..], 3 * c), (&w[first..], 1, pixels), (g, c, 1), 1.0);
        });
    }
    Ok(out)
}

/// Softmax of one row in place. The sum runs in eight interleaved parts: one order, whatever the processor.
fn softmax(row: &mut [f32]) {
    struct Exp<'a> {
        row: &'a mut [f32],
        max: f32,
    }
    // SAFETY: inlined; touches elements of the row alone.
    unsafe impl crate::simd::PixelOp for Exp<'_> {
        #[inline(always)]
        unsafe fn at<V: crate::simd::Simd>(&mut self, _: usize, i: usize) {
            // SAFETY: the caller guarantees instruction set and index.
            unsafe {
                let p = self.row.as_mut_ptr().add(i);
                V::load(p).sub(V::splat(self.max)).exp().store(p);
            }
        }
    }
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let n = row.len();
    crate::simd::each_element(n, n, Exp { row, max });
    let mut sums = [0.0f32; 8];
    let (whole, rest) = row.split_at(n / 8 * 8);
    for part in whole.chunks_exact(8) {
        sums.iter_mut().zip(part).for_each(|(s, v)| *s += v);
    }
    let total: f32 = sums.iter().sum::<f32>() + rest.iter().sum::<f32>();
    let factor = 1.0 / total;
    row.iter_mut().for_each(|v| *v *= factor);
}
