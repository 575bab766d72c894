//! The field of view that the data ask for.

use crate::closures::{closure_amplitude_basis, relative_variance};
use crate::dense::{cholesky, combinations, solve_lower, times, weighted_gram};
use crate::{Error, ImageGrid, MICROARCSECOND_RAD, Prepared, Result, Visibility};
use std::f64::consts::{LN_2, PI};

/// Nominal resolutions 1 / max baseline across the default field.
const BEAMS_PER_FIELD: f64 = 5.2;
/// Sizes of the estimate that a field must hold, and that the default field has.
const LEAST_SIZES: f64 = 1.2;
const DEFAULT_SIZES: f64 = 2.0;
/// The narrowest blur tried, in nominal resolutions: a point, for all that the data can tell.
const LEAST_BEAMS: f64 = 0.2;
/// Half maximum of the sizes tried, in nominal resolutions; beyond, the shortest baselines of an array say more than this does.
const LARGEST_BEAMS: f64 = 10.0;
/// Points of the trapezoidal rule for the Bessel function: exact to rounding up to arguments of about its half.
const BESSEL_POINTS: usize = 128;

/// What the data say about the size of the source, and the field chosen from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldOfView {
    /// The default field, radians.
    pub fov_rad: f64,
    /// Nominal resolution, 1 / longest projected baseline between sites whatever its S/N, radians.
    pub resolution_rad: f64,
    /// Outer diameter at half maximum of the blurred circular ring, from point-like to broad, that fits the log closure amplitudes
    /// best, radians; none when there are no log closure amplitudes, or when a point fits them best: then the source is small, or far
    /// from a circular ring (M87* in April 2018).
    pub size_rad: Option<f64>,
}

impl std::fmt::Display for FieldOfView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [fov, resolution] = [self.fov_rad, self.resolution_rad].map(|rad| rad / MICROARCSECOND_RAD);
        write!(f, "field of view {fov:.1} microarcsec (resolution {resolution:.1}, ")?;
        match self.size_rad {
            Some(size) => write!(f, "outer diameter of the blurred ring that fits best {:.0})", size / MICROARCSECOND_RAD),
            None => write!(f, "source size not measured: no blurred ring fits the closure amplitudes better than a point)"),
        }
    }
}

/// The default field: 5.2 nominal resolutions, or twice the size estimate if that is more, within `limits_rad` (the range
/// of fields that the prior was trained for). EHT 2017: about 128 microarcseconds, as its imaging papers use.
pub fn field_of_view(prepared: &Prepared, limits_rad: (f64, f64)) -> FieldOfView {
    let resolution_rad = prepared.report.max_baseline_lambda.recip();
    let size_rad = ring_size(prepared, resolution_rad);
    let wanted = (BEAMS_PER_FIELD * resolution_rad).max(DEFAULT_SIZES * size_rad.unwrap_or(0.0));
    FieldOfView { fov_rad: wanted.min(limits_rad.1).max(limits_rad.0), resolution_rad, size_rad }
}

/// Whether a grid suits the data, as far as data can tell before imaging; `found` is what [`field_of_view`] says of them.
///
/// # Errors
/// A field narrower than two nominal resolutions or than 1.2 times the size estimate does not hold the source; pixels
/// above half the nominal resolution cannot represent what the longest baseline measures.
pub fn check_field_of_view(found: &FieldOfView, grid: ImageGrid) -> Result<()> {
    let uas = |rad: f64| rad / MICROARCSECOND_RAD;
    let least = (2.0 * found.resolution_rad).max(LEAST_SIZES * found.size_rad.unwrap_or(0.0));
    if grid.fov_rad < least {
        // The default field is wide enough unless the prior's limit cuts it.
        let remedy = if least > found.fov_rad {
            format!(
                "that is more than the {:.0} microarcsec that the prior knows: give a prior of wider fields",
                uas(found.fov_rad)
            )
        } else {
            format!("try --fov {:.0}uas", uas(found.fov_rad))
        };
        return Err(Error::Invalid(format!(
            "--fov does not hold the source: found {:.0} microarcsec, expected at least {:.0} (resolution {:.1}, size of the best blurred ring {}): {remedy}",
            uas(grid.fov_rad),
            uas(least),
            uas(found.resolution_rad),
            found.size_rad.map_or("not measured".to_string(), |w| format!("{:.0}", uas(w)))
        )));
    }
    if grid.pixel_rad() > 0.5 * found.resolution_rad {
        return Err(Error::Invalid(format!(
            "pixels of {:.2} microarcsec are too coarse: the longest baseline resolves {:.1}, expected pixels of at most half that: lower --fov, or give a prior of more pixels",
            uas(grid.pixel_rad()),
            uas(found.resolution_rad)
        )));
    }
    Ok(())
}

