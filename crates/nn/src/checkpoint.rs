//! Checkpoints of networks in the safetensors format.

use crate::precond::{Precond, UNetDenoiser};
use crate::unet::{SongUNet, UNetConfig};
use crate::{Error, Result};
use halation_io::TensorFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What a `config.json` of the EDM family says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Family of networks and key names; `edm`.
    #[serde(default = "edm")]
    pub family: String,
    /// Preconditioning, `edm` or `vp`.
    pub precond: String,
    /// Standard deviation of the data, for `edm`.
    #[serde(default = "half")]
    pub sigma_data: f64,
    /// Kind of network; `SongUNet`.
    #[serde(default = "song")]
    pub model_type: String,
    /// The sizes.
    #[serde(flatten)]
    pub unet: UNetConfig,
}

fn edm() -> String {
    "edm".into()
}
fn half() -> f64 {
    0.5
}
fn song() -> String {
    "SongUNet".into()
}

impl Architecture {
    /// That of a denoiser.
    pub fn of(denoiser: &UNetDenoiser) -> Self {
        let (precond, sigma_data) = match denoiser.precond() {
            Precond::Edm { sigma_data } => ("edm", sigma_data),
            Precond::Vp => ("vp", half()),
        };
        Self { family: edm(), precond: precond.into(), sigma_data, model_type: song(), unet: denoiser.net().config().clone() }
    }

    fn precond(&self, path: &Path) -> Result<Precond> {
        let fail = |message| Err(Error::Checkpoint { path: path.to_path_buf(), message });
        if self.family != "edm" || self.model_type != "SongUNet" {
            return fail(format!(
                "config: found family {:?} with model_type {:?}, expected \"edm\" with \"SongUNet\", the only kind of network that is read yet",
                self.family, self.model_type
            ));
        }
        match self.precond.as_str() {
            "edm" if self.sigma_data.is_finite() && self.sigma_data > 0.0 => Ok(Precond::Edm { sigma_data: self.sigma_data }),
            "edm" => fail(format!("config: sigma_data is {}, expected a positive number", self.sigma_data)),
            "vp" => Ok(Precond::Vp),
            other => fail(format!("config: found precond {other:?}, expected \"edm\" or \"vp\"")),
        }
    }
}

/// Shape and values of an f32 tensor, all of them finite.
///
/// # Errors
/// When the tensor is missing, of another type, or holds a value that is not finite.
pub fn finite<'a>(path: &Path, file: &'a TensorFile, name: &str) -> Result<(&'a [usize], &'a [f32])> {
    let (shape, values) = file.f32s(name)?;
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok((shape, values)),
        Some(i) => Err(Error::Checkpoint {
            path: path.to_path_buf(),
            message: format!("tensor {name}, element {i}: found {}, expected a finite number; the file is damaged", values[i]),
        }),
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The architecture of the checkpoint at `path`: from `arch` where given, else from its metadata `config`, else from `config.json`
/// beside it.
///
/// # Errors
/// When none of these is there or it cannot be understood.
pub fn architecture(path: &Path, file: &TensorFile, arch: Option<&Path>) -> Result<Architecture> {
    let beside = path.with_file_name("config.json");
    let (path, text) = match (arch, file.metadata.get("config")) {
        (Some(arch), _) => (arch.to_path_buf(), read_text(arch)?),
        (None, Some(text)) => (path.to_path_buf(), text.clone()),
        (None, None) if beside.exists() => {
            let text = read_text(&beside)?;
            (beside, text)
        }
        (None, None) => {
            return Err(Error::Checkpoint {
                path: path.to_path_buf(),
                message: "found neither metadata \"config\" nor config.json beside the file; give the architecture with --arch"
                    .into(),
            });
        }
    };
    serde_json::from_str(&text).map_err(|e| Error::Checkpoint { path, message: format!("config: {e}") })
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// Builds the denoiser of the checkpoint at `path`. Every tensor must be used once and none be left over; names may have the prefix
/// `model.` or `module.`; the constant resampling filters that some checkpoints carry are checked.
///
/// # Errors
/// Lists the keys that are missing, left over or of another shape.
pub fn load_unet(path: &Path, file: &TensorFile, arch: Option<&Path>) -> Result<UNetDenoiser> {
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let arch = architecture(path, file, arch)?;
    let precond = arch.precond(path)?;
    arch.unet.validate().map_err(|e| fail(format!("config: {e}")))?;
    let net = SongUNet::new(arch.unet, 0)?;
    let mut left: BTreeMap<&str, &str> = BTreeMap::new();
    for key in file.tensors.keys() {
        let name = key.trim_start_matches("module.").trim_start_matches("model.");
        if let Some(twin) = left.insert(name, key) {
            return Err(fail(format!("tensors {twin} and {key} are both {name}; keep one of them")));
        }
    }
    let mut theta = net.theta().to_vec();
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for p in net.parameters() {
        let Some(key) = left.remove(p.name.as_str()) else {
            missing.push(p.name.clone());
            continue;
        };
        let (shape, values) = finite(path, file, key)?;
        if shape == p.shape {
            theta[p.offset..p.offset + p.len()].copy_from_slice(values);
        } else {
            misshapen.push(format!("{} (found {shape:?}, expected {:?})", p.name, p.shape));
        }
    }
    left.retain(|name, key| {
        let quarter = file.f32s(key).is_ok_and(|(shape, values)| shape == [1, 1, 2, 2] && values.iter().all(|v| *v == 0.25));
        !(name.ends_with(".resample_filter") && quarter)
    });
    let mut problems = Vec::new();
    let left: Vec<String> = left.values().map(|s| s.to_string()).collect();
    for (what, names) in [("missing", missing), ("of another shape", misshapen), ("left over", left)] {
        if !names.is_empty() {
            problems.push(format!("{} tensors {what}: {}", names.len(), list(&names)));
        }
    }
    if !problems.is_empty() {
        return Err(fail(format!("the tensors do not fit the configuration; {}; check config.json", problems.join("; "))));
    }
    Ok(UNetDenoiser::new(SongUNet::with_parameters(net.config().clone(), theta)?, precond))
}

/// Adds the parameter tensors of a network, whose flat values are `theta`, under their checkpoint names.
pub fn insert_unet(file: &mut TensorFile, net: &SongUNet, theta: &[f32]) {
    for p in net.parameters() {
        file.insert_f32(p.name.clone(), &p.shape, theta[p.offset..p.offset + p.len()].to_vec());
    }
}
