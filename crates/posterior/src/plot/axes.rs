//! Axes, ticks and number formats.

use super::canvas::{Align, Canvas, FAINT, Ink, LINE, QUIET, Rect, TEXT};

/// An axis from `low` to `high`, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// Distance of linear ticks where round numbers are not the natural ones (90 degrees).
    pub step: Option<f64>,
}

impl Scale {
    pub fn linear(low: f64, high: f64) -> Self {
        Self { low, high, log: false, step: None }
    }

    /// Holds all finite (positive, when logarithmic) values with a little room; an empty or single-valued set gets room too.
    pub fn around(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite() && (!log || *v > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return Self { low: if log { 0.1 } else { 0.0 }, high: 1.0, log, step: None };
        }
        if log {
            let room = ((high / low).ln() * 0.06).max(0.2).exp();
            return Self { low: low / room, high: high * room, log, step: None };
        }
        let room = match high - low {
            0.0 if high == 0.0 => 0.5,
            0.0 => 0.5 * high.abs(),
            span => 0.06 * span,
        };
        Self { low: low - room, high: high + room, log, step: None }
    }

    /// 0 at `low`, 1 at `high`.
    pub fn position(&self, v: f64) -> f64 {
        if self.log {
            (v.max(1e-300) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        }
    }

    /// Round numbers for about `wanted` ticks, with their labels.
    pub fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        if self.log {
            let (first, last) = (self.low.log10().ceil() as i32, self.high.log10().floor() as i32);
            let decades: Vec<f64> = (first..=last).map(|e| 10f64.powi(e)).collect();
            if decades.len() >= 2 {
                return decades.into_iter().map(|v| (v, log_label(v))).collect();
            }
            let steps = (first - 1..=last + 1).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)));
            return steps.filter(|v| (self.low..=self.high).contains(v)).map(|v| (v, plain(v))).collect();
        }
        let step = self.step.unwrap_or_else(|| nice((self.high - self.low) / wanted.max(1) as f64));
        let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        if last - first > 100 {
            return Vec::new();
        }
        // Small numbers about zero have few digits that are not zeros.
        let small = decimals > 4 && first.abs().max(last.abs()) < 100;
        let label = |v: f64| if small { plain(v) } else { minus(format!("{v:.decimals$}")) };
        (first..=last).map(|i| (i as f64 * step, label(i as f64 * step))).collect()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `x`.
