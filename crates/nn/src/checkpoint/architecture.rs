//! What a `config.json` says: family, sizes, preconditioning.

use crate::precond::Precond;
use crate::schedule::{Betas, DiscreteSchedule};
use crate::unet::Family;
use crate::unet::family::{GuidedDiffusionConfig, ScoreSdeConfig, UNetConfig};
use crate::{Error, Result};
use halation_io::TensorFile;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a network is and how it becomes a denoiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Family and sizes.
    pub family: Family,
    /// Its preconditioning.
    pub precond: Precond,
}

/// The keys beside the sizes. Those that a family or preconditioning has no use for are left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Keys {
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precond: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_data: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_min: Option<f64>,
    /// The noise value of a consistency model over ln sigma.
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_factor: Option<f64>,
    /// `linear`, `scaled_linear` or `cosine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diffusion_steps: Option<usize>,
    /// Factor on the time of a flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_scale: Option<f64>,
    /// Whether a variance-exploding network was trained on data in -1..1.
    #[serde(skip_serializing_if = "Option::is_none")]
    centered: Option<bool>,
    /// Whether a flow network has the form of a variance-exploding one.
    #[serde(skip_serializing_if = "Option::is_none")]
    scale_by_sigma: Option<bool>,
}

/// A configuration as it is written: the keys, then the sizes.
#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(flatten)]
    keys: Keys,
    #[serde(flatten)]
    sizes: &'a T,
}

const FAMILIES: &str = "\"edm\", \"guided_diffusion\", \"consistency_models\" or \"score_sde\"";

impl Architecture {
    /// From the text of a `config.json`.
    ///
    /// # Errors
    /// Says which key is missing or what it must be.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let invalid = |e: serde_json::Error| e.to_string();
        let keys: Keys = serde_json::from_str(text).map_err(invalid)?;
        let name = keys.family.as_deref().unwrap_or("edm");
        let mut family = match name {
            "edm" => Family::Edm(serde_json::from_str::<UNetConfig>(text).map_err(invalid)?),
            "guided_diffusion" => Family::GuidedDiffusion(serde_json::from_str::<GuidedDiffusionConfig>(text).map_err(invalid)?),
            "consistency_models" => {
                // Their attention takes (3, head, channel), whatever the scripts' settings say.
                let sizes = serde_json::from_str::<GuidedDiffusionConfig>(text).map_err(invalid)?;
                Family::GuidedDiffusion(GuidedDiffusionConfig { use_new_attention_order: true, ..sizes })
            }
            "score_sde" => Family::ScoreSde(serde_json::from_str::<ScoreSdeConfig>(text).map_err(invalid)?),
            other => return Err(format!("found family {other:?}, expected {FAMILIES}")),
        };
        let usual = match name {
            "guided_diffusion" => Some("eps"),
            "consistency_models" => Some("consistency"),
            "score_sde" => Some("ve"),
            _ => None,
        };
        let precond = keys.precond(keys.precond.as_deref().or(usual), name)?;
        if let (Family::Edm(config), Precond::Iddpm) = (&mut family, &precond) {
            config.form.out_channels.get_or_insert(2 * config.img_channels);
        }
        family.validate().map_err(|e| e.to_string())?;
        Ok(Self { family, precond })
    }

    /// As a `config.json`.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_json(&self) -> Result<String> {
        let keys = |family: &str| Keys { family: Some(family.into()), ..Keys::of(&self.precond) };
        let written = match &self.family {
            Family::Edm(sizes) => serde_json::to_string(&Written { keys: keys("edm"), sizes }),
            Family::GuidedDiffusion(sizes) => serde_json::to_string(&Written { keys: keys("guided_diffusion"), sizes }),
            Family::ScoreSde(sizes) => serde_json::to_string(&Written { keys: keys("score_sde"), sizes }),
        };
        written.map_err(|e| Error::Invalid(e.to_string()))
    }
}

