//! Pictures of an ensemble: `summary.png` from plain data, without a font or a display of the system's.

mod axes;
mod canvas;
mod data;
mod images;
mod summary;

pub use data::{DataPanel, UvBand};
pub use images::PlotImages;
pub(crate) use images::is_reduced_chi2;
pub use summary::{ImageScale, SummaryPlot};
