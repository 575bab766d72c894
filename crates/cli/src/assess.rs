use crate::{Outcome, Unusable, units};
use anyhow::Context;
use halation_posterior::{Ensemble, effective_draws, lower_level, metrics, quantiles, read_ensemble};
use halation_vlbi::ImageGrid;
use halation_vlbi::ring::{RingFeatures, RingOptions, ring_features};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

mod truth;

/// Fit, ring features and, with a truth, image metrics and coverage of an ensemble.
///
/// Example: halation assess m87 --json | jq .chi2
#[derive(clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(crate) struct Args {
    /// Output folder of `halation reconstruct`, or its posterior.h5
    out: PathBuf,
    /// The true image (FITS, Jy/pixel), on any square grid
    #[arg(long, value_name = "F.fits")]
    truth: Option<PathBuf>,
    /// Print JSON (see below)
    #[arg(long)]
    json: bool,
    /// Largest ring diameter that is looked for
    #[arg(long, value_name = "ANGLE", default_value = "95uas", value_parser = units::angle_rad)]
    largest_ring: f64,
    /// Measure lengths as eht-imaging's REx does (0.95 % longer for 64 pixels), for comparison with its numbers
    #[arg(long)]
    rex_lengths: bool,
    /// Seed of the numbers that place the truth between draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const JSON_HELP: &str = "JSON (limits are 5, 50 and 95 % at position p(n+1); fewer than 20 draws give their extremes, and `levels` says which \
