use crate::testing::{crescent, grid, observe, tracks};
use crate::{
    DataProducts, FluxScale, GainPrior, LikelihoodSettings, Observation, PrepareSettings, Prepared, PriorUnits, Pulse,
    VlbiLikelihood, prepare,
};
use halation_compute::{Philox, Tensor};
use halation_inverse::Likelihood;
use num_complex::Complex64;
use std::collections::BTreeMap;

const N: usize = 24;

/// Every data product with every flux scale that it can use.
fn all_settings() -> Vec<LikelihoodSettings> {
    use DataProducts::*;
    use FluxScale::*;
    [
        (Closures, Free),
        (Closures, TotalJy(0.6)),
        (AmplitudesAndClosures, Free),
        (AmplitudesAndClosures, TotalJy(60.0)),
        (Visibilities, PixelJy(1.1)),
        (CalibratedVisibilities, TotalJy(60.0)),
        (CalibratedVisibilities, PixelJy(1.1)),
    ]
    .map(|(data, flux)| LikelihoodSettings { data, flux, ..Default::default() })
    .to_vec()
}

fn thermal_only() -> PrepareSettings {
    PrepareSettings { systematic: 0.0, ..Default::default() }
}

fn observed(stations: usize, bands: usize, scans: usize, snr: f64, seed: u64) -> Observation {
    let mut o = tracks(stations, bands, scans);
    observe(&mut o, grid(N), &crescent(grid(N)), snr, seed);
    o
}

fn prepared(snr: f64, seed: u64) -> Prepared {
    prepare(&observed(6, 2, 3, snr, seed), &thermal_only()).unwrap()
}

/// A positive image that is not the truth, in the prior's units.
fn some_image(seed: u64) -> Vec<f32> {
    let mut random = Philox::new(seed).sequence(7, 0);
    crescent(grid(N)).into_iter().map(|u| (2.0 * (0.8 * u + 0.15 * random.uniform()) - 1.0) as f32).collect()
}

fn value(l: &VlbiLikelihood, z: &[f32]) -> f64 {
    l.neg_log_and_grad(&Tensor::from_vec(&[1, 1, N, N], z.to_vec()).unwrap()).unwrap().0[0]
}

#[test]
fn gradient_is_the_finite_difference_and_the_residual_its_square_root() {
    let p = prepared(20.0, 1);
    for settings in all_settings() {
        let l = VlbiLikelihood::new(&p, grid(N), &settings).unwrap();
        let z = some_image(3);
        let (values, gradient) = l.neg_log_and_grad(&Tensor::from_vec(&[1, 1, N, N], z.clone()).unwrap()).unwrap();
        let whitened = l.residual(&z).unwrap().unwrap();
        let half_square = 0.5 * whitened.value().iter().map(|r| r * r).sum::<f64>();
        assert!((values[0] - half_square).abs() <= 1e-12 * half_square, "{settings:?}");
        let vjp = whitened.vjp(whitened.value());
        let norm = vjp.iter().map(|g| g * g).sum::<f64>().sqrt();
        for (a, b) in vjp.iter().zip(gradient.data()) {
            assert!((a - *b as f64).abs() <= 1e-6 * norm);
        }
        for seed in 0..3 {
            let mut random = Philox::new(seed).sequence(8, 0);
            // Steps that f32 holds exactly, so that the difference quotient is that of f64 numbers.
            let direction: Vec<f32> = (0..N * N).map(|_| if random.uniform() < 0.5 { 1.0 } else { -1.0 }).collect();
            let slope: f64 = vjp.iter().zip(&direction).map(|(g, d)| g * *d as f64).sum();
            let at = |h: f32| {
                let moved: Vec<f32> = z.iter().zip(&direction).map(|(z, d)| (z * 1024.0).round() / 1024.0 + h * d).collect();
                value(&l, &moved)
            };
            let base: Vec<f32> = z.iter().map(|z| (z * 1024.0).round() / 1024.0).collect();
            let vjp_base = l.residual(&base).unwrap().map(|w| w.vjp(w.value())).unwrap();
            let slope_base: f64 = vjp_base.iter().zip(&direction).map(|(g, d)| g * *d as f64).sum();
            // Central difference of fourth order.
            let h = 2f32.powi(-14);
            let quotient = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h as f64);
            assert!(
                (quotient - slope_base).abs() < 1e-5 * (slope_base.abs() + norm),
                "{settings:?}: {quotient} {slope_base} {slope}"
            );
        }
    }
}

