//! Tensors on a device, operations with their backward passes, and counter-based random numbers. Knows no physics.

mod error;
mod fft;
mod philox;
mod tensor;

pub use error::{Error, Result};
pub use fft::Fft2;
pub use philox::{Philox, Sequence};
pub use tensor::Tensor;
