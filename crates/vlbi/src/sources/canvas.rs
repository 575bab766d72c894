//! The canvas on which a source is drawn, and its projection onto the pixels of the field.

use std::sync::OnceLock;

/// exp(x) in f32 for x <= 80 (relative error below 3e-7): range reduction by ln 2 and a polynomial, so that loops over pixels vectorise.
#[inline(always)]
pub(super) fn exp32(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 80.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, the first with few enough bits that n * part is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r + 1.0) * r + 1.0;
    p * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)
}

/// FWHM of a Gaussian over its standard deviation.
pub(super) const FWHM_PER_SIGMA: f64 = 2.354_820_045_030_949_3;

/// A square canvas around the source's own origin. Rows run from South to North, columns from East to West; values are surface
/// brightness in arbitrary units. It covers the source and not the field, so that a small source is as finely drawn as a large one.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    n: usize,
    half_uas: f64,
    pixels: Vec<f32>,
}

/// The pixels of the field: `size` x `size` over `fov_uas`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub size: usize,
    pub fov_uas: f64,
}

impl Grid {
    pub fn pixel_uas(&self) -> f64 {
        self.fov_uas / self.size as f64
    }
}

impl Canvas {
    /// An empty canvas of n x n pixels reaching `half_uas` to each side.
    pub fn new(n: usize, half_uas: f64) -> Self {
        Self { n, half_uas, pixels: vec![0.0; n * n] }
    }

    /// Side of a canvas pixel.
    pub fn pitch_uas(&self) -> f64 {
        2.0 * self.half_uas / self.n as f64
    }

    pub fn half_uas(&self) -> f64 {
        self.half_uas
    }

    /// Multiplies all lengths.
    pub fn rescale(&mut self, factor: f64) {
        self.half_uas *= factor;
    }

    fn coordinate(&self, k: usize) -> f32 {
        (-self.half_uas + (k as f64 + 0.5) * self.pitch_uas()) as f32
    }

    /// Adds `brightness(east_uas, north_uas)` at every pixel centre.
    pub fn draw(&mut self, brightness: impl Fn(f32, f32) -> f32) {
        let east: Vec<f32> = (0..self.n).map(|k| -self.coordinate(k)).collect();
        for row in 0..self.n {
            let north = self.coordinate(row);
            for (pixel, &east) in self.pixels[row * self.n..(row + 1) * self.n].iter_mut().zip(&east) {
                *pixel += brightness(east, north);
            }
        }
    }

    /// Adds a circular Gaussian. One narrower than 1.6 canvas pixels would alias: it is widened to that at the same flux.
    pub fn add_gaussian(&mut self, east_uas: f64, north_uas: f64, fwhm_uas: f64, peak: f64) {
        let drawn_uas = fwhm_uas.max(1.6 * self.pitch_uas());
        let peak = peak * (fwhm_uas / drawn_uas).powi(2);
        let sigma = drawn_uas / FWHM_PER_SIGMA;
        let scale = (-0.5 / (sigma * sigma)) as f32;
        let profile = |centre: f64| -> Vec<f32> {
            (0..self.n)
                .map(|k| {
                    let t = self.coordinate(k) - centre as f32;
                    exp32(scale * t * t)
                })
                .collect()
        };
        let (columns, rows) = (profile(-east_uas), profile(north_uas));
        for (row, r) in rows.iter().enumerate() {
            let r = r * peak as f32;
            if r > 0.0 {
                for (pixel, c) in self.pixels[row * self.n..(row + 1) * self.n].iter_mut().zip(&columns) {
                    *pixel += r * c;
                }
            }
        }
    }

