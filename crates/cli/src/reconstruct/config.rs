//! Options from the command line, over those of a TOML file, over those of the run that is resumed.

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The section of run.toml that records and does not steer.
pub(super) const RECORD: &str = "record";

/// The options in a file, and its record, which is empty where there is none.
///
/// # Errors
/// The file cannot be read or is not TOML.
pub(super) fn read(path: &Path) -> Result<(toml::Table, toml::Table)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut table: toml::Table = toml::from_str(&text)
        .map_err(|e| anyhow!("{}: {}", path.display(), e.to_string().trim_end()))
        .context("the configuration is not valid TOML")?;
    let record = match table.remove(RECORD) {
        Some(toml::Value::Table(record)) => record,
        _ => toml::Table::new(),
    };
    Ok((table, record))
}

/// Fills what the command line leaves open (`given`) from the files `under`, the later ones over the earlier.
///
/// # Errors
/// A file cannot be read, is not TOML, or holds a key or value that these options do not have.
pub(super) fn merge<T: Serialize + DeserializeOwned>(given: &T, under: &[&Path]) -> Result<T> {
    let mut merged = toml::Table::new();
    let mut last = None;
    for path in under {
        merged.extend(read(path)?.0);
        last = Some(*path);
    }
    merged.extend(toml::Table::try_from(given).context("options cannot be written as TOML")?);
    let place = last.map_or("options".to_string(), |p| p.display().to_string());
    let options: T = merged.clone().try_into().map_err(|e: toml::de::Error| anyhow!("{place}: {}", e.to_string().trim_end()))?;
    // What does not come back was not understood.
    let known = toml::Table::try_from(&options)?;
    if let Some(key) = merged.keys().find(|k| !known.contains_key(*k)) {
        bail!("{place}: key {key:?} is not an option of this command; see --help for the names (with _ for -)");
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Example {
        #[serde(skip_serializing_if = "Option::is_none")]
        draws: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        solver: Option<String>,
    }

    #[test]
    fn the_command_line_wins_and_strangers_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, "draws = 7\nsolver = \"dps\"\n[record]\nversion = \"x\"\n").unwrap();
        let merged = merge(&Example { draws: Some(9), solver: None }, &[&path]).unwrap();
        assert_eq!(merged, Example { draws: Some(9), solver: Some("dps".into()) });
        let fail = |text: &str| {
            std::fs::write(&path, text).unwrap();
            format!("{:#}", merge(&Example::default(), &[&path]).unwrap_err())
        };
        assert!(fail("drawss = 7").contains("\"drawss\" is not an option"));
        let wrong = fail("draws = \"many\"");
        assert!(wrong.contains("a.toml") && wrong.contains("`draws`"), "{wrong}");
        assert!(fail("draws = ").contains("not valid TOML"));
        assert!(merge(&Example::default(), &[&folder.path().join("none")]).is_err());
    }
}
