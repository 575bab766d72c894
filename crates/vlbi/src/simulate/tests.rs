//! The simulator against closed forms, its statistics, and the u, v of real files.

use super::*;
use crate::uvfits::real_data_tests::shared;
use crate::{Array, Band, Pulse, read_uvfits, uv_m, write_uvfits};
use ndarray::Array2;
use std::f64::consts::TAU;

const UAS: f64 = crate::MICROARCSECOND_RAD;

fn schedule(hours: f64) -> Schedule {
    Schedule {
        source: "M87".into(),
        ra_deg: 187.7059307575226,
        dec_deg: 12.39112323919932,
        start_mjd: parse_start_mjd("2017-04-06T00:40").unwrap(),
        hours,
        scan_s: 240.0,
        gap_s: 600.0,
        integration_s: 10.0,
        bands: vec![Band { frequency_hz: 227.07e9, bandwidth_hz: 1.856e9 }, Band { frequency_hz: 229.07e9, bandwidth_hz: 1.856e9 }],
        elevation_min_deg: None,
    }
}

/// A lopsided blob: a Gaussian and a weaker one to the North-East.
fn blob() -> Array2<f64> {
    Array2::from_shape_fn((40, 36), |(j, i)| {
        let (l, m) = (17.5 - i as f64, j as f64 - 19.5);
        1e-3 * (-(l * l + m * m) / 40.0).exp() + 3e-4 * (-((l - 8.0).powi(2) + (m - 6.0).powi(2)) / 10.0).exp()
    })
}

fn image(pixels: &Array2<f64>) -> SourceImage<'_> {
    SourceImage { pixels_jy: pixels.view(), pixel_rad: (3.0 * UAS, 3.0 * UAS), centre_rad: (0.0, 0.0), pulse: Pulse::Triangle }
}

/// One point: V = F exp(2 pi i (u l + v m)), on odd and even grids, with and without an offset and the pulse.
#[test]
fn a_point_source_has_its_closed_form() {
    for (ny, nx, j, i, centre, pulse) in
        [(5, 8, 1, 6, (0.0, 0.0), Pulse::Delta), (8, 5, 7, 0, (30.0 * UAS, -7.0 * UAS), Pulse::Triangle)]
    {
        let mut pixels = Array2::zeros((ny, nx));
        pixels[[j, i]] = 0.7;
        let (dx, dy) = (2.0 * UAS, 3.0 * UAS);
        let source = SourceImage { pixels_jy: pixels.view(), pixel_rad: (dx, dy), centre_rad: centre, pulse };
        let l = ((nx as f64 - 1.0) / 2.0 - i as f64) * dx + centre.0;
        let m = (j as f64 - (ny as f64 - 1.0) / 2.0) * dy + centre.1;
        for (u, v) in [(0.0, 0.0), (3.1e9, -7.7e9), (-8e9, 1e8)] {
            let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * TAU / 2.0).sin() / (x * TAU / 2.0) };
            let p = if pulse == Pulse::Delta { 1.0 } else { (sinc(u * dx) * sinc(v * dy)).powi(2) };
            let expected = Complex64::from_polar(0.7 * p, TAU * (u * l + v * m));
            assert!((source.visibility(u, v) - expected).norm() < 1e-14, "{u} {v}");
        }
    }
}

