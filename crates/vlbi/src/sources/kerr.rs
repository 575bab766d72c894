//! Null geodesics around a spinning black hole (Kerr), traced backwards from a distant observer; lengths in units of the mass M.
//!
//! Equations in Mino time (Carter 1968; notation of Gralla and Lupsasca 2020, Phys. Rev. D 101, 044031): with u = 1/r and mu = cos(theta)
//!
//! ```text
//! (du/dt)^2  = 1 + (a^2 - l^2 - eta) u^2 + 2 ((l - a)^2 + eta) u^3 - a^2 eta u^4
//! (dmu/dt)^2 = eta + (a^2 - eta - l^2) mu^2 - a^2 mu^4
//! dphi/dt    = a (2 u - a l u^2) / (1 - 2 u + a^2 u^2) + l / (1 - mu^2)
//! ```
//!
//! l and eta are angular momentum and Carter constant over energy. Differentiating the first two once more leaves polynomials without
//! square roots, so turning points need no care.

/// Where a ray meets the equatorial plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    /// Radius.
    pub r: f64,
    /// Azimuth, radians, growing with the rotation of the hole; 0 is the observer's meridian.
    pub phi: f64,
    /// Whether the photon moves outwards there.
    pub outwards: bool,
}

/// A ray of the observer's screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ray {
    a: f64,
    /// Angular momentum over energy.
    pub l: f64,
    /// Carter constant over energy squared.
    pub eta: f64,
    /// u, du, mu, dmu, phi.
    state: [f64; 5],
}

impl Ray {
    /// The ray that arrives at screen position (alpha to the right, beta along the projected spin), seen at `inclination` from the spin
    /// axis (Bardeen 1973): l = -alpha sin i, eta = (alpha^2 - a^2) cos^2 i + beta^2.
    pub fn from_screen(a: f64, inclination_rad: f64, alpha: f64, beta: f64) -> Self {
        let (sin, cos) = inclination_rad.sin_cos();
        let l = -alpha * sin;
        let eta = (alpha * alpha - a * a) * cos * cos + beta * beta;
        // Going back from the observer, a ray above the centre first climbs towards the pole.
        Self { a, l, eta, state: [0.0, 1.0, cos, beta * sin, 0.0] }
    }

    /// Derivatives along the backward ray; phi runs backwards, so with a minus sign.
    #[inline(always)]
    fn derivatives(&self, s: &[f64; 5]) -> [f64; 5] {
        let (a2, l, eta) = (self.a * self.a, self.l, self.eta);
        let c2 = a2 - l * l - eta;
        let c3 = (l - self.a) * (l - self.a) + eta;
        let [u, du, mu, dmu, _] = *s;
        let ddu = u * (c2 + u * (3.0 * c3 - 2.0 * a2 * eta * u));
        let ddmu = mu * (c2 - 2.0 * a2 * mu * mu);
        let horizon = (1.0 - 2.0 * u + a2 * u * u).max(1e-6);
        let pole = (1.0 - mu * mu).max(1e-9);
        let dphi = -(self.a * u * (2.0 - self.a * l * u) / horizon + l / pole);
        [du, ddu, dmu, ddmu, dphi]
    }

    /// A step that resolves the polar oscillation (52 per half turn): with fourth order the angles are good to 1e-6.
    fn natural_step(&self) -> f64 {
        0.06 / (self.eta + self.l * self.l - self.a * self.a).max(1.0).sqrt()
    }

    /// One classical Runge-Kutta step.
    fn step(&mut self, h: f64) {
        let s = self.state;
        let shifted = |k: &[f64; 5], h: f64| std::array::from_fn::<f64, 5, _>(|i| s[i] + h * k[i]);
        let k1 = self.derivatives(&s);
        let k2 = self.derivatives(&shifted(&k1, 0.5 * h));
        let k3 = self.derivatives(&shifted(&k2, 0.5 * h));
        let k4 = self.derivatives(&shifted(&k3, h));
        self.state = std::array::from_fn(|i| s[i] + h / 6.0 * (k1[i] + 2.0 * (k2[i] + k3[i]) + k4[i]));
    }

