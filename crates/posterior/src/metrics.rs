//! How close is an image to the truth? All functions take images (y, x) of equal shape.

use crate::{Error, Result};
use ndarray::{Array2, ArrayView2, Axis, Zip};
use rustfft::{FftDirection, FftPlanner, num_complex::Complex};

fn same_shape(a: &ArrayView2<f64>, b: &ArrayView2<f64>) -> Result<()> {
    if a.dim() != b.dim() || a.is_empty() {
        return Err(Error::shape(
            "images",
            format!("shapes {:?} and {:?}, expected equal ones that are not empty", a.dim(), b.dim()),
        ));
    }
    Ok(())
}

fn mean_square_error(image: &ArrayView2<f64>, truth: &ArrayView2<f64>) -> f64 {
    Zip::from(image).and(truth).fold(0.0, |s, a, b| s + (a - b) * (a - b)) / image.len() as f64
}

/// Sum of the negative over the sum of the absolute pixels; 0 for an image of zeros.
pub fn negative_flux_share(pixels: &[f64]) -> f64 {
    let (below, all) = pixels.iter().fold((0.0, 0.0), |(n, a), v| (n + (-v).max(0.0), a + v.abs()));
    if all > 0.0 { below / all } else { 0.0 }
}

/// Peak signal-to-noise ratio in decibels: 10 log10(peak^2 / mean squared error), the peak being the truth's largest value.
///
/// # Errors
/// Shapes that differ.
pub fn psnr_db(image: &ArrayView2<f64>, truth: &ArrayView2<f64>) -> Result<f64> {
    same_shape(image, truth)?;
    let peak = truth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(10.0 * (peak * peak / mean_square_error(image, truth)).log10())
}

/// Root of the squared error over the truth's squared norm: |image - truth| / |truth|.
///
/// # Errors
/// Shapes that differ.
pub fn nrmse(image: &ArrayView2<f64>, truth: &ArrayView2<f64>) -> Result<f64> {
    same_shape(image, truth)?;
    Ok((mean_square_error(image, truth) * truth.len() as f64).sqrt() / truth.iter().map(|v| v * v).sum::<f64>().sqrt())
}

/// Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004, IEEE Trans. Image Process. 13, 600): Gaussian window of 11 x 11 pixels
/// with sigma 1.5, K1 = 0.01, K2 = 0.03, population moments, mean over the windows that lie inside the image. `range` is the dynamic
/// range L; the truth's largest minus smallest value where none is given.
///
/// # Errors
/// Shapes that differ, or images smaller than the window.
pub fn ssim(image: &ArrayView2<f64>, truth: &ArrayView2<f64>, range: Option<f64>) -> Result<f64> {
    same_shape(image, truth)?;
    const WINDOW: usize = 11;
    if image.nrows() < WINDOW || image.ncols() < WINDOW {
        return Err(Error::shape("SSIM", format!("images of {:?} pixels, expected at least {WINDOW} x {WINDOW}", image.dim())));
    }
    let (low, high) = truth.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let range = range.unwrap_or(high - low);
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let kernel: Vec<f64> = (0..WINDOW).map(|i| (-(i as f64 - 5.0).powi(2) / (2.0 * 1.5 * 1.5)).exp()).collect();
    let norm: f64 = kernel.iter().sum();
    let kernel: Vec<f64> = kernel.iter().map(|k| k / norm).collect();
    let smooth = |f: &dyn Fn(f64, f64) -> f64| {
        let values = Zip::from(image).and(truth).map_collect(|a, b| f(*a, *b));
        valid_convolution(&valid_convolution(&values, &kernel, Axis(0)), &kernel, Axis(1))
    };
    let (a, b, aa, bb, ab) =
        (smooth(&|a, _| a), smooth(&|_, b| b), smooth(&|a, _| a * a), smooth(&|_, b| b * b), smooth(&|a, b| a * b));
    let mut sum = 0.0;
    for (i, a) in a.indexed_iter() {
        let b = b[i];
        let (va, vb, cov) = (aa[i] - a * a, bb[i] - b * b, ab[i] - a * b);
        sum += (2.0 * a * b + c1) * (2.0 * cov + c2) / ((a * a + b * b + c1) * (va + vb + c2));
    }
    Ok(sum / a.len() as f64)
}

