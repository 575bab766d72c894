use crate::{Outcome, Unusable, units};
use anyhow::Context;
use halation_io::{
    Colours, Existing, OutputDir, OutputFile, SkyImage, Started, TensorFile, contact_sheet, write_fits_image, write_whole,
};
use halation_nn::ImageSource;
use halation_vlbi::MICROARCSECOND_RAD;
use halation_vlbi::ring::passes_ring_gate;
use halation_vlbi::sources::{Family, SourceParameters, SourceSimulator};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Images of compact radio sources drawn at random: what the shipped VLBI prior is trained on.
///
/// Image i of a seed is always the same. The ending of the output decides: `.png` is a contact sheet (North up, East left, each image scaled to its peak), `.safetensors` holds
/// `images` f32 (n, 1, size, size) (u = image/max, row 0 South, column 0 East) and `fov_uas` f64 (n), anything else is a folder of FITS
/// images of 1 Jy with `labels.json`.
///
/// Example: halation simulate sources -n 64 --seed 0 -o sheet.png --json labels.json
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of images
    #[arg(short, long, default_value_t = 64)]
    number: u64,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Index of the first image
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    start: u64,
    /// Pixels along each side
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// One family only: gaussian-ring, flat-ring, crescent, accretion-flow, disk, gaussians, double, core-jet or clumps
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Faint spots around 40 % of the sources, rougher structure noise and no blur narrower than two pixels (disks: one), as `vlbi-sources-spots` has
    #[arg(long)]
    spots: bool,
    /// Contact sheet (.png), stack (.safetensors) or folder of FITS images
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// What was drawn for each image, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Count the images that pass the ring gate of `halation assess`, per family: in their own fields, and all in one field
    #[arg(long)]
    ring_gate: bool,
    /// The one field for --ring-gate
    #[arg(long, value_name = "ANGLE", default_value = "128uas", value_parser = units::angle_rad)]
    fov: f64,
    /// Replace an output folder that exists
    #[arg(long)]
    force: bool,
}

/// What is written, by the ending of its name.
enum Form {
    Sheet,
    Stack,
    Folder,
}

fn labels(drawn: &[(SourceParameters, Vec<f32>)]) -> anyhow::Result<Vec<u8>> {
    let labels: Vec<&SourceParameters> = drawn.iter().map(|d| &d.0).collect();
    Ok(serde_json::to_vec_pretty(&labels)?)
}

impl Args {
    fn existing(&self) -> Existing {
        if self.force { Existing::Force } else { Existing::Refuse { resumable: false } }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let unusable = |e: halation_vlbi::Error| anyhow::anyhow!(e).context(Unusable);
    let mut simulator = SourceSimulator::new(args.seed, args.size).map_err(unusable)?;
    if args.spots {
        simulator = simulator.with_spots();
    }
    if let Some(name) = &args.family {
        simulator = simulator.only(Family::from_name(name).map_err(unusable)?);
    }
    let end = args.start.checked_add(args.number).filter(|end| args.number > 0 && *end < 1 << 48);
    let end = end
        .with_context(|| format!("-n {} images from --start {}: use at least one and indices below 2^48", args.number, args.start));
    let end = end.context(Unusable)?;
    let form = match args.out.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
        "png" => Form::Sheet,
        "safetensors" => Form::Stack,
        _ => Form::Folder,
    };
    match form {
        Form::Sheet | Form::Stack => OutputFile::check(&args.out),
        Form::Folder => OutputDir::check(&args.out, args.existing()),
    }
    .context(Unusable)?;
    if let Some(path) = &args.json {
        OutputFile::check(path).context(Unusable)?;
    }
    let drawn: Vec<(SourceParameters, Vec<f32>)> = (args.start..end).into_par_iter().map(|i| simulator.image(i)).collect();
    let (size, n) = (args.size, drawn.len());
    match form {
        Form::Sheet => {
            let views = drawn.iter().map(|(_, u)| ArrayView2::from_shape((size, size), u)).collect::<Result<Vec<_>, _>>()?;
            let columns = (n as f64).sqrt().ceil() as usize;
            contact_sheet(&views, columns, (128 / size).max(1), Some((0.0, 1.0)), Colours::Ember).write_png(&args.out)?;
        }
        Form::Stack => {
            let mut file = TensorFile::new();
            let fov: Vec<f64> = drawn.iter().map(|(p, _)| p.fov_uas).collect();
            file.insert_f32("images", &[n, 1, size, size], drawn.iter().flat_map(|(_, u)| u.iter().copied()).collect());
            file.insert_f64("fov_uas", &[n], fov);
            file.metadata.insert("source".into(), simulator.describe());
            file.metadata.insert("start".into(), args.start.to_string());
            file.write(&args.out)?;
        }
        Form::Folder => folder(&args, &simulator, &drawn)?,
    }
    if let Some(path) = &args.json {
        write_whole(path, &labels(&drawn)?)?;
    }
    let rings = drawn.iter().filter(|(p, _)| p.has_ring).count();
    eprintln!("{n} images in {}, {rings} with a ring", args.out.display());
    if args.ring_gate {
        ring_gate(&args, &drawn)?;
    }
    Ok(Outcome::Done)
}

