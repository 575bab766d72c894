//! posterior.h5: an ensemble in groups that xarray and ArviZ open (`/posterior`, `/sample_stats`, `/observed_data`,
//! `/posterior_predictive`, `/summary`).

use crate::{Axis, Ensemble, Error, OutputKind, Result, Summary, Variable};
use halation_io::{Described, H5Reader, H5Writer, unfinished_run, write_whole_with};
use ndarray::{Array1, Ix5};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How netCDF labels a dimension without coordinates: it holds no values of its own.
const BARE: &str = "This is a netCDF dimension but not a netCDF variable";
const RESERVED: [&str; 3] = ["output_kind", "Conventions", "inference_library"];

/// Writes `ensemble` and its pixel statistics to `path`, whole or not at all.
///
/// A dimension that has the name of a variable of its group (which netCDF readers would take for a coordinate) is stored as
/// `NAME_index`, unless that variable is one-dimensional over it and so is its coordinate.
///
/// # Errors
/// Shapes that do not fit each other (weights, axes, variables), or the file cannot be written.
pub fn write_ensemble(ensemble: &Ensemble, path: &Path) -> Result<()> {
    ensemble.check()?;
    let summary = Summary::of(ensemble)?;
    write_whole_with(path, |temporary| write(ensemble, &summary, temporary))
}

fn write(e: &Ensemble, summary: &Summary, path: &Path) -> Result<()> {
    let w = H5Writer::create(path)?;
    w.attribute_text("/", "Conventions", "CF-1.10")?;
    w.attribute_text("/", "inference_library", "halation")?;
    w.attribute_text("/", "output_kind", kind_name(e.output_kind))?;
    for (name, value) in &e.attributes {
        if !RESERVED.contains(&name.as_str()) {
            w.attribute_text("/", name, value)?;
        }
    }
    let (chains, draws, ..) = e.images.dim();

    w.group("posterior")?;
    w.index("posterior", "chain", chains)?;
    w.index("posterior", "draw", draws)?;
    image_axes(&w, "posterior", e)?;
    let dims = ["chain", "draw", "channel", &e.y.name, &e.x.name];
    let described = Described { unit: &e.unit, description: "images, one for each draw" };
    w.f32s("posterior", "image", &e.images.view().into_dyn(), &dims, described)?;

    w.group("sample_stats")?;
    let mut stats = e.sample_stats.clone();
    let weights = e.weights.to_shape((chains, draws)).map_err(|e| Error::shape("weights", e.to_string()))?;
    let description = "weight of the draw; all weights sum to one".to_string();
    let dims = vec!["chain".to_string(), "draw".to_string()];
    stats.insert("weight".into(), Variable { dims, unit: String::new(), description, values: weights.to_owned().into_dyn() });
    variables(&w, "sample_stats", &stats)?;
    w.group("observed_data")?;
    variables(&w, "observed_data", &e.observed_data)?;
    w.group("posterior_predictive")?;
    variables(&w, "posterior_predictive", &e.posterior_predictive)?;

    w.group("summary")?;
    image_axes(&w, "summary", e)?;
    let dims = ["channel", &e.y.name, &e.x.name];
    let limits = if summary.lower_level > 0.05 { "smallest and largest draw (fewer than 20 draws)" } else { "position p(n+1)" };
    let (low, high) = (format!("lower limit of each pixel, {limits}"), format!("upper limit of each pixel, {limits}"));
    for (name, values, description, level) in [
        ("mean", &summary.mean, "mean of each pixel", None),
        ("std", &summary.std, "standard deviation of each pixel", None),
        ("q05", &summary.q05, low.as_str(), Some(summary.lower_level)),
        ("q50", &summary.q50, "median of each pixel", Some(0.5)),
        ("q95", &summary.q95, high.as_str(), Some(summary.upper_level)),
    ] {
        w.f32s("summary", name, &values.view().into_dyn(), &dims, Described { unit: &e.unit, description })?;
        if let Some(level) = level {
            w.attribute_f64s(&format!("summary/{name}"), "level", &[level])?;
        }
    }
    w.attribute_f64s("summary", "effective_draws", &[summary.effective_draws])?;
    w.finish()?;
    Ok(())
}

fn image_axes(w: &H5Writer, group: &str, e: &Ensemble) -> Result<()> {
    w.labels(group, "channel", &e.channels)?;
    for axis in [&e.y, &e.x] {
        w.coordinate(group, &axis.name, &axis.values, Described { unit: &axis.unit, description: "" })?;
    }
    Ok(())
}

