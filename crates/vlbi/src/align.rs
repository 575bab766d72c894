//! Position and flux that closure data leave free: taken out of an ensemble before its pixels are compared, and out of any two images
//! before they are.
//!
//! The residual shift of a draw is that of the highest cross-correlation with the ensemble's mean, not that of its flux centroid: the
//! centroid weights a pixel by its distance, so that a pedestal of a thousandth of the peak in the empty part of the field moves it by
//! pixels, while the correlation weights by brightness. The mean is formed again from the aligned draws until nothing moves. The residual
//! scale is that of the total flux.

use crate::{Error, ImageGrid, Result};
use num_complex::Complex64;
use rustfft::{FftDirection, FftPlanner};
use std::f64::consts::TAU;

/// What was taken out of a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Where the draw lay relative to the ensemble, East positive, radians.
    pub east_rad: f64,
    /// Where the draw lay relative to the ensemble, North positive, radians.
    pub north_rad: f64,
    /// Total flux of the draw over that of the median draw.
    pub scale: f64,
}

/// Draws with their residual shift and scale removed.
#[derive(Clone, Debug)]
pub struct Aligned {
    /// The images, in the order of the draws.
    pub images: Vec<Vec<f64>>,
    /// What was removed from each.
    pub removed: Vec<Alignment>,
}

/// Two-dimensional Fourier transform of n x n values, unnormalised, in place.
fn transform(values: &mut [Complex64], n: usize, direction: FftDirection) {
    let fft = FftPlanner::new().plan_fft(n, direction);
    for _ in 0..2 {
        fft.process(values);
        for j in 0..n {
            for i in 0..j {
                values.swap(j * n + i, i * n + j);
            }
        }
    }
}

fn spectrum(image: &[f64], n: usize) -> Vec<Complex64> {
    let mut values: Vec<Complex64> = image.iter().map(|v| Complex64::new(*v, 0.0)).collect();
    transform(&mut values, n, FftDirection::Forward);
    values
}

/// Angular frequency per pixel of Fourier index k; zero at the Nyquist frequency, where a shift of a real image has no phase.
fn frequency(k: usize, n: usize) -> f64 {
    if 2 * k == n {
        return 0.0;
    }
    let signed = if 2 * k < n { k as f64 } else { k as f64 - n as f64 };
    TAU * signed / n as f64
}

fn checked(grid: &ImageGrid, image: &[f64]) -> Result<()> {
    if image.len() != grid.len() {
        return Err(Error::Invalid(format!("an image of {} values was given for a grid of {} x {}", image.len(), grid.n, grid.n)));
    }
    if let Some(k) = image.iter().position(|v| !v.is_finite()) {
        return Err(Error::Invalid(format!(
            "pixel (row {}, column {}) is {}; pixels must be finite",
            k / grid.n,
            k % grid.n,
            image[k]
        )));
    }
    Ok(())
}

/// The image moved by (East, North) radians, through its Fourier transform: exact for what the pixels resolve, periodic at the edges.
///
/// # Errors
/// An image of another size than the grid, or with pixels that are not finite.
pub fn shift(grid: &ImageGrid, image: &[f64], east_rad: f64, north_rad: f64) -> Result<Vec<f64>> {
    checked(grid, image)?;
    let n = grid.n;
    let mut values = spectrum(image, n);
    // East is towards column 0.
    let (right, up) = (-east_rad / grid.pixel_rad(), north_rad / grid.pixel_rad());
    for j in 0..n {
        for i in 0..n {
            values[j * n + i] *= Complex64::cis(-(frequency(i, n) * right + frequency(j, n) * up));
        }
    }
    transform(&mut values, n, FftDirection::Inverse);
    Ok(values.iter().map(|v| v.re / (n * n) as f64).collect())
}

