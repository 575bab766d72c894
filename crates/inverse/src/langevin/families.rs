//! What particles of one structure hold together.

use crate::numeric::log_sum_exp;

/// Scatter of a log weight by the noise images with which its trace is estimated.
const NOISE: f64 = 3.0;

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

    /// The logarithm of what every family holds, over the mean of all; 0 where nothing was seen.
    ///
    /// The mean of a family's log weights errs by their scatter, which is measured within families, and of a posterior with `open` open degrees of freedom is
    /// sqrt(open / 2) at least. How much families differ beyond that is estimated as the variance of random effects (DerSimonian & Laird 1986, Controlled
    /// Clinical Trials 7, 177), and every mean is drawn towards that of all by its share: families that differ by no more than chance are taken as equal.
    pub fn log_evidence(&self, open: f64) -> Vec<f64> {
        let seen: Vec<&[f64; 3]> = self.seen.iter().filter(|s| s[0] > 0.0).collect();
        let total = |f: &dyn Fn(&[f64; 3]) -> f64| seen.iter().map(|s| f(s)).sum::<f64>();
        let freedom = total(&|s| s[0] - 1.0);
        let within = total(&|s| (s[2] - s[1] * s[1] / s[0]).max(0.0)) / freedom.max(1.0);
        let scatter = within.max(0.5 * open + NOISE * NOISE);
        let n = total(&|s| s[0]);
        let mean = total(&|s| s[1]) / n.max(1.0);
        let heterogeneity = total(&|s| s[0] * (s[1] / s[0] - mean).powi(2)) / scatter;
        let excess = heterogeneity - (seen.len() as f64 - 1.0);
        let size = n - total(&|s| s[0] * s[0]) / n.max(1.0);
        let between = if excess > 0.0 && size > 0.0 { excess * scatter / size } else { 0.0 };
        // The mean of the families, as sharp as each is known.
        let share = |s: &[f64; 3]| between / (between + scatter / s[0]);
        let centre = if between > 0.0 { total(&|s| share(s) * s[1] / s[0]) / total(&|s| share(s)) } else { mean };
        self.seen.iter().map(|s| if s[0] > 0.0 && between > 0.0 { share(s) * (s[1] / s[0] - centre) } else { 0.0 }).collect()
    }

    /// Of the particles `index` the logarithm of the weight that gives every family what it holds, shared by those of its particles that are among them.
    pub fn log_weights(&self, log_evidence: &[f64], index: &[usize]) -> Vec<f64> {
        let members = |family: u64| index.iter().filter(|i| self.of[**i] == family).count() as f64;
        index.iter().map(|i| log_evidence[self.of[*i] as usize] - members(self.of[*i]).ln()).collect()
    }

    /// The logarithm of what the families of the particles `index` hold.
    pub fn held(&self, log_evidence: &[f64], index: &[usize]) -> f64 {
        log_sum_exp(&self.log_weights(log_evidence, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_compute::Philox;
    use halation_lapack as _;

    /// Families of four with log weights that scatter by 6 about what they hold.
    fn families(held: &[f64]) -> Families {
        let mut rng = Philox::new(7).sequence(0, 0);
        let of: Vec<u64> = (0..4 * held.len()).map(|i| i as u64 / 4).collect();
        let weights: Vec<f64> = of.iter().map(|f| -300.0 + held[*f as usize] + 6.0 * rng.normal()).collect();
        let mut families = Families::new(of);
        families.add(&weights, 0..weights.len());
        families
    }

    /// What differs by chance alone is taken as nearly equal; what differs by far more is told.
    #[test]
    fn evidence_beyond_chance() {
        let alike = families(&[0.0; 8]).log_evidence(30.0);
        assert!(alike[..8].iter().all(|e| e.abs() < 1.5), "{alike:?}");
        assert!(alike[8..].iter().all(|e| *e == 0.0));
        let told = families(&[0.0, 0.0, 30.0, 0.0, -20.0]).log_evidence(30.0);
        assert!((told[2] - told[0] - 30.0).abs() < 9.0 && (told[4] - told[0] + 20.0).abs() < 9.0, "{told:?}");
        // With so many degrees of freedom open that samples scatter by more, it is chance again.
        let open = families(&[0.0, 0.0, 30.0, 0.0, -20.0]).log_evidence(20_000.0);
        assert!(open.iter().all(|e| *e == 0.0), "{open:?}");
    }

    /// A family's weight does not depend on how many of its particles there are.
    #[test]
    fn families_weigh_what_they_hold() {
        let families = Families::new(vec![0, 0, 0, 3, 4]);
        let evidence = [2.0, 0.0, 0.0, 1.0, -1.0];
        let weights = families.log_weights(&evidence, &[0, 1, 2, 3]);
        assert!((log_sum_exp(&weights[..3]) - 2.0).abs() < 1e-12 && weights[3] == 1.0);
        assert!((families.held(&evidence, &[3, 4]) - (1f64.exp() + (-1f64).exp()).ln()).abs() < 1e-12);
    }
}
