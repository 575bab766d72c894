//! One self-contained HTML page about an ensemble: no scripts, pictures inside.

mod html;

use crate::plot::PlotImages;
use crate::plot::is_reduced_chi2;
use crate::{Ensemble, FEWEST_DRAWS_FOR_LIMITS, OutputKind, Result, Summary, Variable, quantiles, read_ensemble};
use halation_io::{Colours, Error as IoError, contact_sheet, unfinished_run, write_whole};
use html::{base64, escape, json_table, number, table};
use ndarray::s;
use std::path::{Path, PathBuf};

/// Draws shown in the gallery at most.
const GALLERY: usize = 64;

/// Writes the report on the output folder `out` (its `posterior.h5`, and `run.toml`, `summary.png`, `assess.json` where they are there)
/// to `page`, or to `out/report.html`. Returns where it is.
///
/// # Errors
/// `out` is no output folder, its `posterior.h5` cannot be read, or the page cannot be written.
pub fn write_report(out: &Path, page: Option<&Path>) -> Result<PathBuf> {
    let file = out.join("posterior.h5");
    if !file.is_file() {
        let missing = || IoError::content(out, "posterior.h5", "is missing: expected the folder of a finished reconstruction");
        return Err(unfinished_run(out).unwrap_or_else(missing).into());
    }
    let ensemble = read_ensemble(&file)?;
    let summary = Summary::of(&ensemble)?;
    let optional = |name: &str| -> Result<Option<Vec<u8>>> {
        match std::fs::read(out.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(IoError::os(&out.join(name), e).into()),
        }
    };
    let picture = match optional("summary.png")? {
        Some(png) => png,
        None => PlotImages::of(&ensemble, &summary, 0)?.plot(&ensemble).draw()?.to_png(&file)?,
    };
    let text = |name| optional(name).map(|b| b.map(|b| String::from_utf8_lossy(&b).into_owned()));
    let assessment = match text("assess.json")? {
        Some(t) => Some(serde_json::from_str(&t).map_err(|e| {
            IoError::content(&out.join("assess.json"), "file", format!("is not JSON ({e}); run halation assess again"))
        })?),
        None => None,
    };
    let parts = Parts { name: out.display().to_string(), run: text("run.toml")?, picture, assessment };
    let page = page.map_or_else(|| out.join("report.html"), Path::to_path_buf);
    write_whole(&page, render(&ensemble, &summary, &parts, &file)?.as_bytes())?;
    Ok(page)
}

struct Parts {
    name: String,
    run: Option<String>,
    picture: Vec<u8>,
    assessment: Option<serde_json::Value>,
}

fn render(e: &Ensemble, summary: &Summary, parts: &Parts, file: &Path) -> Result<String> {
    let attribute = |name: &str| e.attributes.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let title = attribute("title").or(attribute("object")).or(attribute("input")).unwrap_or(&parts.name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{} \u{b7} halation</title><style>{}</style></head><body><main>\n",
        escape(title),
        html::STYLE
    );
    page += &format!(
        "<h1>{}</h1>\n<p class=\"label\">{}</p>\n",
        escape(title),
        escape(attribute("label").unwrap_or(e.output_kind.in_words()))
    );
    page += &format!(
        "<figure><img class=\"summary\" alt=\"summary picture\" src=\"data:image/png;base64,{}\">",
        base64(&parts.picture)
    );
    page += &format!(
        "<figcaption>Mean, standard deviation, draws and, where there are data to compare, data against the draws' predictions. Unit of the images: {}.</figcaption></figure>\n",
        escape(&e.unit)
    );

    page += "<h2>What was run</h2>\n";
    let mut rows = vec![vec!["Output".to_string(), what_may_be_concluded(e.output_kind).to_string()]];
    rows.push(vec!["Draws".into(), format!("{}, worth {} equally weighted ones", e.draws(), number(summary.effective_draws))]);
    for (what, name) in [("Solver", "solver"), ("Prior", "prior"), ("Seed", "seed"), ("Device", "device"), ("Version", "version")] {
        if let Some(value) = attribute(name) {
            rows.push(vec![what.into(), value.to_string()]);
        }
    }
    let (_, _, channels, ny, nx) = e.images.dim();
    rows.push(vec![
        "Image".into(),
        format!(
            "{nx} \u{d7} {ny} pixels{}",
            if channels > 1 { format!(", {channels} channels ({})", e.channels.join(", ")) } else { String::new() }
        ),
    ]);
    page += &table(&[], &rows);

    page += &fit_section(e)?;
    page += &statistics_section(e, "Ring features", |name| name.starts_with("ring_"))?;
    page += &caveats(e, summary);
    page += &gallery(e, file)?;
    if let Some(assessment) = &parts.assessment {
        page += &format!("<h2>Assessment</h2>\n{}", json_table(assessment));
    }
    page += &statistics_section(e, "Other quantities of each draw", |name| !is_reduced_chi2(name) && !name.starts_with("ring_"))?;

    page += "<h2>Data</h2>\n";
    if e.observed_data.is_empty() {
        page += "<p>The file holds no data.</p>\n";
    } else {
        let row = |(name, v): (&String, &Variable)| {
            let shape: Vec<String> = v.dims.iter().zip(v.values.shape()).map(|(d, n)| format!("{d} {n}")).collect();
            vec![name.clone(), v.values.len().to_string(), shape.join(" \u{d7} "), v.unit.clone(), v.description.clone()]
        };
        page += &table(&["Quantity", "Values", "Shape", "Unit", "Meaning"], &e.observed_data.iter().map(row).collect::<Vec<_>>());
    }

    page += "<h2>How to reproduce</h2>\n";
    match attribute("command_line").or(attribute("command")) {
        Some(command) => page += &format!("<p>Command line:</p><pre>{}</pre>\n", escape(command)),
        None => page += "<p>The file does not record its command line; the settings below determine the run.</p>\n",
    }
    match &parts.run {
        Some(run) => {
            page += &format!(
                "<p>All settings (<code>run.toml</code>; the same file, version and processor family give the same bits):</p><pre>{}</pre>\n",
                escape(run)
            )
        }
        None => page += "<p>There is no <code>run.toml</code> beside the ensemble.</p>\n",
    }
    let rows: Vec<Vec<String>> = e.attributes.iter().map(|(k, v)| vec![k.clone(), v.clone()]).collect();
    if !rows.is_empty() {
        page += &format!(
            "<details><summary>All attributes of <code>posterior.h5</code></summary>{}</details>\n",
            table(&["Attribute", "Value"], &rows)
        );
    }
    page += "</main></body></html>\n";
    Ok(page)
}

