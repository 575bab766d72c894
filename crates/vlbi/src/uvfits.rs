//! UVFITS in and out (AIPS Memo 117; FITS standard 4.0 for random groups and binary tables).
//!
//! Own parser: CFITSIO-based readers give no values for random groups. What is kept is Stokes I, one visibility per group and IF.

#[cfg(test)]
mod bad_input_tests;
mod bintable;
mod groups;
mod layout;
#[cfg(test)]
pub(crate) mod real_data_tests;
#[cfg(test)]
pub(crate) mod round_trip_tests;
mod scans;
mod tables;
mod write;

pub use groups::Flags;
pub(crate) use scans::merge_scans;
pub use write::write_uvfits;

use crate::{Band, Error, Observation, Result};
use halation_io::{Error as IoError, FitsFile};
use layout::Layout;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tables::Antennas;

/// What a UVFITS file says beside its visibilities.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UvfitsSummary {
    /// The file.
    pub path: PathBuf,
    /// DATE-OBS as it stands in the header.
    pub date_obs: Option<String>,
    /// TELESCOP as it stands in the header.
    pub telescope: Option<String>,
    /// FITS codes on the STOKES axis (1..4 = I, Q, U, V; -1..-4 = RR, LL, RL, LR).
    pub stokes_codes: Vec<i64>,
    /// Groups before flagging.
    pub rows: usize,
    /// Intermediate frequencies; each becomes a band.
    pub ifs: usize,
    /// Channels of one IF; they are averaged.
    pub channels: usize,
    /// Where the scans come from: `NX table` or `gaps in time`.
    pub scans_from: &'static str,
    /// What was left out.
    pub flags: Flags,
}

/// Reads one UVFITS file as Stokes I.
///
/// - u, v in wavelengths: the file's seconds (raw * PSCAL + PZERO) times the centre frequency of the band.
/// - One band per IF; the channels of an IF are averaged with inverse variance.
/// - I = (RR + LL)/2, or the one hand that is there, or the product I. sigma = 1/sqrt(weight), each part.
/// - Left out and counted: weight <= 0, NaN or infinite; visibilities that are not finite; autocorrelations.
/// - station1 < station2 (order of the AN table): reversed baselines are turned, (u, v) -> -(u, v), V -> conj(V).
/// - Scans come from the row ranges of the NX table when it covers all data without overlap, otherwise from gaps: a scan ends where
///   nothing was observed for 60 s and for 1.5 integrations (INTTIM, at most the pace of the data).
///
/// # Errors
/// Not FITS, not random groups, cut off, no AN table, an antenna that it does not list, several sources, linear feeds, no usable data,
/// one station only.
pub fn read_uvfits(path: impl AsRef<Path>) -> Result<Observation> {
    inspect_uvfits(path).map(|(observation, _)| observation)
}

