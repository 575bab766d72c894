//! Checkpoints as other programs write them: which of their dictionaries is the network.

use super::{architecture, bare, load_unet, load_with};
use crate::{Error, Result, UNetDenoiser};
use halation_io::{NamedTensor, TensorFile, TorchFile, is_torch_file};
use std::collections::BTreeSet;
use std::path::Path;

/// Averages as lists, in the order of the parameters that are trained (score_sde, rectified flow).
const SHADOW: &str = "ema.shadow_params";

/// Where a file of `torch.save` has its network, best first: averaged weights before raw ones; "" is the file itself.
const PREFERRED: [&str; 7] = [SHADOW, "ema", "model_ema", "", "net", "model", "state_dict"];

/// The denoiser of a checkpoint of PyTorch or in safetensors, and under which key of the file its weights are. `weights` names the key, else
/// averaged weights are preferred to raw ones. No code of the file runs.
///
/// # Errors
/// When the file cannot be read, holds anything but tensors and plain values, has no such key, or its tensors do not fit the architecture.
pub fn read_foreign(path: &Path, arch: Option<&Path>, weights: Option<&str>) -> Result<(UNetDenoiser, String)> {
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    if !is_torch_file(path)? {
        if weights.is_some() {
            return Err(fail("--weights is for files of torch.save, which this is not; leave it out".into()));
        }
        let file = TensorFile::read(path).map_err(|e| {
            fail(format!(
                "found neither a file of torch.save (a zip archive) nor safetensors ({e}); other pickles can only be read by running their \
                 code: load the file where you trust it and write torch.save(net.state_dict(), \"net.pt\")"
            ))
        })?;
        return Ok((load_unet(path, &file, arch)?, String::new()));
    }
    let file = TorchFile::read(path)?;
    let groups = file.groups();
    if groups.is_empty() {
        return Err(fail("holds no tensors, expected a network's; save its state_dict() with torch.save".into()));
    }
    let preferred = || PREFERRED.into_iter().find(|p| groups.iter().any(|g| g == p));
    let group = weights.or_else(preferred).map(str::to_string).ok_or_else(|| {
        fail(format!("found tensors under {groups:?}, expected one of {PREFERRED:?}; name the key with --weights"))
    })?;
    let arch = architecture(path, &TensorFile::new(), arch)?;
    let tensors = if group == SHADOW {
        let trainable = arch.family.parameters()?.into_iter().filter(|p| p.trainable).map(|p| p.name).collect();
        averaged(path, &file, &trainable)?
    } else {
        file.tensors(&group)?
    };
    Ok((load_with(path, &file.tensor_file(tensors), arch)?, group))
}

