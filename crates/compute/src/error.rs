/// What can go wrong in a tensor operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shapes that do not fit the operation.
    #[error("{op}: found shape {found:?}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shape that was given.
        found: Vec<usize>,
        /// What the operation takes, in words.
        expected: String,
    },
    /// A device that is not there or cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// The device as it was asked for.
        name: String,
        /// Why it cannot be used and what to do.
        reason: String,
    },
}

impl Error {
    /// A shape error of `op`.
    pub fn shape(op: &'static str, found: &[usize], expected: impl Into<String>) -> Self {
        Error::Shape { op, found: found.to_vec(), expected: expected.into() }
    }
}

/// Result of a tensor operation.
pub type Result<T> = std::result::Result<T, Error>;
