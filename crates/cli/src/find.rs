//! Where shipped files are found.

use std::path::{Path, PathBuf};

/// The prior called `name`: a path, or a name under `priors/` of `$HALATION_DATA`, of `<exe>/../share/halation`, or of the source tree.
///
/// # Errors
/// There is none; the message lists the places.
pub(crate) fn prior(name: &Path) -> anyhow::Result<PathBuf> {
    if name.is_file() || name.components().count() > 1 || name.extension().is_some() {
        return Ok(name.to_path_buf());
    }
    let file = Path::new("priors").join(name).with_extension("safetensors");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("share/halation")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let places: Vec<PathBuf> = std::env::var_os("HALATION_DATA")
        .map(PathBuf::from)
        .into_iter()
        .chain(beside)
        .chain([source])
        .map(|p| p.join(&file))
        .collect();
    match places.iter().find(|p| p.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            let list = places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
            anyhow::bail!("no prior named {:?}: looked for {list}; give a file, or set HALATION_DATA", name.display().to_string())
        }
    }
}