/// The image blurred by a circular Gaussian of `fwhm_rad`; what leaves the field is lost.
///
/// # Errors
/// An image of another size than the grid, pixels or a width that are not finite.
pub fn blur(grid: &ImageGrid, image: &[f64], fwhm_rad: f64) -> Result<Vec<f64>> {
    checked(grid, image)?;
    if !(0.0..f64::INFINITY).contains(&fwhm_rad) {
        return Err(Error::Invalid(format!("a blur of {fwhm_rad} rad FWHM cannot be done; expected a finite width of at least 0")));
    }
    let n = grid.n;
    let sigma = fwhm_rad / grid.pixel_rad() / (8.0 * 2f64.ln()).sqrt();
    let reach = ((5.0 * sigma).ceil() as usize).min(n);
    let mut kernel: Vec<f64> = (0..=reach).map(|k| if k == 0 { 1.0 } else { (-0.5 * (k as f64 / sigma).powi(2)).exp() }).collect();
    let sum = 2.0 * kernel.iter().sum::<f64>() - kernel[0];
    kernel.iter_mut().for_each(|k| *k /= sum);
    let mut rows = vec![0.0; n * n];
    for j in 0..n {
        for source in j.saturating_sub(reach)..(j + reach + 1).min(n) {
            let weight = kernel[j.abs_diff(source)];
            for i in 0..n {
                rows[j * n + i] += weight * image[source * n + i];
            }
        }
    }
    let mut out = vec![0.0; n * n];
    for j in 0..n {
        for i in 0..n {
            out[j * n + i] =
                (i.saturating_sub(reach)..(i + reach + 1).min(n)).map(|s| kernel[i.abs_diff(s)] * rows[j * n + s]).sum();
        }
    }
    Ok(out)
}

/// Normalised cross-correlation of two images at its highest over all shifts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestShift {
    /// sum (a - mean a)(b - mean b) / (N sd(a) sd(b)), with b shifted; 1 for equal images.
    pub correlation: f64,
    /// Shift of the second image that reaches it, East positive, radians.
    pub east_rad: f64,
    /// Shift of the second image that reaches it, North positive, radians.
    pub north_rad: f64,
}

/// The shift of `moved` (within `reach_rad` along each axis, to a fraction of a pixel) that correlates best with `reference`.
///
/// # Errors
/// Images of another size than the grid, with pixels that are not finite, or constant: those correlate with nothing.
pub fn best_shift(grid: &ImageGrid, reference: &[f64], moved: &[f64], reach_rad: f64) -> Result<BestShift> {
    checked(grid, reference)?;
    checked(grid, moved)?;
    let n = grid.n;
    let (a, b) = (spectrum(reference, n), spectrum(moved, n));
    // Without the zero frequency these are the spectra of the images less their means.
    let power = |s: &[Complex64]| s.iter().skip(1).map(|v| v.norm_sqr()).sum::<f64>();
    let norm = (power(&a) * power(&b)).sqrt();
    if norm <= 0.0 || !norm.is_finite() {
        return Err(Error::Invalid("an image is constant: it has no place and correlates with nothing".to_string()));
    }
    let mut cross: Vec<Complex64> = a.iter().zip(&b).map(|(a, b)| a * b.conj() / norm).collect();
    cross[0] = Complex64::new(0.0, 0.0);
    let mut lags = cross.clone();
    transform(&mut lags, n, FftDirection::Inverse);
    let reach = (reach_rad.abs() / grid.pixel_rad()).floor().min((n / 2) as f64 - 1.0) as i64;
    let mut best = (f64::NEG_INFINITY, 0, 0);
    for up in -reach..=reach {
        for right in -reach..=reach {
            let value = lags[up.rem_euclid(n as i64) as usize * n + right.rem_euclid(n as i64) as usize].re;
            if value > best.0 {
                best = (value, right, up);
            }
        }
    }
    let (mut right, mut up, mut value) = (best.1 as f64, best.2 as f64, best.0);
    // Newton's method on the trigonometric polynomial c(s) = Re sum C exp(i k s), from the best whole-pixel lag.
    for _ in 0..8 {
        let c = Correlation::at(&cross, n, right, up);
        let determinant = c.xx * c.yy - c.xy * c.xy;
        if !(c.xx < 0.0 && determinant > 0.0) {
            break;
        }
        let step = ((c.yy * c.x - c.xy * c.y) / determinant, (c.xx * c.y - c.xy * c.x) / determinant);
        let next = (
            (right - step.0).clamp(best.1 as f64 - 1.0, best.1 as f64 + 1.0),
            (up - step.1).clamp(best.2 as f64 - 1.0, best.2 as f64 + 1.0),
        );
        let there = Correlation::at(&cross, n, next.0, next.1);
        if there.value < value {
            break;
        }
        let done = (next.0 - right).hypot(next.1 - up) < 1e-7;
        (right, up, value) = (next.0, next.1, there.value);
        if done {
            break;
        }
    }
    let pixel = grid.pixel_rad();
    Ok(BestShift { correlation: value, east_rad: -right * pixel, north_rad: up * pixel })
}

