//! Checkpoints of networks: which tensor of a file is which parameter.

mod architecture;
mod convert;

pub use architecture::{Architecture, architecture};
pub use convert::read_foreign;

use crate::precond::{Precond, UNetDenoiser};
use crate::unet::{Family, UNet};
use crate::{Error, Result};
use halation_io::TensorFile;
use std::collections::BTreeMap;
use std::path::Path;

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

/// A key without the prefixes that wrappers of a network add.
fn bare(key: &str) -> &str {
    key.trim_start_matches("module.").trim_start_matches("model.")
}

/// Axes of length one at the end say only whether a layer was written as linear, in one dimension or in two.
fn essential(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|n| **n == 1).count();
    &shape[..shape.len() - ones]
}

/// Whether a tensor that is no parameter is one of the constants that checkpoints of a family carry.
fn is_constant(arch: &Architecture, file: &TensorFile, name: &str, key: &str) -> bool {
    match &arch.family {
        Family::Edm(config) if name.ends_with(".resample_filter") => file.f32s(key).is_ok_and(|(shape, values)| {
            let taps: &[f32] = if config.form.resample_filter.len() == 4 { &[0.125, 0.375, 0.375, 0.125] } else { &[0.5, 0.5] };
            let expected = taps.iter().flat_map(|a| taps.iter().map(move |b| a * b));
            shape == [1, 1, taps.len(), taps.len()] && values.iter().copied().eq(expected)
        }),
        Family::Edm(_) => name == "u" && arch.precond == Precond::Iddpm,
        Family::ScoreSde(_) => name == "sigmas",
        Family::GuidedDiffusion(_) => false,
    }
}

/// Builds the denoiser of the checkpoint at `path`. Every tensor must be used once and none be left over; names may have the prefix
/// `model.` or `module.`; constants that some checkpoints carry (resampling filters, noise levels) are checked and dropped.
///
/// # Errors
/// Lists the keys that are missing, left over or of another shape.
pub fn load_unet(path: &Path, file: &TensorFile, arch: Option<&Path>) -> Result<UNetDenoiser> {
    load_with(path, file, architecture(path, file, arch)?)
}

/// As [`load_unet`], with an architecture that is known.
///
/// # Errors
/// As [`load_unet`].
pub fn load_with(path: &Path, file: &TensorFile, arch: Architecture) -> Result<UNetDenoiser> {
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let parameters = arch.family.parameters()?;
    let mut left: BTreeMap<&str, &str> = BTreeMap::new();
    for key in file.tensors.keys() {
        let name = bare(key);
        if let Some(twin) = left.insert(name, key) {
            return Err(fail(format!("tensors {twin} and {key} are both {name}; keep one of them")));
        }
    }
    let mut theta = vec![0.0; parameters.last().map_or(0, |p| p.offset + p.len())];
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for p in &parameters {
        let Some(key) = left.remove(p.name.as_str()) else {
            missing.push(p.name.clone());
            continue;
        };
        let (shape, values) = finite(path, file, key)?;
        if essential(shape) == essential(&p.shape) {
            theta[p.offset..p.offset + p.len()].copy_from_slice(values);
        } else {
            misshapen.push(format!("{} (found {shape:?}, expected {:?})", p.name, p.shape));
        }
    }
    left.retain(|name, key| !is_constant(&arch, file, name, key));
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
    let net = UNet::with_parameters(arch.family, theta).map_err(|e| fail(format!("config: {e}")))?;
    Ok(UNetDenoiser::new(net, arch.precond))
}

/// Adds the parameter tensors of a network, whose flat values are `theta`, under their checkpoint names.
pub fn insert_unet(file: &mut TensorFile, net: &UNet, theta: &[f32]) {
    for p in net.parameters() {
        file.insert_f32(p.name.clone(), &p.shape, theta[p.offset..p.offset + p.len()].to_vec());
    }
}