#[test]
fn jvp_vjp_and_gram_are_one_jacobian() {
    let p = prepared(20.0, 2);
    for settings in all_settings() {
        let l = VlbiLikelihood::new(&p, grid(N), &settings).unwrap();
        let w = l.residual(&some_image(4)).unwrap().unwrap();
        let rows = w.value().len();
        assert_eq!(rows, l.residual_len());
        // The explicit Jacobian, column by column from jvp.
        let columns: Vec<Vec<f64>> = (0..N * N)
            .map(|k| {
                let mut unit = vec![0.0; N * N];
                unit[k] = 1.0;
                w.jvp(&unit)
            })
            .collect();
        let gram = w.gram();
        assert_eq!(gram.dim(), (rows, rows));
        let largest = gram.diag().iter().copied().fold(0.0, f64::max);
        for a in 0..rows {
            for b in 0..rows {
                let direct: f64 = columns.iter().map(|c| c[a] * c[b]).sum();
                assert!((gram[[a, b]] - direct).abs() < 1e-10 * largest, "{settings:?} {a} {b}: {} {direct}", gram[[a, b]]);
            }
        }
        let mut random = Philox::new(5).sequence(0, 0);
        let cotangent: Vec<f64> = (0..rows).map(|_| random.normal()).collect();
        let pulled = w.vjp(&cotangent);
        let scale = pulled.iter().map(|x| x.abs()).fold(0.0, f64::max);
        for (column, pulled) in columns.iter().zip(&pulled) {
            let direct: f64 = column.iter().zip(&cotangent).map(|(a, b)| a * b).sum();
            assert!((direct - pulled).abs() < 1e-11 * scale.max(1.0), "{settings:?}: {direct} {pulled}");
        }
    }
}

/// Gains of any size and phases at each station change nothing in closures; sigma scales with the amplitude.
#[test]
fn closures_do_not_see_station_gains_and_phases() {
    let mut o = observed(6, 2, 3, 20.0, 3);
    let before = prepare(&o, &thermal_only()).unwrap();
    let mut random = Philox::new(11).sequence(0, 0);
    let mut gains = BTreeMap::new();
    for v in &mut o.visibilities {
        let scan = (v.mjd * 50.0).round() as i64;
        let mut gain = |s: usize| {
            *gains
                .entry((s, v.band, scan))
                .or_insert_with(|| Complex64::from_polar(random.log_range(0.2, 5.0), random.range(-3.1, 3.1)))
        };
        let g = gain(v.station1) * gain(v.station2).conj();
        v.value_jy *= g;
        v.sigma_jy *= g.norm();
    }
    let after = prepare(&o, &thermal_only()).unwrap();
    let settings = LikelihoodSettings::default();
    let [a, b] = [before, after].map(|p| value(&VlbiLikelihood::new(&p, grid(N), &settings).unwrap(), &some_image(6)));
    assert!((a - b).abs() < 1e-9 * a, "{a} {b}");
}

/// The order of the stations in the list is a name, not a fact.
#[test]
fn the_order_of_stations_does_not_matter() {
    let o = observed(6, 1, 3, 200.0, 4);
    let order = [3, 5, 0, 4, 1, 2];
    let mut permuted = o.clone();
    for (old, &new) in order.iter().enumerate() {
        permuted.stations[new] = o.stations[old].clone();
    }
    for v in &mut permuted.visibilities {
        (v.station1, v.station2) = (order[v.station1], order[v.station2]);
    }
    for settings in all_settings() {
        let [a, b] = [&o, &permuted].map(|o| {
            let l = VlbiLikelihood::new(&prepare(o, &thermal_only()).unwrap(), grid(N), &settings).unwrap();
            // Near the truth, where no closure phase wraps: a wrap depends on the basis, the quadratic form does not.
            let z: Vec<f32> = crescent(grid(N)).into_iter().map(|u| (2.0 * u - 1.0) as f32).collect();
            value(&l, &z)
        });
        assert!((a - b).abs() < 1e-8 * a, "{settings:?}: {a} {b}");
    }
}

