//! Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11).
//!
//! A number is a pure function of (seed, stream, draw, step, element), so results do not depend on threads, batches, shards or resume.

use crate::{Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Random numbers of one seed and one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: u16,
}

impl Philox {
    /// The generator of `seed`, stream 0.
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: 0 }
    }

    /// The seed that it was made of.
    pub fn seed(&self) -> u64 {
        (self.key[1] as u64) << 32 | self.key[0] as u64
    }

    /// The same seed with another stream: independent numbers for another purpose.
    pub fn stream(self, stream: u16) -> Self {
        Self { stream, ..self }
    }

    /// Four words of counter (block, step, draw). Draws count up to 2^48.
    #[inline(always)]
    pub fn block(&self, draw: u64, step: u32, block: u32) -> [u32; 4] {
        philox4x32_10([block, step, draw as u32, (draw >> 32) as u32 & 0xffff | (self.stream as u32) << 16], self.key)
    }

    /// Standard normals of shape (draws, item...): element i of a draw depends on its draw, step and i alone.
    pub fn normal(&self, draws: Range<u64>, step: u32, item: &[usize]) -> Result<Tensor> {
        let n: usize = item.iter().product();
        let mut shape = vec![(draws.end - draws.start) as usize];
        shape.extend_from_slice(item);
        let mut out = Tensor::zeros(&shape);
        if n > 0 {
            out.data_mut().par_chunks_mut(n).enumerate().for_each(|(i, item)| self.fill_normal(draws.start + i as u64, step, item));
        }
        Ok(out)
    }

    /// Fills `out` with the standard normals of one draw and step.
    pub fn fill_normal(&self, draw: u64, step: u32, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { self.fill_normal_fma(draw, step, out) };
        }
        self.fill_normal_inline(draw, step, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn fill_normal_fma(&self, draw: u64, step: u32, out: &mut [f32]) {
        self.fill_normal_inline(draw, step, out)
    }

    #[inline(always)]
    fn fill_normal_inline(&self, draw: u64, step: u32, out: &mut [f32]) {
        for (i, chunk) in out.chunks_mut(4).enumerate() {
            let [a, b, c, d] = self.block(draw, step, i as u32);
            let (n0, n1) = normal_pair(a, b);
            let (n2, n3) = normal_pair(c, d);
            for (o, n) in chunk.iter_mut().zip([n0, n1, n2, n3]) {
                *o = n;
            }
        }
    }

    /// A sequence of numbers for code that draws one after another (simulators): its own draw and step.
    pub fn sequence(&self, draw: u64, step: u32) -> Sequence {
        Sequence { philox: *self, draw, step, next: 0, buffer: [0; 4], left: 0, spare: None }
    }
}

/// Numbers one after another from one (draw, step).
#[derive(Clone, Debug)]
pub struct Sequence {
    philox: Philox,
    draw: u64,
    step: u32,
    next: u32,
    buffer: [u32; 4],
    left: usize,
    spare: Option<f32>,
}

impl Sequence {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.buffer = self.philox.block(self.draw, self.step, self.next);
            self.next += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.buffer[3 - self.left]
    }

    /// Uniform in the open interval (0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let bits = (self.next_u32() as u64) << 32 | self.next_u32() as u64;
        ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in (low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Log-uniform in (low, high), both positive.
    pub fn log_range(&mut self, low: f64, high: f64) -> f64 {
        (low.ln() + (high / low).ln() * self.uniform()).exp()
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// A standard normal (f32 precision).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare as f64;
        }
        let (a, b) = normal_pair(self.next_u32(), self.next_u32());
        self.spare = Some(b);
        a as f64
    }
}