/// A sentence on what images of this kind tell.
fn what_may_be_concluded(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::Samples => {
            "Samples: each image is a draw from the posterior as the solver approximates it; how far their spread may be quoted as the uncertainty under the stated prior and likelihood is said under Calibration and caveats."
        }
        OutputKind::Particles => {
            "Particles: images that together approximate the posterior; their spread may be narrower than the posterior's."
        }
        OutputKind::Mean => {
            "Mean: an estimate of the posterior mean. Its spread over repetitions is the estimator's, not the posterior's."
        }
        OutputKind::Mode => "Mode: the most probable image under prior and likelihood. It carries no uncertainty.",
    }
}

fn fit_section(e: &Ensemble) -> Result<String> {
    let mut out = String::from("<h2>Fit to the data</h2>\n");
    let rows = statistic_rows(e, is_reduced_chi2)?;
    if rows.is_empty() {
        return Ok(out + "<p>The solver stored no chi-square.</p>\n");
    }
    out += &table(&["Data product", "Median over draws", "5 % to 95 % of draws", "Smallest", "Largest"], &rows);
    out += "<p>Reduced chi-square of each draw against the data that were fitted. Draws from a correct posterior scatter about 1 (from slightly below, where the image can follow the noise, to \u{221a}(2/N) above); values far above 1 say that prior, likelihood or noise estimate do not describe the data, values far below 1 that the noise was overestimated.</p>\n";
    Ok(out)
}

fn statistics_section(e: &Ensemble, title: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let rows = statistic_rows(e, wanted)?;
    if rows.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(
        "<h2>{}</h2>\n{}",
        escape(title),
        table(&["Quantity", "Median over draws", "5 % to 95 % of draws", "Smallest", "Largest"], &rows)
    ))
}

/// Median, limits and extremes over the draws of every scalar statistic whose name is `wanted`.
fn statistic_rows(e: &Ensemble, wanted: impl Fn(&str) -> bool) -> Result<Vec<Vec<String>>> {
    let weights = e.checked_weights()?;
    let few = crate::effective_draws(&weights) < FEWEST_DRAWS_FOR_LIMITS - 1e-6;
    let mut rows = Vec::new();
    for (name, v) in e.sample_stats.iter().filter(|(name, v)| wanted(name) && v.values.len() == weights.len()) {
        // Draws on which a feature is undefined are left out, and counted.
        let (values, kept): (Vec<f64>, Vec<f64>) =
            v.values.iter().copied().zip(weights.iter().copied()).filter(|(x, _)| x.is_finite()).unzip();
        let what = if v.unit.is_empty() { name.replace('_', " ") } else { format!("{} ({})", name.replace('_', " "), v.unit) };
        let total: f64 = kept.iter().sum();
        if values.is_empty() || total <= 0.0 {
            rows.push(vec![what, "undefined on every draw".into(), String::new(), String::new(), String::new()]);
            continue;
        }
        let kept: Vec<f64> = kept.iter().map(|w| w / total).collect();
        let q = quantiles(&values, &kept, &[0.05, 0.5, 0.95])?;
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
        let missing =
            if values.len() < weights.len() { format!(" ({} of {} draws)", values.len(), weights.len()) } else { String::new() };
        let limits = if few { "fewer than 20 draws".to_string() } else { format!("{} to {}", number(q[0]), number(q[2])) };
        rows.push(vec![what, number(q[1]) + &missing, limits, number(low), number(high)]);
    }
    Ok(rows)
}

