//! One source for each elementwise loop and each micro-kernel, compiled for AVX-512, AVX2 and any other processor, chosen at run time.

pub(crate) use crate::lanes::Simd;
use crate::lanes::{Eight, One};
use crate::{Error, Result};
use std::sync::atomic::{AtomicU8, Ordering};

/// The instruction set that the CPU kernels use. Results have the same bits on one level, not across levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// No assumption about the processor; products and sums are rounded separately.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 (F).
    Avx512,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

impl CpuLevel {
    /// The best level of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return CpuLevel::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return CpuLevel::Avx2;
            }
        }
        CpuLevel::Portable
    }

    /// The level in use: what [`CpuLevel::force`] set, otherwise the best one.
    pub fn current() -> Self {
        match LEVEL.load(Ordering::Relaxed) {
            1 => CpuLevel::Portable,
            2 => CpuLevel::Avx2,
            3 => CpuLevel::Avx512,
            _ => {
                let level = Self::detect();
                LEVEL.store(level.code(), Ordering::Relaxed);
                level
            }
        }
    }

    /// Uses `level` from now on, so that a run can be repeated to the same bits on a better processor.
    ///
    /// # Errors
    /// When this processor does not have it.
    pub fn force(level: CpuLevel) -> Result<()> {
        let best = Self::detect();
        if level > best {
            return Err(Error::Device {
                name: level.name().into(),
                reason: format!("this processor has no more than {}; force that level or a lower one", best.name()),
            });
        }
        LEVEL.store(level.code(), Ordering::Relaxed);
        Ok(())
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            CpuLevel::Portable => "portable",
            CpuLevel::Avx2 => "avx2",
            CpuLevel::Avx512 => "avx512",
        }
    }

    fn code(self) -> u8 {
        match self {
            CpuLevel::Portable => 1,
            CpuLevel::Avx2 => 2,
            CpuLevel::Avx512 => 3,
        }
    }
}

/// A loop that is compiled once per level.
///
/// # Safety
/// `run` may be called only where the processor has the instruction sets of `S` and `T`; it must be `#[inline(always)]`, so that it is
/// compiled inside the function that enables them.
pub(crate) unsafe trait Kernel {
    /// `S` for whole vectors, `T` for single elements that are left over; `PIXELS` rows of a register tile that two `S` wide
    /// columns leave room for.
    unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: this function enables the instruction sets.
    unsafe { kernel.run::<crate::lanes::x86::Avx512, One<true>, 8>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function enables the instruction sets.
    unsafe { kernel.run::<crate::lanes::x86::Avx2, One<true>, 4>() }
}

/// Runs `kernel` on `level`, which must be one that this processor has.
pub(crate) fn run_on<K: Kernel>(level: CpuLevel, kernel: K) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `CpuLevel::current` and `force` give only levels that this processor has.
        CpuLevel::Avx512 => unsafe { run_avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        CpuLevel::Avx2 => unsafe { run_avx2(kernel) },
        // SAFETY: plain scalar arithmetic.
        _ => unsafe { kernel.run::<Eight, One<false>, 4>() },
    }
}

/// Runs `kernel` on the level in use.
#[inline]
pub(crate) fn run<K: Kernel>(kernel: K) {
    run_on(CpuLevel::current(), kernel)
}

/// What is done to each element of a row of pixels, given its channel and its index.
///
/// # Safety
/// `at` must be `#[inline(always)]`, and every element of the row must be valid in all that it touches.
pub(crate) unsafe trait PixelOp {
    /// `V::LANES` neighbouring elements from `i` on, whose channels begin with `c`.
    unsafe fn at<V: Simd>(&mut self, c: usize, i: usize);
}

