//! Tensors on a device, operations with their backward passes, and counter-based random numbers. Knows no physics.
//!
//! The operations of a network work on [`Map`]s: channels-last feature maps with an optional border of zeros. Each has its backward pass
//! beside it and a naive f64 version in [`mod@reference`]. Draws never influence each other, and no result depends on the number of threads.

mod attention;
mod conv;
mod conv_grads;
mod error;
mod fft;
mod lanes;
mod map;
mod norm;
mod philox;
pub mod reference;
mod resample;
mod simd;
mod smooth;
mod tensor;
#[cfg(test)]
mod tests;
mod winograd;

pub use attention::{AttentionWeights, attention, attention_backward};
pub use conv::{ConvShape, ConvWeights, Epilogue, conv2d, conv2d_input_grad};
pub use conv_grads::ConvGrads;
pub use error::{Error, Result};
pub use fft::Fft2;
pub use map::{Map, serial};
pub use norm::{Affine, AffineGrads, GroupStats, group_norm, group_norm_backward, group_norm_stats, silu, silu_backward};
pub use philox::{Philox, Sequence};
pub use resample::{
    Resample, concat_channels, resample, resample_backward, scaled_sum, smooth_down_framed, smooth_down_framed_backward,
    split_channels, sum_pixels,
};
pub use simd::CpuLevel;
pub use tensor::Tensor;
