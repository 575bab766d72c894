//! The layout of random groups: which parameter and which axis means what.

use super::bintable::{describe, integer, real};
use crate::Result;
use halation_io::{Error as IoError, Hdu};
use std::path::Path;

/// One random parameter: value = raw * scale + zero, in f64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    index: usize,
    scale: f64,
    zero: f64,
}

impl Parameter {
    pub(crate) fn value(&self, raw: &[f64]) -> f64 {
        raw[self.index] * self.scale + self.zero
    }

    /// The sum of several parameters and `start`, zero points first: a Julian date then keeps the digits of its small part.
    pub(crate) fn sum(start: f64, parameters: &[Parameter], raw: &[f64]) -> f64 {
        let zeros = parameters.iter().fold(start, |sum, p| sum + p.zero);
        parameters.iter().fold(zeros, |sum, p| sum + raw[p.index] * p.scale)
    }
}

/// How a group names its baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pair {
    /// 256 a1 + a2 + (subarray - 1)/100, or 65536 + 2048 a1 + a2.
    Baseline(Parameter),
    /// ANTENNA1, ANTENNA2 and perhaps SUBARRAY.
    Antennas(Parameter, Parameter, Option<Parameter>),
}

/// The axes and parameters of the groups of one file.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) bitpix: i64,
    pub(crate) groups: usize,
    pub(crate) pcount: usize,
    /// Values of one group behind its parameters.
    pub(crate) values: usize,
    pub(crate) u: Parameter,
    pub(crate) v: Parameter,
    pub(crate) dates: Vec<Parameter>,
    pub(crate) integration: Option<Parameter>,
    pub(crate) pair: Pair,
    pub(crate) source: Option<Parameter>,
    pub(crate) frequency_id: Option<Parameter>,
    pub(crate) complex_stride: usize,
    pub(crate) stokes_stride: usize,
    /// FITS codes of the products on the STOKES axis.
    pub(crate) stokes: Vec<i64>,
    pub(crate) channel_stride: usize,
    /// Frequency of every channel before the offset of its IF, Hz.
    pub(crate) channels_hz: Vec<f64>,
    /// Channel width by the FREQ axis, Hz.
    pub(crate) channel_width_hz: f64,
    pub(crate) if_stride: usize,
    pub(crate) ifs: usize,
    /// BSCALE, BZERO and, for integers, BLANK.
    pub(crate) scale: f64,
    pub(crate) zero: f64,
    pub(crate) blank: Option<f64>,
    pub(crate) ra_deg: f64,
    pub(crate) dec_deg: f64,
}