fn valid_convolution(image: &Array2<f64>, kernel: &[f64], axis: Axis) -> Array2<f64> {
    let mut shape = image.raw_dim();
    shape[axis.0] -= kernel.len() - 1;
    Array2::from_shape_fn(shape, |(y, x)| {
        kernel.iter().enumerate().map(|(k, w)| w * if axis.0 == 0 { image[[y + k, x]] } else { image[[y, x + k]] }).sum()
    })
}

/// The shift that brings an image onto the truth, and how well they then agree.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Alignment {
    /// Normalised cross-correlation (Pearson's coefficient of the pixels) at the best shift, at most 1.
    pub correlation: f64,
    /// Pixels by which the image is moved to higher row numbers (North).
    pub shift_y: f64,
    /// Pixels by which the image is moved to higher column numbers (West).
    pub shift_x: f64,
}

/// The best normalised cross-correlation over all shifts (EHT Collaboration 2019, ApJL 875, L4, Eq. 15), by FFT.
///
/// Shifts are cyclic, so the source should not touch the border. With `sub_pixel` the shift is refined on the band-limited
/// (trigonometric) interpolation of the image to a thousandth of a pixel.
///
/// # Errors
/// Shapes that differ, or an image without contrast.
pub fn align(image: &ArrayView2<f64>, truth: &ArrayView2<f64>, sub_pixel: bool) -> Result<Alignment> {
    same_shape(image, truth)?;
    let centred = |a: &ArrayView2<f64>| {
        let mean = a.sum() / a.len() as f64;
        a.mapv(|v| Complex::new(v - mean, 0.0))
    };
    let (mut a, mut b) = (centred(image), centred(truth));
    let norm = |a: &Array2<Complex<f64>>| a.iter().map(|v| v.norm_sqr()).sum::<f64>().sqrt();
    let scale = norm(&a) * norm(&b);
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Error::shape("alignment", "an image without contrast, or with values that are not finite"));
    }
    fft2(&mut a, FftDirection::Forward);
    fft2(&mut b, FftDirection::Forward);
    // Correlation at shift s: sum_x a(x) b(x + s), whose transform is conj(A) B.
    let spectrum = Zip::from(&a).and(&b).map_collect(|a, b| a.conj() * b);
    let mut correlation = spectrum.clone();
    fft2(&mut correlation, FftDirection::Inverse);
    let (ny, nx) = image.dim();
    let pixels = (ny * nx) as f64;
    let (mut best, mut at) = (f64::NEG_INFINITY, (0, 0));
    for (i, v) in correlation.indexed_iter() {
        if v.re > best {
            (best, at) = (v.re, i);
        }
    }
    let mut shift = (signed(at.0, ny), signed(at.1, nx));
    let mut value = best / pixels;
    if sub_pixel {
        let evaluate = |(sy, sx): (f64, f64)| {
            let py: Vec<Complex<f64>> =
                (0..ny).map(|k| Complex::cis(std::f64::consts::TAU * signed(k, ny) * sy / ny as f64)).collect();
            let px: Vec<Complex<f64>> =
                (0..nx).map(|k| Complex::cis(std::f64::consts::TAU * signed(k, nx) * sx / nx as f64)).collect();
            let row = |(y, r): (usize, ndarray::ArrayView1<Complex<f64>>)| {
                py[y] * r.iter().zip(&px).map(|(v, p)| v * p).sum::<Complex<f64>>()
            };
            spectrum.rows().into_iter().enumerate().map(row).sum::<Complex<f64>>().re / pixels
        };
        // Pattern search: the correlation is smooth and has one maximum within a pixel of the best whole shift.
        let mut step = 0.5;
        while step > 5e-4 {
            let moves = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)];
            let better = moves.iter().map(|m| (shift.0 + m.0, shift.1 + m.1)).map(|s| (evaluate(s), s)).find(|(v, _)| *v > value);
            match better {
                Some((v, s)) => (value, shift) = (v, s),
                None => step *= 0.5,
            }
        }
    }
    Ok(Alignment { correlation: value / scale, shift_y: shift.0, shift_x: shift.1 })
}

