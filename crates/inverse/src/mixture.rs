//! A Gaussian mixture as a prior: denoiser, Jacobian and samples in closed form.

use crate::{
    Error, Result,
    numeric::{dot, symmetric_eigen},
};
use halation_compute::{Philox, Tensor};
use halation_io::TensorFile;
use halation_nn::{Denoiser, Pullback};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayView3};
use rayon::prelude::*;
use std::path::Path;

/// One component N(mean, V diag(variances) V^T).
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub log_weight: f64,
    pub mean: Array1<f64>,
    /// Eigenvalues of the covariance, none negative.
    pub variances: Array1<f64>,
    /// Eigenvectors as columns (V) and as rows (V^T), so that both products read rows.
    pub columns: Array2<f64>,
    pub rows: Array2<f64>,
}

impl Component {
    pub fn covariance(&self) -> Array2<f64> {
        (&self.columns * &self.variances).dot(&self.rows)
    }
}

/// sum_k w_k N(m_k, C_k) over images, in f64.
#[derive(Clone, Debug)]
pub struct GaussianMixture {
    shape: [usize; 3],
    pub(crate) components: Vec<Component>,
    range: [f64; 2],
}

impl GaussianMixture {
    /// A mixture from weights (M), means (M, d) and covariances (M, d, d); `shape` is (channel, y, x) with product d.
    ///
    /// # Errors
    /// Shapes that do not fit, values that are not finite, weights that are negative or sum to nothing, covariances that are not
    /// symmetric or have an eigenvalue below rounding.
    pub fn new(shape: [usize; 3], weights: ArrayView1<f64>, means: ArrayView2<f64>, covariances: ArrayView3<f64>) -> Result<Self> {
        let (m, d) = means.dim();
        let wrong = |what: String| Err(Error::Invalid(format!("Gaussian mixture: {what}")));
        if m == 0 || weights.len() != m || covariances.dim() != (m, d, d) || shape.iter().product::<usize>() != d || d == 0 {
            return wrong(format!(
                "found weights [{}], means {:?}, covariances {:?} and image shape {shape:?}; expected [M], [M, d], [M, d, d] and d pixels",
                weights.len(),
                means.dim(),
                covariances.dim()
            ));
        }
        if weights.iter().any(|w| w.is_nan() || *w < 0.0) || !weights.sum().is_finite() || weights.sum() <= 0.0 {
            return wrong(format!("weights {weights} are no weights; expected numbers that are not negative with a positive sum"));
        }
        if means.iter().chain(covariances.iter()).any(|v| !v.is_finite()) {
            return wrong("a mean or covariance holds a value that is not finite".into());
        }
        let total = weights.sum();
        let mut components = Vec::with_capacity(m);
        for k in 0..m {
            if weights[k] == 0.0 {
                continue;
            }
            let c = covariances.index_axis(ndarray::Axis(0), k);
            let scale = c.diag().iter().fold(0.0f64, |a, v| a.max(v.abs()));
            if c.indexed_iter().any(|((i, j), v)| (v - c[(j, i)]).abs() > 1e-9 * scale) {
                return wrong(format!("covariance {k} is not symmetric"));
            }
            let (variances, columns) = symmetric_eigen(&c.to_owned())?;
            if let Some(bad) = variances.iter().find(|v| **v < -1e-9 * scale.max(f64::MIN_POSITIVE)) {
                return wrong(format!("covariance {k} has the eigenvalue {bad}; expected none below zero"));
            }
            components.push(Component {
                log_weight: (weights[k] / total).ln(),
                mean: means.row(k).to_owned(),
                variances: variances.mapv(|v| v.max(0.0)),
                rows: columns.t().as_standard_layout().to_owned(),
                columns: columns.as_standard_layout().to_owned(),
            });
        }
        let mut range = [f64::INFINITY, f64::NEG_INFINITY];
        for (mean, c) in means.rows().into_iter().zip(covariances.outer_iter()) {
            for (m, v) in mean.iter().zip(c.diag()) {
                let reach = 3.0 * v.max(0.0).sqrt();
                range = [range[0].min(m - reach), range[1].max(m + reach)];
            }
        }
        Ok(Self { shape, components, range })
    }

