//! Priors and problems that several tests share.

use crate::{GaussianMixture, LinearGaussianLikelihood, Problem};
use halation_compute::Tensor;
use halation_io::{LinearProblemFile, read_linear_problem};
use halation_nn::{Denoiser, Pullback};
use halation_posterior::Axis;
use ndarray::{arr1, arr2, arr3};
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
        self.0.denoise_with_pullback(x, sigma)
    }
}
