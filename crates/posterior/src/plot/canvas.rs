//! Anti-aliased drawing of what plots are made of: rectangles, lines, discs, images, text. Coordinates are pixels, y downwards.

use crate::{Error, Result};
use ab_glyph::{Font, FontRef, Glyph, ScaleFont, point};
use halation_io::{Colours, Picture};
use ndarray::ArrayView2;

/// A colour with opacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ink {
    pub rgb: [u8; 3],
    pub alpha: f32,
}

impl Ink {
    pub const fn solid(r: u8, g: u8, b: u8) -> Self {
        Self { rgb: [r, g, b], alpha: 1.0 }
    }

    pub const fn alpha(self, alpha: f32) -> Self {
        Self { rgb: self.rgb, alpha }
    }
}

pub(crate) const TEXT: Ink = Ink::solid(28, 30, 36);
pub(crate) const QUIET: Ink = Ink::solid(104, 110, 122);
pub(crate) const LINE: Ink = Ink::solid(150, 156, 166);
pub(crate) const FAINT: Ink = Ink::solid(228, 231, 236);
pub(crate) const WHITE: Ink = Ink::solid(255, 255, 255);

/// A rectangle; `x`, `y` is its top left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub x: f32,
    pub y: f32,
    pub w: f32,
    pub h: f32,
}

impl Rect {
    pub fn right(&self) -> f32 {
        self.x + self.w
    }

    pub fn bottom(&self) -> f32 {
        self.y + self.h
    }
}

/// Where text stands relative to the given point, horizontally.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

/// DejaVu Sans (licence beside it), reduced to Latin, Greek and the signs of formulas: cluster nodes have no fonts of their own.
const REGULAR: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../../assets/DejaVuSans-Bold.ttf");

