//! A hundred simulated observations: coverage by ranks, errors of the mean, variances and chi2, of the sampler and of exact draws.

use crate::LEAST_LAMBDA;
use crate::setup::{Case, Draws, Exact, Prior, coverage, moments};
use halation_compute::Philox;
use halation_inverse::{FieldConditioning, Langevin, Solver};
use halation_posterior::calibration::{bootstrap_mean, coverage as inside, rank_position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

const OBSERVATIONS: u64 = 100;
/// Few an observation, from as many particles: what counts is the number of observations.
const DRAWS: u64 = 8;
const LEVELS: [f64; 4] = [0.5, 0.8, 0.9, 0.95];
const REPLICATES: usize = 2000;
const UNIFORM: u16 = 103;
/// Directions by lambda: the data decide, both have a say, the prior decides.
const GROUPS: [(&str, f64, f64); 3] =
    [("directions_strong", 100.0, f64::INFINITY), ("directions_middle", 1.0, 100.0), ("directions_weak", LEAST_LAMBDA, 1.0)];

/// What is kept of a group of coordinates (pixels, or directions of similar lambda) of one ensemble.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Scores {
    /// Share of true values inside the central intervals of [`LEVELS`].
    coverage: [f64; 4],
    /// Mean over coordinates of S (error of the mean / posterior sd)^2: 1 for independent exact draws.
    mean_error_squared: f64,
    /// Mean over coordinates of the error of the mean / posterior sd: 0 without bias.
    mean_error: f64,
    /// Mean over coordinates of the variance over the exact one.
    variance_ratio: f64,
}

/// What is kept of one ensemble.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ensemble {
    groups: BTreeMap<String, Scores>,
    /// Mean chi2 of the draws over its expectation under the closed form.
    chi2_ratio: f64,
    families_effective: f64,
    agree: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    sampler: Ensemble,
    exact: Ensemble,
    truth_chi2: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Figure {
    value: f64,
    /// Standard error by bootstrap over observations.
    error: f64,
}

fn scores(draws: &[Vec<f64>], truth: &[f64], exact: &[(f64, f64)], uniform: &mut dyn FnMut() -> f64) -> Scores {
    let positions: Vec<f64> = truth
        .iter()
        .enumerate()
        .map(|(i, t)| rank_position(&draws.iter().map(|x| x[i]).collect::<Vec<_>>(), *t, uniform()))
        .collect();
    let share = inside(&positions, &LEVELS);
    let (s, k) = (draws.len() as f64, exact.len() as f64);
    let moments = moments(draws, exact);
    Scores {
        coverage: std::array::from_fn(|q| share[q]),
        mean_error_squared: moments.iter().map(|(z, _)| z * z).sum::<f64>() * s / k,
        mean_error: moments.iter().map(|(z, _)| z).sum::<f64>() / k,
        variance_ratio: moments.iter().map(|(_, v)| v).sum::<f64>() / k,
    }
}

fn judge(case: &Case, conditioning: &FieldConditioning, exact: &Exact, draws: &Draws, seed: u64) -> Ensemble {
    let mut numbers = Philox::new(seed).stream(UNIFORM).sequence(0, 0);
    let mut uniform = || numbers.uniform();
    let count = exact.directions.len();
    let (along, truth) = (draws.coefficients(conditioning, count), conditioning.coefficients(&case.truth, count));
    let mut groups = BTreeMap::from([("pixels".to_string(), scores(&draws.images, &case.truth, &exact.pixels(), &mut uniform))]);
    let lambda = conditioning.signal_to_noise_squared();
    for (name, least, most) in GROUPS {
        // Largest first, so that a group is a range.
        let first = lambda.partition_point(|l| *l > most);
        let end = lambda.partition_point(|l| *l > least);
        let part: Vec<Vec<f64>> = along.iter().map(|x| x[first..end].to_vec()).collect();
        groups.insert(name.into(), scores(&part, &truth[first..end], &exact.along()[first..end], &mut uniform));
    }
    let chi2 = draws.reduced_chi2.iter().sum::<f64>() / draws.reduced_chi2.len() as f64;
    Ensemble { groups, chi2_ratio: chi2 / exact.reduced_chi2.0, families_effective: draws.families_effective(), agree: draws.agree }
}

fn figure(values: &[f64]) -> Figure {
    let mut numbers = Philox::new(0).stream(UNIFORM).sequence(1, 0);
    let (value, error) = bootstrap_mean(values, REPLICATES, &mut || numbers.uniform());
    Figure { value, error }
}