    /// The crossings of the equatorial plane, nearest to the observer first: order n = 0 is the direct image, n = 1 the first lensed one.
    /// A ray ends at the horizon, at infinity, or after `orders` crossings.
    pub fn crossings<const ORDERS: usize>(mut self) -> [Option<Crossing>; ORDERS] {
        let mut found = [None; ORDERS];
        let mut count = 0;
        let u_horizon = 1.0 / horizon(self.a);
        let h = self.natural_step();
        // A ray close to the critical curve orbits for ever; the orders wanted are behind it after (orders + 1) half turns.
        for _ in 0..80 * (ORDERS + 2) {
            let before = self.state;
            self.step(h);
            let after = self.state;
            if before[2] != 0.0 && before[2] * after[2] <= 0.0 {
                let slope = |s: &[f64; 5]| self.derivatives(s);
                let (d0, d1) = (slope(&before), slope(&after));
                let at = |x: f64, i: usize| hermite(x, before[i], after[i], h * d0[i], h * d1[i]);
                let (mut low, mut high) = (0.0, 1.0);
                for _ in 0..40 {
                    let middle = 0.5 * (low + high);
                    if before[2] * at(middle, 2) > 0.0 { low = middle } else { high = middle }
                }
                let (u, du, phi) = (at(low, 0), at(low, 1), at(low, 4));
                if u >= u_horizon || u <= 0.0 {
                    return found;
                }
                found[count] = Some(Crossing { r: 1.0 / u, phi, outwards: du > 0.0 });
                count += 1;
                if count == ORDERS {
                    return found;
                }
            }
            if after[0] >= u_horizon || after[0] < 0.0 {
                return found;
            }
        }
        found
    }

    /// Whether the ray falls into the hole; none when it is still in orbit after `half_turns`.
    #[cfg(test)]
    pub fn captured(mut self, half_turns: usize) -> Option<bool> {
        let u_horizon = 1.0 / horizon(self.a);
        let h = self.natural_step();
        for _ in 0..53 * half_turns {
            self.step(h);
            if self.state[0] >= u_horizon {
                return Some(true);
            }
            if self.state[0] < 0.0 {
                return Some(false);
            }
        }
        None
    }

    /// Azimuth swept from infinity to infinity.
    #[cfg(test)]
    pub fn sweep(mut self) -> Option<f64> {
        let h = self.natural_step();
        for _ in 0..4000 {
            let before = self.state;
            self.step(h);
            if self.state[0] < 0.0 {
                let x = before[0] / (before[0] - self.state[0]);
                return Some((before[4] + x * (self.state[4] - before[4])).abs());
            }
        }
        None
    }
}

/// Cubic through values and slopes (times the step) at both ends.
fn hermite(x: f64, f0: f64, f1: f64, m0: f64, m1: f64) -> f64 {
    f0 + x * (m0 + x * (3.0 * (f1 - f0) - 2.0 * m0 - m1 + x * (2.0 * (f0 - f1) + m0 + m1)))
}

/// Radius of the outer horizon.
pub(super) fn horizon(a: f64) -> f64 {
    1.0 + (1.0 - a * a).max(0.0).sqrt()
}

/// Innermost stable circular orbit in the hole's sense (Bardeen, Press and Teukolsky 1972, eq. 2.21).
pub(super) fn innermost_stable_orbit(a: f64) -> f64 {
    let z1 = 1.0 + (1.0 - a * a).cbrt() * ((1.0 + a).cbrt() + (1.0 - a).cbrt());
    let z2 = (3.0 * a * a + z1 * z1).sqrt();
    3.0 + z2 - ((3.0 - z1) * (3.0 + z1 + 2.0 * z2)).max(0.0).sqrt()
}

