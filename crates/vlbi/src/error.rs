use std::path::PathBuf;

/// What can go wrong with an observation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file failed.
    #[error(transparent)]
    Io(#[from] halation_io::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Compute(#[from] halation_compute::Error),
    /// A likelihood or solver failed.
    #[error(transparent)]
    Inverse(#[from] halation_inverse::Error),
    /// Data that cannot be used as asked; says what is left and what to do.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Place, found, expected, remedy.
        message: String,
    },
    /// Settings that do not fit together.
    #[error("{0}")]
    Invalid(String),
}

/// Result of an operation on an observation.
pub type Result<T> = std::result::Result<T, Error>;
