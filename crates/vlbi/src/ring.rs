//! Ring features of an image, and whether it holds a ring at all.
//!
//! The features are those of REx, the ring extractor of eht-imaging (EHT Collaboration 2019, ApJL 875, L4, section 9 and appendix;
//! Chael 2019): a centre from which the brightest radius varies least with direction, then radial profiles from there. They exist for
//! nearly any image, a double as well, so a share of draws that *hold* a ring needs the gate of [`RingFeatures::is_ring`].

use crate::align::blur;
use crate::{ImageGrid, MICROARCSECOND_RAD, Result};
use std::f64::consts::{PI, TAU};

/// Where rings are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RingOptions {
    /// Smallest and largest diameter that a centre may give, uas.
    pub diameter_uas: (f64, f64),
    /// Length of the rays, uas.
    pub radius_uas: f64,
    /// The centre is looked for within this distance (East and North) from the flux centroid, uas.
    pub search_uas: f64,
    /// Trial centres along each axis.
    pub search_points: usize,
    /// Measure lengths as eht-imaging's REx does. Its regridding takes the outermost pixel *centres* of both grids for the edges of the
    /// field, which lengthens every length by n/(n-1) 159/160: 0.95 % for 64 pixels. Only for comparison with its numbers.
    pub eht_imaging_lengths: bool,
}

impl Default for RingOptions {
    /// Diameters of 15 to 95 uas: larger rings (Sgr A*) than REx's own limits let pass.
    fn default() -> Self {
        Self { diameter_uas: (15.0, 95.0), radius_uas: 60.0, search_uas: 20.0, search_points: 12, eht_imaging_lengths: false }
    }
}

impl RingOptions {
    /// REx as eht-imaging has it, made for M87*: diameters of 15 to 50 uas, rays of 50 uas, and its lengths.
    pub fn rex() -> Self {
        Self { diameter_uas: (15.0, 50.0), radius_uas: 50.0, search_uas: 16.0, search_points: 10, eht_imaging_lengths: true }
    }
}

/// Ring gate: central brightness below this.
pub const GATE_CENTRAL_BRIGHTNESS: f64 = 0.5;
/// Ring gate: scatter of the diameter over the diameter below this.
pub const GATE_DIAMETER_SCATTER: f64 = 0.3;
/// Ring gate: FWHM of the blur before rays are looked at, uas.
pub const GATE_BLUR_UAS: f64 = 10.0;
/// Ring gate: height of a ray's peak over the image's peak, at least.
pub const GATE_RAY_PEAK: f64 = 0.15;
/// Ring gate: share of rays with such a peak, at least.
pub const GATE_RAYS: f64 = 0.9;
/// Ring gate: number of rays.
const GATE_RAY_COUNT: usize = 36;

/// REx works on a square of 160 uas with pixels of 1 uas.
const WORK_PIXELS: usize = 160;
/// Rays and radii of the search and of the profiles.
const SEARCH_RAYS: usize = 25;
const SEARCH_RADII: usize = 50;
const RAYS: usize = 360;
const RADII: usize = 100;
/// The search sees nothing below this fraction of the peak.
const SEARCH_THRESHOLD: f64 = 0.05;
/// Radius of the centre whose brightness is reported, and width of the outer zone whose level is subtracted, uas.
const ZONE_UAS: f64 = 5.0;

/// Features of the ring that an image holds most nearly.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct RingFeatures {
    /// Centre relative to that of the field, uas, East positive.
    pub east_uas: f64,
    /// Centre relative to that of the field, uas, North positive.
    pub north_uas: f64,
    /// Mean over directions of twice the brightest radius, uas.
    pub diameter_uas: f64,
    /// Its standard deviation over directions, uas.
    pub diameter_std_uas: f64,
    /// d + w^2 / (4 ln 2 d): the diameter of the thin ring that a blur of FWHM w shrinks to d, uas.
    pub corrected_diameter_uas: f64,
    /// Mean over directions of the radial FWHM, uas.
    pub width_uas: f64,
    /// Its standard deviation over directions, uas.
    pub width_std_uas: f64,
    /// Direction of the bright side, degrees East of North, 0 to 360.
    pub position_angle_deg: f64,
    /// Its circular standard deviation over radii, degrees.
    pub position_angle_std_deg: f64,
    /// |integral I exp(i theta)| / integral I, mean over radii: 0 even, 0.5 for 1 + cos.
    pub asymmetry: f64,
    /// Its standard deviation over radii.
    pub asymmetry_std: f64,
    /// Mean profile within 5 uas of the centre over its peak.
    pub central_brightness: f64,
    /// Share of 36 rays that, after a blur of 10 uas, peak away from the centre with at least 15 % of the image's peak.
    pub bright_rays: f64,
}

