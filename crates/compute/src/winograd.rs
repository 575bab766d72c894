//! 3x3 convolution with 16 instead of 36 products per 2x2 output pixels (Winograd 1980; Lavin and Gray 2015, arXiv:1509.09308, F(2x2, 3x3)):
//! Y = A^T [(G g G^T) * (B^T d B)] A for each 4x4 input tile d, summed over input channels where the star stands. All constants are 0, 1
//! and 1/2, so rounding grows little.

// Rows and columns of the small matrices are indexed alike.
#![allow(clippy::needless_range_loop)]

use crate::Map;
use crate::conv::BLOCK;
use crate::map::Buffer;
use crate::simd::{Kernel, Simd, run};

/// Elements of a transformed tile.
pub(crate) const POINTS: usize = 16;

/// G g G^T of a 3x3 kernel, in f64.
fn transform_weights(g: [[f64; 3]; 3]) -> [f64; POINTS] {
    let rows = |v: [f64; 3]| [v[0], 0.5 * (v[0] + v[1] + v[2]), 0.5 * (v[0] - v[1] + v[2]), v[2]];
    let half: [[f64; 4]; 3] = g.map(rows);
    std::array::from_fn(|k| rows([half[0][k % 4], half[1][k % 4], half[2][k % 4]])[k / 4])
}

/// G^T u G: the gradient of a 3x3 kernel from that of its transform.
pub(crate) fn weights_gradient(u: [f64; POINTS]) -> [[f64; 3]; 3] {
    let fold = |v: [f64; 4]| [v[0] + 0.5 * (v[1] + v[2]), 0.5 * (v[1] - v[2]), 0.5 * (v[1] + v[2]) + v[3]];
    let half: [[f64; 3]; 4] = std::array::from_fn(|i| fold([u[4 * i], u[4 * i + 1], u[4 * i + 2], u[4 * i + 3]]));
    let columns: [[f64; 3]; 3] = std::array::from_fn(|j| fold([half[0][j], half[1][j], half[2][j], half[3][j]]));
    std::array::from_fn(|i| std::array::from_fn(|j| columns[j][i]))
}

/// Transformed weights: [block of outputs][point][input][lane]; `at(output, input, tap)` are the weights.
pub(crate) fn pack(outputs: usize, inputs: usize, at: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let mut packed = vec![0.0; outputs.div_ceil(BLOCK) * POINTS * inputs * BLOCK];
    for o in 0..outputs {
        for i in 0..inputs {
            let g = std::array::from_fn(|y| std::array::from_fn(|x| at(o, i, 3 * y + x) as f64));
            for (k, u) in transform_weights(g).into_iter().enumerate() {
                packed[((o / BLOCK * POINTS + k) * inputs + i) * BLOCK + o % BLOCK] = u as f32;
            }
        }
    }
    packed
}

/// Tiles in (rows, columns) from tile row `first` on of draw `draw`.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub draw: usize,
    pub first: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Tiles {
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }
}

/// B^T d B of each tile and channel: [point][tile][channel]. `x` has a border of one pixel or more.
pub(crate) fn transform_input(x: &Map, tiles: Tiles) -> Buffer {
    let mut out = Buffer::stale(POINTS * tiles.len() * x.channels());
    run(Transform { x, tiles, out: &mut out, lanes: x.channels(), gradient: false });
    out
}

/// A g A^T of each tile and channel of an output gradient: [point][tile][lane], the lanes beyond the channels zero.
pub(crate) fn transform_gradient(g: &Map, tiles: Tiles) -> Buffer {
    let lanes = g.channels().div_ceil(BLOCK) * BLOCK;
    let mut out = Buffer::stale(POINTS * tiles.len() * lanes);
    if lanes != g.channels() {
        out.fill(0.0);
    }
    run(Transform { x: g, tiles, out: &mut out, lanes, gradient: true });
    out
}

struct Transform<'a> {
    x: &'a Map,
    tiles: Tiles,
    out: &'a mut [f32],
    lanes: usize,
    gradient: bool,
}

// SAFETY: inlined; tiles lie inside the map (with its border for inputs), `out` has room for all tiles.
unsafe impl Kernel for Transform<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(mut self) {
        let channels = self.x.channels();
        // SAFETY: the processor has the instruction set; channels c..c+LANES exist.
        unsafe {
            for tile in 0..self.tiles.len() {
                let mut c = 0;
                while c + S::LANES <= channels {
                    if self.gradient {
                        self.gradient::<S>(tile, c)
                    } else {
                        self.input::<S>(tile, c)
                    }
                    c += S::LANES;
                }
                while c < channels {
                    if self.gradient {
                        self.gradient::<T>(tile, c)
                    } else {
                        self.input::<T>(tile, c)
                    }
                    c += 1;
                }
            }
        }
    }
}

