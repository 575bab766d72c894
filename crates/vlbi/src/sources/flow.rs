//! An accretion flow in the equatorial plane of a spinning black hole, drawn from transfer tables.
//!
//! Which point of the disk a screen position sees depends on spin and inclination alone. The tables hold it, once per process and pair;
//! an image then costs emissivities at the tables' nodes and an interpolation. Brightness is the sum over image orders of g^k j(r, phi)
//! (Gralla, Lupsasca and Marrone 2020, Phys. Rev. D 102, 124004, use k = 3 at one frequency). Orders 0 and 1 are kept: order 2 carries
//! about exp(-pi) of order 1's flux in a ring thinner than a hundredth of the diameter, below what a field of 64 pixels shows.

use super::canvas::{Canvas, exp32};
use super::kerr::{Ray, critical_curve, horizon, redshift};
use std::sync::OnceLock;

/// Spins of the tables, in units of M.
pub(super) const SPINS: [f64; 4] = [0.0, 0.5, 0.8, 0.94];
/// Inclinations of the tables, degrees from the spin axis.
pub(super) const INCLINATIONS_DEG: [f64; 7] = [6.0, 17.0, 30.0, 43.0, 56.0, 69.0, 80.0];

const ORDERS: usize = 2;
const ANGLES: usize = 96;
/// Screen radius of the nodes over that of the critical curve at the same angle: (end, steps) of two stretches, the second dense because
/// the lensed rings lie there. A third reaches in `FAR_STEPS` steps to the same radius at all angles.
const STRETCHES: [(f64, usize); 2] = [(0.9, 14), (1.4, 40)];
const FAR_STEPS: usize = 34;
/// Screen radius up to which the tables reach, in M.
const REACH: f64 = 19.0;
const RADII: usize = 1 + STRETCHES[0].1 + STRETCHES[1].1 + FAR_STEPS;

/// What a flow emits; lengths in M.
#[derive(Clone, Debug)]
pub(super) struct Emission {
    /// Radius where the emissivity turns over.
    pub turnover: f64,
    /// j ~ r^inner inside and r^-outer outside.
    pub inner: f64,
    pub outer: f64,
    /// The emissivity is cut off around this radius.
    pub cutoff: f64,
    /// Power k of the redshift.
    pub redshift_power: f64,
    /// Spiral: arms, contrast (0 to 1), winding per unit of ln r, phase.
    pub spiral: (f64, f64, f64, f64),
    /// Hot spots: radius, azimuth, size, contrast.
    pub spots: Vec<[f64; 4]>,
}

/// Transfer table of one spin and inclination.
pub(super) struct Transfer {
    /// Radius of the critical curve at each of the angles.
    critical: Vec<f64>,
    /// Mean radius of the critical curve, in M: half the diameter by which flows are sized.
    pub mean_critical: f64,
    orders: Vec<Order>,
}

/// Emission radius (0 where the order has no image), azimuth and ln of the redshift at each node, (angle, radius).
struct Order {
    r: Vec<f32>,
    phi: Vec<f32>,
    ln_g: Vec<f32>,
}

/// The table of spin and inclination number (s, i), traced when first asked for.
pub(super) fn transfer(spin: usize, inclination: usize) -> &'static Transfer {
    static TABLES: [[OnceLock<Transfer>; INCLINATIONS_DEG.len()]; SPINS.len()] =
        [const { [const { OnceLock::new() }; INCLINATIONS_DEG.len()] }; SPINS.len()];
    TABLES[spin][inclination].get_or_init(|| Transfer::trace(SPINS[spin], INCLINATIONS_DEG[inclination].to_radians()))
}

/// Screen radius of node k at an angle where the critical curve has radius `critical`.
fn node_radius(k: usize, critical: f64) -> f64 {
    let (mut start, mut first) = (0.0, 0);
    for (end, steps) in STRETCHES {
        if k <= first + steps {
            return critical * (start + (end - start) * (k - first) as f64 / steps as f64);
        }
        (start, first) = (end, first + steps);
    }
    critical * start + (REACH - critical * start) * (k - first) as f64 / FAR_STEPS as f64
}