/// The cross-correlation at a lag with its first and second derivatives.
struct Correlation {
    value: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Correlation {
    fn at(cross: &[Complex64], n: usize, right: f64, up: f64) -> Self {
        let columns: Vec<(f64, Complex64)> = (0..n).map(|i| (frequency(i, n), Complex64::cis(frequency(i, n) * right))).collect();
        let mut c = Correlation { value: 0.0, x: 0.0, y: 0.0, xx: 0.0, xy: 0.0, yy: 0.0 };
        for (j, line) in cross.chunks_exact(n).enumerate() {
            let ky = frequency(j, n);
            let phase = Complex64::cis(ky * up);
            for (value, (kx, column)) in line.iter().zip(&columns) {
                let v = value * phase * column;
                c.value += v.re;
                c.x -= kx * v.im;
                c.y -= ky * v.im;
                c.xx -= kx * kx * v.re;
                c.xy -= kx * ky * v.re;
                c.yy -= ky * ky * v.re;
            }
        }
        c
    }
}

/// Takes residual shift and scale out of the draws of an ensemble. Draws may lie up to a quarter of the field apart.
///
/// The median draw's flux and the ensemble's mean position are kept: only what differs between draws goes.
///
/// # Errors
/// No draw, draws of another size than the grid, with pixels that are not finite, or with a total flux that is not positive.
pub fn align(grid: &ImageGrid, draws: &[Vec<f64>]) -> Result<Aligned> {
    if draws.is_empty() {
        return Err(Error::Invalid("an ensemble without draws cannot be aligned".to_string()));
    }
    let mut totals = Vec::with_capacity(draws.len());
    for (k, draw) in draws.iter().enumerate() {
        checked(grid, draw)?;
        let total: f64 = draw.iter().sum();
        if total <= 0.0 {
            return Err(Error::Invalid(format!(
                "draw {k} has a total flux of {total}: it has no flux scale that could be taken out"
            )));
        }
        totals.push(total);
    }
    let mut sorted = totals.clone();
    sorted.sort_by(f64::total_cmp);
    let median = 0.5 * (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]);
    let scaled: Vec<Vec<f64>> = draws.iter().zip(&totals).map(|(d, t)| d.iter().map(|v| v * median / t).collect()).collect();
    let mut shifts = vec![(0.0, 0.0); draws.len()];
    let mut images = scaled.clone();
    for _ in 0..5 {
        let mean = mean_of(&images);
        let mut found = Vec::with_capacity(draws.len());
        for draw in &scaled {
            // A draw without any structure has no place: it stays where it is.
            let constant = draw.iter().all(|v| *v == draw[0]);
            found.push(if constant {
                (0.0, 0.0)
            } else {
                let best = best_shift(grid, &mean, draw, 0.25 * grid.fov_rad)?;
                (best.east_rad, best.north_rad)
            });
        }
        // The common part is no residual of any draw.
        let common = found.iter().fold((0.0, 0.0), |(e, n), f| (e + f.0 / draws.len() as f64, n + f.1 / draws.len() as f64));
        found.iter_mut().for_each(|f| *f = (f.0 - common.0, f.1 - common.1));
        let moved =
            found.iter().zip(&shifts).map(|(a, b): (&(f64, f64), &(f64, f64))| (a.0 - b.0).hypot(a.1 - b.1)).fold(0.0, f64::max);
        shifts = found;
        images = scaled.iter().zip(&shifts).map(|(d, s)| shift(grid, d, s.0, s.1)).collect::<Result<_>>()?;
        if moved < 0.01 * grid.pixel_rad() {
            break;
        }
    }
    let removed =
        shifts.iter().zip(&totals).map(|(s, t)| Alignment { east_rad: -s.0, north_rad: -s.1, scale: t / median }).collect();
    Ok(Aligned { images, removed })
}

