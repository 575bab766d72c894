//! Draws the summary picture of a made-up crescent: `cargo run -p halation-posterior --example summary_picture -- OUT.png`, and with
//! `linear` behind it the picture of a linear problem (no sky, no uv coverage, a known truth).
//!
//! Everything in it is synthetic (no data, no posterior); it shows the layout and how to fill [`SummaryPlot`].

use halation_posterior::plot::{DataPanel, ImageScale, SummaryPlot, UvBand};
use ndarray::{Array2, Array3, Axis};
use std::f64::consts::{PI, TAU};

/// A repeatable number in (-1, 1) for each index.
fn noise(i: u64) -> f64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn crescent(n: usize, seed: u64) -> Array2<f64> {
    let jitter = |k: u64| noise(1000 * seed + k);
    let (radius, width, angle) = (21.0 + 0.8 * jitter(1), 6.5 + jitter(2), (165.0 + 12.0 * jitter(3)).to_radians());
    let knot = (TAU * jitter(4), 0.25 * (1.0 + jitter(5)));
    let image = Array2::from_shape_fn((n, n), |(row, column)| {
        let (x, y) = ((31.5 - column as f64) * 2.0, (row as f64 - 31.5) * 2.0); // East, North in microarcseconds
        let (r, theta) = (x.hypot(y), x.atan2(y));
        let ring = (-(r - radius).powi(2) / (2.0 * width * width / 5.5)).exp();
        ring * (1.0 + 0.75 * (theta - angle).cos() + knot.1 * (3.0 * theta - knot.0).cos()) + 0.05 * (-r * r / 900.0).exp()
    });
    let total = image.sum();
    image * (0.6 / total)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args().nth(1).unwrap_or_else(|| "summary.png".into());
    let (n, draws) = (64, 20);
    let images: Vec<Array2<f64>> = (0..draws).map(|d| crescent(n, d + 1)).collect();
    let cube = Array3::from_shape_fn((draws as usize, n, n), |(d, y, x)| images[d][[y, x]]);
    let mean = cube.mean_axis(Axis(0)).ok_or("no draws")?;
    let std = cube.std_axis(Axis(0), 1.0);

    // Earth-rotation tracks of a few baselines.
    let mut bands =
        [("227.1 GHz", 1.0), ("229.1 GHz", 229.1 / 227.1)].map(|(name, _)| UvBand { name: name.into(), ..Default::default() });
    let (mut length, mut amplitude, mut sigma, mut predicted, mut group) = (vec![], vec![], vec![], vec![], vec![]);
    let visibility = |image: &Array2<f64>, u: f64, v: f64| {
        let radian = PI / 648e9;
        image.indexed_iter().fold((0.0, 0.0), |(re, im), ((row, column), flux)| {
            let phase = TAU * radian * 2.0 * (u * (31.5 - column as f64) + v * (row as f64 - 31.5));
            (re + flux * phase.cos(), im + flux * phase.sin())
        })
    };
    for baseline in 0..11u64 {
        let (big, tilt) = (1.2e9 + 7.2e9 * (noise(baseline).abs()), noise(baseline + 50));
        for step in 0..16 {
            let hour = -0.9 + 1.5 * step as f64 / 16.0 + tilt * 2.0;
            for (b, factor) in [1.0, 229.1 / 227.1].into_iter().enumerate() {
                let (u, v) = (factor * big * hour.cos(), factor * big * (0.25 * hour.sin() + 0.8 * tilt));
                bands[b].u_lambda.push(u);
                bands[b].v_lambda.push(v);
                let values: Vec<f64> = images.iter().map(|i| visibility(i, u, v)).map(|(re, im)| re.hypot(im)).collect();
                let s = 0.006 + 0.02 * values[0];
                length.push(u.hypot(v) * 1e-9);
                amplitude.push((values[0] + s * 1.7 * noise(7000 + 2 * length.len() as u64)).max(1e-3));
                sigma.push(s);
                predicted.push(values);
                group.push(b);
            }
        }
    }
    let weights = vec![1.0 / draws as f64; draws as usize];
    let table = Array2::from_shape_fn((draws as usize, predicted.len()), |(d, i)| predicted[i][d]);
    let amplitudes = DataPanel {
        title: "Visibility amplitudes".into(),
        x_label: "baseline length (G\u{3bb})".into(),
        y_label: "|V| (Jy)".into(),
        x: length,
        y: amplitude,
        sigma,
        group,
        log_y: true,
        note: "not fitted; shown for comparison".into(),
        ..Default::default()
    }
    .with_predictions(&table.view(), &weights)?;

    let closures = 150;
    let truth = |i: usize| 70.0 * (i as f64 / 17.0).sin() + 110.0 * ((i % 6) as f64 / 3.0 - 0.8);
    let wrap = |v: f64| v - 360.0 * (v / 360.0).round();
    let table = Array2::from_shape_fn((draws as usize, closures), |(d, i)| wrap(truth(i) + 7.0 * noise((d * 999 + i) as u64)));
    let phases = DataPanel {
        title: "Closure phases".into(),
        x_label: "time (h UTC)".into(),
        y_label: "closure phase (\u{b0})".into(),
        x: (0..closures).map(|i| 0.9 + 7.1 * (i / 6) as f64 / 25.0 + 0.02 * (i % 6) as f64).collect(),
        y: (0..closures).map(|i| wrap(truth(i) + 9.0 * noise(i as u64 + 31))).collect(),
        sigma: (0..closures).map(|i| 4.0 + 3.0 * noise(i as u64).abs()).collect(),
        group: (0..closures).map(|i| i % 2).collect(),
        period: Some(360.0),
        note: "\u{3c7}\u{b2}/N median 1.09 (draws 1.02\u{2013}1.21)".into(),
        ..Default::default()
    }
    .with_predictions(&table.view(), &weights)?;

    if std::env::args().nth(2).as_deref() == Some("linear") {
        let small = |image: &Array2<f64>| Array2::from_shape_fn((16, 16), |(y, x)| 100.0 * image[[4 * y + 2, 4 * x + 2]] - 0.1);
        let (mean, std, truth) = (small(&mean), small(&std) + 0.1, small(&images[0]));
        let draws: Vec<Array2<f64>> = images.iter().take(5).map(small).collect();
        let picture = SummaryPlot {
            title: "problem.h5".into(),
            label: "made-up images: this page shows the layout, not a reconstruction".into(),
            footer: String::new(),
            unit: String::new(),
            scale: None,
            uv: vec![],
            truth: Some(truth.view()),
            mean: mean.view(),
            std: std.view(),
            draws: draws.iter().map(|d| d.view()).collect(),
            total_draws: 5,
            draw_notes: vec![],
            data: vec![DataPanel {
                title: "Data".into(),
                x_label: "datum".into(),
                y_label: "y".into(),
                x: (0..84).map(f64::from).collect(),
                y: (0..84).map(|i| (i as f64 / 9.0).cos() + 0.05 * noise(i)).collect(),
                sigma: vec![0.05; 84],
                model: (0..84).map(|i| (i as f64 / 9.0).cos()).map(|m| [m - 0.05, m, m + 0.05]).collect(),
                model_label: "draws, smallest to largest".into(),
                ..Default::default()
            }],
        }
        .draw()?;
        picture.write_png(out.as_ref())?;
        return Ok(());
    }
    let picture = SummaryPlot {
        title: "Synthetic crescent \u{b7} layout example".into(),
        label: "annealed split Gibbs: within-mode calibrated, mode weights checked by two populations (agree)".into(),
        footer: "made-up images and data: this page shows the layout, not a reconstruction".into(),
        unit: "Jy/pixel".into(),
        scale: Some(ImageScale { pixel: 2.0, unit: "\u{b5}as".into(), sky: true }),
        uv: bands.to_vec(),
        truth: None,
        mean: mean.view(),
        std: std.view(),
        draws: images.iter().map(|i| i.view()).collect(),
        total_draws: draws as usize,
        draw_notes: (0..8).map(|i| format!("\u{3c7}\u{b2}/N {:.2}", 1.1 + 0.08 * noise(i + 90))).collect(),
        data: vec![amplitudes, phases],
    }
    .draw()?;
    picture.write_png(out.as_ref())?;
    Ok(())
}
