//! Posterior ensembles: on disk, summaries, calibration, image metrics, plots and report.

mod ensemble;

pub use ensemble::{Axis, Ensemble, OutputKind, Variable};
