use std::path::{Path, PathBuf};

/// What can go wrong with a file: which one, where in it, what was found, what was expected, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system's answer.
    #[error("{}: {source}", path.display())]
    Os {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Content that is not what it should be.
    #[error("{}: {place}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// HDU, dataset, column, row or byte.
        place: String,
        /// Found, expected (with units) and remedy.
        problem: String,
    },
}

impl Error {
    /// An operating system error on `path`.
    pub fn os(path: &Path, source: std::io::Error) -> Self {
        Error::Os { path: path.to_path_buf(), source }
    }

    /// Unusable content at `place` of `path`.
    pub fn content(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Content { path: path.to_path_buf(), place: place.into(), problem: problem.into() }
    }
}

/// Result of reading or writing.
pub type Result<T> = std::result::Result<T, Error>;
