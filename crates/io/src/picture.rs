//! Pictures as PNG, colour maps, contact sheets.

use crate::{Error, Result, write_whole};
use ndarray::ArrayView2;
use std::path::Path;

/// A picture of 8-bit sRGB pixels, top row first.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// Takes `rgb`, three bytes a pixel, top row first; none when the length is not 3 * width * height.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == 3 * width * height).then_some(Self { width, height, rgb })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Three bytes a pixel, top row first.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The colour of the pixel in column `x`, row `y` from the top; none outside.
    pub fn get(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        let i = 3 * (y * self.width + x);
        (x < self.width && y < self.height).then(|| [self.rgb[i], self.rgb[i + 1], self.rgb[i + 2]])
    }

    /// Sets a pixel; outside the picture nothing happens.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let i = 3 * (y * self.width + x);
            self.rgb[i..i + 3].copy_from_slice(&colour);
        }
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// The picture has no pixels or more than 2^31 of them; the message names `path`.
    pub fn to_png(&self, path: &Path) -> Result<Vec<u8>> {
        let fail = |e: png::EncodingError| Error::content(path, "picture", format!("{} x {} pixels: {e}", self.width, self.height));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&self.rgb).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(bytes)
    }

    /// Writes a PNG file, whole or not at all.
    ///
    /// # Errors
    /// The picture has no pixels, or the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_png(path)?)
    }
}

/// A colour map whose lightness rises evenly from black, so that equal steps of the value look like equal steps.
///
/// Both are curves in Oklab (Ottosson 2020, "A perceptual color space for image processing"): CIE lightness runs linearly and
/// the hue turns with it, chroma is cut to what sRGB can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Black, red, orange, pale yellow: for brightness.
    Ember,
    /// Black, blue, teal, pale green: for uncertainty.
    Ice,
    /// Black to white.
    Gray,
}

impl Colours {
    /// The 256 colours of the map.
    pub fn table(self) -> [[u8; 3]; 256] {
        std::array::from_fn(|i| self.at(i as f64 / 255.0))
    }

    fn at(self, t: f64) -> [u8; 3] {
        // CIE L* runs linearly; Oklab's lightness is the cube root of the luminance that belongs to it.
        let l_star = if self == Colours::Gray { 100.0 * t } else { 1.0 + 96.0 * t };
        let luminance = if l_star > 8.0 { ((l_star + 16.0) / 116.0f64).powi(3) } else { l_star / 903.3 };
        let lightness = luminance.cbrt();
        let (chroma, hue_deg) = match self {
            Colours::Ember => (0.62 * (t * (1.08 - t)).max(0.0).powf(0.8), 15.0 + 90.0 * t.powf(1.3)),
            Colours::Ice => (0.42 * (t * (1.08 - t)).max(0.0).powf(0.8), 285.0 - 135.0 * t),
            Colours::Gray => (0.0, 0.0),
        };
        // The largest chroma up to the wanted one that sRGB can show, by bisection.
        let (mut low, mut high) = (0.0, chroma);
        if oklch_to_srgb(lightness, chroma, hue_deg).is_some() {
            low = chroma;
        } else {
            for _ in 0..20 {
                let middle = 0.5 * (low + high);
                if oklch_to_srgb(lightness, middle, hue_deg).is_some() { low = middle } else { high = middle }
            }
        }
        let rgb = oklch_to_srgb(lightness, low, hue_deg).unwrap_or([lightness; 3]);
        rgb.map(|v| (255.0 * v).round().clamp(0.0, 255.0) as u8)
    }
}

/// sRGB in [0, 1] of an Oklab colour in polar form; none outside the gamut.
fn oklch_to_srgb(lightness: f64, chroma: f64, hue_deg: f64) -> Option<[f64; 3]> {
    let (b, a) = hue_deg.to_radians().sin_cos();
    let (a, b) = (chroma * a, chroma * b);
    let l = (lightness + 0.3963377774 * a + 0.2158037573 * b).powi(3);
    let m = (lightness - 0.1055613458 * a - 0.0638541728 * b).powi(3);
    let s = (lightness - 0.0894841775 * a - 1.2914855480 * b).powi(3);
    let linear = [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
    ];
    let gamma = |v: f64| if v <= 0.0031308 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    linear.iter().all(|v| (-1e-4..=1.0 + 1e-4).contains(v)).then(|| linear.map(|v| gamma(v.clamp(0.0, 1.0))))
}