/// [`read_uvfits`], with what the file says beside the visibilities.
pub fn inspect_uvfits(path: impl AsRef<Path>) -> Result<(Observation, UvfitsSummary)> {
    let path = path.as_ref();
    if path.is_dir() {
        return Err(
            IoError::content(path, "file", "is a folder, expected a UVFITS file (export a MeasurementSet to UVFITS)").into()
        );
    }
    let mut file = FitsFile::open(path)?;
    let Some(primary) = file.hdus().first().cloned() else {
        return Err(IoError::content(path, "file", "holds no HDU, expected a UVFITS file").into());
    };
    // A FITS image has no antennas either: say first that it is no UVFITS.
    let h = &primary.header;
    let antennas = if h.is_true("GROUPS") { Some(Antennas::read(&mut file)?) } else { None };
    let layout = Layout::new(&primary, antennas.as_ref().and_then(|a| a.frequency_hz), path)?;
    let Some(antennas) = antennas else {
        return Err(IoError::content(path, primary.place(), "holds no random groups, expected a UVFITS file").into());
    };
    let mut reader = File::open(path).map_err(|e| IoError::os(path, e))?;
    reader.seek(SeekFrom::Start(primary.data_start)).map_err(|e| IoError::os(path, e))?;
    let mut groups = groups::read(&mut BufReader::with_capacity(1 << 16, reader), &layout, &antennas, path)?;

    let intermediates = tables::frequencies(&mut file, layout.ifs, groups.frequency_id)?;
    let channels = layout.channels_hz.len();
    let differ = intermediates.iter().any(|i| i.channel_width_hz != intermediates[0].channel_width_hz);
    let mut bands = Vec::with_capacity(intermediates.len());
    for (i, intermediate) in intermediates.iter().enumerate() {
        let frequency_hz = layout.channels_hz.iter().sum::<f64>() / channels as f64 + intermediate.offset_hz;
        if !(frequency_hz > 0.0 && frequency_hz < 1e16) {
            return Err(IoError::content(
                path,
                format!("IF {}", i + 1),
                format!("found frequency {frequency_hz} Hz, expected a positive one"),
            )
            .into());
        }
        // The FREQ axis gives the width in f64; the table counts only where it tells the IFs apart or the axis is silent.
        let width_hz = match intermediate.channel_width_hz {
            Some(width) if differ || layout.channel_width_hz == 0.0 => width,
            _ => layout.channel_width_hz,
        };
        bands.push(Band { frequency_hz, bandwidth_hz: width_hz * channels as f64 });
    }
    for v in &mut groups.visibilities {
        let frequency_hz = bands[v.band].frequency_hz;
        v.u_lambda *= frequency_hz;
        v.v_lambda *= frequency_hz;
    }
    check_usable(&groups, &antennas, layout.groups, path)?;

    let ranges = tables::scan_rows(&mut file, layout.groups)?;
    let from_table = if ranges.is_empty() { None } else { scans::scans_from_rows(&ranges, &groups.times, &groups.visibilities) };
    let scans_from = if from_table.is_some() { "NX table" } else { "gaps in time" };
    let mut observation = Observation {
        source: h.text("OBJECT").filter(|o| !o.is_empty()).unwrap_or("unknown").to_string(),
        ra_deg: layout.ra_deg,
        dec_deg: layout.dec_deg,
        stations: antennas.stations,
        bands,
        scans: from_table.unwrap_or_else(|| scans::scans_from_gaps(&groups.visibilities)),
        visibilities: groups.visibilities,
        rows: layout.groups,
    };
    observation.sort();
    let text = |key: &str| h.text(key).filter(|t| !t.is_empty()).map(str::to_string);
    let summary = UvfitsSummary {
        path: path.to_path_buf(),
        date_obs: text("DATE-OBS"),
        telescope: text("TELESCOP"),
        stokes_codes: layout.stokes,
        rows: layout.groups,
        ifs: layout.ifs,
        channels,
        scans_from,
        flags: groups.flags,
    };
    Ok((observation, summary))
}

fn check_usable(groups: &groups::Groups, antennas: &Antennas, rows: usize, path: &Path) -> Result<()> {
    let fail = |message: String| Err(Error::Data { path: path.to_path_buf(), message });
    if antennas.stations.len() < 2 || groups.flags.rows_autocorrelation == rows {
        return fail(format!(
            "found one station only ({} listed, {} of {rows} groups are autocorrelations), expected baselines between at least two stations",
            antennas.stations.len(),
            groups.flags.rows_autocorrelation
        ));
    }
    if groups.visibilities.is_empty() {
        let f = &groups.flags;
        return fail(format!(
            "all data are flagged: {rows} groups, of them {} autocorrelations and {} with bad coordinates; parallel-hand samples with weight <= 0: {}, weight NaN: {}, weight infinite: {}, visibility not finite: {}; expected at least one usable visibility: check how the file was exported",
            f.rows_autocorrelation,
            f.rows_bad_coordinates,
            f.weight_not_positive,
            f.weight_nan,
            f.weight_infinite,
            f.visibility_not_finite
        ));
    }
    Ok(())
}

/// Reads several files of one source and joins them: every IF of every file becomes a band of its own, in the order given.
///
/// Stations are matched by name; scans that overlap in time become one.
///
/// # Errors
/// Those of [`read_uvfits`]; sources, directions (beyond one arc second) or stations (beyond 1 km) that differ; the same data twice.
pub fn read_observation<P: AsRef<Path>>(paths: &[P]) -> Result<Observation> {
    inspect_observation(paths).map(|(observation, _)| observation)
}

/// [`read_observation`], with what each file says beside the visibilities.
pub fn inspect_observation<P: AsRef<Path>>(paths: &[P]) -> Result<(Observation, Vec<UvfitsSummary>)> {
    let Some((first, rest)) = paths.split_first() else {
        return Err(Error::Invalid("found no UVFITS file, expected at least one".into()));
    };
    let (mut joined, summary) = inspect_uvfits(first)?;
    let mut summaries = vec![summary];
    for path in rest {
        let (next, summary) = inspect_uvfits(path)?;
        join(&mut joined, next, first.as_ref(), path.as_ref())?;
        summaries.push(summary);
    }
    Ok((joined, summaries))
}

