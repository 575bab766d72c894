use crate::map::{Buffer, for_chunks};
use crate::{Error, Map, Result};

/// Queries of one task; a constant, so that results do not depend on threads.
const QUERIES: usize = 64;

/// Softmax weights of one attention call, (draw, head, query, key), which the backward pass needs.
pub struct AttentionWeights(Buffer);

struct Sizes {
    pixels: usize,
    channels: usize,
    /// Channels of one head.
    width: usize,
}

fn sizes(op: &'static str, qkv: &Map, heads: usize) -> Result<Sizes> {
    let [height, width, c] = qkv.item_shape();
    if heads == 0 || c % (3 * heads) != 0 || c == 0 || qkv.pad() != 0 {
        return Err(Error::shape(
            op,
            &[qkv.draws(), height, width, c],
            format!("queries, keys and values: three times the channels of {heads} equal heads, no border"),
        ));
    }
    Ok(Sizes { pixels: height * width, channels: c / 3, width: c / 3 / heads })
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

/// Self-attention over the pixels of each draw, head by head: softmax(Q K^T / sqrt(D)) V with D = C / heads. The channels of `qkv` are Q, then
/// K, then V, each with the channels of one head beside each other.
///
/// # Errors
/// When the channels are not three equal parts of `heads` equal heads or there is a border.
pub fn attention(qkv: &Map, heads: usize) -> Result<(Map, AttentionWeights)> {
    let Sizes { pixels, channels: c, width } = sizes("attention", qkv, heads)?;
    let scale = 1.0 / (width as f32).sqrt();
    let square = pixels * pixels;
    let mut weights = Buffer::stale(qkv.draws() * heads * square);
    let mut out = Map::stale(qkv.draws(), [qkv.height(), qkv.width(), c], 0);
    let item = |d: usize| &qkv.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c];
    for d in 0..qkv.draws() {
        let x = item(d);
        for head in 0..heads {
            let (q, k) = (&x[head * width..], &x[c + head * width..]);
            for_chunks(&mut weights[(d * heads + head) * square..][..square], QUERIES * pixels, |i, w| {
                let rows = w.len() / pixels;
                product((rows, pixels, width), (w, pixels), (&q[i * QUERIES * 3 * c..], 3 * c, 1), (k, 1, 3 * c), scale);
                w.chunks_exact_mut(pixels).for_each(softmax);
            });
        }
        let w = &weights[d * heads * square..(d + 1) * heads * square];
        for_chunks(&mut out.data[d * pixels * c..(d + 1) * pixels * c], QUERIES * c, |i, out| {
            let rows = out.len() / c;
            for head in 0..heads {
                let w = &w[head * square + i * QUERIES * pixels..];
                let v = &x[2 * c + head * width..];
                product((rows, width, pixels), (&mut out[head * width..], c), (w, pixels, 1), (v, 3 * c, 1), 1.0);
            }
        });
    }
    Ok((out, AttentionWeights(weights)))
}

/// Gradient of [`attention`] with respect to `qkv` from the gradient `g` of its output.
///
/// # Errors
/// When `weights` or `g` belong to other maps.
pub fn attention_backward(qkv: &Map, heads: usize, weights: &AttentionWeights, g: &Map) -> Result<Map> {
    let Sizes { pixels, channels: c, width } = sizes("attention_backward", qkv, heads)?;
    let square = pixels * pixels;
    let found = [g.draws(), g.height(), g.width(), g.channels()];
    if found != [qkv.draws(), qkv.height(), qkv.width(), c] || g.pad() != 0 || weights.0.len() != qkv.draws() * heads * square {
        let expected = format!("{} draws of {pixels} pixels, {c} channels in {heads} heads", qkv.draws());
        return Err(Error::shape("attention_backward", &found, expected));
    }
    let scale = 1.0 / (width as f32).sqrt();
    let mut out = Map::stale(qkv.draws(), qkv.item_shape(), 0);
    let mut gs = Buffer::stale(square);
    for d in 0..qkv.draws() {
        let x = &qkv.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c];
        let g = &g.data[d * pixels * c..(d + 1) * pixels * c];
        for head in 0..heads {
            let first = head * width;
            let (g, q, k, v) = (&g[first..], &x[first..], &x[c + first..], &x[2 * c + first..]);
            let w = &weights.0[(d * heads + head) * square..][..square];
            // Through the softmax: gS = W * (gW - rowsum(gW * W)), gW = g V^T.
            for_chunks(&mut gs, QUERIES * pixels, |i, gs| {
                let rows = gs.len() / pixels;
                product((rows, pixels, width), (gs, pixels), (&g[i * QUERIES * c..], c, 1), (v, 1, 3 * c), 1.0);
                for (gs, w) in gs.chunks_exact_mut(pixels).zip(w[i * QUERIES * pixels..].chunks_exact(pixels)) {
                    let dot: f64 = gs.iter().zip(w).map(|(g, w)| (*g * *w) as f64).sum();
                    gs.iter_mut().zip(w).for_each(|(g, w)| *g = w * (*g - dot as f32));
                }
            });
            let gs = &gs[..];
            for_chunks(&mut out.data[d * pixels * 3 * c..(d + 1) * pixels * 3 * c], QUERIES * 3 * c, |i, out| {
                let rows = out.len() / (3 * c);
                let query = i * QUERIES;
                let size = (rows, width, pixels);
                product(size, (&mut out[first..], 3 * c), (&gs[query * pixels..], pixels, 1), (k, 3 * c, 1), scale);
                product(size, (&mut out[c + first..], 3 * c), (&gs[query..], 1, pixels), (q, 3 * c, 1), scale);
                product(size, (&mut out[2 * c + first..], 3 * c), (&w[query..], 1, pixels), (g, c, 1), 1.0);
            });
        }
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