/// Applies an operation to all elements of a row: whole vectors of channels first, then what is left of each pixel.
pub(crate) fn each_element(channels: usize, len: usize, op: impl PixelOp) {
    struct All<O>(usize, usize, O);
    // SAFETY: inlined; gives `at` whole vectors inside a pixel only.
    unsafe impl<O: PixelOp> Kernel for All<O> {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(self) {
            let All(channels, len, mut op) = self;
            let whole = channels / S::LANES * S::LANES;
            let mut first = 0;
            while first < len {
                let mut c = 0;
                // SAFETY: the processor has the instruction set; c + LANES <= channels.
                unsafe {
                    while c < whole {
                        op.at::<S>(c, first + c);
                        c += S::LANES;
                    }
                    while c < channels {
                        op.at::<T>(c, first + c);
                        c += 1;
                    }
                }
                first += channels;
            }
        }
    }
    run(All(channels, len, op))
}

/// What is done to a channel over all pixels of a row.
///
/// # Safety
/// As [`PixelOp`].
pub(crate) unsafe trait ChannelOp {
    /// The channels from `c` to `c + V::LANES`.
    unsafe fn channels<V: Simd>(&mut self, c: usize);
}

/// Applies an operation to all channels: whole vectors first, then what is left.
pub(crate) fn each_channel(channels: usize, op: impl ChannelOp) {
    struct All<O>(usize, O);
    // SAFETY: inlined; gives `channels` whole vectors only.
    unsafe impl<O: ChannelOp> Kernel for All<O> {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(self) {
            let All(channels, mut op) = self;
            let mut c = 0;
            // SAFETY: the processor has the instruction set; c + LANES <= channels.
            unsafe {
                while c + S::LANES <= channels {
                    op.channels::<S>(c);
                    c += S::LANES;
                }
                while c < channels {
                    op.channels::<T>(c);
                    c += 1;
                }
            }
        }
    }
    run(All(channels, op))
}

/// The levels that this processor has, for tests.
#[cfg(test)]
pub(crate) fn levels() -> Vec<CpuLevel> {
    [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512].into_iter().filter(|l| *l <= CpuLevel::detect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a [f32], &'a mut [f32]);
    // SAFETY: inlined; touches only elements that both slices have.
    unsafe impl Kernel for Exp<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Simd, const PIXELS: usize>(self) {
            let whole = self.0.len() / S::LANES * S::LANES;
            unsafe {
                for i in (0..whole).step_by(S::LANES) {
                    S::load(self.0.as_ptr().add(i)).exp().store(self.1.as_mut_ptr().add(i));
                }
                for i in whole..self.0.len() {
                    T::load(self.0.as_ptr().add(i)).exp().store(self.1.as_mut_ptr().add(i));
                }
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp_on_every_level() {
        let x: Vec<f32> = (0..100_003).map(|i| (i as f32 / 100_003.0 - 0.5) * 173.9).collect();
        for level in levels() {
            let mut y = vec![0.0; x.len()];
            run_on(level, Exp(&x, &mut y));
            for (x, y) in x.iter().zip(&y) {
                let exact = (*x as f64).exp();
                assert!(((*y as f64 - exact) / exact).abs() < 2.5e-7, "{level:?} exp({x}) = {y}, exact {exact}");
            }
            let mut ends = [0.0; 4];
            run_on(level, Exp(&[-1e30, f32::NEG_INFINITY, 0.0, 1e30], &mut ends));
            let mut nan = [0.0];
            run_on(level, Exp(&[f32::NAN], &mut nan));
            assert!(nan[0].is_nan());
            assert!(ends[0] < 1.7e-38 && ends[1] < 1.7e-38 && ends[2] == 1.0 && ends[3] > 6e37, "{level:?} {ends:?}");
        }
    }

    #[test]
    fn a_level_that_is_not_there_is_an_error() {
        if CpuLevel::detect() < CpuLevel::Avx512 {
            assert!(CpuLevel::force(CpuLevel::Avx512).is_err());
        }
        assert!(CpuLevel::force(CpuLevel::detect()).is_ok());
    }
}
