//! What a training run keeps on disk: a folder with a checkpoint to resume from, the prior itself and the loss log.

use super::optimizer::Adam;
use super::{LogLine, TrainConfig, Trainer};
use crate::checkpoint::finite;
use crate::prior::{PriorCard, write_unet_prior};
use crate::{Error, ImageSource, Result};
use halation_io::{TensorFile, write_whole};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file to resume from.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Name of the prior: the averaged network.
pub const PRIOR: &str = "prior.safetensors";
/// Name of the loss log, one JSON object per line.
pub const LOG: &str = "log.jsonl";

#[derive(Serialize, Deserialize)]
struct State {
    config: TrainConfig,
    source: String,
    steps: u64,
    images: u64,
    since_log: (f64, f64, u64),
    log: Vec<LogLine>,
}

fn read(path: &Path) -> Result<(TensorFile, State)> {
    let file = TensorFile::read(path)?;
    let fail = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let text = file.metadata.get("state").ok_or_else(|| fail("found no metadata \"state\": not a training checkpoint".into()))?;
    let state = serde_json::from_str(text).map_err(|e| fail(format!("metadata state: {e}")))?;
    Ok((file, state))
}

/// The settings of the run in `folder`, which say of what source it is to be resumed.
///
/// # Errors
/// When there is no checkpoint or it is damaged.
pub fn saved_config(folder: &Path) -> Result<TrainConfig> {
    Ok(read(&folder.join(CHECKPOINT))?.1.config)
}

impl<'a> Trainer<'a> {
    /// Writes checkpoint, prior and log into `folder`, each whole or not at all. `card` and the source's own
    /// entries become part of the prior's metadata.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, folder: &Path, card: &PriorCard) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_path_buf(), source })?;
        let state = State {
            config: self.config.clone(),
            source: self.source.describe(),
            steps: self.adam.steps,
            images: self.images,
            since_log: self.since_log,
            log: self.log.clone(),
        };
        let to_json = |e: serde_json::Error| Error::Invalid(e.to_string());
        let mut file = TensorFile::new();
        file.metadata.insert("kind".into(), "training".into());
        file.metadata.insert("state".into(), serde_json::to_string(&state).map_err(to_json)?);
        for (name, values) in [
            ("theta", self.denoiser.net().theta()),
            ("ema", &self.ema),
            ("adam_first", &self.adam.first),
            ("adam_second", &self.adam.second),
        ] {
            file.insert_f32(name, &[values.len()], values.to_vec());
        }
        file.write(&folder.join(CHECKPOINT))?;
        let mut card = card.clone();
        card.trained_on = self.source.describe();
        card.extra.extend(self.source.metadata());
        card.extra.insert("images_seen".into(), self.images.to_string());
        card.extra.insert("training".into(), serde_json::to_string(&self.config).map_err(to_json)?);
        write_unet_prior(&folder.join(PRIOR), &self.averaged()?, &card)?;
        let mut lines = String::new();
        for line in &self.log {
            lines.push_str(&serde_json::to_string(line).map_err(to_json)?);
            lines.push('\n');
        }
        Ok(write_whole(&folder.join(LOG), lines.as_bytes())?)
    }

    /// Goes on from the checkpoint in `folder`; the source must be the one that the run began with.
    ///
    /// # Errors
    /// When the checkpoint is not there, damaged, or of another source.
    pub fn resume(folder: &Path, source: &'a dyn ImageSource) -> Result<Self> {
        let path = folder.join(CHECKPOINT);
        let (file, state) = read(&path)?;
        let fail = |message: String| Error::Checkpoint { path: path.clone(), message };
        if state.source != source.describe() {
            return Err(fail(format!(
                "the run was trained on {:?}, found {:?}; give the same source and settings, or another output folder",
                state.source,
                source.describe()
            )));
        }
        let mut trainer = Trainer::new(state.config, source)?;
        let n = trainer.ema.len();
        let part = |name: &str| match finite(&path, &file, name)? {
            (shape, values) if shape == [n] => Ok(values.to_vec()),
            (shape, _) => Err(fail(format!("tensor {name}: found shape {shape:?}, expected [{n}]"))),
        };
        trainer.denoiser.net_mut().set_theta(part("theta")?)?;
        trainer.ema = part("ema")?;
        trainer.adam = Adam { first: part("adam_first")?, second: part("adam_second")?, steps: state.steps };
        trainer.images = state.images;
        trainer.log = state.log;
        trainer.since_log = state.since_log;
        Ok(trainer)
    }
}
