//! AIPS AN (antennas), FQ (frequencies) and NX (scans) tables (AIPS Memo 117).

use super::bintable::{Table, extensions, integer, real};
use crate::{Result, Station};
use halation_io::{Error as IoError, FitsFile, FitsHeader};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The stations of all AN tables and the way from (subarray, antenna number) to a station.
#[derive(Debug)]
pub(crate) struct Antennas {
    pub(crate) stations: Vec<Station>,
    numbers: HashMap<(u32, i64), usize>,
    /// FREQ of the first table, Hz.
    pub(crate) frequency_hz: Option<f64>,
}

impl Antennas {
    /// Reads every `AIPS AN` table; EXTVER is the subarray.
    pub(crate) fn read(file: &mut FitsFile) -> Result<Self> {
        let path = file.path().to_path_buf();
        let mut antennas = Antennas { stations: Vec::new(), numbers: HashMap::new(), frequency_hz: None };
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for (i, number) in extensions(file, "AIPS AN").into_iter().enumerate() {
            let table = Table::read(file, number)?;
            let header = &file.hdus()[number].header;
            let subarray = integer(header, "EXTVER").and_then(|v| u32::try_from(v).ok()).unwrap_or(i as u32 + 1);
            antennas.frequency_hz = antennas.frequency_hz.or(real(header, "FREQ").filter(|f| *f > 0.0));
            antennas.add(&table, header, subarray, &path, &mut by_name)?;
        }
        if antennas.stations.is_empty() {
            let found: Vec<String> = file.hdus().iter().skip(1).map(|h| h.place()).collect();
            let problem = format!(
                "found no antennas (extensions: {}), expected a binary table 'AIPS AN' that names the stations: write the UVFITS file with its antenna table",
                if found.is_empty() { "none".to_string() } else { found.join(", ") }
            );
            return Err(IoError::content(&path, "AIPS AN", problem).into());
        }
        Ok(antennas)
    }

    fn add(
        &mut self,
        table: &Table,
        header: &FitsHeader,
        subarray: u32,
        path: &Path,
        by_name: &mut HashMap<String, usize>,
    ) -> Result<()> {
        let need = |name: &str| {
            table.column(name).ok_or_else(|| {
                IoError::content(path, table.place(), format!("found no column {name}, expected ANNAME, STABXYZ and NOSTA"))
            })
        };
        let (name_column, position_column, number_column) = (need("ANNAME")?, need("STABXYZ")?, need("NOSTA")?);
        let sefd_column = table.column("SEFD");
        let centre_m = ["ARRAYX", "ARRAYY", "ARRAYZ"].map(|k| real(header, k).unwrap_or(0.0));
        let left_handed = header.text("XYZHAND").is_some_and(|h| h.eq_ignore_ascii_case("LEFT"));
        let mut here = HashSet::new();
        for row in 0..table.rows() {
            let fail = |problem: String| IoError::content(path, format!("{}, row {}", table.place(), row + 1), problem);
            let number =
                table.number(row, number_column).ok_or_else(|| fail("found no NOSTA, expected an antenna number".into()))? as i64;
            let xyz = table.numbers(row, position_column);
            let [x, y, z] = xyz[..] else {
                return Err(fail(format!("found STABXYZ with {} values, expected 3 (metres)", xyz.len())).into());
            };
            if ![x, y, z].iter().all(|v| v.is_finite()) {
                return Err(fail(format!("found STABXYZ = {x}, {y}, {z}, expected finite metres")).into());
            }
            // Right-handed inside: Y points 90 degrees East.
            let y = if left_handed { -y } else { y };
            let position_m = [x + centre_m[0], y + centre_m[1], z + centre_m[2]];
            let mut name = table.text(row, name_column);
            if name.is_empty() || here.contains(&name) {
                // CASA exports leave names empty or cut them to the same eight characters.
                name = format!("{name}#{number}");
            }
            here.insert(name.clone());
            let sefd_jy = sefd_column.and_then(|c| table.number(row, c)).filter(|s| s.is_finite() && *s > 0.0);
            let index = *by_name.entry(name.clone()).or_insert_with(|| {
                self.stations.push(Station { name, position_m, sefd_jy });
                self.stations.len() - 1
            });
            if self.numbers.insert((subarray, number), index).is_some() {
                return Err(fail(format!("found antenna number {number} a second time, expected every NOSTA once")).into());
            }
        }
        Ok(())
    }

