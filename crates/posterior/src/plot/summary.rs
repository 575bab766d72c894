//! `summary.png`: what was observed, what came out, how sure it is and how it fits, on one page.

use super::axes::{nice, plain, readable_unit};
use super::canvas::{Align, Canvas, Ink, LINE, QUIET, Rect, TEXT, WHITE};
use super::data::{DataPanel, UvBand, draw_uv};
use crate::{Error, Result};
use halation_io::{Colours, Picture};
use ndarray::ArrayView2;

/// The size of image pixels, for the scale bar.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageScale {
    /// Width of a pixel in `unit`.
    pub pixel: f64,
    /// Unit of lengths in the image, for example `\u{b5}as` or `nm`.
    pub unit: String,
    /// Whether to draw North (up) and East (left).
    pub sky: bool,
}

/// Everything that `summary.png` shows. Images are (y, x) with row 0 at the bottom; for the sky row 0 is South and column 0 East.
#[derive(Clone, Debug)]
pub struct SummaryPlot<'a> {
    /// Heading: the source and the date, or the problem.
    pub title: String,
    /// What kind of ensemble it is and what was checked, in the solver's words.
    pub label: String,
    /// Small print at the foot: program, prior, seed, data.
    pub footer: String,
    /// Unit of the pixels.
    pub unit: String,
    /// Pixel size; none draws no scale bar.
    pub scale: Option<ImageScale>,
    /// uv coverage by band; empty where there is none.
    pub uv: Vec<UvBand>,
    /// The image that made simulated data.
    pub truth: Option<ArrayView2<'a, f64>>,
    /// Posterior mean.
    pub mean: ArrayView2<'a, f64>,
    /// Posterior standard deviation.
    pub std: ArrayView2<'a, f64>,
    /// Draws; the first eight are shown.
    pub draws: Vec<ArrayView2<'a, f64>>,
    /// Number of draws of the ensemble.
    pub total_draws: usize,
    /// A few words under each draw, for example its chi2; may be shorter than `draws`.
    pub draw_notes: Vec<String>,
    /// Data against model; two stand side by side.
    pub data: Vec<DataPanel>,
}

const WIDTH: f32 = 1960.0;
const MARGIN: f32 = 64.0;
const SHOWN: usize = 8;
const LABEL_LINE: f32 = 27.0;

