//! Visibilities of an image on a regular grid, and the adjoint.

use crate::{ImageGrid, Visibility};
use ndarray::{Array2, s};
use std::f64::consts::{PI, TAU};

/// The shape of one pixel: its transform P(u) P(v) multiplies the sum over pixel centres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pulse {
    /// Triangle of two pixels' base, P(u) = sinc^2(u pixel): images are continuous.
    #[default]
    Triangle,
    /// A point at the pixel centre, P = 1.
    Delta,
    /// The pixel's square, P(u) = sinc(u pixel).
    Rectangle,
}

impl Pulse {
    /// P at `u_lambda` wavelengths for pixels of `pixel_rad` radians.
    pub fn transform(self, u_lambda: f64, pixel_rad: f64) -> f64 {
        let x = PI * u_lambda * pixel_rad;
        let sinc = if x.abs() < 1e-8 { 1.0 } else { x.sin() / x };
        match self {
            Pulse::Triangle => sinc * sinc,
            Pulse::Delta => 1.0,
            Pulse::Rectangle => sinc,
        }
    }
}

/// V_k = P(u_k) P(v_k) sum over pixels of I exp(+2 pi i (u_k l + v_k m)), as a real-linear map A from n^2 pixels to (Re V, Im V).
///
/// The phase is a sum of a column and a row term and the grid is symmetric about the phase centre, so A is never stored: the image
/// is folded into its four parities and each goes through one (n/2 x n/2) by (n/2 x visibilities) product. That is four times less
/// arithmetic than the complex exponential sum and stays in cache. All in f64.
#[derive(Clone, Debug)]
pub struct Fourier {
    grid: ImageGrid,
    u_pixel: Vec<f64>,
    v_pixel: Vec<f64>,
    pulse: Vec<f64>,
    cos_l: Array2<f64>,
    sin_l: Array2<f64>,
    cos_m: Array2<f64>,
    sin_m: Array2<f64>,
}

impl Fourier {
    /// The map to the visibilities at the points (u, v) in wavelengths.
    pub fn new(grid: ImageGrid, uv_lambda: &[(f64, f64)], pulse: Pulse) -> Self {
        let half = grid.n.div_ceil(2);
        let pixel = grid.pixel_rad();
        let table = |f: fn(f64) -> f64, along: &dyn Fn(usize) -> f64, pick: fn(&(f64, f64)) -> f64| {
            Array2::from_shape_fn((half, uv_lambda.len()), |(i, k)| f(TAU * pick(&uv_lambda[k]) * along(i)))
        };
        let (l, m) = (|i: usize| grid.l_rad(i), |j: usize| grid.m_rad(j));
        Self {
            grid,
            u_pixel: uv_lambda.iter().map(|p| p.0 * pixel).collect(),
            v_pixel: uv_lambda.iter().map(|p| p.1 * pixel).collect(),
            pulse: uv_lambda.iter().map(|p| pulse.transform(p.0, pixel) * pulse.transform(p.1, pixel)).collect(),
            cos_l: table(f64::cos, &l, |p| p.0),
            sin_l: table(f64::sin, &l, |p| p.0),
            cos_m: table(f64::cos, &m, |p| p.1),
            sin_m: table(f64::sin, &m, |p| p.1),
        }
    }

    /// The map to the visibilities of a list.
    pub fn of(grid: ImageGrid, visibilities: &[Visibility], pulse: Pulse) -> Self {
        let uv: Vec<_> = visibilities.iter().map(|v| (v.u_lambda, v.v_lambda)).collect();
        Self::new(grid, &uv, pulse)
    }

    /// The grid of the image.
    pub fn grid(&self) -> ImageGrid {
        self.grid
    }

    /// Number of visibilities.
    pub fn len(&self) -> usize {
        self.pulse.len()
    }

    /// Whether there is no visibility.
    pub fn is_empty(&self) -> bool {
        self.pulse.is_empty()
    }

    /// Real and imaginary parts of the visibilities of an image (n^2 pixels, row-major; its unit is that of V).
    pub fn forward(&self, image: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (n, half) = (self.grid.n, self.grid.n.div_ceil(2));
        // Rows [0, half): even in y; rows [half, 2 half): odd in y.
        let mut even_x = Array2::zeros((2 * half, half));
        let mut odd_x = Array2::zeros((2 * half, half));
        for j in 0..half {
            for i in 0..half {
                let (jj, ii) = (n - 1 - j, n - 1 - i);
                let [a, b, c, d] = [image[j * n + i], image[j * n + ii], image[jj * n + i], image[jj * n + ii]];
                let (ee, eo, oe, oo) = (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d);
                // The middle row or column of an odd grid is its own mirror image and was counted twice.
                let weight = if j == jj { 0.5 } else { 1.0 } * if i == ii { 0.5 } else { 1.0 };
                even_x[[j, i]] = weight * ee;
                odd_x[[j, i]] = weight * eo;
                even_x[[half + j, i]] = weight * oe;
                odd_x[[half + j, i]] = weight * oo;
            }
        }
        let even = even_x.dot(&self.cos_l);
        let odd = odd_x.dot(&self.sin_l);
        let (mut re, mut im) = (vec![0.0; self.len()], vec![0.0; self.len()]);
        for j in 0..half {
            let (ee, oe, eo, oo) = (even.row(j), even.row(half + j), odd.row(j), odd.row(half + j));
            let (cos, sin) = (self.cos_m.row(j), self.sin_m.row(j));
            for k in 0..self.len() {
                re[k] += ee[k] * cos[k] - oo[k] * sin[k];
                im[k] += eo[k] * cos[k] + oe[k] * sin[k];
            }
        }
        for k in 0..self.len() {
            re[k] *= self.pulse[k];
            im[k] *= self.pulse[k];
        }
        (re, im)
    }

