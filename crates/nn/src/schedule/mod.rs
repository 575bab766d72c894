//! Conversions between the diffusion conventions of methods that train priors and ours, x = x0 + sigma eps.
//!
//! A convention is x_t = a x0 + b eps; then sigma = b / a and x = x_t / a.

mod discrete;

pub use discrete::{Betas, DiscreteSchedule, iddpm_levels};

/// The continuous variance-preserving process of Song et al. 2021 (arXiv:2011.13456, eq. 32-33): a = exp(-B(t)/2), b = sqrt(1 - a^2),
/// B(t) = beta_min t + beta_d t^2 / 2, t in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VpSchedule {
    /// Rate at t = 0.
    pub beta_min: f64,
    /// Rate at t = 1 less that at 0.
    pub beta_d: f64,
}

impl Default for VpSchedule {
    fn default() -> Self {
        Self { beta_min: 0.1, beta_d: 19.9 }
    }
}

impl VpSchedule {
    /// sigma(t) = sqrt(exp(B(t)) - 1).
    pub fn sigma(&self, t: f64) -> f64 {
        (self.beta_min * t + 0.5 * self.beta_d * t * t).exp_m1().sqrt()
    }

    /// The time at which the noise-to-signal ratio is `sigma`: the inverse of [`VpSchedule::sigma`].
    pub fn time(&self, sigma: f64) -> f64 {
        ((self.beta_min.powi(2) + 2.0 * self.beta_d * (sigma * sigma).ln_1p()).sqrt() - self.beta_min) / self.beta_d
    }

    /// (a, b) at time t.
    pub fn coefficients(&self, t: f64) -> (f64, f64) {
        let exponent = self.beta_min * t + 0.5 * self.beta_d * t * t;
        ((-0.5 * exponent).exp(), (-(-exponent).exp_m1()).sqrt())
    }
}

/// The linear path x_t = (1 - t) x0 + t eps.
pub mod flow {
    /// sigma = t / (1 - t).
    pub fn sigma(t: f64) -> f64 {
        t / (1.0 - t)
    }

    /// t = sigma / (1 + sigma).
    pub fn time(sigma: f64) -> f64 {
        sigma / (1.0 + sigma)
    }

    /// x0 = x_t - t v from the velocity v = eps - x0.
    pub fn x0_of_velocity(x: f64, v: f64, t: f64) -> f64 {
        x - t * v
    }

    /// eps = x_t + (1 - t) v from the velocity v = eps - x0.
    pub fn eps_of_velocity(x: f64, v: f64, t: f64) -> f64 {
        x + (1.0 - t) * v
    }
}

/// x0 from the noise prediction: (x_t - b eps) / a.
pub fn x0_of_eps(x: f64, eps: f64, (a, b): (f64, f64)) -> f64 {
    (x - b * eps) / a
}

/// eps from the clean image: (x_t - a x0) / b.
pub fn eps_of_x0(x: f64, x0: f64, (a, b): (f64, f64)) -> f64 {
    (x - a * x0) / b
}

/// Score of x_t's density from the clean image: (a x0 - x_t) / b^2.
pub fn score_of_x0(x: f64, x0: f64, (a, b): (f64, f64)) -> f64 {
    (a * x0 - x) / (b * b)
}

/// x0 from the score: (x_t + b^2 s) / a.
pub fn x0_of_score(x: f64, score: f64, (a, b): (f64, f64)) -> f64 {
    (x + b * b * score) / a
}

/// x0 from the v-prediction v = a eps - b x0 of a process with a^2 + b^2 = 1 (Salimans and Ho 2022, arXiv:2202.00512): a x_t - b v.
pub fn x0_of_v(x: f64, v: f64, (a, b): (f64, f64)) -> f64 {
    a * x - b * v
}

/// eps from the v-prediction: b x_t + a v.
pub fn eps_of_v(x: f64, v: f64, (a, b): (f64, f64)) -> f64 {
    b * x + a * v
}

/// The noise levels of Karras et al. 2022 (arXiv:2206.00364, eq. 5), `steps` of them from `max` to `min`, then 0.
pub fn karras_sigmas(steps: usize, min: f64, max: f64, rho: f64) -> Vec<f64> {
    let (high, low) = (max.powf(1.0 / rho), min.powf(1.0 / rho));
    let at = |i: usize| (high + i as f64 / (steps.max(2) - 1) as f64 * (low - high)).powf(rho);
    (0..steps).map(at).chain([0.0]).collect()
}

/// `n` numbers in geometric progression from `first` to `last`.
pub fn geometric(first: f64, last: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| first * (last / first).powf(i as f64 / (n.max(2) - 1) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_compute::Philox;

    #[test]
    fn round_trips() {
        let mut rng = Philox::new(3).sequence(0, 0);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()), "{a} {b}");
        for _ in 0..20 {
            let (x0, eps, t) = (rng.normal(), rng.normal(), rng.range(1e-3, 0.9));
            let vp = VpSchedule::default();
            let (a, b) = vp.coefficients(t);
            close(a * a + b * b, 1.0);
            close(vp.sigma(t), b / a);
            close(vp.time(vp.sigma(t)), t);
            let x = a * x0 + b * eps;
            close(x0_of_eps(x, eps, (a, b)), x0);
            close(eps_of_x0(x, x0, (a, b)), eps);
            let score = score_of_x0(x, x0, (a, b));
            close(score, -eps / b);
            close(x0_of_score(x, score, (a, b)), x0);
            let v = a * eps - b * x0;
            close(x0_of_v(x, v, (a, b)), x0);
            close(eps_of_v(x, v, (a, b)), eps);
            let x = (1.0 - t) * x0 + t * eps;
            close(flow::x0_of_velocity(x, eps - x0, t), x0);
            close(flow::eps_of_velocity(x, eps - x0, t), eps);
            close(flow::time(flow::sigma(t)), t);
        }
    }

    #[test]
    fn geometric_levels() {
        let s = geometric(80.0, 0.002, 40);
        assert_eq!((s.len(), s[0]), (40, 80.0));
        assert!((s[39] - 0.002).abs() < 1e-12 && s.windows(2).all(|w| (w[1] / w[0] - s[1] / s[0]).abs() < 1e-12));
    }

    #[test]
    fn karras_levels() {
        let s = karras_sigmas(18, 0.002, 80.0, 7.0);
        assert_eq!((s.len(), s[18]), (19, 0.0));
        assert!((s[0] - 80.0).abs() < 1e-9 && (s[17] - 0.002).abs() < 1e-12);
        assert!(s.windows(2).all(|w| w[0] > w[1]));
    }
}
