//! Priors as files: one safetensors file whose string metadata say what it is.

use crate::checkpoint::{Architecture, architecture, insert_unet, load_unet};
use crate::{Denoiser, Error, Precond, Result, UNetDenoiser};
use halation_io::{TensorFile, sha256_of_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the metadata of a prior say about its images and its origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PriorCard {
    /// Smallest and largest value of an image in the network's own units.
    pub range: [f64; 2],
    /// What a value means and how it maps to physical units.
    pub unit: String,
    /// The images that it was trained on.
    pub trained_on: String,
    /// How it was made and how good it is, in words.
    pub card: String,
    /// Further entries.
    pub extra: BTreeMap<String, String>,
}

/// What a prior file is, without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PriorInfo {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
    /// `unet` or `gaussian_mixture`.
    pub kind: String,
    /// (channel, y, x) of an image.
    pub image_shape: Vec<usize>,
    /// Number of values in all tensors.
    pub parameters: usize,
    /// Architecture of a `unet`, as JSON.
    pub config: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub card: PriorCard,
}

const KNOWN: [&str; 7] = ["kind", "config", "image_shape", "range", "unit", "trained_on", "card"];

fn json<T: serde::de::DeserializeOwned>(path: &Path, file: &TensorFile, key: &str) -> Result<Option<T>> {
    let parse = |text: &String| {
        serde_json::from_str(text).map_err(|e| Error::Checkpoint {
            path: path.to_path_buf(),
            message: format!("metadata {key}: found {text:?}, expected JSON such as [1,64,64]: {e}"),
        })
    };
    file.metadata.get(key).map(parse).transpose()
}

fn info_of(path: &Path, file: &TensorFile, sha256: String) -> Result<PriorInfo> {
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let text = |key: &str| file.metadata.get(key).cloned();
    let config = text("config");
    // A checkpoint of the family, without our metadata, is a network with its configuration beside it.
    let kind = text("kind").unwrap_or_else(|| "unet".into());
    let image_shape: Vec<usize> = match json(path, file, "image_shape")? {
        Some(shape) => shape,
        None if kind == "unet" => architecture(path, file, None)?.family.item_shape().to_vec(),
        None => {
            return Err(fail(format!(
                "found kind {kind:?} and no metadata \"image_shape\", expected a prior with [channel, y, x]"
            )));
        }
    };
    let range = json(path, file, "range")?.unwrap_or([-1.0, 1.0]);
    let extra = file.metadata.iter().filter(|(k, _)| !KNOWN.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    let card = PriorCard {
        range,
        unit: text("unit").unwrap_or_default(),
        trained_on: text("trained_on").unwrap_or_default(),
        card: text("card").unwrap_or_default(),
        extra,
    };
    let parameters = file.tensors.values().map(|t| t.values.len()).sum();
    Ok(PriorInfo { path: path.to_path_buf(), sha256, kind, image_shape, parameters, config, card })
}

/// Reads a prior file of any kind: what it is, and its tensors.
///
/// # Errors
/// When the file cannot be read, is damaged, or its metadata cannot be understood.
pub fn read_prior(path: &Path) -> Result<(PriorInfo, TensorFile)> {
    let file = TensorFile::read(path)?;
    Ok((info_of(path, &file, sha256_of_file(path)?)?, file))
}

/// What a prior file is.
///
/// # Errors
/// As [`read_prior`].
pub fn read_prior_metadata(path: &Path) -> Result<PriorInfo> {
    Ok(read_prior(path)?.0)
}

/// The denoiser of a prior file of kind `unet`.
///
/// # Errors
/// As [`load_unet_prior`], and when it is a consistency model, which is no denoiser.
pub fn load_prior(path: &Path) -> Result<(UNetDenoiser, PriorInfo)> {
    let (network, info) = load_unet_prior(path)?;
    if let Precond::Consistency { .. } = network.precond() {
        return Err(Error::Checkpoint {
            path: info.path,
            message: "found a consistency model, which leads a noisy image to the end of its path; expected a denoiser, the mean of the images \
                      that are possible: a prior of another loss"
                .into(),
        });
    }
    Ok((network, info))
}

/// The network of a prior file of kind `unet`, a denoiser or a consistency model.
///
/// # Errors
/// As [`read_prior`], and when the kind is another one or the tensors do not fit the configuration.
pub fn load_unet_prior(path: &Path) -> Result<(UNetDenoiser, PriorInfo)> {
    let (info, file) = read_prior(path)?;
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    if info.kind != "unet" {
        return Err(fail(format!("found a prior of kind {:?}, expected \"unet\" here", info.kind)));
    }
    let denoiser = load_unet(path, &file, None)?;
    if denoiser.item_shape() != *info.image_shape {
        return Err(fail(format!("metadata image_shape is {:?}, the network makes {:?}", info.image_shape, denoiser.item_shape())));
    }
    Ok((denoiser, info))
}

/// Writes a network as a prior file, whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write_unet_prior(path: &Path, denoiser: &UNetDenoiser, card: &PriorCard) -> Result<()> {
    let to_json = |e: serde_json::Error| Error::Invalid(e.to_string());
    let arch = Architecture { family: denoiser.net().family().clone(), precond: denoiser.precond().clone() };
    let config = arch.to_json()?;
    let mut file = TensorFile::new();
    file.metadata.extend(card.extra.clone());
    for (key, value) in [
        ("kind", "unet".to_string()),
        ("config", config),
        ("image_shape", serde_json::to_string(&denoiser.item_shape()).map_err(to_json)?),
        ("range", serde_json::to_string(&card.range).map_err(to_json)?),
        ("unit", card.unit.clone()),
        ("trained_on", card.trained_on.clone()),
        ("card", card.card.clone()),
    ] {
        file.metadata.insert(key.into(), value);
    }
    insert_unet(&mut file, denoiser.net(), denoiser.net().theta());
    Ok(file.write(path)?)
}

/// Adds entries to the metadata of a prior file, in place of those of the same names. The file is rewritten whole or not at all; its
/// tensors keep their values (half precision becomes single), its hash changes.
///
/// # Errors
/// As [`read_prior`], an entry that describes the network itself, or the operating system's.
pub fn add_prior_metadata(path: &Path, entries: &BTreeMap<String, String>) -> Result<()> {
    let (_, mut file) = read_prior(path)?;
    if let Some(key) = entries.keys().find(|k| KNOWN.contains(&k.as_str())) {
        let message = format!("metadata {key} belongs to the prior itself and is not changed; use another name");
        return Err(Error::Checkpoint { path: path.to_path_buf(), message });
    }
    file.metadata.extend(entries.clone());
    // Through a link to the file that it names: the new file takes the place of the old one.
    let target = std::fs::canonicalize(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    Ok(file.write(&target)?)
}
