use crate::conv::{BLOCK, by_tiles, check_input, tap_offsets};
use crate::map::{Buffer, for_chunks};
use crate::simd::{Kernel, Simd, run};
use crate::winograd::{self, POINTS, Tiles};
use crate::{ConvShape, Error, Map, Result};

/// Sums of weight and bias gradients of one convolution, in the kernels' own order: `[tap][input][output lane]`.
pub struct ConvGrads {
    shape: ConvShape,
    /// Empty until needed, like the next.
    direct: Vec<f32>,
    /// Gradients of the transformed weights: [point][input][output lane].
    winograd: Vec<f32>,
    bias: Vec<f32>,
}

impl ConvGrads {
    /// All zeros.
    pub fn zeros(shape: ConvShape) -> Self {
        Self { shape, direct: Vec::new(), winograd: Vec::new(), bias: vec![0.0; shape.outputs] }
    }

    /// Adds the gradients of [`crate::conv2d`] for input `x` and output gradient `g`, draw by draw in order: the sum does not depend on threads.
    ///
    /// # Errors
    /// When `x` or `g` do not fit.
    pub fn accumulate(&mut self, x: &Map, g: &Map) -> Result<()> {
        let ConvShape { inputs, outputs, kernel } = self.shape;
        check_input("ConvGrads::accumulate", x, inputs, kernel)?;
        let [height, width, channels] = g.item_shape();
        if (g.draws(), height, width, channels) != (x.draws(), x.height(), x.width(), outputs) {
            return Err(Error::shape(
                "ConvGrads::accumulate",
                &[g.draws(), height, width, channels],
                format!("{} draws of {}x{} with {outputs} channels", x.draws(), x.height(), x.width()),
            ));
        }
        for d in 0..x.draws() {
            for y in 0..height {
                for pixel in g.row(d, y).chunks_exact(outputs) {
                    self.bias.iter_mut().zip(pixel).for_each(|(b, g)| *b += g);
                }
            }
        }
        if by_tiles(kernel, height, width, inputs, outputs) {
            self.accumulate_tiles(x, g);
        } else {
            self.accumulate_direct(x, g);
        }
        Ok(())
    }

    /// Inputs of one task; tasks must not straddle taps, so that odd counts are not cut at all.
    fn piece(&self, lanes: usize) -> usize {
        let inputs = self.shape.inputs;
        if inputs.is_multiple_of(8) { 8 * lanes } else { inputs * lanes }
    }

    fn accumulate_direct(&mut self, x: &Map, g: &Map) {
        let ConvShape { inputs, outputs, kernel } = self.shape;
        let [height, width, _] = g.item_shape();
        let lanes = outputs.div_ceil(BLOCK) * BLOCK;
        let (per_tap, piece) = (inputs * lanes, self.piece(lanes));
        self.direct.resize(self.shape.taps() * per_tap, 0.0);
        let taps = tap_offsets(x, kernel);
        // Some 128 pixels at a time keep both operands in the first-level cache.
        let rows = (128 / width.max(1)).clamp(1, height.max(1));
        let mut widened = (lanes != outputs).then(|| Buffer::stale(rows * width * lanes));
        for d in 0..x.draws() {
            for y in (0..height).step_by(rows) {
                let rows = rows.min(height - y);
                let (gy, g_stride): (&[f32], usize) = match &mut widened {
                    None => (&g.data[g.row_start(d, y)..], g.row_stride()),
                    Some(buffer) => {
                        for row in 0..rows {
                            let to = buffer[row * width * lanes..].chunks_exact_mut(lanes);
                            for (to, from) in to.zip(g.row(d, y + row).chunks_exact(outputs)) {
                                to[..outputs].copy_from_slice(from);
                                to[outputs..].fill(0.0);
                            }
                        }
                        (&buffer[..], width * lanes)
                    }
                };
                let start = x.row_start(d, y);
                for_chunks(&mut self.direct, piece, |i, dw| {
                    let at = i * piece;
                    let start = (start as isize + taps[at / per_tap]) as usize + at % per_tap / lanes;
                    run(WeightKernel {
                        x: &x.data,
                        start,
                        x_stride: x.row_stride(),
                        inputs,
                        g: gy,
                        g_stride,
                        rows,
                        width,
                        lanes,
                        dw,
                    })
                });
            }
        }
    }

