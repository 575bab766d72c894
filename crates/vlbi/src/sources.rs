//! Images of compact radio sources, drawn at random: what priors for VLBI are trained on and tested with.
//!
//! An image is a pure function of (seed, index) and is never stored. Half of the images hold no ring, so that a ring in a posterior is
//! evidence and no habit of the prior. The gauge is that of closure data, which fix neither position nor flux: the flux centroid lies at
//! the centre of the field and the brightest pixel is 1.

mod canvas;
mod families;
mod flow;
mod kerr;

use crate::{Error, Result};
use canvas::{Canvas, FWHM_PER_SIGMA, Grid};
use families::{Draw, Source};
use halation_compute::{Philox, Sequence};
use halation_nn::ImageSource;
use std::collections::BTreeMap;
use std::f64::consts::TAU;

/// The simulators by name: without and with faint spots ([`SourceSimulator::with_spots`]).
pub const SOURCES: [&str; 2] = ["vlbi-sources", "vlbi-sources-spots"];
/// Range of the field of view, uas; log-uniform.
pub const FOV_UAS: (f64, f64) = (100.0, 250.0);
/// Range of ring diameters, uas; log-uniform within what fits into the field.
pub const RING_DIAMETER_UAS: (f64, f64) = (15.0, 90.0);

/// Range of the FWHM of the blur, uas; log-uniform.
const BLUR_UAS: (f64, f64) = (2.0, 20.0);
/// The narrowest blur of [`SourceSimulator::with_spots`], in pixels.
const FINEST_PIXELS: f64 = 2.0;
/// That of its disks. Where a prior has seen no edge as sharp as a disk's, a bright rim is likelier to it.
const FINEST_DISK_PIXELS: f64 = 1.0;

/// Random numbers of the simulator, apart from those of training and sampling with the same seed.
const STREAM: u16 = 0x5c;
/// Redraws of a source that does not fit, before it is shrunk.
const REDRAWS: u32 = 6;
/// A source fits when the outermost pixels stay below this fraction of the peak.
const EDGE_LEVEL: f32 = 0.01;

/// A family of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Thick ring with a Gaussian profile and azimuthal Fourier modes 1 to 4.
    GaussianRing,
    /// Ring of constant brightness between two radii, with the same modes.
    FlatRing,
    /// A disk minus a displaced smaller disk.
    Crescent,
    /// Thin accretion flow around a spinning black hole.
    AccretionFlow,
    /// Elliptical disk, uniform or limb-darkened.
    Disk,
    /// One to three elliptical Gaussians.
    Gaussians,
    /// Two components.
    Double,
    /// Core and bent jet with knots.
    CoreJet,
    /// Irregular cloud of clumps.
    Clumps,
}

impl Family {
    /// All families with their probabilities, which sum to one.
    pub const ALL: [(Family, f64); 9] = [
        (Family::GaussianRing, 0.17),
        (Family::FlatRing, 0.06),
        (Family::Crescent, 0.10),
        (Family::AccretionFlow, 0.17),
        (Family::Disk, 0.11),
        (Family::Gaussians, 0.12),
        (Family::Double, 0.09),
        (Family::CoreJet, 0.13),
        (Family::Clumps, 0.05),
    ];

    /// The name, as in serialised parameters and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Family::GaussianRing => "gaussian-ring",
            Family::FlatRing => "flat-ring",
            Family::Crescent => "crescent",
            Family::AccretionFlow => "accretion-flow",
            Family::Disk => "disk",
            Family::Gaussians => "gaussians",
            Family::Double => "double",
            Family::CoreJet => "core-jet",
            Family::Clumps => "clumps",
        }
    }

    /// The family of that name.
    ///
    /// # Errors
    /// A name that no family has; the message lists all.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.iter().map(|(f, _)| *f).find(|f| f.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(f, _)| f.name()).collect();
            Error::Invalid(format!("no family of sources is called {name:?}; there are {}", names.join(", ")))
        })
    }
}

