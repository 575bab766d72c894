//! Very long baseline interferometry: UVFITS, closures, gains, likelihoods, simulators and ring features.

mod error;
mod observation;
pub mod sources;

pub use error::{Error, Result};
pub use observation::{Band, Observation, Station, Visibility};