/// The share of each pixel's flux that falls into each pixel of `grid`, both centred on the same direction: a sky image in Jy/pixel on
/// another grid, with its flux kept but for what lies outside. `pixels` is square, row 0 South, column 0 East.
///
/// # Errors
/// An image that is not n x n, with pixels that are not finite, or of a pixel size that is not positive.
pub fn regrid(pixels: &[f64], n: usize, pixel_rad: f64, grid: &ImageGrid) -> Result<Vec<f64>> {
    let source = ImageGrid::new(n, n as f64 * pixel_rad)?;
    checked(&source, pixels)?;
    // Overlap of source pixel k with target pixel i as a share of the source pixel; the same along both axes.
    let ratio = grid.pixel_rad() / pixel_rad;
    let shares: Vec<Vec<(usize, f64)>> = (0..grid.n)
        .map(|i| {
            let low = (i as f64 - 0.5 * grid.n as f64) * ratio + 0.5 * n as f64;
            let high = low + ratio;
            let range = low.floor().max(0.0) as usize..(high.ceil().max(0.0) as usize).min(n);
            range.map(|k| (k, (high.min(k as f64 + 1.0) - low.max(k as f64)).max(0.0))).collect()
        })
        .collect();
    let mut out = vec![0.0; grid.len()];
    for (j, rows) in shares.iter().enumerate() {
        for (i, columns) in shares.iter().enumerate() {
            out[j * grid.n + i] = rows.iter().flat_map(|(r, a)| columns.iter().map(move |(c, b)| a * b * pixels[r * n + c])).sum();
        }
    }
    Ok(out)
}

