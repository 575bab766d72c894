//! Arrays of telescopes: the TOML files of `instruments/`, which the binary carries, or the user's own.

use crate::{Error, Result, Station};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

const EMBEDDED: [(&str, &str); 4] = [
    ("eht-2017", include_str!("../../../instruments/eht-2017.toml")),
    ("eht-2022", include_str!("../../../instruments/eht-2022.toml")),
    ("ngeht-reference", include_str!("../../../instruments/ngeht-reference.toml")),
    ("vlba", include_str!("../../../instruments/vlba.toml")),
];

/// One station of an array file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayStation {
    /// Name, at most 8 characters, for example `AA`.
    pub name: String,
    /// What stands there.
    #[serde(default)]
    pub site: String,
    /// Geocentric right-handed position, metres (X Greenwich, Y 90 deg East, Z North).
    pub position_m: [f64; 3],
    /// System equivalent flux density of one hand at zenith, Jy.
    pub sefd_jy: f64,
    /// Diameter of the dish, metres; of a phased array: of the dish with the same area.
    pub diameter_m: f64,
    /// Standard deviation of the log amplitude gain.
    pub gain_sigma: Option<f64>,
    /// Lowest elevation, degrees, where it differs from the array's.
    pub elevation_min_deg: Option<f64>,
    /// Highest elevation, degrees, where it differs from the array's.
    pub elevation_max_deg: Option<f64>,
    /// Where the figures come from.
    #[serde(default)]
    pub reference: String,
}

/// An array of telescopes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Name for people.
    pub name: String,
    /// Where the figures come from.
    pub reference: String,
    /// The frequency at which the SEFDs hold, Hz.
    pub frequency_hz: f64,
    /// Lowest elevation of all stations, degrees.
    pub elevation_min_deg: f64,
    /// Highest elevation of all stations, degrees.
    pub elevation_max_deg: f64,
    /// The stations.
    #[serde(rename = "station")]
    pub stations: Vec<ArrayStation>,
}