/// The image moved by (`shift_y`, `shift_x`) pixels, cyclically, by trigonometric interpolation (exact for whole shifts).
pub fn shifted(image: &ArrayView2<f64>, shift_y: f64, shift_x: f64) -> Array2<f64> {
    let (ny, nx) = image.dim();
    let mut a = image.mapv(|v| Complex::new(v, 0.0));
    fft2(&mut a, FftDirection::Forward);
    // The Nyquist frequency of an even axis stands for both signs: its factor is the mean of both, which is real.
    let factor = |k: usize, n: usize, shift: f64| {
        let phase = -std::f64::consts::TAU * signed(k, n) * shift / n as f64;
        if 2 * k == n { Complex::new(phase.cos(), 0.0) } else { Complex::cis(phase) }
    };
    for ((y, x), v) in a.indexed_iter_mut() {
        *v *= factor(y, ny, shift_y) * factor(x, nx, shift_x);
    }
    fft2(&mut a, FftDirection::Inverse);
    a.mapv(|v| v.re / (ny * nx) as f64)
}

/// Frequency or shift number `k` of `n` as a signed number.
fn signed(k: usize, n: usize) -> f64 {
    if 2 * k > n { k as f64 - n as f64 } else { k as f64 }
}

/// Unnormalised two-dimensional FFT in place.
fn fft2(a: &mut Array2<Complex<f64>>, direction: FftDirection) {
    let mut planner = FftPlanner::new();
    for axis in [Axis(1), Axis(0)] {
        let fft = planner.plan_fft(a.len_of(axis), direction);
        for mut lane in a.lanes_mut(axis) {
            let mut buffer = lane.to_vec();
            fft.process(&mut buffer);
            lane.iter_mut().zip(buffer).for_each(|(v, b)| *v = b);
        }
    }
}

