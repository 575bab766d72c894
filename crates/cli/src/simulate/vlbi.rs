use crate::{Outcome, Unusable, units};
use anyhow::{Context, bail};
use halation_io::{OutputFile, SkyImage, read_fits_image, write_fits_image, write_whole};
use halation_vlbi::simulate::{Corruption, Schedule, SourceImage, Truth, parse_start_mjd, resimulate};
use halation_vlbi::{Array, Band, GainPrior, MICROARCSECOND_RAD, Observation, Pulse, read_observation, write_uvfits};
use std::path::{Path, PathBuf};

const EXAMPLE: &str = "\
Examples:
  An image through the uv coverage, times and noise of a real file, scaled to 0.6 Jy:
    halation simulate vlbi --image truth.fits --like M87_096_lo.uvfits --flux 0.6Jy --seed 1 \\
        -o sim.uvfits
  The same image as the EHT of 2022 would see it in one night, without gain errors:
    halation simulate vlbi --image truth.fits --array eht-2022 --start 2022-03-20T00:00 \\
        --hours 9 --scan-s 300 --gap-s 300 --no-gains -o sim.uvfits

Beside sim.uvfits stand sim.truth.fits (the image as it was observed) and sim.truth.json (gains,
phases, seed).";

#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// FITS image of the sky (Jy/pixel with a WCS)
    #[arg(long, value_name = "IMG.fits")]
    image: PathBuf,
    /// UVFITS file whose times, baselines, bands and noise are taken; may be given several times for several bands
    #[arg(long, value_name = "OBS.uvfits", conflicts_with = "array", required_unless_present = "array")]
    like: Vec<PathBuf>,
    /// Array to observe with: eht-2017, eht-2022, ngeht-reference, vlba, or a TOML file of the same form
    #[arg(long, value_name = "NAME|FILE", requires = "start")]
    array: Option<String>,
    /// Start of the first scan, UTC, for example 2017-04-06T00:30:00
    #[arg(long, value_name = "DATE", requires = "array")]
    start: Option<String>,
    /// Time from the start of the first scan to the end, hours
    #[arg(long, default_value_t = 8.0, requires = "array")]
    hours: f64,
    /// Length of a scan, seconds
    #[arg(long, default_value_t = 300.0, requires = "array")]
    scan_s: f64,
    /// Pause between scans, seconds
    #[arg(long, default_value_t = 300.0, requires = "array")]
    gap_s: f64,
    /// Integration time, seconds
    #[arg(long, default_value_t = 10.0, requires = "array")]
    integration_s: f64,
    /// Centre frequencies of the bands, GHz [default: the frequency of the array's SEFDs]
    #[arg(long, value_name = "GHZ,...", value_delimiter = ',', requires = "array")]
    frequency_ghz: Vec<f64>,
    /// Bandwidth of each band, GHz
    #[arg(long, default_value_t = 1.856, requires = "array")]
    bandwidth_ghz: f64,
    /// Lowest elevation of all stations, degrees [default: the array's]
    #[arg(long, requires = "array")]
    elevation_min_deg: Option<f64>,
    /// Right ascension, degrees [default: the image's]
    #[arg(long, requires = "array")]
    ra_deg: Option<f64>,
    /// Declination, degrees [default: the image's]
    #[arg(long, requires = "array")]
    dec_deg: Option<f64>,
    /// UVFITS file to write
    #[arg(short, long, value_name = "OUT.uvfits")]
    output: PathBuf,
    /// Total flux density to which the image is scaled, for example 0.6Jy [default: the image's own]
    #[arg(long, value_parser = units::flux_jy, value_name = "FLUX")]
    flux: Option<f64>,
    /// Seed of noise, gains and phases; files of different bands made with one seed share gains, not noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Shape of a pixel: triangle (images are continuous), delta or rectangle
    #[arg(long, default_value = "triangle", value_parser = pulse)]
    pulse: Pulse,
    /// No station gain errors
    #[arg(long)]
    no_gains: bool,
    /// No station phases
    #[arg(long)]
    no_phases: bool,
    /// No thermal noise
    #[arg(long)]
    no_noise: bool,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