/// Observed over emitted frequency of a photon (l, eta) from gas in the equatorial plane: circular geodesics in the hole's sense outside
/// the innermost stable orbit, free fall with that orbit's energy and angular momentum inside (Cunningham 1975).
pub(super) fn redshift(a: f64, ray: &Ray, at: &Crossing) -> f64 {
    let isco = innermost_stable_orbit(a);
    let r = at.r;
    let root = |r: f64| r.powf(0.75) * (r.powf(1.5) - 3.0 * r.sqrt() + 2.0 * a).max(1e-12).sqrt();
    if r >= isco {
        let omega = 1.0 / (r.powf(1.5) + a);
        let u_t = (r.powf(1.5) + a) / root(r);
        return 1.0 / (u_t * (1.0 - omega * ray.l));
    }
    let energy = (isco.powf(1.5) - 2.0 * isco.sqrt() + a) / root(isco);
    let momentum = (isco * isco - 2.0 * a * isco.sqrt() + a * a) / root(isco);
    let delta = r * r - 2.0 * r + a * a;
    let u_t = ((r * r + a * a + 2.0 * a * a / r) * energy - 2.0 * a / r * momentum) / delta;
    let u_phi = (2.0 * a / r * energy + (1.0 - 2.0 / r) * momentum) / delta;
    let fall = energy * energy - 1.0
        + 2.0 / r
        + (a * a * (energy * energy - 1.0) - momentum * momentum) / (r * r)
        + 2.0 * (momentum - a * energy).powi(2) / r.powi(3);
    let u_r = -fall.max(0.0).sqrt();
    let potential = (r * r + a * a - a * ray.l).powi(2) - delta * (ray.eta + (ray.l - a).powi(2));
    let p_r = potential.max(0.0).sqrt() / delta * if at.outwards { 1.0 } else { -1.0 };
    1.0 / (u_t - ray.l * u_phi - p_r * u_r)
}

