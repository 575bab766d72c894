//! The traps of real files one by one, made by patching a file of our own writer, and files that are damaged.

use super::round_trip_tests::{assert_same, small_observation, written};
use super::*;
use halation_compute::Philox;
use std::time::{Duration, Instant};

/// A file in memory whose cards and values can be changed.
struct Patched(Vec<u8>);

/// Values of a group of the small file: 9 parameters, 2 IFs of 4 products of 3.
const GROUP: usize = 9 + 24;

impl Patched {
    fn new(o: &Observation) -> Self {
        Self(written(o))
    }

    fn small() -> Self {
        Self::new(&small_observation())
    }

    /// Replaces the first card of `key` after byte `from`.
    fn card_after(&mut self, from: usize, key: &str, card: &str) -> usize {
        let at = (from..self.0.len()).step_by(80).find(|i| self.0[*i..].starts_with(format!("{key:<8}=").as_bytes())).unwrap();
        self.0[at..at + 80].copy_from_slice(format!("{card:<80}").as_bytes());
        at
    }

    fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.card_after(0, key, &format!("{key:<8}= {value}"));
        self
    }

    fn remove(&mut self, key: &str) -> &mut Self {
        self.card_after(0, key, "COMMENT");
        self
    }

    /// First byte of the HDU called `name`, of its data, and the byte behind them.
    fn hdu(&self, name: &str) -> (usize, usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, &self.0).unwrap();
        let file = FitsFile::open(&path).unwrap();
        let mut start = 0;
        for hdu in file.hdus() {
            let end = (hdu.data_start + hdu.data_len).div_ceil(2880) as usize * 2880;
            if hdu.header.text("EXTNAME").unwrap_or("") == name {
                return (start, hdu.data_start as usize, end);
            }
            start = end;
        }
        panic!("no {name}");
    }

    fn groups(&self) -> usize {
        self.hdu("").1
    }

    fn value(&self, group: usize, index: usize) -> f32 {
        let at = self.groups() + 4 * (group * GROUP + index);
        f32::from_be_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn put(&mut self, group: usize, index: usize, value: f32) -> &mut Self {
        let at = self.groups() + 4 * (group * GROUP + index);
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn read(&self) -> Result<(Observation, UvfitsSummary)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("patched.uvfits");
        std::fs::write(&path, &self.0).unwrap();
        inspect_uvfits(&path)
    }

    fn refused(&self, words: &[&str]) {
        let error = self.read().map(|r| r.1).unwrap_err().to_string();
        assert!(error.contains("patched.uvfits"), "{error}");
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
    }
}

/// The place of a sample's values in a group: IF, product (0 = RR, 1 = LL), part (0, 1 = re, im; 2 = weight).
fn sample(intermediate: usize, product: usize, part: usize) -> usize {
    9 + 12 * intermediate + 3 * product + part
}

#[test]
fn scales_and_zero_points_in_f64() {
    let mut file = Patched::small();
    // u as wavelengths with PSCAL = 1/frequency and a zero point that f32 could not carry.
    let u_s = file.value(5, 0) as f64;
    file.set("PSCAL1", "4.4039146672722D-12").set("PZERO1", "1.00000000001E-03").put(5, 0, 4.0e9);
    let (o, _) = file.read().unwrap();
    let expected = 4.0e9 * 4.4039146672722e-12 + 1.00000000001e-3;
    assert!((expected - u_s).abs() > 1e-4);
    let found = o.visibilities.iter().filter(|v| v.band == 0).map(|v| v.u_lambda / 227.1e9);
    assert!(found.map(|u| (u - expected).abs()).fold(f64::INFINITY, f64::min) < 1e-15);
}

#[test]
fn two_dates_count_by_position_and_one_is_enough() {
    let o = small_observation();
    let mut file = Patched::new(&o);
    // The same times, as the EHT writes them (date, then fraction) ...
    for g in 0..120 {
        let day = file.value(g, 4) as f64 + file.value(g, 5) as f64;
        file.put(g, 4, 2_457_849.5).put(g, 5, day as f32);
    }
    file.set("PZERO5", "0.0");
    let (eht, _) = file.read().unwrap();
    assert!(o.visibilities.iter().zip(&eht.visibilities).all(|(a, b)| (a.mjd - b.mjd).abs() * 86_400.0 < 0.003));
    // ... and as one parameter with all in its zero point.
    let mut file = Patched::new(&o);
    file.set("PTYPE6", "'OTHER'");
    let (one, _) = file.read().unwrap();
    assert!(o.visibilities.iter().zip(&one.visibilities).all(|(a, b)| (a.mjd - b.mjd).abs() * 86_400.0 < 0.003));
    file.set("PTYPE5", "'OTHER'").refused(&["DATE", "BASELINE, OTHER, OTHER"]);
}

