//! The real coverage, the prior, an observation simulated from it, and the sampler's draws beside the closed form.

use halation_compute::{Philox, Tensor};
use halation_inverse::{
    DirectionPosterior, FieldConditioning, FieldPosterior, GaussianField, Langevin, Likelihood, Problem, Solver,
};
use halation_vlbi::simulate::{Corruption, SourceImage, resimulate};
use halation_vlbi::{
    DataProducts, FluxScale, ImageGrid, LikelihoodSettings, MICROARCSECOND_RAD, Observation, PrepareSettings, Pulse, VlbiProblem,
    prepare, read_observation,
};
use ndarray::Array2;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub const N: usize = 64;
const FOV_RAD: f64 = 128.0 * MICROARCSECOND_RAD;
/// Total flux density of the prior's mean image, Jy: the compact flux of M87* in 2017.
const FLUX_JY: f64 = 0.6;
/// The calibrated visibilities of a scan as they are. A cut in S/N or a systematic noise of the measured amplitude would make the
/// selection and the sigma functions of the data, and the problem no longer linear and Gaussian.
const AS_THEY_ARE: PrepareSettings = PrepareSettings {
    systematic: 0.0,
    min_snr: 0.0,
    same_site_m: halation_vlbi::INTRA_SITE_M,
    same_site_lambda: halation_vlbi::ZERO_BASELINE_LAMBDA,
};

/// The observation of 6 April 2017, both bands, as it was recorded; none, said on stderr, where the files are not there.
pub fn coverage(test: &str) -> Option<Observation> {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let paths =
        ["lo", "hi"].map(|band| root.join(format!("data/vlbi/m87_2017/SR1_M87_2017_096_{band}_hops_netcal_StokesI.uvfits")));
    if let Some(missing) = paths.iter().find(|p| !p.is_file()) {
        eprintln!("skipped: {test} needs {}", missing.display());
        return None;
    }
    Some(read_observation(&paths).unwrap())
}

/// The prior in the network's units z (u = (z + 1) / 2) and Jy/pixel of u.
pub struct Prior {
    pub field: GaussianField,
    pub pixel_jy: f64,
    pub grid: ImageGrid,
}

impl Prior {
    /// About a ring of 42 microarcsec with a bright South, peak u = 1: fluctuations of 0.1 in u, correlated over three pixels.
    pub fn new() -> Self {
        let grid = ImageGrid::new(N, FOV_RAD).unwrap();
        let u: Vec<f64> = (0..grid.len())
            .map(|p| {
                let [l, m] = [grid.l_rad(p % N), grid.m_rad(p / N)].map(|x| x / MICROARCSECOND_RAD);
                (-((l.hypot(m) - 21.0) / 8.0).powi(2)).exp() * (0.6 - 0.4 * m / l.hypot(m))
            })
            .collect();
        let mean = u.iter().map(|u| (2.0 * u - 1.0) as f32).collect();
        let field = GaussianField::new(N, mean, 0.2, 3.0, 2.0).unwrap();
        Self { field, pixel_jy: FLUX_JY / u.iter().sum::<f64>(), grid }
    }
}

/// Streams of random numbers beside the simulator's own.
const TRUTH: u16 = 100;
const EXACT_IMAGES: u16 = 101;
const EXACT_NOISE: u16 = 102;
/// Keeps the sampler's numbers apart from those that made the data.
const SAMPLER_SEEDS: u64 = 1_000_000;

/// A truth of the prior, what was observed of it, and the problem that this poses.
pub struct Case {
    pub truth: Vec<f64>,
    pub problem: VlbiProblem,
}

impl Case {
    /// Truth and noise of one `seed`, through the simulator and the preparation that any observation goes through.
    pub fn simulate(prior: &Prior, like: &Observation, seed: u64) -> Self {
        let truth = prior.field.sample(Philox::new(seed).stream(TRUTH), 0..1).unwrap();
        let truth: Vec<f64> = truth.data().iter().map(|v| f64::from(*v)).collect();
        let pixels_jy = Array2::from_shape_fn((N, N), |(j, i)| prior.pixel_jy * 0.5 * (truth[j * N + i] + 1.0));
        let pixel = prior.grid.pixel_rad();
        let source =
            SourceImage { pixels_jy: pixels_jy.view(), pixel_rad: (pixel, pixel), centre_rad: (0.0, 0.0), pulse: Pulse::Triangle };
        let corruption = Corruption { noise: true, seed, ..Corruption::none() };
        let (observation, _) = resimulate(&source, like, &corruption).unwrap();
        let prepared = prepare(&observation, &AS_THEY_ARE).unwrap();
        let settings = LikelihoodSettings {
            data: DataProducts::CalibratedVisibilities,
            flux: FluxScale::PixelJy(prior.pixel_jy),
            ..Default::default()
        };
        Self { truth, problem: VlbiProblem::new(&prepared, prior.grid, &settings).unwrap() }
    }

    /// The part of the closed form that all observations share.
    pub fn condition(&self, prior: &Prior) -> FieldConditioning {
        let linear = self.problem.likelihood().linear_gaussian().unwrap();
        prior.field.condition(linear.operator, linear.sigma).unwrap()
    }

    /// What the closed form says of this observation, along the first `directions` directions too.
    pub fn exact(&self, conditioning: &FieldConditioning, directions: usize) -> Exact {
        let linear = self.problem.likelihood().linear_gaussian().unwrap();
        assert_eq!(linear.sigma, conditioning.sigma(), "the noise depends on the data");
        let (mean, sd) = conditioning.chi2(linear.data).unwrap();
        let m = linear.data.len() as f64;
        Exact {
            image: conditioning.posterior(linear.data).unwrap(),
            directions: conditioning.direction_posteriors(linear.data, directions).unwrap(),
            reduced_chi2: (mean / m, sd / m),
        }
    }

