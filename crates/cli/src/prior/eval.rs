use super::quality;
use crate::{Outcome, Unusable};
use anyhow::{Context, bail};
use halation_compute::Tensor;
use halation_io::{OutputFile, TensorFile};
use halation_nn::checkpoint::{finite, load_unet};
use halation_nn::{Denoiser, Precond, UNetDenoiser, schedule::VpSchedule};
use std::path::{Path, PathBuf};

/// Evaluate a network on given inputs (--io), or measure a prior against the source that it was trained on (--source).
///
/// With --io: writes the network's output, the input gradient of sum(cotangent * output) and, with --grads, the parameters' gradients of
/// it: the check against any other implementation. IO.safetensors holds x (draw, channel, y, x), sigma (one per draw) and, where gradients
/// are wanted, cotangent (like the output). In place of sigma it may hold t: for networks of the variance-preserving process (precond vp) its
/// time; for those of a discrete-time process (precond eps) the index, and then x is the state x_t and the output the network's own, noise and
/// variance. OUT.safetensors holds output, vjp_x and grad.NAME.
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
    let has = |name: &str| io.tensors.contains_key(name);
    let values = match (has("sigma"), denoiser.precond()) {
        (true, _) => tensor("sigma")?.into_vec(),
        (false, Precond::Vp) => tensor("t")?.data().iter().map(|t| VpSchedule::default().sigma(*t as f64) as f32).collect(),
        (false, Precond::Eps(_)) => tensor("t")?.into_vec(),
        (false, _) => bail!(anyhow::anyhow!("{}: no tensor \"sigma\"", io_path.display()).context(Unusable)),
    };
    let cotangent = has("cotangent").then(|| tensor("cotangent")).transpose()?;
    if args.grads && cotangent.is_none() {
        bail!(anyhow::anyhow!("{}: --grads needs a tensor \"cotangent\"", io_path.display()).context(Unusable));
    }
    let own = !has("sigma") && matches!(denoiser.precond(), Precond::Eps(_));
    let evaluate = if own { of_network } else { of_denoiser };
    let Evaluation { output, vjp, gradients } =
        evaluate(&denoiser, &x, &values, cotangent.as_ref(), args.grads).context(Unusable)?;
    let mut out = TensorFile::new();
    out.insert_f32("output", output.shape(), output.data().to_vec());
    if let Some(vjp) = vjp {
        out.insert_f32("vjp_x", vjp.shape(), vjp.data().to_vec());
    }
    for p in denoiser.net().parameters().iter().filter(|_| !gradients.is_empty()) {
        out.insert_f32(format!("grad.{}", p.name), &p.shape, gradients[p.offset..p.offset + p.len()].to_vec());
    }
    out.write(out_path)?;
    Ok(Outcome::Done)
}

struct Evaluation {
    output: Tensor,
    /// Where there is a cotangent.
    vjp: Option<Tensor>,
    /// Flat; empty where they are not wanted.
    gradients: Vec<f32>,
}

fn of_denoiser(net: &UNetDenoiser, x: &Tensor, sigma: &[f32], g: Option<&Tensor>, grads: bool) -> halation_nn::Result<Evaluation> {
    let Some(g) = g else { return Ok(Evaluation { output: net.denoise(x, sigma)?, vjp: None, gradients: Vec::new() }) };
    let (output, pullback) = net.denoise_with_pullback(x, sigma)?;
    let gradients = if grads { net.parameter_gradients(x, sigma, g)? } else { Vec::new() };
    Ok(Evaluation { output, vjp: Some(pullback.vjp(g)?), gradients })
}

/// The network itself, at its own noise values.
fn of_network(denoiser: &UNetDenoiser, x: &Tensor, t: &[f32], g: Option<&Tensor>, grads: bool) -> halation_nn::Result<Evaluation> {
    let net = denoiser.net();
    let Some(g) = g else { return Ok(Evaluation { output: net.forward(x, t)?, vjp: None, gradients: Vec::new() }) };
    let (output, tape) = net.forward_with_tape(x, t)?;
    let gradients = if grads { net.parameter_gradients(x, t, g)? } else { Vec::new() };
    Ok(Evaluation { output, vjp: Some(net.vjp(&tape, g)?), gradients })
}