/// What a reader must know before quoting the error bars.
fn caveats(e: &Ensemble, summary: &Summary) -> String {
    let attribute = |name: &str| e.attributes.get(name).map(String::as_str).unwrap_or("");
    let mut notes = Vec::new();
    let label = attribute("label");
    notes.push(if label.is_empty() {
        "The solver states nothing about the calibration of this ensemble: take the spread as a description of the draws, not as tested error bars.".to_string()
    } else {
        format!("Calibration, in the solver's words: \u{201c}{label}\u{201d}.")
    });
    match attribute("populations_agree") {
        "no" => notes.push("Two independent populations of the sampler do not agree: the spread shown is too small where they differ, and the relative probability of qualitatively different images is not established. Run with a larger --population and more --levels before quoting it.".into()),
        "not compared" => notes.push("One of two independent populations of the sampler found nothing that fits the data as well, so that they were not compared: the other's structure is not confirmed. Run with another --seed, or with a larger --population and more --levels, before quoting it.".into()),
        "" if label.contains("populations") => notes.push("It is unknown whether the two populations of the sampler agree: the file has no attribute populations_agree, an earlier version wrote it. Unless the label says that they do, do not quote the relative probability of qualitatively different images; run again with this version to know.".into()),
        _ => {}
    }
    let unlike = attribute("draws_unlike_prior");
    if !matches!(unlike, "" | "0") {
        notes.push(format!("{unlike} of {} draws fit the data with structures unlike any image of the prior: the sampler lost its way, the field does not hold the source, or the source is of a kind that the prior does not know. Do not quote them; see log_prior in /sample_stats.", e.draws()));
    }
    if summary.lower_level > 0.05 {
        notes.push(format!("There are fewer than 20 effective draws ({}), so the limits in /summary are the smallest and largest draw: levels {:.1} % and {:.1} %.", number(summary.effective_draws), 100.0 * summary.lower_level, 100.0 * summary.upper_level));
    }
    if summary.effective_draws < 0.999 * e.draws() as f64 {
        notes.push(format!("Draws have unequal weights ({} draws are worth {}): statistics made from the images alone, without the weights in /sample_stats/weight, are wrong.", e.draws(), number(summary.effective_draws)));
    }
    if e.output_kind != OutputKind::Samples {
        notes.push("These images are not samples of the posterior; do not use their spread as an error bar.".into());
    }
    if attribute("assume_calibrated") == "true" {
        notes.push("The visibilities were taken as calibrated (--assume-calibrated): errors of gains and phases are not part of the uncertainty.".into());
    }
    notes.extend(e.attributes.iter().filter(|(k, v)| k.starts_with("caveat") && !v.is_empty()).map(|(_, v)| v.clone()));
    notes.push("All uncertainty is conditional on the prior: structure that the training images never show is excluded, however well the data would allow it.".into());
    let items: String = notes.iter().map(|n| format!("<li>{}</li>", escape(n))).collect();
    format!("<h2>Calibration and caveats</h2>\n<ul>{items}</ul>\n")
}

fn gallery(e: &Ensemble, file: &Path) -> Result<String> {
    let (_, draws, channels, ..) = e.images.dim();
    let shown = e.draws().min(GALLERY);
    let mut out = format!(
        "<h2>Draws</h2>\n<p>{}{} North is up and East is left for images of the sky.</p>\n<div class=\"gallery\">",
        if shown < e.draws() { format!("The first {shown} of {} draws, each", e.draws()) } else { "Each draw".into() },
        if channels > 1 {
            format!(" (channel {}) scaled to its own largest value.", escape(&e.channels[0]))
        } else {
            " scaled to its own largest value.".into()
        }
    );
    let chi2: Vec<(&String, &Variable)> =
        e.sample_stats.iter().filter(|(name, v)| is_reduced_chi2(name) && v.values.len() == e.draws()).collect();
    for i in 0..shown {
        let image = e.images.slice(s![i / draws, i % draws, 0, .., ..]);
        let picture = contact_sheet(&[image], 1, 1, None, Colours::Ember).to_png(file)?;
        let mut notes = vec![format!("draw {i}")];
        notes.extend(
            chi2.iter()
                .filter_map(|(name, v)| v.values.iter().nth(i).map(|x| format!("{}: {}", name.replace('_', " "), number(*x)))),
        );
        if e.weights.iter().any(|w| (w - e.weights[0]).abs() > 1e-9) {
            notes.push(format!("weight {}", number(e.weights[i])));
        }
        let caption: String = notes.iter().map(|n| format!("<br>{}", escape(n))).collect();
        out += &format!(
            "<figure><img alt=\"draw {i}\" src=\"data:image/png;base64,{}\"><figcaption>{}</figcaption></figure>",
            base64(&picture),
            &caption[4..]
        );
    }
    Ok(out + "</div>\n")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