impl RingFeatures {
    /// The ring gate: central brightness below 0.5, std(d)/d below 0.3, and bright rays on at least 90 %.
    pub fn is_ring(&self) -> bool {
        self.central_brightness < GATE_CENTRAL_BRIGHTNESS
            && self.diameter_std_uas < GATE_DIAMETER_SCATTER * self.diameter_uas
            && self.bright_rays >= GATE_RAYS
    }
}

/// The share of images that pass the ring gate; an image without features does not. NaN without images.
pub fn ring_probability(features: &[Option<RingFeatures>]) -> f64 {
    features.iter().filter(|f| f.is_some_and(|f| f.is_ring())).count() as f64 / features.len() as f64
}

/// Whether an image of the network (n x n values, row 0 South) over a field of `fov_rad` passes the ring gate with default options.
///
/// # Errors
/// As [`ring_features`].
pub fn passes_ring_gate(image: &[f32], n: usize, fov_rad: f64) -> Result<bool> {
    let grid = ImageGrid::new(n, fov_rad)?;
    let image: Vec<f64> = image.iter().map(|v| *v as f64).collect();
    Ok(ring_features(&grid, &image, &RingOptions::default())?.is_some_and(|f| f.is_ring()))
}

/// Ring features of an image (row 0 South, column 0 East). None when no centre gives a diameter within the limits, or nothing is bright.
///
/// # Errors
/// An image of another size than the grid, or with pixels that are not finite.
pub fn ring_features(grid: &ImageGrid, image: &[f64], options: &RingOptions) -> Result<Option<RingFeatures>> {
    // Also refuses what is no image of this grid.
    let blurred = blur(grid, image, GATE_BLUR_UAS * MICROARCSECOND_RAD)?;
    let (n, work_pixels) = (grid.n as f64, WORK_PIXELS as f64);
    let stretch = if options.eht_imaging_lengths { n / (n - 1.0) * (work_pixels - 1.0) / work_pixels } else { 1.0 };
    let Some(work) = Work::new(grid, image, stretch) else { return Ok(None) };
    let mut search = work.clone();
    let peak = search.values.iter().fold(0.0, |m: f64, v| m.max(*v));
    search.values.iter_mut().for_each(|v| *v = if *v < SEARCH_THRESHOLD * peak { 0.0 } else { *v });
    let Some(centre) = find_centre(&search, options) else { return Ok(None) };
    let Some(mut features) = profile_features(&work, centre, options) else { return Ok(None) };
    features.bright_rays = bright_rays(grid, &blurred, (features.east_uas, features.north_uas), options);
    Ok(Some(features))
}

/// The image on REx's own grid, 1 uas per pixel around the flux centroid; x grows to the West, y to the North.
#[derive(Clone)]
struct Work {
    values: Vec<f64>,
    /// Centre of the grid relative to that of the field, uas East and North.
    origin_uas: (f64, f64),
    /// Lengths on this grid over true lengths.
    stretch: f64,
}

impl Work {
    fn new(grid: &ImageGrid, image: &[f64], stretch: f64) -> Option<Self> {
        let peak = image.iter().fold(0.0, |m: f64, v| m.max(*v));
        if peak <= 0.0 {
            return None;
        }
        // Faint pixels far out would pull the centroid from what is to be measured.
        let bright: Vec<f64> = image.iter().map(|v| if *v < SEARCH_THRESHOLD * peak { 0.0 } else { *v }).collect();
        let gauge = grid.gauge(&bright)?;
        let origin_uas = (gauge.l_rad / MICROARCSECOND_RAD, gauge.m_rad / MICROARCSECOND_RAD);
        let pixel_uas = grid.pixel_rad() / MICROARCSECOND_RAD;
        let half = 0.5 * (WORK_PIXELS as f64 - 1.0);
        let middle = 0.5 * (grid.n as f64 - 1.0);
        let mut values = Vec::with_capacity(WORK_PIXELS * WORK_PIXELS);
        for j in 0..WORK_PIXELS {
            let row = ((j as f64 - half) / stretch + origin_uas.1) / pixel_uas + middle;
            for i in 0..WORK_PIXELS {
                let column = ((i as f64 - half) / stretch - origin_uas.0) / pixel_uas + middle;
                values.push(linear(image, grid.n, column, row));
            }
        }
        Some(Self { values, origin_uas, stretch })
    }

