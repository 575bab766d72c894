use crate::map::{Buffer, for_chunks, for_cuts};
use crate::simd::{Kernel, Simd, run};
use crate::winograd::{self, POINTS, Tiles};
use crate::{Error, Map, Result, Tensor};
use std::sync::OnceLock;

/// Output channels in one packed block: one AVX-512 vector, two of AVX2.
pub(crate) const BLOCK: usize = 16;

/// Sizes of a convolution with stride 1 that keeps the image's size; a linear layer is one with `kernel` 1 on an image of one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Odd side of the kernel; the input needs a border of `kernel / 2`.
    pub kernel: usize,
}

impl ConvShape {
    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.inputs * self.outputs * self.kernel * self.kernel
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }
}

/// Weights and biases of a convolution. The orders in which the kernels read them are made when first needed.
pub struct ConvWeights {
    shape: ConvShape,
    weight: Vec<f32>,
    bias: Vec<f32>,
    forward: Packed,
    backward: Packed,
}

/// The weights of one direction: [block of outputs][tap][input][lane], and the same of the transformed weights of [`winograd`].
#[derive(Default)]
struct Packed {
    direct: OnceLock<Vec<f32>>,
    winograd: OnceLock<Vec<f32>>,
}

fn pack(outputs: usize, inputs: usize, taps: usize, at: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let mut packed = vec![0.0; outputs.div_ceil(BLOCK) * taps * inputs * BLOCK];
    for (block, part) in packed.chunks_exact_mut((taps * inputs * BLOCK).max(1)).enumerate() {
        for (i, lanes) in part.chunks_exact_mut(BLOCK).enumerate() {
            let (tap, input) = (i / inputs, i % inputs);
            for (lane, v) in lanes.iter_mut().enumerate().take(outputs - block * BLOCK) {
                *v = at(block * BLOCK + lane, input, tap);
            }
        }
    }
    packed
}

impl ConvWeights {
    /// Takes `weight` (output, input, ky, kx) and `bias` (output).
    ///
    /// # Errors
    /// When the lengths do not fit `shape` or the kernel's side is even.
    pub fn new(shape: ConvShape, weight: &[f32], bias: &[f32]) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel } = shape;
        if weight.len() != shape.weights() || bias.len() != outputs || kernel % 2 == 0 || inputs == 0 || outputs == 0 {
            return Err(Error::shape("ConvWeights::new", &[weight.len(), bias.len()], format!("weights and biases of {shape:?}")));
        }
        Ok(Self { shape, weight: weight.to_vec(), bias: bias.to_vec(), forward: Packed::default(), backward: Packed::default() })
    }

    /// A weight of the convolution, or of the one that is its input gradient: inputs and outputs exchanged, taps turned round.
    fn at(&self, backward: bool, output: usize, input: usize, tap: usize) -> f32 {
        let taps = self.shape.taps();
        let index = if backward {
            (input * self.shape.inputs + output) * taps + taps - 1 - tap
        } else {
            (output * self.shape.inputs + input) * taps + tap
        };
        self.weight[index]
    }

    /// The sizes.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }
}

/// What follows a convolution in the same pass: (conv(x) + bias + shift + residual) * scale.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// One value per draw and output channel, (draw, output).
    pub shift: Option<&'a Tensor>,
    /// Maps of the output's shape.
    pub residual: Option<&'a Map>,
    /// Factor on the sum.
    pub scale: f32,
    /// Border of the result.
    pub pad: usize,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { shift: None, residual: None, scale: 1.0, pad: 0 }
    }
}

/// Convolution (cross-correlation, zero border) with stride 1: y[o] = b[o] + sum over i, ky, kx of w[o,i,ky,kx] x[i, y+ky-r, x+kx-r],
/// r = kernel / 2. `x` must have a border of at least r. A draw's bits do not depend on the batch, and sums run over taps, then inputs.
///
/// # Errors
/// When channels, border, shift or residual do not fit.
pub fn conv2d(x: &Map, w: &ConvWeights, epilogue: Epilogue) -> Result<Map> {
    let ConvShape { inputs, outputs, kernel } = w.shape;
    check_input("conv2d", x, inputs, kernel)?;
    if let Some(shift) = epilogue.shift {
        shift.expect_shape("conv2d shift", &[x.draws(), outputs])?;
    }
    let lanes = outputs.div_ceil(BLOCK) * BLOCK;
    let mut init = vec![0.0; lanes * x.draws()];
    for (d, init) in init.chunks_exact_mut(lanes).enumerate() {
        init[..outputs].copy_from_slice(&w.bias);
        if let Some(shift) = epilogue.shift {
            init.iter_mut().zip(shift.item(d)).for_each(|(b, s)| *b += s);
        }
    }
    convolve(x, w, false, &init, epilogue)
}

