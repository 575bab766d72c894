//! Some f32 lanes at once, for each instruction set.

/// Some f32 lanes.
///
/// # Safety
/// The methods may be called only where the processor has the instruction set of the implementor; `load` and `store` need `LANES`
/// elements behind the pointer.
pub(crate) unsafe trait Simd: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// self * a + b
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// 2^n for self = n + 1.5 * 2^23, n an integer in -126..=127: the integer stands in the low bits of such a number.
    unsafe fn pow2_of_shifted(self) -> Self;

    /// e^x within 2 ulp, x limited to +-87 (Cody and Waite reduction, Taylor polynomial of degree 7 on |r| <= ln2/2).
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        const SHIFT: f32 = 12_582_912.0;
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            // In this order of operands both give back a NaN, which must not become a number.
            let x = Self::splat(87.0).min(Self::splat(-87.0).max(self));
            let shifted = x.fma(Self::splat(std::f32::consts::LOG2_E), Self::splat(SHIFT));
            let n = shifted.sub(Self::splat(SHIFT));
            let r = n.fma(Self::splat(-0.693_359_4), x);
            let r = n.fma(Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.0 / 5040.0);
            for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = p.fma(r, Self::splat(c));
            }
            p.mul(shifted.pow2_of_shifted())
        }
    }

    /// 1 / (1 + e^-x)
    #[inline(always)]
    unsafe fn sigmoid(self) -> Self {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { Self::splat(1.0).div(Self::splat(1.0).add(Self::splat(0.0).sub(self).exp())) }
    }
}

/// One lane, for what is left over; with or without fused multiply-add like the vectors beside it.
#[derive(Clone, Copy)]
pub(crate) struct One<const FMA: bool>(f32);

// SAFETY: plain scalar arithmetic needs no instruction set.
unsafe impl<const FMA: bool> Simd for One<FMA> {
    const LANES: usize = 1;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        One(value)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller guarantees one element.
        One(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller guarantees one element.
        unsafe { *p = self.0 }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        One(self.0 + other.0)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        One(self.0 - other.0)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        One(self.0 * other.0)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        One(self.0 / other.0)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        One(if self.0 > other.0 { self.0 } else { other.0 })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        One(if self.0 < other.0 { self.0 } else { other.0 })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        One(if FMA { self.0.mul_add(a.0, b.0) } else { self.0 * a.0 + b.0 })
    }
    #[inline(always)]
    unsafe fn pow2_of_shifted(self) -> Self {
        One(f32::from_bits((self.0.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
}

/// Eight lanes that the compiler maps to whatever there is.
#[derive(Clone, Copy)]
pub(crate) struct Eight([f32; 8]);

impl Eight {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Eight(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: plain scalar arithmetic needs no instruction set.
unsafe impl Simd for Eight {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Eight([value; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller guarantees eight elements; an array of f32 has no stricter alignment than f32.
        Eight(unsafe { *(p as *const [f32; 8]) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as in load.
        unsafe { *(p as *mut [f32; 8]) = self.0 }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Eight(std::array::from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn pow2_of_shifted(self) -> Self {
        Eight(self.0.map(|v| f32::from_bits((v.to_bits() << 23).wrapping_add(0x3f80_0000))))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($name:ident, $reg:ty, $lanes:literal, $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident,
         $div:ident, $max:ident, $min:ident, $fma:ident, $cast_si:ident, $slli:ident, $add_i:ident, $set1_i:ident, $cast_ps:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($reg);

            // SAFETY: each method is one instruction of the set that the caller guarantees; loads and stores are unaligned ones.
            unsafe impl Simd for $name {
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    unsafe { $name($set1(value)) }
                }
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self {
                    unsafe { $name($loadu(p)) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut f32) {
                    unsafe { $storeu(p, self.0) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    unsafe { $name($add(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    unsafe { $name($sub(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    unsafe { $name($mul(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn div(self, other: Self) -> Self {
                    unsafe { $name($div(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn max(self, other: Self) -> Self {
                    unsafe { $name($max(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn min(self, other: Self) -> Self {
                    unsafe { $name($min(self.0, other.0)) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    unsafe { $name($fma(self.0, a.0, b.0)) }
                }
                #[inline(always)]
                unsafe fn pow2_of_shifted(self) -> Self {
                    unsafe { $name($cast_ps($add_i($slli::<23>($cast_si(self.0)), $set1_i(0x3f80_0000)))) }
                }
            }
        };
    }

    vector!(
        Avx512,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_fmadd_ps,
        _mm512_castps_si512,
        _mm512_slli_epi32,
        _mm512_add_epi32,
        _mm512_set1_epi32,
        _mm512_castsi512_ps
    );
    vector!(
        Avx2,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_fmadd_ps,
        _mm256_castps_si256,
        _mm256_slli_epi32,
        _mm256_add_epi32,
        _mm256_set1_epi32,
        _mm256_castsi256_ps
    );
}