/// Inverse of [`node_radius`]; none outside the table.
#[inline(always)]
fn node_of(rho: f32, critical: f32) -> Option<f32> {
    const END0: f32 = STRETCHES[0].0 as f32;
    const END1: f32 = STRETCHES[1].0 as f32;
    let (n0, n1) = (STRETCHES[0].1 as f32, STRETCHES[1].1 as f32);
    let x = rho / critical;
    if x < END0 {
        Some(x * (n0 / END0))
    } else if x < END1 {
        Some(n0 + (x - END0) * (n1 / (END1 - END0)))
    } else if rho < REACH as f32 {
        let start = END1 * critical;
        Some(n0 + n1 + (rho - start) * (FAR_STEPS as f32 / (REACH as f32 - start)))
    } else {
        None
    }
}

impl Transfer {
    fn trace(a: f64, inclination_rad: f64) -> Self {
        let curve = critical_curve(a, inclination_rad, 1201);
        // Radius as a function of screen angle over the upper half; the lower half mirrors it.
        let mut polar: Vec<(f64, f64)> = curve.iter().map(|(alpha, beta)| (beta.atan2(*alpha), alpha.hypot(*beta))).collect();
        polar.sort_by(|x, y| x.0.total_cmp(&y.0));
        let radius_at = |angle: f64| {
            let angle = if angle > std::f64::consts::PI { std::f64::consts::TAU - angle } else { angle };
            let k = polar.partition_point(|p| p.0 < angle).clamp(1, polar.len() - 1);
            let ((x0, y0), (x1, y1)) = (polar[k - 1], polar[k]);
            let t = if x1 > x0 { ((angle - x0) / (x1 - x0)).clamp(0.0, 1.0) } else { 0.0 };
            y0 + t * (y1 - y0)
        };
        let critical: Vec<f64> = (0..ANGLES).map(|i| radius_at(std::f64::consts::TAU * i as f64 / ANGLES as f64)).collect();
        let empty = || Order { r: vec![0.0; ANGLES * RADII], phi: vec![0.0; ANGLES * RADII], ln_g: vec![0.0; ANGLES * RADII] };
        let mut orders: Vec<Order> = (0..ORDERS).map(|_| empty()).collect();
        for (i, critical) in critical.iter().enumerate() {
            let (s, c) = (std::f64::consts::TAU * i as f64 / ANGLES as f64).sin_cos();
            for k in 0..RADII {
                // The axis itself is a coordinate singularity of phi: stay a hair off it.
                let rho = node_radius(k, *critical).max(5e-3);
                let ray = Ray::from_screen(a, inclination_rad, rho * c, rho * s);
                for (order, crossing) in orders.iter_mut().zip(ray.crossings::<ORDERS>()) {
                    if let Some(crossing) = crossing {
                        let node = i * RADII + k;
                        order.r[node] = crossing.r as f32;
                        order.phi[node] = crossing.phi.rem_euclid(std::f64::consts::TAU) as f32;
                        order.ln_g[node] = redshift(a, &ray, &crossing).max(1e-6).ln() as f32;
                    }
                }
            }
        }
        let mean_critical = critical.iter().sum::<f64>() / ANGLES as f64;
        Self { critical, mean_critical, orders }
    }

