//! Random groups to Stokes I visibilities, one per group and IF.

use super::layout::{Layout, Pair, Parameter};
use super::tables::Antennas;
use crate::{Result, Visibility};
use halation_io::Error as IoError;
use num_complex::Complex64;
use serde::Serialize;
use std::io::Read;
use std::path::Path;

/// What was left out of an observation and why.
///
/// `rows_*` count groups; the others count parallel-hand samples (RR, LL or I, per group, IF and channel).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// Groups that correlate a station with itself.
    pub rows_autocorrelation: usize,
    /// Groups whose u, v or time is not a number, or whose time lies outside MJD 0 to 100000.
    pub rows_bad_coordinates: usize,
    /// Samples with weight 0 or below.
    pub weight_not_positive: usize,
    /// Samples with weight infinity: how some releases mark what is missing.
    pub weight_infinite: usize,
    /// Samples with weight NaN.
    pub weight_nan: usize,
    /// Samples with a usable weight whose visibility is NaN or infinite.
    pub visibility_not_finite: usize,
    /// Not left out: visibilities in which one hand (RR or LL) stands for Stokes I because the other is missing.
    pub single_hand: usize,
    /// Not left out: visibilities stored with the higher station first, which were turned.
    pub reversed: usize,
}

/// Which products make Stokes I.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Products {
    /// Stokes I itself, at this place on the STOKES axis.
    Total(usize),
    /// Right and left circular hands.
    Hands(Option<usize>, Option<usize>),
}

impl Products {
    /// FITS codes: 1..4 = I, Q, U, V; -1..-4 = RR, LL, RL, LR; -5..-8 = XX, YY, XY, YX.
    pub(crate) fn new(codes: &[i64], path: &Path) -> Result<Self> {
        let at = |code: i64| codes.iter().position(|c| *c == code);
        if let Some(i) = at(1) {
            return Ok(Products::Total(i));
        }
        match (at(-1), at(-2)) {
            (None, None) => {
                let remedy = if codes.iter().any(|c| (-8..=-5).contains(c)) {
                    ": linear feeds are not supported, convert the data to circular feeds or to Stokes I first"
                } else {
                    ""
                };
                let problem =
                    format!("found the codes {codes:?}, expected Stokes I (1) or at least one of RR (-1) and LL (-2){remedy}");
                Err(IoError::content(path, "primary HDU, STOKES axis", problem).into())
            }
            (r, l) => Ok(Products::Hands(r, l)),
        }
    }
}

/// The groups of one file.
#[derive(Debug)]
pub(crate) struct Groups {
    /// Band = index of the IF; in the order of the file.
    pub(crate) visibilities: Vec<Visibility>,
    pub(crate) flags: Flags,
    /// MJD and integration (seconds) of every group.
    pub(crate) times: Vec<Option<(f64, f64)>>,
    /// The frequency setup that the groups use.
    pub(crate) frequency_id: Option<i64>,
}

/// Reads all groups. u and v stay in seconds: the bands' frequencies turn them into wavelengths.
pub(crate) fn read<R: Read>(reader: &mut R, layout: &Layout, antennas: &Antennas, path: &Path) -> Result<Groups> {
    let products = Products::new(&layout.stokes, path)?;
    let mut groups =
        Groups { visibilities: Vec::new(), flags: Flags::default(), times: Vec::with_capacity(layout.groups), frequency_id: None };
    let mut bytes = vec![0u8; layout.group_bytes()];
    let mut raw = Vec::with_capacity(layout.pcount + layout.values);
    let mut source = None;
    for row in 0..layout.groups {
        reader.read_exact(&mut bytes).map_err(|e| IoError::os(path, e))?;
        layout.decode(&bytes, &mut raw);
        let (parameters, values) = raw.split_at(layout.pcount);
        groups.row(row, parameters, values, layout, products, antennas, &mut source, path)?;
    }
    Ok(groups)
}

impl Groups {
    #[allow(clippy::too_many_arguments)]
    fn row(
        &mut self,
        row: usize,
        parameters: &[f64],
        values: &[f64],
        layout: &Layout,
        products: Products,
        antennas: &Antennas,
        source: &mut Option<i64>,
        path: &Path,
    ) -> Result<()> {
        let fail = |problem: String| IoError::content(path, format!("primary HDU, group {}", row + 1), problem);
        one_value(source, layout.source.map(|p| p.value(parameters)))
            .map_err(|(a, b)| fail(format!("found source {b} after source {a}, expected one source: split the file first")))?;
        one_value(&mut self.frequency_id, layout.frequency_id.map(|p| p.value(parameters)))
            .map_err(|(a, b)| fail(format!("found frequency setup {b} after {a}, expected one (FREQSEL): split the file first")))?;

        let integration_s = layout.integration.map_or(0.0, |p| p.value(parameters));
        let integration_s = if integration_s.is_finite() && integration_s > 0.0 { integration_s } else { 0.0 };
        let mjd = Parameter::sum(-2_400_000.5, &layout.dates, parameters);
        let (u_s, v_s) = (layout.u.value(parameters), layout.v.value(parameters));
        if !(u_s.is_finite() && v_s.is_finite() && (0.0..=100_000.0).contains(&mjd)) {
            self.flags.rows_bad_coordinates += 1;
            self.times.push(None);
            return Ok(());
        }
        self.times.push(Some((mjd, integration_s)));

        let (subarray, a1, a2, code) = antenna_pair(layout.pair, parameters);
        let station = |a: i64| {
            antennas.station(subarray, a).ok_or_else(|| {
                fail(format!(
                    "found baseline {code} (antennas {a1} and {a2}, subarray {subarray}), but antenna {a} is not in the AN table (it lists {}): the file is damaged or lacks a row there",
                    antennas.listed(subarray)
                ))
            })
        };
        let (first, second) = (station(a1)?, station(a2)?);
        if first == second {
            self.flags.rows_autocorrelation += 1;
            return Ok(());
        }
        let reversed = first > second;
        for intermediate in 0..layout.ifs {
            let Some((value, sigma_jy)) = self.stokes_i(values, layout, products, intermediate) else { continue };
            let (station1, station2, sign, value_jy) =
                if reversed { (second, first, -1.0, value.conj()) } else { (first, second, 1.0, value) };
            self.flags.reversed += usize::from(reversed);
            self.visibilities.push(Visibility {
                mjd,
                integration_s,
                station1,
                station2,
                u_lambda: sign * u_s,
                v_lambda: sign * v_s,
                band: intermediate,
                value_jy,
                sigma_jy,
            });
        }
        Ok(())
    }