/// u, v from station positions and sidereal time against the u, v of the EHT's own files.
#[test]
fn projected_baselines_are_those_of_the_files() {
    for name in [
        "m87_2017/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits",
        "m87_2017/SR1_M87_2017_095_hi_hops_netcal_StokesI.uvfits",
        "sgra_2017/ER6_SGRA_2017_096_lo_hops_netcal-LMTcal-norm_StokesI.uvfits",
    ] {
        let Some(file) = shared("projected_baselines_are_those_of_the_files", name) else { continue };
        let o = read_uvfits(file).unwrap();
        let longest = o.max_baseline_lambda();
        let mut errors: Vec<f64> = o
            .visibilities
            .iter()
            .map(|v| {
                let (a, b) = (o.stations[v.station1].position_m, o.stations[v.station2].position_m);
                let (u_m, v_m) = uv_m(a, b, o.ra_deg, o.dec_deg, v.mjd);
                let per_m = o.bands[v.band].frequency_hz / 299_792_458.0;
                (u_m * per_m - v.u_lambda).hypot(v_m * per_m - v.v_lambda) / longest
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        // Nearly all rows agree to 1e-5. A few integrations whose middle differs from their nominal time (averages of fewer seconds)
        // make the rest: 1.2e-4 at worst in these files.
        let at = |q: f64| errors[(q * (errors.len() - 1) as f64) as usize];
        assert!(at(0.5) < 1e-5 && at(0.98) < 1e-4 && at(1.0) < 1.3e-4, "{name}: {} {} {}", at(0.5), at(0.98), at(1.0));
    }
}

#[test]
fn noise_has_the_recorded_sigma() {
    let array = Array::named("eht-2017").unwrap();
    let like = schedule(8.0).observe(&array).unwrap();
    let pixels = blob();
    let (clean, _) = resimulate(&image(&pixels), &like, &Corruption::none()).unwrap();
    let noise = Corruption { noise: true, seed: 3, ..Corruption::none() };
    let (noisy, truth) = resimulate(&image(&pixels), &like, &noise).unwrap();
    assert!(truth.noise && truth.log_gain.iter().flatten().all(|g| *g == 0.0));
    // chi2 over 2N numbers has mean 2N and variance 4N; real and imaginary parts do not correlate.
    let n = clean.visibilities.len() as f64;
    let (mut chi2, mut cross) = (0.0, 0.0);
    for (a, b) in clean.visibilities.iter().zip(&noisy.visibilities) {
        let r = (b.value_jy - a.value_jy) / a.sigma_jy;
        chi2 += r.norm_sqr();
        cross += r.re * r.im;
    }
    assert!(n > 10_000.0, "{n}");
    assert!((chi2 - 2.0 * n).abs() < 3.0 * (4.0 * n).sqrt(), "{chi2} of {}", 2.0 * n);
    assert!(cross.abs() < 3.0 * n.sqrt(), "{cross}");
    // The same seed gives the same bits, another seed others; one thread gives the same as all.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| resimulate(&image(&pixels), &like, &noise)).unwrap().0, noisy);
    assert_ne!(resimulate(&image(&pixels), &like, &Corruption { seed: 4, ..noise }).unwrap().0, noisy);
}

/// Two files of one observation, made with one seed: the same station gains, but noise and phases of their own.
#[test]
fn bands_share_gains_alone() {
    let low = schedule(2.0).observe(&Array::named("eht-2017").unwrap()).unwrap();
    let mut high = low.clone();
    high.bands.iter_mut().for_each(|b| b.frequency_hz += 2e9);
    let pixels = blob();
    let made = |like: &Observation| {
        let (clean, _) = resimulate(&image(&pixels), like, &Corruption::none()).unwrap();
        let (noisy, _) = resimulate(&image(&pixels), like, &Corruption { noise: true, ..Corruption::none() }).unwrap();
        let noise: Vec<Complex64> =
            noisy.visibilities.iter().zip(&clean.visibilities).map(|(n, c)| (n.value_jy - c.value_jy) / c.sigma_jy).collect();
        (noise, Truth::draw(like, &Corruption::all(0)))
    };
    let ((low, low_truth), (high, high_truth)) = (made(&low), made(&high));
    assert_eq!(low_truth.log_gain, high_truth.log_gain);
    assert_ne!(low_truth.phase_rad, high_truth.phase_rad);
    let correlation: f64 = low.iter().zip(&high).map(|(a, b)| (a * b.conj()).re).sum::<f64>() / (2 * low.len()) as f64;
    assert!(correlation.abs() < 4.0 / (2.0 * low.len() as f64).sqrt(), "{correlation}");
}

/// Gains and phases change every visibility but no closure phase and no closure amplitude.
#[test]
fn closures_do_not_see_gains() {
    let array = Array::named("eht-2017").unwrap();
    let like = schedule(4.0).observe(&array).unwrap();
    let pixels = blob();
    let (clean, _) = resimulate(&image(&pixels), &like, &Corruption::none()).unwrap();
    let (turned, truth) = resimulate(&image(&pixels), &like, &Corruption { noise: false, ..Corruption::all(8) }).unwrap();
    let at = |o: &Observation, band: usize, mjd: f64, a: usize, b: usize| {
        o.visibilities.iter().find(|v| (v.band, v.mjd, v.station1, v.station2) == (band, mjd, a, b)).map(|v| v.value_jy)
    };
    let (mut triangles, mut moved) = (0, 0.0f64);
    for first in clean.visibilities.iter().step_by(97) {
        let (band, mjd, a, b) = (first.band, first.mjd, first.station1, first.station2);
        for c in b + 1..like.stations.len() {
            let closure = |o: &Observation| {
                let (ab, bc, ac) = (at(o, band, mjd, a, b)?, at(o, band, mjd, b, c)?, at(o, band, mjd, a, c)?);
                Some((ab * bc * ac.conj()).arg())
            };
            let (Some(x), Some(y)) = (closure(&clean), closure(&turned)) else { continue };
            assert!(((x - y + 1.5 * TAU).rem_euclid(TAU) - 0.5 * TAU).abs() < 1e-9, "{x} {y}");
            triangles += 1;
            for d in c + 1..like.stations.len() {
                let ratio = |o: &Observation| {
                    let n = |i, j| at(o, band, mjd, i, j).map(|v| v.norm().ln());
                    Some(n(a, b)? + n(c, d)? - n(a, c)? - n(b, d)?)
                };
                if let (Some(x), Some(y)) = (ratio(&clean), ratio(&turned)) {
                    assert!((x - y).abs() < 1e-9);
                }
            }
        }
        moved = moved.max((at(&turned, band, mjd, a, b).unwrap() - first.value_jy).norm() / first.value_jy.norm());
    }
    assert!(triangles > 20 && moved > 0.5, "{triangles} {moved}");
    // The truth that is kept undoes them.
    for (v, w) in clean.visibilities.iter().zip(&turned.visibilities) {
        let gain = truth.gain(v.band, scan_of(&like.scans, v.mjd), v.station1, v.station2);
        assert!((w.value_jy / gain - v.value_jy).norm() < 1e-12);
    }
}

/// Over many seeds the log-gains have their prior's variance, half of it constant; the phases are uniform.
#[test]
fn gains_follow_their_prior() {
    let like = schedule(4.0).observe(&Array::named("eht-2017").unwrap()).unwrap();
    let lm = like.stations.iter().position(|s| s.name == "LM").unwrap();
    let (mut total, mut within, mut circle, seeds) = (0.0, 0.0, Complex64::ZERO, 2000);
    for seed in 0..seeds {
        let truth = Truth::draw(&like, &Corruption::all(seed));
        let g = &truth.log_gain[lm];
        total += g[0] * g[0];
        within += 0.5 * (g[0] - g[1]).powi(2);
        circle += Complex64::from_polar(1.0, truth.phase_rad[1][lm][0]);
    }
    let (n, sigma2) = (seeds as f64, 0.22f64 * 0.22);
    let se = (2.0 / n).sqrt();
    assert!((total / n / sigma2 - 1.0).abs() < 3.0 * se, "{}", total / n);
    assert!((within / n / (SCAN_SHARE * sigma2) - 1.0).abs() < 3.0 * se, "{}", within / n);
    assert!(circle.norm() < 3.0 * n.sqrt(), "{circle}");
}

/// sigma of a schedule by hand: ALMA-APEX, 1.856 GHz, 10 s; and as the file gives it back.
#[test]
fn schedule_gives_coverage_noise_and_scans() {
    let array = Array::named("eht-2017").unwrap();
    let o = schedule(8.0).observe(&array).unwrap();
    let v = o.visibilities.iter().find(|v| (v.station1, v.station2) == (0, 1)).unwrap();
    let by_hand = (70.0f64 * 4900.0 / (2.0 * 1.856e9 * 10.0)).sqrt() / 0.88 / 2f64.sqrt();
    assert!((v.sigma_jy / by_hand - 1.0).abs() < 1e-12);
    // 8 h hold 35 scans of 240 s, one every 840 s; the South Pole never sees a northern source.
    assert_eq!(o.scans.len(), 35);
    assert!(o.scans.iter().all(|s| ((s.1 - s.0) * 86_400.0 - 240.0).abs() < 1e-3));
    let south_pole = array.stations.iter().position(|s| s.name == "SP").unwrap();
    assert!(!o.stations_with_data()[south_pole]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.uvfits");
    let pixels = blob();
    let (made, _) = resimulate(&image(&pixels), &o, &Corruption::all(1)).unwrap();
    write_uvfits(&path, &made).unwrap();
    crate::uvfits::round_trip_tests::assert_same(&made, &read_uvfits(&path).unwrap());
    // Too low everywhere, and settings that are none.
    let south = Schedule { dec_deg: -90.0, ..schedule(1.0) };
    assert!(south.observe(&Array::named("vlba").unwrap()).unwrap_err().to_string().contains("no two stations"));
    let band = |frequency_hz: f64, bandwidth_hz: f64| vec![Band { frequency_hz, bandwidth_hz }];
    // Messages name the options of `halation simulate vlbi`.
    for (schedule, expected) in [
        (Schedule { hours: f64::NAN, ..schedule(1.0) }, "found --hours NaN, expected a positive number"),
        (Schedule { scan_s: 0.0, ..schedule(1.0) }, "--scan-s 0"),
        (Schedule { integration_s: -1.0, ..schedule(1.0) }, "--integration-s -1"),
        (Schedule { gap_s: -1.0, ..schedule(1.0) }, "--gap-s -1, expected seconds, 0 or more"),
        (Schedule { bands: band(0.0, 1e9), ..schedule(1.0) }, "--frequency-ghz 0"),
        (Schedule { bands: band(2e11, -1e9), ..schedule(1.0) }, "--bandwidth-ghz -1"),
        (Schedule { bands: vec![], ..schedule(1.0) }, "--frequency-ghz"),
        (Schedule { dec_deg: 91.0, ..schedule(1.0) }, "--dec-deg 91"),
        (Schedule { start_mjd: -1.0, ..schedule(1.0) }, "--start"),
        (Schedule { integration_s: 1e-6, ..schedule(1.0) }, "at most 50000000: lengthen --integration-s"),
    ] {
        let said = schedule.observe(&array).unwrap_err().to_string();
        assert!(said.contains(expected), "{said} lacks {expected}");
    }
    assert!(parse_start_mjd("6 April").unwrap_err().to_string().contains("--start \"6 April\""));
    let empty = Array2::<f64>::zeros((4, 4));
    assert!(resimulate(&image(&empty), &o, &Corruption::none()).unwrap_err().to_string().contains("all pixels are 0"));
}