#[test]
fn axis_five_without_a_name_is_the_if_axis() {
    let o = small_observation();
    let mut file = Patched::new(&o);
    file.remove("CTYPE5").remove("CRVAL5");
    assert_same(&o, &file.read().unwrap().0);
    // With a name of its own it must have one value.
    file.set("CTYPE6", "'IF'").card_after(0, "NAXIS6", "NAXIS6  = 1");
    file.refused(&["axis 5", "length 2"]);
}

#[test]
fn bad_weights_and_values_are_flagged_and_counted() {
    let mut file = Patched::small();
    for product in [0, 1] {
        file.put(0, sample(0, product, 2), f32::INFINITY);
        file.put(1, sample(0, product, 2), f32::NAN);
        file.put(2, sample(0, product, 2), -1.0);
        file.put(4, sample(0, product, 0), f32::NAN);
        file.put(5, sample(0, product, 1), f32::INFINITY);
    }
    let (o, s) = file.read().unwrap();
    assert_eq!(o.visibilities.len(), 228 - 5);
    let expected =
        Flags { weight_infinite: 2, weight_nan: 2, weight_not_positive: 24 + 2, visibility_not_finite: 4, ..Flags::default() };
    assert_eq!(s.flags, expected);
    assert!(o.visibilities.iter().all(|v| v.value_jy.re.is_finite() && v.sigma_jy > 0.0 && v.sigma_jy.is_finite()));

    let mut all = Patched::small();
    for g in 0..120 {
        for i in [0, 1] {
            all.put(g, sample(i, 0, 0), f32::NAN).put(g, sample(i, 1, 0), f32::NAN);
        }
    }
    all.refused(&["all data are flagged", "not finite: 456", "120 groups"]);
    let mut coordinates = Patched::small();
    coordinates.put(7, 0, f32::NAN).put(8, 4, f32::INFINITY);
    assert_eq!(coordinates.read().unwrap().1.flags.rows_bad_coordinates, 2);
}

#[test]
fn one_hand_stands_for_both() {
    let mut file = Patched::small();
    let (full, _) = file.read().unwrap();
    file.put(0, sample(0, 1, 2), 0.0);
    let (o, s) = file.read().unwrap();
    assert_eq!(s.flags.single_hand, 1);
    // RR = I with sigma_RR = sqrt(2) sigma_I in our files.
    assert_eq!(o.visibilities[0].value_jy, full.visibilities[0].value_jy);
    assert!((o.visibilities[0].sigma_jy / full.visibilities[0].sigma_jy - 2f64.sqrt()).abs() < 1e-12);
    // Unequal hands: I = (RR + LL)/2, sigma = sqrt(sigma_RR^2 + sigma_LL^2)/2.
    for (product, re, im, weight) in [(0, 3.0, 1.0, 4.0), (1, 1.0, -2.0, 1.0)] {
        file.put(0, sample(0, product, 0), re).put(0, sample(0, product, 1), im).put(0, sample(0, product, 2), weight);
    }
    let v = file.read().unwrap().0.visibilities[0];
    assert_eq!((v.value_jy.re, v.value_jy.im), (2.0, -0.5));
    assert!((v.sigma_jy - (0.25f64 + 1.0).sqrt() / 2.0).abs() < 1e-15);
}

#[test]
fn products_on_the_stokes_axis() {
    let mut file = Patched::small();
    file.set("CRVAL3", "1.0").set("CDELT3", "1.0");
    let (o, s) = file.read().unwrap();
    assert_eq!(s.stokes_codes, [1, 2, 3, 4]);
    assert!((o.visibilities[0].sigma_jy / small_observation().visibilities[0].sigma_jy - 2f64.sqrt()).abs() < 1e-6);
    file.set("CRVAL3", "-5.0").set("CDELT3", "-1.0").refused(&["-5, -6, -7, -8", "linear feeds", "convert"]);
    // LL alone: it stands for I with its own sigma, and is no missing hand.
    file.set("CRVAL3", "-2.0").set("CDELT3", "5.0");
    let (ll, s) = file.read().unwrap();
    assert_eq!((s.stokes_codes.as_slice(), s.flags.single_hand), ([-2, 3, 8, 13].as_slice(), 228));
    assert!((ll.visibilities[0].sigma_jy, ll.visibilities[0].value_jy) == (o.visibilities[0].sigma_jy, o.visibilities[0].value_jy));
    file.set("CRVAL3", "-3.0").set("CDELT3", "-7.0").refused(&["RR (-1)"]);
}