    /// The solver's draws.
    pub fn sample(&self, prior: &Prior, solver: &Langevin, draws: u64, seed: u64) -> Draws {
        let (y, x) = self.problem.axes();
        let problem = Problem {
            likelihood: self.problem.likelihood(),
            prior: &prior.field,
            domain: &self.problem,
            range: [-1.0, 1.0],
            unit: self.problem.unit().into(),
            channels: vec!["Stokes I".into()],
            y,
            x,
        };
        let mut state = solver.init(&problem, Philox::new(SAMPLER_SEEDS + seed), 0..draws).unwrap();
        while !solver.step(&problem, &mut state).unwrap().done() {}
        let ensemble = solver.finish(&problem, state).unwrap();
        // Jy/pixel as a user gets them, back to z.
        let image = |image_jy: &[f32]| image_jy.iter().map(|v| 2.0 * f64::from(*v) / prior.pixel_jy - 1.0).collect();
        let chains: Vec<u64> = (0..draws).map(|i| i * ensemble.images.dim().0 as u64 / draws).collect();
        Draws {
            images: ensemble.images.as_slice().unwrap().chunks(N * N).map(image).collect(),
            reduced_chi2: ensemble.sample_stats["reduced_chi2_visibility"].values.iter().copied().collect(),
            families: ensemble.sample_stats["ancestor"].values.iter().zip(chains).map(|(a, c)| (c, *a as u64)).collect(),
            agree: ensemble.attributes["label"].contains("populations agree"),
        }
    }

    /// Independent draws from the closed form: x0 + K (y - A x0 - n) for an image x0 and noise n of the prior (Matheron's rule).
    pub fn sample_exactly(&self, prior: &Prior, conditioning: &FieldConditioning, draws: u64, seed: u64) -> Draws {
        let linear = self.problem.likelihood().linear_gaussian().unwrap();
        let mean = conditioning.posterior(linear.data).unwrap().mean;
        let before = prior.field.sample(Philox::new(seed).stream(EXACT_IMAGES), 0..draws).unwrap();
        let clean = linear.operator.apply(&before).unwrap();
        let images: Vec<Vec<f64>> = (0..draws as usize)
            .map(|i| {
                let mut noise = Philox::new(seed).stream(EXACT_NOISE).sequence(i as u64, 0);
                let data: Vec<f64> =
                    clean.item(i).iter().zip(linear.sigma).map(|(v, s)| f64::from(*v) + s * noise.normal()).collect();
                let other = conditioning.posterior(&data).unwrap().mean;
                before.item(i).iter().zip(mean.iter().zip(&other)).map(|(x, (m, o))| f64::from(*x) + m - o).collect()
            })
            .collect();
        let reduced_chi2 = images.iter().map(|z| self.reduced_chi2(z)).collect();
        Draws { images, reduced_chi2, families: (0..draws).map(|i| (0, i)).collect(), agree: true }
    }

    /// Of the visibilities, of an image in z.
    pub fn reduced_chi2(&self, z: &[f64]) -> f64 {
        let z = Tensor::from_vec(&[1, 1, N, N], z.iter().map(|v| *v as f32).collect()).unwrap();
        let likelihood = self.problem.likelihood();
        2.0 * likelihood.neg_log_and_grad(&z).unwrap().0[0] / likelihood.residual_len() as f64
    }
}

/// What the closed form says of one observation.
pub struct Exact {
    pub image: FieldPosterior,
    pub directions: Vec<DirectionPosterior>,
    /// Mean and standard deviation over posterior images.
    pub reduced_chi2: (f64, f64),
}

/// Draws in z.
pub struct Draws {
    pub images: Vec<Vec<f64>>,
    pub reduced_chi2: Vec<f64>,
    /// Chain and ancestor of every draw: draws of one family are relatives.
    pub families: Vec<(u64, u64)>,
    /// Whether the sampler says that its two populations agree.
    pub agree: bool,
}

impl Draws {
    /// The number of independent draws that these are worth if relatives were equal: S^2 / sum of squared family sizes.
    pub fn families_effective(&self) -> f64 {
        let mut sizes = BTreeMap::new();
        self.families.iter().for_each(|f| *sizes.entry(f).or_insert(0.0) += 1.0);
        (self.families.len() as f64).powi(2) / sizes.values().map(|n: &f64| n * n).sum::<f64>()
    }

    /// Coefficients along the first `count` directions, draw by draw.
    pub fn coefficients(&self, conditioning: &FieldConditioning, count: usize) -> Vec<Vec<f64>> {
        self.images.iter().map(|z| conditioning.coefficients(z, count)).collect()
    }
}

/// Error of the mean in posterior standard deviations, and variance (with S - 1) over the exact one, of every coordinate of the draws.
pub fn moments(draws: &[Vec<f64>], exact: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let s = draws.len() as f64;
    let one = |(i, (mean, sd)): (usize, &(f64, f64))| {
        let found = draws.iter().map(|x| x[i]).sum::<f64>() / s;
        let variance = draws.iter().map(|x| (x[i] - found).powi(2)).sum::<f64>() / (s - 1.0);
        ((found - mean) / sd, variance / (sd * sd))
    };
    exact.iter().enumerate().map(one).collect()
}

impl Exact {
    /// (mean, standard deviation) of every pixel.
    pub fn pixels(&self) -> Vec<(f64, f64)> {
        self.image.mean.iter().zip(&self.image.variance).map(|(m, v)| (*m, v.sqrt())).collect()
    }

    /// (mean, standard deviation) along every direction.
    pub fn along(&self) -> Vec<(f64, f64)> {
        self.directions.iter().map(|d| (d.mean, d.sd)).collect()
    }
}
