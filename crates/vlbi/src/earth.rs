//! Where a station looks: sidereal time, hour angle, elevation and projected baselines.
//!
//! The convention of the EHT's files and of the programs that simulate such data: hour angle = Greenwich mean sidereal time - right
//! ascension, with the J2000 coordinates as they stand in the file, UT1 = UTC, no precession, nutation, aberration or polar motion.
//! Against the u, v of the EHT's own files this is good to 1e-5 in the median and 1.2e-4 of the longest baseline at worst; against
//! a correlator's u, v (VLBA at 43 GHz) it is a rotation by the precession since 2000, some 0.1 degrees.

use std::f64::consts::TAU;

/// Speed of light, m/s.
pub(crate) const LIGHT_M_S: f64 = 299_792_458.0;

/// Greenwich mean sidereal time in radians in [0, 2 pi), for a modified Julian day (UT1): Earth rotation angle and the IAU 2006
/// precession in right ascension (Capitaine et al. 2003, A&A 412, 567, equation 42).
pub fn gmst_rad(mjd: f64) -> f64 {
    let days = mjd - 51_544.5;
    let t = days / 36_525.0;
    // Whole turns leave early, so that the fraction of the day keeps its digits.
    let turns = 0.779_057_273_264 + 0.002_737_811_911_354_48 * days + days.fract();
    let arcsec = 0.014_506 + t * (4_612.156_534 + t * (1.391_581_7 - t * 0.000_000_44));
    (TAU * turns.fract() + (arcsec / 3600.0).to_radians()).rem_euclid(TAU)
}