    /// Reads a safetensors file with tensors `weights`, `means`, `covariances` (F64 or F32) and metadata `kind` = `gaussian_mixture`, `image_shape`.
    ///
    /// # Errors
    /// As [`GaussianMixture::new`], or the file cannot be read or lacks something.
    pub fn read(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let fail = |place: &str, problem: String| Error::Io(halation_io::Error::content(path, place, problem));
        let kind = file.text("kind")?;
        if kind != "gaussian_mixture" {
            return Err(fail("metadata kind", format!("is {kind:?}, expected \"gaussian_mixture\"")));
        }
        let stated: Vec<usize> = serde_json::from_str(file.text("image_shape")?)
            .map_err(|e| fail("metadata image_shape", format!("cannot be read ({e}); expected for example [1, 16, 16]")))?;
        if stated.is_empty() || stated.len() > 3 {
            return Err(fail("metadata image_shape", format!("is {stated:?}, expected (channel, y, x)")));
        }
        let mut shape = [1; 3];
        shape[3 - stated.len()..].copy_from_slice(&stated);
        let get = |name: &str| -> Result<(Vec<usize>, Vec<f64>)> {
            if let Ok((s, v)) = file.f32s(name) {
                return Ok((s.to_vec(), v.iter().map(|x| *x as f64).collect()));
            }
            let (s, v) = file.f64s(name)?;
            Ok((s.to_vec(), v.to_vec()))
        };
        let dims = |name: &str, found: &[usize], rank: usize| {
            if found.len() == rank {
                Ok(())
            } else {
                Err(fail(&format!("tensor {name}"), format!("has shape {found:?}, expected {rank} axes")))
            }
        };
        let ((ws, w), (ms, m), (cs, c)) = (get("weights")?, get("means")?, get("covariances")?);
        dims("weights", &ws, 1)?;
        dims("means", &ms, 2)?;
        dims("covariances", &cs, 3)?;
        let view = |e: ndarray::ShapeError| fail("tensors", e.to_string());
        let weights = ArrayView1::from(&w);
        let means = ArrayView2::from_shape((ms[0], ms[1]), &m).map_err(view)?;
        let covariances = ArrayView3::from_shape((cs[0], cs[1], cs[2]), &c).map_err(view)?;
        Self::new(shape, weights, means, covariances).map_err(|e| fail("tensors", e.to_string()))
    }

    /// Smallest and largest pixel value within three standard deviations of any component.
    pub fn range(&self) -> [f64; 2] {
        self.range
    }

