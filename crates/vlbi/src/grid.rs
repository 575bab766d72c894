//! The sky grid of an image and the gauge that closure data leave free.

use crate::{Error, Result};
use std::f64::consts::PI;

/// One microarcsecond in radians.
pub const MICROARCSECOND_RAD: f64 = PI / (180.0 * 3600.0 * 1e6);

/// A square grid of n x n square pixels about the phase centre.
///
/// Images lie in memory as in FITS: row 0 South, column 0 East, row-major. The centre of pixel (row j, column i) is at
/// l = ((n-1)/2 - i) pixel (East positive) and m = (j - (n-1)/2) pixel (North positive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGrid {
    /// Pixels along each side.
    pub n: usize,
    /// Length of a side, radians.
    pub fov_rad: f64,
}

impl ImageGrid {
    /// A grid of `n` x `n` pixels over `fov_rad` radians; both must be positive, n at least 2.
    pub fn new(n: usize, fov_rad: f64) -> Result<Self> {
        if n < 2 || !fov_rad.is_finite() || fov_rad <= 0.0 {
            return Err(Error::Invalid(format!(
                "image grid: found {n} pixels over {fov_rad} rad, expected at least 2 pixels over a positive field: choose --npix and --fov"
            )));
        }
        Ok(Self { n, fov_rad })
    }

    /// Side of a pixel, radians.
    pub fn pixel_rad(&self) -> f64 {
        self.fov_rad / self.n as f64
    }

    /// Number of pixels.
    pub fn len(&self) -> usize {
        self.n * self.n
    }

    /// Whether there is no pixel; never so for a grid from [`ImageGrid::new`].
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// l (East positive) of the centres of column `i`, radians.
    pub fn l_rad(&self, i: usize) -> f64 {
        ((self.n - 1) as f64 / 2.0 - i as f64) * self.pixel_rad()
    }

    /// m (North positive) of the centres of row `j`, radians.
    pub fn m_rad(&self, j: usize) -> f64 {
        (j as f64 - (self.n - 1) as f64 / 2.0) * self.pixel_rad()
    }

    /// Total and flux centroid of an image: what closure data leave free. None when the total is not positive.
    pub fn gauge(&self, image: &[f64]) -> Option<ImageGauge> {
        let (mut total, mut l, mut m) = (0.0, 0.0, 0.0);
        for (j, row) in image.chunks(self.n).enumerate() {
            for (i, &value) in row.iter().enumerate() {
                total += value;
                l += value * self.l_rad(i);
                m += value * self.m_rad(j);
            }
        }
        (total > 0.0).then(|| ImageGauge { total, l_rad: l / total, m_rad: m / total })
    }

    /// The image with its centroid moved to the phase centre and its total made 1, with the shift and scale that were taken out.
    ///
    /// The shift interpolates by cubic convolution (Keys 1981, IEEE Trans. ASSP 29, 1153, a = -1/2); what leaves the field is lost
    /// before the total is normalised, so the centroid is met to the accuracy with which the field holds the source. An image whose
    /// total is not positive is an error: it has no centroid.
    pub fn remove_gauge(&self, image: &[f64]) -> Result<(Vec<f64>, ImageGauge)> {
        let found = self.gauge(image).ok_or_else(|| {
            Error::Invalid("an image with a total flux that is not positive has no centroid and no flux scale".to_string())
        })?;
        // A source at +l lies at a smaller column, one at +m at a larger row.
        let columns = shift_matrix(self.n, -found.l_rad / self.pixel_rad());
        let rows = shift_matrix(self.n, found.m_rad / self.pixel_rad());
        let n = self.n;
        let mut half = vec![0.0; n * n];
        for j in 0..n {
            for (i, weights) in columns.iter().enumerate() {
                half[j * n + i] = weights.iter().map(|&(source, w)| w * image[j * n + source]).sum();
            }
        }
        let mut out = vec![0.0; n * n];
        for (j, weights) in rows.iter().enumerate() {
            for &(source, w) in weights {
                for i in 0..n {
                    out[j * n + i] += w * half[source * n + i];
                }
            }
        }
        let total: f64 = out.iter().sum();
        if total <= 0.0 {
            return Err(Error::Invalid("the image lies outside its field after centring".to_string()));
        }
        out.iter_mut().for_each(|v| *v /= total);
        Ok((out, found))
    }
}

/// Total and flux centroid of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGauge {
    /// Sum over pixels.
    pub total: f64,
    /// Centroid, East positive, radians.
    pub l_rad: f64,
    /// Centroid, North positive, radians.
    pub m_rad: f64,
}

/// For each output sample, the input samples and weights that interpolate at (index + shift).
fn shift_matrix(n: usize, shift: f64) -> Vec<Vec<(usize, f64)>> {
    let keys = |x: f64| {
        let x = x.abs();
        if x < 1.0 {
            (1.5 * x - 2.5) * x * x + 1.0
        } else if x < 2.0 {
            ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        } else {
            0.0
        }
    };
    (0..n)
        .map(|out| {
            let at = out as f64 + shift;
            let first = at.floor() as i64 - 1;
            (first..first + 4)
                .filter(|&source| source >= 0 && (source as usize) < n)
                .map(|source| (source as usize, keys(at - source as f64)))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn east_is_column_zero_and_south_row_zero() {
        let grid = ImageGrid::new(4, 4.0).unwrap();
        assert_eq!((grid.l_rad(0), grid.l_rad(3)), (1.5, -1.5));
        assert_eq!((grid.m_rad(0), grid.m_rad(3)), (-1.5, 1.5));
        assert!(ImageGrid::new(1, 1.0).is_err() && ImageGrid::new(8, f64::NAN).is_err());
    }

    #[test]
    fn removing_the_gauge_centres_a_smooth_source() {
        let grid = ImageGrid::new(64, 128.0).unwrap();
        let gaussian = |l0: f64, m0: f64| -> Vec<f64> {
            (0..64 * 64)
                .map(|k| (-((grid.l_rad(k % 64) - l0).powi(2) + (grid.m_rad(k / 64) - m0).powi(2)) / (2.0 * 8.0f64.powi(2))).exp())
                .collect()
        };
        let (moved, found) = grid.remove_gauge(&gaussian(7.3, -11.9)).unwrap();
        assert!((found.l_rad - 7.3).abs() < 1e-6 && (found.m_rad + 11.9).abs() < 1e-6, "{found:?}");
        let after = grid.gauge(&moved).unwrap();
        assert!((after.total - 1.0).abs() < 1e-12 && after.l_rad.abs() < 1e-6 && after.m_rad.abs() < 1e-6, "{after:?}");
        let centred = gaussian(0.0, 0.0);
        let total: f64 = centred.iter().sum();
        let peak = 1.0 / total;
        // Cubic convolution is third order: error of order (pixel / scale)^3 = (2/8)^3, of which the fourth derivative leaves a few per cent.
        for (a, b) in moved.iter().zip(&centred) {
            assert!((a - b / total).abs() < 0.005 * peak, "{a} {b}");
        }
        assert!(grid.remove_gauge(&vec![0.0; 64 * 64]).is_err());
    }
}
