use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

/// SHA-256 of a file's bytes, in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::os(path, e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::os(path, e))? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// SHA-256 of a list of files: of their own hashes, one a line, in hexadecimal.
///
/// # Errors
/// One of them cannot be read.
pub fn sha256_of_files(paths: &[impl AsRef<Path>]) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(sha256_of_file(path.as_ref())? + "\n");
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of FIPS 180-2: "abc" and a million times "a".
    #[test]
    fn known_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let line = folder.path().join("line");
        std::fs::write(&line, sha256_of_file(&path).unwrap() + "\n").unwrap();
        assert_eq!(sha256_of_files(&[&path]).unwrap(), sha256_of_file(&line).unwrap());
        std::fs::write(&path, "a".repeat(1_000_000)).unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        assert!(sha256_of_file(folder.path()).is_err());
    }
}