    /// Observed brightness at the nodes, (angle, radius), all orders together.
    fn brightness(&self, spin: usize, e: &Emission) -> Vec<f32> {
        // The radial emissivity is looked up: it is smooth, and every node would need two powers.
        const STEPS: usize = 512;
        let (r_min, r_max) = (horizon(SPINS[spin]), 1.6 * e.cutoff);
        let step = (r_max - r_min) / STEPS as f64;
        let radial: Vec<f32> = (0..=STEPS)
            .map(|k| {
                let r = r_min + k as f64 * step;
                let x = r / e.turnover;
                ((-(r / e.cutoff).powi(6)).exp() / (x.powf(-e.inner) + x.powf(e.outer))) as f32
            })
            .collect();
        let (r_min, inverse_step) = (r_min as f32, (1.0 / step) as f32);
        let (arms, contrast, winding, phase) = e.spiral;
        let spots: Vec<[f32; 4]> = e
            .spots
            .iter()
            .map(|[r, phi, size, contrast]| {
                [(r * phi.cos()) as f32, (r * phi.sin()) as f32, (-0.5 / (size * size)) as f32, *contrast as f32]
            })
            .collect();
        let mut out = vec![0f32; ANGLES * RADII];
        for order in &self.orders {
            for (((out, &r), &phi), &ln_g) in out.iter_mut().zip(&order.r).zip(&order.phi).zip(&order.ln_g) {
                let place = (r - r_min) * inverse_step;
                if r <= 0.0 || place >= STEPS as f32 {
                    continue;
                }
                let k = (place.max(0.0) as usize).min(STEPS - 1);
                let mut j = radial[k] + (radial[k + 1] - radial[k]) * (place - k as f32).clamp(0.0, 1.0);
                if contrast > 0.0 {
                    j *= 1.0 + (contrast * (arms * (phi as f64 - winding * (r as f64).ln()) + phase).cos()) as f32;
                }
                if !spots.is_empty() {
                    let (x, y) = (r * phi.cos(), r * phi.sin());
                    let excess: f32 = spots.iter().map(|[x0, y0, a, c]| c * exp32(a * ((x - x0).powi(2) + (y - y0).powi(2)))).sum();
                    j *= 1.0 + excess;
                }
                *out += j * exp32(e.redshift_power as f32 * ln_g);
            }
        }
        out
    }

    /// Draws the flow on `canvas`, `mass_uas` per M, spin axis at `angle_rad` East of North; `mirrored` reverses its rotation.
    pub fn draw(&self, canvas: &mut Canvas, spin: usize, emission: &Emission, mass_uas: f64, angle_rad: f64, mirrored: bool) {
        let brightness = self.brightness(spin, emission);
        let inverse_mass = (1.0 / mass_uas) as f32;
        let (s, c) = (angle_rad.sin() as f32, angle_rad.cos() as f32);
        let hand = if mirrored { -1.0 } else { 1.0 };
        let critical: Vec<f32> = self.critical.iter().chain(self.critical.first()).map(|r| *r as f32).collect();
        canvas.draw(|east, north| {
            // Right on the screen is West when the axis points North.
            let alpha = hand * (north * s - east * c) * inverse_mass;
            let beta = (east * s + north * c) * inverse_mass;
            let rho = (alpha * alpha + beta * beta).sqrt();
            let turn = fast_turn(beta, alpha) * ANGLES as f32;
            let i = (turn as usize).min(ANGLES - 1);
            let t = turn - i as f32;
            let Some(place) = node_of(rho, critical[i] + t * (critical[i + 1] - critical[i])) else { return 0.0 };
            let k = (place as usize).min(RADII - 2);
            let f = place - k as f32;
            let (first, second) = (i * RADII + k, (i + 1) % ANGLES * RADII + k);
            let at = |node: usize| brightness[node] + f * (brightness[node + 1] - brightness[node]);
            at(first) + t * (at(second) - at(first))
        });
    }
}