pub(crate) struct Canvas {
    picture: Picture,
    regular: FontRef<'static>,
    bold: FontRef<'static>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Result<Self> {
        let font = |bytes| FontRef::try_from_slice(bytes).map_err(|e| Error::shape("font", e.to_string()));
        Ok(Self { picture: Picture::new(width, height, [255; 3]), regular: font(REGULAR)?, bold: font(BOLD)? })
    }

    pub fn into_picture(self) -> Picture {
        self.picture
    }

    fn blend(&mut self, x: i64, y: i64, ink: Ink, coverage: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        let a = (ink.alpha * coverage).clamp(0.0, 1.0);
        if a > 0.0
            && let Some(old) = self.picture.get(x, y)
        {
            let mixed = std::array::from_fn(|i| (old[i] as f32 * (1.0 - a) + ink.rgb[i] as f32 * a).round() as u8);
            self.picture.set(x, y, mixed);
        }
    }

    /// Covers every pixel near `bounds` with what `coverage` says of its centre.
    fn shade(&mut self, bounds: Rect, ink: Ink, coverage: impl Fn(f32, f32) -> f32) {
        if ![bounds.x, bounds.y, bounds.w, bounds.h].iter().all(|v| v.is_finite()) {
            return;
        }
        let (width, height) = (self.picture.width() as f32, self.picture.height() as f32);
        let (x0, x1) = (bounds.x.floor().clamp(0.0, width) as i64, bounds.right().ceil().clamp(0.0, width) as i64);
        let (y0, y1) = (bounds.y.floor().clamp(0.0, height) as i64, bounds.bottom().ceil().clamp(0.0, height) as i64);
        for y in y0..y1 {
            for x in x0..x1 {
                self.blend(x, y, ink, coverage(x as f32 + 0.5, y as f32 + 0.5));
            }
        }
    }

    pub fn fill(&mut self, r: Rect, ink: Ink) {
        let overlap = |c: f32, low: f32, high: f32| (high.min(c + 0.5) - low.max(c - 0.5)).clamp(0.0, 1.0);
        self.shade(r, ink, |x, y| overlap(x, r.x, r.right()) * overlap(y, r.y, r.bottom()));
    }

    pub fn frame(&mut self, r: Rect, width: f32, ink: Ink) {
        let h = width / 2.0;
        let full = |x, y, w, h| Rect { x, y, w, h };
        self.fill(full(r.x - h, r.y - h, r.w + width, width), ink);
        self.fill(full(r.x - h, r.bottom() - h, r.w + width, width), ink);
        self.fill(full(r.x - h, r.y + h, width, r.h - width), ink);
        self.fill(full(r.right() - h, r.y + h, width, r.h - width), ink);
    }

    pub fn disc(&mut self, x: f32, y: f32, radius: f32, ink: Ink) {
        let reach = radius + 1.0;
        let bounds = Rect { x: x - reach, y: y - reach, w: 2.0 * reach, h: 2.0 * reach };
        self.shade(bounds, ink, |px, py| (radius + 0.5 - (px - x).hypot(py - y)).clamp(0.0, 1.0));
    }

    pub fn line(&mut self, from: (f32, f32), to: (f32, f32), width: f32, ink: Ink) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length2 = (dx * dx + dy * dy).max(1e-12);
        let reach = width / 2.0 + 1.0;
        let (x0, y0) = (from.0.min(to.0) - reach, from.1.min(to.1) - reach);
        let bounds = Rect { x: x0, y: y0, w: dx.abs() + 2.0 * reach, h: dy.abs() + 2.0 * reach };
        self.shade(bounds, ink, |x, y| {
            let t = (((x - from.0) * dx + (y - from.1) * dy) / length2).clamp(0.0, 1.0);
            let distance = (x - from.0 - t * dx).hypot(y - from.1 - t * dy);
            (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0)
        });
    }

    /// A line with a head at `to`.
    pub fn arrow(&mut self, from: (f32, f32), to: (f32, f32), width: f32, ink: Ink) {
        self.line(from, to, width, ink);
        let length = (to.0 - from.0).hypot(to.1 - from.1).max(1e-6);
        let (ux, uy) = ((to.0 - from.0) / length, (to.1 - from.1) / length);
        let head = (3.2 * width).max(0.28 * length);
        for side in [0.5, -0.5] {
            self.line(to, (to.0 - head * (ux + side * uy), to.1 - head * (uy - side * ux)), width, ink);
        }
    }

    /// An image into `r`, row 0 at the bottom: interpolated between pixel centres from 32 x 32 pixels upwards, as squares below.
    pub fn image(&mut self, r: Rect, image: &ArrayView2<f64>, range: (f64, f64), colours: Colours) {
        let table = colours.table();
        let (ny, nx) = image.dim();
        let (w, h) = (r.w.round() as usize, r.h.round() as usize);
        let smooth = nx >= 32 && ny >= 32;
        // Pixel below (or at) the position, the next one, and the weight of the next.
        let place = |i: usize, shown: usize, n: usize| {
            let at = (i as f64 + 0.5) / shown as f64 * n as f64;
            if !smooth {
                let k = (at as usize).min(n - 1);
                return (k, k, 0.0);
            }
            let at = (at - 0.5).clamp(0.0, (n - 1) as f64);
            (at as usize, (at as usize + 1).min(n - 1), at.fract())
        };
        let columns: Vec<_> = (0..w).map(|i| place(i, w, nx)).collect();
        for py in 0..h {
            let (y0, y1, wy) = place(h - 1 - py, h, ny);
            for (px, (x0, x1, wx)) in columns.iter().copied().enumerate() {
                let along = |y: usize| if wx == 0.0 { image[[y, x0]] } else { (1.0 - wx) * image[[y, x0]] + wx * image[[y, x1]] };
                let value = if wy == 0.0 { along(y0) } else { (1.0 - wy) * along(y0) + wy * along(y1) };
                // A range of one value is that of a constant image, and its darkest colour.
                let span = if range.1 > range.0 { range.1 - range.0 } else { f64::INFINITY };
                let level = ((value - range.0) / span).clamp(0.0, 1.0);
                let colour = if level.is_nan() { [70, 74, 84] } else { table[(255.0 * level).round() as usize] };
                self.picture.set(r.x.round() as usize + px, r.y.round() as usize + py, colour);
            }
        }
    }

    /// A colour map from bottom to top.
    pub fn colour_strip(&mut self, r: Rect, colours: Colours) {
        let table = colours.table();
        let h = r.h.round() as usize;
        for py in 0..h {
            let colour = table[255 - (255 * py) / h.max(2).saturating_sub(1).max(1)];
            for px in 0..r.w.round() as usize {
                self.picture.set(r.x.round() as usize + px, r.y.round() as usize + py, colour);
            }
        }
    }

    fn layout(&self, text: &str, size: f32, bold: bool) -> (Vec<Glyph>, f32) {
        // `size` is the height of the em square.
        let font = if bold { &self.bold } else { &self.regular };
        let scale = font.pt_to_px_scale(size * 72.0 / 96.0).unwrap_or(ab_glyph::PxScale::from(size));
        let scaled = font.as_scaled(scale);
        let (mut x, mut last, mut glyphs) = (0.0, None, Vec::new());
        for c in text.chars().filter(|c| !c.is_control()) {
            let id = scaled.glyph_id(c);
            if let Some(last) = last {
                x += scaled.kern(last, id);
            }
            glyphs.push(id.with_scale_and_position(scale, point(x, 0.0)));
            x += scaled.h_advance(id);
            last = Some(id);
        }
        (glyphs, x)
    }

    pub fn text_width(&self, text: &str, size: f32, bold: bool) -> f32 {
        self.layout(text, size, bold).1
    }

    /// Text whose baseline starts, is centred or ends at (x, y). Returns its width.
    pub fn text(&mut self, at: (f32, f32), text: &str, size: f32, bold: bool, align: Align, ink: Ink) -> f32 {
        self.write(at, text, size, bold, align, ink, false)
    }

    /// As [`Canvas::text`], reading upwards.
    pub fn text_up(&mut self, at: (f32, f32), text: &str, size: f32, align: Align, ink: Ink) {
        self.write(at, text, size, false, align, ink, true);
    }

    #[allow(clippy::too_many_arguments)] // private: the public ones read as sentences
    fn write(&mut self, (x, y): (f32, f32), text: &str, size: f32, bold: bool, align: Align, ink: Ink, upwards: bool) -> f32 {
        let (glyphs, width) = self.layout(text, size, bold);
        let start = match align {
            Align::Left => 0.0,
            Align::Centre => -width / 2.0,
            Align::Right => -width,
        };
        for mut glyph in glyphs {
            // Whole-pixel origin across the line keeps stems equally dark; along it positions stay exact.
            let along = glyph.position.x + start;
            glyph.position = if upwards { point(along - y.round(), x.round()) } else { point(along + x, y.round()) };
            let outlined = if bold { self.bold.outline_glyph(glyph) } else { self.regular.outline_glyph(glyph) };
            let Some(outlined) = outlined else { continue };
            let bounds = outlined.px_bounds();
            let mut cells = Vec::new();
            outlined
                .draw(|gx, gy, coverage| cells.push((gx as i64 + bounds.min.x as i64, gy as i64 + bounds.min.y as i64, coverage)));
            for (gx, gy, coverage) in cells {
                if upwards { self.blend(gy, -1 - gx, ink, coverage) } else { self.blend(gx, gy, ink, coverage) }
            }
        }
        width
    }

    /// `text` in lines no wider than `width`, broken between words and, where a word alone is wider, within it.
    pub fn wrapped(&self, text: &str, size: f32, bold: bool, width: f32) -> Vec<String> {
        let fits = |line: &str| self.text_width(line, size, bold) <= width;
        let mut lines = Vec::new();
        let mut line = String::new();
        for word in text.split_whitespace() {
            let longer = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
            if fits(&longer) {
                line = longer;
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                line.push(c);
                if !fits(&line) && line.chars().nth(1).is_some() {
                    line.pop();
                    lines.push(std::mem::replace(&mut line, c.to_string()));
                }
            }
        }
        lines.push(line);
        lines
    }

    /// The longest beginning of `text` that fits `width`, with an ellipsis where something was cut.
    pub fn fitted(&self, text: &str, size: f32, bold: bool, width: f32) -> String {
        if self.text_width(text, size, bold) <= width {
            return text.to_string();
        }
        let mut kept: Vec<char> = text.chars().collect();
        while kept.pop().is_some() {
            let shorter = format!("{}\u{2026}", kept.iter().collect::<String>().trim_end());
            if self.text_width(&shorter, size, bold) <= width {
                return shorter;
            }
        }
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cover_their_area() {
        let mut c = Canvas::new(40, 30).unwrap();
        let black = Ink::solid(0, 0, 0);
        c.fill(Rect { x: 2.5, y: 3.0, w: 10.25, h: 4.0 }, black);
        c.disc(25.0, 15.0, 6.0, black);
        let picture = c.into_picture();
        let area: f32 = picture.rgb().chunks(3).map(|p| 1.0 - p[0] as f32 / 255.0).sum();
        let expected = 10.25 * 4.0 + std::f32::consts::PI * 36.0;
        assert!((area - expected).abs() < 0.01 * expected, "{area} {expected}");
        assert_eq!(picture.get(4, 4), Some([0; 3]));
        assert_eq!(picture.get(2, 4), Some([128; 3]));
    }

    #[test]
    fn text_stays_in_its_place_and_every_sign_has_a_glyph() {
        let mut c = Canvas::new(200, 60).unwrap();
        for sign in "χ²µλσ±°×·⁻¹²³⁰ρ–—…≥≤−éÅ".chars() {
            assert_ne!(c.regular.glyph_id(sign).0, 0, "{sign}");
        }
        let width = c.text((100.0, 40.0), "Hxg", 20.0, false, Align::Centre, TEXT);
        let picture = c.into_picture();
        let dark: Vec<usize> = (0..200).filter(|x| (0..60).any(|y| picture.get(*x, y).unwrap()[0] < 200)).collect();
        assert!(dark[0] as f32 >= 99.0 - width / 2.0 && dark[dark.len() - 1] as f32 <= 101.0 + width / 2.0);
        let mut c = Canvas::new(60, 200).unwrap();
        c.text_up((40.0, 100.0), "Hxg", 20.0, Align::Centre, TEXT);
        let up = c.into_picture();
        // The same picture turned by a quarter: x along the line becomes height.
        let differing = (0..200)
            .flat_map(|a| (0..60).map(move |b| (a, b)))
            .filter(|(a, b)| picture.get(*a, *b) != up.get(*b, 199 - *a))
            .count();
        assert_eq!(differing, 0);
        let c = Canvas::new(10, 10).unwrap();
        assert!(c.fitted("a long line of text", 12.0, false, 60.0).ends_with('\u{2026}'));
        assert_eq!(c.fitted("a", 12.0, false, 60.0), "a");
        let text = "a long line of text with a veryveryverylongword";
        let lines = c.wrapped(text, 12.0, false, 60.0);
        assert!(lines.len() > 5 && lines.iter().all(|l| c.text_width(l, 12.0, false) <= 60.0), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""), "nothing is lost");
        assert_eq!(c.wrapped("a b", 12.0, false, 60.0), ["a b"]);
        assert_eq!(c.wrapped("", 12.0, false, 60.0), [""]);
    }
}