/// Noise of known size around the truth: the reduced chi2 has mean 1. At S/N 30 the second order of the polar approximation is
/// of size 1/S/N^2 = 1e-3; the sampling error of the mean is sqrt(2 / data).
#[test]
fn noise_alone_gives_a_reduced_chi2_of_one() {
    let realisations = 60;
    for settings in all_settings() {
        // Marginalised gains of zero width: the simulated data have none.
        let gains = GainPrior { by_station: BTreeMap::new(), default: 0.0 };
        let flux = match settings.flux {
            FluxScale::PixelJy(_) => FluxScale::PixelJy(1.0),
            FluxScale::TotalJy(_) => FluxScale::TotalJy(crescent(grid(N)).iter().sum()),
            FluxScale::Free => FluxScale::Free,
        };
        let settings = LikelihoodSettings { gains, flux, ..settings };
        let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for seed in 0..realisations {
            let l = VlbiLikelihood::new(&prepared(30.0, 1000 + seed), grid(N), &settings).unwrap();
            for chi2 in l.chi2(&crescent(grid(N))) {
                let sum = sums.entry(chi2.product).or_default();
                sum.0 += chi2.whitened * chi2.independent as f64;
                sum.1 += chi2.independent;
            }
        }
        assert!(!sums.is_empty());
        for (product, (sum, count)) in sums {
            let error = (2.0 / count as f64).sqrt();
            let mean = sum / count as f64;
            assert!((mean - 1.0).abs() < 4.0 * error + 3e-3, "{settings:?} {product}: {mean} +- {error}");
        }
    }
}

/// Wide gain priors leave only what closures know. With S = s^2 the difference of the quadratic forms is of order
/// |d|^2 / s^2 with d the log-amplitude residual, and the limit is approached with that power until rounding, of order
/// epsilon s^2 S/N^2, shows (s = 300 is there).
#[test]
fn wide_gains_reproduce_closure_amplitudes() {
    let p = prepared(20.0, 6);
    let z = some_image(9);
    let closures = value(&VlbiLikelihood::new(&p, grid(N), &LikelihoodSettings::default()).unwrap(), &z);
    let with = |default: f64, flux: FluxScale| {
        let gains = GainPrior { by_station: BTreeMap::new(), default };
        let settings = LikelihoodSettings { data: DataProducts::AmplitudesAndClosures, flux, gains, ..Default::default() };
        value(&VlbiLikelihood::new(&p, grid(N), &settings).unwrap(), &z)
    };
    for flux in [FluxScale::Free, FluxScale::PixelJy(1.0)] {
        let excess: Vec<f64> = [3.0, 30.0].iter().map(|&s| with(s, flux) - closures).collect();
        assert!(excess[0] > 0.0 && (excess[0] / excess[1] - 100.0).abs() < 1.0, "{excess:?}");
        assert!(excess[1] < 1e-4 * closures, "{excess:?} {closures}");
        assert!(with(0.1, flux) > closures + 1.0, "narrow gains must add information");
    }
}

