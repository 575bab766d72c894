//! An observation as a problem: what the solvers' driver asks of the domain about fit, gauge, data and predictions.

use crate::likelihood::smallest_sum;
use crate::{ClosureData, DataProducts, FluxScale, ImageGrid, LikelihoodSettings, Prepared, Result, VlbiLikelihood, align};
use halation_inverse::{Domain, Presented};
use halation_posterior::metrics::negative_flux_share;
use halation_posterior::{Axis, Variable};
use ndarray::{ArrayD, IxDyn};
use std::collections::BTreeMap;

/// A likelihood with the closures of its data: closure phases and log closure amplitudes are reported whatever data are fitted.
pub struct VlbiProblem {
    likelihood: VlbiLikelihood,
    closures: VlbiLikelihood,
    closure_data: ClosureData,
}

impl VlbiProblem {
    /// The problem of `prepared` data on `grid`. With a flux scale the images are in Jy/pixel, without in units of the total.
    ///
    /// # Errors
    /// Too few data for what `settings` ask.
    pub fn new(prepared: &Prepared, grid: ImageGrid, settings: &LikelihoodSettings) -> Result<Self> {
        let likelihood = VlbiLikelihood::new(prepared, grid, settings)?;
        let closures =
            VlbiLikelihood::new(prepared, grid, &LikelihoodSettings { data: DataProducts::Closures, ..settings.clone() })?;
        Ok(Self { likelihood, closures, closure_data: ClosureData::of(prepared) })
    }

    /// The likelihood that is sampled.
    pub fn likelihood(&self) -> &VlbiLikelihood {
        &self.likelihood
    }

    /// All closure quantities of the data.
    pub fn closure_data(&self) -> &ClosureData {
        &self.closure_data
    }

    /// Unit of presented images.
    pub fn unit(&self) -> &'static str {
        if self.likelihood.settings().flux == FluxScale::Free { "total flux/pixel" } else { "Jy/pixel" }
    }

    /// Axes of presented images: m (North, increasing with the row) and l (East, decreasing with the column), radians.
    pub fn axes(&self) -> (Axis, Axis) {
        let grid = self.likelihood.fourier().grid();
        let axis = |name: &str, values: Vec<f64>| Axis { name: name.into(), unit: "rad".into(), values };
        (axis("y", (0..grid.n).map(|j| grid.m_rad(j)).collect()), axis("x", (0..grid.n).map(|i| grid.l_rad(i)).collect()))
    }

    fn image(&self, z: &[f32]) -> Vec<f64> {
        self.likelihood.settings().units.image(z)
    }
}

fn vector(dim: &str, unit: &str, description: &str, values: Vec<f64>) -> Variable {
    let values = ArrayD::from_shape_vec(IxDyn(&[values.len()]), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&[0])));
    Variable { dims: vec![dim.into()], unit: unit.into(), description: description.into(), values }
}

impl Domain for VlbiProblem {
    fn reduced_chi2(&self, image: &[f32]) -> halation_inverse::Result<Vec<(String, f64)>> {
        let u = self.image(image);
        let mut all = self.closures.chi2(&u);
        if self.likelihood.settings().data != DataProducts::Closures {
            all.extend(self.likelihood.chi2(&u).into_iter().filter(|c| c.product != "closure_phase"));
        }
        Ok(all.into_iter().map(|c| (c.product.to_string(), c.whitened)).collect())
    }

