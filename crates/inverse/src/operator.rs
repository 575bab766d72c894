use crate::Result;
use halation_compute::Tensor;

/// A forward model A, from images (draw, channel, y, x) to data (draw, datum), draw by draw.
pub trait ForwardOperator: Send + Sync {
    /// (channel, y, x) of one image.
    fn item_shape(&self) -> [usize; 3];
    /// Number of real data of one draw.
    fn data_len(&self) -> usize;
    /// A(x).
    fn apply(&self, x: &Tensor) -> Result<Tensor>;
    /// (dA/dx)^T v at x.
    fn vjp(&self, x: &Tensor, v: &Tensor) -> Result<Tensor>;
    /// The same operator as a linear one, when it is linear.
    fn linear(&self) -> Option<&dyn LinearOperator> {
        None
    }
}

/// A linear forward model.
pub trait LinearOperator: ForwardOperator {
    /// A^T y.
    fn adjoint(&self, y: &Tensor) -> Result<Tensor>;
}
