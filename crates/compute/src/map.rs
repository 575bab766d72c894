use crate::{Error, Result, Tensor};
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

thread_local! {
    static SERIAL: Cell<bool> = const { Cell::new(false) };
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

/// Runs `f` with every operation of this crate on the calling thread alone: for callers that already spread their draws over threads.
/// Results do not change.
pub fn serial<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SERIAL.set(self.0);
        }
    }
    let _restore = Restore(SERIAL.replace(true));
    f()
}

/// Calls `f(i, chunk)` for the chunks of `data`, on all threads unless inside [`serial`].
pub(crate) fn for_chunks<T: Send>(data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if data.is_empty() {
        return;
    }
    if SERIAL.get() {
        data.chunks_mut(chunk).enumerate().for_each(|(i, c)| f(i, c));
    } else {
        data.par_chunks_mut(chunk).with_min_len((2048 / chunk.max(1)).max(1)).enumerate().for_each(|(i, c)| f(i, c));
    }
}

/// Calls `f(i, part)` for parts whose lengths repeat `cuts` again and again.
pub(crate) fn for_cuts(data: &mut [f32], cuts: &[usize], f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let mut parts = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (part, after) = rest.split_at_mut(cuts[parts.len() % cuts.len()].clamp(1, rest.len()));
        parts.push(part);
        rest = after;
    }
    if SERIAL.get() {
        parts.into_iter().enumerate().for_each(|(i, part)| f(i, part));
    } else {
        parts.into_par_iter().enumerate().for_each(|(i, part)| f(i, part));
    }
}