pub(crate) fn nice(x: f64) -> f64 {
    if !(x > 0.0 && x.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(x.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|v| *v >= x * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Three significant digits without needless zeros.
pub(crate) fn plain(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return if v == 0.0 { "0".into() } else { v.to_string() };
    }
    let magnitude = v.abs().log10().floor() as i32;
    if !(-4..6).contains(&magnitude) {
        return minus(format!("{}\u{d7}10{}", trimmed(v / 10f64.powi(magnitude), 2), superscript(magnitude)));
    }
    minus(trimmed(v, (2 - magnitude).max(0) as usize))
}

fn trimmed(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

fn log_label(v: f64) -> String {
    let e = v.log10().round() as i32;
    if (-2..=3).contains(&e) { trimmed(v, (-e).max(0) as usize) } else { format!("10{}", superscript(e)) }
}

/// A true minus sign instead of a hyphen.
fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().any(|c| c.is_ascii_digit() && c != '0') => format!("\u{2212}{rest}"),
        Some(rest) => rest.to_string(),
        None => text,
    }
}

fn superscript(n: i32) -> String {
    const DIGITS: [char; 10] =
        ['\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}', '\u{2077}', '\u{2078}', '\u{2079}'];
    n.to_string().chars().map(|c| c.to_digit(10).map_or('\u{207b}', |d| DIGITS[d as usize])).collect()
}

/// A factor and unit in which values up to `largest` read as 1 to 1000: SI prefixes for Jy, powers of ten otherwise.
pub(crate) fn readable_unit(largest: f64, unit: &str) -> (f64, String) {
    if !(largest > 0.0 && largest.is_finite()) {
        return (1.0, unit.to_string());
    }
    let thousands = (largest.log10() / 3.0).floor().clamp(-4.0, 4.0) as i32;
    if thousands == 0 || (0.1..1000.0).contains(&largest) {
        return (1.0, unit.to_string());
    }
    let factor = 1000f64.powi(-thousands);
    if unit.starts_with("Jy") {
        let prefix = ["p", "n", "\u{b5}", "m", "", "k", "M", "G", "T"][(thousands + 4) as usize];
        return (factor, format!("{prefix}{unit}"));
    }
    (factor, format!("10{} {unit}", superscript(3 * thousands)).trim_end().to_string())
}

/// What stands around a plot.
pub(crate) struct Labels<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Draws frame, grid, ticks and labels of the plot area `r`. Without an x label the x ticks stay unlabelled (another plot follows below).
pub(crate) fn draw_axes(c: &mut Canvas, r: Rect, x: &Scale, y: &Scale, labels: &Labels, ticks: (usize, usize)) {
    const SIZE: f32 = 15.0;
    for (v, label) in x.ticks(ticks.0) {
        let px = r.x + r.w * x.position(v) as f32;
        c.line((px, r.y), (px, r.bottom()), 1.0, FAINT);
        c.line((px, r.bottom()), (px, r.bottom() - 5.0), 1.2, LINE);
        if !labels.x.is_empty() {
            c.text((px, r.bottom() + 21.0), &label, SIZE, false, Align::Centre, QUIET);
        }
    }
    let mut widest = 0.0f32;
    for (v, label) in y.ticks(ticks.1) {
        let py = r.bottom() - r.h * y.position(v) as f32;
        c.line((r.x, py), (r.right(), py), 1.0, FAINT);
        c.line((r.x, py), (r.x + 5.0, py), 1.2, LINE);
        widest = widest.max(c.text((r.x - 8.0, py + 5.5), &label, SIZE, false, Align::Right, QUIET));
    }
    c.frame(r, 1.2, LINE);
    c.text((r.x + r.w / 2.0, r.bottom() + 46.0), labels.x, 17.0, false, Align::Centre, TEXT);
    c.text_up((r.x - 20.0 - widest.max(34.0), r.y + r.h / 2.0), labels.y, 17.0, Align::Centre, TEXT);
    c.text((r.x, r.y - 14.0), labels.title, 20.0, true, Align::Left, TEXT);
}

/// Colours of bands or groups, apart in hue and lightness also for colour-blind eyes (Okabe & Ito 2008).
pub(crate) fn group_ink(i: usize) -> Ink {
    const INKS: [Ink; 6] = [
        Ink::solid(0, 90, 160),
        Ink::solid(213, 94, 0),
        Ink::solid(0, 140, 105),
        Ink::solid(180, 95, 150),
        Ink::solid(90, 160, 215),
        Ink::solid(205, 150, 0),
    ];
    INKS[i % INKS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let labels = |s: Scale, n| s.ticks(n).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(Scale::linear(-10.2, 9.7), 5), ["\u{2212}10", "\u{2212}5", "0", "5"]);
        assert_eq!(labels(Scale::linear(0.0, 0.021), 4), ["0.00", "0.01", "0.02"]);
        assert_eq!(labels(Scale::linear(0.0, 2.1e-12), 2), ["0", "2\u{d7}10\u{207b}\u{b9}\u{b2}"]);
        assert_eq!(labels(Scale { low: 0.004, high: 2.0, log: true, step: None }, 4), ["0.01", "0.1", "1"]);
        assert_eq!(labels(Scale { low: 0.15, high: 0.7, log: true, step: None }, 4), ["0.2", "0.5"]);
        assert_eq!(
            labels(Scale { low: 1e-7, high: 1e-4, log: true, step: None }, 4),
            ["10\u{207b}\u{2077}", "10\u{207b}\u{2076}", "10\u{207b}\u{2075}", "10\u{207b}\u{2074}"]
        );
    }

    #[test]
    fn numbers_and_units() {
        assert_eq!(
            [plain(0.0), plain(42.5), plain(-0.00123), plain(1.5e-9)],
            ["0", "42.5", "\u{2212}0.00123", "1.5\u{d7}10\u{207b}\u{2079}"]
        );
        assert_eq!(plain(600.0), "600");
        assert_eq!(readable_unit(3.2e-3, "Jy/pixel"), (1e3, "mJy/pixel".into()));
        assert_eq!(readable_unit(0.5, "Jy/pixel"), (1.0, "Jy/pixel".into()));
        assert_eq!(readable_unit(2e5, "photons").1, "10\u{b3} photons");
        assert_eq!(readable_unit(2e-5, "").1, "10\u{207b}\u{2076}");
        assert_eq!((nice(3.0), nice(0.5), nice(0.051), nice(f64::NAN)), (5.0, 0.5, 0.1, 1.0));
    }

    #[test]
    fn scales_survive_odd_data() {
        let s = Scale::around([f64::NAN, 3.0].into_iter(), false);
        assert!(s.low < 3.0 && s.high > 3.0);
        assert_eq!(Scale::around([0.0].into_iter(), false), Scale::linear(-0.5, 0.5));
        assert!(Scale::around(std::iter::empty(), true).low > 0.0);
        let s = Scale::around([0.0, -1.0, 2.0].into_iter(), true);
        assert!(s.low > 0.0 && s.high > 2.0 && !s.ticks(4).is_empty());
        assert!(Scale::linear(-1e300, 1e300).ticks(5).len() < 100);
    }
}
