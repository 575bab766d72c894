//! A dense linear problem y = A x + n with independent Gaussian noise.

use crate::numeric::dot;
use crate::{Domain, Error, ForwardOperator, Likelihood, LinearGaussian, LinearOperator, Presented, Result, Whitened};
use halation_compute::Tensor;
use halation_posterior::Variable;
use ndarray::{Array1, Array2, ArrayD, ArrayView2};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A dense matrix as a linear operator.
#[derive(Clone, Debug)]
pub struct DenseOperator {
    shape: [usize; 3],
    /// A, row-major, and its transpose.
    a: Array2<f64>,
    transposed: Array2<f64>,
}

impl DenseOperator {
    /// The operator of matrix `a` (m, d) on images of `shape` (channel, y, x) with product d.
    ///
    /// # Errors
    /// A shape that does not fit or a value that is not finite.
    pub fn new(shape: [usize; 3], a: ArrayView2<f64>) -> Result<Self> {
        if shape.iter().product::<usize>() != a.ncols() || a.is_empty() {
            return Err(Error::Invalid(format!(
                "matrix {:?} on images of shape {shape:?}: expected as many columns as pixels",
                a.dim()
            )));
        }
        if let Some(((i, j), v)) = a.indexed_iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::Invalid(format!("matrix element [{i}, {j}] is {v}, expected finite values")));
        }
        let a = a.as_standard_layout().into_owned();
        Ok(Self { shape, transposed: a.t().as_standard_layout().into_owned(), a })
    }

    /// The matrix, (m, d).
    pub fn matrix(&self) -> ArrayView2<'_, f64> {
        self.a.view()
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        rows(&self.a).map(|row| dot(row, x)).collect()
    }

    fn times_transposed(&self, y: &[f64]) -> Vec<f64> {
        rows(&self.transposed).map(|row| dot(row, y)).collect()
    }

    fn each(&self, x: &Tensor, out: &[usize], f: impl Fn(&[f64]) -> Vec<f64> + Sync) -> Tensor {
        let mut shape = vec![x.draws()];
        shape.extend_from_slice(out);
        let mut y = Tensor::zeros(&shape);
        let n = y.item_len();
        y.data_mut().par_chunks_mut(n).enumerate().for_each(|(i, o)| {
            let v: Vec<f64> = x.item(i).iter().map(|v| *v as f64).collect();
            o.iter_mut().zip(f(&v)).for_each(|(o, v)| *o = v as f32);
        });
        y
    }
}

fn rows(a: &Array2<f64>) -> impl Iterator<Item = &[f64]> {
    a.as_slice().unwrap_or(&[]).chunks_exact(a.ncols())
}

impl ForwardOperator for DenseOperator {
    fn item_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn data_len(&self) -> usize {
        self.a.nrows()
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.expect_shape("DenseOperator::apply", &[x.draws(), self.shape[0], self.shape[1], self.shape[2]])?;
        Ok(self.each(x, &[self.a.nrows()], |v| self.times(v)))
    }

    fn vjp(&self, _: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.adjoint(v)
    }

    fn linear(&self) -> Option<&dyn LinearOperator> {
        Some(self)
    }
}

impl LinearOperator for DenseOperator {
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        y.expect_shape("DenseOperator::adjoint", &[y.draws(), self.a.nrows()])?;
        Ok(self.each(y, &self.shape, |v| self.times_transposed(v)))
    }
}

/// -log p(y | x) = 1/2 |(A x - y) / sigma|^2 up to a constant.
#[derive(Clone, Debug)]
pub struct LinearGaussianLikelihood {
    operator: DenseOperator,
    /// diag(1/sigma) A.
    white: DenseOperator,
    gram: Array2<f64>,
    data: Vec<f64>,
    sigma: Vec<f64>,
}