fn summary(records: &[Record], pick: impl Fn(&Record) -> &Ensemble) -> serde_json::Value {
    let of = |f: &dyn Fn(&Ensemble) -> f64| figure(&records.iter().map(|r| f(pick(r))).collect::<Vec<_>>());
    let mut out = serde_json::Map::new();
    for name in GROUPS.iter().map(|g| g.0).chain(["pixels"]) {
        let coverage: BTreeMap<String, Figure> =
            LEVELS.iter().enumerate().map(|(q, level)| (level.to_string(), of(&|e| e.groups[name].coverage[q]))).collect();
        let group = serde_json::json!({
            "coverage": coverage,
            "mean_error_squared": of(&|e| e.groups[name].mean_error_squared),
            "mean_error": of(&|e| e.groups[name].mean_error),
            "variance_ratio": of(&|e| e.groups[name].variance_ratio),
        });
        out.insert(name.into(), group);
    }
    out.insert("chi2_over_exact".into(), serde_json::json!(of(&|e| e.chi2_ratio)));
    out.insert("families_effective".into(), serde_json::json!(of(&|e| e.families_effective)));
    out.insert("populations_agree".into(), serde_json::json!(of(&|e| f64::from(u8::from(e.agree)))));
    serde_json::Value::Object(out)
}

/// Writes docs/proof/vlbi-closed-form.json. Every observation's record is kept under HALATION_PROOF (else proof-output), so that an interrupted
/// run goes on where it was.
#[test]
#[ignore = "the slow evidence: a hundred observations"]
fn coverage_of_a_hundred_observations() {
    let Some(observed) = coverage("coverage_of_a_hundred_observations") else { return };
    let tree = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let work = std::env::var_os("HALATION_PROOF")
        .map_or_else(|| tree.join("proof-output"), |p| tree.join(p))
        .join(format!("vlbi-closed-form-langevin-{DRAWS}-draws"));
    std::fs::create_dir_all(&work).unwrap();
    let prior = Prior::new();
    // One factorisation serves all: uv and sigma are the observation's own, whatever the sky.
    let conditioning = Case::simulate(&prior, &observed, 0).condition(&prior);
    let lambda = conditioning.signal_to_noise_squared();
    let count = lambda.partition_point(|l| *l > LEAST_LAMBDA);
    let solver = Langevin { population: Some(DRAWS as usize), ..Langevin::default() };
    let mut records: Vec<Record> = Vec::new();
    for seed in 1..=OBSERVATIONS {
        let path = work.join(format!("{seed:03}.json"));
        if let Ok(text) = std::fs::read_to_string(&path) {
            records.push(serde_json::from_str(&text).unwrap());
            continue;
        }
        let start = Instant::now();
        let case = Case::simulate(&prior, &observed, seed);
        let exact = case.exact(&conditioning, count);
        let judge = |draws: Draws| judge(&case, &conditioning, &exact, &draws, seed);
        let record = Record {
            sampler: judge(case.sample(&prior, &solver, DRAWS, seed)),
            exact: judge(case.sample_exactly(&prior, &conditioning, DRAWS, seed)),
            truth_chi2: case.reduced_chi2(&case.truth),
            seconds: start.elapsed().as_secs_f64(),
        };
        eprintln!("observation {seed}: {:.0} s, {:?}", record.seconds, record.sampler.groups["pixels"]);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_string(&record).unwrap()).unwrap();
        std::fs::rename(&partial, &path).unwrap();
        records.push(record);
        write_summary(&tree, &solver, lambda, &records);
    }
    write_summary(&tree, &solver, lambda, &records);
}

/// The figures of the observations that are done; how many, and of how many, is said in the file.
fn write_summary(tree: &Path, solver: &Langevin, lambda: &[f64], records: &[Record]) {
    let group = |least: f64, most: f64| lambda.iter().filter(|l| **l > least && **l <= most).count();
    let out = serde_json::json!({
        "what": "Gaussian field prior, complex visibilities, EHT coverage of M87* on 6 April 2017, both bands, 64 x 64 pixels: draws against the closed form; errors by bootstrap over observations",
        "observations": records.len(),
        "observations_planned": OBSERVATIONS,
        "draws": DRAWS,
        "solver": Solver::settings(solver).into_iter().collect::<BTreeMap<_, _>>(),
        "data": lambda.len(),
        "directions": GROUPS.map(|(name, least, most)| (name, group(least, most))).into_iter().collect::<BTreeMap<_, _>>(),
        "largest_lambda": lambda[0],
        "chi2_of_the_truth": figure(&records.iter().map(|r| r.truth_chi2).collect::<Vec<_>>()),
        "median_seconds": median(records.iter().map(|r| r.seconds).collect()),
        "langevin": summary(records, |r| &r.sampler),
        "exact draws": summary(records, |r| &r.exact),
    });
    std::fs::write(tree.join("docs/proof/vlbi-closed-form.json"), format!("{out:#}\n")).unwrap();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