/// D + G S G^T against gains marginalised by brute force: sampled covariance of ln|V| with gains drawn from the prior.
#[test]
fn marginal_gains_have_the_covariance_of_sampled_gains() {
    let p = prepare(&observed(4, 1, 1, 20.0, 7), &thermal_only()).unwrap();
    let by_station = [("S0", 0.1), ("S2", 0.3)].map(|(n, s)| (n.to_string(), s)).into_iter().collect();
    let gains = GainPrior { by_station, default: 0.05 };
    let flux = FluxScale::PixelJy(1.0);
    let settings = LikelihoodSettings { data: DataProducts::AmplitudesAndClosures, flux, gains, ..Default::default() };
    // r is white for data drawn with gains and noise: its mean square per row is 1.
    let mut random = Philox::new(21).sequence(0, 0);
    let (draws, mut sum, mut count) = (4000, 0.0, 0);
    let z: Vec<f32> = crescent(grid(N)).into_iter().map(|u| (2.0 * u - 1.0) as f32).collect();
    let truth = VlbiLikelihood::new(&p, grid(N), &settings).unwrap().predict(&PriorUnits::default().image(&z)).visibilities_jy;
    for _ in 0..draws {
        let mut data = p.clone();
        let g: Vec<f64> = p.stations.iter().map(|s| settings.gains.sigma(&s.name) * random.normal()).collect();
        for (v, t) in data.visibilities.iter_mut().zip(&truth) {
            // Noise of ln|V| itself, so that the only approximation left is none; sigma/|V| stays what the covariance uses.
            let amplitude = t.norm() * (g[v.station1] + g[v.station2] + random.normal() / v.snr()).exp();
            v.sigma_jy = amplitude / v.snr();
            v.value_jy = Complex64::from_polar(amplitude, t.arg());
        }
        for chi2 in VlbiLikelihood::new(&data, grid(N), &settings).unwrap().chi2(&PriorUnits::default().image(&z)) {
            if chi2.product == "log_amplitude" {
                sum += chi2.whitened * chi2.independent as f64;
                count += chi2.independent;
            }
        }
    }
    let mean = sum / count as f64;
    assert!((mean - 1.0).abs() < 4.0 * (2.0 / count as f64).sqrt(), "{mean} of {count}");
}

/// The marginalised flux scale comes back with its least-squares value, to the accuracy of 90 amplitudes at S/N 200.
#[test]
fn a_free_flux_is_estimated() {
    let p = prepared(200.0, 14);
    for data in [DataProducts::AmplitudesAndClosures, DataProducts::Closures] {
        let gains = GainPrior { by_station: BTreeMap::new(), default: 0.0 };
        let l = VlbiLikelihood::new(&p, grid(N), &LikelihoodSettings { data, gains, ..Default::default() }).unwrap();
        let dimmed: Vec<f64> = crescent(grid(N)).into_iter().map(|u| u / 7.0).collect();
        let prediction = l.predict(&dimmed);
        let error = 1.0 / (200.0 * (p.visibilities.len() as f64).sqrt());
        assert!((prediction.log_scale - 7f64.ln()).abs() < 4.0 * error, "{}", prediction.log_scale);
        let rms =
            prediction.visibilities_jy.iter().zip(&p.visibilities).map(|(m, v)| (m - v.value_jy).norm_sqr() / v.sigma_jy.powi(2));
        let mean = rms.sum::<f64>() / (2.0 * p.visibilities.len() as f64);
        assert!((mean - 1.0).abs() < 0.35, "{mean}");
    }
}

#[test]
fn the_linear_gaussian_view_is_the_same_likelihood() {
    let p = prepared(20.0, 8);
    let settings =
        LikelihoodSettings { data: DataProducts::CalibratedVisibilities, flux: FluxScale::PixelJy(0.7), ..Default::default() };
    let l = VlbiLikelihood::new(&p, grid(N), &settings).unwrap();
    let z = Tensor::from_vec(&[1, 1, N, N], some_image(1)).unwrap();
    let g = l.linear_gaussian().unwrap();
    let model = g.operator.apply(&z).unwrap();
    let half_square: f64 = (0..g.data.len()).map(|k| 0.5 * ((g.data[k] - model.data()[k] as f64) / g.sigma[k]).powi(2)).sum();
    let (values, gradient) = l.neg_log_and_grad(&z).unwrap();
    // The operator hands f32 over: relative error 2^-24 of |V| / sigma = 20 and more per datum.
    assert!((half_square / values[0] - 1.0).abs() < 1e-5, "{half_square} {}", values[0]);
    let weighted: Vec<f32> =
        (0..g.data.len()).map(|k| ((model.data()[k] as f64 - g.data[k]) / g.sigma[k].powi(2)) as f32).collect();
    let adjoint = g.operator.adjoint(&Tensor::from_vec(&[1, g.data.len()], weighted).unwrap()).unwrap();
    let norm = gradient.data().iter().map(|x| x * x).sum::<f32>().sqrt();
    for (a, b) in adjoint.data().iter().zip(gradient.data()) {
        assert!((a - b).abs() < 1e-5 * norm, "{a} {b}");
    }
    assert!(VlbiLikelihood::new(&p, grid(N), &LikelihoodSettings::default()).unwrap().linear_gaussian().is_none());
}