    /// Independent samples, shape (draws, channel, y, x).
    pub fn sample(&self, rng: Philox, draws: std::ops::Range<u64>) -> Tensor {
        let d = self.len();
        let items: Vec<Vec<f32>> = draws
            .clone()
            .into_par_iter()
            .map(|draw| {
                let mut s = rng.sequence(draw, 0);
                let u = s.uniform();
                let mut sum = 0.0;
                let chosen = self.components.iter().find(|c| {
                    sum += c.log_weight.exp();
                    u < sum
                });
                let c = chosen.unwrap_or(&self.components[self.components.len() - 1]);
                let e: Vec<f64> = c.variances.iter().map(|v| v.sqrt() * s.normal()).collect();
                (0..d).map(|i| (c.mean[i] + dot(row(&c.columns, i), &e)) as f32).collect()
            })
            .collect();
        let mut out = Tensor::zeros(&[items.len(), self.shape[0], self.shape[1], self.shape[2]]);
        out.data_mut().chunks_mut(d).zip(&items).for_each(|(o, i)| o.copy_from_slice(i));
        out
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Responsibilities and component means E[x0 | x, k] of a block of draws (methods: p_t is a mixture with covariances C_k + sigma^2).
    fn parts(&self, x: &[&[f32]], sigma: &[f32]) -> Vec<Parts> {
        let d = self.len();
        let mut parts: Vec<Parts> = x.iter().map(|_| Parts { log: Vec::new(), means: Vec::new() }).collect();
        for c in &self.components {
            let centred: Vec<Vec<f64>> = x.iter().map(|x| x.iter().zip(&c.mean).map(|(x, m)| *x as f64 - m).collect()).collect();
            let mut q = vec![vec![0.0; d]; x.len()];
            for i in 0..d {
                let r = row(&c.rows, i);
                q.iter_mut().zip(&centred).for_each(|(q, x)| q[i] = dot(r, x));
            }
            for ((q, part), s) in q.iter_mut().zip(&mut parts).zip(sigma) {
                let s2 = (*s as f64).powi(2);
                let mut log = c.log_weight;
                for (q, v) in q.iter_mut().zip(&c.variances) {
                    let total = (v + s2).max(f64::MIN_POSITIVE);
                    log -= 0.5 * (*q * *q / total + total.ln());
                    *q *= v / total;
                }
                part.log.push(log);
            }
            let mut means = vec![vec![0.0; d]; x.len()];
            for i in 0..d {
                let r = row(&c.columns, i);
                means.iter_mut().zip(&q).for_each(|(m, q)| m[i] = c.mean[i] + dot(r, q));
            }
            parts.iter_mut().zip(means).for_each(|(p, m)| p.means.push(m));
        }
        for part in &mut parts {
            let top = part.log.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            part.log.iter_mut().for_each(|l| *l = (*l - top).exp());
            let sum: f64 = part.log.iter().sum();
            part.log.iter_mut().for_each(|l| *l /= sum);
        }
        parts
    }

    fn evaluate(&self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<(Tensor, Vec<Parts>)> {
        x.expect_shape("GaussianMixture::denoise", &[sigma.len(), self.shape[0], self.shape[1], self.shape[2]])?;
        let d = self.len();
        // Blocks only share the reading of a matrix row; each draw's sums do not know of its neighbours.
        const BLOCK: usize = 8;
        let draws: Vec<&[f32]> = (0..sigma.len()).map(|i| x.item(i)).collect();
        let parts: Vec<Parts> =
            draws.par_chunks(BLOCK).zip(sigma.par_chunks(BLOCK)).flat_map_iter(|(x, s)| self.parts(x, s)).collect();
        let mut out = Tensor::zeros(x.shape());
        out.data_mut().par_chunks_mut(d).zip(&parts).for_each(|(o, p)| {
            let mean = p.mean(d);
            o.iter_mut().zip(mean).for_each(|(o, m)| *o = m as f32);
        });
        Ok((out, parts))
    }
}

fn row(a: &Array2<f64>, i: usize) -> &[f64] {
    let n = a.ncols();
    &a.as_slice().unwrap_or(&[])[i * n..(i + 1) * n]
}

/// Of one draw: responsibilities (after normalisation in `log`) and component means.
struct Parts {
    log: Vec<f64>,
    means: Vec<Vec<f64>>,
}

impl Parts {
    fn mean(&self, d: usize) -> Vec<f64> {
        let mut mean = vec![0.0; d];
        for (r, m) in self.log.iter().zip(&self.means) {
            mean.iter_mut().zip(m).for_each(|(o, m)| *o += r * m);
        }
        mean
    }
}

struct MixturePullback<'a> {
    mixture: &'a GaussianMixture,
    sigma: Vec<f32>,
    parts: Vec<Parts>,
}

impl Pullback for MixturePullback<'_> {
    /// J = sum_k r_k C_k (C_k + s^2)^-1 + sum_k r_k (D_k - D)(D_k - D)^T / s^2 = Cov(x0 | x) / s^2, symmetric.
    fn vjp(&self, v: &Tensor) -> halation_nn::Result<Tensor> {
        let d = self.mixture.len();
        let [c, y, x] = self.mixture.shape;
        v.expect_shape("GaussianMixture pullback", &[self.sigma.len(), c, y, x])?;
        let mut out = v.clone();
        out.data_mut().par_chunks_mut(d).zip(&self.parts).zip(&self.sigma).for_each(|((o, part), s)| {
            let s2 = (*s as f64).powi(2);
            if s2 == 0.0 {
                return;
            }
            let v: Vec<f64> = o.iter().map(|v| *v as f64).collect();
            let mean = part.mean(d);
            let mut sum = vec![0.0; d];
            for ((component, r), m) in self.mixture.components.iter().zip(&part.log).zip(&part.means) {
                let q: Vec<f64> =
                    component.variances.iter().enumerate().map(|(i, l)| dot(row(&component.rows, i), &v) * l / (l + s2)).collect();
                let away: Vec<f64> = m.iter().zip(&mean).map(|(a, b)| a - b).collect();
                let along = dot(&away, &v) / s2;
                for i in 0..d {
                    sum[i] += r * (dot(row(&component.columns, i), &q) + along * away[i]);
                }
            }
            o.iter_mut().zip(sum).for_each(|(o, s)| *o = s as f32);
        });
        Ok(out)
    }
}

