use crate::{Outcome, Unusable};
use anyhow::Context;
use halation_io::{
    FitsFile, H5Reader, LinearProblemFile, SkyImage, find_fits_image, read_fits_image, read_linear_problem, unfinished_run,
};
use halation_nn::read_prior_metadata;
use halation_posterior::{Ensemble, read_ensemble};
use halation_vlbi::{MICROARCSECOND_RAD, Observation, UvfitsSummary, inspect_observation, utc_text};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const EXAMPLE: &str = "\
Examples:
  halation info SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits
  halation info lo.uvfits hi.uvfits --json   (bands of one source, as `reconstruct vlbi` joins them)
  halation info OUT                          (the folder of a reconstruction, or its posterior.h5)";

#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// UVFITS file (several of one source are joined as bands), FITS image, prior (.safetensors), posterior or linear problem (HDF5)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let report = report(&args.files).context(Unusable)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(Outcome::Done)
}

fn report(files: &[PathBuf]) -> anyhow::Result<Value> {
    if let [file] = files {
        let posterior = file.join("posterior.h5");
        let file = if file.is_dir() && posterior.is_file() { &posterior } else { file };
        if let Some(unfinished) = unfinished_run(file) {
            return Err(unfinished.into());
        }
        if starts_with(file, b"\x89HDF") {
            let problem = H5Reader::open(file).is_ok_and(|r| r.has("A") && r.has("y"));
            return if problem {
                Ok(linear_problem(file, &read_linear_problem(file)?))
            } else {
                Ok(posterior_of(file, &read_ensemble(file)?))
            };
        }
        if file.extension().is_some_and(|e| e == "safetensors") {
            return Ok(serde_json::to_value(read_prior_metadata(file)?)?);
        }
        // What is no FITS file goes to the UVFITS reader, whose message says so.
        if let Some(fits) = FitsFile::open(file).ok().filter(|f| f.hdus().first().is_some_and(|h| !h.header.is_true("GROUPS"))) {
            return Ok(match read_fits_image(file) {
                Ok(sky) => image(file, &sky),
                Err(error @ halation_io::Error::Content { .. }) => header_of_image(&fits, &error)?,
                Err(error) => return Err(error.into()),
            });
        }
    }
    let (observation, summaries) = inspect_observation(files)?;
    Ok(visibilities(&observation, &summaries))
}

fn starts_with(file: &Path, magic: &[u8]) -> bool {
    let mut start = Vec::new();
    File::open(file).is_ok_and(|f| f.take(magic.len() as u64).read_to_end(&mut start).is_ok()) && start == magic
}

fn linear_problem(file: &Path, p: &LinearProblemFile) -> Value {
    json!({ "kind": "linear-problem", "path": file, "data": p.a.nrows(), "unknowns": p.a.ncols(), "image_shape": p.image_shape })
}

fn posterior_of(file: &Path, e: &Ensemble) -> Value {
    let (chains, draws, channels, ny, nx) = e.images.dim();
    json!({
        "kind": "posterior",
        "path": file,
        "chains": chains,
        "draws": draws,
        "channels": channels,
        "pixels": [nx, ny],
        "unit": e.unit,
        "output_kind": e.output_kind,
        "sample_stats": e.sample_stats.keys().collect::<Vec<_>>(),
        "observed_data": e.observed_data.keys().collect::<Vec<_>>(),
        "attributes": e.attributes,
    })
}

fn visibilities(o: &Observation, summaries: &[UvfitsSummary]) -> Value {
    let with_data = o.stations_with_data();
    let names: Vec<&str> = o.stations.iter().zip(&with_data).filter(|s| *s.1).map(|s| s.0.name.as_str()).collect();
    let times = o.visibilities.iter().map(|v| v.mjd);
    let (first, last) = times.fold((f64::INFINITY, f64::NEG_INFINITY), |s, t| (s.0.min(t), s.1.max(t)));
    let bands: Vec<Value> = o
        .bands
        .iter()
        .enumerate()
        .map(|(i, b)| {
            let unflagged = o.visibilities.iter().filter(|v| v.band == i).count();
            json!({ "frequency_hz": b.frequency_hz, "bandwidth_hz": b.bandwidth_hz, "unflagged": unflagged })
        })
        .collect();
    json!({
        "kind": "uvfits",
        "source": o.source,
        "ra_deg": o.ra_deg,
        "dec_deg": o.dec_deg,
        "start_utc": utc_text(first),
        "end_utc": utc_text(last),
        "start_mjd": first,
        "end_mjd": last,
        "rows": o.rows,
        "unflagged": o.visibilities.len(),
        "stations_used": names.len(),
        "stations_listed": o.stations.len(),
        "stations": names,
        "baselines": o.baselines().len(),
        "scans": o.scans.len(),
        "frequency_hz": o.frequency_hz(),
        "bandwidth_hz": o.bands.iter().map(|b| b.bandwidth_hz).sum::<f64>(),
        "max_baseline_lambda": o.max_baseline_lambda(),
        "zero_baseline_flux_jy": o.zero_baseline_flux_jy(),
        "bands": bands,
        "files": summaries,
    })
}