#[test]
fn draws_do_not_depend_on_their_batch() {
    let l = VlbiLikelihood::new(&prepared(20.0, 9), grid(N), &LikelihoodSettings::default()).unwrap();
    let images: Vec<Vec<f32>> = (0..5).map(some_image).collect();
    let batch = Tensor::from_vec(&[5, 1, N, N], images.concat()).unwrap();
    let (values, gradient) = l.neg_log_and_grad(&batch).unwrap();
    for (k, image) in images.iter().enumerate() {
        let (one, g) = l.neg_log_and_grad(&Tensor::from_vec(&[1, 1, N, N], image.clone()).unwrap()).unwrap();
        assert_eq!((one[0].to_bits(), g.data()), (values[k].to_bits(), gradient.item(k)));
    }
}

#[test]
fn extreme_images_and_unusable_settings() {
    let p = prepared(20.0, 10);
    for settings in all_settings() {
        let l = VlbiLikelihood::new(&p, grid(N), &settings).unwrap();
        // u = 0 everywhere, and a negative sum: improbable, not undefined.
        for z in [-1.0f32, -3.0] {
            let (v, g) = l.neg_log_and_grad(&Tensor::from_vec(&[1, 1, N, N], vec![z; N * N]).unwrap()).unwrap();
            assert!(v[0].is_finite() && g.data().iter().all(|x| x.is_finite()), "{settings:?}");
        }
        assert!(l.neg_log_and_grad(&Tensor::from_vec(&[1, 1, N, N], vec![f32::NAN; N * N]).unwrap()).is_err());
        assert!(l.neg_log_and_grad(&Tensor::zeros(&[1, 1, N, N + 1])).is_err());
        assert!(l.residual(&[0.0; 4]).is_err());
    }
    let message = |p: &Prepared, s: LikelihoodSettings| VlbiLikelihood::new(p, grid(N), &s).err().unwrap().to_string();
    let calibrated = LikelihoodSettings { data: DataProducts::CalibratedVisibilities, ..Default::default() };
    assert!(message(&p, calibrated).contains("--flux"));
    assert!(message(&p, LikelihoodSettings { flux: FluxScale::TotalJy(-1.0), ..Default::default() }).contains("flux scale"));
    let two = prepare(&observed(2, 1, 2, 20.0, 1), &thermal_only()).unwrap();
    assert!(message(&two, LikelihoodSettings::default()).contains("at most 2 stations"));
    let three = prepare(&observed(3, 1, 2, 20.0, 1), &thermal_only()).unwrap();
    let l = VlbiLikelihood::new(&three, grid(N), &LikelihoodSettings::default()).unwrap();
    assert_eq!(l.chi2(&crescent(grid(N))).iter().map(|c| c.product).collect::<Vec<_>>(), ["closure_phase"]);
}

#[test]
fn position_and_flux_are_free_in_closures_alone() {
    let p = prepared(20.0, 12);
    let l = VlbiLikelihood::new(&p, grid(N), &LikelihoodSettings { pulse: Pulse::Delta, ..Default::default() }).unwrap();
    let image = crescent(grid(N));
    // One pixel to the East is one column less.
    let shifted: Vec<f64> = (0..N * N).map(|k| if k % N == N - 1 { 0.0 } else { 3.0 * image[k + 1] }).collect();
    let edge: f64 = (0..N).map(|j| image[j * N]).sum();
    assert!(edge < 1e-9, "the source must not touch the edge");
    let [a, b] = [&image, &shifted].map(|i| l.chi2(i)[0].whitened);
    assert!((a - b).abs() < 1e-6 * a, "{a} {b}");
    let turned: Vec<f64> = image.iter().rev().copied().collect();
    assert!(l.chi2(&turned)[0].whitened > 50.0, "the image turned by 180 degrees must not fit");
}
