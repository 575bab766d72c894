//! Very long baseline interferometry: UVFITS, closures, gains, likelihoods, simulators and ring features.

mod earth;
mod error;
mod observation;

mod uvfits;

pub use earth::{elevation_rad, gmst_rad, uv_m};
pub use error::{Error, Result};
pub use observation::{Band, INTRA_SITE_M, Observation, Station, Visibility, ZERO_BASELINE_LAMBDA};
pub use uvfits::{Flags, UvfitsSummary, inspect_observation, inspect_uvfits, read_observation, read_uvfits, write_uvfits};