#[test]
fn reversed_baselines_are_turned() {
    let o = small_observation();
    let mut file = Patched::new(&o);
    for g in 0..120 {
        let code = file.value(g, 3) as i32;
        file.put(g, 3, (code % 256 * 256 + code / 256) as f32);
        for i in [0, 1, sample(0, 0, 1), sample(0, 1, 1), sample(1, 0, 1), sample(1, 1, 1)] {
            let value = file.value(g, i);
            file.put(g, i, -value);
        }
    }
    let (back, s) = file.read().unwrap();
    assert_same(&o, &back);
    assert_eq!(s.flags.reversed, 228);
}

#[test]
fn antennas_are_looked_up_by_number() {
    let o = small_observation();
    let mut file = Patched::new(&o);
    let (_, data, _) = file.hdu("AIPS AN");
    // Station i gets the number 40 - 3 i.
    for i in 0..5 {
        let at = data + 90 * i + 36;
        file.0[at..at + 4].copy_from_slice(&(40 - 3 * i as i32).to_be_bytes());
    }
    for g in 0..120 {
        let code = file.value(g, 3) as i32;
        let number = |a: i32| 40 - 3 * (a - 1);
        file.put(g, 3, (256 * number(code / 256) + number(code % 256)) as f32);
    }
    assert_same(&o, &file.read().unwrap().0);
    file.put(3, 3, 256.0 * 40.0 + 39.0).refused(&["group 4", "10279", "antenna 39", "28, 31, 34, 37, 40"]);
    file.put(3, 3, f32::NAN).refused(&["group 4", "antenna -1"]);
    let at = data + 36;
    file.0[at..at + 4].copy_from_slice(&37i32.to_be_bytes());
    file.refused(&["row 2", "37", "second time"]);
}

/// A second AN table for subarray 2, with other stations under the same numbers.
#[test]
fn subarrays_have_their_own_antennas() {
    let o = small_observation();
    let mut file = Patched::new(&o);
    let (start, data, end) = file.hdu("AIPS AN");
    let mut second = Patched(file.0[start..end].to_vec());
    second.set("EXTVER", "2");
    for i in 0..5 {
        second.0[data - start + 90 * i] = b'T';
    }
    file.0.extend(second.0);
    for g in 60..120 {
        let code = file.value(g, 3);
        file.put(g, 3, code + 0.01);
    }
    let (back, _) = file.read().unwrap();
    assert_eq!(
        back.stations.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        ["S0", "S1", "S2", "S3", "S4", "T0", "T1", "T2", "T3", "T4"]
    );
    assert_eq!(back.visibilities.iter().filter(|v| v.station1 >= 5 && v.station2 >= 5).count(), 114);
    let code = file.value(0, 3);
    file.put(0, 3, code + 0.02).refused(&["subarray 3", "no AN table for this subarray"]);
}

#[test]
fn foreign_names() {
    let mut file = Patched::small();
    let (_, data, _) = file.hdu("AIPS AN");
    file.0[data..data + 8].copy_from_slice(b"M\xfcnchen\0");
    file.0[data + 90..data + 98].fill(b' ');
    file.0[data + 180..data + 188].copy_from_slice(b"S3      ");
    let (o, _) = file.read().unwrap();
    // No name: its number. The same name again: with its number.
    assert_eq!(o.stations.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["M\u{fc}nchen", "#2", "S3", "S3#4", "S4"]);
    let folder = tempfile::tempdir().unwrap();
    write_uvfits(folder.path().join("x"), &o).unwrap();
    assert_eq!(read_uvfits(folder.path().join("x")).unwrap().stations[0].name, "M_nchen");
}