impl Transform<'_> {
    #[inline(always)]
    fn start(&self, tile: usize) -> usize {
        let (row, column) = (self.tiles.first + tile / self.tiles.columns, tile % self.tiles.columns);
        self.x.row_start(self.tiles.draw, 2 * row) + 2 * column * self.x.channels()
    }

    #[inline(always)]
    unsafe fn store<V: Simd>(&mut self, point: usize, tile: usize, c: usize, value: V) {
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe { value.store(self.out.as_mut_ptr().add((point * self.tiles.len() + tile) * self.lanes + c)) }
    }

    #[inline(always)]
    unsafe fn input<V: Simd>(&mut self, tile: usize, c: usize) {
        let (stride, channels) = (self.x.row_stride(), self.x.channels());
        let corner = self.start(tile) - stride - channels + c;
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let x = self.x.data.as_ptr().add(corner);
            let line = |a: V, b: V, c: V, d: V| [a.sub(c), b.add(c), c.sub(b), b.sub(d)];
            let rows: [[V; 4]; 4] = std::array::from_fn(|i| {
                let at = |j: usize| V::load(x.add(i * stride + j * channels));
                line(at(0), at(1), at(2), at(3))
            });
            for j in 0..4 {
                let column = line(rows[0][j], rows[1][j], rows[2][j], rows[3][j]);
                for (i, value) in column.into_iter().enumerate() {
                    self.store(4 * i + j, tile, c, value);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn gradient<V: Simd>(&mut self, tile: usize, c: usize) {
        let (stride, channels) = (self.x.row_stride(), self.x.channels());
        let corner = self.start(tile) + c;
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let g = self.x.data.as_ptr().add(corner);
            let line = |a: V, b: V| [a, a.add(b), a.sub(b), V::splat(0.0).sub(b)];
            let rows: [[V; 4]; 2] =
                std::array::from_fn(|i| line(V::load(g.add(i * stride)), V::load(g.add(i * stride + channels))));
            for j in 0..4 {
                for (i, value) in line(rows[0][j], rows[1][j]).into_iter().enumerate() {
                    self.store(4 * i + j, tile, c, value);
                }
            }
        }
    }
}

/// Products over input channels, inverse transform and epilogue for some rows of tiles.
pub(crate) struct Output<'a> {
    /// From [`transform_input`].
    pub transformed: &'a [f32],
    pub tiles: Tiles,
    pub inputs: usize,
    pub outputs: usize,
    /// From [`pack`].
    pub packed: &'a [f32],
    /// Bias and shift for whole blocks of outputs.
    pub init: &'a [f32],
    pub residual: Option<&'a Map>,
    pub scale: f32,
    /// The output rows of the tiles, without a border.
    pub rows: &'a mut [f32],
}

impl Output<'_> {
    pub fn compute(self) {
        let mut products = Buffer::stale(POINTS * self.tiles.len() * 2 * BLOCK);
        run(OutputKernel { o: self, products: &mut products });
    }
}

struct OutputKernel<'a, 'b> {
    o: Output<'a>,
    /// [point][tile][two blocks of outputs]
    products: &'b mut [f32],
}

// SAFETY: inlined; all slices hold what their comments say for the tiles.
unsafe impl Kernel for OutputKernel<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(mut self) {
        let blocks = self.o.outputs.div_ceil(BLOCK);
        let per_block = BLOCK / S::LANES;
        let mut block = 0;
        // SAFETY: the processor has the instruction set; blocks exist.
        unsafe {
            while block < blocks {
                if per_block == 1 && blocks - block == 1 {
                    self.block::<S, T, PIXELS, 1>(block);
                    block += 1;
                } else {
                    self.block::<S, T, PIXELS, 2>(block);
                    block += 2 / per_block;
                }
            }
        }
    }
}

impl OutputKernel<'_, '_> {
    #[inline(always)]
    unsafe fn block<S: Simd, T: Simd, const PIXELS: usize, const V: usize>(&mut self, block: usize) {
        let tiles = self.o.tiles.len();
        // SAFETY: the caller guarantees instruction set and blocks.
        unsafe {
            for point in 0..POINTS {
                let mut t = 0;
                while t + PIXELS <= tiles {
                    self.product::<S, PIXELS, V>(block, point, t);
                    t += PIXELS;
                }
                while t + 2 <= tiles {
                    self.product::<S, 2, V>(block, point, t);
                    t += 2;
                }
                if t < tiles {
                    self.product::<S, 1, V>(block, point, t);
                }
            }
            for tile in 0..tiles {
                for v in 0..V {
                    let channel = block * BLOCK + v * S::LANES;
                    if channel + S::LANES <= self.o.outputs {
                        self.inverse::<S>(tile, channel, v * S::LANES);
                    } else {
                        for c in channel..self.o.outputs {
                            self.inverse::<T>(tile, c, v * S::LANES + c - channel);
                        }
                    }
                }
            }
        }
    }