impl SummaryPlot<'_> {
    /// Draws the page.
    ///
    /// # Errors
    /// Images of different shapes, or none.
    pub fn draw(&self) -> Result<Picture> {
        let images = || [Some(self.mean), Some(self.std), self.truth].into_iter().flatten().chain(self.draws.iter().copied());
        if self.mean.is_empty() || images().any(|i| i.dim() != self.mean.dim()) {
            return Err(Error::shape(
                "summary picture",
                format!("images of shapes {:?}, expected one shape", images().map(|i| i.dim()).collect::<Vec<_>>()),
            ));
        }
        let (ny, nx) = self.mean.dim();
        let aspect = ny as f32 / nx as f32;
        let inner = WIDTH - 2.0 * MARGIN;

        // First row: uv coverage and large images, each with room for its axis labels or colour bar.
        const BAR: f32 = 118.0;
        const AXIS: f32 = 84.0;
        let large = 2 + usize::from(self.truth.is_some());
        let with_uv = !self.uv.is_empty();
        let gap = 40.0;
        let columns = large + usize::from(with_uv);
        let fixed = large as f32 * BAR + f32::from(u8::from(with_uv)) * AXIS + gap * (columns - 1) as f32;
        let side = ((inner - fixed) / columns as f32).min(500.0).floor();
        let image_height = (side * aspect.min(1.25)).floor();
        // How many lines the label takes, a canvas knows before the height of the page is known.
        let label = Canvas::new(1, 1)?.wrapped(&self.label, 20.0, false, inner);
        let heading_end = 128.0 + LABEL_LINE * (label.len() - 1) as f32;
        let row1 = heading_end + 68.0;
        let row1_height = if with_uv { side.max(image_height) } else { image_height };
        let row1_end = row1 + row1_height + if with_uv { 62.0 } else { 20.0 };

        // Second row: the draws.
        let shown = self.draws.len().min(SHOWN);
        let small_gap = 12.0;
        let small = ((inner - BAR - small_gap * (SHOWN - 1) as f32) / SHOWN as f32).floor();
        let small_height = (small * aspect.min(1.25)).floor();
        let noted = self.draw_notes.iter().take(shown).any(|n| !n.is_empty());
        let row2 = row1_end + 62.0;
        let row2_end = if shown == 0 { row1_end } else { row2 + small_height + if noted { 30.0 } else { 8.0 } };

        // Third row: data against model, two to a line.
        let panel_height = 420.0;
        let lines = self.data.len().div_ceil(2);
        let row3 = row2_end + 72.0;
        let row3_end = if lines == 0 { row2_end } else { row3 + lines as f32 * (panel_height + 130.0) - 74.0 };
        let height = row3_end + 76.0;
        let mut c = Canvas::new(WIDTH as usize, height as usize)?;

        let title = c.fitted(&self.title, 38.0, true, inner - 250.0);
        c.text((MARGIN, 72.0), &title, 38.0, true, Align::Left, TEXT);
        let count = if self.total_draws == 1 { "1 image".to_string() } else { format!("{} draws", self.total_draws) };
        c.text((WIDTH - MARGIN, 72.0), &count, 24.0, false, Align::Right, QUIET);
        for (i, line) in label.iter().enumerate() {
            c.text((MARGIN, 108.0 + LABEL_LINE * i as f32), line, 20.0, false, Align::Left, QUIET);
        }
        c.fill(Rect { x: MARGIN, y: heading_end, w: inner, h: 1.4 }, LINE.alpha(0.7));

        let mut left = MARGIN;
        if with_uv {
            draw_uv(&mut c, Rect { x: left + AXIS, y: row1, w: side, h: side }, &self.uv);
            left += AXIS + side + gap;
        }
        // Truth and mean share one scale, so that they can be compared.
        let top = largest(&self.mean).max(self.truth.as_ref().map_or(0.0, largest));
        let bottom = [Some(self.mean), self.truth].into_iter().flatten().map(|i| smallest(&i)).fold(f64::INFINITY, f64::min);
        let brightness = range(bottom, top);
        let uncertainty = range(0.0, largest(&self.std));
        let mut panels =
            vec![("Mean", self.mean, brightness, Colours::Ember), ("Standard deviation", self.std, uncertainty, Colours::Ice)];
        if let Some(truth) = self.truth {
            panels.insert(0, ("Truth", truth, brightness, Colours::Ember));
        }
        for (name, image, range, colours) in panels {
            let r = Rect { x: left, y: row1, w: side, h: image_height };
            c.text((r.x, r.y - 14.0), name, 20.0, true, Align::Left, TEXT);
            c.image(r, &image, range, colours);
            self.overlay(&mut c, r, nx, true);
            self.colour_bar(&mut c, Rect { x: r.right() + 12.0, y: r.y, w: 16.0, h: r.h }, range, colours);
            left += side + BAR + gap;
        }

        if shown > 0 {
            let heading = match (shown, self.total_draws) {
                (s, t) if s < t => format!("{s} of {t} draws"),
                (1, _) => "The only draw".into(),
                (s, _) => format!("All {s} draws"),
            };
            c.text((MARGIN, row2 - 14.0), &heading, 20.0, true, Align::Left, TEXT);
            let bright = self.draws.iter().take(shown).map(|d| largest(d)).fold(f64::NEG_INFINITY, f64::max);
            let dark = self.draws.iter().take(shown).map(|d| smallest(d)).fold(f64::INFINITY, f64::min);
            let shared = range(dark, bright);
            for (i, draw) in self.draws.iter().take(shown).enumerate() {
                let r = Rect { x: MARGIN + i as f32 * (small + small_gap), y: row2, w: small, h: small_height };
                c.image(r, draw, shared, Colours::Ember);
                self.overlay(&mut c, r, nx, false);
                if let Some(note) = self.draw_notes.get(i) {
                    c.text((r.x + r.w / 2.0, r.bottom() + 22.0), note, 15.0, false, Align::Centre, QUIET);
                }
            }
            let end = MARGIN + shown as f32 * (small + small_gap);
            self.colour_bar(&mut c, Rect { x: end, y: row2, w: 16.0, h: small_height }, shared, Colours::Ember);
        }

        for (i, panel) in self.data.iter().enumerate() {
            let half = (inner - 2.0 * AXIS - 48.0) / 2.0;
            let width = if self.data.len() == 1 { inner - AXIS } else { half };
            let r = Rect {
                x: MARGIN + AXIS + (i % 2) as f32 * (half + AXIS + 48.0),
                y: row3 + (i / 2) as f32 * (panel_height + 130.0),
                w: width,
                h: panel_height,
            };
            panel.draw(&mut c, r);
        }
        let footer = c.fitted(&self.footer, 15.0, false, inner);
        c.text((MARGIN, height - 24.0), &footer, 15.0, false, Align::Left, QUIET);
        Ok(c.into_picture())
    }

    /// Scale bar and compass in an image panel.
    fn overlay(&self, c: &mut Canvas, r: Rect, nx: usize, large: bool) {
        let Some(scale) = &self.scale else { return };
        let (inset, text, stroke) = if large { (20.0, 18.0, 2.6) } else { (10.0, 13.0, 1.8) };
        let per_unit = r.w as f64 / (nx as f64 * scale.pixel);
        let shadow = Ink::solid(0, 0, 0).alpha(0.45);
        // The largest round length below about a third of the field.
        let length = nice(nx as f64 * scale.pixel / 8.0);
        let length = if 2.0 * length <= nx as f64 * scale.pixel * 0.36 { 2.0 * length } else { length };
        let width = (length * per_unit) as f32;
        let base = r.bottom() - inset;
        for (offset, ink) in [(1.0, shadow), (0.0, WHITE)] {
            let y = base + offset;
            c.line((r.x + inset + offset, y), (r.x + inset + width + offset, y), stroke, ink);
            let label = format!("{} {}", plain(length), scale.unit);
            c.text((r.x + inset + width / 2.0 + offset, y - 0.45 * text), &label, text, false, Align::Centre, ink);
        }
        if scale.sky {
            let arm = if large { 44.0 } else { 22.0 };
            let origin = (r.right() - inset, base);
            for (offset, ink) in [(1.0, shadow), (0.0, WHITE)] {
                let o = (origin.0 + offset, origin.1 + offset);
                c.arrow(o, (o.0, o.1 - arm), 0.8 * stroke, ink);
                c.arrow(o, (o.0 - arm, o.1), 0.8 * stroke, ink);
                c.text((o.0, o.1 - arm - 0.35 * text), "N", text, false, Align::Centre, ink);
                c.text((o.0 - arm - 0.3 * text, o.1 + 0.36 * text), "E", text, false, Align::Right, ink);
            }
        }
    }

    fn colour_bar(&self, c: &mut Canvas, r: Rect, range: (f64, f64), colours: Colours) {
        // One unit for the whole page: that of the mean, or of the standard deviation about a mean of zero.
        let size = [self.mean, self.std].iter().map(|i| largest(&i.mapv(f64::abs).view())).find(|v| *v > 0.0).unwrap_or(0.0);
        let (factor, unit) = readable_unit(size, &self.unit);
        c.colour_strip(r, colours);
        c.frame(r, 1.0, LINE);
        let ticks = if range.1 > range.0 {
            let scale = super::axes::Scale::linear(range.0 * factor, range.1 * factor);
            scale.ticks(5).into_iter().map(|(v, label)| (scale.position(v), label)).collect()
        } else if range.0.is_finite() {
            vec![(0.0, plain(range.0 * factor))]
        } else {
            Vec::new()
        };
        let mut widest = 0.0f32;
        for (position, label) in ticks {
            let y = r.bottom() - r.h * position as f32;
            c.line((r.right(), y), (r.right() + 5.0, y), 1.2, LINE);
            widest = widest.max(c.text((r.right() + 9.0, y + 5.5), &label, 15.0, false, Align::Left, QUIET));
        }
        c.text_up((r.right() + 26.0 + widest, r.y + r.h / 2.0), &unit, 15.0, Align::Centre, TEXT);
    }
}

