use num_complex::Complex32;
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

/// The two-dimensional discrete Fourier transform of square images of one size, unnormalised forward, inverse divided by n^2.
#[derive(Clone)]
pub struct Fft2 {
    n: usize,
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
}

impl Fft2 {
    /// Plans for n x n images.
    pub fn new(n: usize) -> Self {
        let mut planner = FftPlanner::new();
        Self { n, forward: planner.plan_fft_forward(n), inverse: planner.plan_fft_inverse(n) }
    }

    fn transform(&self, plan: &dyn Fft<f32>, image: &mut [Complex32]) {
        let n = self.n;
        let mut scratch = vec![Complex32::default(); plan.get_inplace_scratch_len()];
        plan.process_with_scratch(image, &mut scratch);
        transpose(image, n);
        plan.process_with_scratch(image, &mut scratch);
        transpose(image, n);
    }

    /// X[j, i] = sum x[y, x] exp(-2 pi i (j y + i x) / n), in place; `image` has n * n entries.
    pub fn forward(&self, image: &mut [Complex32]) {
        self.transform(self.forward.as_ref(), image);
    }

    /// The inverse of [`Fft2::forward`], in place.
    pub fn inverse(&self, image: &mut [Complex32]) {
        self.transform(self.inverse.as_ref(), image);
        let scale = 1.0 / (self.n * self.n) as f32;
        image.iter_mut().for_each(|v| *v *= scale);
    }
}

fn transpose(image: &mut [Complex32], n: usize) {
    for y in 0..n {
        for x in 0..y {
            image.swap(y * n + x, x * n + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Philox;
    use num_complex::Complex64;

    #[test]
    fn matches_the_direct_sum_and_inverts() {
        for n in [1, 5, 8, 12] {
            let mut rng = Philox::new(1).sequence(n as u64, 0);
            let x: Vec<_> = (0..n * n).map(|_| Complex32::new(rng.normal() as f32, rng.normal() as f32)).collect();
            let mut f = x.clone();
            let fft = Fft2::new(n);
            fft.forward(&mut f);
            for j in 0..n {
                for i in 0..n {
                    let direct: Complex64 = (0..n * n)
                        .map(|p| {
                            let phase = -std::f64::consts::TAU * ((j * (p / n) + i * (p % n)) as f64) / n as f64;
                            Complex64::new(x[p].re as f64, x[p].im as f64) * Complex64::from_polar(1.0, phase)
                        })
                        .sum();
                    // Rounding of log2(n^2) butterflies on sums of n^2 unit normals.
                    let bound = 1e-6 * (n as f64) * ((n * n) as f64).log2().max(1.0);
                    assert!(
                        (direct.re - f[j * n + i].re as f64).abs() < bound && (direct.im - f[j * n + i].im as f64).abs() < bound
                    );
                }
            }
            fft.inverse(&mut f);
            for (a, b) in f.iter().zip(&x) {
                assert!((a - b).norm() < 1e-5);
            }
        }
    }
}
