use super::quality;
use crate::{Outcome, Unusable};
use anyhow::{Context, bail};
use halation_compute::Tensor;
use halation_io::{OutputFile, TensorFile};
use halation_nn::checkpoint::{finite, load_unet};
use halation_nn::{Denoiser, Precond, schedule::VpSchedule};
use std::path::{Path, PathBuf};

/// Evaluate a network on given inputs (--io), or measure a prior against the source that it was trained on (--source).
///
/// With --io: writes the network's output, the input gradient of sum(cotangent * output) and, with --grads, the parameters' gradients of
/// it: the check against any other implementation. IO.safetensors holds x (draw, channel, y, x), sigma (one per draw; or t, the time of
/// the variance-preserving process, for networks of that kind) and, where gradients are wanted, cotangent (like x). OUT.safetensors holds
/// output, vjp_x and grad.NAME.
///
/// With --source: prints the denoising error against sigma on fresh images, on images of the training run and beside a linear denoiser,
/// and the share of the prior's samples that pass the ring gate beside the simulator's. Errors are RMS per pixel in the network's own
/// units; "low" is the error of the modes with |k| <= 6.5 cycles per field over sigma, where 1 is the error of the data themselves. The
/// linear (Wiener) denoiser knows the mean image and the power of each Fourier mode of other images of the source, and scales each mode of
/// the deviation from the mean by P / (P + sigma^2). 500 samples take some minutes; --samples 0 leaves them out.
///
/// Example: halation prior eval weights.safetensors --io io.safetensors -o out.safetensors --grads
///
/// Example: halation prior eval vlbi-64.safetensors --source vlbi-sources --samples 500 --record
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The network's tensors
    checkpoint: PathBuf,
    /// Its architecture, when neither metadata nor config.json beside the file say it
    #[arg(long, value_name = "CONFIG.json", requires = "io", conflicts_with = "source")]
    arch: Option<PathBuf>,
    /// The inputs
    #[arg(long, value_name = "IO.safetensors", conflicts_with = "source")]
    io: Option<PathBuf>,
    /// The results of --io
    #[arg(short, long, value_name = "OUT.safetensors", requires = "io", conflicts_with = "source")]
    out: Option<PathBuf>,
    /// Also the gradients of all parameters
    #[arg(long, requires = "io", conflicts_with = "source")]
    grads: bool,
    #[command(flatten)]
    quality: quality::Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    match (&args.quality.source, &args.io, &args.out) {
        (Some(source), ..) => quality::run(&args.checkpoint, source, &args.quality),
        (None, Some(io), Some(out)) => on_inputs(&args, io, out),
        (None, Some(_), None) => {
            bail!(anyhow::anyhow!("--io needs -o OUT.safetensors, where the results go").context(Unusable))
        }
        (None, None, _) => {
            let message = "found neither --io nor --source; give --io IO.safetensors -o OUT.safetensors to evaluate a network on given \
                           inputs, or --source vlbi-sources to measure a prior";
            bail!(anyhow::anyhow!(message).context(Unusable))
        }
    }
}

fn on_inputs(args: &Args, io_path: &Path, out_path: &Path) -> anyhow::Result<Outcome> {
    OutputFile::check(out_path).context(Unusable)?;
    let weights = TensorFile::read(&args.checkpoint).context(Unusable)?;
    let denoiser = load_unet(&args.checkpoint, &weights, args.arch.as_deref()).context(Unusable)?;
    let io = TensorFile::read(io_path).context(Unusable)?;
    let tensor = |name: &str| -> anyhow::Result<Tensor> {
        let (shape, values) = finite(io_path, &io, name).context(Unusable)?;
        Ok(Tensor::from_vec(shape, values.to_vec())?)
    };
    let x = tensor("x")?;
    let sigma: Vec<f32> = match (io.tensors.contains_key("sigma"), denoiser.precond()) {
        (true, _) => tensor("sigma")?.into_vec(),
        (false, Precond::Vp) => tensor("t")?.data().iter().map(|t| VpSchedule::default().sigma(*t as f64) as f32).collect(),
        (false, _) => bail!(anyhow::anyhow!("{}: no tensor \"sigma\"", io_path.display()).context(Unusable)),
    };
    let mut out = TensorFile::new();
    if !io.tensors.contains_key("cotangent") {
        if args.grads {
            bail!(anyhow::anyhow!("{}: --grads needs a tensor \"cotangent\"", io_path.display()).context(Unusable));
        }
        let y = denoiser.denoise(&x, &sigma).context(Unusable)?;
        out.insert_f32("output", y.shape(), y.data().to_vec());
    } else {
        let cotangent = tensor("cotangent")?;
        let (y, pullback) = denoiser.denoise_with_pullback(&x, &sigma).context(Unusable)?;
        let vjp = pullback.vjp(&cotangent).context(Unusable)?;
        out.insert_f32("output", y.shape(), y.data().to_vec());
        out.insert_f32("vjp_x", vjp.shape(), vjp.data().to_vec());
        if args.grads {
            let gradients = denoiser.parameter_gradients(&x, &sigma, &cotangent).context(Unusable)?;
            for p in denoiser.net().parameters() {
                out.insert_f32(format!("grad.{}", p.name), &p.shape, gradients[p.offset..p.offset + p.len()].to_vec());
            }
        }
    }
    out.write(out_path)?;
    Ok(Outcome::Done)
}