/// Calls `f(i, a chunk, b chunk)` for the chunks of two slices side by side.
pub(crate) fn for_chunk_pairs(
    a: (&mut [f32], usize),
    b: (&mut [f32], usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) {
    if a.0.is_empty() {
        return;
    }
    if SERIAL.get() {
        a.0.chunks_mut(a.1).zip(b.0.chunks_mut(b.1)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
    } else {
        let grain = (2048 / a.1.max(1)).max(1);
        let pairs = a.0.par_chunks_mut(a.1).zip(b.0.par_chunks_mut(b.1));
        pairs.with_min_len(grain).enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

/// Freed buffers by length. Large allocations otherwise go back to the system each time, and touching fresh pages costs as much as an
/// elementwise pass.
#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Vec<f32>>>,
    elements: usize,
}

/// Elements that a thread keeps: 64 MiB.
const KEEP: usize = 16 << 20;

/// A vector that comes from and returns to a store of freed vectors. Fresh ones hold whatever their last user left.
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` elements of unspecified value (NaN in this crate's own tests, so that an element that is not written shows).
    pub(crate) fn stale(len: usize) -> Self {
        let found = POOL.with_borrow_mut(|pool| {
            let v = pool.free.get_mut(&len).and_then(Vec::pop);
            if v.is_some() {
                pool.elements -= len;
            }
            v
        });
        let mut v = found.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(test) {
            v.fill(f32::NAN);
        }
        Buffer(v)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let v = std::mem::take(&mut self.0);
        // While a thread ends its store may be gone; the vector is then simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if v.len() >= 256 && pool.elements + v.len() <= KEEP {
                pool.elements += v.len();
                pool.free.entry(v.len()).or_default().push(v);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// Feature maps in channels-last order (draw, y, x, channel) with a border of `pad` zeros around each image: the layout inside a network.
pub struct Map {
    pub(crate) data: Buffer,
    draws: usize,
    height: usize,
    width: usize,
    channels: usize,
    pad: usize,
}

impl Map {
    /// Maps of unspecified content; every operation here writes all of it, border included.
    pub(crate) fn stale(draws: usize, [height, width, channels]: [usize; 3], pad: usize) -> Self {
        let data = Buffer::stale(draws * (height + 2 * pad) * (width + 2 * pad) * channels);
        Self { data, draws, height, width, channels, pad }
    }

    /// From a tensor (draw, channel, y, x).
    ///
    /// # Errors
    /// When the tensor does not have four axes.
    pub fn from_tensor(x: &Tensor, pad: usize) -> Result<Self> {
        let &[draws, channels, height, width] = x.shape() else {
            return Err(Error::shape("Map::from_tensor", x.shape(), "(draw, channel, y, x)"));
        };
        let mut map = Self::stale(draws, [height, width, channels], pad);
        map.fill_rows(|d, y, row| {
            let item = x.item(d);
            for (c, plane) in item.chunks_exact(height * width).enumerate() {
                for (i, v) in plane[y * width..(y + 1) * width].iter().enumerate() {
                    row[i * channels + c] = *v;
                }
            }
        });
        Ok(map)
    }

    /// To a tensor (draw, channel, y, x).
    pub fn to_tensor(&self) -> Tensor {
        let mut out = Tensor::zeros(&[self.draws, self.channels, self.height, self.width]);
        let item = self.channels * self.height * self.width;
        for (d, item) in out.data_mut().chunks_exact_mut(item.max(1)).enumerate() {
            for y in 0..self.height {
                for (x, pixel) in self.row(d, y).chunks_exact(self.channels).enumerate() {
                    for (c, v) in pixel.iter().enumerate() {
                        item[(c * self.height + y) * self.width + x] = *v;
                    }
                }
            }
        }
        out
    }

    /// Number of draws.
    pub fn draws(&self) -> usize {
        self.draws
    }

    /// (y, x, channel) without the border.
    pub fn item_shape(&self) -> [usize; 3] {
        [self.height, self.width, self.channels]
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Width of the border of zeros.
    pub fn pad(&self) -> usize {
        self.pad
    }

    /// The same elements with `by` pixels of the border as part of the image, which they are in a convolution that looks beyond its edge.
    ///
    /// # Errors
    /// When the border is smaller.
    pub fn widen(self, by: usize) -> Result<Self> {
        let Some(pad) = self.pad.checked_sub(by) else {
            return Err(Error::shape("Map::widen", &[self.draws, self.height, self.width, self.pad], format!("a border of {by}")));
        };
        Ok(Self { height: self.height + 2 * by, width: self.width + 2 * by, pad, ..self })
    }

    /// The image without a frame of `by` pixels: the input gradient of a border that [`Map::widen`] made part of it.
    ///
    /// # Errors
    /// When the image is no larger than the frame.
    pub fn crop(&self, by: usize, pad: usize) -> Result<Self> {
        let (Some(height), Some(width)) = (self.height.checked_sub(2 * by), self.width.checked_sub(2 * by)) else {
            return Err(Error::shape("Map::crop", &[self.draws, self.height, self.width], format!("a frame of {by} pixels")));
        };
        let c = self.channels;
        let mut out = Self::stale(self.draws, [height, width, c], pad);
        out.fill_rows(|d, y, row| row.copy_from_slice(&self.row(d, y + by)[by * c..(by + width) * c]));
        Ok(out)
    }

    /// Elements between rows.
    pub(crate) fn row_stride(&self) -> usize {
        (self.width + 2 * self.pad) * self.channels
    }

    /// Where row `y` of draw `draw` begins, border left out.
    pub(crate) fn row_start(&self, draw: usize, y: usize) -> usize {
        (draw * (self.height + 2 * self.pad) + y + self.pad) * self.row_stride() + self.pad * self.channels
    }

    /// Row `y` of draw `draw`: (x, channel).
    pub fn row(&self, draw: usize, y: usize) -> &[f32] {
        let start = self.row_start(draw, y);
        &self.data[start..start + self.width * self.channels]
    }

    /// Writes every row by `f(draw, y, row)` and the border with zeros.
    pub(crate) fn fill_rows(&mut self, f: impl Fn(usize, usize, &mut [f32]) + Sync + Send) {
        let (stride, pad, height, edge) = (self.row_stride(), self.pad, self.height, self.pad * self.channels);
        if stride == 0 {
            return;
        }
        for_chunks(&mut self.data, stride, |i, padded| {
            let (draw, y) = (i / (height + 2 * pad), i % (height + 2 * pad));
            if y < pad || y >= pad + height {
                return padded.fill(0.0);
            }
            let end = padded.len() - edge;
            padded[..edge].fill(0.0);
            padded[end..].fill(0.0);
            f(draw, y - pad, &mut padded[edge..end]);
        });
    }

    /// Fails with an error that names `op` unless draws, size and channels are those of `other`.
    pub(crate) fn expect_like(&self, op: &'static str, other: &Map) -> Result<()> {
        if (self.draws, self.item_shape()) != (other.draws, other.item_shape()) {
            let [h, w, c] = self.item_shape();
            return Err(Error::shape(op, &[self.draws, h, w, c], format!("{} draws of {:?}", other.draws, other.item_shape())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Philox;

    #[test]
    fn tensor_round_trip_and_border() {
        let x = Philox::new(1).normal(0..3, 0, &[5, 4, 7]).unwrap();
        let map = Map::from_tensor(&x, 1).unwrap();
        assert_eq!(map.to_tensor(), x);
        let border = map.data.iter().filter(|v| **v == 0.0).count();
        assert_eq!(border, 3 * 5 * (6 * 9 - 4 * 7));
        assert!(Map::from_tensor(&Tensor::zeros(&[2, 3]), 0).is_err());
    }
}
