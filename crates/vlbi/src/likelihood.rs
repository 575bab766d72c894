//! The likelihood of an image given prepared visibilities, as one whitened residual.

use crate::integration_terms::Term;
use crate::likelihood_whitened::Linearised;
use crate::visibility_operator::VisibilityOperator;
use crate::{DataProducts, Error, FluxScale, Fourier, ImageGrid, LikelihoodSettings, Prepared, Result};
use halation_compute::Tensor;
use halation_inverse::{Likelihood, LinearGaussian, Whitened};
use ndarray::Array2;
use rayon::prelude::*;
use std::sync::OnceLock;

/// -log p(data | image) = |r|^2 / 2 with r whitened by the full covariance of each integration (scan and band).
///
/// Images are in the prior's units z; u = scale z + offset, I = c u with c from [`FluxScale`]. One set of model visibilities per
/// draw serves all data products. Data products:
/// - closure phases: residual wrapped to half a turn on the integer cycles, then whitened with T diag(sigma^2/|V|^2) T^T;
/// - log closure amplitudes: whitened with C diag(sigma^2/|V|^2) C^T, no debiasing;
/// - log-amplitudes with station log-gains marginalised: whitened with D + G S G^T (D = diag(sigma^2/|V|^2));
/// - calibrated complex visibilities: (V - c A u) / sigma for real and imaginary part.
///
/// The covariances stand on the measured amplitudes, so they are constants and no log-determinant enters. Phases and
/// log-amplitudes are Gaussian to leading order in sigma/|V|: the polar products hold above S/N of about 3, which
/// [`crate::PrepareSettings`] enforces; below, the phase error has heavy tails and ln|V| is biased high. Complex visibilities
/// are Gaussian at any S/N. Phases and log-amplitudes of one visibility are uncorrelated to this order.
///
/// With [`FluxScale::Free`] the common scale of all log-amplitudes is projected out (an improper flat prior on ln F); r keeps its
/// length and loses one degree of freedom.
pub struct VlbiLikelihood {
    prepared: Prepared,
    settings: LikelihoodSettings,
    fourier: Fourier,
    terms: Vec<Term>,
    rows: usize,
    /// Unit vector of the residual's response to ln F, where that is marginalised.
    free_scale: Option<Vec<f64>>,
    /// Length of that response: 1 / standard deviation of ln F.
    scale_response: f64,
    gram: OnceLock<(Array2<f64>, Array2<f64>)>,
    operator: Option<VisibilityOperator>,
}

impl VlbiLikelihood {
    /// The likelihood of `prepared` data for images on `grid`.
    ///
    /// # Errors
    /// Data products that the data cannot give (the message says which are left) and a flux scale that the product cannot use.
    pub fn new(prepared: &Prepared, grid: ImageGrid, settings: &LikelihoodSettings) -> Result<Self> {
        check(prepared, settings)?;
        let mut terms = Vec::with_capacity(prepared.integrations.len());
        let mut rows = 0;
        for index in 0..prepared.integrations.len() {
            let term = Term::new(prepared, index, settings, rows)?;
            rows = term.rows().end;
            terms.push(term);
        }
        let fourier = Fourier::of(grid, &prepared.visibilities, settings.pulse);
        let mut likelihood = Self {
            prepared: prepared.clone(),
            settings: settings.clone(),
            fourier,
            terms,
            rows,
            free_scale: None,
            scale_response: 0.0,
            gram: OnceLock::new(),
            operator: None,
        };
        let open_amplitudes = matches!(settings.data, DataProducts::AmplitudesAndClosures | DataProducts::Visibilities);
        if open_amplitudes && settings.flux == FluxScale::Free {
            let mut direction = likelihood.scale_direction();
            let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
            direction.iter_mut().for_each(|x| *x /= norm);
            likelihood.free_scale = Some(direction);
            likelihood.scale_response = norm;
        }
        if let (DataProducts::CalibratedVisibilities, FluxScale::PixelJy(scale)) = (settings.data, settings.flux) {
            likelihood.operator = Some(VisibilityOperator::new(prepared, &likelihood.fourier, settings.units, scale));
        }
        Ok(likelihood)
    }