/// Writes the variables of a group with the dimensions that they share.
fn variables(w: &H5Writer, group: &str, all: &BTreeMap<String, Variable>) -> Result<()> {
    let mut lengths: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (name, v) in all {
        if v.dims.len() != v.values.ndim() {
            return Err(Error::shape(
                format!("{group}/{name}"),
                format!("shape {:?} with {} dimension names", v.values.shape(), v.dims.len()),
            ));
        }
        for (dim, length) in v.dims.iter().zip(v.values.shape()) {
            let (known, by) = *lengths.entry(dim).or_insert((*length, name));
            if known != *length {
                return Err(Error::shape(
                    format!("{group}/{name}"),
                    format!("dimension {dim} has length {length}, but {known} in {by}"),
                ));
            }
        }
    }
    let is_coordinate = |name: &str| all.get(name).is_some_and(|v| v.dims == [name]);
    let stored = |dim: &str| if all.contains_key(dim) && !is_coordinate(dim) { format!("{dim}_index") } else { dim.to_string() };
    let taken: BTreeSet<String> = lengths.keys().map(|d| stored(d)).collect();
    if taken.len() < lengths.len() || taken.iter().any(|d| all.contains_key(d) && !is_coordinate(d)) {
        return Err(Error::shape(group, "dimensions and variables have clashing names"));
    }
    for (dim, (length, _)) in &lengths {
        match all.get(*dim) {
            Some(v) if is_coordinate(dim) => {
                let values: Vec<f64> = v.values.iter().copied().collect();
                w.coordinate(group, dim, &values, Described { unit: &v.unit, description: &v.description })?;
            }
            _ if matches!(*dim, "chain" | "draw") => w.index(group, dim, *length)?,
            _ => w.dimension(group, &stored(dim), *length)?,
        }
    }
    for (name, v) in all.iter().filter(|(name, _)| !is_coordinate(name)) {
        let dims: Vec<String> = v.dims.iter().map(|d| stored(d)).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        w.f64s(group, name, &v.values.view(), &dims, Described { unit: &v.unit, description: &v.description })?;
    }
    Ok(())
}

/// Reads what [`write_ensemble`] wrote. The statistics in `/summary` are not read: [`Summary::of`] makes them.
///
/// # Errors
/// Not an HDF5 file, truncated, or not the layout of posterior.h5, or that of a run that is not finished; the message names what is
/// missing or wrong.
pub fn read_ensemble(path: &Path) -> Result<Ensemble> {
    if let Some(unfinished) = unfinished_run(path) {
        return Err(unfinished.into());
    }
    let r = H5Reader::open(path)?;
    let wrong = |place: &str, problem: String| Error::Io(halation_io::Error::content(path, place, problem));
    if !r.has("posterior/image") {
        return Err(wrong("posterior/image", "is missing; not a posterior.h5 of halation".into()));
    }
    let dims = r.dims("posterior/image")?;
    if dims.len() != 5 || dims[..3] != ["chain", "draw", "channel"] {
        return Err(wrong("posterior/image", format!("has dimensions {dims:?}, expected (chain, draw, channel, y, x)")));
    }
    let images = r.f32s("posterior/image")?.into_dimensionality::<Ix5>().map_err(|e| wrong("posterior/image", e.to_string()))?;
    let unit = r.attribute_text("posterior/image", "units")?.unwrap_or_default();
    let axis = |name: &str| -> Result<Axis> {
        let at = format!("posterior/{name}");
        Ok(Axis {
            name: name.into(),
            unit: r.attribute_text(&at, "units")?.unwrap_or_default(),
            values: r.f64s(&at)?.into_iter().collect(),
        })
    };
    let mut sample_stats = read_variables(&r, "sample_stats")?;
    let weights = match sample_stats.remove("weight") {
        Some(w) => Array1::from_iter(w.values),
        None => return Err(wrong("sample_stats/weight", "is missing".into())),
    };
    let mut attributes = BTreeMap::new();
    for name in r.attributes("/")? {
        if !RESERVED.contains(&name.as_str())
            && let Some(value) = r.attribute_text("/", &name)?
        {
            attributes.insert(name, value);
        }
    }
    let output_kind = match r.attribute_text("/", "output_kind")?.as_deref() {
        Some("samples") => OutputKind::Samples,
        Some("particles") => OutputKind::Particles,
        Some("mean") => OutputKind::Mean,
        Some("mode") => OutputKind::Mode,
        other => return Err(wrong("attribute output_kind", format!("is {other:?}, expected samples, particles, mean or mode"))),
    };
    let ensemble = Ensemble {
        images,
        unit,
        channels: r.texts("posterior/channel")?,
        y: axis(&dims[3])?,
        x: axis(&dims[4])?,
        weights,
        sample_stats,
        observed_data: read_variables(&r, "observed_data")?,
        posterior_predictive: read_variables(&r, "posterior_predictive")?,
        attributes,
        output_kind,
    };
    ensemble.check().map_err(|e| wrong("file", e.to_string()))?;
    Ok(ensemble)
}

fn read_variables(r: &H5Reader, group: &str) -> Result<BTreeMap<String, Variable>> {
    let mut all = BTreeMap::new();
    if !r.has(group) {
        return Ok(all);
    }
    for name in r.datasets(group)? {
        let at = format!("{group}/{name}");
        let text = |key: &str| r.attribute_text(&at, key).map(Option::unwrap_or_default);
        let dims = if !r.is_scale(&at)? {
            r.dims(&at)?
        } else if matches!(name.as_str(), "chain" | "draw") || r.scale_name(&at)?.starts_with(BARE) {
            continue;
        } else {
            vec![name.clone()]
        };
        let variable = Variable { dims, unit: text("units")?, description: text("long_name")?, values: r.f64s(&at)? };
        all.insert(name, variable);
    }
    Ok(all)
}

fn kind_name(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::Samples => "samples",
        OutputKind::Particles => "particles",
        OutputKind::Mean => "mean",
        OutputKind::Mode => "mode",
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
