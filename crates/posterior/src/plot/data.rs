//! Panels that compare data with what the draws predict, and uv coverage.

use super::axes::{Labels, Scale, draw_axes, group_ink};
use super::canvas::{Align, Canvas, Ink, LINE, QUIET, Rect, TEXT};
use crate::{Result, effective_draws, lower_level, quantiles};
use ndarray::ArrayView2;

/// uv points of one band (or any other group); the conjugate points are drawn too.
#[derive(Clone, Debug, Default)]
pub struct UvBand {
    /// Name for the legend, for example `229.1 GHz`; empty for none.
    pub name: String,
    /// East-West components in wavelengths.
    pub u_lambda: Vec<f64>,
    /// North-South components in wavelengths.
    pub v_lambda: Vec<f64>,
}

/// Data with errors against the predictions of the draws, and the normalised residuals below.
#[derive(Clone, Debug, Default)]
pub struct DataPanel {
    /// Heading, for example `Visibility amplitudes`.
    pub title: String,
    /// Label of the horizontal axis with its unit.
    pub x_label: String,
    /// Label of the vertical axis with its unit.
    pub y_label: String,
    /// Where each datum stands on the horizontal axis.
    pub x: Vec<f64>,
    /// The data.
    pub y: Vec<f64>,
    /// Their standard deviations.
    pub sigma: Vec<f64>,
    /// The 5 % limit, median and 95 % limit of the draws' predictions for each datum; may be empty.
    pub model: Vec<[f64; 3]>,
    /// What `model` is, for the legend; set by [`DataPanel::with_predictions`].
    pub model_label: String,
    /// Group of each datum (band), which chooses its colour; empty for one group.
    pub group: Vec<usize>,
    /// Logarithmic vertical axis.
    pub log_y: bool,
    /// Period of a cyclic quantity, for example 360 for degrees: residuals are taken the short way round.
    pub period: Option<f64>,
    /// What to say of the fit at the right of the heading, for example a reduced chi2.
    pub note: String,
}

impl DataPanel {
    /// Sets the model from `predictions` (draw, datum) with `weights` that sum to one: 5 %, 50 % and 95 % quantiles, or smallest,
    /// median and largest draw when there are fewer than 20. A cyclic quantity is unwrapped around each datum first.
    ///
    /// # Errors
    /// Weights that do not fit the draws.
    pub fn with_predictions(mut self, predictions: &ArrayView2<f64>, weights: &[f64]) -> Result<Self> {
        let lower = lower_level(effective_draws(weights));
        self.model_label = if lower > 0.05 { "draws, smallest to largest" } else { "draws, 5\u{2013}95 %" }.into();
        self.model = predictions
            .columns()
            .into_iter()
            .zip(&self.y)
            .map(|(column, y)| {
                let values: Vec<f64> = column.iter().map(|v| y + short_way(v - y, self.period)).collect();
                let q = quantiles(&values, weights, &[lower, 0.5, 1.0 - lower])?;
                Ok([q[0], q[1], q[2]])
            })
            .collect::<Result<_>>()?;
        Ok(self)
    }

    fn residuals(&self) -> Vec<f64> {
        (0..self.y.len().min(self.model.len()).min(self.sigma.len()))
            .map(|i| short_way(self.y[i] - self.model[i][1], self.period) / self.sigma[i])
            .collect()
    }

