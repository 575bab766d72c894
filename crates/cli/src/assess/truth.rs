//! An ensemble against a known truth.

use super::{Draws, features_json, median};
use crate::Unusable;
use anyhow::Context;
use halation_compute::Philox;
use halation_posterior::calibration::{coverage, coverage_beyond_all, weighted_rank_position};
use halation_posterior::{effective_draws, metrics};
use halation_vlbi::ring::{RingOptions, ring_features};
use halation_vlbi::{ImageGrid, MICROARCSECOND_RAD, align};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What is measured of the mean and of each draw.
pub(super) const SCORES: [&str; 8] = [
    "psnr_db",
    "ssim",
    "nrmse",
    "correlation",
    "correlation_20uas",
    "correlation_truth_20uas",
    "shift_east_uas",
    "shift_north_uas",
];
const LEVELS: [f64; 4] = [0.5, 0.8, 0.9, 0.95];
/// Coverage counts pixels where the posterior mean exceeds this fraction of its peak: a mask from the truth would break the calibration
/// of an exact posterior.
const MASK: f64 = 0.05;
/// The bright part of the source, of which the share of the flux is compared: where the posterior mean exceeds this fraction of its peak.
const BRIGHT: f64 = 0.5;
const BLUR_UAS: f64 = 20.0;

/// The scores of one image against the truth; both have the same total flux.
fn scores(image: &ArrayView2<f64>, truth: &ArrayView2<f64>, pixel_uas: f64) -> anyhow::Result<[f64; 8]> {
    let found = metrics::align(image, truth, true)?;
    let moved = metrics::shifted(image, found.shift_y, found.shift_x);
    let blur = BLUR_UAS / pixel_uas;
    let (image_20, truth_20) = (metrics::gaussian_blur(image, blur)?, metrics::gaussian_blur(truth, blur)?);
    Ok([
        metrics::psnr_db(&moved.view(), truth)?,
        metrics::ssim(&moved.view(), truth, None)?,
        metrics::nrmse(&moved.view(), truth)?,
        found.correlation,
        metrics::align(&image_20.view(), &truth_20.view(), true)?.correlation,
        metrics::align(image, &truth_20.view(), true)?.correlation,
        // Columns grow to the West.
        -found.shift_x * pixel_uas,
        found.shift_y * pixel_uas,
    ])
}

fn named(values: &[f64; 8]) -> Value {
    SCORES.iter().zip(values).map(|(name, v)| (name.to_string(), json!(v))).collect::<Map<_, _>>().into()
}

pub(super) fn compare(path: &Path, draws: &Draws, grid: &ImageGrid, options: &RingOptions, seed: u64) -> anyhow::Result<Value> {
    let sky = halation_io::read_fits_image(path).context(Unusable)?;
    let (ny, nx) = sky.pixels.dim();
    if ny != nx {
        return Err(
            anyhow::anyhow!("{}: is {nx} x {ny} pixels, expected a square image; crop it", path.display()).context(Unusable)
        );
    }
    let pixels: Vec<f64> = sky.pixels.iter().copied().collect();
    let truth = align::regrid(&pixels, nx, sky.pixel_rad.0, grid).context(Unusable)?;
    let truth_total: f64 = truth.iter().sum();
    if truth_total <= 0.0 {
        let message = format!(
            "{}: holds a total flux of {truth_total} Jy inside the field of the ensemble; is it the right image?",
            path.display()
        );
        return Err(anyhow::anyhow!(message).context(Unusable));
    }
    // Closure data fix neither the place nor the total flux, so neither is held against a draw.
    let aligned = align::align(grid, &draws.images)?;
    let mut mean = vec![0.0; grid.len()];
    for (image, weight) in aligned.images.iter().zip(&draws.weights) {
        for (m, v) in mean.iter_mut().zip(image) {
            *m += weight * v;
        }
    }
    let total: f64 = mean.iter().sum();
    let scaled = |image: &[f64]| -> anyhow::Result<Array2<f64>> {
        let factor = total / image.iter().sum::<f64>();
        Ok(Array2::from_shape_vec((grid.n, grid.n), image.iter().map(|v| v * factor).collect())?)
    };
    let truth_image = scaled(&truth)?;
    let pixel_uas = grid.pixel_rad() / MICROARCSECOND_RAD;
    let of_mean = scores(&scaled(&mean)?.view(), &truth_image.view(), pixel_uas)?;
    let of_draws: Vec<[f64; 8]> = draws
        .images
        .par_iter()
        .map(|image| scores(&scaled(image)?.view(), &truth_image.view(), pixel_uas))
        .collect::<anyhow::Result<_>>()?;
    let mut medians = [0.0; 8];
    for (k, m) in medians.iter_mut().enumerate() {
        *m = median(&of_draws.iter().map(|s| s[k]).collect::<Vec<_>>(), &draws.weights)?;
    }

    // The truth is brought to the mean, not to each draw: the spread of the draws around the mean is what is being tested.
    let mean_image = ArrayView2::from_shape((grid.n, grid.n), &mean)?;
    let found = metrics::align(&truth_image.view(), &mean_image, true)?;
    let placed = metrics::shifted(&truth_image.view(), found.shift_y, found.shift_x);
    let peak = mean.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
    let mut numbers = Philox::new(seed).sequence(0, 0);
    let mut positions = Vec::new();
    for (k, truth) in placed.iter().enumerate() {
        let u = numbers.uniform();
        if mean[k] > MASK * peak {
            let values: Vec<f64> = aligned.images.iter().map(|image| image[k]).collect();
            positions.push(weighted_rank_position(&values, &draws.weights, *truth, u));
        }
    }
    let bright_share = |image: &[f64]| {
        let bright: f64 = image.iter().zip(&mean).filter(|(_, m)| **m > BRIGHT * peak).map(|(v, _)| v).sum();
        bright / image.iter().sum::<f64>()
    };
    let placed: Vec<f64> = placed.iter().copied().collect();
    let features = ring_features(grid, &truth, options)?;
    Ok(json!({
        "file": path.display().to_string(),
        "flux_ratio": total / truth_total,
        "mean": named(&of_mean),
        "draws": { "median": named(&medians), "all": of_draws.iter().map(named).collect::<Vec<_>>() },
        "coverage": {
            "levels": LEVELS,
            "inside": coverage(&positions, &LEVELS),
            "inside_if_beyond_all": coverage_beyond_all(effective_draws(&draws.weights), &LEVELS),
            "pixels": positions.len(),
        },
        "bright_flux_share": {
            "truth": bright_share(&placed),
            "draws": aligned.images.iter().map(|image| bright_share(image)).collect::<Vec<_>>(),
        },
        "ring": features_json(&features)?,
    }))
}
