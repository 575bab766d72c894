//! Sky images as FITS files, in the conventions of the EHT's image files.

use crate::fits::{BLOCK, CardWriter, FitsFile, Hdu};
use crate::{Error, Result, write_whole};
use ndarray::{Array2, Axis};
use std::path::Path;

/// An image of the sky. Row 0 is South and column 0 is East, as in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct SkyImage {
    /// (y, x) in `unit`.
    pub pixels: Array2<f64>,
    /// Unit of the pixels: `JY/PIXEL` for what [`read_fits_image`] returns.
    pub unit: String,
    /// Width and height of a pixel in radians, both positive.
    pub pixel_rad: (f64, f64),
    /// Where the image's centre lies seen from the reference position: East and North, in radians (zero where CRPIX is the centre).
    pub centre_rad: (f64, f64),
    /// Right ascension of the reference position in degrees.
    pub ra_deg: Option<f64>,
    /// Declination of the reference position in degrees.
    pub dec_deg: Option<f64>,
    /// Observing frequency in hertz.
    pub frequency_hz: Option<f64>,
    /// Modified Julian date (UTC).
    pub mjd: Option<f64>,
    /// Name of the source.
    pub object: Option<String>,
}

impl SkyImage {
    /// An image in Jy/pixel about which only the pixel size is known.
    pub fn new(pixels: Array2<f64>, pixel_rad: f64) -> Self {
        Self {
            pixels,
            unit: "JY/PIXEL".into(),
            pixel_rad: (pixel_rad, pixel_rad),
            centre_rad: (0.0, 0.0),
            ra_deg: None,
            dec_deg: None,
            frequency_hz: None,
            mjd: None,
            object: None,
        }
    }

    /// Sum of all pixels, in Jy for an image in Jy/pixel.
    pub fn total(&self) -> f64 {
        self.pixels.sum()
    }

    /// Width and height of the field in radians.
    pub fn fov_rad(&self) -> (f64, f64) {
        (self.pixel_rad.0 * self.pixels.ncols() as f64, self.pixel_rad.1 * self.pixels.nrows() as f64)
    }
}

/// Reads the first image of a FITS file in Jy/pixel, with square pixels and North up: two axes, or more of which all but the first
/// two have length 1.
///
/// The unit must be Jy/pixel or Jy/sr (converted). An image whose columns run from West to East or rows from North to South is
/// turned over. CRPIX defaults to the centre.
///
/// # Errors
/// Not a FITS file, truncated, no image in it (a UVFITS file, for example), a cube, a compressed image, another unit (Jy/beam, Kelvin),
/// no WCS, rotated or non-square pixels, or pixels that are not finite.
pub fn read_fits_image(path: &Path) -> Result<SkyImage> {
    let (hdu, mut pixels) = read_plane(path)?;
    let (place, (ny, nx)) = (hdu.place(), pixels.dim());
    let wcs = Wcs::read(path, &hdu)?;
    let scale = unit_scale(path, &hdu, &wcs)?;
    if let Some(i) = pixels.iter().position(|v| !v.is_finite()) {
        let bad = pixels.iter().filter(|v| !v.is_finite()).count();
        return Err(Error::content(
            path,
            place,
            format!(
                "{bad} of {} pixels are not finite, the first in column {}, row {} (counted from 1); replace them by zeros or cut the image",
                nx * ny,
                i % nx + 1,
                i / nx + 1
            ),
        ));
    }
    pixels *= scale;
    if wcs.delta_x_rad > 0.0 {
        pixels.invert_axis(Axis(1));
    }
    if wcs.delta_y_rad < 0.0 {
        pixels.invert_axis(Axis(0));
    }
    let header = &hdu.header;
    let axis = |name: &str| (1..=hdu.axes.len()).find(|i| header.text(&format!("CTYPE{i}")).is_some_and(|t| t.starts_with(name)));
    let value = |name: &str| axis(name).and_then(|i| header.number(&format!("CRVAL{i}")));
    Ok(SkyImage {
        pixels: pixels.as_standard_layout().into_owned(),
        unit: "JY/PIXEL".into(),
        pixel_rad: (wcs.delta_x_rad.abs(), wcs.delta_y_rad.abs()),
        centre_rad: wcs.centre_rad(nx, ny),
        ra_deg: header.number("OBSRA").or_else(|| value("RA")),
        dec_deg: header.number("OBSDEC").or_else(|| value("DEC")),
        frequency_hz: header.number("FREQ").or_else(|| header.number("RESTFRQ")).or_else(|| value("FREQ")),
        mjd: header.number("MJD").or_else(|| header.number("MJD-OBS")),
        object: header.text("OBJECT").filter(|t| !t.is_empty()).map(str::to_string),
    })
}