impl LinearGaussianLikelihood {
    /// The likelihood of `data` with standard deviations `sigma`, as many as the operator has rows.
    ///
    /// # Errors
    /// Lengths that do not fit, data that are not finite, standard deviations that are not positive.
    pub fn new(operator: DenseOperator, data: Vec<f64>, sigma: Vec<f64>) -> Result<Self> {
        let m = operator.data_len();
        if data.len() != m || sigma.len() != m {
            return Err(Error::Invalid(format!(
                "found {} data and {} sigma, expected {m} of each, the rows of A",
                data.len(),
                sigma.len()
            )));
        }
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            return Err(Error::Invalid(format!("datum {i} is {}, expected finite values", data[i])));
        }
        if let Some(i) = sigma.iter().position(|v| !(v.is_finite() && *v > 0.0)) {
            return Err(Error::Invalid(format!("sigma {i} is {}, expected a positive standard deviation", sigma[i])));
        }
        let mut a = operator.a.clone();
        a.rows_mut().into_iter().zip(&sigma).for_each(|(mut row, s)| row /= *s);
        let white = DenseOperator::new(operator.shape, a.view())?;
        let mut gram = Array2::zeros((m, m));
        for (i, row) in rows(&white.a).enumerate() {
            for (j, other) in rows(&white.a).enumerate().take(i + 1) {
                let value = dot(row, other);
                gram[(i, j)] = value;
                gram[(j, i)] = value;
            }
        }
        Ok(Self { operator, white, gram, data, sigma })
    }

    fn whitened(&self, x: &[f32]) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|v| *v as f64).collect();
        self.white.times(&x).iter().zip(self.data.iter().zip(&self.sigma)).map(|(a, (y, s))| a - y / s).collect()
    }
}

struct LinearWhitened<'a> {
    likelihood: &'a LinearGaussianLikelihood,
    value: Vec<f64>,
}

impl Whitened for LinearWhitened<'_> {
    fn value(&self) -> &[f64] {
        &self.value
    }
    fn jvp(&self, v: &[f64]) -> Vec<f64> {
        self.likelihood.white.times(v)
    }
    fn vjp(&self, w: &[f64]) -> Vec<f64> {
        self.likelihood.white.times_transposed(w)
    }
    fn gram(&self) -> Array2<f64> {
        self.likelihood.gram.clone()
    }
}

impl Likelihood for LinearGaussianLikelihood {
    fn item_shape(&self) -> [usize; 3] {
        self.operator.shape
    }

    fn neg_log_and_grad(&self, x: &Tensor) -> Result<(Vec<f64>, Tensor)> {
        x.expect_shape(
            "LinearGaussianLikelihood",
            &[x.draws(), self.operator.shape[0], self.operator.shape[1], self.operator.shape[2]],
        )?;
        let mut gradient = Tensor::zeros(x.shape());
        let n = x.item_len();
        let values = gradient
            .data_mut()
            .par_chunks_mut(n)
            .enumerate()
            .map(|(i, g)| {
                let r = self.whitened(x.item(i));
                g.iter_mut().zip(self.white.times_transposed(&r)).for_each(|(g, v)| *g = v as f32);
                0.5 * dot(&r, &r)
            })
            .collect();
        Ok((values, gradient))
    }

    fn residual(&self, x: &[f32]) -> Result<Option<Box<dyn Whitened + '_>>> {
        if x.len() != self.operator.a.ncols() {
            return Err(Error::Invalid(format!("an image of {} pixels, expected {}", x.len(), self.operator.a.ncols())));
        }
        Ok(Some(Box::new(LinearWhitened { value: self.whitened(x), likelihood: self })))
    }

    fn linear_gaussian(&self) -> Option<LinearGaussian<'_>> {
        Some(LinearGaussian { operator: &self.operator, data: &self.data, sigma: &self.sigma })
    }
}

/// A linear problem has one data product, no gauge, and the prior's units.
impl Domain for LinearGaussianLikelihood {
    fn reduced_chi2(&self, image: &[f32]) -> Result<Vec<(String, f64)>> {
        let r = self.whitened(image);
        Ok(vec![("data".into(), dot(&r, &r) / r.len() as f64)])
    }

    fn present(&self, image: &[f32]) -> Result<Presented> {
        Ok(Presented { image: image.to_vec(), stats: BTreeMap::new() })
    }

    fn observed(&self) -> BTreeMap<String, Variable> {
        let variable = |description: &str, values: &[f64]| Variable {
            dims: vec!["datum".into()],
            unit: String::new(),
            description: description.into(),
            values: Array1::from(values.to_vec()).into_dyn(),
        };
        [
            ("y".to_string(), variable("the data", &self.data)),
            ("sigma".to_string(), variable("standard deviation of the data", &self.sigma)),
        ]
        .into()
    }

    fn predict(&self, image: &[f32]) -> Result<BTreeMap<String, ArrayD<f64>>> {
        let x: Vec<f64> = image.iter().map(|v| *v as f64).collect();
        Ok([("y".to_string(), Array1::from(self.operator.times(&x)).into_dyn())].into())
    }
}
