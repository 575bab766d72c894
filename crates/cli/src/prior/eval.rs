use crate::{Outcome, Unusable};
use anyhow::{Context, bail};
use halation_compute::Tensor;
use halation_io::TensorFile;
use halation_nn::checkpoint::{finite, load_unet};
use halation_nn::{Denoiser, Precond, schedule::VpSchedule};
use std::path::PathBuf;

/// Evaluate a network on given inputs and write its output, the input gradient of sum(cotangent * output) and, with --grads, the
/// parameters' gradients of it: the check against any other implementation.
///
/// IO.safetensors holds x (draw, channel, y, x), sigma (one per draw; or t, the time of the variance-preserving process, for networks of
/// that kind) and, where gradients are wanted, cotangent (like x). OUT.safetensors holds output, vjp_x and grad.NAME.
///
/// Example: halation prior eval weights.safetensors --io io.safetensors -o out.safetensors --grads
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The network's tensors
    checkpoint: PathBuf,
    /// Its architecture, when neither metadata nor config.json beside the file say it
    #[arg(long, value_name = "CONFIG.json")]
    arch: Option<PathBuf>,
    /// The inputs
    #[arg(long, value_name = "IO.safetensors")]
    io: PathBuf,
    /// The results
    #[arg(short, long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Also the gradients of all parameters
    #[arg(long)]
    grads: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let weights = TensorFile::read(&args.checkpoint).context(Unusable)?;
    let denoiser = load_unet(&args.checkpoint, &weights, args.arch.as_deref()).context(Unusable)?;
    let io = TensorFile::read(&args.io).context(Unusable)?;
    let tensor = |name: &str| -> anyhow::Result<Tensor> {
        let (shape, values) = finite(&args.io, &io, name).context(Unusable)?;
        Ok(Tensor::from_vec(shape, values.to_vec())?)
    };
    let x = tensor("x")?;
    let sigma: Vec<f32> = match (io.tensors.contains_key("sigma"), denoiser.precond()) {
        (true, _) => tensor("sigma")?.into_vec(),
        (false, Precond::Vp) => tensor("t")?.data().iter().map(|t| VpSchedule::default().sigma(*t as f64) as f32).collect(),
        (false, _) => bail!(anyhow::anyhow!("{}: no tensor \"sigma\"", args.io.display()).context(Unusable)),
    };
    let mut out = TensorFile::new();
    if !io.tensors.contains_key("cotangent") {
        if args.grads {
            bail!(anyhow::anyhow!("{}: --grads needs a tensor \"cotangent\"", args.io.display()).context(Unusable));
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
    out.write(&args.out)?;
    Ok(Outcome::Done)
}
