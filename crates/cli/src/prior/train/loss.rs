use super::setting;
use crate::Unusable;
use anyhow::{Context, anyhow, bail};
use halation_nn::schedule::{Betas, DiscreteSchedule};
use halation_nn::train::{Loss, Start};

/// The options of the loss.
#[derive(clap::Args)]
pub(super) struct LossArgs {
    /// What the network learns: edm (a target of unit variance, Karras et al.), eps (the noise, DDPM), rectified-flow (the velocity), ve or
    /// vp (the score, by denoising score matching) [default: edm]
    #[arg(long, value_name = "NAME", value_parser = ["edm", "eps", "rectified-flow", "ve", "vp"])]
    loss: Option<String>,
    /// Standard deviation of the data for the preconditioning of edm [default: 0.5]
    #[arg(long)]
    sigma_data: Option<f64>,
    /// Mean of ln sigma in training with edm [default: -1.2]
    #[arg(long)]
    p_mean: Option<f64>,
    /// Standard deviation of ln sigma in training with edm [default: 1.2]
    #[arg(long)]
    p_std: Option<f64>,
    /// Noise variances of eps [default: linear]
    #[arg(long, value_name = "NAME", value_parser = ["linear", "scaled-linear", "cosine"])]
    noise_schedule: Option<String>,
    /// Steps of the process of eps [default: 1000]
    #[arg(long, value_name = "N")]
    diffusion_steps: Option<usize>,
    /// The smallest sigma in training with ve [default: 0.02]
    #[arg(long, value_name = "SIGMA")]
    sigma_min: Option<f64>,
    /// The largest sigma in training with ve [default: 100]
    #[arg(long, value_name = "SIGMA")]
    sigma_max: Option<f64>,
}

impl LossArgs {
    /// The loss of a new run. One that goes on from a prior has the prior's own, whose law of noise levels alone may change.
    pub(super) fn loss(&self, start: &Option<Start>, base: &Loss) -> anyhow::Result<Loss> {
        let chosen = setting(start, "--loss", self.loss.as_deref(), base.name())?;
        for (option, is_given, of) in [
            ("--sigma-data", self.sigma_data.is_some(), "edm"),
            ("--p-mean", self.p_mean.is_some(), "edm"),
            ("--p-std", self.p_std.is_some(), "edm"),
            ("--noise-schedule", self.noise_schedule.is_some(), "eps"),
            ("--diffusion-steps", self.diffusion_steps.is_some(), "eps"),
            ("--sigma-min", self.sigma_min.is_some(), "ve"),
            ("--sigma-max", self.sigma_max.is_some(), "ve"),
        ] {
            if is_given && chosen != of {
                let message = format!("{option} is a setting of --loss {of}, and the loss is {chosen}; leave {option} out");
                bail!(anyhow!(message).context(Unusable));
            }
        }
        Ok(match chosen {
            "eps" => {
                let found = match base {
                    Loss::Eps(schedule) => schedule.clone(),
                    _ => DiscreteSchedule::new(Betas::Linear, 1000)?,
                };
                let given = self.noise_schedule.as_deref().map(|name| match name {
                    "scaled-linear" => Betas::ScaledLinear,
                    "cosine" => Betas::Cosine,
                    _ => Betas::Linear,
                });
                let kind = setting(start, "--noise-schedule", given, found.kind())?;
                let steps = setting(start, "--diffusion-steps", self.diffusion_steps, found.steps())?;
                Loss::Eps(DiscreteSchedule::new(kind, steps).context(Unusable)?)
            }
            "rectified-flow" => Loss::RectifiedFlow,
            "ve" => {
                let (low, high) =
                    if let Loss::Ve { sigma_min, sigma_max } = base { (*sigma_min, *sigma_max) } else { (0.02, 100.0) };
                Loss::Ve { sigma_min: self.sigma_min.unwrap_or(low), sigma_max: self.sigma_max.unwrap_or(high) }
            }
            "vp" => Loss::Vp,
            _ => {
                let found = if let Loss::Edm { sigma_data, .. } = base { *sigma_data } else { 0.5 };
                Loss::Edm {
                    sigma_data: setting(start, "--sigma-data", self.sigma_data, found)?,
                    p_mean: self.p_mean.unwrap_or(-1.2),
                    p_std: self.p_std.unwrap_or(1.2),
                }
            }
        })
    }
}
