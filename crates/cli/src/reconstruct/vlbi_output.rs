//! The files of a VLBI reconstruction beside posterior.h5: mean.fits, std.fits and summary.png.

use anyhow::{Context, Result};
use halation_io::{SkyImage, write_fits_image};
use halation_posterior::plot::{DataPanel, PlotImages, UvBand};
use halation_posterior::{Ensemble, Summary, quantiles};
use halation_vlbi::{DataProducts, Observation, VlbiProblem};
use ndarray::{Array2, s};
use std::path::Path;

pub(super) fn write(ensemble: &Ensemble, folder: &Path, observation: &Observation, vlbi: &VlbiProblem) -> Result<()> {
    let summary = Summary::of(ensemble)?;
    let pixel_rad = vlbi.likelihood().fourier().grid().pixel_rad();
    let mut history =
        vec![format!("halation {}", env!("CARGO_PKG_VERSION")), ensemble.attributes.get("label").cloned().unwrap_or_default()];
    if ensemble.unit != "Jy/pixel" {
        history.push("The total flux is unknown and set to 1 Jy: give --flux for another".into());
    }
    for (name, plane) in [("mean.fits", &summary.mean), ("std.fits", &summary.std)] {
        let pixels: Array2<f64> = plane.slice(s![0, .., ..]).mapv(f64::from);
        let image = SkyImage {
            ra_deg: Some(observation.ra_deg),
            dec_deg: Some(observation.dec_deg),
            frequency_hz: observation.bands.first().map(|b| b.frequency_hz),
            mjd: observation.visibilities.first().map(|v| v.mjd),
            object: Some(observation.source.clone()),
            ..SkyImage::new(pixels, pixel_rad)
        };
        write_fits_image(&folder.join(name), &image, &history)?;
    }
    let images = PlotImages::of(ensemble, &summary, 0)?;
    let mut plot = images.plot(ensemble);
    let prepared = vlbi.likelihood().prepared();
    plot.title = format!("{}, MJD {:.2}", observation.source, prepared.visibilities.first().map_or(0.0, |v| v.mjd));
    plot.uv = prepared
        .bands
        .iter()
        .enumerate()
        .map(|(b, band)| {
            let here = || prepared.visibilities.iter().filter(|v| v.band == b);
            UvBand {
                name: format!("{:.1} GHz", band.frequency_hz / 1e9),
                u_lambda: here().map(|v| v.u_lambda).collect(),
                v_lambda: here().map(|v| v.v_lambda).collect(),
            }
        })
        .collect();
    plot.data = panels(ensemble, vlbi)?;
    plot.draw()?.write_png(&folder.join("summary.png"))?;
    Ok(())
}

/// Amplitudes against baseline length and closure phases against their longest baseline, with the draws' predictions.
fn panels(ensemble: &Ensemble, vlbi: &VlbiProblem) -> Result<Vec<DataPanel>> {
    let weights = ensemble.checked_weights()?;
    let note = |name: &str| {
        let values = ensemble.sample_stats.get(&format!("reduced_chi2_{name}"));
        let values: Vec<f64> = values.map(|v| v.values.iter().copied().collect()).unwrap_or_default();
        let median = quantiles(&values, &weights, &[0.5]);
        median.map(|v| format!("median \u{3c7}\u{b2}/N {:.2}", v[0])).unwrap_or_default()
    };
    let visibilities = &vlbi.likelihood().prepared().visibilities;
    let amplitude = DataPanel {
        title: "Visibility amplitudes".into(),
        x_label: "Baseline length (G\u{3bb})".into(),
        y_label: "Amplitude (Jy)".into(),
        x: visibilities.iter().map(|v| v.baseline_lambda() / 1e9).collect(),
        y: visibilities.iter().map(|v| v.value_jy.norm()).collect(),
        sigma: visibilities.iter().map(|v| v.sigma_jy).collect(),
        group: visibilities.iter().map(|v| v.band).collect(),
        log_y: true,
        note: match vlbi.likelihood().settings().data {
            DataProducts::Closures => "not fitted: station gains are free".into(),
            DataProducts::CalibratedVisibilities => note("visibility"),
            DataProducts::AmplitudesAndClosures | DataProducts::Visibilities => note("log_amplitude"),
        },
        ..Default::default()
    };
    let phases = &vlbi.closure_data().phases;
    let degrees = 180.0 / std::f64::consts::PI;
    let closure = DataPanel {
        title: "Closure phases".into(),
        x_label: "Longest baseline of the cycle (G\u{3bb})".into(),
        y_label: "Closure phase (deg)".into(),
        x: phases.iter().map(|c| c.longest_baseline_lambda / 1e9).collect(),
        y: phases.iter().map(|c| c.value_rad * degrees).collect(),
        sigma: phases.iter().map(|c| c.sigma_rad * degrees).collect(),
        group: phases.iter().map(|c| c.band).collect(),
        period: Some(360.0),
        note: note("closure_phase"),
        ..Default::default()
    };
    let mut out = Vec::new();
    for (panel, name, factor) in [(amplitude, "amplitude", 1.0), (closure, "closure_phase", degrees)] {
        if panel.x.is_empty() {
            continue;
        }
        let predicted =
            ensemble.posterior_predictive.get(name).with_context(|| format!("the ensemble has no prediction of {name}"))?;
        let rows = predicted.values.to_shape((weights.len(), panel.x.len()))?.mapv(|v| v * factor);
        out.push(panel.with_predictions(&rows.view(), &weights)?);
    }
    Ok(out)
}
