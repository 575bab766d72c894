use std::path::PathBuf;

/// What can go wrong with priors and networks. Every message names file, place, found, expected and remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Compute(#[from] halation_compute::Error),
    /// A file could not be read or written, or is not what it should be.
    #[error(transparent)]
    File(#[from] halation_io::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A checkpoint that is not what it should be.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Place, found, expected, remedy.
        message: String,
    },
    /// Settings that do not fit together.
    #[error("{0}")]
    Invalid(String),
}

/// Result of an operation on priors and networks.
pub type Result<T> = std::result::Result<T, Error>;
