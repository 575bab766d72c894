//! PROBLEM.h5: a linear problem y = A x + n with independent Gaussian noise.

use crate::{Error, H5Reader, Result};
use ndarray::{Array1, Array2, Ix2};
use std::path::Path;

/// A linear problem y = A x + n, n ~ N(0, diag(sigma^2)).
#[derive(Clone, Debug)]
pub struct LinearProblemFile {
    /// The matrix, (m, d).
    pub a: Array2<f64>,
    /// The data, (m).
    pub y: Array1<f64>,
    /// Standard deviation of each datum, (m), all positive.
    pub sigma: Array1<f64>,
    /// Shape (channel, y, x) of the unknown image; its product is d.
    pub image_shape: [usize; 3],
    /// The image that made the data, (d), where it is known.
    pub truth: Option<Array1<f64>>,
}

/// Reads datasets `A` (m, d) and `y` (m), attribute `sigma` or dataset `sigma` (m), attribute `image_shape`, and `truth` where present.
///
/// # Errors
/// No HDF5 file, something missing, shapes that do not fit, values that are not finite, or a `sigma` that is not positive.
pub fn read_linear_problem(path: &Path) -> Result<LinearProblemFile> {
    let file = H5Reader::open(path)?;
    let wrong = |place: &str, problem: String| Err(Error::content(path, place, problem));
    let a = file.f64s("A")?;
    let shape = a.shape().to_vec();
    let Ok(a) = a.into_dimensionality::<Ix2>() else {
        return wrong("dataset A", format!("has shape {shape:?}, expected a matrix [m, d]"));
    };
    let (m, d) = a.dim();
    if m == 0 || d == 0 {
        return wrong("dataset A", format!("has shape {shape:?}, expected at least one datum and one unknown"));
    }
    let y = vector(&file, "y", m, "rows of A")?;
    let sigma = match (file.attribute_f64s("/", "sigma")?.as_deref(), file.has("sigma")) {
        (Some(_), true) => return wrong("sigma", "is both an attribute and a dataset; keep one".into()),
        (Some([sigma]), false) => Array1::from_elem(m, *sigma),
        (Some(other), false) => return wrong("attribute sigma", format!("holds {} values, expected one (use a dataset for one per datum)", other.len())),
        (None, true) => vector(&file, "sigma", m, "rows of A")?,
        (None, false) => return wrong("sigma", "is missing; expected attribute sigma (one value) or dataset sigma [m]: the noise's standard deviation in the unit of y".into()),
    };
    if let Some(i) = sigma.iter().position(|s| !(*s > 0.0 && s.is_finite())) {
        return wrong("sigma", format!("value {i} is {}, expected a positive standard deviation", sigma[i]));
    }
    let Some(stated) = file.attribute_f64s("/", "image_shape")? else {
        return wrong("attribute image_shape", format!("is missing; expected (channel, y, x) with product {d}"));
    };
    let counts: Vec<usize> =
        stated.iter().filter(|v| **v >= 1.0 && v.fract() == 0.0 && **v <= d as f64).map(|v| *v as usize).collect();
    let mut image_shape = [1; 3];
    if counts.len() != stated.len() || counts.is_empty() || counts.len() > 3 || counts.iter().product::<usize>() != d {
        return wrong(
            "attribute image_shape",
            format!("is {stated:?}, expected (channel, y, x) with product {d}, the columns of A"),
        );
    }
    image_shape[3 - counts.len()..].copy_from_slice(&counts);
    if let Some(i) = a.iter().position(|v| !v.is_finite()) {
        return wrong("dataset A", format!("element [{}, {}] is not finite", i / d, i % d));
    }
    let truth = if file.has("truth") { Some(vector(&file, "truth", d, "columns of A")?) } else { None };
    Ok(LinearProblemFile { a, y, sigma, image_shape, truth })
}

