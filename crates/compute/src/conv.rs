use crate::map::for_cuts;
use crate::simd::{Kernel, Simd, run};
use crate::winograd::{self, Tiles};
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

    pub(crate) fn taps(&self) -> usize {
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

/// Convolution (cross-correlation, zero border) with stride 1: `y[o] = b[o] + sum over i, ky, kx of w[o,i,ky,kx] x[i, y+ky-r, x+kx-r]`,
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

pub(crate) fn check_input(op: &'static str, x: &Map, channels: usize, kernel: usize) -> Result<()> {
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
pub(crate) fn tap_offsets(x: &Map, kernel: usize) -> Vec<isize> {
    let r = (kernel / 2) as isize;
    let (stride, c) = (x.row_stride() as isize, x.channels() as isize);
    (-r..=r).flat_map(|dy| (-r..=r).map(move |dx| dy * stride + dx * c)).collect()
}

/// Whether the transforms pay: whole tiles, and enough channels to spread them over. A function of one draw's shape alone.
pub(crate) fn by_tiles(kernel: usize, height: usize, width: usize, inputs: usize, outputs: usize) -> bool {
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