    /// The station of an antenna number in a subarray.
    pub(crate) fn station(&self, subarray: u32, number: i64) -> Option<usize> {
        self.numbers.get(&(subarray, number)).copied()
    }

    /// The antenna numbers of a subarray, for messages.
    pub(crate) fn listed(&self, subarray: u32) -> String {
        let mut numbers: Vec<i64> = self.numbers.keys().filter(|k| k.0 == subarray).map(|k| k.1).collect();
        numbers.sort_unstable();
        let listed: Vec<String> = numbers.iter().map(i64::to_string).collect();
        if listed.is_empty() { "no AN table for this subarray".into() } else { listed.join(", ") }
    }
}

/// Offset and channel width of one IF.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Intermediate {
    /// Added to the frequency of the FREQ axis, Hz.
    pub(crate) offset_hz: f64,
    /// Channel width, Hz; none when the file does not say.
    pub(crate) channel_width_hz: Option<f64>,
}

/// Reads the FQ row of `frequency_id` (the first row when none): one entry per IF.
///
/// Without a table a single IF has offset 0; several IFs without a table are an error.
pub(crate) fn frequencies(file: &mut FitsFile, ifs: usize, frequency_id: Option<i64>) -> Result<Vec<Intermediate>> {
    let path = file.path().to_path_buf();
    let Some(number) = extensions(file, "AIPS FQ").first().copied() else {
        if ifs == 1 {
            return Ok(vec![Intermediate { offset_hz: 0.0, channel_width_hz: None }]);
        }
        let problem = format!("found {ifs} IFs and no binary table 'AIPS FQ', expected one that gives their frequencies");
        return Err(IoError::content(&path, "AIPS FQ", problem).into());
    };
    let table = Table::read(file, number)?;
    let fail = |problem: String| IoError::content(&path, table.place(), problem);
    let column = table.column("IF FREQ").ok_or_else(|| fail("found no column 'IF FREQ' (Hz)".into()))?;
    let id_column = table.column("FRQSEL");
    let row = match (frequency_id, id_column) {
        (Some(id), Some(c)) => (0..table.rows()).find(|r| table.number(*r, c) == Some(id as f64)),
        _ => (table.rows() > 0).then_some(0),
    };
    let row = row.ok_or_else(|| fail(format!("found no row for frequency setup {frequency_id:?} among {} rows", table.rows())))?;
    let offsets = table.numbers(row, column);
    if offsets.len() < ifs || !offsets.iter().take(ifs).all(|f| f.is_finite()) {
        return Err(
            fail(format!("found {} values of 'IF FREQ', expected {ifs} finite ones (Hz), one per IF", offsets.len())).into()
        );
    }
    let widths = table.column("CH WIDTH").map(|c| table.numbers(row, c)).unwrap_or_default();
    Ok((0..ifs)
        .map(|i| Intermediate {
            offset_hz: offsets[i],
            channel_width_hz: widths.get(i).map(|w| w.abs()).filter(|w| w.is_finite() && *w > 0.0),
        })
        .collect())
}

/// First and last row (0-based, inclusive) of every scan of the NX table; empty when there is none or it holds nothing usable.
pub(crate) fn scan_rows(file: &mut FitsFile, rows: usize) -> Result<Vec<(usize, usize)>> {
    let Some(number) = extensions(file, "AIPS NX").first().copied() else { return Ok(Vec::new()) };
    let table = Table::read(file, number)?;
    let (Some(start), Some(end)) = (table.column("START VIS"), table.column("END VIS")) else { return Ok(Vec::new()) };
    let mut scans = Vec::with_capacity(table.rows());
    for row in 0..table.rows() {
        match (table.number(row, start), table.number(row, end)) {
            (Some(a), Some(b)) if a >= 1.0 && a <= b && b <= rows as f64 => scans.push((a as usize - 1, b as usize - 1)),
            _ => return Ok(Vec::new()),
        }
    }
    Ok(scans)
}