    /// Stokes I of one group and IF, averaged over its channels with inverse variance, and its standard deviation.
    fn stokes_i(&mut self, values: &[f64], layout: &Layout, products: Products, intermediate: usize) -> Option<(Complex64, f64)> {
        let (mut sum, mut weights, mut single) = (Complex64::ZERO, 0.0, false);
        for channel in 0..layout.channels_hz.len() {
            let mut read = |product: usize| self.flags.check(layout.sample(values, product, channel, intermediate));
            let sample = match products {
                Products::Total(i) => read(i),
                Products::Hands(right, left) => match (right.and_then(&mut read), left.and_then(&mut read)) {
                    // I = (RR + LL)/2, sigma_I = sqrt(sigma_RR^2 + sigma_LL^2)/2.
                    (Some((rr, vr)), Some((ll, vl))) => Some(((rr + ll) * 0.5, (vr + vl) * 0.25)),
                    (Some(one), None) | (None, Some(one)) => {
                        single = true;
                        Some(one)
                    }
                    (None, None) => None,
                },
            };
            if let Some((value, variance)) = sample {
                sum += value / variance;
                weights += 1.0 / variance;
            }
        }
        let (value, sigma) = (sum / weights, 1.0 / f64::sqrt(weights));
        if weights == 0.0 {
            return None;
        }
        // Weights near the limits of f64 over- or underflow in the average.
        if !(value.re.is_finite() && value.im.is_finite() && sigma.is_finite() && sigma > 0.0) {
            self.flags.visibility_not_finite += 1;
            return None;
        }
        self.flags.single_hand += usize::from(single);
        Some((value, sigma))
    }
}

impl Flags {
    /// Visibility and variance of a usable sample; otherwise the reason is counted. sigma = 1/sqrt(weight), for each of the two parts.
    fn check(&mut self, [re, im, weight]: [f64; 3]) -> Option<(Complex64, f64)> {
        if weight.is_nan() {
            self.weight_nan += 1;
        } else if weight <= 0.0 {
            self.weight_not_positive += 1;
        } else if weight.is_infinite() {
            self.weight_infinite += 1;
        } else if !(re.is_finite() && im.is_finite()) {
            self.visibility_not_finite += 1;
        } else {
            return Some((Complex64::new(re, im), 1.0 / weight));
        }
        None
    }
}

/// Keeps the first value and refuses another one.
fn one_value(seen: &mut Option<i64>, value: Option<f64>) -> std::result::Result<(), (i64, i64)> {
    let Some(value) = value.map(|v| v.round() as i64) else { return Ok(()) };
    match *seen {
        Some(first) if first != value => Err((first, value)),
        _ => {
            *seen = Some(value);
            Ok(())
        }
    }
}

/// (subarray, first antenna, second antenna, the code as found).
fn antenna_pair(pair: Pair, parameters: &[f64]) -> (u32, i64, i64, f64) {
    match pair {
        Pair::Baseline(p) => {
            let code = p.value(parameters);
            let (subarray, a1, a2) = decode_baseline(code);
            (subarray, a1, a2, code)
        }
        Pair::Antennas(a, b, s) => {
            let (a1, a2) = (a.value(parameters).round() as i64, b.value(parameters).round() as i64);
            (s.map_or(1, |s| s.value(parameters).round() as u32), a1, a2, f64::NAN)
        }
    }
}

/// BASELINE to (subarray, a1, a2): 256 a1 + a2 + (subarray - 1)/100, and beyond 255 antennas 65536 + 2048 a1 + a2.
pub(crate) fn decode_baseline(code: f64) -> (u32, i64, i64) {
    if !(0.0..1e9).contains(&code) {
        return (1, -1, -1);
    }
    let whole = (code + 1e-3).floor();
    let pair = whole as i64;
    if pair >= 65_536 {
        // Such codes are too large for f32 to hold a hundredth as well.
        let pair = code.round() as i64 - 65_536;
        return (1, pair / 2048, pair % 2048);
    }
    let subarray = ((code - whole) * 100.0).round().max(0.0) as u32 + 1;
    (subarray, pair / 256, pair % 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baseline_codes() {
        assert_eq!(decode_baseline(258.0), (1, 1, 2));
        assert_eq!(decode_baseline((256.0 * 7.0 + 3.0 + 0.02) as f32 as f64), (3, 7, 3));
        assert_eq!(decode_baseline((256.0f32 * 254.0 + 255.0 + 0.01) as f64), (2, 254, 255));
        assert_eq!(decode_baseline(65_536.0 + 2048.0 * 300.0 + 2.0), (1, 300, 2));
        assert_eq!(decode_baseline(f64::NAN).1, -1);
        assert_eq!(decode_baseline(-5.0).1, -1);
        assert_eq!(decode_baseline(f64::INFINITY).1, -1);
    }
}