/// Gradient of [`conv2d`] with respect to its input, from the gradient `g` of its output (which needs a border of kernel / 2);
/// `epilogue` acts on the result, so that gradients of several branches add up in one pass.
///
/// # Errors
/// When channels, border or residual do not fit.
pub fn conv2d_input_grad(g: &Map, w: &ConvWeights, epilogue: Epilogue) -> Result<Map> {
    check_input("conv2d_input_grad", g, w.shape.outputs, w.shape.kernel)?;
    let init = vec![0.0; w.shape.inputs.div_ceil(BLOCK) * BLOCK * g.draws()];
    convolve(g, w, true, &init, epilogue)
}

fn check_input(op: &'static str, x: &Map, channels: usize, kernel: usize) -> Result<()> {
    if x.channels() != channels || x.pad() < kernel / 2 {
        let found = [x.draws(), x.height(), x.width(), x.channels(), x.pad()];
        return Err(Error::shape(
            op,
            &found,
            format!("(draw, y, x, channel, border) with {channels} channels, border {}", kernel / 2),
        ));
    }
    Ok(())
}

/// Offsets of the taps from the pixel at the kernel's centre, in elements of `x`.
fn tap_offsets(x: &Map, kernel: usize) -> Vec<isize> {
    let r = (kernel / 2) as isize;
    let (stride, c) = (x.row_stride() as isize, x.channels() as isize);
    (-r..=r).flat_map(|dy| (-r..=r).map(move |dx| dy * stride + dx * c)).collect()
}

/// Whether the transforms pay: whole tiles, and enough channels to spread them over. A function of one draw's shape alone.
fn by_tiles(kernel: usize, height: usize, width: usize, inputs: usize, outputs: usize) -> bool {
    kernel == 3 && height.is_multiple_of(2) && width.is_multiple_of(2) && inputs >= BLOCK && outputs >= BLOCK && height * width > 0
}

fn convolve(x: &Map, w: &ConvWeights, backward: bool, init: &[f32], epilogue: Epilogue) -> Result<Map> {
    let [height, width, inputs] = x.item_shape();
    let kernel = w.shape.kernel;
    let (outputs, packed) = if backward { (w.shape.inputs, &w.backward) } else { (w.shape.outputs, &w.forward) };
    let mut out = Map::stale(x.draws(), [height, width, outputs], epilogue.pad);
    if let Some(residual) = epilogue.residual {
        residual.expect_like("conv2d residual", &out)?;
    }
    let lanes = outputs.div_ceil(BLOCK) * BLOCK;
    if epilogue.pad == 0 && by_tiles(kernel, height, width, inputs, outputs) {
        let packed = packed.winograd.get_or_init(|| winograd::pack(outputs, inputs, |o, i, tap| w.at(backward, o, i, tap)));
        let columns = width / 2;
        // Some 32 tiles at a time: enough to use the weights well, few enough for the second-level cache.
        let rows = (32 / columns).clamp(1, height / 2);
        let groups = (height / 2).div_ceil(rows);
        let row = width * outputs;
        // Groups must not straddle draws: the last of a draw may be smaller, so draws are cut first.
        let cuts: Vec<usize> = (0..groups).map(|g| (2 * rows).min(height - 2 * rows * g) * row).collect();
        for_cuts(&mut out.data, &cuts, |i, part| {
            let (draw, first) = (i / groups, i % groups * rows);
            let tiles = Tiles { draw, first, rows: part.len() / (2 * row), columns };
            let transformed = winograd::transform_input(x, tiles);
            let init = &init[draw * lanes..(draw + 1) * lanes];
            let (residual, scale) = (epilogue.residual, epilogue.scale);
            winograd::Output { transformed: &transformed, tiles, inputs, outputs, packed, init, residual, scale, rows: part }
                .compute();
        });
        return Ok(out);
    }
    let packed = packed.direct.get_or_init(|| pack(outputs, inputs, kernel * kernel, |o, i, tap| w.at(backward, o, i, tap)));
    // The inputs of a row of taps lie beside each other in memory.
    let runs: Vec<isize> = tap_offsets(x, kernel).into_iter().step_by(kernel).collect();
    out.fill_rows(|d, y, row| {
        run(RowKernel {
            x: &x.data,
            start: x.row_start(d, y),
            inputs: x.channels(),
            runs: &runs,
            run: kernel * x.channels(),
            packed,
            init: &init[d * lanes..(d + 1) * lanes],
            residual: epilogue.residual.map(|r| r.row(d, y)),
            scale: epilogue.scale,
            outputs,
            row,
        })
    });
    Ok(out)
}