    /// Draws the panel into `r`, its axis labels outside to the left and below.
    pub(crate) fn draw(&self, c: &mut Canvas, r: Rect) {
        const STRIP: f32 = 74.0;
        const GAP: f32 = 12.0;
        let residuals = self.residuals();
        let main = if residuals.is_empty() { r } else { Rect { h: r.h - STRIP - GAP, ..r } };
        let x = Scale::around(self.x.iter().copied(), false);
        let spread = self.y.iter().copied().chain(self.model.iter().flatten().copied());
        let y = match self.period {
            Some(p) => Scale { step: Some(p / 4.0), ..Scale::linear(-0.55 * p, 0.55 * p) },
            None => Scale::around(spread, self.log_y),
        };
        let lone = if residuals.is_empty() { self.x_label.as_str() } else { "" };
        draw_axes(c, main, &x, &y, &Labels { title: &self.title, x: lone, y: &self.y_label }, (7, 5));
        let title_width = c.text_width(&self.title, 20.0, true);
        c.text((r.x + title_width + 18.0, r.y - 14.0), &self.note, 16.0, false, Align::Left, QUIET);

        let at_x = |v: f64| r.x + r.w * x.position(v) as f32;
        let at_y = |v: f64| main.bottom() - main.h * y.position(v).clamp(0.0, 1.0) as f32;
        let many = self.x.len() > 300;
        let model_ink = Ink::solid(120, 124, 140);
        for (px, m) in self.x.iter().zip(&self.model) {
            let (px, top, bottom) = (at_x(*px), at_y(m[2]), at_y(m[0]));
            let half = if many { 2.5 } else { 4.0 };
            let band = Rect { x: px - half, y: top.min(bottom - 2.0), w: 2.0 * half, h: (bottom - top).max(2.0) };
            c.fill(band, model_ink.alpha(if many { 0.35 } else { 0.42 }));
        }
        for (i, (px, v)) in self.x.iter().zip(&self.y).enumerate() {
            let ink = group_ink(self.group.get(i).copied().unwrap_or(0));
            let px = at_x(*px);
            if let Some(s) = self.sigma.get(i) {
                c.line((px, at_y(v - s)), (px, at_y(v + s)), 1.1, ink.alpha(0.45));
            }
            c.disc(px, at_y(*v), if many { 2.0 } else { 2.8 }, ink.alpha(0.9));
        }
        if !self.model.is_empty() {
            // From the right end of the heading line.
            let (base, size) = (r.y - 14.0, 15.0);
            let mut right = r.right() - c.text((r.right(), base), &self.model_label, size, false, Align::Right, TEXT);
            c.fill(Rect { x: right - 16.0, y: base - 11.0, w: 9.0, h: 13.0 }, model_ink.alpha(0.5));
            right -= 38.0;
            right -= c.text((right, base), "data", size, false, Align::Right, TEXT);
            c.disc(right - 10.0, base - 5.0, 3.2, group_ink(0));
        }
        if residuals.is_empty() {
            return;
        }
        let strip = Rect { y: r.bottom() - STRIP, h: STRIP, ..r };
        let reach = residuals.iter().fold(3.3f64, |m, v| if v.is_finite() { m.max(v.abs() * 1.1) } else { m }).min(8.0);
        let scale = Scale { step: Some(3.0), ..Scale::linear(-reach, reach) };
        let zero = strip.y + strip.h / 2.0;
        draw_axes(c, strip, &x, &scale, &Labels { title: "", x: &self.x_label, y: "res./\u{3c3}" }, (7, 3));
        c.line((strip.x, zero), (strip.right(), zero), 1.2, LINE);
        for (i, (px, v)) in self.x.iter().zip(&residuals).enumerate() {
            let py = strip.bottom() - strip.h * scale.position(*v).clamp(0.0, 1.0) as f32;
            c.disc(at_x(*px), py, if many { 1.7 } else { 2.3 }, group_ink(self.group.get(i).copied().unwrap_or(0)).alpha(0.85));
        }
    }
}

/// `difference` modulo `period`, within half a period of zero.
fn short_way(difference: f64, period: Option<f64>) -> f64 {
    period.map_or(difference, |p| difference - p * (difference / p).round())
}

/// Draws uv coverage, both signs, into the square `r`.
pub(crate) fn draw_uv(c: &mut Canvas, r: Rect, bands: &[UvBand]) {
    let reach = bands
        .iter()
        .flat_map(|b| b.u_lambda.iter().chain(&b.v_lambda))
        .filter(|v| v.is_finite())
        .fold(0.0f64, |m, v| m.max(v.abs()));
    let (factor, unit) = match reach {
        r if r >= 1e9 => (1e-9, "G\u{3bb}"),
        r if r >= 1e6 => (1e-6, "M\u{3bb}"),
        r if r >= 1e3 => (1e-3, "k\u{3bb}"),
        _ => (1.0, "\u{3bb}"),
    };
    let limit = if reach > 0.0 { 1.12 * reach * factor } else { 1.0 };
    let scale = Scale::linear(-limit, limit);
    let (x, y) = (format!("u ({unit})"), format!("v ({unit})"));
    draw_axes(c, r, &scale, &scale, &Labels { title: "uv coverage", x: &x, y: &y }, (5, 5));
    let points: usize = bands.iter().map(|b| b.u_lambda.len()).sum();
    let radius = if points > 1500 { 2.0 } else { 2.8 };
    for (i, band) in bands.iter().enumerate() {
        for (u, v) in band.u_lambda.iter().zip(&band.v_lambda) {
            for sign in [1.0, -1.0] {
                let (px, py) = (scale.position(sign * u * factor), scale.position(sign * v * factor));
                // Bands nearly coincide: later ones are smaller, so that all are seen.
                let radius = radius * (1.25 - 0.35 * i.min(2) as f32);
                c.disc(r.x + r.w * px as f32, r.bottom() - r.h * py as f32, radius, group_ink(i).alpha(0.9));
            }
        }
    }
    let named: Vec<(usize, &UvBand)> = bands.iter().enumerate().filter(|(_, b)| !b.name.is_empty()).collect();
    for (line, (i, band)) in named.iter().enumerate() {
        let base = r.y + 24.0 + 22.0 * line as f32;
        c.disc(r.x + 16.0, base - 5.0, 4.0, group_ink(*i));
        c.text((r.x + 27.0, base), &band.name, 15.0, false, Align::Left, TEXT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn predictions_become_limits_and_residuals_go_the_short_way() {
        let panel =
            DataPanel { y: vec![179.0, 0.0], x: vec![0.0, 1.0], sigma: vec![2.0, 1.0], period: Some(360.0), ..Default::default() };
        let panel = panel.with_predictions(&arr2(&[[-179.0, 1.0], [-177.0, 2.0], [-178.0, 3.0]]).view(), &[1.0 / 3.0; 3]).unwrap();
        // Three draws: smallest, median, largest, unwrapped next to the datum.
        assert_eq!(panel.model, [[181.0, 182.0, 183.0], [1.0, 2.0, 3.0]]);
        assert_eq!(panel.residuals(), [-1.5, -2.0]);
    }
}