/// Unit vectors (East, North, source) at the source, in the Earth-fixed frame of the station positions.
fn sky_frame(ra_rad: f64, dec_rad: f64, mjd: f64) -> [[f64; 3]; 3] {
    let (sin_h, cos_h) = (gmst_rad(mjd) - ra_rad).sin_cos();
    let (sin_d, cos_d) = dec_rad.sin_cos();
    [[sin_h, cos_h, 0.0], [-sin_d * cos_h, sin_d * sin_h, cos_d], [cos_d * cos_h, -cos_d * sin_h, sin_d]]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// (u, v) in metres of the pair (first, second): first minus second, projected on East and North at the source.
///
/// Positions are geocentric and right-handed, in metres; `mjd` is UTC. See the module for the convention.
pub fn uv_m(first_m: [f64; 3], second_m: [f64; 3], ra_deg: f64, dec_deg: f64, mjd: f64) -> (f64, f64) {
    let baseline = [first_m[0] - second_m[0], first_m[1] - second_m[1], first_m[2] - second_m[2]];
    let [east, north, _] = sky_frame(ra_deg.to_radians(), dec_deg.to_radians(), mjd);
    (dot(baseline, east), dot(baseline, north))
}

/// Elevation of the source above the geocentric horizon, radians (up to 0.2 degrees from the geodetic one).
pub fn elevation_rad(position_m: [f64; 3], ra_deg: f64, dec_deg: f64, mjd: f64) -> f64 {
    let [_, _, source] = sky_frame(ra_deg.to_radians(), dec_deg.to_radians(), mjd);
    (dot(position_m, source) / dot(position_m, position_m).sqrt()).clamp(-1.0, 1.0).asin()
}

/// (year, month, day) of a modified Julian day, Gregorian (Fliegel & Van Flandern 1968, CACM 11, 657).
pub(crate) fn calendar_date(mjd: f64) -> (i64, i64, i64) {
    let l = mjd.floor() as i64 + 2_400_001 + 68_569;
    let n = 4 * l / 146_097;
    let l = l - (146_097 * n + 3) / 4;
    let i = 4000 * (l + 1) / 1_461_001;
    let l = l - 1461 * i / 4 + 31;
    let j = 80 * l / 2447;
    let day = l - 2447 * j / 80;
    let l = j / 11;
    (100 * (n - 49) + i + l, j + 2 - 12 * l, day)
}

/// A modified Julian day as `YYYY-MM-DDTHH:MM:SS`, rounded to seconds.
pub fn utc_text(mjd: f64) -> String {
    let seconds = (mjd * 86_400.0).round();
    let (year, month, day) = calendar_date((seconds / 86_400.0).floor());
    let s = seconds.rem_euclid(86_400.0) as u32;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// Modified Julian day of `YYYY-MM-DD`, `YYYY-MM-DDTHH`, `...:MM` or `...:MM:SS[.sss]`, UTC; none when it is no date.
pub(crate) fn mjd_of_date(text: &str) -> Option<f64> {
    let (date, time) = match text.trim().trim_end_matches('Z').split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text.trim(), None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let [y, m, d] = parts[..] else { return None };
    let (y, m, d) = (y.parse::<i64>().ok()?, m.parse::<i64>().ok()?, d.parse::<i64>().ok()?);
    if !((1858..=2131).contains(&y) && (1..=12).contains(&m) && (1..=31).contains(&d)) {
        return None;
    }
    let a = (m - 14) / 12;
    let julian = d - 32_075 + 1461 * (y + 4800 + a) / 4 + 367 * (m - 2 - 12 * a) / 12 - 3 * ((y + 4900 + a) / 100) / 4;
    let mjd = (julian - 2_400_001) as f64;
    if calendar_date(mjd) != (y, m, d) {
        return None;
    }
    let mut hours = 0.0;
    for (i, part) in time.unwrap_or("0").split(':').enumerate() {
        let limit = *[24.0, 60.0, 61.0].get(i)?;
        hours += part.parse::<f64>().ok().filter(|v| (0.0..limit).contains(v))? / [1.0, 60.0, 3600.0][i];
    }
    Some(mjd + hours / 24.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published values: GMST of 1 January 2000, 12h UT1 is 18h 41m 50.548s (280.46062 deg); Meeus, Astronomical Algorithms (1998),
    /// example 12.a: 10 April 1987, 0h UT: 13h 10m 46.3668s; example 12.b: the same day 19h 21m 00s: 8h 34m 57.0896s.
    #[test]
    fn sidereal_time() {
        let hours = |h: f64, m: f64, s: f64| (h + m / 60.0 + s / 3600.0) * TAU / 24.0;
        let second = TAU / 86_400.0;
        assert!((gmst_rad(51_544.5) - hours(18.0, 41.0, 50.548)).abs() < 2e-3 * second);
        // Meeus uses the expression of 1982; the expressions differ by a few hundredths of a second there.
        assert!((gmst_rad(46_895.0) - hours(13.0, 10.0, 46.3668)).abs() < 0.05 * second);
        assert!((gmst_rad(46_895.0 + (19.0 + 21.0 / 60.0) / 24.0) - hours(8.0, 34.0, 57.0896)).abs() < 0.05 * second);
    }

    #[test]
    fn elevation_and_projection() {
        // A source over the meridian of Greenwich: overhead at longitude 0 on the equator, on the horizon at longitude 90 deg.
        let (mjd, r) = (57_849.3, 6.371e6);
        let ra_deg = gmst_rad(mjd).to_degrees();
        assert!((elevation_rad([r, 0.0, 0.0], ra_deg, 0.0, mjd) - TAU / 4.0).abs() < 1e-6);
        assert!(elevation_rad([0.0, r, 0.0], ra_deg, 0.0, mjd).abs() < 1e-9);
        // A station further East (positive Y) has larger u, one further North larger v.
        let (u, v) = uv_m([0.0, r, 0.0], [0.0; 3], ra_deg, 0.0, mjd);
        assert!((u - r).abs() < 1e-3 && v.abs() < 1e-3);
        let (u, v) = uv_m([0.0, 0.0, r], [0.0; 3], ra_deg, 0.0, mjd);
        assert!(u.abs() < 1e-3 && (v - r).abs() < 1e-3);
    }

    #[test]
    fn dates() {
        assert_eq!(mjd_of_date("2017-04-06"), Some(57_849.0));
        assert_eq!(calendar_date(57_849.9), (2017, 4, 6));
        assert_eq!(utc_text(57_849.25 + 61.4 / 86_400.0), "2017-04-06T06:01:01");
        assert_eq!(utc_text(57_849.999_999), "2017-04-07T00:00:00");
        assert_eq!(mjd_of_date("2000-01-01T12:00:00"), Some(51_544.5));
        assert_eq!(mjd_of_date("2000-02-29 06:00"), Some(51_603.25));
        for bad in [
            "",
            "2017-4",
            "2017-02-30",
            "2017-13-01",
            "2017-04-06T25",
            "2017-04-06T10:61",
            "2017-04-06T1:2:3:4",
            "x-y-z",
            "2017-04-06T",
        ] {
            assert_eq!(mjd_of_date(bad), None, "{bad}");
        }
    }
}