/// The tensors of `model` with those that are trained replaced by their averages: the list has them in the order of the model.
fn averaged(path: &Path, file: &TorchFile, trainable: &BTreeSet<String>) -> Result<Vec<(String, NamedTensor)>> {
    let (mut model, shadow) = (file.tensors("model")?, file.tensors(SHADOW)?);
    let trained: Vec<&mut NamedTensor> =
        model.iter_mut().filter(|(key, _)| trainable.contains(bare(key))).map(|(_, tensor)| tensor).collect();
    let fits = trained.len() == shadow.len() && trained.iter().zip(&shadow).all(|(raw, (_, average))| raw.shape == average.shape);
    if !fits {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            message: format!(
                "{SHADOW} has {} tensors, those of model that are trained are {}, and both must have the same shapes; check config.json, or take \
                 the raw weights with --weights model",
                shadow.len(),
                trained.len()
            ),
        });
    }
    for (tensor, (_, average)) in trained.into_iter().zip(shadow) {
        *tensor = average;
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UNet;
    use crate::checkpoint::Architecture;

    /// A file as torch.save writes it, of the operations of a pickle and the storages of numbers 0, 1, ...
    fn archive(pickle: Vec<u8>, storages: Vec<Vec<f32>>) -> Vec<u8> {
        let mut entries = vec![("net/data.pkl".to_string(), pickle)];
        let bytes = |values: Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        entries.extend(storages.into_iter().enumerate().map(|(i, v)| (format!("net/data/{i}"), bytes(v))));
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        let n = entries.len() as u16;
        for (name, content) in entries {
            // Sizes and lengths of an entry: stored and full size, name, no extra field.
            let sizes = [(content.len() as u32).to_le_bytes(); 2].concat();
            let names = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
            directory.extend(
                [&b"PK\x01\x02"[..], &[0; 16], &sizes, &names, &[0; 10], &(out.len() as u32).to_le_bytes(), name.as_bytes()]
                    .concat(),
            );
            out.extend([&b"PK\x03\x04"[..], &[0; 14], &sizes, &names, name.as_bytes(), &content].concat());
        }
        let start = (out.len() as u32).to_le_bytes();
        let end = [
            &b"PK\x05\x06"[..],
            &[0; 4],
            &n.to_le_bytes(),
            &n.to_le_bytes(),
            &(directory.len() as u32).to_le_bytes(),
            &start,
            &[0; 2],
        ];
        [out, directory, end.concat()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    fn numbers(values: impl Iterator<Item = usize>) -> Vec<u8> {
        let each = values.flat_map(|v| [&b"J"[..], &(v as u32).to_le_bytes()].concat());
        [b"(".to_vec(), each.collect(), b"t".to_vec()].concat()
    }

    /// Storage `i`, as a tensor of this shape.
    fn tensor(i: usize, shape: &[usize]) -> Vec<u8> {
        let stride = (0..shape.len()).map(|k| shape[k + 1..].iter().product());
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            b"ctorch\nFloatStorage\n".to_vec(),
            text(&i.to_string()),
            text("cpu"),
            b"K\x00tQK\x00".to_vec(),
            numbers(shape.iter().copied()),
            numbers(stride),
            b"\x89}tR".to_vec(),
        ]
        .concat()
    }

    /// score_sde keeps averages as a list without names: they are matched to the parameters that are trained.
    #[test]
    fn averages_are_preferred_and_matched_by_order() {
        let config = r#"{"family": "score_sde", "image_size": 8, "num_channels": 1, "nf": 16, "ch_mult": [1, 1], "num_res_blocks": 1,
            "attn_resolutions": [8], "embedding_type": "fourier", "fir": true, "progressive": "output_skip",
            "progressive_input": "input_skip"}"#;
        let net = UNet::new(Architecture::parse(config).unwrap().family, 0).unwrap();
        let (mut model, mut shadow, mut storages) = (Vec::new(), Vec::new(), Vec::new());
        for p in net.parameters() {
            let values = &net.theta()[p.offset..p.offset + p.len()];
            model.extend([text(&format!("module.{}", p.name)), tensor(storages.len(), &p.shape), b"s".to_vec()].concat());
            storages.push(values.to_vec());
            if p.trainable {
                shadow.extend([tensor(storages.len(), &p.shape), b"a".to_vec()].concat());
                storages.push(values.iter().map(|v| v + 1.0).collect());
            }
        }
        model.extend([text("module.sigmas"), tensor(0, &[16]), b"s".to_vec()].concat());
        let ema = [b"}".to_vec(), text("shadow_params"), b"]".to_vec(), shadow.clone(), b"s".to_vec()].concat();
        let whole = |ema: Vec<u8>| {
            [b"\x80\x02}".to_vec(), text("model"), b"}".to_vec(), model.clone(), b"s".to_vec(), text("ema"), ema, b"s.".to_vec()]
                .concat()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.pth");
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(&path, archive(whole(ema), storages.clone())).unwrap();

        let (raw, key) = read_foreign(&path, None, Some("model")).unwrap();
        assert_eq!((raw.net().theta(), key.as_str()), (net.theta(), "model"));
        let (averaged, key) = read_foreign(&path, None, None).unwrap();
        assert_eq!(key, SHADOW);
        for p in net.parameters() {
            let shift = if p.trainable { 1.0 } else { 0.0 };
            let range = p.offset..p.offset + p.len();
            let expected: Vec<f32> = net.theta()[range.clone()].iter().map(|v| v + shift).collect();
            assert_eq!(averaged.net().theta()[range], expected, "{}", p.name);
        }
        let says = |weights: Option<&str>, what: &str| {
            let error = read_foreign(&path, None, weights).err().unwrap().to_string();
            assert!(error.contains("net.pth") && error.contains(what), "{error}");
        };
        says(Some("teacher"), "ema.shadow_params");
        let short = [b"}".to_vec(), text("shadow_params"), b"]".to_vec(), tensor(0, &[16]), b"as".to_vec()].concat();
        std::fs::write(&path, archive(whole(short), storages)).unwrap();
        says(None, "--weights model");
        std::fs::write(&path, archive(b"\x80\x02}.".to_vec(), Vec::new())).unwrap();
        says(None, "holds no tensors");
        std::fs::write(&path, b"\x80\x02}.").unwrap();
        says(None, "torch.save(net.state_dict()");
        says(Some("ema"), "leave it out");
    }
}
