//! Posterior ensembles: on disk, summaries, calibration, image metrics, plots and report.

pub mod calibration;
mod ensemble;
mod error;
mod file;
pub mod metrics;
pub mod plot;
pub mod report;
mod summary;

pub use ensemble::{Axis, Ensemble, OutputKind, Variable};
pub use error::{Error, Result};
pub use file::{read_ensemble, write_ensemble};
pub use summary::{FEWEST_DRAWS_FOR_LIMITS, Summary, effective_draws, lower_level, mean_std, quantiles};
