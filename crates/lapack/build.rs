//! Finds the static OpenBLAS, gfortran and quadmath archives and tells rustc to link them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that holds `archive`, from the first source that knows it.
fn folder_of(archive: &str, ask: &[(&str, &[&str])]) -> Option<PathBuf> {
    ask.iter().find_map(|(program, arguments)| {
        let output = Command::new(program).args(*arguments).output().ok()?;
        let line = String::from_utf8(output.stdout).ok()?;
        let path = Path::new(line.trim());
        let folder = if path.extension().is_some() { path.parent()? } else { path };
        folder.join(archive).is_file().then(|| folder.to_path_buf())
    })
}

fn link(library: &str, ask: &[(&str, &[&str])]) {
    let archive = format!("lib{library}.a");
    match folder_of(&archive, ask) {
        Some(folder) => {
            println!("cargo:rustc-link-search=native={}", folder.display());
            println!("cargo:rustc-link-lib=static={library}");
        }
        None => panic!("{archive} was not found; on Debian or Ubuntu run: apt-get install libopenblas-dev gfortran pkg-config"),
    }
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    link("openblas", &[("pkg-config", &["--variable=libdir", "openblas"]), ("gcc", &["-print-file-name=libopenblas.a"])]);
    link("gfortran", &[("gcc", &["-print-file-name=libgfortran.a"])]);
    link("quadmath", &[("gcc", &["-print-file-name=libquadmath.a"])]);
}
