//! Checkpoints of networks in the safetensors format.

use crate::precond::{Precond, UNetDenoiser};
use crate::unet::{SongUNet, UNetConfig};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

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

/// A safetensors file in memory: its tensors as f32 and its metadata.
pub struct TensorFile {
    path: PathBuf,
    /// Strings that the file carries.
    pub metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TensorFile {
    /// Reads a whole file; F32, F64, F16 and BF16 tensors become f32.
    ///
    /// # Errors
    /// When the file cannot be read, is truncated or is not safetensors, or holds a tensor of another type or values that are not finite.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        Self::from_bytes(path, &bytes)
    }

    /// As [`TensorFile::read`], from the content of the file at `path`.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
        let bad = |e: safetensors::SafeTensorError| {
            fail(format!(
                "found {} bytes that are not a whole safetensors file ({e}); copy or download the file again",
                bytes.len()
            ))
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
        let file = SafeTensors::deserialize(bytes).map_err(bad)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let values = to_f32(&view)
                .ok_or_else(|| fail(format!("tensor {name}: found type {:?}, expected F32, F64, F16 or BF16", view.dtype())))?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(fail(format!(
                    "tensor {name}, element {i}: found {}, expected a finite number; the file is damaged",
                    values[i]
                )));
            }
            tensors.insert(name.to_string(), (view.shape().to_vec(), values));
        }
        Ok(Self { path: path.to_path_buf(), metadata: header.metadata().clone().unwrap_or_default(), tensors })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.tensors.get(name).map(|(s, v)| (s.as_slice(), v.as_slice()))
    }

    /// Shape and values of a tensor that has to be there.
    ///
    /// # Errors
    /// When it is not; names what is there.
    pub fn expect(&self, name: &str) -> Result<(&[usize], &[f32])> {
        self.get(name).ok_or_else(|| Error::Checkpoint {
            path: self.path.clone(),
            message: format!("no tensor {name:?}; found {}", list(&self.tensors.keys().cloned().collect::<Vec<_>>())),
        })
    }
}

fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => {
            let f64_of = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            data.chunks_exact(8).map(|b| f64_of(b) as f32).collect()
        }
        Dtype::BF16 => data.chunks_exact(2).map(|b| f32::from_bits((u16::from_le_bytes([b[0], b[1]]) as u32) << 16)).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| half_to_f32(u16::from_le_bytes([b[0], b[1]]))).collect(),
        _ => return None,
    })
}

/// IEEE half precision to single.
fn half_to_f32(h: u16) -> f32 {
    let sign = if h >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = ((h >> 10 & 31) as i32, (h & 1023) as f32);
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction / 1024.0) * 2f32.powi(e - 15),
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The architecture of a checkpoint: from `arch` where given, else from its metadata `config`, else from `config.json` beside it.
///
/// # Errors
/// When none of these is there or it cannot be understood.
pub fn architecture(file: &TensorFile, arch: Option<&Path>) -> Result<Architecture> {
    let beside = file.path.with_file_name("config.json");
    let (path, text) = match (arch, file.metadata.get("config")) {
        (Some(arch), _) => (arch.to_path_buf(), read_text(arch)?),
        (None, Some(text)) => (file.path.clone(), text.clone()),
        (None, None) if beside.exists() => {
            let text = read_text(&beside)?;
            (beside, text)
        }
        (None, None) => {
            return Err(Error::Checkpoint {
                path: file.path.clone(),
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

/// Builds the denoiser of a checkpoint. Every tensor must be used once and none be left over; names may have the prefix `model.` or
/// `module.`; the constant resampling filters that some checkpoints carry are checked.
///
/// # Errors
/// Lists the keys that are missing, left over or of another shape.
pub fn load_unet(file: &TensorFile, arch: Option<&Path>) -> Result<UNetDenoiser> {
    let fail = |message: String| Error::Checkpoint { path: file.path.clone(), message };
    let arch = architecture(file, arch)?;
    let precond = arch.precond(&file.path)?;
    arch.unet.validate().map_err(|e| fail(format!("config: {e}")))?;
    let net = SongUNet::new(arch.unet, 0)?;
    let mut left: BTreeMap<&str, &str> = BTreeMap::new();
    for key in file.names() {
        let name = key.trim_start_matches("module.").trim_start_matches("model.");
        if let Some(twin) = left.insert(name, key) {
            return Err(fail(format!("tensors {twin} and {key} are both {name}; keep one of them")));
        }
    }
    let mut theta = net.theta().to_vec();
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for p in net.parameters() {
        match left.remove(p.name.as_str()).and_then(|key| file.get(key)) {
            None => missing.push(p.name.clone()),
            Some((shape, _)) if shape != p.shape => misshapen.push(format!("{} (found {shape:?}, expected {:?})", p.name, p.shape)),
            Some((_, values)) => theta[p.offset..p.offset + p.len()].copy_from_slice(values),
        }
    }
    left.retain(|name, key| {
        let quarter = file.get(key).is_some_and(|(shape, values)| shape == [1, 1, 2, 2] && values.iter().all(|v| *v == 0.25));
        !(name.ends_with(".resample_filter") && quarter)
    });
    let mut problems = Vec::new();
    for (what, names) in
        [("missing", missing), ("of another shape", misshapen), ("left over", left.values().map(|s| s.to_string()).collect())]
    {
        if !names.is_empty() {
            problems.push(format!("{} tensors {what}: {}", names.len(), list(&names)));
        }
    }
    if !problems.is_empty() {
        return Err(fail(format!("the tensors do not fit the configuration; {}; check config.json", problems.join("; "))));
    }
    Ok(UNetDenoiser::new(SongUNet::with_parameters(net.config().clone(), theta)?, precond))
}

/// Writes tensors and metadata as one safetensors file, whole or not at all: the file appears under its name when it is complete.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, &'a [f32])>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        tensors.into_iter().map(|(n, s, v)| (n, s, v.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let fail = |e: safetensors::SafeTensorError| Error::Checkpoint { path: path.to_path_buf(), message: e.to_string() };
    let views = tensors
        .iter()
        .map(|(n, s, v)| Ok((n.clone(), TensorView::new(Dtype::F32, s.clone(), v).map_err(fail)?)))
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(fail)?;
    write_whole(path, &bytes)
}

/// Writes a file under a temporary name beside it, flushes it to the disk and renames it.
///
/// # Errors
/// The operating system's.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        // The partial file is of no use to anybody; that it may stay behind changes nothing about the error.
        let _ = std::fs::remove_file(&partial);
        io(e)
    })
}

/// The parameter tensors of a network under their checkpoint names.
pub fn unet_tensors<'a>(net: &'a SongUNet, theta: &'a [f32]) -> impl Iterator<Item = (String, Vec<usize>, &'a [f32])> {
    net.parameters().iter().map(move |p| (p.name.clone(), p.shape.clone(), &theta[p.offset..p.offset + p.len()]))
}