impl Denoiser for GaussianMixture {
    fn item_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn denoise(&self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<Tensor> {
        Ok(self.evaluate(x, sigma)?.0)
    }

    fn denoise_with_pullback<'a>(&'a self, x: &Tensor, sigma: &[f32]) -> halation_nn::Result<(Tensor, Box<dyn Pullback + 'a>)> {
        let (out, parts) = self.evaluate(x, sigma)?;
        Ok((out, Box::new(MixturePullback { mixture: self, sigma: sigma.to_vec(), parts })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::g2;
    use halation_lapack as _;
    use ndarray::{arr1, arr2, arr3};

    fn log_density(mixture: &GaussianMixture, x: &[f64], s: f64) -> f64 {
        let logs: Vec<f64> = mixture
            .components
            .iter()
            .map(|c| {
                let away: Vec<f64> = x.iter().zip(&c.mean).map(|(x, m)| x - m).collect();
                c.log_weight
                    - 0.5
                        * (0..x.len())
                            .map(|i| {
                                let q: f64 = (0..x.len()).map(|j| c.columns[(j, i)] * away[j]).sum();
                                let v = c.variances[i] + s * s;
                                q * q / v + v.ln()
                            })
                            .sum::<f64>()
            })
            .collect();
        crate::numeric::log_sum_exp(&logs)
    }

    /// Tweedie: D = x + sigma^2 grad log p_sigma, and the pullback against finite differences of D.
    #[test]
    fn tweedie_and_jacobian_by_finite_differences() {
        let mixture = g2();
        let (x, s) = ([0.3, -0.4], 0.7);
        let at = |x: [f64; 2]| Tensor::from_vec(&[1, 1, 1, 2], x.iter().map(|v| *v as f32).collect()).unwrap();
        let (d, pullback) = mixture.denoise_with_pullback(&at(x), &[s as f32]).unwrap();
        for i in 0..2 {
            let h = 1e-4;
            let moved = |sign: f64| {
                log_density(&mixture, &std::array::from_fn::<f64, 2, _>(|j| x[j] + if i == j { sign * h } else { 0.0 }), s)
            };
            let score = (moved(1.0) - moved(-1.0)) / (2.0 * h);
            assert!((d.data()[i] as f64 - (x[i] + s * s * score)).abs() < 1e-5);
            // f32 images: a step of 0.02 leaves 2^-24 / 0.02 of rounding.
            let h = 0.02;
            let moved = |sign: f64| {
                mixture.denoise(&at(std::array::from_fn(|j| x[j] + if i == j { sign * h } else { 0.0 })), &[s as f32]).unwrap()
            };
            let (up, down) = (moved(1.0), moved(-1.0));
            for j in 0..2 {
                let mut e = Tensor::zeros(&[1, 1, 1, 2]);
                e.data_mut()[j] = 1.0;
                let slope = (up.data()[j] as f64 - down.data()[j] as f64) / (2.0 * h);
                let exact = pullback.vjp(&e).unwrap().data()[i] as f64;
                assert!((slope - exact).abs() < 2e-3, "{i} {j}: {slope} {exact}");
            }
        }
    }

    #[test]
    fn bad_mixtures_are_named() {
        let message = |w: &[f64], c: f64| {
            let weights = arr1(w);
            let result =
                GaussianMixture::new([1, 1, 2], weights.view(), arr2(&[[0.0, 0.0]]).view(), arr3(&[[[1.0, c], [0.0, 1.0]]]).view());
            result.unwrap_err().to_string()
        };
        assert!(message(&[1.0], 0.5).contains("not symmetric"));
        assert!(message(&[-1.0], 0.0).contains("are no weights"));
        assert!(message(&[1.0], f64::NAN).contains("not finite"));
        assert!(message(&[1.0, 1.0], 0.0).contains("expected [M]"));
        let negative = GaussianMixture::new([1, 1, 1], arr1(&[1.0]).view(), arr2(&[[0.0]]).view(), arr3(&[[[-1.0]]]).view());
        assert!(negative.unwrap_err().to_string().contains("eigenvalue"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.safetensors");
        let mut file = TensorFile::new();
        file.metadata.insert("kind".into(), "unet".into());
        file.write(&path).unwrap();
        assert!(GaussianMixture::read(&path).unwrap_err().to_string().contains("expected \"gaussian_mixture\""));
        file.metadata.insert("kind".into(), "gaussian_mixture".into());
        file.metadata.insert("image_shape".into(), "[1, 2]".into());
        file.insert_f64("weights", &[1], vec![1.0]);
        file.write(&path).unwrap();
        assert!(GaussianMixture::read(&path).unwrap_err().to_string().contains("means"));
    }
}
