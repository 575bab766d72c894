//! The families of sources: what is drawn at random and how it is painted. Lengths in uas, angles in radians East of North.

use super::canvas::{Canvas, FWHM_PER_SIGMA, Wave, exp32};
use super::flow::{Emission, INCLINATIONS_DEG, SPINS, transfer};
use super::{BLUR_UAS, Family, RING_DIAMETER_UAS};
use halation_compute::Sequence;
use std::f64::consts::{PI, TAU};

/// A source before it is blurred and put into the field.
pub(super) struct Source {
    pub canvas: Canvas,
    pub has_ring: bool,
    /// Diameter of a ring or disk, separation of a double, length of a jet, extent of the rest.
    pub diameter_uas: f64,
    /// Bright side of a ring, spin axis of a flow, axis of the rest.
    pub position_angle_rad: f64,
    /// FWHM of the blur that this source takes.
    pub blur_fwhm_uas: f64,
}

/// What a family draws with.
pub(super) struct Draw<'a> {
    pub rng: &'a mut Sequence,
    pub fov_uas: f64,
    pub canvas: usize,
    /// FWHM of the narrowest blur.
    pub finest_uas: f64,
    /// Structure noise of any roughness.
    pub rough: bool,
}

impl Draw<'_> {
    fn chance(&mut self, probability: f64) -> bool {
        self.rng.uniform() < probability
    }

    fn angle(&mut self) -> f64 {
        self.rng.range(0.0, TAU)
    }

    fn blur(&mut self) -> f64 {
        self.rng.log_range(self.finest_uas, BLUR_UAS.1)
    }

    /// A ring diameter, log-uniform within what issue and field allow: `reach` diameters from the centre plus the blur must stay inside.
    fn ring_diameter(&mut self, reach: f64, blur_fwhm_uas: f64) -> f64 {
        let (low, high) = RING_DIAMETER_UAS;
        let fits = (0.47 * self.fov_uas - 0.8 * blur_fwhm_uas) / reach;
        self.rng.log_range(low, high.min(fits).max(low * 1.01))
    }

    /// The blur of a ring: wider than 0.6 diameters it would fill the hole.
    fn ring_blur(&mut self, reach: f64) -> (f64, f64) {
        let blur = self.blur();
        let diameter = self.ring_diameter(reach, blur);
        (diameter, blur.min(0.6 * diameter))
    }

    pub fn source(&mut self, family: Family) -> Source {
        let mut source = match family {
            Family::GaussianRing => self.gaussian_ring(),
            Family::FlatRing => self.flat_ring(),
            Family::Crescent => self.crescent(),
            Family::AccretionFlow => self.accretion_flow(),
            Family::Disk => self.disk(),
            Family::Gaussians => self.gaussians(),
            Family::Double => self.double(),
            Family::CoreJet => self.core_jet(),
            Family::Clumps => self.clumps(),
        };
        if self.chance(0.5) {
            let strength = self.rng.log_range(0.03, 0.4);
            // From the finest that the coarsest canvas holds to one and a half canvases.
            let shortest = (source.canvas.half_uas() / 12.0).max(3.0);
            let longest = (3.0 * source.canvas.half_uas()).max(2.0 * shortest);
            // From nearly scale-free to smooth.
            let slope = if self.rough { self.rng.range(0.1, 1.0) } else { 0.75 };
            let waves: Vec<Wave> = (0..24)
                .map(|_| {
                    let wavelength_uas = self.rng.log_range(shortest, longest);
                    let weight = self.rng.normal() * (wavelength_uas / longest).powf(slope);
                    Wave { wavelength_uas, direction_rad: self.angle(), phase_rad: self.angle(), weight }
                })
                .collect();
            source.canvas.modulate(strength, &waves);
        }
        source
    }

    /// Brightness around a ring, 1 on average for small amplitudes: Fourier modes 1 to 4, or an arc exp(k cos).
    fn azimuthal(&mut self) -> Azimuthal {
        let bright = self.angle();
        if self.chance(0.15) {
            return Azimuthal::new(bright, self.rng.range(0.5, 2.8), [[0.0; 2]; 4]);
        }
        let mut modes = [[0.0; 2]; 4];
        for (m, mode) in modes.iter_mut().enumerate() {
            let amplitude = if m == 0 { self.rng.range(0.0, 0.88) } else { 0.2 * self.rng.normal().abs() / m as f64 };
            let phase = if m == 0 { bright } else { self.angle() };
            let (s, c) = ((m + 1) as f64 * phase).sin_cos();
            *mode = [(amplitude * c) as f32, (amplitude * s) as f32];
        }
        Azimuthal::new(bright, 0.0, modes)
    }

    fn gaussian_ring(&mut self) -> Source {
        let width = self.rng.log_range(0.06, 0.5);
        let reach = 0.5 + 1.1 * width;
        let (diameter, blur) = self.ring_blur(reach);
        let azimuthal = self.azimuthal();
        let (flare, flare_angle) = if self.chance(0.4) { (self.rng.range(0.0, 0.45), self.angle()) } else { (0.0, 0.0) };
        let stretch = self.stretch(0.85);
        let floor = if self.chance(0.35) { self.rng.range(0.02, 0.5) } else { 0.0 };
        let floor_fwhm = diameter * self.rng.range(0.4, 0.9);
        let mut canvas = Canvas::new(self.canvas, diameter * (reach + 0.35 * width + 0.05));
        let (radius, width) = ((0.5 * diameter) as f32, (width * diameter).max(1.6 * canvas.pitch_uas()));
        let (flare_e, flare_n) = ((flare * flare_angle.sin()) as f32, (flare * flare_angle.cos()) as f32);
        let inverse_sigma = (FWHM_PER_SIGMA / width) as f32;
        let floor_scale = (-0.5 * (FWHM_PER_SIGMA / floor_fwhm).powi(2)) as f32;
        let floor = floor as f32;
        canvas.draw(|east, north| {
            let (e, n) = stretch.apply(east, north);
            let r = (e * e + n * n).sqrt();
            let (s, c) = (e / r.max(1e-6), n / r.max(1e-6));
            let x = (r - radius) * inverse_sigma / (1.0 + flare_e * s + flare_n * c);
            exp32(-0.5 * x * x) * azimuthal.at(s, c) + floor * exp32(floor_scale * r * r)
        });
        Source {
            canvas,
            has_ring: azimuthal.closed(),
            diameter_uas: diameter,
            position_angle_rad: azimuthal.bright,
            blur_fwhm_uas: blur,
        }
    }

    fn flat_ring(&mut self) -> Source {
        let width = self.rng.log_range(0.08, 0.6);
        let reach = 0.5 + 0.5 * width;
        let (diameter, blur) = self.ring_blur(reach);
        let azimuthal = self.azimuthal();
        let stretch = self.stretch(0.85);
        let floor = if self.chance(0.25) { self.rng.range(0.02, 0.4) as f32 } else { 0.0 };
        let mut canvas = Canvas::new(self.canvas, diameter * (reach + 0.05) / 0.85);
        let sharp = (1.0 / canvas.pitch_uas()) as f32;
        let (inner, outer) = ((0.5 * diameter * (1.0 - width)) as f32, (0.5 * diameter * (1.0 + width)) as f32);
        canvas.draw(|east, north| {
            let (e, n) = stretch.apply(east, north);
            let r = (e * e + n * n).sqrt();
            let (s, c) = (e / r.max(1e-6), n / r.max(1e-6));
            let hole = edge(inner - r, sharp);
            edge(outer - r, sharp) * ((1.0 - hole) * azimuthal.at(s, c) + hole * floor)
        });
        Source {
            canvas,
            has_ring: azimuthal.closed(),
            diameter_uas: diameter,
            position_angle_rad: azimuthal.bright,
            blur_fwhm_uas: blur,
        }
    }

    /// A disk minus a smaller, displaced disk.
    fn crescent(&mut self) -> Source {
        let ratio = self.rng.range(0.35, 0.9);
        // The mean of both diameters is the ring's.
        let reach = 1.0 / (1.0 + ratio);
        let (diameter, blur) = self.ring_blur(reach);
        let (outer, inner) = (diameter / (1.0 + ratio), diameter * ratio / (1.0 + ratio));
        let displacement = self.rng.range(0.0, 1.2);
        let bright = self.angle();
        let hole_level = if self.chance(0.4) { self.rng.range(0.0, 0.35) as f32 } else { 0.0 };
        let tilt = self.rng.range(0.0, 0.8);
        let mut canvas = Canvas::new(self.canvas, 1.06 * outer);
        let sharp = (1.0 / canvas.pitch_uas()) as f32;
        let offset = displacement * (outer - inner);
        let (s, c) = (bright.sin() as f32, bright.cos() as f32);
        let (hole_e, hole_n) = (-(offset as f32) * s, -(offset as f32) * c);
        let (outer32, inner32, tilt) = (outer as f32, inner as f32, (tilt / outer) as f32);
        canvas.draw(|east, north| {
            let disk = edge(outer32 - (east * east + north * north).sqrt(), sharp);
            let hole = edge(inner32 - ((east - hole_e).powi(2) + (north - hole_n).powi(2)).sqrt(), sharp);
            disk * (1.0 + tilt * (east * s + north * c)).max(0.0) * (1.0 - hole * (1.0 - hole_level))
        });
        Source { canvas, has_ring: displacement < 0.95, diameter_uas: diameter, position_angle_rad: bright, blur_fwhm_uas: blur }
    }

    fn accretion_flow(&mut self) -> Source {
        let (spin, inclination) = (self.rng.index(SPINS.len()), self.rng.index(INCLINATIONS_DEG.len()));
        let table = transfer(spin, inclination);
        let (diameter, blur) = self.ring_blur(0.85);
        let mass_uas = 0.5 * diameter / table.mean_critical;
        let room = (0.5 * self.fov_uas / mass_uas - 2.0).clamp(6.0, 13.0);
        let cutoff = self.rng.range(5.5, room.max(5.6));
        let spiral = if self.chance(0.35) {
            (1.0 + self.rng.index(2) as f64, self.rng.range(0.1, 0.8), self.rng.range(0.5, 4.0), self.angle())
        } else {
            (0.0, 0.0, 0.0, 0.0)
        };
        let spots = if self.chance(0.35) { 1 + self.rng.index(2) } else { 0 };
        let spots = (0..spots)
            .map(|_| [self.rng.range(2.5, 8.0), self.angle(), self.rng.range(0.5, 1.8), self.rng.log_range(0.5, 6.0)])
            .collect();
        let emission = Emission {
            turnover: self.rng.range(1.5, 5.5),
            inner: self.rng.range(0.0, 4.0),
            outer: self.rng.range(1.5, 5.0),
            cutoff,
            redshift_power: self.rng.range(1.5, 4.0),
            spiral,
            spots,
        };
        let angle = self.angle();
        let mirrored = self.chance(0.5);
        let half = 1.15 * cutoff + 2.5;
        let mut canvas = Canvas::new(self.canvas + self.canvas / 4, half * mass_uas);
        table.draw(&mut canvas, spin, &emission, mass_uas, angle, mirrored);
        Source { canvas, has_ring: true, diameter_uas: diameter, position_angle_rad: angle, blur_fwhm_uas: blur }
    }

    /// An elliptical disk, uniform or darkened to its limb.
    fn disk(&mut self) -> Source {
        let blur = self.blur();
        let largest = (0.94 * self.fov_uas - 1.6 * blur).min(110.0);
        let diameter = self.rng.log_range(14.0, largest.max(15.0));
        let stretch = self.stretch(0.4);
        let darkening = if self.chance(0.5) { 0.0 } else { self.rng.range(0.2, 1.0) as f32 };
        let bright = self.angle();
        let tilt = if self.chance(0.5) { self.rng.range(0.0, 0.7) } else { 0.0 };
        let mut canvas = Canvas::new(self.canvas, 0.53 * diameter);
        let sharp = (1.0 / canvas.pitch_uas()) as f32;
        let radius = (0.5 * diameter) as f32;
        let (tilt_e, tilt_n) = ((tilt * bright.sin()) as f32 / radius, (tilt * bright.cos()) as f32 / radius);
        canvas.draw(|east, north| {
            let (e, n) = stretch.apply(east, north);
            let r = (e * e + n * n).sqrt();
            let x = (r / radius).min(1.0);
            let profile = 1.0 - darkening * (1.0 - (1.0 - x * x).sqrt());
            edge(radius - r, sharp) * profile * (1.0 + tilt_e * e + tilt_n * n)
        });
        Source { canvas, has_ring: false, diameter_uas: diameter, position_angle_rad: stretch.angle, blur_fwhm_uas: blur }
    }

    /// One to three elliptical Gaussians.
    fn gaussians(&mut self) -> Source {
        let blur = self.blur();
        let count = match self.rng.uniform() {
            u if u < 0.45 => 1,
            u if u < 0.75 => 2,
            _ => 3,
        };
        let largest = self.rng.log_range(8.0, 0.38 * self.fov_uas);
        let mut parts = Vec::with_capacity(count);
        for k in 0..count {
            let (e, n) = if k == 0 { (0.0, 0.0) } else { (0.75 * largest * self.rng.normal(), 0.75 * largest * self.rng.normal()) };
            let fwhm = if k == 0 { largest } else { largest * self.rng.log_range(0.25, 1.0) };
            let peak = if k == 0 { 1.0 } else { self.rng.log_range(0.05, 3.0) };
            parts.push(((e, n), fwhm, self.rng.range(0.3, 1.0), self.angle(), peak));
        }
        let half = parts.iter().map(|((e, n), fwhm, ..)| e.abs().max(n.abs()) + 1.4 * fwhm).fold(0.0, f64::max);
        let mut canvas = Canvas::new(self.canvas, half);
        let angle = parts[0].3;
        for (centre, fwhm, ratio, angle, peak) in parts {
            canvas.add_elliptical(centre, fwhm, ratio, angle, peak);
        }
        Source { canvas, has_ring: false, diameter_uas: largest, position_angle_rad: angle, blur_fwhm_uas: blur }
    }

    /// Two components, with or without a bridge.
    fn double(&mut self) -> Source {
        let blur = self.blur();
        let separation = self.rng.log_range(15.0, 0.68 * self.fov_uas);
        let angle = self.angle();
        let ratio = self.rng.log_range(0.1, 1.0);
        let (s, c) = angle.sin_cos();
        let fwhm: [f64; 2] = std::array::from_fn(|_| self.rng.log_range(3.0, (0.5 * separation).clamp(4.0, 30.0)));
        let shape: [(f64, f64); 2] = std::array::from_fn(|_| (self.rng.range(0.4, 1.0), self.angle()));
        let bridge = if self.chance(0.25) { self.rng.log_range(0.02, 0.3) } else { 0.0 };
        let half = 0.5 * separation + 1.4 * fwhm[0].max(fwhm[1]);
        let mut canvas = Canvas::new(self.canvas, half);
        // The ratio is one of fluxes, so the smaller component is the brighter per area.
        let ends = [(-0.5, 1.0), (0.5, ratio)];
        for ((end, flux), (fwhm, (axis_ratio, angle))) in ends.iter().zip(fwhm.iter().zip(shape)) {
            let centre = (end * separation * s, end * separation * c);
            canvas.add_elliptical(centre, *fwhm, axis_ratio, angle, flux / (fwhm * fwhm * axis_ratio));
        }
        if bridge > 0.0 {
            let width = 0.5 * (fwhm[0] + fwhm[1]);
            for k in 0..12 {
                let t = (k as f64 - 5.5) / 12.0;
                canvas.add_gaussian(t * separation * s, t * separation * c, width, bridge * ratio / (width * width));
            }
        }
        Source { canvas, has_ring: false, diameter_uas: separation, position_angle_rad: angle, blur_fwhm_uas: blur }
    }

    /// A core and a bent jet that widens and fades, with knots.
    fn core_jet(&mut self) -> Source {
        let blur = self.blur();
        let length = self.rng.log_range(25.0, 0.82 * self.fov_uas);
        let angle = self.angle();
        let bend = 0.5 * self.rng.normal();
        let curve = |t: f64| {
            // Mean direction up to t of a direction that turns uniformly by `bend` over the whole length.
            let direction = angle + 0.5 * bend * t;
            (length * t * direction.sin(), length * t * direction.cos())
        };
        let core = self.rng.log_range(3.0, 16.0).min(0.5 * length);
        let (start, end) = (self.rng.range(0.3, 1.0) * core, self.rng.range(0.6, 2.5) * core);
        let (fade, ridge) = (self.rng.log_range(0.2, 2.0), self.rng.log_range(0.02, 0.7));
        let knots: Vec<(f64, f64, f64)> = (0..1 + self.rng.index(4))
            .map(|_| {
                (self.rng.range(0.12, 1.0), self.rng.log_range(0.05, 1.2), self.rng.log_range(0.6, 2.0) * core.clamp(3.0, 12.0))
            })
            .collect();
        let counter = if self.chance(0.15) { self.rng.log_range(0.02, 0.3) } else { 0.0 };
        let (axis_ratio, core_angle) = (self.rng.range(0.4, 1.0), angle + 0.3 * self.rng.normal());
        // The canvas is centred on the jet's middle.
        let middle = curve(0.5);
        let widest = knots.iter().map(|k| k.2).fold(end.max(core), f64::max);
        let half = 0.55 * length + 1.4 * widest;
        let mut canvas = Canvas::new(self.canvas, half);
        canvas.add_elliptical((-middle.0, -middle.1), core, axis_ratio, core_angle, 1.0);
        let mut add = |t: f64, fwhm: f64, peak: f64| {
            let (e, n) = curve(t);
            canvas.add_gaussian(e - middle.0, n - middle.1, fwhm, peak);
        };
        for k in 0..24 {
            let t = (k as f64 + 0.5) / 24.0;
            add(t, start + (end - start) * t, ridge * (-t / fade).exp() * 0.5);
        }
        for (t, peak, fwhm) in knots {
            add(t, fwhm, peak);
        }
        if counter > 0.0 {
            for k in 1..8 {
                add(-0.04 * k as f64, start, counter * ridge);
            }
        }
        Source { canvas, has_ring: false, diameter_uas: length, position_angle_rad: angle, blur_fwhm_uas: blur }
    }

    /// An irregular cloud of clumps.
    fn clumps(&mut self) -> Source {
        let blur = self.blur();
        let extent = self.rng.log_range(25.0, 0.65 * self.fov_uas);
        let (axis_ratio, angle) = (self.rng.range(0.35, 1.0), self.angle());
        let (s, c) = angle.sin_cos();
        let count = 4 + self.rng.index(9);
        let parts: Vec<_> = (0..count)
            .map(|_| {
                let along = 0.5 * extent * (self.rng.uniform().sqrt() * (self.angle()).cos());
                let across = 0.5 * extent * axis_ratio * self.rng.range(-1.0, 1.0);
                let fwhm = extent * self.rng.log_range(0.1, 0.5);
                (along * s + across * c, along * c - across * s, fwhm, self.rng.log_range(0.1, 1.0))
            })
            .collect();
        let half = parts.iter().map(|(e, n, fwhm, _)| e.abs().max(n.abs()) + 1.4 * fwhm).fold(0.0, f64::max);
        let mut canvas = Canvas::new(self.canvas, half);
        for (e, n, fwhm, peak) in parts {
            canvas.add_gaussian(e, n, fwhm, peak);
        }
        Source { canvas, has_ring: false, diameter_uas: extent, position_angle_rad: angle, blur_fwhm_uas: blur }
    }

    /// Round in half of the cases, else elongated down to `lowest`.
    fn stretch(&mut self, lowest: f64) -> Stretch {
        let ratio = if self.chance(0.5) { self.rng.range(lowest, 1.0) } else { 1.0 };
        let angle = self.rng.range(0.0, PI);
        Stretch { angle, sin: angle.sin() as f32, cos: angle.cos() as f32, inverse: (1.0 / ratio) as f32 }
    }
}