fn image(file: &Path, image: &SkyImage) -> Value {
    let (width_rad, height_rad) = image.fov_rad();
    json!({
        "kind": "fits-image",
        "path": file,
        "source": image.object,
        "ra_deg": image.ra_deg,
        "dec_deg": image.dec_deg,
        "mjd": image.mjd,
        "frequency_hz": image.frequency_hz,
        "pixels": [image.pixels.ncols(), image.pixels.nrows()],
        "pixel_uas": image.pixel_rad.0 / MICROARCSECOND_RAD,
        "fov_uas": [width_rad / MICROARCSECOND_RAD, height_rad / MICROARCSECOND_RAD],
        "total_flux_jy": image.total(),
        "max_jy_per_pixel": image.pixels.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

/// What the header says of an image that no other command takes, and why none does.
fn header_of_image(fits: &FitsFile, error: &halation_io::Error) -> halation_io::Result<Value> {
    let hdu = find_fits_image(fits)?;
    let (text, number) = (|key: &str| hdu.header.text(key).map(str::to_string), |key: &str| hdu.header.number(key));
    let axes: Vec<Value> = (1..=hdu.axes.len())
        .map(|i| {
            json!({
                "type": text(&format!("CTYPE{i}")), "pixels": hdu.axes[i - 1], "step": number(&format!("CDELT{i}")),
                "unit": text(&format!("CUNIT{i}")), "reference": number(&format!("CRVAL{i}")),
            })
        })
        .collect();
    Ok(json!({
        "kind": "fits-image",
        "path": fits.path(),
        "source": text("OBJECT"),
        "unit": text("BUNIT"),
        "beam_deg": number("BMAJ").zip(number("BMIN")),
        "bits_per_pixel": hdu.bitpix,
        "axes": axes,
        "not_usable": error.to_string(),
    }))
}

/// What is printed first; all else follows by name, tables last.
const FIRST: [&str; 16] = [
    "path",
    "source",
    "ra_deg",
    "dec_deg",
    "start_utc",
    "end_utc",
    "rows",
    "unflagged",
    "stations_used",
    "stations_listed",
    "stations",
    "baselines",
    "scans",
    "frequency_hz",
    "bandwidth_hz",
    "max_baseline_lambda",
];

/// The report for people: one line a key, lists on one line, tables indented.
fn text(report: &Value) -> String {
    let mut out = String::new();
    lines(report, 0, &mut out);
    out
}

fn lines(value: &Value, indent: usize, out: &mut String) {
    let Value::Object(map) = value else { return };
    let table = |v: &Value| v.is_object() || v.as_array().is_some_and(|a| a.iter().any(Value::is_object));
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(key, value)| (table(value), FIRST.iter().position(|f| f == key).unwrap_or(FIRST.len())));
    let pad = " ".repeat(indent);
    for (key, value) in entries {
        match value {
            Value::Object(_) => {
                out.push_str(&format!("{pad}{key}\n"));
                lines(value, indent + 2, out);
            }
            Value::Array(items) if table(value) => {
                for (i, item) in items.iter().enumerate() {
                    out.push_str(&format!("{pad}{key} {}\n", i + 1));
                    lines(item, indent + 2, out);
                }
            }
            Value::Array(items) => {
                let words: Vec<String> = items.iter().map(word).collect();
                out.push_str(&format!("{pad}{key:<22} {}\n", words.join(" ")));
            }
            _ => out.push_str(&format!("{pad}{key:<22} {}\n", word(value))),
        }
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "none".into(),
        Value::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() && (x.abs() >= 1e6 || (x != 0.0 && x.abs() < 1e-3)) => format!("{x:.6e}"),
            Some(x) if n.is_f64() => format!("{:.6}", x).trim_end_matches('0').trim_end_matches('.').to_string(),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        let report = json!({ "a": 0.5, "rows": 7, "c": null, "list": ["x", 2], "table": [{ "k": 1 }], "inner": { "deep": 1e-9 } });
        let expected = [
            "rows                   7",
            "a                      0.5",
            "c                      none",
            "list                   x 2",
            "inner",
            "  deep                   1.000000e-9",
            "table 1",
            "  k                      1",
            "",
        ];
        let expected = expected.join("\n");
        assert_eq!(text(&report), expected);
    }
}
