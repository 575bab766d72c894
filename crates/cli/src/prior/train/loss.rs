use super::setting;
use crate::Unusable;
use anyhow::{Context, anyhow, bail};
use halation_nn::schedule::{Betas, DiscreteSchedule};
use halation_nn::train::{Consistency, Loss, Start};

fn intervals(text: &str) -> Result<[usize; 2], String> {
    let found = text.split_once(',').and_then(|(first, last)| Some([first.trim().parse().ok()?, last.trim().parse().ok()?]));
    found.ok_or_else(|| "expected two numbers, such as 10,1280".into())
}

/// The options of the loss.
#[derive(clap::Args)]
pub(super) struct LossArgs {
    /// What the network learns: edm (a target of unit variance, Karras et al.), eps (the noise, DDPM), rectified-flow (the velocity), ve or
    /// vp (the score, by denoising score matching), or consistency (the end of the path that leads through a noisy image: a model that
    /// samples in one call, no denoiser) [default: edm]
    #[arg(long, value_name = "NAME", value_parser = ["edm", "eps", "rectified-flow", "ve", "vp", "consistency"])]
    loss: Option<String>,
    /// Standard deviation of the data for the preconditioning of edm and consistency [default: 0.5]
    #[arg(long)]
    sigma_data: Option<f64>,
    /// Mean of ln sigma in training with edm and consistency [default: -1.2; -1.1]
    #[arg(long)]
    p_mean: Option<f64>,
    /// Standard deviation of ln sigma in training with edm and consistency [default: 1.2; 2]
    #[arg(long)]
    p_std: Option<f64>,
    /// Noise variances of eps [default: linear]
    #[arg(long, value_name = "NAME", value_parser = ["linear", "scaled-linear", "cosine"])]
    noise_schedule: Option<String>,
    /// Steps of the process of eps [default: 1000]
    #[arg(long, value_name = "N")]
    diffusion_steps: Option<usize>,
    /// The smallest sigma in training with ve and consistency [default: 0.02; 0.002]
    #[arg(long, value_name = "SIGMA")]
    sigma_min: Option<f64>,
    /// The largest sigma in training with ve and consistency [default: 100; 80]
    #[arg(long, value_name = "SIGMA")]
    sigma_max: Option<f64>,
    /// Intervals between the noise levels of consistency, at the start and at --images; they double evenly between [default: 10,1280; 40,40
    /// with --teacher]
    #[arg(long, value_name = "FIRST,LAST", value_parser = intervals)]
    intervals: Option<[usize; 2]>,
}

impl LossArgs {
    /// The loss of a new run. One that goes on from a prior has the prior's own, whose law of noise levels alone may change.
    /// `teacher` is the SHA-256 of a consistency model's, `images` how many the run is to see.
    pub(super) fn loss(
        &self,
        start: &Option<Start>,
        base: &Loss,
        teacher: Option<String>,
        images: Option<u64>,
    ) -> anyhow::Result<Loss> {
        let chosen = match self.loss.as_deref() {
            // A consistency model may begin as a denoiser.
            Some("consistency") => "consistency",
            given => setting(start, "--loss", given, base.name())?,
        };
        for (option, is_given, of) in [
            ("--sigma-data", self.sigma_data.is_some(), ["edm", "consistency"].as_slice()),
            ("--p-mean", self.p_mean.is_some(), &["edm", "consistency"]),
            ("--p-std", self.p_std.is_some(), &["edm", "consistency"]),
            ("--noise-schedule", self.noise_schedule.is_some(), &["eps"]),
            ("--diffusion-steps", self.diffusion_steps.is_some(), &["eps"]),
            ("--sigma-min", self.sigma_min.is_some(), &["ve", "consistency"]),
            ("--sigma-max", self.sigma_max.is_some(), &["ve", "consistency"]),
            ("--intervals", self.intervals.is_some(), &["consistency"]),
            ("--teacher", teacher.is_some(), &["consistency"]),
        ] {
            if is_given && !of.contains(&chosen) {
                let of = of.join(" and ");
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
            "consistency" => Loss::Consistency(self.consistency(start, base, teacher, images)?),
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

    fn consistency(
        &self,
        start: &Option<Start>,
        base: &Loss,
        teacher: Option<String>,
        images: Option<u64>,
    ) -> anyhow::Result<Consistency> {
        let intervals = self.intervals.unwrap_or(if teacher.is_some() { [40, 40] } else { [10, 1280] });
        let seen = start.as_ref().map_or(0, |s| s.config.first_image);
        let growth_images = match images {
            Some(images) => images - seen,
            None if intervals[0] == intervals[1] => 0,
            None => {
                let message = "--loss consistency needs --images, over which its intervals grow; or give --intervals N,N";
                bail!(anyhow!(message).context(Unusable))
            }
        };
        let usual = match base {
            Loss::Consistency(found) => found.clone(),
            Loss::Edm { sigma_data, .. } => Consistency { sigma_data: *sigma_data, ..Consistency::new(0) },
            _ => Consistency::new(0),
        };
        Ok(Consistency {
            sigma_data: setting(start, "--sigma-data", self.sigma_data, usual.sigma_data)?,
            sigma_min: self.sigma_min.unwrap_or(usual.sigma_min),
            sigma_max: self.sigma_max.unwrap_or(usual.sigma_max),
            p_mean: self.p_mean.unwrap_or(usual.p_mean),
            p_std: self.p_std.unwrap_or(usual.p_std),
            first_intervals: intervals[0],
            last_intervals: intervals[1],
            growth_images,
            teacher_sha256: teacher,
        })
    }
}
