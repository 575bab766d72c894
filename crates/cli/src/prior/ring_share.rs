//! The share of images that pass the ring gate: samples of a prior beside the simulator that it was trained on.

use anyhow::ensure;
use halation_vlbi::MICROARCSECOND_RAD;
use halation_vlbi::ring::passes_ring_gate;
use halation_vlbi::sources::SourceSimulator;
use rayon::prelude::*;
use serde::Serialize;
use std::ops::Range;

/// A share of images and how well that many images fix it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    /// Between 0 and 1.
    pub share: f64,
    /// Standard deviation of the share behind these counts, for a flat prior: sqrt(q (1 - q) / (n + 3)) with q = (k + 1) / (n + 2), the
    /// binomial error for large counts and never zero.
    pub error: f64,
    /// Images.
    pub images: usize,
}

impl Share {
    fn of(passed: usize, images: usize) -> Self {
        let (k, n) = (passed as f64, images as f64);
        let q = (k + 1.0) / (n + 2.0);
        Self { share: k / n, error: (q * (1.0 - q) / (n + 3.0)).sqrt(), images }
    }

    fn count(passed: impl Iterator<Item = bool> + Clone) -> Self {
        Self::of(passed.clone().filter(|p| *p).count(), passed.count())
    }

    /// `17.2 +- 1.7 %`.
    pub fn percent(&self) -> String {
        format!("{:5.1} +- {:.1} %", 100.0 * self.share, 100.0 * self.error)
    }
}

/// The shares of one prior and its simulator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct RingShares {
    /// The one field of `prior` and `simulator`, microarcsec.
    pub fov_uas: f64,
    /// Samples of the prior. They are images in pixels and have no field of their own.
    pub prior: Share,
    /// Images of the simulator, all in the one field.
    pub simulator: Share,
    /// Images of the simulator, each in its own field.
    pub simulator_own_fields: Share,
    /// Images of the simulator that are labelled a closed ring, before blur.
    pub simulator_label: Share,
}

/// The shares of `samples` (z = 2u - 1, one image of the simulator's size after another) and of the images `indices` of the simulator;
/// `each` is called after every image.
pub(super) fn ring_shares(
    samples: &[f32],
    simulator: &SourceSimulator,
    indices: Range<u64>,
    fov_rad: f64,
    each: impl Fn() + Sync,
) -> anyhow::Result<RingShares> {
    let size = simulator.size();
    ensure!(!samples.is_empty() && !indices.is_empty(), "no images to count rings in");
    let sampled: Vec<bool> = samples
        .par_chunks_exact(size * size)
        .map(|z| {
            let u: Vec<f32> = z.iter().map(|z| 0.5 * (z + 1.0)).collect();
            let passed = passes_ring_gate(&u, size, fov_rad);
            each();
            passed
        })
        .collect::<Result<_, _>>()?;
    let simulated: Vec<[bool; 3]> = indices
        .into_par_iter()
        .map(|index| {
            let (p, u) = simulator.image(index);
            let own = passes_ring_gate(&u, size, p.fov_uas * MICROARCSECOND_RAD)?;
            let passed = [passes_ring_gate(&u, size, fov_rad)?, own, p.has_ring];
            each();
            Ok(passed)
        })
        .collect::<Result<_, halation_vlbi::Error>>()?;
    let of = |which: usize| Share::count(simulated.iter().map(move |s| s[which]));
    Ok(RingShares {
        fov_uas: fov_rad / MICROARCSECOND_RAD,
        prior: Share::count(sampled.iter().copied()),
        simulator: of(0),
        simulator_own_fields: of(1),
        simulator_label: of(2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error is the binomial one for large counts and finite where all or none pass.
    #[test]
    fn errors_of_shares() {
        let share = Share::of(2000, 10_000);
        assert!((share.share - 0.2).abs() < 1e-12 && (share.error / (0.2f64 * 0.8 / 10_000.0).sqrt() - 1.0).abs() < 1e-3);
        // One in two of n + 2 = 12 trials: the deviation of Beta(1, 11).
        assert!((Share::of(0, 10).error - (11.0f64 / (144.0 * 13.0)).sqrt()).abs() < 1e-12);
        assert!((Share::of(0, 10).error - Share::of(10, 10).error).abs() < 1e-12);
        assert_eq!(Share::of(86, 500).percent(), " 17.2 +- 1.7 %");
    }

    /// Samples that are the simulator's images have the simulator's share, which is that of `halation simulate sources --ring-gate`.
    #[test]
    fn images_of_the_simulator_as_samples() {
        let simulator = SourceSimulator::new(5, 64).unwrap();
        let fov_rad = 128.0 * MICROARCSECOND_RAD;
        let mut samples = vec![0.0; 12 * 64 * 64];
        for (i, out) in samples.chunks_exact_mut(64 * 64).enumerate() {
            halation_nn::ImageSource::fill(&simulator, i as u64, out).unwrap();
        }
        let shares = ring_shares(&samples, &simulator, 0..12, fov_rad, || ()).unwrap();
        assert_eq!(shares.prior, shares.simulator);
        let labels = (0..12).filter(|i| simulator.parameters(*i).has_ring).count();
        assert_eq!(shares.simulator_label.share, labels as f64 / 12.0);
        let own = (0..12).filter(|i| {
            let (p, u) = simulator.image(*i);
            passes_ring_gate(&u, 64, p.fov_uas * MICROARCSECOND_RAD).unwrap()
        });
        assert_eq!(shares.simulator_own_fields.share, own.count() as f64 / 12.0);
        assert!(shares.simulator_own_fields.share > 0.0);
        assert!(ring_shares(&[], &simulator, 0..12, fov_rad, || ()).is_err());
    }
}
