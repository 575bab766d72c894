//! Small observations for the tests of this crate.

use crate::{Band, ImageGrid, MICROARCSECOND_RAD, Observation, Station, Visibility};
use halation_compute::Philox;
use num_complex::Complex64;
use std::f64::consts::TAU;

pub(crate) fn observation(stations: usize, bands: usize) -> Observation {
    let station = |k: usize| {
        let angle = 2.4 * k as f64;
        let z = 4e6 * (0.7 * k as f64).sin();
        Station { name: format!("S{k}"), position_m: [5e6 * angle.cos(), 5e6 * angle.sin(), z], sefd_jy: None }
    };
    Observation {
        source: "TEST".to_string(),
        ra_deg: 187.7,
        dec_deg: 12.39,
        stations: (0..stations).map(station).collect(),
        bands: (0..bands).map(|b| Band { frequency_hz: 227e9 + 2e9 * b as f64, bandwidth_hz: 1.856e9 }).collect(),
        visibilities: Vec::new(),
        scans: Vec::new(),
        rows: 0,
    }
}

pub(crate) fn visibility(
    mjd: f64,
    station1: usize,
    station2: usize,
    band: usize,
    value: (f64, f64),
    uv: (f64, f64),
    sigma_jy: f64,
) -> Visibility {
    let value_jy = Complex64::new(value.0, value.1);
    Visibility { mjd, integration_s: 10.0, station1, station2, u_lambda: uv.0, v_lambda: uv.1, band, value_jy, sigma_jy }
}

pub(crate) fn grid(n: usize) -> ImageGrid {
    ImageGrid { n, fov_rad: 128.0 * MICROARCSECOND_RAD }
}

/// A crescent of 42 microarcseconds with a bright South, u in [0, 1].
pub(crate) fn crescent(grid: ImageGrid) -> Vec<f64> {
    let mut image: Vec<f64> = (0..grid.len())
        .map(|k| {
            let [l, m] = [grid.l_rad(k % grid.n), grid.m_rad(k / grid.n)].map(|x| x / MICROARCSECOND_RAD);
            let ring = (-((l.hypot(m) - 21.0) / 7.0).powi(2)).exp();
            ring * (1.0 - 0.5 * m / 21.0 + 0.2 * l / 21.0).clamp(0.1, 2.0)
        })
        .collect();
    let peak = image.iter().copied().fold(0.0, f64::max);
    image.iter_mut().for_each(|v| *v /= peak);
    image
}

/// Earth-rotation tracks of all pairs of `stations` stations in `scans` scans, with zero visibilities and sigma 1 Jy.
pub(crate) fn tracks(stations: usize, bands: usize, scans: usize) -> Observation {
    let mut o = observation(stations, bands);
    for scan in 0..scans {
        let mjd = 57849.0 + 0.02 * scan as f64;
        let turn = TAU * 0.02 * scan as f64;
        for band in 0..bands {
            let wavelength_m = 299_792_458.0 / o.bands[band].frequency_hz;
            let project = |k: usize| {
                let p = o.stations[k].position_m;
                let (s, c) = turn.sin_cos();
                let (x, y) = (c * p[0] + s * p[1], -s * p[0] + c * p[1]);
                (y / wavelength_m, (0.95 * p[2] - 0.3 * x) / wavelength_m)
            };
            for a in 0..stations {
                for b in a + 1..stations {
                    let (pa, pb) = (project(a), project(b));
                    o.visibilities.push(visibility(mjd, a, b, band, (0.0, 0.0), (pa.0 - pb.0, pa.1 - pb.1), 1.0));
                }
            }
        }
        o.scans.push((mjd - 1e-4, mjd + 1e-4));
    }
    o.rows = o.visibilities.len();
    o
}

/// Fills in the visibilities of an image with noise at a given S/N of every visibility.
pub(crate) fn observe(o: &mut Observation, grid: ImageGrid, image: &[f64], snr: f64, seed: u64) {
    let fourier = crate::Fourier::of(grid, &o.visibilities, crate::Pulse::Triangle);
    let (re, im) = fourier.forward(image);
    let mut random = Philox::new(seed).sequence(0, 0);
    for (k, v) in o.visibilities.iter_mut().enumerate() {
        v.value_jy = Complex64::new(re[k], im[k]);
        v.sigma_jy = v.value_jy.norm() / snr;
        v.value_jy += v.sigma_jy * Complex64::new(random.normal(), random.normal());
    }
}