#[inline(always)]
fn philox4x32_10(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let p0 = 0xD251_1F53_u64 * c[0] as u64;
        let p1 = 0xCD9E_8D57_u64 * c[2] as u64;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// Two standard normals from two words by Box and Muller, in f32 with explicit fused multiply-adds: the CUDA source does the same
/// operations in the same order, so both give equal bits.
#[inline(always)]
pub(crate) fn normal_pair(a: u32, b: u32) -> (f32, f32) {
    // Radius: u in (0, 1]; 24 bits above, the rest below, so that the tail reaches sqrt(2 ln 2^32) = 6.66.
    let u = (a as f32).mul_add(2.328_306_4e-10, 1.164_153_2e-10).min(1.0);
    let r = (-2.0 * ln(u)).max(0.0).sqrt();
    // Angle: a quarter turn split off as an integer leaves t in [-1/2, 1/2) quarter turns.
    let quadrant = b.wrapping_add(1 << 29) >> 30;
    let t = ((b << 2) as i32 >> 8) as f32 * (1.0 / 16_777_216.0);
    let (s, c) = sin_cos_quarter(t);
    let (s, c) = match quadrant {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    };
    (r * c, r * s)
}

/// Natural logarithm of a positive normal number: exponent split off, then atanh series in s = (m-1)/(m+1).
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let e = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23; // mantissa in [sqrt(1/2), sqrt(2))
    let m = f32::from_bits(bits.wrapping_sub((e << 23) as u32));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = z.mul_add(0.222_222_22, 0.285_714_3).mul_add(z, 0.4).mul_add(z, 0.666_666_7).mul_add(z, 2.0);
    (e as f32).mul_add(std::f32::consts::LN_2, p * s)
}

/// Sine and cosine of t quarter turns, |t| <= 1/2 (Taylor in x = t pi/2, |x| <= pi/4).
#[inline(always)]
fn sin_cos_quarter(t: f32) -> (f32, f32) {
    let x = t * std::f32::consts::FRAC_PI_2;
    let z = x * x;
    let s = z.mul_add(2.755_731_9e-6, -1.984_127e-4).mul_add(z, 8.333_334e-3).mul_add(z, -0.166_666_67);
    let c = z.mul_add(2.480_158_7e-5, -1.388_888_9e-3).mul_add(z, 4.166_666_8e-2).mul_add(z, -0.5);
    ((s * z).mul_add(x, x), c.mul_add(z, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// Against the f64 formula on a sweep of words that includes both ends.
    #[test]
    fn box_muller_matches_f64() {
        for i in 0..200_000u32 {
            let (a, b) = (i.wrapping_mul(2_654_435_761), i.wrapping_mul(40_503).wrapping_add(0x8000_0000));
            let (a, b) = if i == 0 {
                (0, 0)
            } else if i == 1 {
                (u32::MAX, u32::MAX)
            } else {
                (a, b)
            };
            let r = (-2.0 * ((a as f64 + 0.5) / 4_294_967_296.0).ln()).sqrt();
            let theta = std::f64::consts::TAU * (b as f64) / 4_294_967_296.0;
            let (x, y) = normal_pair(a, b);
            // u is rounded to 24 bits: near u = 1 the radius is sqrt(2 (1-u)), so its absolute error stays below sqrt(2^-23).
            assert!((x as f64 - r * theta.cos()).abs() < 4e-4, "{a} {b}: {x} {}", r * theta.cos());
            assert!((y as f64 - r * theta.sin()).abs() < 4e-4, "{a} {b}: {y} {}", r * theta.sin());
        }
    }

    #[test]
    fn moments_and_independence_of_batch() {
        let rng = Philox::new(7).stream(3);
        let x = rng.normal(0..64, 5, &[1, 64, 64]).unwrap();
        let n = x.len() as f64;
        let moment = |p: i32| x.data().iter().map(|v| (*v as f64).powi(p)).sum::<f64>() / n;
        // Standard errors of the first four moments of n standard normals: sqrt(1, 2, 15, 96) / sqrt(n).
        for (p, expected, se) in [(1, 0.0, 1.0f64), (2, 1.0, 2f64.sqrt()), (3, 0.0, 15f64.sqrt()), (4, 3.0, 96f64.sqrt())] {
            assert!((moment(p) - expected).abs() < 4.0 * se / n.sqrt(), "moment {p}: {}", moment(p));
        }
        let part = rng.normal(17..19, 5, &[1, 64, 64]).unwrap();
        assert_eq!(part.item(0), x.item(17));
        assert_eq!(part.item(1), x.item(18));
    }

    #[test]
    fn portable_path_has_the_same_bits() {
        let rng = Philox::new(1);
        let (mut a, mut b) = (vec![0.0; 1001], vec![0.0; 1001]);
        rng.fill_normal(3, 4, &mut a);
        rng.fill_normal_inline(3, 4, &mut b);
        assert_eq!(a, b);
    }
}