levels those have):
  ensemble                file, solver, settings (as in run.toml), prior_sha256, output_kind, chains, label (what must be known before
                          quoting it), draws, distinct_draws (copies counted once), effective_draws (of the weights), npix, fov_uas, unit
  chi2                    per data product (closure_phase, log_closure_amplitude, ...): reduced chi2, median over draws
  chi2_diagonal           the median as eht-imaging defines it (every closure by its own sigma, no covariances), where the run stored it
  chi2_draws              chi2 of every draw
  levels                  levels of q05 and q95
  ring_probability        weighted share of draws with central brightness below 0.5, std(d)/d below 0.3 and, after a 10 uas blur, a radial
                          peak of at least 15 % of the image peak on 90 % of 36 rays
  prior_ring_probability  the same for samples of the prior, where the ensemble's files say it; null otherwise
  ring                    diameter_uas, corrected_diameter_uas, width_uas, position_angle_deg, asymmetry, central_brightness: each with q05,
                          q50, q95 over the draws with features (position angles around their circular mean)
  ring_draws              all features of every draw and is_ring; null for a draw without any
  negative_flux_share     sum of negative over sum of absolute pixels: median, largest, draws
  truth                   only with --truth; shift and total flux taken out first: flux_ratio (mean over truth); mean and draws (median and
                          all): psnr_db, ssim, nrmse, correlation (after the best shift), correlation_20uas (both blurred to 20 uas),
                          correlation_truth_20uas (only the truth blurred), shift_east_uas, shift_north_uas; coverage: levels, inside
                          (share of pixels; the truth is placed at random between draws), inside_if_beyond_all (what it would be for a
                          truth beyond all draws: above 0 where there are too few), pixels (above 5 % of the mean's peak);
                          bright_flux_share: share of the flux where the mean exceeds half of its peak, of the truth and of every draw;
                          ring (features of the truth)
Ring features are null for an ensemble that is no image of the sky.";

/// The images of an ensemble as draws on a grid of the sky.
struct Draws {
    images: Vec<Vec<f64>>,
    weights: Vec<f64>,
    /// None when the axes are no angles.
    grid: Option<ImageGrid>,
    shape: (usize, usize),
}

fn draws_of(ensemble: &Ensemble) -> Draws {
    let (chains, draws, _, ny, nx) = ensemble.images.dim();
    let mut images = Vec::with_capacity(chains * draws);
    for chain in ensemble.images.outer_iter() {
        for draw in chain.outer_iter() {
            images.push(draw.outer_iter().next().map(|channel| channel.iter().map(|v| *v as f64).collect()).unwrap_or_default());
        }
    }
    let spacing = |axis: &halation_posterior::Axis| {
        let unit_rad = units::angle_unit_rad(&axis.unit)?;
        let (first, last) = (axis.values.first()?, axis.values.last()?);
        (axis.values.len() > 1).then(|| (last - first).abs() * unit_rad / (axis.values.len() - 1) as f64)
    };
    let grid = match (spacing(&ensemble.x), spacing(&ensemble.y)) {
        (Some(dx), Some(dy)) if nx == ny && (dx / dy - 1.0).abs() < 1e-6 => ImageGrid::new(nx, dx * nx as f64).ok(),
        _ => None,
    };
    Draws { images, weights: ensemble.weights.to_vec(), grid, shape: (ny, nx) }
}

/// 5, 50 and 95 % limits of values with weights, which need not sum to one.
fn limits(values: &[f64], weights: &[f64]) -> anyhow::Result<Value> {
    let total: f64 = weights.iter().sum();
    if values.is_empty() || total <= 0.0 {
        return Ok(Value::Null);
    }
    let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let q = quantiles(values, &weights, &[0.05, 0.5, 0.95])?;
    Ok(json!({ "q05": q[0], "q50": q[1], "q95": q[2] }))
}

/// How many of the images are no copies of another.
fn distinct(images: &[Vec<f64>]) -> usize {
    let bits = |image: &Vec<f64>| image.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    images.iter().map(bits).collect::<std::collections::BTreeSet<_>>().len()
}

fn median(values: &[f64], weights: &[f64]) -> anyhow::Result<f64> {
    Ok(quantiles(values, weights, &[0.5])?[0])
}

/// Per data product the chi2 of every draw, with the median: what the solver stored as `PREFIXPRODUCT`.
fn chi2(ensemble: &Ensemble, prefix: &str) -> anyhow::Result<(Map<String, Value>, Map<String, Value>)> {
    let (mut medians, mut all) = (Map::new(), Map::new());
    let weights = ensemble.weights.to_vec();
    for (name, variable) in &ensemble.sample_stats {
        if let Some(product) = name.strip_prefix(prefix) {
            let values: Vec<f64> = variable.values.iter().copied().collect();
            if values.len() == weights.len() {
                medians.insert(product.to_string(), json!(median(&values, &weights)?));
                all.insert(product.to_string(), json!(values));
            }
        }
    }
    Ok((medians, all))
}

fn features_json(f: &Option<RingFeatures>) -> anyhow::Result<Value> {
    let Some(f) = f else { return Ok(Value::Null) };
    let mut value = serde_json::to_value(f)?;
    if let Value::Object(map) = &mut value {
        map.insert("is_ring".into(), f.is_ring().into());
    }
    Ok(value)
}

/// The angle, degrees, within half a turn of `centre`.
fn in_turn_of(centre: f64, angle: f64) -> f64 {
    centre + (angle - centre + 180.0).rem_euclid(360.0) - 180.0
}

fn ring_summary(features: &[Option<RingFeatures>], weights: &[f64]) -> anyhow::Result<Value> {
    let present: Vec<(&RingFeatures, f64)> =
        features.iter().zip(weights).filter_map(|(f, w)| f.as_ref().map(|f| (f, *w))).collect();
    let weights: Vec<f64> = present.iter().map(|p| p.1).collect();
    let of = |get: fn(&RingFeatures) -> f64| limits(&present.iter().map(|p| get(p.0)).collect::<Vec<_>>(), &weights);
    // Angles have no order: they are ranked as differences from their mean direction, and stay in one piece around it.
    let (sin, cos) = present.iter().fold((0.0, 0.0), |(s, c), (f, w)| {
        let angle = f.position_angle_deg.to_radians();
        (s + w * angle.sin(), c + w * angle.cos())
    });
    let mean = sin.atan2(cos).to_degrees().rem_euclid(360.0);
    let angles: Vec<f64> = present.iter().map(|p| in_turn_of(mean, p.0.position_angle_deg)).collect();
    Ok(json!({
        "diameter_uas": of(|f| f.diameter_uas)?,
        "corrected_diameter_uas": of(|f| f.corrected_diameter_uas)?,
        "width_uas": of(|f| f.width_uas)?,
        "position_angle_deg": limits(&angles, &weights)?,
        "asymmetry": of(|f| f.asymmetry)?,
        "central_brightness": of(|f| f.central_brightness)?,
    }))
}

/// The share of the prior's samples that pass the ring gate: an attribute of the ensemble, or a number of that name in run.toml.
fn prior_ring_probability(ensemble: &Ensemble, folder: Option<&Path>) -> Option<f64> {
    const KEY: &str = "prior_ring_probability";
    fn find(table: &toml::Table) -> Option<f64> {
        let own = table.get(KEY).and_then(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64)));
        own.or_else(|| table.values().find_map(|v| v.as_table().and_then(find)))
    }
    let attribute = ensemble.attributes.get(KEY).and_then(|v| v.parse().ok());
    attribute.or_else(|| find(&std::fs::read_to_string(folder?.join("run.toml")).ok()?.parse().ok()?))
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let file = if args.out.is_dir() { args.out.join("posterior.h5") } else { args.out.clone() };
    let ensemble = read_ensemble(&file).context(Unusable)?;
    let draws = draws_of(&ensemble);
    let (chains, per_chain, ..) = ensemble.images.dim();
    let effective = effective_draws(&draws.weights);
    let (medians, chi2_draws) = chi2(&ensemble, "reduced_chi2_")?;
    let (diagonal, _) = chi2(&ensemble, "diagonal_chi2_")?;

    // As the network made it, where the file says so: shifting an image adds ripples of its own.
    let negative: Vec<f64> = match ensemble.sample_stats.get("negative_flux_share") {
        Some(stored) => stored.values.iter().copied().collect(),
        None => draws.images.iter().map(|image| metrics::negative_flux_share(image)).collect(),
    };
    let mut report = Map::new();
    report.insert(
        "ensemble".into(),
        json!({
            "file": file.display().to_string(),
            "solver": ensemble.attributes.get("solver"),
            "settings": ensemble.attributes.get("settings"),
            "prior_sha256": ensemble.attributes.get("prior_sha256"),
            "output_kind": ensemble.output_kind,
            "chains": chains,
            "label": ensemble.attributes.get("label"),
            "draws": chains * per_chain,
            "distinct_draws": distinct(&draws.images),
            "effective_draws": effective,
            "npix": draws.shape.1,
            "fov_uas": draws.grid.map(|g| g.fov_rad / halation_vlbi::MICROARCSECOND_RAD),
            "unit": ensemble.unit,
        }),
    );
    report.insert("chi2".into(), medians.into());
    report.insert("chi2_diagonal".into(), diagonal.into());
    report.insert("chi2_draws".into(), chi2_draws.into());
    let low = lower_level(effective);
    report.insert("levels".into(), json!([low, 1.0 - low]));
    report.insert(
        "negative_flux_share".into(),
        json!({
            "median": median(&negative, &draws.weights)?,
            "largest": negative.iter().fold(0.0, |m: f64, v| m.max(*v)),
            "draws": negative,
        }),
    );
    let defaults = RingOptions::default();
    let options = RingOptions {
        diameter_uas: (defaults.diameter_uas.0, args.largest_ring / halation_vlbi::MICROARCSECOND_RAD),
        radius_uas: defaults.radius_uas.max(0.63 * args.largest_ring / halation_vlbi::MICROARCSECOND_RAD),
        eht_imaging_lengths: args.rex_lengths,
        ..defaults
    };
    for key in ["ring_probability", "ring", "ring_draws"] {
        report.insert(key.into(), Value::Null);
    }
    if let Some(grid) = &draws.grid {
        let features: Vec<Option<RingFeatures>> =
            draws.images.par_iter().map(|image| ring_features(grid, image, &options)).collect::<Result<_, _>>()?;
        let passing: f64 =
            features.iter().zip(&draws.weights).filter(|(f, _)| f.is_some_and(|f| f.is_ring())).map(|(_, w)| w).sum();
        // Weights sum to one only to rounding.
        // An empty sum is minus zero.
        report.insert("ring_probability".into(), json!((passing + 0.0).min(1.0)));
        report.insert("ring".into(), ring_summary(&features, &draws.weights)?);
        report.insert("ring_draws".into(), features.iter().map(features_json).collect::<anyhow::Result<Vec<_>>>()?.into());
    }
    let folder = if args.out.is_dir() { Some(args.out.as_path()) } else { args.out.parent() };
    report.insert("prior_ring_probability".into(), json!(prior_ring_probability(&ensemble, folder)));
    if let Some(path) = &args.truth {
        let grid = draws.grid.with_context(|| {
            format!(
                "{}: a truth can be compared with square images of the sky only, but the axes are in {:?}",
                file.display(),
                ensemble.x.unit
            )
        });
        report.insert("truth".into(), truth::compare(path, &draws, &grid.context(Unusable)?, &options, args.seed)?);
    }
    let report = Value::Object(report);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Outcome::Done)
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_string(), |v| format!("{v:.3}"))
}