/// What was drawn for one image.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SourceParameters {
    /// Index of the image.
    pub index: u64,
    /// Family of the source.
    pub family: Family,
    /// Whether the source, before its blur, is a closed ring around a darker centre.
    pub has_ring: bool,
    /// Field of view, uas.
    pub fov_uas: f64,
    /// Diameter of a ring or disk (of an accretion flow: of the critical curve), separation of a double, length of a jet, extent of the
    /// rest, uas.
    pub diameter_uas: f64,
    /// The same in pixels.
    pub diameter_pixels: f64,
    /// Direction of a ring's bright side, of a flow's spin axis, of the axis of the rest; degrees East of North.
    pub position_angle_deg: f64,
    /// FWHM of the Gaussian that blurs the source, uas.
    pub blur_fwhm_uas: f64,
    /// Share of the flux in the faint extended component.
    pub extended_fraction: f64,
    /// FWHM of the extended component, uas; zero without one.
    pub extended_fwhm_uas: f64,
    /// Share of the flux in faint spots around the source.
    pub spots_fraction: f64,
    /// Number of faint spots around the source.
    pub spots: usize,
    /// Draws of the source until one fitted into the field.
    pub attempts: u32,
    /// Factor by which the last draw was shrunk, 1 when it fitted.
    pub shrunk: f64,
}

/// The simulator: images of `size` x `size` pixels, row 0 South, column 0 East.
#[derive(Clone, Debug)]
pub struct SourceSimulator {
    seed: u64,
    size: usize,
    family: Option<Family>,
    spots: bool,
}

/// A faint Gaussian around the source: the extended component, or a spot. Lengths in uas.
struct Faint {
    /// Share of the total flux.
    fraction: f64,
    fwhm: f64,
    axis_ratio: f64,
    angle: f64,
    offset: (f64, f64),
}

impl SourceSimulator {
    /// The simulator of `seed` for images of `size` x `size` pixels.
    ///
    /// # Errors
    /// A size outside 16 to 256.
    pub fn new(seed: u64, size: usize) -> Result<Self> {
        if !(16..=256).contains(&size) {
            return Err(Error::Invalid(format!("images of {size} x {size} pixels cannot be simulated; use a size from 16 to 256")));
        }
        Ok(Self { seed, size, family: None, spots: false })
    }

    /// The simulator called `name`, one of [`SOURCES`], as [`Self::new`].
    ///
    /// # Errors
    /// Another name, and as for [`Self::new`].
    pub fn named(name: &str, seed: u64, size: usize) -> Result<Self> {
        let simulator = Self::new(seed, size)?;
        match SOURCES.iter().position(|source| *source == name) {
            Some(0) => Ok(simulator),
            Some(_) => Ok(simulator.with_spots()),
            None => Err(Error::Invalid(format!("no source of images is called {name:?}; there are {}", SOURCES.join(" and ")))),
        }
    }

    /// The same simulator with faint spots around 40 % of the sources, and rougher structure noise: what reconstructed images show, real or not. No blur is
    /// narrower than two pixels (that of disks: than one), since sharper structure is none that the grid can hold.
    pub fn with_spots(self) -> Self {
        Self { spots: true, ..self }
    }

    /// The same simulator with one family only.
    pub fn only(self, family: Family) -> Self {
        Self { family: Some(family), ..self }
    }

    /// Pixels along one side.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What image `index` holds. It costs as much as the image, since fitting into the field is part of the draw.
    pub fn parameters(&self, index: u64) -> SourceParameters {
        self.image(index).0
    }