/// The letters and digits of a source's name, so that `Sgr A*`, `SGRA` and `SgrA` agree.
fn plain_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Files the middles of which lie farther apart than this are of different observations.
const LONGEST_GAP_H: f64 = 12.0;

fn join(joined: &mut Observation, next: Observation, first: &Path, path: &Path) -> Result<()> {
    let fail = |message: String| Err(Error::Data { path: path.to_path_buf(), message });
    if plain_name(&joined.source) != plain_name(&next.source) {
        let message = format!(
            "found source '{}', expected '{}' as in {}: give files of one source",
            next.source,
            joined.source,
            first.display()
        );
        return fail(message);
    }
    let d_ra_deg = (joined.ra_deg - next.ra_deg + 540.0).rem_euclid(360.0) - 180.0;
    let apart_arcsec = 3600.0 * (d_ra_deg * joined.dec_deg.to_radians().cos()).hypot(joined.dec_deg - next.dec_deg);
    if apart_arcsec > 1.0 {
        return fail(format!(
            "its direction lies {apart_arcsec:.1} arcsec from that in {}, expected the same phase centre",
            first.display()
        ));
    }
    // Sources vary, and one image of two days would be of neither.
    let middle = |o: &Observation| {
        let times = || o.visibilities.iter().map(|v| v.mjd);
        0.5 * (times().fold(f64::INFINITY, f64::min) + times().fold(f64::NEG_INFINITY, f64::max))
    };
    let apart_h = 24.0 * (middle(&next) - middle(joined)).abs();
    if apart_h > LONGEST_GAP_H {
        return fail(format!(
            "was observed {apart_h:.0} hours from {}, expected files of one observation, within {LONGEST_GAP_H} hours: give each day alone",
            first.display()
        ));
    }
    let mut index = Vec::with_capacity(next.stations.len());
    for station in next.stations {
        match joined.stations.iter().position(|s| s.name == station.name) {
            Some(i) => {
                let apart_m =
                    joined.stations[i].position_m.iter().zip(&station.position_m).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                if apart_m > 1000.0 {
                    return fail(format!(
                        "station {} stands {apart_m:.0} m from where {} has it, expected the same place",
                        station.name,
                        first.display()
                    ));
                }
                index.push(i);
            }
            None => {
                index.push(joined.stations.len());
                joined.stations.push(station);
            }
        }
    }
    let key = |mjd: f64, s1: usize, s2: usize| ((mjd * 86_400_000.0).round() as i64, s1, s2);
    for (b, band) in next.bands.iter().enumerate() {
        for (j, old) in joined.bands.iter().enumerate() {
            let shared_hz = 0.5 * (old.bandwidth_hz + band.bandwidth_hz) - (old.frequency_hz - band.frequency_hz).abs();
            if shared_hz <= 0.01 * band.bandwidth_hz && old.frequency_hz != band.frequency_hz {
                continue;
            }
            let seen: HashSet<_> =
                joined.visibilities.iter().filter(|v| v.band == j).map(|v| key(v.mjd, v.station1, v.station2)).collect();
            for v in next.visibilities.iter().filter(|v| v.band == b) {
                let (s1, s2) = (index[v.station1].min(index[v.station2]), index[v.station1].max(index[v.station2]));
                if seen.contains(&key(v.mjd, s1, s2)) {
                    return fail(format!(
                        "holds data at {:.6} GHz, MJD {:.6}, {}-{}, that an earlier file holds too: data given twice would count twice, leave one out",
                        band.frequency_hz / 1e9,
                        v.mjd,
                        joined.stations[s1].name,
                        joined.stations[s2].name
                    ));
                }
            }
        }
    }
    let offset = joined.bands.len();
    joined.bands.extend(next.bands);
    joined.visibilities.extend(next.visibilities.into_iter().map(|mut v| {
        v.band += offset;
        (v.station1, v.station2) = (index[v.station1], index[v.station2]);
        if v.station1 > v.station2 {
            (v.station1, v.station2) = (v.station2, v.station1);
            (v.u_lambda, v.v_lambda) = (-v.u_lambda, -v.v_lambda);
            v.value_jy = v.value_jy.conj();
        }
        v
    }));
    joined.scans = merge_scans(&[std::mem::take(&mut joined.scans), next.scans]);
    joined.rows += next.rows;
    joined.sort();
    Ok(())
}