/// The first image of a FITS file, in the values and the order of the file.
///
/// # Errors
/// As [`find_fits_image`], and for a cube.
pub(crate) fn read_plane(path: &Path) -> Result<(Hdu, Array2<f64>)> {
    let mut file = FitsFile::open(path)?;
    let hdu = find_fits_image(&file)?.clone();
    let place = hdu.place();
    let (nx, ny) = (hdu.axes[0] as usize, hdu.axes[1] as usize);
    if let Some(i) = hdu.axes.iter().skip(2).position(|n| *n != 1) {
        let i = i + 2;
        let what = hdu.header.text(&format!("CTYPE{}", i + 1)).unwrap_or("unnamed");
        return Err(Error::content(
            path,
            place,
            format!(
                "is a cube: NAXIS{} = {} ({what}), expected one plane; write the plane you want to a file of its own",
                i + 1,
                hdu.axes[i]
            ),
        ));
    }
    let pixels = decode(path, &hdu, &file.data(hdu.number)?, nx, ny)?;
    Ok((hdu, pixels))
}

/// The HDU that [`read_fits_image`] reads, whatever its unit, its WCS and further axes are.
///
/// # Errors
/// Visibilities, a compressed image, fewer than 2 x 2 pixels, or no image at all.
pub fn find_fits_image(file: &FitsFile) -> Result<&Hdu> {
    let path = file.path();
    for hdu in file.hdus() {
        if hdu.header.is_true("GROUPS") && hdu.axes.first() == Some(&0) {
            return Err(Error::content(path, hdu.place(), "holds visibilities (random groups, UVFITS), expected an image"));
        }
        if hdu.header.is_true("ZIMAGE") {
            return Err(Error::content(path, hdu.place(), "is a tile-compressed image; decompress it first (funpack)"));
        }
        let image = hdu.number == 0 || hdu.header.text("XTENSION") == Some("IMAGE");
        if image && hdu.axes.len() >= 2 {
            if hdu.axes[0] < 2 || hdu.axes[1] < 2 || hdu.axes[0] > 1 << 20 || hdu.axes[1] > 1 << 20 {
                return Err(Error::content(
                    path,
                    hdu.place(),
                    format!("axes {:?}, expected an image of at least 2 x 2 pixels first", hdu.axes),
                ));
            }
            return Ok(hdu);
        }
    }
    Err(Error::content(path, "file", format!("holds no image in its {} HDU(s), expected one with two axes", file.hdus().len())))
}

struct Wcs {
    delta_x_rad: f64,
    delta_y_rad: f64,
    reference: (f64, f64),
}