    /// The prepared data.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &LikelihoodSettings {
        &self.settings
    }

    /// The map from images u to visibilities.
    pub fn fourier(&self) -> &Fourier {
        &self.fourier
    }

    /// Number of residual rows, the length of the whitened residual.
    pub fn residual_len(&self) -> usize {
        self.rows
    }

    /// Number of independent data: the residual rows less one where the flux scale is marginalised.
    pub fn degrees_of_freedom(&self) -> usize {
        self.rows - self.free_scale.is_some() as usize
    }

    pub(crate) fn terms(&self) -> &[Term] {
        &self.terms
    }

    pub(crate) fn free_scale(&self) -> Option<&[f64]> {
        self.free_scale.as_deref()
    }

    /// A A^T of the Fourier map (real and imaginary block), computed at first use.
    pub(crate) fn fourier_gram(&self) -> &(Array2<f64>, Array2<f64>) {
        self.gram.get_or_init(|| self.fourier.gram())
    }

    /// The whitened residual of the image u, with the model visibilities it stands on.
    pub(crate) fn evaluate(&self, image: &[f64]) -> Evaluation {
        self.evaluate_under_noise(image, 0.0)
    }

    /// As seen through Gaussian noise of standard deviation `noise` in every pixel of u: amplitudes are raised to
    /// sqrt(|V|^2 + s^2), s the noise's standard deviation in Re V and Im V, so that relative errors of V never exceed one.
    pub(crate) fn evaluate_under_noise(&self, image: &[f64], noise: f64) -> Evaluation {
        let (mut re, mut im) = self.fourier.forward(image);
        let mut second_order = Vec::new();
        if noise > 0.0 && self.settings.data != DataProducts::CalibratedVisibilities {
            let (cos, sin) = self.fourier_gram();
            for (k, (re, im)) in re.iter_mut().zip(&mut im).enumerate() {
                let variance = 0.5 * noise * noise * (cos[[k, k]] + sin[[k, k]]);
                let power = (*re * *re + *im * *im).max(1e-12 * variance);
                let raise = (1.0 + variance / power).sqrt();
                (*re, *im) = (raise * *re, raise * *im);
                second_order.push((variance / (power + variance)).powi(2));
            }
        }
        let (scale, sum) = self.scale(image);
        let mut residual = vec![0.0; self.rows];
        for term in &self.terms {
            let k = term.range.clone();
            term.residual(&re[k.clone()], &im[k], scale, &mut residual[term.rows()]);
        }
        // r(ln c) = r + ln c |d| e: least squares in ln c gives its estimate and leaves the projected residual.
        let along = self.project(&mut residual);
        let free_log_scale = (self.scale_response > 0.0).then(|| -along / self.scale_response);
        Evaluation { re, im, scale, sum, residual, free_log_scale, second_order }
    }

    /// Cotangent of u for the residual's cotangent `w`.
    pub(crate) fn pull(&self, at: &Evaluation, w: &[f64]) -> Vec<f64> {
        let mut w = w.to_vec();
        self.project(&mut w);
        let (mut re, mut im) = (vec![0.0; at.re.len()], vec![0.0; at.im.len()]);
        let mut to_scale = 0.0;
        for term in &self.terms {
            let k = term.range.clone();
            let (model_re, model_im) = (&at.re[k.clone()], &at.im[k.clone()]);
            to_scale += term.pull(model_re, model_im, at.scale, &w[term.rows()], &mut re[k.clone()], &mut im[k]);
        }
        let mut image = self.fourier.adjoint(&re, &im);
        if let Some(sum) = at.sum {
            // ln c = ln F - ln sum(u).
            image.iter_mut().for_each(|g| *g -= to_scale / sum);
        }
        image
    }

    /// (c in I = c u, sum(u) where c depends on it). An image whose sum is not positive cannot carry a positive flux: it is
    /// judged at the smallest sum allowed, a millionth of a full field, where the amplitudes alone make it improbable.
    fn scale(&self, image: &[f64]) -> (f64, Option<f64>) {
        match self.settings.flux {
            FluxScale::Free => (1.0, None),
            FluxScale::PixelJy(scale) => (scale, None),
            FluxScale::TotalJy(_) if self.settings.data == DataProducts::Closures => (1.0, None),
            FluxScale::TotalJy(flux) => {
                let (sum, smallest) = (image.iter().sum::<f64>(), smallest_sum(image.len()));
                if sum > smallest { (flux / sum, Some(sum)) } else { (flux / smallest, None) }
            }
        }
    }

    /// d r / d ln c.
    fn scale_direction(&self) -> Vec<f64> {
        let n = self.fourier.len();
        let mut direction = vec![0.0; self.rows];
        for term in &self.terms {
            let k = 0..term.range.len();
            let jacobian = term.jacobian(&vec![1.0; n][k.clone()], &vec![0.0; n][k], 1.0);
            direction[term.rows()].copy_from_slice(&jacobian.log_scale);
        }
        direction
    }

    /// Takes the response to a marginalised flux scale out of `rows`; returns how much of it there was.
    pub(crate) fn project(&self, rows: &mut [f64]) -> f64 {
        let Some(direction) = &self.free_scale else { return 0.0 };
        let along: f64 = direction.iter().zip(rows.iter()).map(|(a, b)| a * b).sum();
        rows.iter_mut().zip(direction).for_each(|(x, d)| *x -= along * d);
        along
    }
}

/// The smallest sum(u) of `pixels` pixels that a total flux is divided by.
pub(crate) fn smallest_sum(pixels: usize) -> f64 {
    1e-6 * pixels as f64
}