fn pulse(name: &str) -> Result<Pulse, String> {
    match name {
        "triangle" => Ok(Pulse::Triangle),
        "delta" => Ok(Pulse::Delta),
        "rectangle" => Ok(Pulse::Rectangle),
        _ => Err("expected triangle, delta or rectangle".into()),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let truth_fits = args.output.with_extension("truth.fits");
    let truth_json = args.output.with_extension("truth.json");
    if !args.force {
        for path in [&args.output, &truth_fits, &truth_json] {
            if path.exists() {
                return Err(anyhow::anyhow!("{} exists; --force replaces it", path.display()).context(Unusable));
            }
        }
    }
    OutputFile::check(&args.output).context(Unusable)?;
    let (made, truth, image) = simulate(&args).context(Unusable)?;
    // The data come last: where they are, the truth is complete.
    let history = [format!("Truth of {}", args.output.display()), format!("from {}, seed {}", args.image.display(), args.seed)];
    write_fits_image(&truth_fits, &image, &history)?;
    write_whole(&truth_json, serde_json::to_string_pretty(&truth)?.as_bytes())?;
    write_uvfits(&args.output, &made)?;
    print_summary(&made, &image, &args.output);
    Ok(Outcome::Done)
}

fn simulate(args: &Args) -> anyhow::Result<(Observation, Truth, SkyImage)> {
    let mut image = read_fits_image(&args.image)?;
    if let Some(flux_jy) = args.flux {
        let total_jy = image.total();
        if total_jy.is_nan() || total_jy <= 0.0 {
            bail!("{}: the pixels sum to {total_jy} Jy, so the image cannot be scaled to {flux_jy} Jy", args.image.display());
        }
        image.pixels *= flux_jy / total_jy;
    }
    let mut gains = GainPrior::default();
    let like = match &args.array {
        None => read_observation(&args.like)?,
        Some(name) => {
            let array = Array::find(name)?;
            gains.by_station.extend(array.stations.iter().filter_map(|s| Some((s.name.clone(), s.gain_sigma?))));
            schedule(args, &array, &image)?.observe(&array)?
        }
    };
    let source =
        SourceImage { pixels_jy: image.pixels.view(), pixel_rad: image.pixel_rad, centre_rad: image.centre_rad, pulse: args.pulse };
    let corruption =
        Corruption { noise: !args.no_noise, gains: (!args.no_gains).then_some(gains), phases: !args.no_phases, seed: args.seed };
    // The observation has been checked where it came from: what is refused here is the image.
    let (made, truth) = resimulate(&source, &like, &corruption).with_context(|| args.image.display().to_string())?;
    image.ra_deg = Some(made.ra_deg);
    image.dec_deg = Some(made.dec_deg);
    image.frequency_hz = Some(made.frequency_hz());
    image.mjd = made.visibilities.first().map(|v| v.mjd.floor());
    image.object = Some(made.source.clone());
    Ok((made, truth, image))
}

fn schedule(args: &Args, array: &Array, image: &SkyImage) -> anyhow::Result<Schedule> {
    let (Some(ra_deg), Some(dec_deg)) = (args.ra_deg.or(image.ra_deg), args.dec_deg.or(image.dec_deg)) else {
        bail!("{}: found no direction in the header, expected RA and DEC: give --ra-deg and --dec-deg", args.image.display());
    };
    let frequencies_hz = match args.frequency_ghz.as_slice() {
        [] => vec![array.frequency_hz],
        ghz => ghz.iter().map(|f| f * 1e9).collect(),
    };
    Ok(Schedule {
        source: image.object.clone().unwrap_or_else(|| "SIMULATED".into()),
        ra_deg,
        dec_deg,
        start_mjd: parse_start_mjd(args.start.as_deref().unwrap_or_default())?,
        hours: args.hours,
        scan_s: args.scan_s,
        gap_s: args.gap_s,
        integration_s: args.integration_s,
        bands: frequencies_hz
            .into_iter()
            .map(|frequency_hz| Band { frequency_hz, bandwidth_hz: args.bandwidth_ghz * 1e9 })
            .collect(),
        elevation_min_deg: args.elevation_min_deg,
    })
}

fn print_summary(o: &Observation, image: &SkyImage, output: &Path) {
    println!(
        "{}: {} visibilities of {}, {} stations, {} scans, {} band(s), {:.4} Jy",
        output.display(),
        o.visibilities.len(),
        o.source,
        o.stations_with_data().iter().filter(|u| **u).count(),
        o.scans.len(),
        o.bands.len(),
        image.total()
    );
    let finest_rad = 1.0 / o.max_baseline_lambda();
    if image.pixel_rad.0.max(image.pixel_rad.1) > 0.5 * finest_rad {
        eprintln!(
            "halation: note: the image's pixels ({:.1} uas) are coarser than half the finest fringe ({:.1} uas): the shape of a pixel (--pulse) shows in the data",
            image.pixel_rad.0 / MICROARCSECOND_RAD,
            finest_rad / MICROARCSECOND_RAD
        );
    }
}