    /// Image `index`: what was drawn, and u in [0, 1] (size * size values; peak 1, flux centroid at the centre of the field).
    pub fn image(&self, index: u64) -> (SourceParameters, Vec<f32>) {
        let philox = Philox::new(self.seed).stream(STREAM);
        let mut first = philox.sequence(index, 0);
        let mut level = first.uniform();
        let drawn = Family::ALL.iter().find(|(_, probability)| {
            level -= probability;
            level < 0.0
        });
        let family = self.family.unwrap_or(drawn.map_or(Family::Clumps, |(family, _)| *family));
        let fov_uas = first.log_range(FOV_UAS.0, FOV_UAS.1);
        let grid = Grid { size: self.size, fov_uas };
        let canvas = (2 * self.size).clamp(96, 256);
        let finest_pixels = if family == Family::Disk { FINEST_DISK_PIXELS } else { FINEST_PIXELS };
        let finest_uas = if self.spots { BLUR_UAS.0.max(finest_pixels * grid.pixel_uas()) } else { BLUR_UAS.0 };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut rng = philox.sequence(index, attempts);
            let mut source = Draw { rng: &mut rng, fov_uas, canvas, finest_uas, rough: self.spots }.source(family);
            let extended = (rng.uniform() < 0.3).then(|| Faint {
                fraction: rng.log_range(0.02, 0.3),
                fwhm: rng.range(0.22, 0.42) * fov_uas,
                axis_ratio: rng.range(0.6, 1.0),
                angle: rng.range(0.0, TAU),
                offset: (0.03 * fov_uas * rng.normal(), 0.03 * fov_uas * rng.normal()),
            });
            let (extended_fraction, mut extended_fwhm_uas) = extended.as_ref().map_or((0.0, 0.0), |e| (e.fraction, e.fwhm));
            let (spots_fraction, spots) =
                if self.spots && rng.uniform() < 0.4 { spots(&mut rng, fov_uas) } else { (0.0, Vec::new()) };
            let number_of_spots = spots.len();
            let mut faint: Vec<Faint> = extended.into_iter().chain(spots).collect();
            let mut shrunk = 1.0;
            loop {
                let fitted = fit(grid, &source, &faint);
                // After the last redraw shrink until it fits: Gaussians and bounded shapes always do in the end.
                if fitted.is_none() && attempts <= REDRAWS {
                    break;
                }
                if let Some(image) = fitted {
                    let parameters = SourceParameters {
                        index,
                        family,
                        has_ring: source.has_ring,
                        fov_uas,
                        diameter_uas: source.diameter_uas,
                        diameter_pixels: source.diameter_uas / grid.pixel_uas(),
                        position_angle_deg: source.position_angle_rad.to_degrees().rem_euclid(360.0),
                        blur_fwhm_uas: source.blur_fwhm_uas,
                        extended_fraction,
                        extended_fwhm_uas,
                        spots_fraction,
                        spots: number_of_spots,
                        attempts,
                        shrunk,
                    };
                    return (parameters, image);
                }
                shrunk *= 0.85;
                source.canvas.rescale(0.85);
                source.diameter_uas *= 0.85;
                source.blur_fwhm_uas *= 0.85;
                extended_fwhm_uas *= 0.85;
                for f in &mut faint {
                    f.fwhm *= 0.85;
                    f.offset = (0.85 * f.offset.0, 0.85 * f.offset.1);
                }
            }
        }
    }
}

/// Faint irregular structure around a source, as reconstructed images have it, and its share of the flux: 3 to 24 spots over a region of
/// any size within the field.
fn spots(rng: &mut Sequence, fov_uas: f64) -> (f64, Vec<Faint>) {
    let share = rng.log_range(0.01, 0.25);
    let reach = rng.range(0.15, 0.47) * fov_uas;
    let mut spots: Vec<Faint> = (0..3 + rng.index(22))
        .map(|_| {
            let fwhm = rng.log_range(0.04, 0.2) * fov_uas;
            let (radius, (s, c)) = ((reach - fwhm).max(0.05 * fov_uas) * rng.uniform().sqrt(), rng.range(0.0, TAU).sin_cos());
            Faint {
                fraction: rng.log_range(0.1, 1.0),
                fwhm,
                axis_ratio: rng.range(0.6, 1.0),
                angle: rng.range(0.0, TAU),
                offset: (radius * s, radius * c),
            }
        })
        .collect();
    let sum: f64 = spots.iter().map(|s| s.fraction).sum();
    spots.iter_mut().for_each(|s| s.fraction *= share / sum);
    (share, spots)
}

