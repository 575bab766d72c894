use super::*;
use crate::Pullback;
use crate::wiener::Wiener;
use std::f64::consts::TAU;

/// A stationary Gaussian field of known power around a mean image.
struct Field {
    side: usize,
    mean: Vec<f32>,
    power: Vec<f64>,
}

impl Field {
    /// Power 4 / (1 + |k|^2)^1.5 around a mean that is itself far from constant.
    fn new(side: usize) -> Self {
        let frequency = |i: usize| i.min(side - i) as f64;
        let power = |p: usize| 4.0 / (1.0 + frequency(p / side).powi(2) + frequency(p % side).powi(2)).powf(1.5);
        let mean = |p: usize| (0.3 + 0.5 * (TAU * (p % side) as f64 / side as f64).cos()) as f32;
        Self { side, mean: (0..side * side).map(mean).collect(), power: (0..side * side).map(power).collect() }
    }

    fn wiener(&self) -> Wiener {
        Wiener::new(self.item_shape(), self.mean.clone(), self.power.clone()).unwrap()
    }
}

impl ImageSource for Field {
    fn describe(&self) -> String {
        "a stationary Gaussian field".into()
    }
    fn item_shape(&self) -> [usize; 3] {
        [1, self.side, self.side]
    }
    fn len(&self) -> Option<u64> {
        None
    }
    fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
        // White noise has power 1 on every mode.
        Philox::new(4).fill_normal(index, 0, out);
        let fft = Fft2::new(self.side);
        let mut modes: Vec<Complex32> = out.iter().map(|v| Complex32::new(*v, 0.0)).collect();
        fft.forward(&mut modes);
        modes.iter_mut().zip(&self.power).for_each(|(m, p)| *m *= p.sqrt() as f32);
        fft.inverse(&mut modes);
        out.iter_mut().zip(&modes).zip(&self.mean).for_each(|((v, m), mean)| *v = m.re + mean);
        Ok(())
    }
}

/// Black images, for which a denoiser's output is its error.
struct Black(usize);

impl ImageSource for Black {
    fn describe(&self) -> String {
        "black images".into()
    }
    fn item_shape(&self) -> [usize; 3] {
        [1, self.0, self.0]
    }
    fn len(&self) -> Option<u64> {
        Some(64)
    }
    fn fill(&self, _: u64, out: &mut [f32]) -> Result<()> {
        out.fill(0.0);
        Ok(())
    }
}

/// a x + b cos(2 pi k x / n): its error on black images is known.
struct Wave {
    side: usize,
    data: f32,
    wave: f32,
    frequency: f64,
}

impl Denoiser for Wave {
    fn item_shape(&self) -> [usize; 3] {
        [1, self.side, self.side]
    }
    fn denoise(&self, x: &Tensor, _: &[f32]) -> Result<Tensor> {
        let mut out = x.clone();
        for (i, v) in out.data_mut().iter_mut().enumerate() {
            *v = self.data * *v + self.wave * (TAU * self.frequency * (i % self.side) as f64 / self.side as f64).cos() as f32;
        }
        Ok(out)
    }
    fn denoise_with_pullback<'a>(&'a self, _: &Tensor, _: &[f32]) -> Result<(Tensor, Box<dyn Pullback + 'a>)> {
        Err(Error::Invalid("not needed here".into()))
    }
}

/// A wave's RMS is its amplitude over sqrt(2); it counts as low up to 6.5 cycles and not beyond; what is left of the noise has its share
/// in both, with the standard errors of that many normals.
#[test]
fn known_errors_are_found() {
    let images: Vec<u64> = (0..64).collect();
    let side = 32;
    let measure = |data: f32, wave: f32, frequency: f64| {
        let mut seen = 0;
        let denoiser = Wave { side, data, wave, frequency };
        let found = denoising_errors(&denoiser, &Black(side), &images, &[0.1, 2.0], 1, |n| seen += n).unwrap();
        assert_eq!(seen, 2 * images.len());
        found
    };
    let low = LowModes::new(side).places.len();
    assert_eq!(low, (0..169).filter(|i| ((i / 13 - 6) as f64).hypot((i % 13 - 6) as f64) <= 6.5).count());
    for found in measure(0.0, 0.5, 6.0) {
        assert!((found.rms - 0.5 / 2f64.sqrt()).abs() < 1e-6 && found.rms_error < 1e-6, "{found:?}");
        // Two modes of |F e| = a n^2 / 2.
        let expected = 0.5 * side as f64 / (2.0 * low as f64).sqrt() / found.sigma;
        assert!((found.low_over_sigma / expected - 1.0).abs() < 1e-5, "{found:?} {expected}");
    }
    for found in measure(0.0, 0.5, 7.0) {
        assert!((found.rms - 0.5 / 2f64.sqrt()).abs() < 1e-6 && found.low_over_sigma < 1e-5, "{found:?}");
    }
    for found in measure(0.6, 0.0, 0.0) {
        assert!((found.rms - 0.6 * found.sigma).abs() < 4.0 * found.rms_error, "{found:?}");
        assert!((found.offset_kept - 0.6).abs() < 1e-5 && found.offset_kept_error < 1e-5, "{found:?}");
        assert!((found.low_over_sigma - 0.6).abs() < 4.0 * found.low_over_sigma_error, "{found:?}");
        // The RMS of n normals scatters by 1 / sqrt(2 n); the error of that error by as much again over 64 images.
        let expected = 0.6 * found.sigma / (2.0 * 64.0 * (side * side) as f64).sqrt();
        assert!((found.rms_error / expected - 1.0).abs() < 0.4, "{found:?} {expected}");
    }
}

