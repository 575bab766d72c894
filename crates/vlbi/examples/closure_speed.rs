//! Time of the VLBI likelihood on UVFITS files: `cargo run --example closure_speed -- LO.uvfits HI.uvfits`. Prints JSON.

use halation_compute::Tensor;
use halation_inverse::Likelihood;
use halation_lapack as _;
use halation_vlbi::{
    ImageGrid, LikelihoodSettings, MICROARCSECOND_RAD, PrepareSettings, VlbiLikelihood, prepare, read_observation,
};
use ndarray_linalg::{Cholesky, UPLO};
use std::time::Instant;

/// The least time of `repeats` calls, seconds.
fn best(repeats: usize, mut call: impl FnMut()) -> f64 {
    let one = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..repeats).map(|_| one(&mut call)).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let prepared = prepare(&read_observation(&paths)?, &PrepareSettings::default())?;
    let grid = ImageGrid::new(64, 128.0 * MICROARCSECOND_RAD)?;
    let likelihood = VlbiLikelihood::new(&prepared, grid, &LikelihoodSettings::default())?;
    let draws = 16;
    let ring = |k: usize| {
        let r = grid.l_rad(k % 64).hypot(grid.m_rad(k / 64 % 64)) / MICROARCSECOND_RAD;
        (2.0 * (-((r - 20.0) / 8.0).powi(2)).exp() - 1.0) as f32
    };
    let one = Tensor::from_vec(&[1, 1, 64, 64], (0..4096).map(ring).collect())?;
    let many = Tensor::from_vec(&[draws, 1, 64, 64], (0..draws * 4096).map(ring).collect())?;
    likelihood.neg_log_and_grad(&one)?;
    let value_and_gradient_s = best(50, || drop(likelihood.neg_log_and_grad(&one)));
    let batch_per_draw_s = best(20, || drop(likelihood.neg_log_and_grad(&many))) / draws as f64;
    let linearise_s = best(20, || drop(likelihood.residual(one.item(0))));
    let whitened = likelihood.residual(one.item(0))?.ok_or("no residual")?;
    let first_gram_s = best(1, || drop(whitened.gram()));
    let gram_s = best(10, || drop(whitened.gram()));
    let mut normal = whitened.gram();
    normal.diag_mut().iter_mut().for_each(|d| *d += 1.0);
    let cholesky_s = best(10, || drop(normal.cholesky(UPLO::Lower)));
    println!(
        "{{\"visibilities\": {}, \"residuals\": {}, \"value_and_gradient_s\": {value_and_gradient_s:.6}, \"batch_per_draw_s\": {batch_per_draw_s:.6}, \"linearise_s\": {linearise_s:.6}, \"first_gram_s\": {first_gram_s:.6}, \"gram_s\": {gram_s:.6}, \"cholesky_s\": {cholesky_s:.6}}}",
        prepared.visibilities.len(),
        likelihood.residual_len()
    );
    Ok(())
}