/// The image with its centroid at the centre of the field and peak 1; none when it does not fit.
fn fit(grid: Grid, source: &Source, faint: &[Faint]) -> Option<Vec<f32>> {
    let (flux, east, north) = source.canvas.flux_and_centroid();
    // A blur does not move the centroid, so the shift is known before the projection.
    let sum = |of: &dyn Fn(&Faint) -> f64| faint.iter().map(|f| f.fraction * of(f)).sum::<f64>();
    let mut shift = (-east - sum(&|f| f.offset.0), -north - sum(&|f| f.offset.1));
    let whole = flux / (1.0 - sum(&|_| 1.0));
    for _ in 0..3 {
        let mut image = project(grid, &source.canvas, shift, source.blur_fwhm_uas, (faint, whole), (east, north));
        let peak = image.iter().fold(0f32, |m, v| m.max(*v));
        let last = grid.size - 1;
        let border = (0..grid.size).flat_map(|i| [i, last * grid.size + i, i * grid.size, i * grid.size + last]);
        let edge = border.fold(0f32, |m, k| m.max(image[k]));
        // Not `edge > ...`: a peak that is no number must not pass.
        if !(peak > 0.0 && edge <= EDGE_LEVEL * peak) {
            return None;
        }
        let (right, up) = centroid_pixels(&image, grid.size);
        if right.abs().max(up.abs()) < 0.01 {
            image.iter_mut().for_each(|v| *v /= peak);
            return Some(image);
        }
        // What the field cuts off, or the coarse pixels, moved it a little.
        shift = (shift.0 + right * grid.pixel_uas(), shift.1 - up * grid.pixel_uas());
    }
    None
}

/// Surface brightness in the field of the source on its canvas and of what is faint around it (with the flux of all).
fn project(
    grid: Grid,
    canvas: &Canvas,
    shift: (f64, f64),
    blur_fwhm_uas: f64,
    (faint, flux): (&[Faint], f64),
    centroid: (f64, f64),
) -> Vec<f32> {
    let mut image = canvas.project(grid, shift, blur_fwhm_uas);
    for f in faint {
        let place = (centroid.0 + shift.0 + f.offset.0, centroid.1 + shift.1 + f.offset.1);
        let blurred = |fwhm: f64| fwhm.hypot(blur_fwhm_uas) / FWHM_PER_SIGMA;
        let (major, minor) = (blurred(f.fwhm), blurred(f.fwhm * f.axis_ratio));
        let peak = flux * f.fraction / (TAU * major * minor);
        let (s, c) = f.angle.sin_cos();
        let (a, b) = (-0.5 / (major * major), -0.5 / (minor * minor));
        let (pixel, half) = (grid.pixel_uas(), 0.5 * (grid.size as f64 - 1.0));
        for (row, line) in image.chunks_exact_mut(grid.size).enumerate() {
            let north = (row as f64 - half) * pixel - place.1;
            for (column, value) in line.iter_mut().enumerate() {
                let east = (half - column as f64) * pixel - place.0;
                let (along, across) = (east * s + north * c, east * c - north * s);
                *value += peak as f32 * canvas::exp32((a * along * along + b * across * across) as f32);
            }
        }
    }
    image
}

/// Flux centroid relative to the centre of the field in pixels: (towards West, towards North).
fn centroid_pixels(image: &[f32], size: usize) -> (f64, f64) {
    let (mut flux, mut right, mut up) = (0.0, 0.0, 0.0);
    for (row, line) in image.chunks_exact(size).enumerate() {
        for (column, value) in line.iter().enumerate() {
            flux += *value as f64;
            right += *value as f64 * column as f64;
            up += *value as f64 * row as f64;
        }
    }
    let half = 0.5 * (size as f64 - 1.0);
    if flux > 0.0 { (right / flux - half, up / flux - half) } else { (0.0, 0.0) }
}