    /// A^T of (Re, Im): the image whose inner product with any image I equals that of (re, im) with (Re V, Im V) of I.
    pub fn adjoint(&self, re: &[f64], im: &[f64]) -> Vec<f64> {
        let (n, half, count) = (self.grid.n, self.grid.n.div_ceil(2), self.len());
        let mut with_cos = Array2::zeros((2 * half, count));
        let mut with_sin = Array2::zeros((2 * half, count));
        for j in 0..half {
            let (cos, sin) = (self.cos_m.row(j), self.sin_m.row(j));
            for k in 0..count {
                let (a, b) = (re[k] * self.pulse[k], im[k] * self.pulse[k]);
                with_cos[[j, k]] = a * cos[k];
                with_cos[[half + j, k]] = b * sin[k];
                with_sin[[j, k]] = b * cos[k];
                with_sin[[half + j, k]] = a * sin[k];
            }
        }
        let even = with_cos.dot(&self.cos_l.t());
        let odd = with_sin.dot(&self.sin_l.t());
        let (ee, oe) = (even.slice(s![..half, ..]), even.slice(s![half.., ..]));
        let (eo, oo) = (odd.slice(s![..half, ..]), odd.slice(s![half.., ..]));
        let mut image = vec![0.0; n * n];
        for j in 0..half {
            for i in 0..half {
                let (jj, ii) = (n - 1 - j, n - 1 - i);
                let [p, q, r, t] = [ee[[j, i]], oo[[j, i]], eo[[j, i]], oe[[j, i]]];
                image[j * n + i] = p - q + r + t;
                image[jj * n + i] = p + q + r - t;
                image[j * n + ii] = p + q - r + t;
                image[jj * n + ii] = p - q - r - t;
            }
        }
        image
    }

    /// A A^T as its two blocks (Re-Re, Im-Im); the Re-Im block vanishes because the grid is symmetric.
    ///
    /// sum over pixels of cos(t_k) cos(t_k') = [S(difference) + S(sum)] / 2 with S(u, v) = D(u) D(v) and the Dirichlet kernel
    /// D(u) = sum_i exp(2 pi i u l_i) = sin(pi n u pixel) / sin(pi u pixel).
    pub fn gram(&self) -> (Array2<f64>, Array2<f64>) {
        let n = self.grid.n;
        let count = self.len();
        let (mut cos, mut sin) = (Array2::zeros((count, count)), Array2::zeros((count, count)));
        for k in 0..count {
            for q in 0..=k {
                let kernel = |sign: f64| {
                    dirichlet(n, self.u_pixel[k] + sign * self.u_pixel[q]) * dirichlet(n, self.v_pixel[k] + sign * self.v_pixel[q])
                };
                let (difference, sum) = (kernel(-1.0), kernel(1.0));
                let scale = 0.5 * self.pulse[k] * self.pulse[q];
                for at in [[k, q], [q, k]] {
                    cos[at] = scale * (difference + sum);
                    sin[at] = scale * (difference - sum);
                }
            }
        }
        (cos, sin)
    }

    /// A applied to the image of ones: the real part; the imaginary part vanishes because the grid is symmetric.
    pub fn ones(&self) -> Vec<f64> {
        let n = self.grid.n;
        (0..self.len()).map(|k| self.pulse[k] * dirichlet(n, self.u_pixel[k]) * dirichlet(n, self.v_pixel[k])).collect()
    }
}