/// Images side by side, row after row, with thin gaps: what a prior's samples look like at a glance.
///
/// Image rows run upwards (row 0 is drawn at the bottom), each image is scaled to its own largest value unless `range` (black, white)
/// is given, and pixels are drawn `zoom` times. No images give an empty picture of one gap.
pub fn contact_sheet(
    images: &[ArrayView2<f32>],
    columns: usize,
    zoom: usize,
    range: Option<(f32, f32)>,
    colours: Colours,
) -> Picture {
    const GAP: usize = 2;
    let (columns, zoom, table) = (columns.max(1), zoom.max(1), colours.table());
    let (rows_px, columns_px) = images.iter().fold((0, 0), |(h, w), i| (h.max(i.nrows()), w.max(i.ncols())));
    let (tile_w, tile_h) = (columns_px * zoom + GAP, rows_px * zoom + GAP);
    let used = columns.min(images.len());
    let mut sheet = Picture::new(used * tile_w + GAP, images.len().div_ceil(columns) * tile_h + GAP, [40; 3]);
    for (n, image) in images.iter().enumerate() {
        let (low, high) =
            range.unwrap_or_else(|| (0.0, image.iter().copied().filter(|v| v.is_finite()).fold(f32::MIN_POSITIVE, f32::max)));
        let (left, top) = (GAP + n % columns * tile_w, GAP + n / columns * tile_h);
        for ((row, column), value) in image.indexed_iter() {
            let level = ((value - low) / (high - low)).clamp(0.0, 1.0);
            let colour = if level.is_nan() { [90, 90, 160] } else { table[(255.0 * level).round() as usize] };
            let (x, y) = (left + column * zoom, top + (image.nrows() - 1 - row) * zoom);
            for (dy, dx) in (0..zoom).flat_map(|dy| (0..zoom).map(move |dx| (dy, dx))) {
                sheet.set(x + dx, y + dy, colour);
            }
        }
    }
    sheet
}

/// Writes 8-bit gray pixels, top row first, as PNG.
///
/// # Errors
/// `gray` does not hold width * height bytes, or the file cannot be written.
pub fn write_png_gray(path: &Path, width: usize, height: usize, gray: &[u8]) -> Result<()> {
    let rgb = gray.iter().flat_map(|v| [*v; 3]).collect();
    let picture = Picture::from_rgb(width, height, rgb)
        .ok_or_else(|| Error::content(path, "picture", format!("{} bytes, expected {width} x {height}", gray.len())))?;
    picture.write_png(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn lightness([r, g, b]: [u8; 3]) -> f64 {
        // CIE L* from sRGB, independent of the Oklab formulas above.
        let linear = |v: u8| {
            let v = v as f64 / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        };
        let y = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        if y > 0.008856 { 116.0 * y.cbrt() - 16.0 } else { 903.3 * y }
    }

    #[test]
    fn lightness_rises_evenly() {
        for colours in [Colours::Ember, Colours::Ice, Colours::Gray] {
            let table = colours.table();
            let steps: Vec<f64> = (0..16).map(|i| lightness(table[16 * i + 15]) - lightness(table[16 * i])).collect();
            assert!(steps.iter().all(|s| *s > 3.0 && *s < 9.5), "{colours:?}: {steps:?}");
            assert!(lightness(table[0]) < 3.0 && lightness(table[255]) > 93.0);
        }
    }

    #[test]
    fn png_holds_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut picture = Picture::new(3, 2, [1, 2, 3]);
        picture.set(2, 1, [200, 100, 50]);
        picture.set(7, 7, [0; 3]);
        picture.write_png(&path).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; 18];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.rgb());
        assert!(write_png_gray(&path, 4, 4, &[0; 3]).is_err());
        assert!(Picture::new(0, 0, [0; 3]).to_png(&path).is_err());
    }

    #[test]
    fn sheet_has_north_up_and_east_left() {
        let mut image = Array2::<f32>::zeros((4, 4));
        image[[0, 0]] = 1.0; // South-East corner: bottom left of the picture
        let flat = Array2::<f32>::from_elem((4, 4), f32::NAN);
        let sheet = contact_sheet(&[image.view(), flat.view(), image.view()], 2, 3, None, Colours::Gray);
        assert_eq!((sheet.width(), sheet.height()), (2 * 14 + 2, 2 * 14 + 2));
        assert_eq!(sheet.get(2, 2 + 11), Some([255; 3]));
        assert_eq!(sheet.get(2, 2), Some([0; 3]));
        assert_eq!(sheet.get(2 + 14, 2), Some([90, 90, 160]));
        assert_eq!(sheet.get(2, 16 + 11), Some([255; 3]));
    }
}
