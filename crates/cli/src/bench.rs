use crate::{Outcome, Unusable};
use anyhow::{Context, bail};
use clap::Subcommand;
use halation_compute::{Philox, Tensor};
use halation_nn::family::EdmForm;
use halation_nn::{UNet, UNetConfig};
use std::time::Instant;

/// What is timed.
#[derive(Subcommand)]
pub(crate) enum What {
    /// A U-Net: forward, forward with the input gradient, and a training step
    Unet(Unet),
}

/// Time a U-Net with random weights: medians of seven calls after one to warm up. rel_err is the distance of the timed output from the same
/// network in f64, computed plainly.
///
/// Example: halation bench unet --channels 32 --mult 1,2,2 --batch 8 --json
#[derive(clap::Args)]
pub(crate) struct Unet {
    /// Feature channels at full resolution
    #[arg(long, default_value_t = 32)]
    channels: usize,
    /// Multipliers of the feature channels
    #[arg(long, value_delimiter = ',', default_value = "1,2,2")]
    mult: Vec<usize>,
    /// Images per call
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Pixels along each side
    #[arg(long, default_value_t = 64)]
    res: usize,
    /// Device; `cpu`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const REPEATS: usize = 7;

fn median(mut f: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    f()?;
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let start = Instant::now();
        f()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[REPEATS / 2])
}

pub(crate) fn run(what: What) -> anyhow::Result<Outcome> {
    match what {
        What::Unet(args) => unet(args),
    }
}

fn unet(args: Unet) -> anyhow::Result<Outcome> {
    if !["cpu", "auto"].contains(&args.device.as_str()) {
        bail!(anyhow::anyhow!("--device {}: found no such device, expected cpu", args.device).context(Unusable));
    }
    if args.batch == 0 {
        bail!(anyhow::anyhow!("--batch 0: expected at least one image").context(Unusable));
    }
    let config = UNetConfig {
        img_resolution: args.res,
        img_channels: 1,
        model_channels: args.channels,
        channel_mult: args.mult.clone(),
        attn_resolutions: vec![16],
        num_blocks: 1,
        form: EdmForm::default(),
    };
    let mut net = UNet::new(config, 0).context(Unusable)?;
    // The family's starting values switch all branches off; random ones of full size exercise them.
    net.set_theta(net.full_size_theta(1))?;
    let x = Philox::new(1).normal(0..args.batch as u64, 0, &[1, args.res, args.res])?;
    let noise = vec![0.3f32; args.batch];
    let forward_s = median(|| net.forward(&x, &noise).map(drop).map_err(Into::into))?;
    let forward_vjp_s = median(|| {
        let (out, tape) = net.forward_with_tape(&x, &noise)?;
        net.vjp(&tape, &out)?;
        Ok(())
    })?;
    let mut sum = net.gradient_sum();
    let train_s = median(|| {
        net.accumulate(&mut sum, &x, &noise, |_, out| Ok((out.clone(), 0.0)))?;
        net.flat_gradients(&sum);
        Ok(())
    })?;
    let first = x.select(&[0])?;
    let rel_err = relative_error(&net.forward(&first, &noise[..1])?, &net.reference_forward(&first, &noise[..1])?);
    let gflop = net.flops() * args.batch as f64 / 1e9;
    let result = serde_json::json!({
        "device": "cpu",
        "level": halation_compute::CpuLevel::current().name(),
        "threads": rayon::current_num_threads(),
        "channels": args.channels,
        "mult": args.mult,
        "batch": args.batch,
        "res": args.res,
        "params": net.theta().len(),
        "flops": net.flops() * args.batch as f64,
        "forward_s": forward_s,
        "forward_vjp_s": forward_vjp_s,
        "train_s": train_s,
        "rel_err": rel_err,
    });
    if args.json {
        println!("{result}");
    } else {
        println!("{} images of {1}x{1}, {2} parameters, {gflop:.1} GFLOP forward", args.batch, args.res, net.theta().len());
        println!("forward        {forward_s:.4} s ({:.0} GFLOP/s)", gflop / forward_s);
        println!("forward + VJP  {forward_vjp_s:.4} s");
        println!("training step  {train_s:.4} s");
        println!("error          {rel_err:.1e} of the output's norm, against f64");
    }
    Ok(Outcome::Done)
}

fn relative_error(found: &Tensor, exact: &[f64]) -> f64 {
    let difference: f64 = found.data().iter().zip(exact).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
    (difference / exact.iter().map(|b| b * b).sum::<f64>()).sqrt()
}
