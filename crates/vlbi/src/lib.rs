//! Very long baseline interferometry: UVFITS, closures, gains, likelihoods, simulators and ring features.

pub mod align;
mod array;
mod averaging;
mod chi2;
mod closure_data;
pub mod closures;
mod closures_minimal;
mod dense;
mod earth;
mod error;
mod field_of_view;
mod fourier;
mod grid;
mod integration_terms;
mod likelihood;
mod likelihood_settings;
#[cfg(test)]
mod likelihood_tests;
mod likelihood_whitened;
mod observation;
mod preparation_report;
mod problem;
pub mod ring;
#[cfg(test)]
mod ring_tests;
pub mod simulate;
pub mod sources;
#[cfg(test)]
mod testing;
mod uvfits;
mod visibility_operator;

pub use array::{Array, ArrayStation};
pub use averaging::{Integration, PrepareSettings, Prepared, prepare};
pub use chi2::{ChiSquare, Prediction};
pub use closure_data::{ClosureData, ClosurePhase, LogClosureAmplitude};
pub use closures_minimal::{minimal_quadrangles, minimal_triangles};
pub use earth::{elevation_rad, gmst_rad, utc_text, uv_m};
pub use error::{Error, Result};
pub use field_of_view::{FieldOfView, check_field_of_view, field_of_view};
pub use fourier::{Fourier, Pulse};
pub use grid::{ImageGauge, ImageGrid, MICROARCSECOND_RAD};
pub use likelihood::VlbiLikelihood;
pub use likelihood_settings::{DataProducts, FluxScale, GainPrior, LikelihoodSettings, PriorUnits};
pub use observation::{Band, INTRA_SITE_M, Observation, Station, Visibility, ZERO_BASELINE_LAMBDA};
pub use preparation_report::PreparationReport;
pub use problem::VlbiProblem;
pub use uvfits::{Flags, UvfitsSummary, inspect_observation, inspect_uvfits, read_observation, read_uvfits, write_uvfits};