/// Prints how many images hold a ring by label and by the gate.
fn ring_gate(args: &Args, drawn: &[(SourceParameters, Vec<f32>)]) -> anyhow::Result<()> {
    let passes = |(p, u): &(SourceParameters, Vec<f32>)| -> anyhow::Result<[bool; 3]> {
        let own = passes_ring_gate(u, args.size, p.fov_uas * MICROARCSECOND_RAD)?;
        Ok([p.has_ring, own, passes_ring_gate(u, args.size, args.fov)?])
    };
    let passed: Vec<[bool; 3]> = drawn.par_iter().map(passes).collect::<anyhow::Result<_>>()?;
    let mut shares: BTreeMap<&str, ([usize; 3], usize)> = BTreeMap::new();
    for ((p, _), passed) in drawn.iter().zip(passed) {
        for name in [p.family.name(), "all"] {
            let (counts, all) = shares.entry(name).or_default();
            counts.iter_mut().zip(passed).for_each(|(c, p)| *c += usize::from(p));
            *all += 1;
        }
    }
    let field = format!("gate at {:.0} uas", args.fov / MICROARCSECOND_RAD);
    println!("{:<16} {:>7} {:>9} {:>9} {field:>16}", "family", "images", "label", "gate");
    for (name, (counts, all)) in shares {
        let [label, own, fixed] = counts.map(|c| 100.0 * c as f64 / all as f64);
        println!("{name:<16} {all:>7} {label:>7.1} % {own:>7.1} % {fixed:>14.1} %");
    }
    Ok(())
}

fn folder(args: &Args, simulator: &SourceSimulator, drawn: &[(SourceParameters, Vec<f32>)]) -> anyhow::Result<()> {
    let dir = match OutputDir::begin(&args.out, args.existing()).context(Unusable)? {
        Started::Fresh(dir) | Started::Resumed(dir) => dir,
        Started::Complete(_) => return Ok(()),
    };
    for (p, u) in drawn {
        let total: f64 = u.iter().map(|v| *v as f64).sum();
        let pixels = Array2::from_shape_vec((args.size, args.size), u.iter().map(|v| *v as f64 / total).collect())?;
        let mut image = SkyImage::new(pixels, p.fov_uas * MICROARCSECOND_RAD / args.size as f64);
        image.object = Some(format!("{}-{}", p.family.name(), p.index));
        let history = [format!("halation simulate sources --seed {} --start {} --size {}", args.seed, p.index, args.size)];
        write_fits_image(&dir.path().join(format!("source_{:06}.fits", p.index)), &image, &history)?;
    }
    dir.write("labels.json", &labels(drawn)?)?;
    let mut run = toml::Table::new();
    let integer = |v: u64| i64::try_from(v).map(toml::Value::Integer);
    run.insert("command".into(), "simulate sources".into());
    run.insert("number".into(), integer(args.number)?);
    run.insert("start".into(), integer(args.start)?);
    run.insert("seed".into(), args.seed.to_string().into());
    run.insert("size".into(), integer(args.size as u64)?);
    if let Some(family) = &args.family {
        run.insert("family".into(), family.as_str().into());
    }
    run.insert("source".into(), simulator.describe().into());
    dir.write("run.toml", toml::to_string(&run)?.as_bytes())?;
    dir.finish()?;
    Ok(())
}
