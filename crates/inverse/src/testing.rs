//! Priors and problems that several tests share.

use crate::{DenseOperator, GaussianMixture, LinearGaussianLikelihood, MixturePosterior, Problem, Solver};
use halation_compute::{Philox, Tensor};
use halation_io::{LinearProblemFile, read_linear_problem};
use halation_nn::{Denoiser, Pullback};
use halation_posterior::{Axis, Ensemble};
use ndarray::{Array2, arr1, arr2, arr3};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The folder of a golden closed-form problem, or none (said on stderr) where the shared files are not there.
pub(crate) fn golden(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let path = root.join("golden/exact").join(name);
    if path.join("exact.h5").is_file() {
        return Some(path);
    }
    eprintln!("skipped: {name} needs golden/exact/{name}/exact.h5");
    None
}

pub(crate) fn golden_problem(path: &Path) -> (GaussianMixture, LinearProblemFile) {
    (GaussianMixture::read(&path.join("prior.safetensors")).unwrap(), read_linear_problem(&path.join("problem.h5")).unwrap())
}

/// The Gaussian of fixture G1.
pub(crate) fn g1() -> GaussianMixture {
    let covariance = arr3(&[[[1.0, 0.6], [0.6, 0.8]]]);
    GaussianMixture::new([1, 1, 2], arr1(&[1.0]).view(), arr2(&[[0.3, -0.2]]).view(), covariance.view()).unwrap()
}

/// The three components of fixture G2.
pub(crate) fn g2() -> GaussianMixture {
    let covariances = arr3(&[[[0.10, 0.03], [0.03, 0.05]], [[0.06, -0.02], [-0.02, 0.09]], [[0.08, 0.0], [0.0, 0.08]]]);
    let means = arr2(&[[-1.2, 0.6], [1.0, 1.0], [0.4, -1.4]]);
    GaussianMixture::new([1, 1, 2], arr1(&[0.5, 0.3, 0.2]).view(), means.view(), covariances.view()).unwrap()
}

pub(crate) fn axis(name: &str, n: usize) -> Axis {
    Axis { name: name.into(), unit: "pixel".into(), values: (0..n).map(|i| i as f64).collect() }
}

pub(crate) fn problem<'a>(prior: &'a dyn Denoiser, range: [f64; 2], likelihood: &'a LinearGaussianLikelihood) -> Problem<'a> {
    let [c, y, x] = prior.item_shape();
    Problem {
        likelihood,
        prior,
        domain: likelihood,
        range,
        unit: String::new(),
        channels: (0..c).map(|i| i.to_string()).collect(),
        y: axis("y", y),
        x: axis("x", x),
    }
}

/// Pullbacks of parts of a batch, with the draws of each.
struct Pieces<'a>(Vec<(Vec<usize>, Box<dyn Pullback + 'a>)>);

impl Pullback for Pieces<'_> {
    fn vjp(&self, v: &Tensor) -> halation_nn::Result<Tensor> {
        let parts: Vec<Tensor> = self.0.iter().map(|(index, p)| p.vjp(&v.select(index)?)).collect::<halation_nn::Result<_>>()?;
        Ok(Tensor::concat_draws(&parts)?)
    }
}

/// A denoiser of which nothing but the trait is seen.
pub(crate) struct Opaque<'a>(pub &'a dyn Denoiser);

impl Denoiser for Opaque<'_> {
    fn item_shape(&self) -> [usize; 3] {
        self.0.item_shape()
    }
    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<Tensor> {
        // In pieces of another size than the solver asks for: a draw must not know its batch.
        let mut parts = Vec::new();
        for start in (0..sigma.len()).step_by(3) {
            let index: Vec<usize> = (start..sigma.len().min(start + 3)).collect();
            parts.push(self.0.denoise(&x.select(&index)?, &sigma[start..start + index.len()])?);
        }
        Ok(Tensor::concat_draws(&parts)?)
    }
    fn denoise_with_pullback<'b>(&'b self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<(Tensor, Box<dyn Pullback + 'b>)> {
        let mut parts = Vec::new();
        let mut pullbacks = Vec::new();
        for start in (0..sigma.len()).step_by(3) {
            let index: Vec<usize> = (start..sigma.len().min(start + 3)).collect();
            let (part, pullback) = self.0.denoise_with_pullback(&x.select(&index)?, &sigma[start..start + index.len()])?;
            parts.push(part);
            pullbacks.push((index, pullback));
        }
        Ok((Tensor::concat_draws(&parts)?, Box::new(Pieces(pullbacks))))
    }
}

pub(crate) fn likelihood(a: &Array2<f64>, y: &[f64], sigma: f64) -> LinearGaussianLikelihood {
    let operator = DenseOperator::new([1, 1, a.ncols()], a.view()).unwrap();
    LinearGaussianLikelihood::new(operator, y.to_vec(), vec![sigma; y.len()]).unwrap()
}

/// All steps of `solver`.
pub(crate) fn run<S: Solver>(solver: &S, problem: &Problem, seed: u64, draws: Range<u64>) -> Ensemble {
    let mut state = solver.init(problem, Philox::new(seed), draws).unwrap();
    while !solver.step(problem, &mut state).unwrap().done() {}
    solver.finish(problem, state).unwrap()
}

pub(crate) fn rows(ensemble: &Ensemble) -> Vec<Vec<f64>> {
    let d = ensemble.images.len() / ensemble.draws();
    let flat: Vec<f64> = ensemble.images.iter().map(|v| *v as f64).collect();
    flat.chunks(d).map(<[f64]>::to_vec).collect()
}

pub(crate) fn mean_and_covariance(x: &[Vec<f64>]) -> (Vec<f64>, Array2<f64>) {
    let (n, d) = (x.len() as f64, x[0].len());
    let mean: Vec<f64> = (0..d).map(|i| x.iter().map(|x| x[i]).sum::<f64>() / n).collect();
    let covariance = Array2::from_shape_fn((d, d), |(i, j)| x.iter().map(|x| (x[i] - mean[i]) * (x[j] - mean[j])).sum::<f64>() / n);
    (mean, covariance)
}

/// Standard errors are those of `effective` independent draws; four of them for means, five for variances (relative error sqrt(2/n)).
pub(crate) fn check_moments(ensemble: &Ensemble, exact: &MixturePosterior, effective: f64, what: &str) {
    let (mean, covariance) = mean_and_covariance(&rows(ensemble));
    let expected = exact.covariance();
    for i in 0..mean.len() {
        let sd = expected[(i, i)].sqrt();
        let error = (mean[i] - exact.mean()[i]).abs() / sd;
        assert!(error < 4.0 / effective.sqrt(), "{what}: mean of pixel {i} off by {error} standard deviations");
        let ratio = covariance[(i, i)] / expected[(i, i)];
        assert!((ratio - 1.0).abs() < 5.0 * (2.0 / effective).sqrt(), "{what}: variance of pixel {i} {ratio} times the exact one");
    }
}

/// The whitened residual of a linear problem without its linearity: what a closure likelihood looks like to the solver.
pub(crate) struct Curved<'a>(pub &'a LinearGaussianLikelihood);

impl crate::Likelihood for Curved<'_> {
    fn item_shape(&self) -> [usize; 3] {
        crate::Likelihood::item_shape(self.0)
    }
    fn neg_log_and_grad(&self, x: &Tensor) -> crate::Result<(Vec<f64>, Tensor)> {
        self.0.neg_log_and_grad(x)
    }
    fn residual(&self, x: &[f32]) -> crate::Result<Option<Box<dyn crate::Whitened + '_>>> {
        self.0.residual(x)
    }
}
