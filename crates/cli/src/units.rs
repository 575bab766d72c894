//! Quantities as people write them: a number with its unit.

/// Radians in a microarcsecond.
pub(crate) const MICROARCSECOND_RAD: f64 = std::f64::consts::PI / 180.0 / 3600.0 / 1e6;

/// A positive number followed by one of `units`, in the base unit.
fn quantity(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let names = || units.iter().map(|u| u.0).collect::<Vec<_>>().join(", ");
    let text = text.trim();
    // "6e2Jy": the exponent belongs to the number, so the unit starts where no float can go on.
    let split = (0..=text.len()).rev().filter(|&i| text.is_char_boundary(i)).find(|&i| text[..i].trim_end().parse::<f64>().is_ok());
    let split = split.ok_or_else(|| format!("{text:?} does not start with a number; write for example 1{}", units[0].0))?;
    let (value, unit) = (text[..split].trim_end().parse::<f64>().unwrap_or(f64::NAN), text[split..].trim());
    let factor = units.iter().find(|u| u.0 == unit).map(|u| u.1);
    let factor = factor.ok_or_else(|| {
        if unit.is_empty() {
            format!("{text:?} has no unit; use one of {}", names())
        } else {
            format!("unit {unit:?} is not one of {}", names())
        }
    })?;
    let result = value * factor;
    if result.is_finite() && result > 0.0 { Ok(result) } else { Err(format!("{text:?} is not a positive number")) }
}

const ANGLES: [(&str, f64); 4] =
    [("uas", MICROARCSECOND_RAD), ("mas", 1e3 * MICROARCSECOND_RAD), ("arcsec", 1e6 * MICROARCSECOND_RAD), ("rad", 1.0)];

/// An angle, in radians.
pub(crate) fn angle_rad(text: &str) -> Result<f64, String> {
    quantity(text, &ANGLES)
}

/// Radians in the angular unit of that name; none when it is no angle.
pub(crate) fn angle_unit_rad(unit: &str) -> Option<f64> {
    ANGLES.iter().find(|u| u.0 == unit).map(|u| u.1)
}

/// A flux density, in Jy.
pub(crate) fn flux_jy(text: &str) -> Result<f64, String> {
    quantity(text, &[("Jy", 1.0), ("mJy", 1e-3), ("uJy", 1e-6)])
}

/// Two increasing numbers, such as -1,1.
pub(crate) fn range(text: &str) -> Result<[f64; 2], String> {
    let found = text.split_once(',').and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
    found
        .filter(|[low, high]: &[f64; 2]| low < high && (high - low).is_finite())
        .ok_or_else(|| "expected two increasing numbers, such as -1,1".into())
}

/// A number of things: `1 draw`, `20 draws`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range("-36, 36.5"), Ok([-36.0, 36.5]));
        for bad in ["", "1", "1,0", "1,1", "0,1,2", "a,1", "0,NaN", "0,inf"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_with_units() {
        assert_eq!(flux_jy("0.6Jy"), Ok(0.6));
        assert_eq!(flux_jy(" 6e2 mJy"), Ok(0.6));
        assert!((angle_rad("128uas").unwrap() - 6.2056e-10).abs() < 1e-13);
        assert!((angle_rad("1arcsec").unwrap() - 4.84813681e-6).abs() < 1e-14);
        for bad in ["0.6", "Jy", "-1Jy", "0Jy", "infJy", "NaNJy", "0.6 jy", "", "1µJy", "µ"] {
            assert!(flux_jy(bad).is_err(), "{bad}");
        }
    }
}