    /// What the data leave free is removed: position and scale by [`crate::ImageGrid::remove_gauge`], except that calibrated visibilities fix
    /// the position, and a pixel scale the flux.
    fn present(&self, image: &[f32]) -> halation_inverse::Result<Presented> {
        let u = self.image(image);
        let settings = self.likelihood.settings();
        let grid = self.likelihood.fourier().grid();
        let sum: f64 = u.iter().sum();
        // Pixels of the image of total 1, or of u, the shift, and Jy per unit of these pixels.
        let (pixels, shift_rad, scale) = match (settings.data, settings.flux) {
            (DataProducts::CalibratedVisibilities, FluxScale::PixelJy(scale)) => (u.clone(), (0.0, 0.0), scale),
            (DataProducts::CalibratedVisibilities, FluxScale::TotalJy(flux)) => {
                (u.clone(), (0.0, 0.0), flux / sum.max(smallest_sum(u.len())))
            }
            (_, flux) => {
                let (centred, gauge) = grid.remove_gauge(&u).map_err(|e| halation_inverse::Error::Invalid(e.to_string()))?;
                let scale = match flux {
                    FluxScale::Free => 1.0,
                    FluxScale::TotalJy(flux) => flux,
                    FluxScale::PixelJy(scale) => scale * gauge.total,
                };
                (centred, (gauge.l_rad, gauge.m_rad), scale)
            }
        };
        let mut stats = BTreeMap::from([
            ("shift_east_rad".to_string(), shift_rad.0),
            ("shift_north_rad".to_string(), shift_rad.1),
            ("network_total".to_string(), sum),
            ("negative_flux_share".to_string(), negative_flux_share(&u)),
        ]);
        for chi2 in self.closures.chi2(&u) {
            if let Some(value) = chi2.diagonal {
                stats.insert(format!("diagonal_chi2_{}", chi2.product), value);
            }
        }
        Ok(Presented { image: pixels.iter().map(|v| (v * scale) as f32).collect(), stats })
    }

    /// The centroid that the gauge fixes moves with faint extended flux, and the structure with it: draws are shifted onto each other by
    /// their cross-correlation.
    fn align(&self, draws: &mut [Presented]) -> halation_inverse::Result<()> {
        if self.likelihood.settings().data == DataProducts::CalibratedVisibilities {
            return Ok(());
        }
        let grid = self.likelihood.fourier().grid();
        let images: Vec<Vec<f64>> = draws.iter().map(|d| d.image.iter().map(|v| *v as f64).collect()).collect();
        let aligned = align::align(&grid, &images).map_err(|e| halation_inverse::Error::Invalid(e.to_string()))?;
        for ((draw, image), removed) in draws.iter_mut().zip(&aligned.images).zip(&aligned.removed) {
            draw.image = image.iter().map(|v| *v as f32).collect();
            for (name, shift) in [("shift_east_rad", removed.east_rad), ("shift_north_rad", removed.north_rad)] {
                *draw.stats.entry(name.to_string()).or_default() += shift;
            }
        }
        Ok(())
    }

    fn observed(&self) -> BTreeMap<String, Variable> {
        let p = self.likelihood.prepared();
        let of = |f: &dyn Fn(&crate::Visibility) -> f64| p.visibilities.iter().map(f).collect::<Vec<_>>();
        let phases = &self.closure_data.phases;
        let amplitudes = &self.closure_data.amplitudes;
        let vis = "visibility";
        let cp = "closure_phase_index";
        let ca = "log_closure_amplitude_index";
        [
            ("amplitude", vector(vis, "Jy", "visibility amplitude, not debiased", of(&|v| v.value_jy.norm()))),
            ("phase", vector(vis, "rad", "visibility phase, station phases included", of(&|v| v.value_jy.arg()))),
            (
                "sigma",
                vector(
                    vis,
                    "Jy",
                    "standard deviation of real and imaginary part separately, systematic noise included",
                    of(&|v| v.sigma_jy),
                ),
            ),
            ("u_lambda", vector(vis, "wavelength", "East component of the baseline", of(&|v| v.u_lambda))),
            ("v_lambda", vector(vis, "wavelength", "North component of the baseline", of(&|v| v.v_lambda))),
            ("mjd", vector(vis, "d", "modified Julian day, UTC", of(&|v| v.mjd))),
            ("band", vector(vis, "", "index of the band", of(&|v| v.band as f64))),
            ("station1", vector(vis, "", "index of the first station, see attribute stations", of(&|v| v.station1 as f64))),
            ("station2", vector(vis, "", "index of the second station", of(&|v| v.station2 as f64))),
            ("closure_phase", vector(cp, "rad", "closure phase", phases.iter().map(|c| c.value_rad).collect())),
            (
                "closure_phase_sigma",
                vector(
                    cp,
                    "rad",
                    "its standard deviation; the likelihood uses the full covariance",
                    phases.iter().map(|c| c.sigma_rad).collect(),
                ),
            ),
            (
                "closure_phase_longest_lambda",
                vector(
                    cp,
                    "wavelength",
                    "longest baseline of the cycle",
                    phases.iter().map(|c| c.longest_baseline_lambda).collect(),
                ),
            ),
            ("closure_phase_band", vector(cp, "", "index of the band", phases.iter().map(|c| c.band as f64).collect())),
            ("log_closure_amplitude", vector(ca, "", "log closure amplitude", amplitudes.iter().map(|c| c.value).collect())),
            (
                "log_closure_amplitude_sigma",
                vector(
                    ca,
                    "",
                    "its standard deviation; the likelihood uses the full covariance",
                    amplitudes.iter().map(|c| c.sigma).collect(),
                ),
            ),
        ]
        .into_iter()
        .map(|(name, variable)| (name.to_string(), variable))
        .collect()
    }

