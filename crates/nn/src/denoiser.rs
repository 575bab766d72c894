use crate::Result;
use halation_compute::Tensor;

/// A prior as its posterior-mean denoiser D(x, sigma) = E[x0 | x0 + sigma eps = x], eps ~ N(0, I): the one diffusion convention inside.
///
/// x and the result have shape (draw, channel, y, x) and are in the prior's own units; `sigma` has one value per draw. Draws do not
/// influence each other, and a draw's bits do not depend on the batch that it is in.
pub trait Denoiser: Send + Sync {
    /// (channel, y, x) of one image.
    fn item_shape(&self) -> [usize; 3];

    /// D(x, sigma).
    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> Result<Tensor>;

    /// D(x, sigma) and the pullback at x, which may be called several times: forward once, then vector-Jacobian products.
    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)>;
}

/// The transposed Jacobian of a denoiser at the point where it was evaluated.
pub trait Pullback: Send {
    /// J^T v with J = dD/dx, per draw; v has the shape of x.
    fn vjp(&self, v: &Tensor) -> Result<Tensor>;
}
