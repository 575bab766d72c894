use rayon::prelude::*;

/// Elements that one task updates; sums over the parameters run in pieces of this size, so that they do not depend on threads.
const PIECE: usize = 1 << 15;

/// Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) with beta 0.9 and 0.999, epsilon 1e-8.
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

    /// One step with gradients `g` times `scale`.
    pub fn step(&mut self, theta: &mut [f32], g: &[f32], scale: f64, rate: f64) {
        self.steps += 1;
        let t = self.steps.min(i32::MAX as u64) as i32;
        let (correct1, correct2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
        let step = (rate / correct1) as f32;
        let root = (1.0 / correct2.sqrt()) as f32;
        let scale = scale as f32;
        let moments = self.first.par_chunks_mut(PIECE).zip(self.second.par_chunks_mut(PIECE));
        moments.zip(theta.par_chunks_mut(PIECE)).zip(g.par_chunks(PIECE)).for_each(|(((m, v), theta), g)| {
            for (((m, v), theta), g) in m.iter_mut().zip(v).zip(theta).zip(g) {
                let g = g * scale;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                *theta -= step * *m / (v.sqrt() * root + 1e-8);
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
        adam.step(&mut theta, &[1e-3, -50.0, 0.0], 0.5, 0.1);
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
        adam.step(&mut theta, &[g1 as f32], 1.0, rate);
        adam.step(&mut theta, &[g2 as f32], 1.0, rate);
        let m = 0.9 * 0.1 * g1 + 0.1 * g2;
        let v = 0.999 * 0.001 * g1 * g1 + 0.001 * g2 * g2;
        let expected = -rate - rate * (m / (1.0 - 0.81)) / ((v / (1.0 - 0.999f64.powi(2))).sqrt() + 1e-8);
        assert!((theta[0] as f64 - expected).abs() < 1e-7, "{} {expected}", theta[0]);
    }

    #[test]
    fn averages_halve_the_distance_in_a_half_life() {
        let mut a = [0.0, 4.0];
        (0..10).for_each(|_| average(&mut a, &[1.0, 1.0], 0.5f64.powf(0.1)));
        assert!((a[0] - 0.5).abs() < 1e-6 && (a[1] - 2.5).abs() < 1e-6, "{a:?}");
    }
}
