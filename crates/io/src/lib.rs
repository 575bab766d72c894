//! Images and arrays in and out of files; what is written is whole or absent.

mod error;
mod fits;
mod output;
mod sky;

pub use error::{Error, Result};
pub use fits::{FitsFile, FitsHeader, FitsValue, Hdu};
pub use output::{Existing, OutputDir, OutputFile, Started, partial_of, write_whole, write_whole_with};
pub use sky::{AssumedUnit, ImageOptions, SkyImage, read_fits_image, read_fits_image_with, write_fits_image};