/// sum over the n symmetric positions p of exp(2 pi i x p), x in cycles per pixel.
fn dirichlet(n: usize, x: f64) -> f64 {
    // Reduced to |y| <= 1/2; a whole cycle changes the sign when the positions are half integers (n even).
    let turns = x.round();
    let y = x - turns;
    let sign = if n.is_multiple_of(2) && turns.rem_euclid(2.0) == 1.0 { -1.0 } else { 1.0 };
    let s = (PI * y).sin();
    // Near zero the ratio is n (1 - (n^2-1) (pi y)^2 / 6 + ...): the next term is below 1e-16 there.
    let value = if s.abs() < 1e-6 / n as f64 {
        let (n, y) = (n as f64, PI * y);
        n * (1.0 - (n * n - 1.0) * y * y / 6.0)
    } else {
        (PI * n as f64 * y).sin() / s
    };
    sign * value
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_compute::Philox;
    use num_complex::Complex64;

    /// The sum over pixels, written as it stands in the definition.
    fn direct(grid: ImageGrid, image: &[f64], u: f64, v: f64, pulse: Pulse) -> Complex64 {
        let mut sum = Complex64::ZERO;
        for j in 0..grid.n {
            for i in 0..grid.n {
                sum += image[j * grid.n + i] * Complex64::cis(TAU * (u * grid.l_rad(i) + v * grid.m_rad(j)));
            }
        }
        sum * pulse.transform(u, grid.pixel_rad()) * pulse.transform(v, grid.pixel_rad())
    }

    fn setup(n: usize, count: usize) -> (ImageGrid, Vec<f64>, Vec<(f64, f64)>) {
        let grid = ImageGrid::new(n, 128.0 * crate::MICROARCSECOND_RAD).unwrap();
        let mut random = Philox::new(n as u64).sequence(0, 0);
        let image = (0..n * n).map(|_| random.normal()).collect();
        let uv = (0..count).map(|_| (random.range(-9e9, 9e9), random.range(-9e9, 9e9))).collect();
        (grid, image, uv)
    }

    #[test]
    fn forward_is_the_direct_sum() {
        for (n, pulse) in [(16, Pulse::Triangle), (17, Pulse::Delta), (64, Pulse::Rectangle), (3, Pulse::Triangle)] {
            let (grid, image, mut uv) = setup(n, 23);
            uv.push((0.0, 0.0));
            let fourier = Fourier::new(grid, &uv, pulse);
            let (re, im) = fourier.forward(&image);
            for (k, &(u, v)) in uv.iter().enumerate() {
                let expected = direct(grid, &image, u, v, pulse);
                // Rounding of n^2 terms of size 1, and of phases of a few turns.
                assert!((Complex64::new(re[k], im[k]) - expected).norm() < 1e-12 * (n * n) as f64, "n {n} k {k}");
            }
        }
    }

    #[test]
    fn adjoint_and_gram_agree_with_forward() {
        for n in [15, 16] {
            let (grid, image, mut uv) = setup(n, 11);
            // Equal and opposite points reach the limits of the Dirichlet kernel; one whole cycle per pixel its sign.
            uv.push(uv[0]);
            uv.push((-uv[1].0, -uv[1].1));
            uv.push((uv[2].0 + 1.0 / grid.pixel_rad(), uv[2].1));
            let fourier = Fourier::new(grid, &uv, Pulse::Delta);
            let mut random = Philox::new(9).sequence(1, 0);
            let (wr, wi): (Vec<f64>, Vec<f64>) = (0..uv.len()).map(|_| (random.normal(), random.normal())).unzip();
            let (re, im) = fourier.forward(&image);
            let left: f64 = re.iter().zip(&wr).chain(im.iter().zip(&wi)).map(|(a, b)| a * b).sum();
            let right: f64 = fourier.adjoint(&wr, &wi).iter().zip(&image).map(|(a, b)| a * b).sum();
            assert!((left - right).abs() < 1e-11 * (n * n) as f64, "{left} {right}");
            let (re, im) = fourier.forward(&fourier.adjoint(&wr, &wi));
            let (cos, sin) = fourier.gram();
            let dot = |row: ndarray::ArrayView1<f64>, w: &[f64]| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
            for k in 0..uv.len() {
                assert!((re[k] - dot(cos.row(k), &wr)).abs() < 1e-9, "{k}");
                assert!((im[k] - dot(sin.row(k), &wi)).abs() < 1e-9, "{k}");
            }
            let (re, im) = fourier.forward(&vec![1.0; n * n]);
            for (k, one) in fourier.ones().into_iter().enumerate() {
                assert!((re[k] - one).abs() < 1e-10 && im[k].abs() < 1e-10);
            }
        }
    }

    /// A point source to the East has phase +2 pi u l.
    #[test]
    fn sign_of_the_phase() {
        let grid = ImageGrid::new(8, 8e-10).unwrap();
        let mut image = vec![0.0; 64];
        image[5 * 8 + 1] = 2.0; // column 1: l = +2.5 pixel; row 5: m = +1.5 pixel
        let (u, v) = (3e8, 1e8);
        let (re, im) = Fourier::new(grid, &[(u, v)], Pulse::Delta).forward(&image);
        let phase = TAU * (u * 2.5e-10 + v * 1.5e-10);
        assert!((re[0] - 2.0 * phase.cos()).abs() < 1e-13 && (im[0] - 2.0 * phase.sin()).abs() < 1e-13);
    }

    #[test]
    fn pulses() {
        let x: f64 = 0.3;
        let sinc = (PI * x).sin() / (PI * x);
        assert_eq!(Pulse::Delta.transform(3.0, 0.1), 1.0);
        assert!((Pulse::Rectangle.transform(3.0, 0.1) - sinc).abs() < 1e-15);
        assert!((Pulse::Triangle.transform(3.0, 0.1) - sinc * sinc).abs() < 1e-15);
        assert_eq!(Pulse::Triangle.transform(0.0, 0.1), 1.0);
    }
}