fn print(report: &Value) {
    let e = &report["ensemble"];
    let effective = e["effective_draws"].as_f64().map_or("-".into(), |v| format!("{v:.1}"));
    let distinct = &e["distinct_draws"];
    let repeated = if *distinct == e["draws"] { String::new() } else { format!(", ONLY {distinct} OF THEM DIFFERENT") };
    let file = e["file"].as_str().unwrap_or_default();
    let of = |key: &str, what| units::counted(e[key].as_u64().unwrap_or(0), what);
    println!("{file}: {} in {} ({effective} effective){repeated}", of("draws", "draw"), of("chains", "chain"));
    if let Some(label) = e["label"].as_str() {
        println!("  {label}");
    }
    if let Some(products) = report["chi2"].as_object() {
        for (product, median) in products {
            let all = report["chi2_draws"][product].as_array().map(Vec::as_slice).unwrap_or_default();
            let largest = all.iter().filter_map(Value::as_f64).fold(f64::NAN, f64::max);
            let diagonal = report["chi2_diagonal"].get(product).map(number);
            let diagonal = diagonal.map_or(String::new(), |d| format!("  (median without covariances, as in eht-imaging: {d})"));
            println!("  reduced chi2 {product:<24} median {}  largest {largest:.3}{diagonal}", number(median));
        }
    }
    let levels = &report["levels"];
    if let Some(features) = report["ring"].as_object() {
        let truth = &report["truth"]["ring"];
        let beside = |text: String| if report.get("truth").is_some() { format!(" {text:>9}") } else { String::new() };
        let head = beside("truth".into());
        println!("  {:<37} {:>9} {:>9} {:>9}{head}", "ring feature, quantile", number(&levels[0]), "0.500", number(&levels[1]));
        for (name, q) in features {
            let mut of_truth = truth[name].clone();
            if let (true, Some(angle), Some(median)) = (name == "position_angle_deg", of_truth.as_f64(), q["q50"].as_f64()) {
                of_truth = json!(in_turn_of(median, angle));
            }
            let of_truth = beside(number(&of_truth));
            println!("  {name:<37} {:>9} {:>9} {:>9}{of_truth}", number(&q["q05"]), number(&q["q50"]), number(&q["q95"]));
        }
        let prior = &report["prior_ring_probability"];
        let gate = match truth["is_ring"].as_bool() {
            Some(true) => "; the truth passes as a ring",
            Some(false) => "; the truth does not pass as a ring",
            None => "",
        };
        println!("  ring probability {} (samples of the prior: {}{gate})", number(&report["ring_probability"]), number(prior));
    }
    let negative = &report["negative_flux_share"];
    println!("  negative flux share: median {}, largest {}", number(&negative["median"]), number(&negative["largest"]));
    if let Some(truth) = report.get("truth") {
        println!("  against the truth (shift and total flux taken out)         mean     draws (median)");
        for name in truth::SCORES {
            println!("  {name:<52} {:>9} {:>12}", number(&truth["mean"][name]), number(&truth["draws"]["median"][name]));
        }
        let coverage = &truth["coverage"];
        let of = |name: &str, keep: fn(f64) -> bool| -> String {
            let values = coverage[name].as_array().into_iter().flatten().zip(coverage["levels"].as_array().into_iter().flatten());
            let kept = values.filter(|(value, _)| value.as_f64().is_some_and(keep));
            kept.map(|(value, level)| format!("{} in {}", number(value), number(level))).collect::<Vec<_>>().join(", ")
        };
        println!("  coverage of {} pixels: {}", coverage["pixels"], of("inside", |_| true));
        let chance = of("inside_if_beyond_all", |share| share > 0.0);
        if !chance.is_empty() {
            println!("  (so few draws tell little: a truth beyond all of them would count as inside with {chance})");
        }
    }
}

#[cfg(test)]
mod tests;