/// On a stationary Gaussian field the Wiener denoiser's error is that of the closed form, in all and in the low modes, whether mean and
/// power are given or estimated from other images.
#[test]
fn wiener_on_a_gaussian_field_has_the_closed_form_error() {
    let field = Field::new(16);
    let (given, fitted) = (field.wiener(), Wiener::fit(&field, 1000..3000).unwrap());
    let sigmas = [0.01, 0.3, 3.0];
    let images: Vec<u64> = (0..300).collect();
    for denoiser in [&given, &fitted] {
        let found = denoising_errors(denoiser, &field, &images, &sigmas, 1, |_| ()).unwrap();
        for found in found {
            let s2 = found.sigma * found.sigma;
            let places = LowModes::new(16).places;
            let gain = |k: &usize| field.power[*k] / (field.power[*k] + s2);
            let low = (places.iter().map(gain).sum::<f64>() / places.len() as f64).sqrt();
            let whole = given.error_of_gaussian(found.sigma);
            println!("{found:?}: expected {whole} {low}");
            // 2000 images leave the estimate an excess of order 1/2000 of the squared error, below the scatter of 300.
            assert!((found.rms - whole).abs() < 4.0 * found.rms_error && found.rms_error < 0.02 * whole, "{found:?} {whole}");
            assert!((found.low_over_sigma - low).abs() < 4.0 * found.low_over_sigma_error, "{found:?} {low}");
            // The mean of an image is its lowest mode; an estimated power of it is right to a few per cent.
            let mean = field.power[0] / (field.power[0] + s2);
            assert!((found.offset_kept - mean).abs() < 0.02, "{found:?} {mean}");
        }
    }
}

/// Linear around the mean, with a symmetric Jacobian that the pullback applies.
#[test]
fn wiener_pullback_is_its_jacobian() {
    let wiener = Field::new(8).wiener();
    let of = |step| Philox::new(2).normal(0..2, step, &[1, 8, 8]).unwrap();
    let (x, u, v) = (of(0), of(1), of(2));
    let sigma = [0.2, 1.5];
    let moved = Tensor::from_vec(x.shape(), x.data().iter().zip(u.data()).map(|(x, u)| x + u).collect()).unwrap();
    let (start, pullback) = wiener.denoise_with_pullback(&x, &sigma).unwrap();
    let end = wiener.denoise(&moved, &sigma).unwrap();
    let vjp = pullback.vjp(&v).unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let ju: Vec<f32> = end.data().iter().zip(start.data()).map(|(e, s)| e - s).collect();
    assert!((dot(&ju, v.data()) - dot(u.data(), vjp.data())).abs() < 1e-4, "{} {}", dot(&ju, v.data()), dot(u.data(), vjp.data()));
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let message = |r: Result<Vec<DenoisingError>>| r.err().unwrap().to_string();
    let wave = Wave { side: 8, data: 1.0, wave: 0.0, frequency: 0.0 };
    let measure =
        |source: usize, images: &[u64], sigma: f64| message(denoising_errors(&wave, &Black(source), images, &[sigma], 0, |_| ()));
    assert!(measure(16, &[0, 1], 1.0).contains("[1, 16, 16]"));
    assert!(measure(8, &[0], 1.0).contains("at least two"));
    for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
        assert!(measure(8, &[0, 1], sigma).contains("positive"), "{sigma}");
    }
    let broken = Wave { data: f32::NAN, ..wave };
    assert!(message(denoising_errors(&broken, &Black(8), &[4, 5], &[1.0], 0, |_| ())).contains("image 4"));
    let wiener = |mean: Vec<f32>, power: Vec<f64>| Wiener::new([1, 2, 2], mean, power).err().unwrap().to_string();
    assert!(wiener(vec![0.0; 3], vec![0.0; 4]).contains("expected 4"));
    assert!(wiener(vec![f32::NAN; 4], vec![0.0; 4]).contains("NaN"));
    assert!(wiener(vec![0.0; 4], vec![-1.0; 4]).contains("-1"));
    assert!(Wiener::new([1, 2, 3], vec![0.0; 6], vec![0.0; 6]).err().unwrap().to_string().contains("square"));
    assert!(Wiener::fit(&Black(8), 0..1).err().unwrap().to_string().contains("two"));
    assert!(Wiener::fit(&Black(8), 0..65).err().unwrap().to_string().contains("64"));
    assert!(Field::new(8).wiener().denoise(&Tensor::zeros(&[1, 1, 8, 8]), &[0.0]).is_err());
}