impl ImageSource for SourceSimulator {
    fn describe(&self) -> String {
        let families: Vec<String> = match self.family {
            Some(family) => vec![format!("{} 100 %", family.name())],
            None => Family::ALL.iter().map(|(family, p)| format!("{} {:.0} %", family.name(), 100.0 * p)).collect(),
        };
        let (finest, spots) = if self.spots {
            (format!(" and at least {FINEST_PIXELS} pixels (disks {FINEST_DISK_PIXELS})"), ", faint spots around it in 40 %")
        } else {
            (String::new(), "")
        };
        format!(
            "simulated compact radio sources, seed {}, {} x {} pixels: {}; field {:.0}-{:.0} uas, ring diameters {:.0}-{:.0} uas (both \
             log-uniform), blur {}-{} uas FWHM{finest}, extended component in 30 %{spots}, structure noise in 50 %; flux centroid at the centre, \
             u = image/max, z = 2u - 1",
            self.seed,
            self.size,
            self.size,
            families.join(", "),
            FOV_UAS.0,
            FOV_UAS.1,
            RING_DIAMETER_UAS.0,
            RING_DIAMETER_UAS.1,
            BLUR_UAS.0,
            BLUR_UAS.1
        )
    }

    fn item_shape(&self) -> [usize; 3] {
        [1, self.size, self.size]
    }

    fn len(&self) -> Option<u64> {
        None
    }

    /// z = 2u - 1 where there is no source.
    fn background(&self) -> Option<f64> {
        Some(-1.0)
    }

