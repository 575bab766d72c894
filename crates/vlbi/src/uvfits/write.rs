//! Writing UVFITS: random groups with AN, FQ and NX tables, in the form of the EHT's releases with their omissions filled in.

use crate::earth::{calendar_date, gmst_rad};
use crate::{Error, Observation, Result};
use halation_io::write_whole;
use std::collections::HashMap;
use std::path::Path;

const BLOCK: usize = 2880;
/// Bands of one baseline and time share a group when their u, v in seconds agree to this fraction of the baseline.
const SAME_UV: f64 = 1e-6;

/// Writes an observation as one UVFITS file with its bands as IFs, whole or not at all.
///
/// - A group holds all bands of a baseline and time whose u, v in seconds agree to 1e-6 (each band of a file does); a band without data
///   there has weight 0, never infinity.
/// - RR = LL = I with weight 1/(2 sigma^2) each, which gives back I and sigma; RL and LR are missing (weight 0).
/// - u, v in seconds with PSCAL = 1; values are f32 as in every UVFITS file, so u, v and V keep 7 digits. The two DATE parameters
///   together keep microseconds.
/// - Station names are cut to ASCII (`_` for other characters). The NX table holds the scans.
///
/// # Errors
/// Nothing to write; names of more than 8 characters or twice the same; numbers that f32 cannot hold; a disk that is full.
pub fn write_uvfits(path: impl AsRef<Path>, observation: &Observation) -> Result<()> {
    let path = path.as_ref();
    let bytes = encode(observation).map_err(|message| Error::Data { path: path.to_path_buf(), message })?;
    Ok(write_whole(path, &bytes)?)
}

/// One group: what its bands share, and the visibility of each band by index.
struct Group {
    mjd: f64,
    integration_s: f64,
    station1: usize,
    station2: usize,
    u_s: f64,
    v_s: f64,
    bands: Vec<Option<usize>>,
}

type Encoded<T> = std::result::Result<T, String>;

fn encode(o: &Observation) -> Encoded<Vec<u8>> {
    let names = station_names(o)?;
    let groups = group(o)?;
    let reference_mjd = groups.first().map_or(0.0, |g| g.mjd.floor());
    let mut out = primary_header(o, groups.len(), reference_mjd);
    for g in &groups {
        encode_group(o, g, reference_mjd, &mut out)?;
    }
    pad(&mut out, 0);
    antenna_table(o, &names, reference_mjd, &mut out);
    frequency_table(o, &mut out);
    scan_table(o, &groups, reference_mjd, &mut out);
    Ok(out)
}

fn station_names(o: &Observation) -> Encoded<Vec<String>> {
    let mut names: Vec<String> = Vec::with_capacity(o.stations.len());
    for station in &o.stations {
        let name: String = station.name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' }).collect();
        if name.trim().is_empty() || name.len() > 8 {
            return Err(format!("station '{name}': UVFITS holds names of 1 to 8 characters, shorten it"));
        }
        if names.contains(&name) {
            return Err(format!("two stations are called '{name}': rename one"));
        }
        names.push(name);
    }
    if names.len() > 2047 {
        return Err(format!("found {} stations, UVFITS holds at most 2047", names.len()));
    }
    Ok(names)
}