impl Wcs {
    fn read(path: &Path, hdu: &Hdu) -> Result<Self> {
        let (header, place) = (&hdu.header, hdu.place());
        let reference = (
            header.number("CRPIX1").unwrap_or((hdu.axes[0] as f64 + 1.0) / 2.0),
            header.number("CRPIX2").unwrap_or((hdu.axes[1] as f64 + 1.0) / 2.0),
        );
        let wrong = |problem: String| Err(Error::content(path, place.clone(), problem));
        for (key, equatorial, galactic, expected) in [("CTYPE1", "RA", "GLON", "RA---SIN"), ("CTYPE2", "DEC", "GLAT", "DEC--SIN")] {
            let found = header.text(key).unwrap_or("(missing)");
            if !found.starts_with(equatorial) && !found.starts_with(galactic) {
                return wrong(format!(
                    "{key} = {found}, expected {expected}; write the WCS into the header, with the pixel size in degrees in CDELT1 and CDELT2"
                ));
            }
        }
        let skewed = ["CROTA1", "CROTA2", "CD1_2", "CD2_1", "PC1_2", "PC2_1"]
            .into_iter()
            .find(|k| header.number(k).is_some_and(|v| v != 0.0));
        if let Some(key) = skewed {
            return wrong(format!(
                "{key} = {}: the image is rotated, expected North up; resample it first",
                header.number(key).unwrap_or_default()
            ));
        }
        let mut delta = [0.0; 2];
        for (i, out) in (1..=2).zip(&mut delta) {
            let unit = match header.text(&format!("CUNIT{i}")).unwrap_or("deg").to_ascii_lowercase().as_str() {
                "deg" | "degree" | "degrees" | "" => std::f64::consts::PI / 180.0,
                "rad" => 1.0,
                "arcmin" => std::f64::consts::PI / 10_800.0,
                "arcsec" => std::f64::consts::PI / 648_000.0,
                "mas" => std::f64::consts::PI / 648e6,
                "uas" => std::f64::consts::PI / 648e9,
                other => return wrong(format!("CUNIT{i} = {other}, expected deg")),
            };
            let value = header.number(&format!("CDELT{i}")).map(|d| d * header.number(&format!("PC{i}_{i}")).unwrap_or(1.0));
            match value.or_else(|| header.number(&format!("CD{i}_{i}"))) {
                Some(v) if v != 0.0 && v.is_finite() && (v * unit).abs() < 0.1 => *out = v * unit,
                Some(v) => {
                    return wrong(format!(
                        "CDELT{i} = {v} is no pixel size; expected less than 0.1 rad and not 0, in degrees or the unit in CUNIT{i}: correct the header"
                    ));
                }
                None => return wrong(format!("CDELT{i} is missing; expected the pixel size in degrees: write it into the header")),
            }
        }
        if (delta[0].abs() / delta[1].abs() - 1.0).abs() > 1e-6 {
            return wrong(format!(
                "pixels are not square: {:e} x {:e} rad; resample the image first",
                delta[0].abs(),
                delta[1].abs()
            ));
        }
        Ok(Self { delta_x_rad: delta[0], delta_y_rad: delta[1], reference })
    }

    /// East and North offset of the middle of the image; turning an axis over leaves the middle where it is.
    fn centre_rad(&self, nx: usize, ny: usize) -> (f64, f64) {
        (
            ((nx as f64 + 1.0) / 2.0 - self.reference.0) * self.delta_x_rad,
            ((ny as f64 + 1.0) / 2.0 - self.reference.1) * self.delta_y_rad,
        )
    }
}

/// The factor that turns the file's pixels into Jy/pixel.
fn unit_scale(path: &Path, hdu: &Hdu, wcs: &Wcs) -> Result<f64> {
    let header = &hdu.header;
    let wrong = |problem: String| Err(Error::content(path, hdu.place(), problem));
    let area_sr = wcs.delta_x_rad.abs() * wcs.delta_y_rad.abs();
    let found = header.text("BUNIT").unwrap_or("");
    let unit: String = found.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    match unit.as_str() {
        "jy/pixel" | "jy/pix" | "jypixel-1" | "jypix-1" | "jy.pixel-1" => Ok(1.0),
        "jy/sr" | "jysr-1" | "jy.sr-1" => Ok(area_sr),
        "jy/beam" | "jybeam-1" | "jy.beam-1" | "beam-1jy" => {
            wrong("BUNIT = JY/BEAM, expected JY/PIXEL: a restored image is blurred by its beam and has another scale; give the model image, which is in JY/PIXEL".into())
        }
        "" => wrong("BUNIT is missing, expected JY/PIXEL or JY/SR; write the unit of the pixels into the header".into()),
        _ => wrong(format!("BUNIT = {found}, expected JY/PIXEL or JY/SR; convert the image, or correct the header where it is wrong")),
    }
}

