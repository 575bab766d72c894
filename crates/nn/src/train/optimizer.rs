use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Elements that one task updates; sums over the parameters run in pieces of this size, so that they do not depend on threads.
const PIECE: usize = 1 << 15;

/// How the moments of the gradient become a step; beta 0.9 and 0.999, epsilon 1e-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1).
    #[default]
    Adam,
    /// Rectified Adam (Liu et al. 2020, arXiv:1908.03265, algorithm 2): the first steps, when the second moment is not known yet, go along the
    /// first moment alone, later ones are shortened by how well it is known.
    Radam,
}

impl Optimizer {
    /// The factor on the first moment and the one on the root of the second moment by which a parameter moves at step `t` (from 1); none for
    /// the second where the step does not divide by the root.
    fn factors(self, rate: f64, t: i32) -> (f64, Option<f64>) {
        let beta2 = 0.999f64;
        let (correct1, correct2) = (1.0 - 0.9f64.powi(t), 1.0 - beta2.powi(t));
        let root = 1.0 / correct2.sqrt();
        if self == Optimizer::Adam {
            return (rate / correct1, Some(root));
        }
        // Length of the average that the second moment is: in the end, and at step t.
        let last = 2.0 / (1.0 - beta2) - 1.0;
        let length = last - 2.0 * t as f64 * beta2.powi(t) / correct2;
        // The variance of the step is finite from a length of 4 on; the paper's own code rectifies from 5 on.
        if length < 5.0 {
            return (rate / correct1, None);
        }
        let rectified = (length - 4.0) * (length - 2.0) * last / ((last - 4.0) * (last - 2.0) * length);
        (rate * rectified.sqrt() / correct1, Some(root))
    }
}

/// The first and second moments of the gradient.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Adam {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    pub steps: u64,
}

impl Adam {
    pub fn new(parameters: usize) -> Self {
        Self { first: vec![0.0; parameters], second: vec![0.0; parameters], steps: 0 }
    }

    /// One step with gradients `g` times `scale`. Each parameter is first shrunk by `rate` times `decay` of itself, outside of the moments
    /// (decoupled weight decay: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).
    pub fn step(&mut self, optimizer: Optimizer, theta: &mut [f32], g: &[f32], scale: f64, rate: f64, decay: f64) {
        self.steps += 1;
        let (step, root) = optimizer.factors(rate, self.steps.min(i32::MAX as u64) as i32);
        let (step, root, kept) = (step as f32, root.map(|r| r as f32), (1.0 - rate * decay) as f32);
        let scale = scale as f32;
        let moments = self.first.par_chunks_mut(PIECE).zip(self.second.par_chunks_mut(PIECE));
        moments.zip(theta.par_chunks_mut(PIECE)).zip(g.par_chunks(PIECE)).for_each(|(((m, v), theta), g)| {
            for (((m, v), theta), g) in m.iter_mut().zip(v).zip(theta).zip(g) {
                let g = g * scale;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let along = step * *m;
                *theta = *theta * kept - root.map_or(along, |root| along / (v.sqrt() * root + 1e-8));
            }
        });
    }
}

/// Euclidean norm.
pub(crate) fn norm(g: &[f32]) -> f64 {
    let pieces: Vec<f64> = g.par_chunks(PIECE).map(|g| g.iter().map(|v| (*v as f64).powi(2)).sum()).collect();
    pieces.iter().sum::<f64>().sqrt()
}

