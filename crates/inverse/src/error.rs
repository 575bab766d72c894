/// What can go wrong between a problem and its ensemble.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Compute(#[from] halation_compute::Error),
    /// A prior failed.
    #[error(transparent)]
    Prior(#[from] halation_nn::Error),
    /// A file failed.
    #[error(transparent)]
    Io(#[from] halation_io::Error),
    /// An ensemble does not fit together or could not be written.
    #[error(transparent)]
    Posterior(#[from] halation_posterior::Error),
    /// A solver needs what the problem does not offer.
    #[error("solver {solver} needs {needs}, which this problem does not offer: {remedy}")]
    Needs {
        /// The solver.
        solver: &'static str,
        /// The capability.
        needs: &'static str,
        /// What to do.
        remedy: String,
    },
    /// Numbers that are not numbers, or a matrix that cannot be factored.
    #[error("{0}")]
    Numerical(String),
    /// Settings or data that do not fit together.
    #[error("{0}")]
    Invalid(String),
}

/// Result of an operation on an inverse problem.
pub type Result<T> = std::result::Result<T, Error>;