    /// Adds an elliptical Gaussian; `axis_ratio` <= 1, the major axis at `angle_rad` East of North; widened where it would alias.
    pub fn add_elliptical(&mut self, centre_uas: (f64, f64), fwhm_uas: f64, axis_ratio: f64, angle_rad: f64, peak: f64) {
        let narrowest = 1.6 * self.pitch_uas();
        let major = fwhm_uas.max(narrowest) / FWHM_PER_SIGMA;
        let minor = (fwhm_uas * axis_ratio).max(narrowest) / FWHM_PER_SIGMA;
        let (s, c) = (angle_rad.sin() as f32, angle_rad.cos() as f32);
        let (east0, north0) = (centre_uas.0 as f32, centre_uas.1 as f32);
        let (a, b) = ((-0.5 / (major * major)) as f32, (-0.5 / (minor * minor)) as f32);
        let peak = (peak * fwhm_uas * fwhm_uas * axis_ratio / (major * minor * FWHM_PER_SIGMA * FWHM_PER_SIGMA)) as f32;
        self.draw(|east, north| {
            let (e, n) = (east - east0, north - north0);
            let (along, across) = (e * s + n * c, e * c - n * s);
            peak * exp32(a * along * along + b * across * across)
        });
    }

    /// Multiplies by exp(strength * g), g a random field of unit variance made of plane waves (wavelength, direction, phase, weight):
    /// cos(kx x + ky y + phase) splits into products of one-dimensional factors.
    pub fn modulate(&mut self, strength: f64, waves: &[Wave]) {
        let norm = (waves.iter().map(|w| 0.5 * w.weight * w.weight).sum::<f64>()).sqrt();
        if waves.is_empty() || norm <= 0.0 {
            return;
        }
        let mut field = vec![0f32; self.n * self.n];
        for wave in waves {
            let k = std::f64::consts::TAU / wave.wavelength_uas;
            let (kx, ky) = (k * wave.direction_rad.cos(), k * wave.direction_rad.sin());
            let weight = (strength * wave.weight / norm) as f32;
            let columns: Vec<(f32, f32)> = (0..self.n)
                .map(|i| {
                    let (s, c) = (kx * self.coordinate(i) as f64).sin_cos();
                    (c as f32, s as f32)
                })
                .collect();
            for row in 0..self.n {
                let (s, c) = (ky * self.coordinate(row) as f64 + wave.phase_rad).sin_cos();
                let (s, c) = (s as f32 * weight, c as f32 * weight);
                for (f, (cx, sx)) in field[row * self.n..(row + 1) * self.n].iter_mut().zip(&columns) {
                    *f += c * cx - s * sx;
                }
            }
        }
        for (pixel, g) in self.pixels.iter_mut().zip(&field) {
            *pixel *= exp32(*g);
        }
    }

    /// Flux (brightness times uas^2) and its centroid (East, North) in uas.
    pub fn flux_and_centroid(&self) -> (f64, f64, f64) {
        let (mut flux, mut right, mut up) = (0.0, 0.0, 0.0);
        for row in 0..self.n {
            let (mut sum, mut first) = (0.0, 0.0);
            for (i, p) in self.pixels[row * self.n..(row + 1) * self.n].iter().enumerate() {
                sum += *p as f64;
                first += *p as f64 * i as f64;
            }
            flux += sum;
            right += first;
            up += sum * row as f64;
        }
        if flux <= 0.0 {
            return (0.0, 0.0, 0.0);
        }
        let pitch = self.pitch_uas();
        let place = |moment: f64| -self.half_uas + (moment / flux + 0.5) * pitch;
        (flux * pitch * pitch, -place(right), place(up))
    }