fn mean_of(images: &[Vec<f64>]) -> Vec<f64> {
    let mut mean = vec![0.0; images.first().map_or(0, Vec::len)];
    for image in images {
        for (m, v) in mean.iter_mut().zip(image) {
            *m += v / images.len() as f64;
        }
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MICROARCSECOND_RAD as UAS;

    fn blobs(grid: &ImageGrid, east: f64, north: f64) -> Vec<f64> {
        let mut image = vec![0.0; grid.len()];
        for j in 0..grid.n {
            for i in 0..grid.n {
                let (e, n) = (grid.l_rad(i) - east, grid.m_rad(j) - north);
                let at =
                    |e0: f64, n0: f64, s: f64| (-0.5 * ((e - e0 * UAS).powi(2) + (n - n0 * UAS).powi(2)) / (s * UAS).powi(2)).exp();
                image[j * grid.n + i] = at(8.0, 3.0, 6.0) + 0.6 * at(-10.0, -5.0, 8.0);
            }
        }
        image
    }

    fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    /// Against the closed form drawn at the shifted place, in odd and even grids, and there and back.
    #[test]
    fn shift_is_exact_for_smooth_images() {
        for n in [63, 64] {
            let grid = ImageGrid::new(n, 150.0 * UAS).unwrap();
            let moved = shift(&grid, &blobs(&grid, 0.0, 0.0), 3.7 * UAS, -6.1 * UAS).unwrap();
            assert!(largest_difference(&moved, &blobs(&grid, 3.7 * UAS, -6.1 * UAS)) < 1e-6, "{n}");
            let back = shift(&grid, &moved, -3.7 * UAS, 6.1 * UAS).unwrap();
            assert!(largest_difference(&back, &blobs(&grid, 0.0, 0.0)) < 1e-10, "{n}");
        }
    }

    /// A Gaussian blurred by a Gaussian: variances add, flux stays.
    #[test]
    fn blur_adds_variances() {
        let grid = ImageGrid::new(64, 160.0 * UAS).unwrap();
        let gaussian = |sigma: f64| -> Vec<f64> {
            (0..grid.len())
                .map(|k| {
                    (-0.5 * (grid.l_rad(k % 64).powi(2) + grid.m_rad(k / 64).powi(2)) / (sigma * UAS).powi(2)).exp()
                        / (sigma * sigma)
                })
                .collect()
        };
        let per_fwhm = (8.0 * 2f64.ln()).sqrt();
        let blurred = blur(&grid, &gaussian(6.0), 8.0 * per_fwhm * UAS).unwrap();
        assert!(largest_difference(&blurred, &gaussian(10.0)) < 1e-6);
        assert_eq!(blur(&grid, &gaussian(6.0), 0.0).unwrap(), gaussian(6.0));
        assert!(blur(&grid, &gaussian(6.0), f64::NAN).is_err());
    }

    #[test]
    fn best_shift_finds_a_fraction_of_a_pixel() {
        let grid = ImageGrid::new(64, 150.0 * UAS).unwrap();
        let reference = blobs(&grid, 0.0, 0.0);
        let moved: Vec<f64> = blobs(&grid, -9.3 * UAS, 4.45 * UAS).iter().map(|v| 3.0 * v + 0.2).collect();
        let best = best_shift(&grid, &reference, &moved, 40.0 * UAS).unwrap();
        assert!((best.east_rad / UAS - 9.3).abs() < 1e-3 && (best.north_rad / UAS + 4.45).abs() < 1e-3, "{best:?}");
        assert!((best.correlation - 1.0).abs() < 1e-6, "{best:?}");
        // Out of reach it stops at the limit instead.
        assert!(best_shift(&grid, &reference, &moved, 4.0 * UAS).unwrap().correlation < 0.95);
        assert!(best_shift(&grid, &reference, &vec![1.0; grid.len()], UAS).is_err());
    }

    /// Copies that differ by shift and scale alone become equal, and what was removed is what was put in.
    #[test]
    fn align_removes_shift_and_scale() {
        let grid = ImageGrid::new(64, 150.0 * UAS).unwrap();
        let places = [(0.0, 0.0, 1.0), (3.2, -1.7, 2.0), (-4.1, 2.2, 0.5), (0.9, -0.5, 1.0)];
        let draws: Vec<Vec<f64>> =
            places.iter().map(|(e, n, s)| blobs(&grid, e * UAS, n * UAS).iter().map(|v| v * s).collect()).collect();
        let aligned = align(&grid, &draws).unwrap();
        for (image, (removed, (e, n, s))) in aligned.images.iter().zip(aligned.removed.iter().zip(places)) {
            assert!(largest_difference(image, &aligned.images[0]) < 1e-4);
            assert!((removed.east_rad / UAS - e).abs() < 1e-2 && (removed.north_rad / UAS - n).abs() < 1e-2, "{removed:?}");
            assert!((removed.scale / s - 1.0).abs() < 1e-4, "{removed:?}");
        }
        assert!(align(&grid, &[]).is_err());
        assert!(align(&grid, &[vec![-1.0; grid.len()]]).unwrap_err().to_string().contains("draw 0"));
        assert!(align(&grid, &[vec![1.0; 7]]).is_err());
    }

    /// Flux and centroid survive a change of grid; to half the pixels it is the sum over 2 x 2.
    #[test]
    fn regrid_keeps_flux() {
        let fine = ImageGrid::new(64, 150.0 * UAS).unwrap();
        let image = blobs(&fine, 2.0 * UAS, 1.0 * UAS);
        let coarse = ImageGrid::new(32, 150.0 * UAS).unwrap();
        let halved = regrid(&image, 64, fine.pixel_rad(), &coarse).unwrap();
        let sum = image[10 * 64 + 20] + image[10 * 64 + 21] + image[11 * 64 + 20] + image[11 * 64 + 21];
        assert!((halved[5 * 32 + 10] - sum).abs() < 1e-12);
        for (n, fov) in [(50, 180.0), (81, 151.0)] {
            let other = ImageGrid::new(n, fov * UAS).unwrap();
            let moved = regrid(&image, 64, fine.pixel_rad(), &other).unwrap();
            let (a, b) = (fine.gauge(&image).unwrap(), other.gauge(&moved).unwrap());
            assert!((a.total / b.total - 1.0).abs() < 1e-6, "{n}");
            // Flux counts at the centres of the new pixels, wherever in them it fell: that averages out to a hundredth of a pixel.
            assert!((a.l_rad - b.l_rad).hypot(a.m_rad - b.m_rad) < 0.01 * other.pixel_rad(), "{n}");
        }
        assert!(regrid(&image, 63, fine.pixel_rad(), &coarse).is_err());
    }

    /// A pedestal in the empty field moves the centroid by pixels and the correlation by nearly nothing: why alignment uses the latter.
    #[test]
    fn pedestal_does_not_move_the_correlation() {
        let grid = ImageGrid::new(64, 150.0 * UAS).unwrap();
        let clean = blobs(&grid, 0.0, 0.0);
        let tilted: Vec<f64> = clean.iter().enumerate().map(|(k, v)| v + 0.004 * (k % 64) as f64 / 64.0).collect();
        let centroid = |image: &[f64]| grid.gauge(image).unwrap().l_rad;
        let best = best_shift(&grid, &clean, &tilted, 20.0 * UAS).unwrap();
        assert!((centroid(&tilted) - centroid(&clean)).abs() > 0.5 * UAS);
        assert!(best.east_rad.abs() < 0.02 * UAS, "{}", best.east_rad / UAS);
    }
}