fn largest(image: &ArrayView2<f64>) -> f64 {
    image.iter().copied().filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max)
}

fn smallest(image: &ArrayView2<f64>) -> f64 {
    image.iter().copied().filter(|v| v.is_finite()).fold(f64::INFINITY, f64::min)
}

/// Darkest and lightest value. Black stands for zero where nothing (or next to nothing) is negative; the two are one value where all
/// values are the same, and not finite where there are none.
fn range(low: f64, high: f64) -> (f64, f64) {
    if !(low.is_finite() && high.is_finite()) {
        return (f64::NAN, f64::NAN);
    }
    // Images are single precision: what differs by less is rounding.
    if high - low <= 1e-6 * high.abs().max(low.abs()) {
        return (low, low);
    }
    (if low > -0.05 * high.abs() && low < 0.5 * high { 0.0 } else { low }, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn plot<'a>(mean: &'a Array2<f64>, std: &'a Array2<f64>) -> SummaryPlot<'a> {
        SummaryPlot {
            title: "Test".into(),
            label: "label".into(),
            footer: String::new(),
            unit: "Jy/pixel".into(),
            scale: Some(ImageScale { pixel: 2.0, unit: "\u{b5}as".into(), sky: true }),
            uv: vec![],
            truth: None,
            mean: mean.view(),
            std: std.view(),
            draws: vec![mean.view(); 3],
            total_draws: 3,
            draw_notes: vec![],
            data: vec![],
        }
    }

    /// North is up and East is left: a bright first pixel (row 0, column 0) is drawn at the bottom left of the mean's panel.
    #[test]
    fn orientation() {
        let mut mean = Array2::zeros((16, 16));
        mean[[0, 0]] = 1.0;
        let std = Array2::from_elem((16, 16), 0.1);
        let picture = SummaryPlot { scale: None, ..plot(&mean, &std) }.draw().unwrap();
        let bright = Colours::Ember.table()[255];
        // The large panel is 500 pixels wide and starts at the margin, below the heading.
        assert_eq!(picture.get(MARGIN as usize + 4, 196 + 496), Some(bright));
        assert_eq!(picture.get(MARGIN as usize + 4, 196 + 4), Some(Colours::Ember.table()[0]));
        assert_eq!(picture.get(MARGIN as usize + 496, 196 + 496), Some(Colours::Ember.table()[0]));
    }

    /// All of a long label is shown: what stands below it moves down by its lines.
    #[test]
    fn a_long_label_takes_lines() {
        let image = Array2::from_elem((16, 16), 1.0);
        let height = |label: &str| SummaryPlot { label: label.into(), ..plot(&image, &image) }.draw().unwrap().height();
        let (one, three) = (height("label"), height(&"two populations agree ".repeat(20)));
        assert!(three == one + 2 * LABEL_LINE as usize, "{one} {three}");
    }

    #[test]
    fn ranges_of_constant_images_are_their_value() {
        assert_eq!((range(0.0, 0.0), range(2.5, 2.5), range(-1.0, -1.0)), ((0.0, 0.0), (2.5, 2.5), (-1.0, -1.0)));
        assert_eq!(range(1.0, 1.0 + 1e-7), (1.0, 1.0));
        assert_eq!(
            (range(0.1, 1.0), range(-0.01, 1.0), range(-0.5, 1.0), range(0.9, 1.0)),
            ((0.0, 1.0), (0.0, 1.0), (-0.5, 1.0), (0.9, 1.0))
        );
        assert!(range(f64::INFINITY, f64::NEG_INFINITY).0.is_nan());
    }

    #[test]
    fn odd_input_is_drawn_or_refused_but_never_panics() {
        let (one, nan) = (Array2::from_elem((1, 1), -2.0), Array2::from_elem((1, 1), f64::NAN));
        let mut p = plot(&one, &nan);
        p.title = "x".repeat(500);
        p.uv = vec![UvBand { name: "b".into(), u_lambda: vec![f64::NAN, 1e9], v_lambda: vec![1.0, f64::INFINITY] }];
        p.data = vec![
            DataPanel::default(),
            DataPanel {
                x: vec![1.0],
                y: vec![f64::NAN],
                sigma: vec![0.0],
                model: vec![[1.0; 3]],
                log_y: true,
                ..Default::default()
            },
            DataPanel { x: vec![1.0, 2.0], y: vec![1e300, -1e300], sigma: vec![], ..Default::default() },
        ];
        p.draw().unwrap();
        let wide = Array2::zeros((3, 400));
        SummaryPlot { draws: vec![], ..plot(&wide, &wide) }.draw().unwrap();
        let tall = Array2::from_elem((400, 3), 1e-30);
        plot(&tall, &tall).draw().unwrap();
        assert!(plot(&one, &wide).draw().is_err());
        let empty = Array2::zeros((0, 0));
        assert!(plot(&empty, &empty).draw().is_err());
    }
}