    /// Column and row of a point (East, North) relative to the grid's centre.
    fn place(east: f64, north: f64) -> (f64, f64) {
        let half = 0.5 * (WORK_PIXELS as f64 - 1.0);
        (half - east, half + north)
    }
}

/// Bilinear interpolation, zero outside.
fn linear(image: &[f64], n: usize, column: f64, row: f64) -> f64 {
    let (i, j) = (column.floor(), row.floor());
    let (s, t) = (column - i, row - j);
    let at = |i: f64, j: f64| {
        if i < 0.0 || j < 0.0 || i >= n as f64 || j >= n as f64 { 0.0 } else { image[j as usize * n + i as usize] }
    };
    (1.0 - t) * ((1.0 - s) * at(i, j) + s * at(i + 1.0, j)) + t * ((1.0 - s) * at(i, j + 1.0) + s * at(i + 1.0, j + 1.0))
}

/// Cubic convolution (Keys 1981, a = -1/2), zero outside.
fn cubic(image: &[f64], n: usize, column: f64, row: f64) -> f64 {
    let (i, j) = (column.floor(), row.floor());
    let weights = |t: f64| {
        let (t2, t3) = (t * t, t * t * t);
        [-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, -0.5 * t2 + 0.5 * t3]
    };
    let (wx, wy) = (weights(column - i), weights(row - j));
    let (i, j) = (i as i64 - 1, j as i64 - 1);
    let mut sum = 0.0;
    for (b, wy) in wy.iter().enumerate() {
        let y = j + b as i64;
        if y < 0 || y >= n as i64 {
            continue;
        }
        for (a, wx) in wx.iter().enumerate() {
            let x = i + a as i64;
            if x >= 0 && x < n as i64 {
                sum += wx * wy * image[y as usize * n + x as usize];
            }
        }
    }
    sum
}

/// Radius and height of a profile's peak, refined by a parabola through three points.
fn peak_of(profile: &[f64], step: f64) -> (f64, f64) {
    let k = profile.iter().enumerate().fold(0, |best, (k, v)| if *v > profile[best] { k } else { best });
    let (radius, value) = (k as f64 * step, profile[k]);
    if k == 0 || k + 1 == profile.len() {
        return (radius, value);
    }
    let (left, right) = (profile[k - 1], profile[k + 1]);
    let curvature = left + right - 2.0 * value;
    if curvature >= 0.0 {
        return (radius, value);
    }
    (radius + 0.5 * step * (left - right) / curvature, value - (left - right).powi(2) / (8.0 * curvature))
}

