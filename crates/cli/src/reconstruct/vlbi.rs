//! `halation reconstruct vlbi`.

use super::run::{Job, LoadedPrior, OutputOptions, SolverOptions, execute, load_prior};
use super::vlbi_output::write;
use crate::units::{MICROARCSECOND_RAD, angle_rad, flux_jy};
use crate::{Outcome, Unusable};
use anyhow::{Context, Result, anyhow, bail};
use halation_inverse::Problem;
use halation_vlbi::{
    DataProducts, FluxScale, GainPrior, ImageGrid, LikelihoodSettings, Observation, PrepareSettings, Prepared, VlbiProblem,
    check_field_of_view, field_of_view, prepare, read_observation,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Options that a TOML file may give as well.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct Options {
    /// UVFITS files of one source; several files (bands) are fitted together, closures never mix bands
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    observation: Vec<PathBuf>,
    /// Prior: a name (`vlbi-64`) or a safetensors file [default: vlbi-64]
    #[arg(long, value_name = "NAME|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prior: Option<PathBuf>,
    /// Pixels along each side; the prior decides, another number is an error
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    npix: Option<usize>,
    /// Field of view, for example 128uas [default: from the data]
    #[arg(long, value_name = "ANGLE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fov: Option<String>,
    /// Data products: closures, amplitudes+closures or visibilities [default: closures]
    #[arg(long, value_name = "PRODUCTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Total compact flux density, for example 0.6Jy [default: unknown; images are in units of it]
    #[arg(long, value_name = "FLUX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    flux: Option<String>,
    /// Systematic noise as a fraction of the amplitude [default: 0.01]
    #[arg(long, value_name = "F")]
    #[serde(skip_serializing_if = "Option::is_none")]
    systematic: Option<f64>,
    /// Drop scan-averaged visibilities with a lower signal-to-noise ratio; closures are Gaussian only above about 3 [default: 3]
    #[arg(long, value_name = "SNR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    min_snr: Option<f64>,
    /// Prior standard deviation of a station's log-gain where amplitudes are used, for example LM=1.0; may be given several times
    #[arg(long, value_name = "STATION=SIGMA")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gain: Vec<String>,
    /// Take visibilities as calibrated: no station gains or phases (written into every output)
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    assume_calibrated: bool,
}

#[derive(clap::Args)]
#[command(
    after_help = "Example: halation reconstruct vlbi M87_lo.uvfits M87_hi.uvfits -o m87 --draws 20 --seed 0 --systematic 0.01"
)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    solver: SolverOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Both groups of options as one table, as they stand in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct All {
    #[serde(flatten)]
    options: Options,
    #[serde(flatten)]
    solver: SolverOptions,
}

fn gains(given: &[String]) -> Result<GainPrior> {
    let mut prior = GainPrior::default();
    for text in given {
        let parsed = text.split_once('=').and_then(|(station, sigma)| Some((station, sigma.parse::<f64>().ok()?)));
        match parsed.filter(|(_, sigma)| *sigma > 0.0 && sigma.is_finite()) {
            Some((station, sigma)) => prior.by_station.insert(station.to_string(), sigma),
            None => bail!("--gain {text:?}: expected STATION=SIGMA with a positive number, for example LM=1.0"),
        };
    }
    Ok(prior)
}

/// A gain that no data product uses, or of a station that does not observe, would be ignored in silence.
fn check_gains(options: &Options, data: DataProducts, prepared: &Prepared) -> Result<()> {
    let Some(given) = options.gain.first() else { return Ok(()) };
    if matches!(data, DataProducts::Closures | DataProducts::CalibratedVisibilities) {
        bail!("--gain {given}: these data products have no station gains; it goes with --data amplitudes+closures or visibilities");
    }
    let observing: BTreeSet<&str> =
        prepared.visibilities.iter().flat_map(|v| [v.station1, v.station2]).map(|s| prepared.stations[s].name.as_str()).collect();
    match options.gain.iter().find(|text| !observing.contains(text.split('=').next().unwrap_or_default())) {
        Some(text) => {
            let names: Vec<&str> = observing.into_iter().collect();
            bail!("--gain {text}: found no such station in the data that are left, expected one of {}", names.join(" "))
        }
        None => Ok(()),
    }
}