#[test]
fn channels_are_averaged_with_inverse_variance() {
    let mut file = Patched::small();
    // Two IFs of one channel and one IF of two channels lie in the file in the same order.
    file.set("NAXIS4", "2").set("NAXIS5", "1").set("CDELT4", "1.0E9");
    for product in [0, 1] {
        for (channel, re, weight) in [(0, 1.0, 8.0), (1, 4.0, 2.0)] {
            file.put(0, sample(channel, product, 0), re).put(0, sample(channel, product, 1), 0.0).put(
                0,
                sample(channel, product, 2),
                weight,
            );
        }
    }
    let (o, s) = file.read().unwrap();
    assert_eq!((o.bands.len(), s.channels, o.visibilities.len()), (1, 2, 120));
    assert_eq!((o.bands[0].frequency_hz, o.bands[0].bandwidth_hz), (227.6e9, 2e9));
    let v = o.visibilities[0];
    // sigma_I^2 = 1/(2 w): weights of I are 16 and 4.
    assert!((v.value_jy.re - (16.0 * 1.0 + 4.0 * 4.0) / 20.0).abs() < 1e-14 && v.value_jy.im == 0.0);
    assert!((v.sigma_jy - 1.0 / 20f64.sqrt()).abs() < 1e-15);
    // A channel that is flagged drops out of the average.
    file.put(0, sample(1, 0, 2), 0.0).put(0, sample(1, 1, 2), f32::INFINITY);
    let v = file.read().unwrap().0.visibilities[0];
    assert!(v.value_jy.re == 1.0 && (v.sigma_jy - 0.25).abs() < 1e-15);
}

#[test]
fn other_number_formats() {
    let o = small_observation();
    let file = Patched::new(&o);
    let (_, data, end) = file.hdu("");
    let values: Vec<f64> = (0..120 * GROUP).map(|i| file.value(i / GROUP, i % GROUP) as f64).collect();
    let mut wide = Patched(file.0[..data].to_vec());
    wide.set("BITPIX", "-64");
    values.iter().for_each(|v| wide.0.extend(v.to_be_bytes()));
    wide.0.resize(wide.0.len().div_ceil(2880) * 2880, 0);
    wide.0.extend(&file.0[end..]);
    assert_same(&o, &wide.read().unwrap().0);
    // 32-bit integers with BSCALE and PSCAL.
    let scales = [1e-10, 1e-10, 1.0, 1.0, 1e-8, 1e-10, 1.0, 1.0, 1.0];
    let mut whole = Patched(file.0[..data].to_vec());
    whole.set("BITPIX", "32").set("BSCALE", "1.0E-03");
    for (i, scale) in scales.iter().enumerate() {
        whole.set(&format!("PSCAL{}", i + 1), &format!("{scale:E}"));
    }
    for (i, v) in values.iter().enumerate() {
        let scale = scales.get(i % GROUP).copied().unwrap_or(1e-3);
        whole.0.extend(((v / scale).round() as i32).to_be_bytes());
    }
    whole.0.resize(whole.0.len().div_ceil(2880) * 2880, 0);
    whole.0.extend(&file.0[end..]);
    let (back, _) = whole.read().unwrap();
    assert!(
        back.visibilities
            .iter()
            .zip(&o.visibilities)
            .all(|(a, b)| (a.value_jy - b.value_jy).norm() < 1e-3 && (a.mjd - b.mjd).abs() < 2e-8)
    );
}

#[test]
fn autocorrelations_are_dropped_and_one_station_is_refused() {
    let mut file = Patched::small();
    file.put(0, 3, 257.0);
    let (o, s) = file.read().unwrap();
    assert_eq!((s.flags.rows_autocorrelation, o.visibilities.len()), (1, 226));
    (0..120).for_each(|g| {
        file.put(g, 3, 257.0);
    });
    file.refused(&["one station only", "120 of 120 groups are autocorrelations"]);
}

#[test]
fn a_scan_table_that_contradicts_the_data_is_not_used() {
    let mut file = Patched::small();
    assert_eq!(file.read().unwrap().1.scans_from, "NX table");
    let (_, data, _) = file.hdu("AIPS NX");
    // The first scan ends in the middle of the second.
    file.0[data + 28..data + 32].copy_from_slice(&60i32.to_be_bytes());
    let (o, s) = file.read().unwrap();
    assert_eq!((s.scans_from, o.scans.len()), ("gaps in time", 3));
    file.0[data + 28..data + 32].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(file.read().unwrap().1.scans_from, "gaps in time");
}