fn group(o: &Observation) -> Encoded<Vec<Group>> {
    if o.visibilities.is_empty() || o.bands.is_empty() {
        return Err("the observation holds no visibility, so there is nothing to write".into());
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut at: HashMap<(u64, u64, usize, usize), Vec<usize>> = HashMap::new();
    for (i, v) in o.visibilities.iter().enumerate() {
        let band = o.bands.get(v.band).ok_or_else(|| format!("visibility {i} names band {} of {}", v.band, o.bands.len()))?;
        if v.station1.max(v.station2) >= o.stations.len() || v.station1 == v.station2 {
            return Err(format!("visibility {i} joins stations {} and {} of {}", v.station1, v.station2, o.stations.len()));
        }
        let (u_s, v_s) = (v.u_lambda / band.frequency_hz, v.v_lambda / band.frequency_hz);
        if !(u_s.is_finite() && v_s.is_finite() && (0.0..=100_000.0).contains(&v.mjd)) {
            return Err(format!("visibility {i} has u = {u_s} s, v = {v_s} s, MJD = {}", v.mjd));
        }
        let here = at.entry((v.mjd.to_bits(), v.integration_s.to_bits(), v.station1, v.station2)).or_default();
        let fits = |g: &Group| g.bands[v.band].is_none() && (g.u_s - u_s).hypot(g.v_s - v_s) <= SAME_UV * u_s.hypot(v_s);
        match here.iter().find(|g| fits(&groups[**g])) {
            Some(&g) => groups[g].bands[v.band] = Some(i),
            None => {
                here.push(groups.len());
                let mut bands = vec![None; o.bands.len()];
                bands[v.band] = Some(i);
                groups.push(Group {
                    mjd: v.mjd,
                    integration_s: v.integration_s,
                    station1: v.station1,
                    station2: v.station2,
                    u_s,
                    v_s,
                    bands,
                });
            }
        }
    }
    // A stable sort: groups of one baseline and time stay in the order of their bands.
    groups.sort_by(|a, b| a.mjd.total_cmp(&b.mjd).then((a.station1, a.station2).cmp(&(b.station1, b.station2))));
    Ok(groups)
}

fn encode_group(o: &Observation, g: &Group, reference_mjd: f64, out: &mut Vec<u8>) -> Encoded<()> {
    let mut put = |value: f64| out.extend_from_slice(&(value as f32).to_be_bytes());
    let (a1, a2) = (g.station1 as f64 + 1.0, g.station2 as f64 + 1.0);
    let code = if o.stations.len() <= 255 { 256.0 * a1 + a2 } else { 65_536.0 + 2048.0 * a1 + a2 };
    let day = g.mjd - reference_mjd;
    let rest = day - (day as f32) as f64;
    for value in [g.u_s, g.v_s, 0.0, code, day, rest, g.integration_s, 0.0, 0.0] {
        put(value);
    }
    for band in &g.bands {
        let Some(i) = *band else {
            (0..12).for_each(|_| put(0.0));
            continue;
        };
        let v = &o.visibilities[i];
        let weight = 0.5 / (v.sigma_jy * v.sigma_jy);
        let holds = |x: f64| (x as f32).is_finite();
        if !(holds(v.value_jy.re) && holds(v.value_jy.im) && holds(weight) && weight as f32 > 0.0) {
            return Err(format!(
                "visibility {i} is {} Jy with sigma {} Jy, which 32-bit numbers and weights cannot hold",
                v.value_jy, v.sigma_jy
            ));
        }
        for _ in ["RR", "LL"] {
            put(v.value_jy.re);
            put(v.value_jy.im);
            put(weight);
        }
        (0..6).for_each(|_| put(0.0));
    }
    Ok(())
}

/// Header cards of one HDU.
struct Cards(Vec<u8>);

impl Cards {
    fn card(&mut self, text: &str) {
        let ascii: Vec<u8> = text.chars().map(|c| if (' '..='~').contains(&c) { c as u8 } else { b'?' }).take(80).collect();
        self.0.extend_from_slice(&ascii);
        self.0.resize(self.0.len() + 80 - ascii.len(), b' ');
    }
    fn flag(&mut self, key: &str, value: bool) {
        self.card(&format!("{key:<8}= {:>20}", if value { "T" } else { "F" }));
    }
    fn integer(&mut self, key: &str, value: i64) {
        self.card(&format!("{key:<8}= {value:>20}"));
    }
    /// The shortest decimal that reads back to the same bits.
    fn real(&mut self, key: &str, value: f64) {
        let number = format!("{value:E}");
        let number = if number.contains('.') { number } else { number.replacen('E', ".0E", 1) };
        self.card(&format!("{key:<8}= {number:>20}"));
    }
    fn text(&mut self, key: &str, value: &str) {
        let mut quoted = String::new();
        for c in value.chars() {
            let next = if c == '\'' { "''".to_string() } else { c.to_string() };
            if quoted.len() + next.len() > 64 {
                break;
            }
            quoted.push_str(&next);
        }
        self.card(&format!("{key:<8}= '{quoted:<8}'"));
    }
    fn finish(mut self, out: &mut Vec<u8>) {
        self.card("END");
        out.append(&mut self.0);
        pad(out, b' ');
    }
    fn axis(&mut self, number: usize, kind: &str, start: f64, step: f64) {
        self.text(&format!("CTYPE{number}"), kind);
        self.real(&format!("CRVAL{number}"), start);
        self.real(&format!("CDELT{number}"), step);
        self.real(&format!("CRPIX{number}"), 1.0);
        self.real(&format!("CROTA{number}"), 0.0);
    }
    /// The start of a binary table with `(name, form, unit)` columns of `row_bytes` in all.
    fn table(name: &str, rows: usize, row_bytes: usize, columns: &[(&str, String, &str)]) -> Self {
        let mut cards = Cards(Vec::new());
        cards.text("XTENSION", "BINTABLE");
        for (key, value) in [
            ("BITPIX", 8),
            ("NAXIS", 2),
            ("NAXIS1", row_bytes),
            ("NAXIS2", rows),
            ("PCOUNT", 0),
            ("GCOUNT", 1),
            ("TFIELDS", columns.len()),
        ] {
            cards.integer(key, value as i64);
        }
        cards.text("EXTNAME", name);
        cards.integer("EXTVER", 1);
        for (i, (name, form, unit)) in columns.iter().enumerate() {
            cards.text(&format!("TTYPE{}", i + 1), name);
            cards.text(&format!("TFORM{}", i + 1), form);
            if !unit.is_empty() {
                cards.text(&format!("TUNIT{}", i + 1), unit);
            }
        }
        cards
    }
}

fn pad(out: &mut Vec<u8>, with: u8) {
    out.resize(out.len().div_ceil(BLOCK) * BLOCK, with);
}

fn date_text(mjd: f64) -> String {
    let (year, month, day) = calendar_date(mjd);
    format!("{year:04}-{month:02}-{day:02}")
}

fn primary_header(o: &Observation, groups: usize, reference_mjd: f64) -> Vec<u8> {
    let mut c = Cards(Vec::new());
    c.flag("SIMPLE", true);
    c.integer("BITPIX", -32);
    c.integer("NAXIS", 7);
    for (i, length) in [0, 3, 4, 1, o.bands.len(), 1, 1].into_iter().enumerate() {
        c.integer(&format!("NAXIS{}", i + 1), length as i64);
    }
    c.flag("EXTEND", true);
    c.flag("GROUPS", true);
    c.integer("PCOUNT", 9);
    c.integer("GCOUNT", groups as i64);
    c.text("OBJECT", &o.source);
    c.text("TELESCOP", "VLBI");
    c.text("INSTRUME", "VLBI");
    c.text("ORIGIN", concat!("halation ", env!("CARGO_PKG_VERSION")));
    c.text("DATE-OBS", &date_text(reference_mjd));
    c.real("MJD", reference_mjd);
    c.real("BSCALE", 1.0);
    c.real("BZERO", 0.0);
    c.text("BUNIT", "JY");
    c.real("EQUINOX", 2000.0);
    c.real("OBSRA", o.ra_deg);
    c.real("OBSDEC", o.dec_deg);
    c.axis(2, "COMPLEX", 1.0, 1.0);
    c.axis(3, "STOKES", -1.0, -1.0);
    c.axis(4, "FREQ", o.bands[0].frequency_hz, o.bands[0].bandwidth_hz);
    c.axis(5, "IF", 1.0, 1.0);
    c.axis(6, "RA", o.ra_deg, 1.0);
    c.axis(7, "DEC", o.dec_deg, 1.0);
    for (i, name) in
        ["UU---SIN", "VV---SIN", "WW---SIN", "BASELINE", "DATE", "DATE", "INTTIM", "TAU1", "TAU2"].into_iter().enumerate()
    {
        c.text(&format!("PTYPE{}", i + 1), name);
        c.real(&format!("PSCAL{}", i + 1), 1.0);
        c.real(&format!("PZERO{}", i + 1), if i == 4 { reference_mjd + 2_400_000.5 } else { 0.0 });
    }
    let mut out = Vec::new();
    c.finish(&mut out);
    out
}

fn antenna_table(o: &Observation, names: &[String], reference_mjd: f64, out: &mut Vec<u8>) {
    let columns = [
        ("ANNAME", "8A", ""),
        ("STABXYZ", "3D", "METERS"),
        ("ORBPARM", "1E", ""),
        ("NOSTA", "1J", ""),
        ("MNTSTA", "1J", ""),
        ("STAXOF", "1E", "METERS"),
        ("POLTYA", "1A", ""),
        ("POLAA", "1E", "DEGREES"),
        ("POLCALA", "3E", ""),
        ("POLTYB", "1A", ""),
        ("POLAB", "1E", "DEGREES"),
        ("POLCALB", "3E", ""),
        ("SEFD", "1D", "JY"),
    ]
    .map(|(n, f, u)| (n, f.to_string(), u));
    let mut c = Cards::table("AIPS AN", names.len(), 90, &columns);
    for key in ["ARRAYX", "ARRAYY", "ARRAYZ"] {
        c.real(key, 0.0);
    }
    c.real("GSTIA0", gmst_rad(reference_mjd).to_degrees());
    c.real("DEGPDY", 360.985_644_973_3);
    c.real("FREQ", o.bands[0].frequency_hz);
    c.text("RDATE", &date_text(reference_mjd));
    for key in ["POLARX", "POLARY", "UT1UTC", "DATUTC"] {
        c.real(key, 0.0);
    }
    c.text("TIMESYS", "UTC");
    c.text("ARRNAM", "VLBI");
    c.text("XYZHAND", "RIGHT");
    c.text("FRAME", "ITRF");
    c.integer("NUMORB", 0);
    c.integer("NO_IF", o.bands.len() as i64);
    c.integer("NOPCAL", 0);
    c.text("POLTYPE", "VLBI");
    c.integer("FREQID", 1);
    c.finish(out);
    for (i, (station, name)) in o.stations.iter().zip(names).enumerate() {
        out.extend_from_slice(format!("{name:<8}").as_bytes());
        station.position_m.iter().for_each(|x| out.extend_from_slice(&x.to_be_bytes()));
        out.extend_from_slice(&0f32.to_be_bytes());
        out.extend_from_slice(&(i as i32 + 1).to_be_bytes());
        out.extend_from_slice(&[0; 8]); // MNTSTA, STAXOF
        for hand in [b'R', b'L'] {
            out.push(hand);
            out.extend_from_slice(&[0; 16]); // angle and three calibration terms
        }
        out.extend_from_slice(&station.sefd_jy.unwrap_or(0.0).to_be_bytes());
    }
    pad(out, 0);
}

fn frequency_table(o: &Observation, out: &mut Vec<u8>) {
    let n = o.bands.len();
    let columns = [
        ("FRQSEL", "1J".to_string(), ""),
        ("IF FREQ", format!("{n}D"), "HZ"),
        ("CH WIDTH", format!("{n}E"), "HZ"),
        ("TOTAL BANDWIDTH", format!("{n}E"), "HZ"),
        ("SIDEBAND", format!("{n}J"), ""),
    ];
    let mut c = Cards::table("AIPS FQ", 1, 4 + 20 * n, &columns);
    c.integer("NO_IF", n as i64);
    c.finish(out);
    out.extend_from_slice(&1i32.to_be_bytes());
    o.bands.iter().for_each(|b| out.extend_from_slice(&(b.frequency_hz - o.bands[0].frequency_hz).to_be_bytes()));
    for _ in ["CH WIDTH", "TOTAL BANDWIDTH"] {
        o.bands.iter().for_each(|b| out.extend_from_slice(&(b.bandwidth_hz as f32).to_be_bytes()));
    }
    o.bands.iter().for_each(|_| out.extend_from_slice(&1i32.to_be_bytes()));
    pad(out, 0);
}

/// The scans as ranges of groups; left out when they do not cover every group once.
fn scan_table(o: &Observation, groups: &[Group], reference_mjd: f64, out: &mut Vec<u8>) {
    let mut ranges = Vec::new();
    let mut next = 0;
    for &(start, end) in &o.scans {
        let from = groups.partition_point(|g| g.mjd < start);
        let to = groups.partition_point(|g| g.mjd <= end);
        if from < next {
            return;
        }
        if from > next {
            break;
        }
        if to > from {
            ranges.push((start, end, from, to));
            next = to;
        }
    }
    if next != groups.len() {
        return;
    }
    let columns = [
        ("TIME", "1D", "DAYS"),
        ("TIME INTERVAL", "1E", "DAYS"),
        ("SOURCE ID", "1J", ""),
        ("SUBARRAY", "1J", ""),
        ("FREQ ID", "1J", ""),
        ("START VIS", "1J", ""),
        ("END VIS", "1J", ""),
    ]
    .map(|(n, f, u)| (n, f.to_string(), u));
    Cards::table("AIPS NX", ranges.len(), 32, &columns).finish(out);
    for (start, end, from, to) in ranges {
        out.extend_from_slice(&(0.5 * (start + end) - reference_mjd).to_be_bytes());
        out.extend_from_slice(&((end - start) as f32).to_be_bytes());
        for value in [1, 1, 1, from as i32 + 1, to as i32] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    pad(out, 0);
}
