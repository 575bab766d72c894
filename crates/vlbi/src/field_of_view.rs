//! The field of view that the data ask for.

use crate::closures::{closure_amplitude_basis, relative_variance};
use crate::dense::{cholesky, combinations, solve_lower, times, weighted_gram};
use crate::{Error, ImageGrid, MICROARCSECOND_RAD, Prepared, Result};
use std::f64::consts::{LN_2, PI};

/// Nominal resolutions 1 / max baseline across the default field.
const BEAMS_PER_FIELD: f64 = 5.2;
/// Widths at half maximum of the Gaussian estimate that a field must hold, and that the default field has.
const LEAST_WIDTHS: f64 = 1.2;
const DEFAULT_WIDTHS: f64 = 2.0;

/// What the data say about the size of the source, and the field chosen from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldOfView {
    /// The default field, radians.
    pub fov_rad: f64,
    /// Nominal resolution, 1 / longest projected baseline, radians.
    pub resolution_rad: f64,
    /// Full width at half maximum of the circular Gaussian that fits the log closure amplitudes best; none when they want none.
    pub gaussian_fwhm_rad: Option<f64>,
}

/// The default field: 5.2 nominal resolutions, or twice the Gaussian size estimate if that is more, within `limits_rad` (the range
/// of fields that the prior was trained for). EHT 2017: about 128 microarcseconds, as its imaging papers use.
pub fn field_of_view(prepared: &Prepared, limits_rad: (f64, f64)) -> FieldOfView {
    let resolution_rad = prepared.max_baseline_lambda().recip();
    let gaussian_fwhm_rad = gaussian_fwhm(prepared);
    let wanted = (BEAMS_PER_FIELD * resolution_rad).max(DEFAULT_WIDTHS * gaussian_fwhm_rad.unwrap_or(0.0));
    FieldOfView { fov_rad: wanted.min(limits_rad.1).max(limits_rad.0), resolution_rad, gaussian_fwhm_rad }
}

/// Whether a grid suits the data, as far as data can tell before imaging.
///
/// # Errors
/// A field narrower than two nominal resolutions or than 1.2 times the Gaussian size estimate does not hold the source; pixels
/// above half the nominal resolution cannot represent what the longest baseline measures.
pub fn check_field_of_view(prepared: &Prepared, grid: ImageGrid) -> Result<()> {
    let found = field_of_view(prepared, (0.0, f64::INFINITY));
    let uas = |rad: f64| rad / MICROARCSECOND_RAD;
    let least = (2.0 * found.resolution_rad).max(LEAST_WIDTHS * found.gaussian_fwhm_rad.unwrap_or(0.0));
    if grid.fov_rad < least {
        return Err(Error::Invalid(format!(
            "--fov does not hold the source: found {:.0} microarcsec, expected at least {:.0} (resolution {:.1}, Gaussian size {}): try --fov {:.0}uas",
            uas(grid.fov_rad),
            uas(least),
            uas(found.resolution_rad),
            found.gaussian_fwhm_rad.map_or("not measured".to_string(), |w| format!("{:.0}", uas(w))),
            uas(found.fov_rad)
        )));
    }
    if grid.pixel_rad() > 0.5 * found.resolution_rad {
        return Err(Error::Invalid(format!(
            "pixels of {:.2} microarcsec are too coarse: the longest baseline resolves {:.1}, expected pixels of at most half that: lower --fov or raise --npix",
            uas(grid.pixel_rad()),
            uas(found.resolution_rad)
        )));
    }
    Ok(())
}

/// Weighted least squares of the log closure amplitudes in one unknown: a circular Gaussian of width w has
/// ln|V| = -(pi w |uv|)^2 / (4 ln 2) + const, linear in w^2, and closures are free of gains and flux.
///
/// Closure amplitudes of a structured source do not follow a Gaussian, so each is given an extra standard deviation of ln 2: long
/// baselines with high S/N would otherwise decide alone.
fn gaussian_fwhm(prepared: &Prepared) -> Option<f64> {
    let (mut above, mut below) = (0.0, 0.0);
    for integration in &prepared.integrations {
        let part = prepared.of(integration);
        let basis = closure_amplitude_basis(part);
        if basis.is_empty() {
            continue;
        }
        let c = combinations(basis.iter().map(|b| &b.legs), part.len());
        let variance: Vec<f64> = part.iter().map(|v| relative_variance(v) + LN_2 * LN_2).collect();
        let Ok(l) = cholesky(&weighted_gram(&c, &variance)) else { continue };
        let w = solve_lower(&l, &c);
        let data = times(&w, &part.iter().map(|v| v.value_jy.norm().ln()).collect::<Vec<_>>());
        let slope = |u: f64, v: f64| -PI * PI * (u * u + v * v) / (4.0 * LN_2);
        let model = times(&w, &part.iter().map(|v| slope(v.u_lambda, v.v_lambda)).collect::<Vec<_>>());
        above += data.iter().zip(&model).map(|(a, b)| a * b).sum::<f64>();
        below += model.iter().map(|b| b * b).sum::<f64>();
    }
    (above > 0.0 && below > 0.0).then(|| (above / below).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{grid, observe, tracks};
    use crate::{PrepareSettings, prepare};

    #[test]
    fn a_gaussian_is_measured_and_its_field_checked() {
        let mut o = tracks(6, 1, 8);
        let fine = grid(96);
        let width = 30.0 * MICROARCSECOND_RAD;
        let image: Vec<f64> = (0..fine.len())
            .map(|k| (-4.0 * LN_2 * (fine.l_rad(k % 96).powi(2) + fine.m_rad(k / 96).powi(2)) / (width * width)).exp())
            .collect();
        observe(&mut o, fine, &image, 1e3, 5);
        let p = prepare(&o, &PrepareSettings { systematic: 0.0, ..Default::default() }).unwrap();
        let found = field_of_view(&p, (0.0, 1.0));
        let measured = found.gaussian_fwhm_rad.unwrap();
        // The pixel's triangle adds pixel^2 / 6 to the variance per axis: below 1e-2 of the width.
        assert!((measured / width - 1.0).abs() < 0.02, "{}", measured / MICROARCSECOND_RAD);
        assert!(check_field_of_view(&p, grid(64)).is_ok());
        let narrow = ImageGrid { n: 64, fov_rad: 0.5 * width };
        assert!(check_field_of_view(&p, narrow).unwrap_err().to_string().contains("does not hold the source"));
        assert!(check_field_of_view(&p, ImageGrid { n: 4, ..grid(64) }).unwrap_err().to_string().contains("coarse"));
        assert_eq!(field_of_view(&p, (0.0, 1e-11)).fov_rad, 1e-11);
    }
}