/// The closed-form critical curve (edge of the shadow, Bardeen 1973) on the screen, upper half, as (alpha, beta >= 0): the rays of spherical
/// photon orbits of radius r, l = a + r/a (r - 2 D/(r-1)), eta = r^3/a^2 (4 D/(r-1)^2 - r), D = r^2 - 2r + a^2.
pub(super) fn critical_curve(a: f64, inclination_rad: f64, points: usize) -> Vec<(f64, f64)> {
    if a == 0.0 {
        let radius = 27f64.sqrt();
        return (0..points)
            .map(|i| {
                let (s, c) = (std::f64::consts::PI * i as f64 / (points - 1) as f64).sin_cos();
                (radius * c, radius * s)
            })
            .collect();
    }
    let (sin, cos) = inclination_rad.sin_cos();
    let screen = |r: f64| {
        let delta = r * r - 2.0 * r + a * a;
        let l = a + r / a * (r - 2.0 * delta / (r - 1.0));
        let eta = r.powi(3) / (a * a) * (4.0 * delta / (r - 1.0).powi(2) - r);
        (-l / sin, eta + a * a * cos * cos - l * l * (cos / sin).powi(2))
    };
    let orbit = |sign: f64| 2.0 * (1.0 + (2.0 / 3.0 * (sign * a).acos()).cos());
    let (inner, outer) = (orbit(-1.0), orbit(1.0));
    // Only part of the orbits reaches this observer: beta^2 is positive between two radii around its highest point.
    let top = (0..=2000).map(|i| inner + (outer - inner) * i as f64 / 2000.0).max_by(|x, y| screen(*x).1.total_cmp(&screen(*y).1));
    let top = top.unwrap_or(inner);
    let end = |mut outside: f64| {
        let mut inside = top;
        for _ in 0..80 {
            let middle = 0.5 * (inside + outside);
            if screen(middle).1 >= 0.0 { inside = middle } else { outside = middle }
        }
        inside
    };
    let (low, high) = (end(inner), end(outer));
    (0..points)
        .map(|i| {
            // Dense at both ends, where beta goes to zero like a square root.
            let x = 0.5 - 0.5 * (std::f64::consts::PI * i as f64 / (points - 1) as f64).cos();
            let (alpha, beta2) = screen(low + (high - low) * x);
            (alpha, beta2.max(0.0).sqrt())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capture of Schwarzschild rays changes at sqrt(27) M, whatever the direction on the screen and the inclination.
    #[test]
    fn schwarzschild_critical_curve() {
        let critical = 27f64.sqrt();
        for inclination in [0.3f64, 1.0, 1.5] {
            for k in 0..12 {
                let (s, c) = (0.1 + k as f64 * 0.52f64).sin_cos();
                let at = |rho: f64| Ray::from_screen(0.0, inclination, rho * c, rho * s).captured(12);
                assert_eq!(at(critical - 1e-4), Some(true), "{inclination} {k}");
                assert_eq!(at(critical + 1e-4), Some(false), "{inclination} {k}");
            }
        }
    }

    /// Traced rays just inside Bardeen's closed-form curve are captured and just outside escape.
    #[test]
    fn kerr_shadow_is_bardeens() {
        for (a, inclination) in [(0.5, 0.35f64), (0.94, 0.35), (0.94, 1.1), (0.98, 1.45)] {
            let curve = critical_curve(a, inclination, 41);
            // The shadow's middle: rays are tested along lines from there.
            let centre = 0.5 * (curve[0].0 + curve[40].0);
            for (alpha, beta) in curve {
                for side in [1.0, -1.0] {
                    let at = |x: f64| Ray::from_screen(a, inclination, centre + x * (alpha - centre), side * x * beta).captured(14);
                    assert_eq!(at(1.0 - 2e-3), Some(true), "a {a} i {inclination} ({alpha}, {beta})");
                    assert_eq!(at(1.0 + 2e-3), Some(false), "a {a} i {inclination} ({alpha}, {beta})");
                }
            }
        }
    }

    /// A far ray is bent by 4/b + 15 pi/(4 b^2) + 128/(3 b^3) + 3465 pi/(64 b^4) (Schwarzschild; Keeton and Petters 2005, eq. 7).
    #[test]
    fn far_ray_deflection() {
        for b in [50.0f64, 100.0, 300.0] {
            let ray = Ray::from_screen(0.0, std::f64::consts::FRAC_PI_2, b, 0.0);
            let bent = ray.sweep().unwrap() - std::f64::consts::PI;
            let pi = std::f64::consts::PI;
            let expected = 4.0 / b + 15.0 * pi / (4.0 * b * b) + 128.0 / (3.0 * b.powi(3)) + 3465.0 * pi / (64.0 * b.powi(4));
            // The next term is 3584/(5 b^5); 105 steps of fourth order add 2e-6.
            assert!((bent - expected).abs() < 1000.0 / b.powi(5) + 4e-6, "{b}: {bent} {expected}");
        }
    }

    /// Face-on far from the hole space is flat: r = rho + 1 to first order (the light bending of Beloborodov 2002), phi opposite order.
    #[test]
    fn direct_image_far_out() {
        for rho in [30.0, 60.0] {
            let [first] = Ray::from_screen(0.0, 1e-3, rho, 0.0).crossings::<1>();
            let r = first.unwrap().r;
            // b^2 = r^2 (1 - (1 - cos psi)(1 - 2/r) ...) gives b = r + 1 - ... at psi = 90 deg: b^2 = r^2 + 2 r up to O(1).
            assert!((rho * rho - r * r - 2.0 * r).abs() < 0.3 * r.sqrt(), "{rho}: {r}");
        }
    }

    /// Known values: innermost stable orbits, redshift of a face-on Keplerian orbit sqrt(1 - 3/r), and continuity at the last orbit.
    #[test]
    fn orbits_and_redshifts() {
        assert!((innermost_stable_orbit(0.0) - 6.0).abs() < 1e-12);
        assert!((innermost_stable_orbit(0.9) - 2.320_883).abs() < 1e-5);
        let ray = Ray::from_screen(0.0, 1e-9, 8.0, 0.0);
        let g = redshift(0.0, &ray, &Crossing { r: 10.0, phi: 0.0, outwards: true });
        assert!((g - 0.7f64.sqrt()).abs() < 1e-6, "{g}");
        for a in [0.0, 0.5, 0.94] {
            let isco = innermost_stable_orbit(a);
            let ray = Ray::from_screen(a, 1.0, -5.5, 1.0);
            let g = |r: f64| redshift(a, &ray, &Crossing { r, phi: 0.0, outwards: true });
            assert!((g(isco + 1e-9) - g(isco - 1e-9)).abs() < 1e-4, "a {a}");
            assert!(
                g(isco * 1.5)
                    > redshift(a, &Ray::from_screen(a, 1.0, 5.5, 1.0), &Crossing { r: isco * 1.5, phi: 0.0, outwards: true })
            );
        }
    }
}
