//! What particles of one structure hold together.

/// Scatter of a log weight by the noise images with which its trace is estimated.
const NOISE: f64 = 3.0;
/// A family is ruled out by another that holds more by this many standard errors of the difference
const CERTAIN: f64 = 3.0;
/// and this, as a logarithm: a hundred times as much.
const NEGLIGIBLE: f64 = 4.6;

/// Families of particles. Descents that draw the details alone anew keep the structure, so that the particles which descend from one state since then
/// share it, and their log weights scatter about one number: the logarithm of what the posterior holds in that structure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Families {
    /// That of every particle.
    pub of: Vec<u64>,
    /// Of every family the number of log weights that have been seen, their sum, and that of their squares.
    pub seen: Vec<[f64; 3]>,
}

impl Families {
    /// Nothing is known yet of the families of all particles.
    pub fn new(of: Vec<u64>) -> Self {
        let n = of.len();
        Self { of, seen: vec![[0.0; 3]; n] }
    }

    /// Counts the log weights of the particles `index`.
    pub fn add(&mut self, log_weight: &[f64], index: impl Iterator<Item = usize>) {
        for i in index {
            let w = log_weight[i];
            let seen = &mut self.seen[self.of[i] as usize];
            *seen = [seen[0] + 1.0, seen[1] + w, seen[2] + w * w];
        }
    }

    /// Which of the particles `index` belong to families that are ruled out by that of one of the particles `by`; all of them have been counted. Those that
    /// went rule nothing out, however good their families were before, so that of all that stand some always stay.
    ///
    /// The mean of a family's log weights errs by their scatter, which is measured within families, and of a posterior with `open` open degrees of freedom is
    /// sqrt(open / 2) at least. What differs by no more than chance stays.
    pub fn ruled_out(&self, index: &[usize], by: &[usize], open: f64) -> Vec<bool> {
        let total = |f: &dyn Fn(&[f64; 3]) -> f64| self.seen.iter().filter(|s| s[0] > 0.0).map(f).sum::<f64>();
        let within = total(&|s| (s[2] - s[1] * s[1] / s[0]).max(0.0)) / total(&|s| s[0] - 1.0).max(1.0);
        let scatter = within.max(0.5 * open + NOISE * NOISE);
        let ruled_out = |a: [f64; 3], b: [f64; 3]| {
            b[1] / b[0] - a[1] / a[0] > CERTAIN * (scatter * (1.0 / a[0] + 1.0 / b[0])).sqrt() + NEGLIGIBLE
        };
        let of = |i: usize| self.seen[self.of[i] as usize];
        index.iter().map(|i| by.iter().any(|j| ruled_out(of(*i), of(*j)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_compute::Philox;
    use halation_lapack as _;

    /// What differs by chance alone stays; what holds less by far more goes, the sooner the more is known.
    #[test]
    fn ruled_out_beyond_chance() {
        let ruled_out = |held: &[f64], each: usize, open: f64| {
            let mut rng = Philox::new(7).sequence(0, 0);
            let of: Vec<u64> = (0..each * held.len()).map(|i| (i / each) as u64).collect();
            let weights: Vec<f64> = of.iter().map(|f| -300.0 + held[*f as usize] + 6.0 * rng.normal()).collect();
            let n = weights.len();
            let mut families = Families::new(of);
            families.add(&weights, 0..n);
            let firsts: Vec<usize> = (0..n).step_by(each).collect();
            families.ruled_out(&firsts, &firsts, open)
        };
        assert_eq!(ruled_out(&[0.0; 12], 1, 60.0), [false; 12]);
        assert_eq!(ruled_out(&[0.0; 12], 4, 60.0), [false; 12]);
        let worse = [0.0, 0.0, -25.0, 0.0];
        assert_eq!(ruled_out(&worse, 1, 60.0), [false; 4]);
        assert_eq!(ruled_out(&worse, 4, 60.0), [false, false, true, false]);
        assert_eq!(ruled_out(&[0.0, 50.0], 1, 60.0), [true, false]);
        // With so many degrees of freedom open that log weights scatter by more, it is chance again.
        assert_eq!(ruled_out(&worse, 4, 2000.0), [false; 4]);
    }
}