/// atan2 as a fraction of a turn in [0, 1), to 2e-6 turns (minimax polynomial of the arctangent on [0, 1]).
#[inline(always)]
fn fast_turn(y: f32, x: f32) -> f32 {
    let (ax, ay) = (x.abs(), y.abs());
    let (large, small) = if ax > ay { (ax, ay) } else { (ay, ax) };
    let z = small / large.max(1e-20);
    let z2 = z * z;
    let p =
        ((((-0.013_480_47 * z2 + 0.057_477_314) * z2 - 0.121_239_07) * z2 + 0.195_635_93) * z2 - 0.332_994_6) * z2 + 0.999_995_63;
    let mut turn = p * z * std::f32::consts::FRAC_1_PI * 0.5;
    if ay > ax {
        turn = 0.25 - turn;
    }
    if x < 0.0 {
        turn = 0.5 - turn;
    }
    if y < 0.0 {
        turn = 1.0 - turn;
    }
    if turn >= 1.0 { 0.0 } else { turn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_turn_matches_atan2() {
        for k in 0..1000 {
            let angle = k as f64 * 0.006283;
            let (s, c) = angle.sin_cos();
            let expected = (s.atan2(c) / std::f64::consts::TAU).rem_euclid(1.0);
            let found = fast_turn(s as f32 * 3.0, c as f32 * 3.0) as f64;
            let difference = (found - expected + 0.5).rem_euclid(1.0) - 0.5;
            assert!(difference.abs() < 3e-6, "{angle}: {found} {expected}");
        }
    }

    #[test]
    fn nodes_invert() {
        for critical in [2.2, 5.2, 6.9] {
            for k in 0..RADII - 1 {
                let rho = node_radius(k, critical) as f32 + 1e-5;
                assert!((node_of(rho, critical as f32).unwrap() - k as f32).abs() < 2e-3, "{k}");
            }
            assert!((node_radius(RADII - 1, critical) - REACH).abs() < 1e-12 && node_of(REACH as f32, critical as f32).is_none());
        }
    }

    /// The image from the table against rays traced for that very screen position.
    #[test]
    fn table_agrees_with_rays() {
        let (spin, inclination) = (3, 4);
        let (a, i) = (SPINS[spin], INCLINATIONS_DEG[inclination].to_radians());
        let table = transfer(spin, inclination);
        let emission = Emission {
            turnover: 4.0,
            inner: 2.0,
            outer: 3.0,
            cutoff: 10.0,
            redshift_power: 3.0,
            spiral: (2.0, 0.4, 2.0, 0.3),
            spots: vec![[6.0, 1.0, 1.2, 1.5]],
        };
        let direct = |alpha: f64, beta: f64| -> f64 {
            let ray = Ray::from_screen(a, i, alpha, beta);
            let emitted = |r: f64, phi: f64| {
                let x = r / 4.0;
                let spiral = 1.0 + 0.4 * (2.0 * (phi - 2.0 * r.ln()) + 0.3).cos();
                let (dx, dy) = (r * phi.cos() - 6.0 * 1f64.cos(), r * phi.sin() - 6.0 * 1f64.sin());
                let spot = 1.0 + 1.5 * (-0.5 * (dx * dx + dy * dy) / 1.44).exp();
                (-(r / 10.0).powi(6)).exp() / (x.powi(-2) + x.powi(3)) * spiral * spot
            };
            ray.crossings::<2>().iter().flatten().map(|c| emitted(c.r, c.phi) * redshift(a, &ray, c).powi(3)).sum()
        };
        let mut canvas = Canvas::new(96, 12.0);
        table.draw(&mut canvas, spin, &emission, 1.0, 0.0, false);
        let (mut error, mut norm) = (0.0, 0.0);
        for row in 0..96 {
            for column in 0..96 {
                let (alpha, beta) = (-12.0 + (column as f64 + 0.5) * 0.25, -12.0 + (row as f64 + 0.5) * 0.25);
                let expected = direct(alpha, beta);
                error += (canvas.pixels()[row * 96 + column] as f64 - expected).powi(2);
                norm += expected.powi(2);
            }
        }
        // Edges of the lensed order within a cell of the table are what is left.
        assert!((error / norm).sqrt() < 0.06, "{}", (error / norm).sqrt());
    }
}