fn mean_std(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

/// Angle of ray k out of `count`: from 0 to a full turn inclusive, as REx has it.
fn ray_angle(k: usize, count: usize) -> f64 {
    TAU * k as f64 / (count - 1) as f64
}

/// The centre (East, North of the work grid's centre) from which the diameter scatters least, by a coarse search and Nelder and Mead's
/// simplex. None when no trial centre gives a diameter within the limits.
fn find_centre(search: &Work, options: &RingOptions) -> Option<(f64, f64)> {
    let step = options.radius_uas / (SEARCH_RADII - 1) as f64;
    let directions: Vec<(f64, f64)> = (0..SEARCH_RAYS).map(|k| ray_angle(k, SEARCH_RAYS).sin_cos()).collect();
    let scatter = |(east, north): (f64, f64)| {
        let mut profile = [0.0; SEARCH_RADII];
        let diameters: Vec<f64> = directions
            .iter()
            .map(|(s, c)| {
                for (k, v) in profile.iter_mut().enumerate() {
                    let r = k as f64 * step;
                    let (column, row) = Work::place(east + r * s, north + r * c);
                    *v = linear(&search.values, WORK_PIXELS, column, row);
                }
                2.0 * peak_of(&profile, step).0.abs()
            })
            .collect();
        let (mean, std) = mean_std(&diameters);
        if mean < options.diameter_uas.0 || mean > options.diameter_uas.1 { f64::INFINITY } else { std / mean }
    };
    let points = options.search_points.max(2);
    let trial = |k: usize| options.search_uas * (2.0 * k as f64 / (points - 1) as f64 - 1.0);
    let mut best = (f64::INFINITY, (0.0, 0.0));
    for j in 0..points {
        for i in 0..points {
            let centre = (trial(i), trial(j));
            let value = scatter(centre);
            if value < best.0 {
                best = (value, centre);
            }
        }
    }
    best.0.is_finite().then(|| simplex(scatter, best.1, trial(1) - trial(0)))
}

/// Nelder and Mead's downhill simplex in two dimensions.
fn simplex(f: impl Fn((f64, f64)) -> f64, start: (f64, f64), size: f64) -> (f64, f64) {
    let mut corners = [start, (start.0 + size, start.1), (start.0, start.1 + size)].map(|p| (f(p), p));
    for _ in 0..80 {
        corners.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [best, middle, worst] = corners;
        let extent = (worst.1.0 - best.1.0).hypot(worst.1.1 - best.1.1).max((middle.1.0 - best.1.0).hypot(middle.1.1 - best.1.1));
        if extent < 1e-3 {
            break;
        }
        let centroid = (0.5 * (best.1.0 + middle.1.0), 0.5 * (best.1.1 + middle.1.1));
        let along = |t: f64| (centroid.0 + t * (worst.1.0 - centroid.0), centroid.1 + t * (worst.1.1 - centroid.1));
        let tried = |t: f64| (f(along(t)), along(t));
        let reflected = tried(-1.0);
        corners[2] = if reflected.0 < best.0 {
            let expanded = tried(-2.0);
            if expanded.0 < reflected.0 { expanded } else { reflected }
        } else if reflected.0 < middle.0 {
            reflected
        } else {
            let contracted = if reflected.0 < worst.0 { tried(-0.5) } else { tried(0.5) };
            if contracted.0 < worst.0.min(reflected.0) {
                contracted
            } else {
                for corner in &mut corners[1..] {
                    let p = (0.5 * (corner.1.0 + best.1.0), 0.5 * (corner.1.1 + best.1.1));
                    *corner = (f(p), p);
                }
                corners[2]
            }
        };
    }
    corners.sort_by(|a, b| a.0.total_cmp(&b.0));
    corners[0].1
}

/// The half-maximum crossings nearest to the peak on either side; the ends of the ray where there is none.
fn half_maximum(profile: &[f64], step: f64) -> (f64, f64) {
    let (radius, value) = peak_of(profile, step);
    let (mut low, mut high) = (0.0, (profile.len() - 1) as f64 * step);
    for k in 0..profile.len() - 1 {
        let (a, b) = (profile[k] - 0.5 * value, profile[k + 1] - 0.5 * value);
        if a == b || a * b > 0.0 {
            continue;
        }
        let crossing = (k as f64 + a / (a - b)) * step;
        if crossing < radius {
            low = crossing;
        } else {
            high = crossing;
            break;
        }
    }
    (low, high)
}

fn profile_features(work: &Work, centre: (f64, f64), options: &RingOptions) -> Option<RingFeatures> {
    let step = options.radius_uas / (RADII - 1) as f64;
    let angles: Vec<f64> = (0..RAYS).map(|k| ray_angle(k, RAYS)).collect();
    let profiles: Vec<Vec<f64>> = angles
        .iter()
        .map(|angle| {
            let (s, c) = angle.sin_cos();
            (0..RADII)
                .map(|k| {
                    let r = k as f64 * step;
                    let (column, row) = Work::place(centre.0 + r * s, centre.1 + r * c);
                    cubic(&work.values, WORK_PIXELS, column, row)
                })
                .collect()
        })
        .collect();
    let diameters: Vec<f64> = profiles.iter().map(|p| 2.0 * peak_of(p, step).0.abs()).collect();
    let (diameter, diameter_std) = mean_std(&diameters);
    let mean: Vec<f64> = (0..RADII).map(|k| profiles.iter().map(|p| p[k]).sum::<f64>() / RAYS as f64).collect();
    let peak = mean.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
    if !(peak > 0.0 && diameter > 0.0) {
        return None;
    }
    let nearest = |r: f64| ((r / step).round() as usize).min(RADII - 1);
    let inner = nearest(ZONE_UAS).max(1);
    let central = mean[..inner].iter().sum::<f64>() / inner as f64 / peak;
    let outer = nearest(options.radius_uas - ZONE_UAS);
    let level = mean[outer..].iter().sum::<f64>() / (RADII - outer) as f64;
    let zeroed: Vec<f64> = mean.iter().map(|v| v - level).collect();
    let (low, high) = half_maximum(&zeroed, step);
    let mean_width = high - low;
    let widths: Vec<f64> = profiles
        .iter()
        .map(|p| half_maximum(p, step))
        .map(|(low, high)| high - low)
        .filter(|w| *w > 0.0 && *w < 2.0 * mean_width)
        .collect();
    let (width, width_std) = if widths.is_empty() { (mean_width, 0.0) } else { mean_std(&widths) };
    let (mut directions, mut asymmetries) = (Vec::new(), Vec::new());
    for k in nearest(low)..=nearest(high) {
        let (mut re, mut im, mut sum) = (0.0, 0.0, 0.0);
        for (profile, angle) in profiles.iter().zip(&angles) {
            re += profile[k] * angle.cos();
            im += profile[k] * angle.sin();
            sum += profile[k];
        }
        if sum > 0.0 {
            directions.push(im.atan2(re));
            asymmetries.push(re.hypot(im) / sum);
        }
    }
    if asymmetries.is_empty() {
        return None;
    }
    let (asymmetry, asymmetry_std) = mean_std(&asymmetries);
    let count = directions.len() as f64;
    let (re, im) = directions.iter().fold((0.0, 0.0), |(re, im), d| (re + d.cos() / count, im + d.sin() / count));
    let spread = (-2.0 * re.hypot(im).clamp(1e-12, 1.0).ln()).max(0.0).sqrt();
    Some(RingFeatures {
        east_uas: work.origin_uas.0 + centre.0 / work.stretch,
        north_uas: work.origin_uas.1 + centre.1 / work.stretch,
        diameter_uas: diameter,
        diameter_std_uas: diameter_std,
        corrected_diameter_uas: diameter + width * width / (4.0 * 2f64.ln() * diameter),
        width_uas: width,
        width_std_uas: width_std,
        position_angle_deg: im.atan2(re).rem_euclid(TAU) * 180.0 / PI,
        position_angle_std_deg: spread * 180.0 / PI,
        asymmetry,
        asymmetry_std,
        central_brightness: central,
        bright_rays: 0.0,
    })
}

/// Share of rays from the centre on which the blurred image peaks away from both ends, with enough of the image's peak.
fn bright_rays(grid: &ImageGrid, blurred: &[f64], centre_uas: (f64, f64), options: &RingOptions) -> f64 {
    let peak = blurred.iter().fold(0.0, |m: f64, v| m.max(*v));
    let pixel_uas = grid.pixel_rad() / MICROARCSECOND_RAD;
    let middle = 0.5 * (grid.n as f64 - 1.0);
    let step = options.radius_uas / (RADII - 1) as f64;
    let bright = (0..GATE_RAY_COUNT).filter(|k| {
        let (s, c) = (TAU * *k as f64 / GATE_RAY_COUNT as f64).sin_cos();
        let profile: Vec<f64> = (0..RADII)
            .map(|k| {
                let r = k as f64 * step;
                let column = middle - (centre_uas.0 + r * s) / pixel_uas;
                let row = middle + (centre_uas.1 + r * c) / pixel_uas;
                cubic(blurred, grid.n, column, row)
            })
            .collect();
        let (radius, value) = peak_of(&profile, step);
        radius > 1.5 * step && radius < options.radius_uas - 1.5 * step && value >= GATE_RAY_PEAK * peak
    });
    bright.count() as f64 / GATE_RAY_COUNT as f64
}