    /// Mean surface brightness in each pixel of the field, after a shift (East, North) and a circular Gaussian blur. Canvas pixels count
    /// as squares of constant brightness; shift, blur and integration over pixels are one exact kernel per axis, so nothing aliases.
    pub fn project(&self, grid: Grid, shift_uas: (f64, f64), blur_fwhm_uas: f64) -> Vec<f32> {
        let sigma = blur_fwhm_uas / FWHM_PER_SIGMA;
        let rows = self.kernel(grid, shift_uas.1, sigma);
        let columns = self.kernel(grid, -shift_uas.0, sigma);
        let (n, size) = (self.n, grid.size);
        let mut transposed = vec![0f32; n * size];
        for i in 0..size {
            for j in 0..n {
                transposed[j * size + i] = columns[i * n + j];
            }
        }
        let mut out = vec![0f32; size * size];
        let mut line = vec![0f32; n];
        for (kernel, out) in rows.chunks_exact(n).zip(out.chunks_exact_mut(size)) {
            line.fill(0.0);
            for (k, source) in kernel.iter().zip(self.pixels.chunks_exact(n)) {
                if *k != 0.0 {
                    for (l, s) in line.iter_mut().zip(source) {
                        *l += k * s;
                    }
                }
            }
            for (l, k) in line.iter().zip(transposed.chunks_exact(size)) {
                if *l != 0.0 {
                    for (o, k) in out.iter_mut().zip(k) {
                        *o += l * k;
                    }
                }
            }
        }
        out
    }

    /// One axis of [`Canvas::project`], (size, n): integral of the Gaussian over field pixel i and canvas pixel j, over the field pixel's
    /// width. With F'' = Gaussian it is the second difference of F over the four pairs of edges.
    fn kernel(&self, grid: Grid, shift_uas: f64, sigma: f64) -> Vec<f32> {
        let (n, pixel, pitch) = (self.n, grid.pixel_uas(), self.pitch_uas());
        let canvas_edge = -self.half_uas + shift_uas;
        let edges = |field_edge: usize| -> Vec<f64> {
            let y = -0.5 * grid.fov_uas + field_edge as f64 * pixel;
            (0..=n).map(|j| sigma * ramp((y - canvas_edge - j as f64 * pitch) / sigma)).collect()
        };
        let mut kernel = vec![0f32; grid.size * n];
        let mut below = edges(0);
        for (i, kernel) in kernel.chunks_exact_mut(n).enumerate() {
            let above = edges(i + 1);
            for (j, k) in kernel.iter_mut().enumerate() {
                let value = ((above[j] - below[j]) - (above[j + 1] - below[j + 1])) / pixel;
                // Beyond the reach of the Gaussian only rounding is left.
                *k = if value > 1e-9 { value as f32 } else { 0.0 };
            }
            below = above;
        }
        kernel
    }

    #[cfg(test)]
    pub fn pixels(&self) -> &[f32] {
        &self.pixels
    }
}

/// A plane wave of the structure noise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wave {
    pub wavelength_uas: f64,
    pub direction_rad: f64,
    pub phase_rad: f64,
    pub weight: f64,
}

const RAMP_REACH: f64 = 6.0;
const RAMP_STEPS: usize = 1536;