/// Fields of view for which the prior was trained, radians: metadata `fov_uas`, two numbers.
fn prior_fields(prior: &LoadedPrior) -> Result<(f64, f64)> {
    let Some(text) = prior.metadata.get("fov_uas") else {
        bail!(
            "{}: no metadata fov_uas: not a prior of images of the sky, of which lengths are known; give one that `halation prior train vlbi-sources` has trained, for example vlbi-64",
            prior.path.display()
        );
    };
    if prior.range != [-1.0, 1.0] {
        bail!(
            "{}: pixel values {:?}, expected -1 to 1 (z = 2 u - 1, u = image over its maximum): not a prior of images of the sky",
            prior.path.display(),
            prior.range
        );
    }
    let numbers: Option<[f64; 2]> = serde_json::from_str(text).ok().filter(|[low, high]: &[f64; 2]| 0.0 < *low && low < high);
    let Some([low, high]) = numbers else {
        bail!("{}: metadata fov_uas: found {text:?}, expected two increasing numbers like [100, 250]", prior.path.display());
    };
    Ok((low * MICROARCSECOND_RAD, high * MICROARCSECOND_RAD))
}

/// The image grid, and how it was chosen in words; `given` says whether the command line names the field.
fn grid(options: &Options, given: bool, prepared: &Prepared, prior: &LoadedPrior) -> Result<(ImageGrid, String)> {
    let [channels, ny, nx] = prior.denoiser.item_shape();
    if channels != 1 || ny != nx || options.npix.is_some_and(|n| n != nx) {
        bail!(
            "{}: the prior makes images of {channels} channel(s) of {ny} x {nx}, expected one channel of {} pixels squared; leave --npix out or give a prior of that size",
            prior.path.display(),
            options.npix.unwrap_or(nx)
        );
    }
    let uas = |v: f64| v / MICROARCSECOND_RAD;
    let limits = prior_fields(prior)?;
    let found = field_of_view(prepared, limits);
    let fov_rad = match &options.fov {
        Some(text) => angle_rad(text).map_err(|e| anyhow!("--fov: {e}"))?,
        None => found.fov_rad,
    };
    if fov_rad < limits.0 * (1.0 - 1e-9) || fov_rad > limits.1 * (1.0 + 1e-9) {
        bail!(
            "--fov {:.1}uas: the prior {} was trained for fields of {:.0} to {:.0} uas",
            uas(fov_rad),
            prior.path.display(),
            uas(limits.0),
            uas(limits.1)
        );
    }
    let grid = ImageGrid::new(nx, fov_rad)?;
    check_field_of_view(&found, grid)?;
    let origin = match (given, &options.fov) {
        (true, _) => "given",
        (false, Some(_)) => "as in run.toml or the file of --config",
        (false, None) => "from the data",
    };
    Ok((grid, format!("{found}; used {:.1} microarcsec ({origin}), {nx} x {nx} pixels", uas(fov_rad))))
}

/// Data products and flux scale, and what is assumed about the calibration in words.
fn likelihood(options: &Options) -> Result<(LikelihoodSettings, &'static str)> {
    let name = options.data.as_deref().unwrap_or("closures");
    let Some(data) = DataProducts::parse(name, options.assume_calibrated) else {
        bail!(
            "--data {name}{}: expected closures, amplitudes+closures or visibilities; --assume-calibrated goes with visibilities alone",
            if options.assume_calibrated { " --assume-calibrated" } else { "" }
        );
    };
    let flux = match &options.flux {
        Some(text) => FluxScale::TotalJy(flux_jy(text).map_err(|e| anyhow!("--flux: {e}"))?),
        None if data == DataProducts::CalibratedVisibilities => {
            bail!("--data visibilities --assume-calibrated needs --flux, the total compact flux density")
        }
        None => FluxScale::Free,
    };
    let calibration = match data {
        DataProducts::Closures => {
            "closure phases and log closure amplitudes: free of station gains and phases; Gaussian in the closures, valid above S/N 3"
        }
        DataProducts::AmplitudesAndClosures | DataProducts::Visibilities => {
            "station phases free, station log-gains marginalised; Gaussian in closure phases and log amplitudes, valid above S/N 3"
        }
        DataProducts::CalibratedVisibilities => "ASSUMED CALIBRATED: complex visibilities taken without station gains and phases",
    };
    Ok((LikelihoodSettings { data, flux, gains: gains(&options.gain)?, ..Default::default() }, calibration))
}