impl Keys {
    fn of(precond: &Precond) -> Self {
        let named = |name: &str| Keys { precond: Some(name.into()), ..Keys::default() };
        match precond {
            Precond::Edm { sigma_data } => Keys { sigma_data: Some(*sigma_data), ..named("edm") },
            Precond::EdmTeacher { sigma_data } => Keys { sigma_data: Some(*sigma_data), ..named("edm_teacher") },
            Precond::Vp => named("vp"),
            Precond::Ve { scale } => Keys { centered: (*scale == 1.0).then_some(true), ..named("ve") },
            Precond::Iddpm => named("iddpm"),
            Precond::Consistency { sigma_data, sigma_min, noise_factor } => Keys {
                sigma_data: Some(*sigma_data),
                sigma_min: Some(*sigma_min),
                noise_factor: Some(*noise_factor),
                ..named("consistency")
            },
            Precond::Eps(schedule) => {
                let kind = match schedule.kind() {
                    Betas::Linear => "linear",
                    Betas::ScaledLinear => "scaled_linear",
                    Betas::Cosine => "cosine",
                };
                Keys { noise_schedule: Some(kind.into()), diffusion_steps: Some(schedule.steps()), ..named("eps") }
            }
            Precond::Flow { time } => Keys { time_scale: Some(*time), ..named("flow") },
            Precond::RectifiedFlow { logarithmic } => Keys { scale_by_sigma: Some(*logarithmic), ..named("rectified_flow") },
        }
    }

    fn precond(&self, name: Option<&str>, family: &str) -> std::result::Result<Precond, String> {
        let positive = |key: &str, value: Option<f64>, usual: f64| match value.unwrap_or(usual) {
            v if v.is_finite() && v > 0.0 => Ok(v),
            v => Err(format!("{key} is {v}, expected a positive number")),
        };
        let sigma_data = || positive("sigma_data", self.sigma_data, 0.5);
        match name {
            Some("edm") => Ok(Precond::Edm { sigma_data: sigma_data()? }),
            Some("edm_teacher") => Ok(Precond::EdmTeacher { sigma_data: sigma_data()? }),
            Some("vp") => Ok(Precond::Vp),
            Some("ve") => Ok(Precond::Ve { scale: if self.centered == Some(true) { 1.0 } else { 0.5 } }),
            Some("iddpm") => Ok(Precond::Iddpm),
            Some("consistency") => Ok(Precond::Consistency {
                sigma_data: sigma_data()?,
                sigma_min: positive("sigma_min", self.sigma_min, 0.002)?,
                noise_factor: positive("noise_factor", self.noise_factor, 250.0)?,
            }),
            Some("eps") => {
                let kind = match self.noise_schedule.as_deref().unwrap_or("linear") {
                    "linear" => Betas::Linear,
                    "scaled_linear" => Betas::ScaledLinear,
                    "cosine" => Betas::Cosine,
                    other => {
                        return Err(format!(
                            "found noise_schedule {other:?}, expected \"linear\", \"scaled_linear\" or \"cosine\""
                        ));
                    }
                };
                DiscreteSchedule::new(kind, self.diffusion_steps.unwrap_or(1000)).map(Precond::Eps).map_err(|e| e.to_string())
            }
            Some("flow") => Ok(Precond::Flow { time: positive("time_scale", self.time_scale, 1.0)? }),
            Some("rectified_flow") => {
                let logarithmic = self.scale_by_sigma.unwrap_or(family == "score_sde");
                Ok(Precond::RectifiedFlow { logarithmic })
            }
            found => {
                let found = found.map_or("no precond".into(), |name| format!("precond {name:?}"));
                Err(format!(
                    "found {found}, expected \"edm\", \"edm_teacher\", \"vp\", \"ve\", \"iddpm\", \"consistency\", \"eps\", \"flow\" or \
                     \"rectified_flow\""
                ))
            }
        }
    }
}