/// average = keep average + (1 - keep) theta.
pub(crate) fn average(average: &mut [f32], theta: &[f32], keep: f64) {
    let share = (1.0 - keep) as f32;
    average.par_chunks_mut(PIECE).zip(theta.par_chunks(PIECE)).for_each(|(a, t)| {
        a.iter_mut().zip(t).for_each(|(a, t)| *a += share * (t - *a));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first step of Adam is -rate sign(g) (bias corrections cancel the betas), whatever the scale of g.
    #[test]
    fn first_step_is_the_sign() {
        let mut adam = Adam::new(3);
        let mut theta = [1.0, 2.0, 3.0];
        adam.step(Optimizer::Adam, &mut theta, &[1e-3, -50.0, 0.0], 0.5, 0.1, 0.0);
        for (found, expected) in theta.iter().zip([0.9, 2.1, 3.0]) {
            assert!((found - expected).abs() < 1e-5, "{theta:?}");
        }
    }

    /// A second step against the algorithm written out in f64.
    #[test]
    fn second_step_follows_the_algorithm() {
        let (g1, g2, rate) = (0.3f64, -0.1f64, 0.01);
        let mut adam = Adam::new(1);
        let mut theta = [0.0];
        adam.step(Optimizer::Adam, &mut theta, &[g1 as f32], 1.0, rate, 0.0);
        adam.step(Optimizer::Adam, &mut theta, &[g2 as f32], 1.0, rate, 0.0);
        let m = 0.9 * 0.1 * g1 + 0.1 * g2;
        let v = 0.999 * 0.001 * g1 * g1 + 0.001 * g2 * g2;
        let expected = -rate - rate * (m / (1.0 - 0.81)) / ((v / (1.0 - 0.999f64.powi(2))).sqrt() + 1e-8);
        assert!((theta[0] as f64 - expected).abs() < 1e-7, "{} {expected}", theta[0]);
    }

    /// Decay shrinks parameters alone: without a gradient by the same factor each step, and with one by as much as the step is without it.
    #[test]
    fn weight_decay_is_decoupled() {
        for optimizer in [Optimizer::Adam, Optimizer::Radam] {
            let mut adam = Adam::new(1);
            let mut theta = [2.0];
            (0..10).for_each(|_| adam.step(optimizer, &mut theta, &[0.0], 1.0, 0.1, 0.5));
            assert!((theta[0] - 2.0 * 0.95f32.powi(10)).abs() < 1e-6 && adam.first == [0.0], "{theta:?}");
            let (mut with, mut without, mut twin) = ([2.0], [2.0], adam.clone());
            adam.step(optimizer, &mut with, &[3.0], 1.0, 0.1, 0.5);
            twin.step(optimizer, &mut without, &[3.0], 1.0, 0.1, 0.0);
            assert!((without[0] - with[0] - 0.1).abs() < 1e-6 && adam == twin, "{with:?} {without:?}");
        }
    }

    /// Against the algorithm as its paper writes it, step by step in f64: without the second moment in the first five steps, then
    /// shortened, by less and less.
    #[test]
    fn rectified_steps() {
        let mut adam = Adam::new(1);
        let (mut theta, mut expected) = ([1.0], 1.0);
        let (mut m, mut v, mut before) = (0.0, 0.0, 0.0);
        for t in 1..=3000 {
            let g = (0.7 * t as f64).sin() + 0.3;
            adam.step(Optimizer::Radam, &mut theta, &[g as f32], 1.0, 1e-3, 0.0);
            (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let corrected = m / (1.0 - 0.9f64.powi(t));
            let length = 1999.0 - 2.0 * t as f64 * 0.999f64.powi(t) / (1.0 - 0.999f64.powi(t));
            let (_, root) = Optimizer::Radam.factors(1e-3, t);
            assert_eq!(root.is_some(), t > 5, "{t}: {length}");
            expected -= if t > 5 {
                let r = ((length - 4.0) * (length - 2.0) * 1999.0 / (1995.0 * 1997.0 * length)).sqrt();
                assert!(r > before && r < 1.0, "{t}: {r}");
                before = r;
                1e-3 * r * corrected / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8)
            } else {
                1e-3 * corrected
            };
            // Each step rounds in f32, in theta and in the moments.
            assert!((theta[0] as f64 - expected).abs() < 1e-7 * (10.0 + t as f64), "{t}: {} {expected}", theta[0]);
        }
        assert!(before > 0.9, "{before}");
    }

    #[test]
    fn averages_halve_the_distance_in_a_half_life() {
        let mut a = [0.0, 4.0];
        (0..10).for_each(|_| average(&mut a, &[1.0, 1.0], 0.5f64.powf(0.1)));
        assert!((a[0] - 0.5).abs() < 1e-6 && (a[1] - 2.5).abs() < 1e-6, "{a:?}");
    }
}