/// The size of the blurred ring that fits the log closure amplitudes best, by a search over diameter and width.
///
/// |V| = |J0(pi d q)| exp(-(pi w q)^2 / (4 ln 2)) at baseline q; closures are free of gains and flux. A real source has structure
/// that this has not, so every log-amplitude gets an extra standard deviation of ln 2, and nulls are filled to 3 %.
fn ring_size(prepared: &Prepared, resolution_rad: f64) -> Option<f64> {
    let mut whiteners = Vec::new();
    for integration in &prepared.integrations {
        let part = prepared.of(integration);
        let basis = closure_amplitude_basis(part);
        if basis.is_empty() {
            continue;
        }
        let c = combinations(basis.iter().map(|b| &b.legs), part.len());
        let variance: Vec<f64> = part.iter().map(|v| relative_variance(v) + LN_2 * LN_2).collect();
        let w = solve_lower(&cholesky(&weighted_gram(&c, &variance)).ok()?, &c);
        let data: Vec<f64> = part.iter().map(|v| v.value_jy.norm().ln()).collect();
        whiteners.push((integration.range.clone(), times(&w, &data), w));
    }
    if whiteners.is_empty() {
        return None;
    }
    let q: Vec<f64> = prepared.visibilities.iter().map(Visibility::baseline_lambda).collect();
    let steps = |first: f64, count: i32| {
        let ratio = (LARGEST_BEAMS / first).powf(1.0 / count as f64);
        (0..=count).map(move |k| first * ratio.powi(k) * resolution_rad)
    };
    let mut best = (f64::INFINITY, 0.0, 0.0);
    for diameter in std::iter::once(0.0).chain(steps(0.5, 40)) {
        let ring: Vec<f64> = q.iter().map(|q| bessel_j0(PI * diameter * q)).collect();
        for width in steps(LEAST_BEAMS, 40) {
            let model: Vec<f64> = ring
                .iter()
                .zip(&q)
                .map(|(ring, q)| 0.5 * (ring * ring + 1e-3).ln() - (PI * width * q).powi(2) / (4.0 * LN_2))
                .collect();
            let chi2: f64 = whiteners
                .iter()
                .map(|(range, data, w)| data.iter().zip(times(w, &model[range.clone()])).map(|(d, m)| (d - m).powi(2)).sum::<f64>())
                .sum();
            if chi2 < best.0 {
                best = (chi2, diameter, width);
            }
        }
    }
    let (_, diameter, width) = best;
    (diameter > 0.0 || width > LEAST_BEAMS * resolution_rad).then(|| outer_size(diameter, width))
}

/// The outermost diameter at which a thin ring blurred by a circular Gaussian falls to half of its maximum.
fn outer_size(diameter: f64, width: f64) -> f64 {
    let (ring, sigma) = (0.5 * diameter, width / (8.0 * LN_2).sqrt());
    let brightness = |r: f64| {
        let at = |k: usize| {
            let cos = (PI * (k as f64 + 0.5) / BESSEL_POINTS as f64).cos();
            (-(r * r + ring * ring - 2.0 * r * ring * cos) / (2.0 * sigma * sigma)).exp()
        };
        (0..BESSEL_POINTS).map(at).sum::<f64>()
    };
    let profile: Vec<(f64, f64)> = (0..=400).map(|k| (ring + 3.0 * sigma) * k as f64 / 400.0).map(|r| (r, brightness(r))).collect();
    let half = 0.5 * profile.iter().map(|p| p.1).fold(0.0, f64::max);
    profile.iter().rev().find(|p| p.1 >= half).map_or(diameter + width, |p| 2.0 * p.0)
}

/// J0(x) = mean over a half turn of cos(x sin t).
fn bessel_j0(x: f64) -> f64 {
    (0..BESSEL_POINTS).map(|k| (x * (PI * k as f64 / BESSEL_POINTS as f64).sin()).cos()).sum::<f64>() / BESSEL_POINTS as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{grid, observe, tracks};
    use crate::{PrepareSettings, prepare};

    #[test]
    fn outer_size_of_a_gaussian_and_of_a_thin_ring() {
        assert!((outer_size(0.0, 3.0) / 3.0 - 1.0).abs() < 0.01);
        // A narrow ring's profile is the blur's.
        assert!((outer_size(30.0, 1.0) / 31.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn bessel_function() {
        // Abramowitz and Stegun, table 9.1, and the first zero.
        for (x, expected) in [(0.0, 1.0), (1.0, 0.7651976865579666), (10.0, -0.2459357644513483), (2.404825557695773, 0.0)] {
            assert!((bessel_j0(x) - expected).abs() < 1e-14, "{x}");
        }
    }

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
        let measured = found.size_rad.unwrap();
        // The search steps by 10 % in diameter and width; a small ring and a Gaussian look alike.
        assert!((measured / width - 1.0).abs() < 0.1, "{}", measured / MICROARCSECOND_RAD);
        assert!(check_field_of_view(&found, grid(64)).is_ok());
        let narrow = ImageGrid { n: 64, fov_rad: 0.5 * width };
        let small = field_of_view(&p, (0.0, 1.1 * narrow.fov_rad));
        assert!(check_field_of_view(&small, narrow).unwrap_err().to_string().contains("give a prior of wider fields"));
        assert!(check_field_of_view(&found, narrow).unwrap_err().to_string().contains("does not hold the source"));
        assert!(check_field_of_view(&found, ImageGrid { n: 4, ..grid(64) }).unwrap_err().to_string().contains("coarse"));
        assert_eq!(field_of_view(&p, (0.0, 1e-11)).fov_rad, 1e-11);
        assert!(found.to_string().contains("outer diameter of the blurred ring that fits best"), "{found}");
        // A point has no size: the narrowest ring of the search is none.
        let point: Vec<f64> = (0..fine.len()).map(|k| if k == 48 * 96 + 48 { 1.0 } else { 0.0 }).collect();
        observe(&mut o, fine, &point, 1e3, 5);
        let p = prepare(&o, &PrepareSettings { systematic: 0.0, ..Default::default() }).unwrap();
        let found = field_of_view(&p, (0.0, 1.0));
        assert_eq!(found.size_rad, None);
        assert!(found.to_string().contains("source size not measured"), "{found}");
        assert!((found.fov_rad / found.resolution_rad / BEAMS_PER_FIELD - 1.0).abs() < 1e-12);
    }
}