/// One row of output pixels, all output channels.
struct RowKernel<'a> {
    x: &'a [f32],
    /// Where the row's first pixel lies in `x`; all taps of all its pixels lie inside `x` (`check_input`).
    start: usize,
    inputs: usize,
    /// Where the taps of each kernel row begin, relative to the pixel, and how many elements they are.
    runs: &'a [isize],
    run: usize,
    packed: &'a [f32],
    init: &'a [f32],
    residual: Option<&'a [f32]>,
    scale: f32,
    outputs: usize,
    row: &'a mut [f32],
}

// SAFETY: `run` is inlined; the pointers stay inside the slices: `packed` and `init` hold whole blocks, `x` has the border.
unsafe impl Kernel for RowKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(mut self) {
        let width = self.row.len() / self.outputs;
        let blocks = self.outputs.div_ceil(BLOCK);
        let per_block = BLOCK / S::LANES;
        let mut block = 0;
        // SAFETY: the processor has the instruction set; see above for the pointers.
        unsafe {
            while block < blocks {
                // Two vectors beside each other: two blocks of AVX-512, one of the narrower sets.
                if per_block == 1 && blocks - block == 1 {
                    self.columns::<S, PIXELS, 1>(block, width);
                    block += 1;
                } else {
                    self.columns::<S, PIXELS, 2>(block, width);
                    block += 2 / per_block;
                }
            }
        }
    }
}

impl RowKernel<'_> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const PIXELS: usize, const V: usize>(&mut self, block: usize, width: usize) {
        let mut p = 0;
        // SAFETY: pixels p..p+n lie in the row.
        unsafe {
            while p + PIXELS <= width {
                self.tile::<S, PIXELS, V>(block, p);
                p += PIXELS;
            }
            while p + 2 <= width {
                self.tile::<S, 2, V>(block, p);
                p += 2;
            }
            if p < width {
                self.tile::<S, 1, V>(block, p);
            }
        }
    }

    /// `P` pixels from `pixel` on by `V` vectors of output channels from `block` on, accumulated in registers.
    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const V: usize>(&mut self, block: usize, pixel: usize) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let stride = self.runs.len() * self.run * BLOCK;
        // SAFETY: the caller guarantees instruction set and indices.
        unsafe {
            let w: [*const f32; V] =
                std::array::from_fn(|v| self.packed.as_ptr().add((block + v * S::LANES / BLOCK) * stride + v * S::LANES % BLOCK));
            let mut acc: [[S; V]; P] = [std::array::from_fn(|v| S::load(self.init.as_ptr().add(block * BLOCK + v * S::LANES))); P];
            let x = self.x.as_ptr().add(self.start + pixel * inputs);
            let mut k = 0;
            for &run in self.runs {
                let x = x.offset(run);
                for i in 0..self.run {
                    let w: [S; V] = std::array::from_fn(|v| S::load(w[v].add(k)));
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let b = S::splat(*x.add(p * inputs + i));
                        for v in 0..V {
                            acc[v] = b.fma(w[v], acc[v]);
                        }
                    }
                    k += BLOCK;
                }
            }
            let scale = S::splat(self.scale);
            for (p, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    let channel = block * BLOCK + v * S::LANES;
                    let at = (pixel + p) * outputs + channel;
                    let room = outputs.saturating_sub(channel);
                    if room >= S::LANES {
                        let mut sum = *acc;
                        if let Some(residual) = self.residual {
                            sum = sum.add(S::load(residual.as_ptr().add(at)));
                        }
                        sum.mul(scale).store(self.row.as_mut_ptr().add(at));
                    } else {
                        let mut lanes = [0.0f32; BLOCK];
                        acc.store(lanes.as_mut_ptr());
                        for (l, sum) in lanes.iter().enumerate().take(room) {
                            let residual = self.residual.map_or(0.0, |r| r[at + l]);
                            self.row[at + l] = (sum + residual) * self.scale;
                        }
                    }
                }
            }
        }
    }
}

/// Sums of weight and bias gradients of one convolution, in the kernels' own order: [tap][input][output lane].
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

    /// Adds the gradients of [`conv2d`] for input `x` and output gradient `g`, draw by draw in order: the sum does not depend on threads.
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