pub(crate) fn run(args: Args) -> Result<Outcome> {
    let fov_given = args.options.fov.is_some();
    let All { mut options, solver } = args.output.complete(&All { options: args.options, solver: args.solver })?;
    if options.observation.is_empty() {
        return Err(anyhow!("OBS.uvfits is missing; give at least one file on the command line or in the file of --config")
            .context(Unusable));
    }
    for path in &mut options.observation {
        // A path that does not exist is reported by the reader, in its own words.
        *path = std::fs::canonicalize(&*path).unwrap_or_else(|_| path.clone());
    }
    let observation = read_observation(&options.observation).context(Unusable)?;
    let (systematic, min_snr) = (options.systematic.unwrap_or(0.01), options.min_snr.unwrap_or(3.0));
    if !((0.0..1.0).contains(&systematic) && min_snr >= 0.0 && min_snr.is_finite()) {
        return Err(anyhow!(
            "--systematic {systematic} and --min-snr {min_snr}: expected a fraction below 1 and a number that is not negative"
        )
        .context(Unusable));
    }
    let prepared = prepare(&observation, &PrepareSettings { systematic, min_snr, ..Default::default() }).context(Unusable)?;
    let prior = load_prior(options.prior.as_deref().unwrap_or(Path::new("vlbi-64")))?;
    let (grid, field) = grid(&options, fov_given, &prepared, &prior).context(Unusable)?;
    let (settings, calibration) = likelihood(&options).context(Unusable)?;
    check_gains(&options, settings.data, &prepared).context(Unusable)?;
    let vlbi = VlbiProblem::new(&prepared, grid, &settings).context(Unusable)?;
    let (y, x) = vlbi.axes();
    let problem = Problem {
        likelihood: vlbi.likelihood(),
        prior: prior.denoiser.as_ref(),
        domain: &vlbi,
        range: prior.range,
        unit: vlbi.unit().into(),
        channels: vec!["I".into()],
        y,
        x,
    };
    let mut summary: Vec<String> = vec![format!(
        "source: {} ({} file(s), {} band(s))",
        observation.source,
        options.observation.len(),
        observation.bands.len()
    )];
    summary.extend(prepared.report.to_string().lines().map(str::to_string));
    summary.push(field);
    summary.push(format!("likelihood: {calibration}"));
    if !args.output.dry_run {
        summary.iter().for_each(|l| eprintln!("{l}"));
    }
    let complete = Options {
        prior: Some(prior.path.clone()),
        npix: Some(grid.n),
        // The shortest text that gives the same f64 back.
        fov: options.fov.clone().or_else(|| Some(format!("{}rad", grid.fov_rad))),
        data: options.data.clone().or_else(|| Some("closures".into())),
        systematic: Some(systematic),
        min_snr: Some(min_snr),
        ..options.clone()
    };
    execute(
        &problem,
        &Job {
            command: "reconstruct vlbi",
            output: &args.output,
            solver: &solver,
            default_solver: super::run::SolverName::Langevin,
            options: toml::Table::try_from(&complete)?,
            inputs: &options.observation,
            prior: &prior,
            summary,
            attributes: attributes(&observation, &prepared, &prior, calibration),
            write: &|ensemble, folder| write(ensemble, folder, &observation, &vlbi),
        },
    )
}

fn attributes(observation: &Observation, prepared: &Prepared, prior: &LoadedPrior, calibration: &str) -> Vec<(String, String)> {
    let names: Vec<&str> = prepared.stations.iter().map(|s| s.name.as_str()).collect();
    let mut out = vec![
        ("object".to_string(), observation.source.clone()),
        ("stations".into(), names.join(" ")),
        ("frequency_hz".into(), observation.bands.iter().map(|b| b.frequency_hz.to_string()).collect::<Vec<_>>().join(" ")),
        ("ra_deg".into(), observation.ra_deg.to_string()),
        ("dec_deg".into(), observation.dec_deg.to_string()),
        ("likelihood".into(), calibration.to_string()),
        ("preparation".into(), prepared.report.to_string()),
    ];
    if let Some(share) = prior.metadata.get("ring_probability") {
        out.push(("prior_ring_probability".into(), share.clone()));
    }
    out
}