/// How much of a pixel lies inside an edge at `distance` (positive inside): a ramp over one canvas pixel.
#[inline(always)]
fn edge(distance: f32, inverse_pitch: f32) -> f32 {
    (distance * inverse_pitch + 0.5).clamp(0.0, 1.0)
}

struct Azimuthal {
    bright: f64,
    /// Sine and cosine of `bright`.
    towards: (f32, f32),
    arc: f32,
    /// Cosine and sine amplitudes of modes 1 to 4.
    modes: [[f32; 2]; 4],
}

impl Azimuthal {
    fn new(bright: f64, arc: f64, modes: [[f32; 2]; 4]) -> Self {
        Self { bright, towards: (bright.sin() as f32, bright.cos() as f32), arc: arc as f32, modes }
    }

    /// Brightness at an angle East of North given by its sine and cosine.
    #[inline(always)]
    fn at(&self, s: f32, c: f32) -> f32 {
        if self.arc > 0.0 {
            return exp32(self.arc * (s * self.towards.0 + c * self.towards.1 - 1.0));
        }
        let (mut re, mut im, mut sum) = (c, s, 1.0);
        for [a, b] in self.modes {
            sum += a * re + b * im;
            (re, im) = (re * c - im * s, re * s + im * c);
        }
        sum.max(0.0)
    }

    /// Whether the ring closes: its faintest part holds at least a tenth of the brightest.
    fn closed(&self) -> bool {
        let around = (0..72).map(|k| {
            let (s, c) = (TAU * k as f64 / 72.0).sin_cos();
            self.at(s as f32, c as f32)
        });
        let (low, high) = around.fold((f32::INFINITY, 0.0f32), |(l, h), v| (l.min(v), h.max(v)));
        low >= 0.1 * high
    }
}

/// A compression by `1 / inverse` across the direction `angle`.
#[derive(Clone, Copy)]
struct Stretch {
    angle: f64,
    sin: f32,
    cos: f32,
    inverse: f32,
}

impl Stretch {
    #[inline(always)]
    fn apply(&self, east: f32, north: f32) -> (f32, f32) {
        let along = east * self.sin + north * self.cos;
        let across = (east * self.cos - north * self.sin) * self.inverse;
        (along * self.sin + across * self.cos, along * self.cos - across * self.sin)
    }
}