    fn predict(&self, image: &[f32]) -> halation_inverse::Result<BTreeMap<String, ArrayD<f64>>> {
        let model = self.likelihood.predict(&self.image(image)).visibilities_jy;
        let array = |values: Vec<f64>| {
            ArrayD::from_shape_vec(IxDyn(&[values.len()]), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&[0])))
        };
        Ok(BTreeMap::from([
            ("amplitude".to_string(), array(model.iter().map(|v| v.norm()).collect())),
            ("closure_phase".to_string(), array(self.closure_data.model_phases_rad(&model))),
            ("log_closure_amplitude".to_string(), array(self.closure_data.model_log_amplitudes(&model))),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{crescent, grid, observe, tracks};
    use crate::{PrepareSettings, prepare};
    use halation_lapack as _;

    /// Calibrated visibilities know where the source is and, with a pixel scale, how bright: the image is shown as it is, in Jy/pixel, even
    /// where its total is not positive. Closures know neither.
    #[test]
    fn calibrated_images_are_shown_where_and_as_bright_as_they_are() {
        let grid = grid(16);
        let mut observation = tracks(5, 1, 2);
        let image = crescent(grid);
        observe(&mut observation, grid, &image, 30.0, 1);
        let prepared = prepare(&observation, &PrepareSettings::default()).unwrap();
        let of = |data, flux| VlbiProblem::new(&prepared, grid, &LikelihoodSettings { data, flux, ..Default::default() }).unwrap();
        // Brightest in one corner pixel, u = 1; everything else u = 0.25, or -0.25.
        for rest in [-0.5f32, -1.5] {
            let z: Vec<f32> = (0..256).map(|p| if p == 0 { 1.0 } else { rest }).collect();
            let u = |p: usize| 0.5 * f64::from(z[p]) + 0.5;
            let shown = of(DataProducts::CalibratedVisibilities, FluxScale::PixelJy(0.02)).present(&z).unwrap();
            assert!((0..256).all(|p| (f64::from(shown.image[p]) - 0.02 * u(p)).abs() < 1e-8));
            assert_eq!((shown.stats["shift_east_rad"], shown.stats["shift_north_rad"]), (0.0, 0.0));
        }
        let z: Vec<f32> = (0..256).map(|p| if p == 0 { 1.0 } else { -0.5 }).collect();
        let fixed = of(DataProducts::CalibratedVisibilities, FluxScale::TotalJy(0.6));
        let shown = fixed.present(&z).unwrap();
        assert!((shown.image.iter().map(|v| f64::from(*v)).sum::<f64>() - 0.6).abs() < 1e-5);
        assert!((shown.image[0] / shown.image[1] - 4.0).abs() < 1e-4);
        assert_eq!(fixed.unit(), "Jy/pixel");
        let free = of(DataProducts::Closures, FluxScale::Free);
        assert!(free.present(&z).unwrap().stats["shift_east_rad"] > 0.0);
        assert_eq!(free.unit(), "total flux/pixel");
    }
}