fn decode(path: &Path, hdu: &Hdu, bytes: &[u8], nx: usize, ny: usize) -> Result<Array2<f64>> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect()
    }
    let mut values = match hdu.bitpix {
        8 => each(bytes, |b: [u8; 1]| b[0] as f64),
        16 => each(bytes, |b| i16::from_be_bytes(b) as f64),
        32 => each(bytes, |b| i32::from_be_bytes(b) as f64),
        64 => each(bytes, |b| i64::from_be_bytes(b) as f64),
        -32 => each(bytes, |b| f32::from_be_bytes(b) as f64),
        _ => each(bytes, f64::from_be_bytes),
    };
    let (scale, zero) = (hdu.header.number("BSCALE").unwrap_or(1.0), hdu.header.number("BZERO").unwrap_or(0.0));
    let blank = hdu.header.number("BLANK").filter(|_| hdu.bitpix > 0);
    if scale != 1.0 || zero != 0.0 || blank.is_some() {
        for v in &mut values {
            *v = if Some(*v) == blank { f64::NAN } else { *v * scale + zero };
        }
    }
    values.truncate(nx * ny);
    Array2::from_shape_vec((ny, nx), values)
        .map_err(|e| Error::content(path, hdu.place(), format!("the data do not fill {nx} x {ny} pixels ({e})")))
}

/// Writes a sky image, whole or not at all: RA---SIN/DEC--SIN, CDELT in degrees (negative in x), CRPIX at the reference position,
/// 64-bit reals, and one HISTORY line for each of `history`.
///
/// # Errors
/// The image is empty, its pixel size is no positive number, or the file cannot be written.
pub fn write_fits_image(path: &Path, image: &SkyImage, history: &[String]) -> Result<()> {
    let (ny, nx) = image.pixels.dim();
    let (dx, dy) = image.pixel_rad;
    if nx == 0 || ny == 0 || !(dx > 0.0 && dy > 0.0 && dx.is_finite() && dy.is_finite()) {
        return Err(Error::content(
            path,
            "image",
            format!("{nx} x {ny} pixels of {dx:e} x {dy:e} rad, expected at least one pixel of positive size"),
        ));
    }
    let mut header = CardWriter::default();
    header.logical("SIMPLE", true, "FITS standard");
    header.integer("BITPIX", -64, "64-bit reals");
    header.integer("NAXIS", 2, "");
    header.integer("NAXIS1", nx as i64, "column 1 is East");
    header.integer("NAXIS2", ny as i64, "row 1 is South");
    header.text("BUNIT", &image.unit, "");
    if let Some(object) = &image.object {
        header.text("OBJECT", object, "");
    }
    let reference = [(nx as f64 + 1.0) / 2.0 + image.centre_rad.0 / dx, (ny as f64 + 1.0) / 2.0 - image.centre_rad.1 / dy];
    let axes = [("1", "RA---SIN", -dx, reference[0], image.ra_deg), ("2", "DEC--SIN", dy, reference[1], image.dec_deg)];
    for (i, kind, delta, reference, value) in axes {
        header.text(&format!("CTYPE{i}"), kind, "");
        header.text(&format!("CUNIT{i}"), "deg", "");
        header.real(&format!("CDELT{i}"), delta.to_degrees(), "pixel size [deg]");
        header.real(&format!("CRPIX{i}"), reference, "");
        if let Some(value) = value.filter(|v| v.is_finite()) {
            header.real(&format!("CRVAL{i}"), value, "[deg]");
        }
    }
    header.text("RADESYS", "ICRS", "");
    let known = [
        ("OBSRA", image.ra_deg, "[deg]"),
        ("OBSDEC", image.dec_deg, "[deg]"),
        ("FREQ", image.frequency_hz, "[Hz]"),
        ("MJD", image.mjd, "[d] UTC"),
    ];
    for (key, value, comment) in known {
        if let Some(value) = value.filter(|v| v.is_finite()) {
            header.real(key, value, comment);
        }
    }
    header.text("STOKES", "I", "");
    header.text("ORIGIN", "halation", "");
    for line in history {
        header.history(line);
    }
    let mut bytes = header.finish();
    bytes.reserve(image.pixels.len() * 8 + BLOCK as usize);
    for row in image.pixels.rows() {
        bytes.extend(row.iter().flat_map(|v| v.to_be_bytes()));
    }
    bytes.resize(bytes.len().div_ceil(BLOCK as usize) * BLOCK as usize, 0);
    write_whole(path, &bytes)
}

#[cfg(test)]
#[path = "sky_tests.rs"]
mod tests;
