//! Visibilities of an image by a direct sum in f64, written apart from the operator that the likelihoods use.

use crate::{Error, Pulse, Result, Visibility};
use ndarray::ArrayView2;
use num_complex::Complex64;
use rayon::prelude::*;
use std::f64::consts::TAU;

/// An image of the sky: row 0 South, column 0 East, any size.
#[derive(Clone, Copy, Debug)]
pub struct SourceImage<'a> {
    /// Flux density of each pixel (y, x), Jy.
    pub pixels_jy: ArrayView2<'a, f64>,
    /// Width and height of a pixel, radians.
    pub pixel_rad: (f64, f64),
    /// Where the centre of the image lies, East and North of the phase centre, radians.
    pub centre_rad: (f64, f64),
    /// Shape of a pixel.
    pub pulse: Pulse,
}

impl SourceImage<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        let bad = self.pixels_jy.iter().filter(|p| !p.is_finite()).count();
        if bad > 0 || self.pixels_jy.is_empty() {
            return Err(Error::Invalid(format!(
                "image: found {bad} of {} pixels that are not finite, expected an image in Jy/pixel",
                self.pixels_jy.len()
            )));
        }
        if self.pixels_jy.iter().all(|p| *p == 0.0) {
            return Err(Error::Invalid("image: all pixels are 0, expected a source (Jy/pixel)".into()));
        }
        let (size, centre) = (self.pixel_rad, self.centre_rad);
        let sound = |p: f64| p.is_finite() && p > 0.0;
        if !(sound(size.0) && sound(size.1) && centre.0.is_finite() && centre.1.is_finite()) {
            return Err(Error::Invalid(format!("image: found pixels of {size:?} rad about {centre:?}, expected positive sizes")));
        }
        Ok(())
    }

    /// V(u, v) = P(u) P(v) sum I exp(+2 pi i (u l + v m)), l East and m North of the pixel centres, Jy.
    pub fn visibility(&self, u_lambda: f64, v_lambda: f64) -> Complex64 {
        let (ny, nx) = self.pixels_jy.dim();
        let (dx, dy) = self.pixel_rad;
        let turn = |phase: f64| Complex64::from_polar(1.0, TAU * phase);
        // exp(u l + v m) is a product of a factor for the column and one for the row.
        let columns: Vec<Complex64> =
            (0..nx).map(|i| turn(u_lambda * (((nx - 1) as f64 / 2.0 - i as f64) * dx + self.centre_rad.0))).collect();
        let mut sum = Complex64::ZERO;
        for (j, row) in self.pixels_jy.rows().into_iter().enumerate() {
            let along: Complex64 = row.iter().zip(&columns).map(|(p, c)| c * p).sum();
            sum += along * turn(v_lambda * ((j as f64 - (ny - 1) as f64 / 2.0) * dy + self.centre_rad.1));
        }
        sum * self.pulse.transform(u_lambda, dx) * self.pulse.transform(v_lambda, dy)
    }

    /// [`SourceImage::visibility`] at the u, v of each of `visibilities`.
    pub fn visibilities(&self, visibilities: &[Visibility]) -> Vec<Complex64> {
        visibilities.par_iter().map(|v| self.visibility(v.u_lambda, v.v_lambda)).collect()
    }
}