/// The image convolved with a round Gaussian of `fwhm_pixels`, with nothing outside the image: flux near the border is lost.
///
/// # Errors
/// A width that is negative or not finite. Zero leaves the image as it is.
pub fn gaussian_blur(image: &ArrayView2<f64>, fwhm_pixels: f64) -> Result<Array2<f64>> {
    if !(fwhm_pixels >= 0.0 && fwhm_pixels.is_finite()) {
        return Err(Error::shape("blur", format!("FWHM {fwhm_pixels} pixels, expected zero or more")));
    }
    let sigma = fwhm_pixels / (8.0 * std::f64::consts::LN_2).sqrt();
    if sigma == 0.0 {
        return Ok(image.to_owned());
    }
    // The Gaussian integrated over each pixel would need erf; sampled and normalised it is as good from one pixel of FWHM upwards.
    let reach = (6.0 * sigma).ceil().min(image.nrows().max(image.ncols()) as f64) as isize;
    let kernel: Vec<f64> = (-reach..=reach).map(|i| (-(i * i) as f64 / (2.0 * sigma * sigma)).exp()).collect();
    let norm: f64 = kernel.iter().sum();
    let mut out = image.to_owned();
    for axis in [Axis(0), Axis(1)] {
        for mut lane in out.lanes_mut(axis) {
            let line = lane.to_vec();
            for (i, v) in lane.iter_mut().enumerate() {
                let first = (i as isize - reach).max(0);
                let last = (i as isize + reach).min(line.len() as isize - 1);
                *v = (first..=last).map(|j| line[j as usize] * kernel[(j - i as isize + reach) as usize]).sum::<f64>() / norm;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: usize, y0: f64, x0: f64, sigma: f64) -> Array2<f64> {
        Array2::from_shape_fn((n, n), |(y, x)| (-((y as f64 - y0).powi(2) + (x as f64 - x0).powi(2)) / (2.0 * sigma * sigma)).exp())
    }

    #[test]
    fn closed_forms() {
        let truth = Array2::from_shape_fn((12, 12), |(y, x)| (x + y) as f64);
        let image = &truth + 0.5;
        assert!((psnr_db(&image.view(), &truth.view()).unwrap() - 10.0 * (22.0f64 * 22.0 / 0.25).log10()).abs() < 1e-12);
        let norm = truth.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!((nrmse(&image.view(), &truth.view()).unwrap() - 6.0 / norm).abs() < 1e-12);
        assert!((ssim(&truth.view(), &truth.view(), None).unwrap() - 1.0).abs() < 1e-12);
        // Two flat images: only the luminance term is left (variances by difference round to 1e-15, against C2 = 9e-4).
        let (a, b) = (Array2::from_elem((16, 16), 3.0), Array2::from_elem((16, 16), 5.0));
        let c1 = 0.0001;
        assert!((ssim(&a.view(), &b.view(), Some(1.0)).unwrap() - (30.0 + c1) / (34.0 + c1)).abs() < 1e-10);
        assert!(
            psnr_db(&a.view(), &truth.view()).is_err()
                && ssim(&blob(5, 2.0, 2.0, 1.0).view(), &blob(5, 2.0, 2.0, 1.0).view(), None).is_err()
        );
    }

    /// Against the definition, window by window, with two-dimensional weights and central moments.
    #[test]
    fn ssim_matches_the_definition() {
        let a = Array2::from_shape_fn((15, 13), |(y, x)| ((3 * y + 7 * x * x) % 11) as f64);
        let b = Array2::from_shape_fn((15, 13), |(y, x)| ((5 * y * x + 2 * x) % 9) as f64);
        let (mut total, mut windows) = (0.0, 0.0);
        for y in 5..10 {
            for x in 5..8 {
                let mut w = Vec::new();
                for dy in -5i32..=5 {
                    for dx in -5i32..=5 {
                        let i = [(y + dy) as usize, (x + dx) as usize];
                        w.push(((-((dy * dy + dx * dx) as f64) / 4.5).exp(), a[i], b[i]));
                    }
                }
                let sum: f64 = w.iter().map(|v| v.0).sum();
                let mean = |f: &dyn Fn(f64, f64) -> f64| w.iter().map(|v| v.0 * f(v.1, v.2)).sum::<f64>() / sum;
                let (ma, mb) = (mean(&|a, _| a), mean(&|_, b| b));
                let (va, vb, cov) =
                    (mean(&|a, _| (a - ma).powi(2)), mean(&|_, b| (b - mb).powi(2)), mean(&|a, b| (a - ma) * (b - mb)));
                let (c1, c2) = ((0.01 * 8.0f64).powi(2), (0.03 * 8.0f64).powi(2));
                total += (2.0 * ma * mb + c1) / (ma * ma + mb * mb + c1) * (2.0 * cov + c2) / (va + vb + c2);
                windows += 1.0;
            }
        }
        assert!((ssim(&a.view(), &b.view(), None).unwrap() - total / windows).abs() < 1e-12);
    }

    #[test]
    fn alignment_finds_whole_and_broken_shifts() {
        let truth = &blob(32, 14.0, 17.0, 2.5) + &(0.6 * blob(32, 20.0, 11.0, 2.0));
        let moved = Array2::from_shape_fn((32, 32), |(y, x)| truth[[(y + 5) % 32, (x + 32 - 3) % 32]]);
        let a = align(&moved.view(), &truth.view(), false).unwrap();
        assert_eq!((a.shift_y, a.shift_x), (5.0, -3.0));
        assert!((a.correlation - 1.0).abs() < 1e-12);
        let back = shifted(&moved.view(), a.shift_y, a.shift_x);
        assert!((&back - &truth).iter().all(|d| d.abs() < 1e-12));
        // Blobs are nearly band-limited, so a broken shift is recovered by interpolation.
        let broken = &blob(32, 14.0 - 1.3, 17.0 + 0.4, 2.5) + &(0.6 * blob(32, 20.0 - 1.3, 11.0 + 0.4, 2.0));
        let a = align(&broken.view(), &truth.view(), true).unwrap();
        assert!((a.shift_y - 1.3).abs() < 2e-3 && (a.shift_x + 0.4).abs() < 2e-3, "{a:?}");
        assert!(a.correlation > 0.999999 && a.correlation <= 1.0 + 1e-12);
        assert!((&shifted(&broken.view(), 1.3, -0.4) - &truth).iter().all(|d| d.abs() < 1e-5));
        assert!(align(&Array2::zeros((4, 4)).view(), &truth.slice(ndarray::s![..4, ..4]), true).is_err());
    }

    /// Gaussian widths add in quadrature; flux stays; a point becomes the Gaussian.
    #[test]
    fn blur_widths_add_in_quadrature() {
        let to_fwhm = (8.0 * std::f64::consts::LN_2).sqrt();
        let image = blob(64, 31.0, 30.0, 3.0);
        let blurred = gaussian_blur(&image.view(), 4.0 * to_fwhm).unwrap();
        let expected = 9.0 / 25.0 * blob(64, 31.0, 30.0, 5.0);
        assert!((&blurred - &expected).iter().all(|d| d.abs() < 1e-8));
        assert!((blurred.sum() / image.sum() - 1.0).abs() < 1e-6);
        assert_eq!(gaussian_blur(&image.view(), 0.0).unwrap(), image);
        assert!(gaussian_blur(&image.view(), f64::NAN).is_err());
    }
}