    /// Sums over input channels for `P` tiles and `V` vectors of outputs at one point.
    #[inline(always)]
    unsafe fn product<S: Simd, const P: usize, const V: usize>(&mut self, block: usize, point: usize, tile: usize) {
        let inputs = self.o.inputs;
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let w: [*const f32; V] = std::array::from_fn(|v| {
                let block = block + v * S::LANES / BLOCK;
                self.o.packed.as_ptr().add((block * POINTS + point) * inputs * BLOCK + v * S::LANES % BLOCK)
            });
            let x = self.o.transformed.as_ptr().add((point * self.o.tiles.len() + tile) * inputs);
            let mut acc = [[S::splat(0.0); V]; P];
            for i in 0..inputs {
                let w: [S; V] = std::array::from_fn(|v| S::load(w[v].add(i * BLOCK)));
                for (p, acc) in acc.iter_mut().enumerate() {
                    let b = S::splat(*x.add(p * inputs + i));
                    for v in 0..V {
                        acc[v] = b.fma(w[v], acc[v]);
                    }
                }
            }
            let out = self.products.as_mut_ptr().add((point * self.o.tiles.len() + tile) * 2 * BLOCK);
            for (p, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    acc.store(out.add(p * 2 * BLOCK + v * S::LANES));
                }
            }
        }
    }

    /// A^T m A of one tile, plus epilogue, for the channels from `channel` on, which stand at `lane` of the products.
    #[inline(always)]
    unsafe fn inverse<X: Simd>(&mut self, tile: usize, channel: usize, lane: usize) {
        let o = &mut self.o;
        let (tiles, outputs) = (o.tiles.len(), o.outputs);
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let m = self.products.as_ptr().add(tile * 2 * BLOCK + lane);
            let at = |i: usize, j: usize| X::load(m.add((4 * i + j) * tiles * 2 * BLOCK));
            let line = |a: X, b: X, c: X, d: X| [a.add(b).add(c), b.sub(c).sub(d)];
            let rows: [[X; 2]; 4] = std::array::from_fn(|i| line(at(i, 0), at(i, 1), at(i, 2), at(i, 3)));
            let init = X::load(o.init.as_ptr().add(channel));
            let scale = X::splat(o.scale);
            let (row, column) = (tile / o.tiles.columns, tile % o.tiles.columns);
            for j in 0..2 {
                for (i, value) in line(rows[0][j], rows[1][j], rows[2][j], rows[3][j]).into_iter().enumerate() {
                    let mut value = value.add(init);
                    let pixel = 2 * column + j;
                    if let Some(residual) = o.residual {
                        let start = residual.row_start(o.tiles.draw, 2 * (o.tiles.first + row) + i);
                        value = value.add(X::load(residual.data.as_ptr().add(start + pixel * outputs + channel)));
                    }
                    let to = ((2 * row + i) * 2 * o.tiles.columns + pixel) * outputs + channel;
                    value.mul(scale).store(o.rows.as_mut_ptr().add(to));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The identity behind the transforms on one tile, with weights and data that do not cancel: output and kernel gradient against the
    /// plain sums.
    #[test]
    fn one_tile() {
        let d = |y: usize, x: usize| ((3 * y + 5 * x) as f64 * 0.37).sin();
        let g: [[f64; 3]; 3] = std::array::from_fn(|y| std::array::from_fn(|x| ((2 * y + 7 * x + 1) as f64 * 0.61).cos()));
        let line = |v: [f64; 4]| [v[0] - v[2], v[1] + v[2], v[2] - v[1], v[1] - v[3]];
        let rows: [[f64; 4]; 4] = std::array::from_fn(|i| line([d(i, 0), d(i, 1), d(i, 2), d(i, 3)]));
        let v: [f64; 16] = std::array::from_fn(|k| line([rows[0][k % 4], rows[1][k % 4], rows[2][k % 4], rows[3][k % 4]])[k / 4]);
        let u = transform_weights(g);
        let out = |m: [f64; 4]| [m[0] + m[1] + m[2], m[1] - m[2] - m[3]];
        let rows: [[f64; 2]; 4] = std::array::from_fn(|i| out(std::array::from_fn(|j| u[4 * i + j] * v[4 * i + j])));
        let grad_out = [[0.3, -1.1], [0.7, 0.2]];
        for y in 0..2 {
            for x in 0..2 {
                let found = out([rows[0][x], rows[1][x], rows[2][x], rows[3][x]])[y];
                let exact: f64 = (0..9).map(|k| g[k / 3][k % 3] * d(y + k / 3, x + k % 3)).sum();
                assert!((found - exact).abs() < 1e-12);
            }
        }
        let expand = |a: f64, b: f64| [a, a + b, a - b, -b];
        let half: [[f64; 4]; 2] = [expand(0.3, -1.1), expand(0.7, 0.2)];
        let gu: [f64; 16] = std::array::from_fn(|k| expand(half[0][k % 4], half[1][k % 4])[k / 4] * v[k]);
        let found = weights_gradient(gu);
        for k in 0..9 {
            let exact: f64 = (0..4).map(|p| grad_out[p / 2][p % 2] * d(p / 2 + k / 3, p % 2 + k % 3)).sum();
            assert!((found[k / 3][k % 3] - exact).abs() < 1e-12, "{k}");
        }
    }
}