/// s Phi(s) + phi(s), the second integral of the standard normal density: a ramp with a rounded corner. Its excess over max(s, 0) is even
/// and is looked up with cubic Hermite interpolation (its slope is minus the upper tail Q).
fn ramp(s: f64) -> f64 {
    static TABLE: OnceLock<Vec<(f64, f64)>> = OnceLock::new();
    let t = s.abs();
    if t >= RAMP_REACH {
        return s.max(0.0);
    }
    let table = TABLE.get_or_init(|| {
        let step = RAMP_REACH / RAMP_STEPS as f64;
        let density = |s: f64| (-0.5 * s * s).exp() / std::f64::consts::TAU.sqrt();
        // Upper tail, from its asymptotic expansion at the far end inwards by Simpson's rule.
        let end = RAMP_REACH;
        let mut q = density(end) / end * (1.0 - end.powi(-2) + 3.0 * end.powi(-4) - 15.0 * end.powi(-6));
        let mut table = vec![(density(end) - end * q, q)];
        for k in (0..RAMP_STEPS).rev() {
            let s = k as f64 * step;
            q += step / 6.0 * (density(s) + 4.0 * density(s + 0.5 * step) + density(s + step));
            table.push((density(s) - s * q, q));
        }
        table.reverse();
        table
    });
    let step = RAMP_REACH / RAMP_STEPS as f64;
    let k = ((t / step) as usize).min(RAMP_STEPS - 1);
    let x = t / step - k as f64;
    let ((f0, q0), (f1, q1)) = (table[k], table[k + 1]);
    let (m0, m1) = (-q0 * step, -q1 * step);
    let cubic = f0 + x * (m0 + x * (3.0 * (f1 - f0) - 2.0 * m0 - m1 + x * (2.0 * (f0 - f1) + m0 + m1)));
    s.max(0.0) + cubic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_rounding() {
        for i in -800..=80 {
            let x = i as f32 * 0.1;
            let expected = (x as f64).exp();
            assert!((exp32(x) as f64 / expected - 1.0).abs() < 1e-6, "{x}: {} {expected}", exp32(x));
        }
    }

    /// A Gaussian on the canvas, blurred, shifted and integrated over the field's pixels, against direct integration of the closed form.
    #[test]
    fn projection_of_a_gaussian() {
        let mut canvas = Canvas::new(128, 40.0);
        canvas.add_gaussian(3.0, -2.0, 14.0, 1.0);
        let grid = Grid { size: 48, fov_uas: 120.0 };
        let image = canvas.project(grid, (5.3, 7.1), 6.0);
        let variance = (14.0f64.powi(2) + 6.0f64.powi(2)) / FWHM_PER_SIGMA.powi(2);
        let peak = (14.0f64 / FWHM_PER_SIGMA).powi(2) / variance;
        let pixel = grid.pixel_uas();
        for row in 0..48 {
            for column in 0..48 {
                let mut mean = 0.0;
                for k in 0..64 {
                    let (i, j) = ((k % 8) as f64, (k / 8) as f64);
                    let north = -60.0 + (row as f64 + (j + 0.5) / 8.0) * pixel;
                    let east = 60.0 - (column as f64 + (i + 0.5) / 8.0) * pixel;
                    let r2 = (east - 8.3).powi(2) + (north - 5.1).powi(2);
                    mean += peak * (-0.5 * r2 / variance).exp() / 64.0;
                }
                let found = image[row * 48 + column] as f64;
                // The canvas cells are 0.6 uas squares, whose variance (0.6^2/12 per axis) widens a 6 uas sigma by 4e-4.
                assert!((found - mean).abs() < 2e-3, "{row} {column}: {found} {mean}");
            }
        }
    }

    /// A canvas of constant brightness gives pixels of constant brightness wherever it covers them: no beat between the two grids.
    #[test]
    fn no_beat_between_grids() {
        let mut canvas = Canvas::new(100, 50.0);
        canvas.draw(|_, _| 1.0);
        for blur in [0.5, 2.0, 20.0] {
            let image = canvas.project(Grid { size: 37, fov_uas: 90.0 }, (0.37, -0.81), blur);
            let centre = 18 * 37 + 18;
            assert!((image[centre] - 1.0).abs() < 1e-5 && (image[centre + 1] - 1.0).abs() < 1e-5, "{blur}: {}", image[centre]);
        }
    }

    #[test]
    fn centroid_and_flux() {
        let mut canvas = Canvas::new(160, 50.0);
        canvas.add_elliptical((4.0, -7.0), 12.0, 0.5, 0.7, 2.0);
        let (flux, east, north) = canvas.flux_and_centroid();
        let expected = 2.0 * std::f64::consts::TAU * 12.0 * 6.0 / FWHM_PER_SIGMA.powi(2);
        assert!(
            (flux / expected - 1.0).abs() < 1e-4 && (east - 4.0).abs() < 1e-3 && (north + 7.0).abs() < 1e-3,
            "{flux} {east} {north}"
        );
    }
}