impl Array {
    /// Names that [`Array::named`] knows.
    pub fn names() -> Vec<&'static str> {
        EMBEDDED.iter().map(|a| a.0).collect()
    }

    /// An array that the binary carries.
    ///
    /// # Errors
    /// There is no array of this name; the message lists those there are.
    pub fn named(name: &str) -> Result<Self> {
        let text = EMBEDDED.iter().find(|a| a.0.eq_ignore_ascii_case(name)).map(|a| a.1).ok_or_else(|| {
            Error::Invalid(format!("array '{name}' is not known, expected one of {} or a TOML file", Self::names().join(", ")))
        })?;
        Self::parse(text).map_err(|message| Error::Invalid(format!("array {name}: {message}")))
    }

    /// Reads an array from a TOML file of the form of `instruments/`.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, lacks a key or has an unknown one, or holds impossible values.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| halation_io::Error::os(path, e))?;
        Self::parse(&text).map_err(|message| Error::Data { path: path.to_path_buf(), message })
    }

    /// An array by name, or by file when the name is that of a file or ends in `.toml`.
    ///
    /// # Errors
    /// Those of [`Array::named`] and [`Array::read`].
    pub fn find(name_or_path: &str) -> Result<Self> {
        let path = Path::new(name_or_path);
        let file = path.extension().is_some_and(|e| e == "toml") || path.is_file();
        if file { Self::read(path) } else { Self::named(name_or_path) }
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let array: Array = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_string())?;
        array.check()?;
        Ok(array)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.stations.len() < 2 {
            return Err(format!("found {} stations, expected at least 2", self.stations.len()));
        }
        if !(self.frequency_hz.is_finite() && self.frequency_hz > 0.0) {
            return Err(format!("found frequency_hz = {}, expected a positive one", self.frequency_hz));
        }
        let mut names = HashSet::new();
        for s in &self.stations {
            let fail = |problem: String| Err(format!("station {}: {problem}", s.name));
            if s.name.is_empty() || s.name.len() > 8 || !s.name.is_ascii() || !names.insert(&s.name) {
                return fail("expected a name of 1 to 8 ASCII characters that no other station has".into());
            }
            let radius_m = s.position_m.iter().map(|x| x * x).sum::<f64>().sqrt();
            if !(6.33e6..6.40e6).contains(&radius_m) {
                return fail(format!("found position_m {radius_m:.0} m from the centre of the Earth, expected 6.33e6 to 6.40e6 m"));
            }
            if !(s.sefd_jy.is_finite() && s.sefd_jy > 0.0 && s.diameter_m.is_finite() && s.diameter_m > 0.0) {
                return fail(format!("found sefd_jy = {} and diameter_m = {}, expected positive ones", s.sefd_jy, s.diameter_m));
            }
            if s.gain_sigma.is_some_and(|g| !(0.0..=10.0).contains(&g)) {
                return fail(format!("found gain_sigma = {:?}, expected 0 to 10", s.gain_sigma));
            }
            let (low, high) = self.elevation_limits_deg(s);
            if !(-5.0..=90.0).contains(&low) || !(low..=90.0).contains(&high) {
                return fail(format!("found elevations from {low} to {high} deg, expected a range within -5 to 90"));
            }
        }
        Ok(())
    }

    /// Lowest and highest elevation of a station, degrees.
    pub fn elevation_limits_deg(&self, station: &ArrayStation) -> (f64, f64) {
        (station.elevation_min_deg.unwrap_or(self.elevation_min_deg), station.elevation_max_deg.unwrap_or(self.elevation_max_deg))
    }

    /// The stations as an observation lists them.
    pub fn stations(&self) -> Vec<Station> {
        let station = |s: &ArrayStation| Station { name: s.name.clone(), position_m: s.position_m, sefd_jy: Some(s.sefd_jy) };
        self.stations.iter().map(station).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uvfits::real_data_tests::shared;

    #[test]
    fn embedded_arrays() {
        let sizes: Vec<usize> = Array::names().iter().map(|n| Array::named(n).unwrap().stations.len()).collect();
        assert_eq!(sizes, [8, 11, 23, 10]);
        for name in Array::names() {
            let array = Array::named(name).unwrap();
            assert!(
                !array.reference.is_empty() && array.stations.iter().all(|s| !s.reference.is_empty() && !s.site.is_empty()),
                "{name}"
            );
        }
        assert!(Array::named("vla").unwrap_err().to_string().contains("eht-2017, eht-2022"));
    }

    /// The embedded positions are those of the real files and of the array tables.
    #[test]
    fn positions_are_those_of_the_sources() {
        let test = "positions_are_those_of_the_sources";
        let check = |array: &str, stations: Vec<Station>, least: usize, within_m: f64| {
            let array = Array::named(array).unwrap();
            let mut found = 0;
            for s in &array.stations {
                if let Some(other) = stations.iter().find(|o| o.name == s.name) {
                    let apart = s.position_m.iter().zip(&other.position_m).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(apart < within_m, "{} {}: {apart} m", array.name, s.name);
                    found += 1;
                }
            }
            assert!(found >= least, "{}: {found}", array.name);
        };
        if let Some(file) = shared(test, "m87_2017/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits") {
            check("eht-2017", crate::read_uvfits(&file).unwrap().stations, 7, 1e-3);
        }
        if let Some(file) = shared(test, "m87_2018/L2V1_M87_2018_111_b3_hops_netcal_10s_StokesI.uvfits") {
            check("eht-2022", crate::read_uvfits(&file).unwrap().stations, 4, 3.0);
        }
        if let Some(file) = shared(test, "other/3C279MAY13.UVP") {
            check("vlba", crate::read_uvfits(&file).unwrap().stations, 10, 1e-3);
        }
        if let Some(file) = shared(test, "arrays/ngEHT.txt") {
            let text = std::fs::read_to_string(file).unwrap();
            let stations = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).map(|l| {
                let w: Vec<&str> = l.split_whitespace().collect();
                let n = |i: usize| w[i].parse::<f64>().unwrap();
                Station { name: w[0].into(), position_m: [n(1), n(2), n(3)], sefd_jy: Some(n(4)) }
            });
            let stations: Vec<Station> = stations.collect();
            let array = Array::named("ngeht-reference").unwrap();
            assert!(array.stations().iter().all(|s| stations.iter().any(|o| o.name == s.name && o.sefd_jy == s.sefd_jy)));
            check("ngeht-reference", stations, 23, 1e-3);
        }
    }

    #[test]
    fn bad_arrays_are_refused() {
        let good = EMBEDDED[0].1;
        let refused = |from: &str, to: &str, word: &str| {
            assert!(good.contains(from));
            let error = Array::parse(&good.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        refused("name = \"AP\"", "name = \"AA\"", "station AA");
        refused("sefd_jy = 70.0", "sefd_jy = 0.0", "positive");
        refused("sefd_jy = 70.0", "sefd = 70.0", "sefd");
        refused("2225060.8136", "2225.0608136", "centre of the Earth");
        refused("gain_sigma = 0.1", "gain_sigma = -1.0", "gain_sigma");
        refused("elevation_min_deg = 10.0", "elevation_min_deg = 88.0", "elevations");
        refused("frequency_hz", "frequency_ghz", "frequency_ghz");
        assert!(Array::read("/nowhere/x.toml").unwrap_err().to_string().contains("/nowhere/x.toml"));
        assert!(Array::find("/nowhere/x.toml").unwrap_err().to_string().contains("/nowhere/x.toml"));
    }
}
