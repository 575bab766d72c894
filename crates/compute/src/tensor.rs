use crate::{Error, Result};
use std::sync::Arc;

/// A row-major f32 array; the first axis counts draws. Cloning shares the data, writing copies them when they are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Arc<Vec<f32>>,
}

impl Tensor {
    /// All zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: Arc::new(vec![0.0; shape.iter().product()]) }
    }

    /// Takes `data` in row-major order; its length must be the product of `shape`.
    pub fn from_vec(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(Error::shape("Tensor::from_vec", shape, format!("{} elements in all", data.len())));
        }
        Ok(Self { shape: shape.to_vec(), data: Arc::new(data) })
    }

    /// The length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Length of the first axis.
    pub fn draws(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of elements of one draw.
    pub fn item_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// All elements in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All elements, for writing.
    pub fn data_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.data).as_mut_slice()
    }

    /// The elements as a vector, without a copy when this is the only holder.
    pub fn into_vec(self) -> Vec<f32> {
        Arc::try_unwrap(self.data).unwrap_or_else(|shared| shared.as_ref().clone())
    }

    /// The elements of draw `i`.
    pub fn item(&self, i: usize) -> &[f32] {
        let n = self.item_len();
        &self.data[i * n..(i + 1) * n]
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", shape, format!("{} elements in all", self.len())));
        }
        Ok(Self { shape: shape.to_vec(), data: self.data.clone() })
    }

    /// The draws named by `index`, in that order, repeats allowed (what resampling does).
    pub fn select(&self, index: &[usize]) -> Result<Self> {
        let mut data = Vec::with_capacity(index.len() * self.item_len());
        for &i in index {
            if i >= self.draws() {
                return Err(Error::shape("select", &self.shape, format!("more than {i} draws")));
            }
            data.extend_from_slice(self.item(i));
        }
        let mut shape = self.shape.clone();
        shape[0] = index.len();
        Self::from_vec(&shape, data)
    }

    /// Draws of several tensors one after another; all other axes must agree.
    pub fn concat_draws(parts: &[Tensor]) -> Result<Self> {
        let first = parts.first().ok_or_else(|| Error::shape("concat_draws", &[], "at least one tensor"))?;
        let mut data = Vec::new();
        for part in parts {
            if part.shape[1..] != first.shape[1..] {
                return Err(Error::shape("concat_draws", &part.shape, format!("items of shape {:?}", &first.shape[1..])));
            }
            data.extend_from_slice(part.data());
        }
        let mut shape = first.shape.clone();
        shape[0] = parts.iter().map(Tensor::draws).sum();
        Self::from_vec(&shape, data)
    }

    /// Fails with an error that names `op` unless the shape is `expected`.
    pub fn expect_shape(&self, op: &'static str, expected: &[usize]) -> Result<()> {
        if self.shape != expected {
            return Err(Error::shape(op, &self.shape, format!("{expected:?}")));
        }
        Ok(())
    }
}
