//! Images and arrays in and out of files; what is written is whole or absent.

mod error;

pub use error::{Error, Result};
