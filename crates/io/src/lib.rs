//! Images and arrays in and out of files; what is written is whole or absent.

mod error;
mod fits;
mod h5;
mod hash;
mod images;
mod output;
mod picture;
mod problem;
mod sky;
mod tensors;
mod torch;

pub use error::{Error, Result};
pub use fits::{FitsFile, FitsHeader, FitsValue, Hdu};
pub use h5::{Described, H5Reader, H5Writer};
pub use hash::{sha256_of_file, sha256_of_files};
pub use images::ImageStack;
pub use output::{Existing, OutputDir, OutputFile, Started, partial_of, unfinished_run, write_whole, write_whole_with};
pub use picture::{Colours, Picture, contact_sheet, write_png_gray};
pub use problem::{LinearProblemFile, read_linear_problem};
pub use sky::{SkyImage, find_fits_image, read_fits_image, write_fits_image};
pub use tensors::{NamedTensor, TensorFile, TensorValues};
pub use torch::{TorchFile, is_torch_file};