    /// `fov_uas`: the range of fields, without which lengths in pixels mean nothing.
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("fov_uas".into(), format!("[{:?},{:?}]", FOV_UAS.0, FOV_UAS.1))])
    }

    fn fill(&self, index: u64, out: &mut [f32]) -> halation_nn::Result<()> {
        if out.len() != self.size * self.size {
            let message = format!("room for {} values was given for an image of {} x {}", out.len(), self.size, self.size);
            return Err(halation_nn::Error::Invalid(message));
        }
        for (z, u) in out.iter_mut().zip(self.image(index).1) {
            *z = 2.0 * u - 1.0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_names_round_trip() {
        assert!((Family::ALL.iter().map(|f| f.1).sum::<f64>() - 1.0).abs() < 1e-12);
        for (family, _) in Family::ALL {
            assert_eq!(Family::from_name(family.name()).unwrap(), family);
            assert_eq!(serde_json::to_value(family).unwrap(), family.name());
        }
        assert!(Family::from_name("torus").unwrap_err().to_string().contains("core-jet"));
        assert!(SourceSimulator::new(0, 8).is_err());
    }

    /// Every image obeys the gauge; families come at their rates; at least 40 % hold no ring.
    #[test]
    fn gauge_rates_and_range() {
        let simulator = SourceSimulator::new(3, 64).unwrap();
        let n = 600;
        let mut counts = std::collections::BTreeMap::new();
        let (mut rings, mut shrunk) = (0, 0);
        for index in 0..n {
            let (p, u) = simulator.image(index);
            let (right, up) = centroid_pixels(&u, 64);
            assert!(right.abs() < 0.011 && up.abs() < 0.011, "{p:?}: centroid {right} {up}");
            let (low, high) = u.iter().fold((f32::INFINITY, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
            assert!(low >= 0.0 && (high - 1.0).abs() < 1e-6, "{p:?}: {low} {high}");
            let border = (0..64).flat_map(|i| [u[i], u[63 * 64 + i], u[64 * i], u[64 * i + 63]]).fold(0f32, f32::max);
            assert!(border <= EDGE_LEVEL * 1.001, "{p:?}: border {border}");
            assert!((FOV_UAS.0..=FOV_UAS.1).contains(&p.fov_uas), "{p:?}");
            *counts.entry(p.family).or_insert(0) += 1;
            rings += usize::from(p.has_ring);
            shrunk += usize::from(p.shrunk < 1.0);
        }
        for (family, probability) in Family::ALL {
            let expected = n as f64 * probability;
            let found = counts.get(&family).copied().unwrap_or(0) as f64;
            assert!(
                (found - expected).abs() < 4.0 * (expected * (1.0 - probability)).sqrt(),
                "{}: {found} {expected}",
                family.name()
            );
        }
        let share = rings as f64 / n as f64;
        assert!((0.35..=0.6).contains(&share), "ring share {share}");
        assert!(shrunk < n as usize / 50, "{shrunk} of {n} had to be shrunk");
    }

    /// Spots lie around four sources of ten, hold the share of the flux that they should and leave the gauge as it is; nothing is sharper than the grid holds.
    #[test]
    fn faint_spots() {
        let plain = SourceSimulator::named("vlbi-sources", 3, 64).unwrap();
        let spotted = SourceSimulator::named("vlbi-sources-spots", 3, 64).unwrap();
        assert!(SourceSimulator::named("cats", 3, 64).unwrap_err().to_string().contains("vlbi-sources-spots"));
        let n = 400;
        let (mut with, mut finest) = (0, [f64::INFINITY; 2]);
        for index in 0..n {
            let (p, u) = spotted.image(index);
            let (right, up) = centroid_pixels(&u, 64);
            assert!(right.abs() < 0.011 && up.abs() < 0.011, "{p:?}: centroid {right} {up}");
            let high = u.iter().fold(0f32, |h, v| h.max(*v));
            assert!(u.iter().all(|v| *v >= 0.0) && (high - 1.0).abs() < 1e-6, "{p:?}: {high}");
            with += usize::from(p.spots > 0);
            assert_eq!(p.spots > 0, (0.01..=0.25).contains(&p.spots_fraction), "{p:?}");
            let finest = &mut finest[usize::from(p.family == Family::Disk)];
            *finest = finest.min(p.blur_fwhm_uas / p.shrunk / (p.fov_uas / 64.0));
            let (q, _) = plain.image(index);
            assert_eq!((q.spots, q.spots_fraction), (0, 0.0));
        }
        let expected = 0.4 * n as f64;
        assert!((with as f64 - expected).abs() < 4.0 * (0.6 * expected).sqrt(), "{with} of {n} have spots");
        assert!((2.0..2.1).contains(&finest[0]) && (1.0..1.2).contains(&finest[1]), "the narrowest blurs are {finest:?} pixels");
    }

    /// An image depends on seed and index alone, and the network's units are 2u - 1.
    #[test]
    fn reproducible_by_index() {
        let simulator = SourceSimulator::new(11, 64).unwrap();
        let (_, u) = simulator.image(12345);
        let mut z = vec![0.0; 64 * 64];
        SourceSimulator::new(11, 64).unwrap().fill(12345, &mut z).unwrap();
        assert!(z.iter().zip(&u).all(|(z, u)| *z == 2.0 * u - 1.0));
        assert_ne!(simulator.image(12346).1, u);
        assert_ne!(SourceSimulator::new(12, 64).unwrap().image(12345).1, u);
        assert!(simulator.fill(0, &mut [0.0; 10]).is_err());
    }

    /// The same source at two resolutions: averaging the finer image gives the coarser one, so pixels hold integrals and nothing aliases.
    #[test]
    fn resolution_consistency() {
        let (coarse, fine) = (SourceSimulator::new(5, 48).unwrap(), SourceSimulator::new(5, 96).unwrap());
        let mut errors = Vec::new();
        for index in 0..40 {
            let ((p, a), (q, b)) = (coarse.image(index), fine.image(index));
            if p.attempts != q.attempts || p.shrunk != q.shrunk || p.family == Family::AccretionFlow || p.family == Family::Clumps {
                continue;
            }
            let mut averaged = vec![0f64; 48 * 48];
            for row in 0..96 {
                for column in 0..96 {
                    averaged[row / 2 * 48 + column / 2] += 0.25 * b[row * 96 + column] as f64;
                }
            }
            let (aa, ab) =
                a.iter().zip(&averaged).fold((0.0, 0.0), |(x, y), (a, b)| (x + *a as f64 * *a as f64, y + *a as f64 * b));
            let scale = aa / ab;
            let error: f64 = a.iter().zip(&averaged).map(|(a, b)| (*a as f64 - scale * b).powi(2)).sum::<f64>() / aa;
            errors.push(error.sqrt());
        }
        errors.sort_by(f64::total_cmp);
        // The largest differences come from knots that the coarser canvas must widen.
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        assert!(median < 2e-3 && worst < 0.06, "relative difference: median {median}, worst {worst}");
    }
}
