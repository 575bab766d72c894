use super::*;
use crate::testing::{Opaque, golden, golden_problem, problem};
use crate::{Checkpoint, DenseOperator, GaussianMixture, LinearGaussianLikelihood};
use halation_lapack as _;

fn run(solver: &PnpDm, problem: &Problem, seed: u64, draws: u64) -> Ensemble {
    let mut state = solver.init(problem, Philox::new(seed), 0..draws).unwrap();
    while !solver.step(problem, &mut state).unwrap().done() {}
    solver.finish(problem, state).unwrap()
}

#[test]
#[ignore = "prototype"]
fn golden_scores() {
    for name in
        ["gaussian_fourier", "gmm1d", "gmm2d_ring", "gmm2d_two_modes", "gmm2d_unequal", "gmm_image_blur", "gmm_image_unequal"]
    {
        let Some(path) = golden(name) else { continue };
        let (prior, file) = golden_problem(&path);
        let operator = DenseOperator::new(file.image_shape, file.a.view()).unwrap();
        let likelihood = LinearGaussianLikelihood::new(operator, file.y.to_vec(), file.sigma.to_vec()).unwrap();
        let problem = problem(&prior, prior.range(), &likelihood);
        for seed in 0..3 {
            let t = std::time::Instant::now();
            let ensemble = run(&PnpDm::default(), &problem, seed, 256);
            eprintln!("{name} {seed} {:?} {:?}", t.elapsed(), ensemble.attributes);
            halation_posterior::write_ensemble(&ensemble, &std::path::PathBuf::from(format!("/tmp/proto/{name}-{seed}.h5")))
                .unwrap();
        }
    }
}