impl Layout {
    /// Understands the primary header, or says what is missing. The file holds all groups that the header promises.
    pub(crate) fn new(hdu: &Hdu, antenna_frequency_hz: Option<f64>, path: &Path) -> Result<Self> {
        let h = &hdu.header;
        let fail = |problem: String| IoError::content(path, hdu.place(), problem);
        if !h.is_true("GROUPS") || integer(h, "NAXIS1") != Some(0) {
            let problem = format!(
                "found {}, {} and {}, expected random groups (GROUPS = T, NAXIS1 = 0): this is a FITS file but no UVFITS",
                describe(h, "GROUPS"),
                describe(h, "NAXIS"),
                describe(h, "NAXIS1")
            );
            return Err(fail(problem).into());
        }
        let size = |key: &str| {
            let value = integer(h, key).and_then(|v| usize::try_from(v).ok());
            value.ok_or_else(|| fail(format!("found {}, expected a size", describe(h, key))))
        };
        let (groups, pcount) = (size("GCOUNT")?, size("PCOUNT")?);
        if groups == 0 {
            return Err(fail("found GCOUNT = 0: the file holds no data".into()).into());
        }

        let axes = size("NAXIS")?;
        let mut lengths = vec![1usize; axes + 1];
        let mut strides = vec![1usize; axes + 1];
        let mut values = 1usize;
        for axis in 2..=axes {
            lengths[axis] = size(&format!("NAXIS{axis}"))?;
            strides[axis] = values;
            values = values.checked_mul(lengths[axis]).ok_or_else(|| fail("the axes multiply beyond any file".into()))?;
        }
        if values == 0 {
            return Err(fail("found an axis of length 0: the file holds no data".into()).into());
        }
        let kind = |axis: usize| h.text(&format!("CTYPE{axis}")).map(|t| t.to_ascii_uppercase());
        let find = |name: &str| (2..=axes).find(|a| kind(*a).is_some_and(|k| k.starts_with(name)));
        let need = |name: &str| find(name).ok_or_else(|| fail(format!("found no axis with CTYPE '{name}'")));
        let complex = need("COMPLEX")?;
        if lengths[complex] != 3 {
            return Err(fail(format!(
                "found {} values on the COMPLEX axis, expected 3 (real, imaginary, weight)",
                lengths[complex]
            ))
            .into());
        }
        let (stokes_axis, frequency_axis) = (need("STOKES")?, need("FREQ")?);
        // The EHT releases of 2017 and 2018 leave out CTYPE5; it is the IF axis.
        let if_axis = (2..=axes).find(|a| kind(*a).as_deref() == Some("IF")).or((axes >= 5 && kind(5).is_none()).then_some(5));
        for axis in (2..=axes).filter(|a| ![complex, stokes_axis, frequency_axis].contains(a) && Some(*a) != if_axis) {
            if lengths[axis] != 1 {
                let name = kind(axis).unwrap_or_else(|| "no CTYPE".into());
                return Err(fail(format!(
                    "axis {axis} ({name}): found length {}, expected 1: split the file first",
                    lengths[axis]
                ))
                .into());
            }
        }

        let along = |axis: usize| {
            let [start, step, pixel] = [("CRVAL", None), ("CDELT", None), ("CRPIX", Some(1.0))]
                .map(|(key, default)| real(h, &format!("{key}{axis}")).or(default));
            (start, step, pixel.unwrap_or(1.0))
        };
        let (Some(code), Some(step), pixel) = along(stokes_axis) else {
            return Err(
                fail(format!("axis {stokes_axis} (STOKES): found no CRVAL or CDELT, expected the codes of the products")).into()
            );
        };
        let stokes = (0..lengths[stokes_axis]).map(|k| (code + (k as f64 + 1.0 - pixel) * step).round() as i64).collect();
        let (reference_hz, width_hz, pixel) = along(frequency_axis);
        let reference_hz = reference_hz.filter(|f| *f > 0.0).or(antenna_frequency_hz).ok_or_else(|| {
            fail(format!("found no CRVAL{frequency_axis} (Hz) and no FREQ in the AN table, expected the frequency"))
        })?;
        let width_hz = width_hz.unwrap_or(0.0);
        let channels_hz: Vec<f64> =
            (0..lengths[frequency_axis]).map(|c| reference_hz + (c as f64 + 1.0 - pixel) * width_hz).collect();

        let parameters: Vec<(String, Parameter)> = (0..pcount)
            .map(|index| {
                let name = h.text(&format!("PTYPE{}", index + 1)).unwrap_or("").to_ascii_uppercase();
                let scale = real(h, &format!("PSCAL{}", index + 1)).unwrap_or(1.0);
                (name, Parameter { index, scale, zero: real(h, &format!("PZERO{}", index + 1)).unwrap_or(0.0) })
            })
            .collect();
        let names = parameters.iter().map(|p| p.0.as_str()).collect::<Vec<_>>().join(", ");
        let parameter = |test: &dyn Fn(&str) -> bool| parameters.iter().find(|p| test(&p.0)).map(|p| p.1);
        let named = |name: &str| parameter(&|n| n == name);
        let missing = |what: &str| fail(format!("found the parameters {names}, expected {what}"));
        let coordinate = |axis: &str| {
            // `UU-L` is in wavelengths at a reference frequency (AIPS Memo 117): no file of that kind has been seen, so none is guessed at.
            if parameter(&|n| n.starts_with(&format!("{axis}-L"))).is_some() {
                return Err(missing(&format!(
                    "{axis} in seconds ({axis} or {axis}---SIN, not {axis}-L): write the file in seconds"
                )));
            }
            parameter(&|n| n == axis || n.starts_with(&format!("{axis}-"))).ok_or_else(|| missing(&format!("{axis} (seconds)")))
        };
        let dates: Vec<Parameter> = parameters.iter().filter(|p| p.0 == "DATE" || p.0 == "_DATE").map(|p| p.1).collect();
        if dates.is_empty() {
            return Err(missing("DATE (Julian date), once or twice").into());
        }
        let pair = match (named("BASELINE"), named("ANTENNA1"), named("ANTENNA2")) {
            (Some(p), _, _) => Pair::Baseline(p),
            (None, Some(a), Some(b)) => Pair::Antennas(a, b, named("SUBARRAY")),
            _ => return Err(missing("BASELINE").into()),
        };
        let direction = |own: &str, axis: &str| real(h, own).or_else(|| real(h, &format!("CRVAL{}", find(axis)?)));
        let (Some(ra_deg), Some(dec_deg)) = (direction("OBSRA", "RA"), direction("OBSDEC", "DEC")) else {
            return Err(
                fail("found no OBSRA/OBSDEC and no RA/DEC axes, expected the direction of the source (degrees)".into()).into()
            );
        };
        let bitpix = hdu.bitpix;
        let layout = Self {
            bitpix,
            groups,
            pcount,
            values,
            u: coordinate("UU")?,
            v: coordinate("VV")?,
            dates,
            integration: named("INTTIM"),
            pair,
            source: named("SOURCE"),
            frequency_id: named("FREQSEL"),
            complex_stride: strides[complex],
            stokes_stride: strides[stokes_axis],
            stokes,
            channel_stride: strides[frequency_axis],
            channels_hz,
            channel_width_hz: width_hz.abs(),
            if_stride: if_axis.map_or(0, |a| strides[a]),
            ifs: if_axis.map_or(1, |a| lengths[a]),
            scale: real(h, "BSCALE").unwrap_or(1.0),
            zero: real(h, "BZERO").unwrap_or(0.0),
            blank: integer(h, "BLANK").filter(|_| bitpix > 0).map(|b| b as f64),
            ra_deg,
            dec_deg,
        };
        if (layout.group_bytes() as u64).checked_mul(groups as u64) != Some(hdu.data_len) {
            return Err(
                fail(format!("found {groups} groups of {} bytes in {} bytes of data", layout.group_bytes(), hdu.data_len)).into()
            );
        }
        Ok(layout)
    }

    /// Bytes of one group.
    pub(crate) fn group_bytes(&self) -> usize {
        (self.pcount + self.values) * (self.bitpix.unsigned_abs() as usize / 8)
    }

    /// Decodes the big-endian values of one group into `out`, unscaled.
    pub(crate) fn decode(&self, bytes: &[u8], out: &mut Vec<f64>) {
        out.clear();
        match self.bitpix {
            -32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_be_bytes(*b) as f64)),
            -64 => out.extend(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_be_bytes(*b))),
            8 => out.extend(bytes.iter().map(|b| *b as f64)),
            16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| i16::from_be_bytes(*b) as f64)),
            32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_be_bytes(*b) as f64)),
            _ => out.extend(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_be_bytes(*b) as f64)),
        }
    }

    /// Real part, imaginary part and weight of one sample, given the values behind the parameters.
    pub(crate) fn sample(&self, values: &[f64], product: usize, channel: usize, intermediate: usize) -> [f64; 3] {
        let at = product * self.stokes_stride + channel * self.channel_stride + intermediate * self.if_stride;
        [0, 1, 2].map(|k| {
            let raw = values[at + k * self.complex_stride];
            if Some(raw) == self.blank { f64::NAN } else { raw * self.scale + self.zero }
        })
    }
}
