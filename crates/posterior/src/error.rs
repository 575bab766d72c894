/// What can go wrong with an ensemble.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error(transparent)]
    Io(#[from] halation_io::Error),
    /// Arrays or numbers that do not fit together.
    #[error("{place}: {problem}")]
    Shape {
        /// What was given: the argument or variable.
        place: String,
        /// Found and expected.
        problem: String,
    },
}

impl Error {
    /// An argument that does not fit.
    pub fn shape(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Shape { place: place.into(), problem: problem.into() }
    }
}

/// Result of handling an ensemble.
pub type Result<T> = std::result::Result<T, Error>;
