use crate::{Fourier, Prepared, PriorUnits};
use halation_compute::Tensor;
use halation_inverse::{ForwardOperator, LinearGaussian, LinearOperator};
use rayon::prelude::*;

/// Calibrated visibilities as y = A z + n: A z = s scale (Re, Im) of the Fourier map of z, with s in Jy/pixel.
///
/// The gauge: I = s u and u = scale z + offset, so V = s scale F z + s offset F 1. The second part does not depend on z; it is
/// taken off the data. Data order per integration: as [`crate::VlbiLikelihood`]'s residual, which is (y - A z) / sigma; here all
/// real parts, then all imaginary parts, over the whole observation.
pub(crate) struct VisibilityOperator {
    fourier: Fourier,
    scale_jy: f64,
    data_jy: Vec<f64>,
    sigma_jy: Vec<f64>,
}

impl VisibilityOperator {
    pub fn new(prepared: &Prepared, fourier: &Fourier, units: PriorUnits, pixel_jy: f64) -> Self {
        let (re, im) = fourier.forward(&vec![units.offset * pixel_jy; fourier.grid().len()]);
        let v = &prepared.visibilities;
        let real = v.iter().zip(&re).map(|(v, m)| v.value_jy.re - m);
        let imaginary = v.iter().zip(&im).map(|(v, m)| v.value_jy.im - m);
        let sigma = v.iter().map(|v| v.sigma_jy);
        Self {
            fourier: fourier.clone(),
            scale_jy: units.scale * pixel_jy,
            data_jy: real.chain(imaginary).collect(),
            sigma_jy: sigma.clone().chain(sigma).collect(),
        }
    }

    pub fn linear_gaussian(&self) -> LinearGaussian<'_> {
        LinearGaussian { operator: self, data: &self.data_jy, sigma: &self.sigma_jy }
    }
}

impl ForwardOperator for VisibilityOperator {
    fn item_shape(&self) -> [usize; 3] {
        let n = self.fourier.grid().n;
        [1, n, n]
    }

    fn data_len(&self) -> usize {
        2 * self.fourier.len()
    }

    fn apply(&self, x: &Tensor) -> halation_inverse::Result<Tensor> {
        let [c, h, w] = self.item_shape();
        x.expect_shape("visibilities", &[x.draws(), c, h, w])?;
        let data: Vec<Vec<f32>> = (0..x.draws())
            .into_par_iter()
            .map(|draw| {
                let image: Vec<f64> = x.item(draw).iter().map(|&z| self.scale_jy * z as f64).collect();
                let (re, im) = self.fourier.forward(&image);
                re.into_iter().chain(im).map(|v| v as f32).collect()
            })
            .collect();
        Ok(Tensor::from_vec(&[x.draws(), self.data_len()], data.concat())?)
    }

    fn vjp(&self, _x: &Tensor, v: &Tensor) -> halation_inverse::Result<Tensor> {
        self.adjoint(v)
    }

    fn linear(&self) -> Option<&dyn LinearOperator> {
        Some(self)
    }
}

impl LinearOperator for VisibilityOperator {
    fn adjoint(&self, y: &Tensor) -> halation_inverse::Result<Tensor> {
        y.expect_shape("visibilities, adjoint", &[y.draws(), self.data_len()])?;
        let images: Vec<Vec<f32>> = (0..y.draws())
            .into_par_iter()
            .map(|draw| {
                let data: Vec<f64> = y.item(draw).iter().map(|&v| self.scale_jy * v as f64).collect();
                let (re, im) = data.split_at(self.fourier.len());
                self.fourier.adjoint(re, im).into_iter().map(|v| v as f32).collect()
            })
            .collect();
        let n = self.fourier.grid().n;
        Ok(Tensor::from_vec(&[y.draws(), 1, n, n], images.concat())?)
    }
}