/// The architecture of the checkpoint at `path`: from `arch` where given, else from its metadata `config`, else from `config.json`
/// beside it.
///
/// # Errors
/// When none of these is there or it cannot be understood.
pub fn architecture(path: &Path, file: &TensorFile, arch: Option<&Path>) -> Result<Architecture> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_path_buf(), source });
    let beside = path.with_file_name("config.json");
    let (path, text) = match (arch, file.metadata.get("config")) {
        (Some(arch), _) => (arch.to_path_buf(), read(arch)?),
        (None, Some(text)) => (path.to_path_buf(), text.clone()),
        (None, None) if beside.exists() => (beside.clone(), read(&beside)?),
        (None, None) => {
            return Err(Error::Checkpoint {
                path: path.to_path_buf(),
                message: "found neither metadata \"config\" nor config.json beside the file; put the architecture there, or give it with \
                          --arch to `halation prior convert` or `prior eval`"
                    .into(),
            });
        }
    };
    Architecture::parse(&text).map_err(|e| Error::Checkpoint { path, message: format!("config: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: &str = r#""img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [],
        "num_blocks": 1"#;
    const GUIDED: &str = r#""image_size": 64, "num_channels": 64, "num_res_blocks": 1, "attention_resolutions": "16",
        "resblock_updown": true"#;
    const SCORE_SDE: &str = r#""family": "score_sde", "image_size": 8, "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1,
        "attn_resolutions": [], "embedding_type": "fourier", "fir": true, "progressive": "none", "progressive_input": "residual""#;

    /// Every preconditioning and family comes back from what is written of it.
    #[test]
    fn written_and_read() {
        for text in [
            format!(r#"{{"precond": "vp", {SIZES}}}"#),
            format!(r#"{{"precond": "edm", "sigma_data": 0.25, {SIZES}}}"#),
            format!(r#"{{"precond": "edm", "background": -1.0, {SIZES}}}"#),
            format!(r#"{{"precond": "edm_teacher", {SIZES}}}"#),
            format!(
                r#"{{"precond": "ve", "centered": true, {SIZES}, "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}}"#
            ),
            format!(r#"{{"precond": "iddpm", {SIZES}}}"#),
            format!(r#"{{"precond": "consistency", "noise_factor": 0.25, {SIZES}}}"#),
            format!(r#"{{"precond": "flow", "time_scale": 1000, {SIZES}}}"#),
            format!(r#"{{"precond": "edm", "model_type": "DhariwalUNet", {SIZES}}}"#).replace("16", "64"),
            format!(r#"{{"family": "guided_diffusion", "noise_schedule": "cosine", "learn_sigma": true, {GUIDED}}}"#),
            format!(r#"{{"family": "guided_diffusion", "diffusion_steps": 4000, {GUIDED}}}"#),
            format!(r#"{{"family": "consistency_models", "sigma_min": 0.001, {GUIDED}}}"#),
            format!("{{{SCORE_SDE}}}"),
            format!(r#"{{{SCORE_SDE}, "precond": "rectified_flow"}}"#),
            format!(r#"{{{SCORE_SDE}, "precond": "rectified_flow", "scale_by_sigma": false}}"#),
        ] {
            let read = Architecture::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let written = read.to_json().unwrap();
            assert_eq!(Architecture::parse(&written), Ok(read), "{text} as {written}");
        }
        // The second half of the output of the improved DDPM networks is a variance.
        let iddpm = Architecture::parse(&format!(r#"{{"precond": "iddpm", {SIZES}}}"#)).unwrap();
        assert!(matches!(iddpm.family, Family::Edm(UNetConfig { form, .. }) if form.out_channels == Some(2)));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for (text, expected) in [
            ("{".into(), "EOF"),
            (format!("{{{SIZES}}}"), "no precond"),
            (format!(r#"{{"precond": "vpp", {SIZES}}}"#), "\"vpp\""),
            (format!(r#"{{"precond": "edm", "sigma_data": -1, {SIZES}}}"#), "sigma_data is -1"),
            (format!(r#"{{"family": "unknown", {SIZES}}}"#), "\"consistency_models\""),
            (format!(r#"{{"family": "guided_diffusion", {SIZES}}}"#), "missing field `image_size`"),
            (format!(r#"{{"family": "guided_diffusion", "noise_schedule": "steep", {GUIDED}}}"#), "scaled_linear"),
            (format!(r#"{{"family": "guided_diffusion", {GUIDED}}}"#).replace("true", "false"), "resblock_updown"),
            (format!(r#"{{"family": "guided_diffusion", {GUIDED}}}"#).replace("64,", "66,"), "channel_mult is not given"),
            (format!(r#"{{"precond": "vp", {SIZES}, "resample_filter": [1, 2, 1]}}"#), "resample_filter is [1, 2, 1]"),
            (format!(r#"{{"precond": "edm", "model_type": "DhariwalUNet", "encoder_type": "skip", {SIZES}}}"#), "only a SongUNet"),
            (format!(r#"{{"precond": "vp", {SIZES}}}"#).replace("[1, 2]", "[1, 2, 2, 2, 2]"), "multiple of 16"),
            (format!(r#"{{"precond": "vp", {SIZES}, "label_dim": 3, "class": 3}}"#), "a class below label_dim"),
            (format!(r#"{{"precond": "vp", {SIZES}, "out_channels": 3}}"#), "img_channels (1) or twice"),
            (format!(r#"{{"precond": "vp", {SIZES}, "out_channels": 2, "background": 0}}"#), "and then no out_channels"),
            (format!(r#"{{{SCORE_SDE}, "skip_rescale": false}}"#), "skip_rescale is false"),
            (format!("{{{SCORE_SDE}}}").replace(r#""fir": true"#, r#""fir": false"#), "strided"),
        ] {
            let error = Architecture::parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error:?} does not say {expected:?}");
        }
    }
}