/// One evaluation of the likelihood at an image u.
pub(crate) struct Evaluation {
    /// Re of A u.
    pub re: Vec<f64>,
    /// Im of A u.
    pub im: Vec<f64>,
    /// c in V_Jy = c A u.
    pub scale: f64,
    /// sum(u), where c depends on it.
    pub sum: Option<f64>,
    /// The whitened residual.
    pub residual: Vec<f64>,
    /// Variance of ln|V| and of arg V that is of second order in the noise, for every visibility; empty without noise.
    pub second_order: Vec<f64>,
    /// The best ln c, where that is marginalised.
    pub free_log_scale: Option<f64>,
}

impl Likelihood for VlbiLikelihood {
    fn item_shape(&self) -> [usize; 3] {
        let n = self.fourier.grid().n;
        [1, n, n]
    }

    fn neg_log_and_grad(&self, x: &Tensor) -> halation_inverse::Result<(Vec<f64>, Tensor)> {
        let [c, h, w] = self.item_shape();
        x.expect_shape("VLBI likelihood", &[x.draws(), c, h, w])?;
        let per_draw: Vec<(f64, Vec<f32>)> = (0..x.draws())
            .into_par_iter()
            .map(|draw| {
                let at = self.evaluate(&self.settings.units.image(x.item(draw)));
                let gradient = self.pull(&at, &at.residual);
                let neg_log = 0.5 * at.residual.iter().map(|r| r * r).sum::<f64>();
                (neg_log, gradient.into_iter().map(|g| (self.settings.units.scale * g) as f32).collect())
            })
            .collect();
        let values: Vec<f64> = per_draw.iter().map(|d| d.0).collect();
        if let Some(draw) = values.iter().position(|v| !v.is_finite()) {
            return Err(halation_inverse::Error::Numerical(format!(
                "VLBI likelihood: draw {draw} has a value that is not finite: its image holds NaN or infinity, so the step before it diverged"
            )));
        }
        let gradient = per_draw.into_iter().flat_map(|d| d.1).collect();
        Ok((values, Tensor::from_vec(x.shape(), gradient)?))
    }

    fn residual(&self, x: &[f32]) -> halation_inverse::Result<Option<Box<dyn Whitened + '_>>> {
        self.residual_under_noise(x, 0.0)
    }

    fn residual_under_noise(&self, x: &[f32], rho: f64) -> halation_inverse::Result<Option<Box<dyn Whitened + '_>>> {
        let found = x.len();
        if found != self.fourier.grid().len() {
            return Err(halation_inverse::Error::Invalid(format!(
                "VLBI likelihood: found an image of {found} pixels, expected {}",
                self.fourier.grid().len()
            )));
        }
        let units = self.settings.units;
        let at = self.evaluate_under_noise(&units.image(x), rho * units.scale);
        if at.residual.iter().any(|r| !r.is_finite()) {
            return Err(halation_inverse::Error::Numerical(
                "VLBI likelihood: the residual is not finite: the image holds NaN or infinity".to_string(),
            ));
        }
        Ok(Some(Box::new(Linearised::new(self, at))))
    }

    fn linear_gaussian(&self) -> Option<LinearGaussian<'_>> {
        self.operator.as_ref().map(VisibilityOperator::linear_gaussian)
    }
}

fn check(prepared: &Prepared, settings: &LikelihoodSettings) -> Result<()> {
    let report = &prepared.report;
    if settings.data != DataProducts::CalibratedVisibilities && report.closure_phases + report.log_closure_amplitudes == 0 {
        return Err(Error::Invalid(format!(
            "{}: found at most {} stations in one integration and no closed triangle, expected at least 3 for closure phases and 4 for log closure amplitudes; what is left are {} visibilities: use --data visibilities --assume-calibrated with --flux",
            prepared.source, report.max_stations, report.kept
        )));
    }
    match settings.flux {
        FluxScale::Free if settings.data == DataProducts::CalibratedVisibilities => Err(Error::Invalid(
            "calibrated visibilities need the flux scale: give the total compact flux density with --flux, for example --flux 0.6Jy"
                .to_string(),
        )),
        FluxScale::TotalJy(x) | FluxScale::PixelJy(x) if !x.is_finite() || x <= 0.0 => {
            Err(Error::Invalid(format!("flux scale: found {x}, expected a positive number of Jy")))
        }
        _ => Ok(()),
    }?;
    let bad = |sigma: f64| !sigma.is_finite() || sigma < 0.0;
    if let Some(sigma) = settings.gains.by_station.values().chain([&settings.gains.default]).find(|&&s| bad(s)) {
        return Err(Error::Invalid(format!(
            "station gain prior: found {sigma}, expected a standard deviation of ln|g| that is not negative"
        )));
    }
    Ok(())
}