#[test]
fn damaged_files_say_what_is_wrong() {
    let good = Patched::small();
    Patched(b"not a fits file".to_vec()).refused(&["FITS"]);
    Patched(Vec::new()).refused(&["FITS"]);
    Patched(good.0[..good.0.len() / 4].to_vec()).refused(&["truncated"]);
    let (start, ..) = good.hdu("AIPS AN");
    Patched(good.0[..start].to_vec()).refused(&["AIPS AN", "names the stations"]);
    let patched = |changes: &[(&str, &str)]| {
        let mut file = Patched::small();
        for (key, value) in changes {
            file.set(key, value);
        }
        file
    };
    for absurd in ["4294967296", "9223372036854775807", "1E300", "-1", "NaN"] {
        for key in ["GCOUNT", "NAXIS2", "NAXIS5", "PCOUNT"] {
            assert!(patched(&[(key, absurd)]).read().is_err(), "{key} = {absurd}");
        }
    }
    patched(&[("GCOUNT", "121")]).refused(&["primary HDU"]);
    let mut empty = patched(&[("GCOUNT", "0")]);
    let data = good.groups();
    empty.0.drain(data..start);
    empty.refused(&["GCOUNT = 0"]);
    patched(&[("GROUPS", "F")]).refused(&["GROUPS = F", "no UVFITS"]);
    patched(&[("CTYPE3", "'WHAT'")]).refused(&["STOKES"]);
    patched(&[("PTYPE1", "'UU-L-SIN'")]).refused(&["UU-L", "seconds"]);
    patched(&[("PTYPE4", "'WHAT'")]).refused(&["BASELINE"]);
    patched(&[("PTYPE8", "'SOURCE'")]).read().unwrap();
    let mut sources = patched(&[("PTYPE8", "'SOURCE'")]);
    sources.put(9, 7, 2.0).refused(&["group 10", "source 2", "split"]);
    assert!(read_uvfits("/nowhere/at/all.uvfits").unwrap_err().to_string().contains("/nowhere/at/all.uvfits"));
    let folder = tempfile::tempdir().unwrap();
    assert!(read_uvfits(folder.path()).unwrap_err().to_string().contains("folder"));
}

/// Any damage ends in an error or in an observation, soon, and never in a panic.
#[test]
fn no_damage_panics() {
    let good = written(&small_observation());
    let header_end = Patched(good.clone()).groups();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.uvfits");
    let mut slowest = Duration::ZERO;
    let mut errors = 0usize;
    let mut attempt = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        match inspect_uvfits(&path) {
            Ok((o, _)) => {
                assert!(
                    o.visibilities
                        .iter()
                        .all(|v| v.station1 < v.station2 && v.station2 < o.stations.len() && v.band < o.bands.len())
                );
                assert!(
                    o.visibilities
                        .iter()
                        .all(|v| v.sigma_jy > 0.0 && v.value_jy.re.is_finite() && v.u_lambda.is_finite() && v.mjd.is_finite())
                );
            }
            Err(_) => errors += 1,
        }
        slowest = slowest.max(start.elapsed());
    };
    for cut in (0..good.len()).step_by(531) {
        attempt(&good[..cut]);
    }
    let mut rng = Philox::new(5).sequence(0, 0);
    // Single bytes anywhere in the headers and tables, at random; several at once; words of digits in header values.
    let words = [
        "-1",
        "0",
        "1",
        "2",
        "3",
        "255",
        "65536",
        "2147483648",
        "9223372036854775807",
        "1E308",
        "-1E308",
        "T",
        "F",
        "'IF'",
        "'AIPS AN'",
        "'999999999D'",
        "'0A'",
    ];
    for round in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + round % 3 {
            match rng.index(4) {
                0 => {
                    let at = rng.index(header_end);
                    bytes[at] = rng.next_u32() as u8;
                }
                1 => {
                    let at = rng.index(bytes.len());
                    bytes[at] ^= 1 << rng.index(8);
                }
                2 => {
                    // A value of a card of any header.
                    let cards: Vec<usize> =
                        (0..bytes.len()).step_by(80).filter(|i| bytes[*i..].get(8..10) == Some(b"= ")).collect();
                    let at = cards[rng.index(cards.len())];
                    let value = format!("{:<70}", words[rng.index(words.len())]);
                    bytes[at + 10..at + 80].copy_from_slice(value.as_bytes());
                }
                _ => {
                    let (from, length) = (rng.index(bytes.len()), rng.index(4000));
                    let to = (from + length).min(bytes.len());
                    bytes.drain(from..to);
                }
            }
        }
        attempt(&bytes);
    }
    assert!(errors > 1000, "{errors}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}