    fn accumulate_tiles(&mut self, x: &Map, g: &Map) {
        let ConvShape { inputs, outputs, .. } = self.shape;
        let [height, width, _] = g.item_shape();
        let lanes = outputs.div_ceil(BLOCK) * BLOCK;
        let (per_point, piece) = (inputs * lanes, self.piece(lanes));
        self.winograd.resize(POINTS * per_point, 0.0);
        let columns = width / 2;
        // Both transforms of a group together fill part of the second-level cache.
        let rows = (10_000 / (inputs + lanes) / columns).clamp(1, height / 2);
        for draw in 0..x.draws() {
            for first in (0..height / 2).step_by(rows) {
                let tiles = Tiles { draw, first, rows: rows.min(height / 2 - first), columns };
                let (tx, tg) = (winograd::transform_input(x, tiles), winograd::transform_gradient(g, tiles));
                let n = tiles.len();
                for_chunks(&mut self.winograd, piece, |i, dw| {
                    let at = i * piece;
                    let point = at / per_point;
                    run(WeightKernel {
                        x: &tx,
                        start: point * n * inputs + at % per_point / lanes,
                        x_stride: 0,
                        inputs,
                        g: &tg[point * n * lanes..],
                        g_stride: 0,
                        rows: 1,
                        width: n,
                        lanes,
                        dw,
                    })
                });
            }
        }
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        for sums in [&mut self.direct, &mut self.winograd, &mut self.bias] {
            sums.fill(0.0);
        }
    }

    /// Adds another sum to this one.
    pub fn add(&mut self, other: &ConvGrads) {
        for (to, from) in [(&mut self.direct, &other.direct), (&mut self.winograd, &other.winograd), (&mut self.bias, &other.bias)]
        {
            to.resize(to.len().max(from.len()), 0.0);
            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        }
    }

    /// Weight gradient in the order (output, input, ky, kx), and bias gradient.
    pub fn unpack(&self, weight: &mut [f32], bias: &mut [f32]) {
        let ConvShape { inputs, outputs, .. } = self.shape;
        let taps = self.shape.taps();
        let lanes = outputs.div_ceil(BLOCK) * BLOCK;
        for (i, w) in weight.chunks_exact_mut(taps).enumerate() {
            let at = i % inputs * lanes + i / inputs;
            if self.direct.is_empty() {
                w.fill(0.0);
            } else {
                w.iter_mut().enumerate().for_each(|(tap, w)| *w = self.direct[tap * inputs * lanes + at]);
            }
            if !self.winograd.is_empty() {
                let kernel = winograd::weights_gradient(std::array::from_fn(|k| self.winograd[k * inputs * lanes + at] as f64));
                w.iter_mut().zip(kernel.as_flattened()).for_each(|(w, k)| *w += *k as f32);
            }
        }
        bias.copy_from_slice(&self.bias);
    }
}

/// dw[input][lane] += sum over pixels of x[pixel][input] g[pixel][lane] for the inputs that `dw` holds.
struct WeightKernel<'a> {
    x: &'a [f32],
    start: usize,
    x_stride: usize,
    inputs: usize,
    g: &'a [f32],
    g_stride: usize,
    rows: usize,
    width: usize,
    lanes: usize,
    dw: &'a mut [f32],
}

// SAFETY: `run` is inlined; all pixels of `rows` x `width` lie in `x` (border checked) and in `g`, `lanes` is a multiple of BLOCK.
unsafe impl Kernel for WeightKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(mut self) {
        let inputs = self.dw.len() / self.lanes;
        let mut lane = 0;
        // SAFETY: the processor has the instruction set; see above for the pointers.
        unsafe {
            while lane + 2 * S::LANES <= self.lanes {
                self.inputs_at::<S, PIXELS, 2>(inputs, lane);
                lane += 2 * S::LANES;
            }
            if lane < self.lanes {
                self.inputs_at::<S, PIXELS, 1>(inputs, lane);
            }
        }
    }
}

impl WeightKernel<'_> {
    #[inline(always)]
    unsafe fn inputs_at<S: Simd, const I: usize, const V: usize>(&mut self, inputs: usize, lane: usize) {
        let mut i = 0;
        // SAFETY: inputs i..i+n lie in `dw`.
        unsafe {
            while i + I <= inputs {
                self.tile::<S, I, V>(i, lane);
                i += I;
            }
            while i < inputs {
                self.tile::<S, 1, V>(i, lane);
                i += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const I: usize, const V: usize>(&mut self, input: usize, lane: usize) {
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let dw = self.dw.as_mut_ptr().add(input * self.lanes + lane);
            let mut acc: [[S; V]; I] =
                std::array::from_fn(|i| std::array::from_fn(|v| S::load(dw.add(i * self.lanes + v * S::LANES))));
            for row in 0..self.rows {
                let mut x = self.x.as_ptr().add(self.start + row * self.x_stride + input);
                let mut g = self.g.as_ptr().add(row * self.g_stride + lane);
                for _ in 0..self.width {
                    let gv: [S; V] = std::array::from_fn(|v| S::load(g.add(v * S::LANES)));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let b = S::splat(*x.add(i));
                        for v in 0..V {
                            acc[v] = b.fma(gv[v], acc[v]);
                        }
                    }
                    // Past the last pixel these may point outside: they are not read then.
                    x = x.wrapping_add(self.inputs);
                    g = g.wrapping_add(self.lanes);
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    acc.store(dw.add(i * self.lanes + v * S::LANES));
                }
            }
        }
    }
}