fn vector(file: &H5Reader, name: &str, n: usize, what: &str) -> Result<Array1<f64>> {
    let values = file.f64s(name)?;
    let place = format!("dataset {name}");
    if values.len() != n {
        return Err(Error::content(file.path(), place, format!("has shape {:?}, expected {n} values, the {what}", values.shape())));
    }
    let values = Array1::from_iter(values);
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::content(file.path(), place, format!("value {i} is {}, expected finite values", values[i])));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Described, H5Writer};
    use ndarray::{ArrayD, IxDyn};

    struct Parts {
        a: ArrayD<f64>,
        y: Vec<f64>,
        sigma: Vec<f64>,
        sigma_dataset: Option<Vec<f64>>,
        shape: Vec<f64>,
    }

    fn good() -> Parts {
        let a = ArrayD::from_shape_fn(IxDyn(&[2, 6]), |i| (i[0] * 6 + i[1]) as f64);
        Parts { a, y: vec![1.0, 2.0], sigma: vec![0.5], sigma_dataset: None, shape: vec![2.0, 3.0] }
    }

    fn round(parts: &Parts) -> Result<LinearProblemFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("problem.h5");
        let w = H5Writer::create(&path).unwrap();
        w.f64s("/", "A", &parts.a.view(), &[], Described::default()).unwrap();
        w.f64s("/", "y", &ndarray::ArrayView1::from(&parts.y).into_dyn(), &[], Described::default()).unwrap();
        if !parts.sigma.is_empty() {
            w.attribute_f64s("/", "sigma", &parts.sigma).unwrap();
        }
        if let Some(s) = &parts.sigma_dataset {
            w.f64s("/", "sigma", &ndarray::ArrayView1::from(s).into_dyn(), &[], Described::default()).unwrap();
        }
        if !parts.shape.is_empty() {
            w.attribute_f64s("/", "image_shape", &parts.shape).unwrap();
        }
        w.finish().unwrap();
        read_linear_problem(&path)
    }

    #[test]
    fn reads_what_is_right() {
        let p = round(&good()).unwrap();
        assert_eq!((p.a.dim(), p.image_shape, p.sigma.to_vec(), p.truth), ((2, 6), [1, 2, 3], vec![0.5, 0.5], None));
        let p = round(&Parts { sigma: vec![], sigma_dataset: Some(vec![1.0, 2.0]), ..good() }).unwrap();
        assert_eq!(p.sigma.to_vec(), [1.0, 2.0]);
    }

    #[test]
    fn says_what_is_wrong() {
        let nan = ArrayD::from_elem(IxDyn(&[2, 6]), f64::NAN);
        let cases = [
            (Parts { a: ArrayD::zeros(IxDyn(&[12])), ..good() }, "expected a matrix"),
            (Parts { a: nan, ..good() }, "[0, 0] is not finite"),
            (Parts { y: vec![1.0], ..good() }, "expected 2 values"),
            (Parts { y: vec![1.0, f64::INFINITY], ..good() }, "value 1 is inf"),
            (Parts { sigma: vec![0.0], ..good() }, "expected a positive"),
            (Parts { sigma: vec![f64::NAN], ..good() }, "expected a positive"),
            (Parts { sigma: vec![1.0, 2.0], ..good() }, "holds 2 values"),
            (Parts { sigma: vec![], ..good() }, "sigma: is missing"),
            (Parts { sigma_dataset: Some(vec![1.0, 1.0]), ..good() }, "keep one"),
            (Parts { sigma: vec![], sigma_dataset: Some(vec![1.0, -1.0]), ..good() }, "value 1 is -1"),
            (Parts { shape: vec![], ..good() }, "image_shape: is missing"),
            (Parts { shape: vec![2.0, 2.0], ..good() }, "product 6"),
            (Parts { shape: vec![1e30, 0.5], ..good() }, "product 6"),
        ];
        for (parts, expected) in cases {
            match round(&parts) {
                Ok(_) => panic!("expected an error with {expected:?}"),
                Err(e) => assert!(e.to_string().contains(expected), "{e}"),
            }
        }
    }

    /// A truncated or overwritten file is an error wherever the damage lies; never a panic, never a huge allocation.
    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("problem.h5");
        let w = H5Writer::create(&path).unwrap();
        w.f64s("/", "A", &good().a.view(), &[], Described::default()).unwrap();
        w.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        // A name for each: HDF5 may keep a damaged file open, and would answer from that.
        for cut in (0..whole.len()).step_by(61) {
            let path = folder.path().join(format!("cut{cut}.h5"));
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(read_linear_problem(&path).is_err());
        }
        for at in (0..whole.len()).step_by(7) {
            let mut broken = whole.clone();
            let end = broken.len().min(at + 8);
            broken[at..end].fill(0xff);
            let path = folder.path().join(format!("broken{at}.h5"));
            std::fs::write(&path, &broken).unwrap();
            assert!(read_linear_problem(&path).is_err(), "y is missing in any case");
        }
    }

    #[test]
    fn golden_problems() {
        let root = std::env::var_os("HALATION_SHARED")
            .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into(), std::path::PathBuf::from);
        let path = root.join("golden/exact/gaussian_fourier/problem.h5");
        if !path.exists() {
            return eprintln!("skipped: golden_problems needs golden/exact/gaussian_fourier/problem.h5");
        }
        let p = read_linear_problem(&path).unwrap();
        assert_eq!((p.a.dim(), p.image_shape, p.sigma[83]), ((84, 256), [1, 16, 16], 0.05));
        assert_eq!(p.truth.unwrap().len(), 256);
    }
}
