//! What solvers with two populations have in common, and what every label says of a bad fit.

use crate::agreement::{self, Agreement};
use crate::numeric::systematic;
use crate::{Error, Problem, Result};
use halation_compute::{Philox, Tensor};
use std::collections::BTreeSet;
use std::ops::Range;

/// A median reduced chi2 above this is said in the label: the largest that a result on real data may have (docs/m87.md).
const LARGEST_CHI2: f64 = 1.5;

/// Draws the log prior of which falls short of that of every prior sample by more than this are unlike the prior. Among images of M87* that fit alike it
/// differs by 60; structures that wrong descents have forced fall short by hundreds.
const UNLIKE: f64 = 100.0;

/// Particles of both populations together, an even number, where `wanted` are enough for `draws`.
pub(crate) fn particles(wanted: usize, draws: usize) -> Result<usize> {
    if draws == 0 {
        return Err(Error::Invalid("0 draws were asked for; expected at least one".into()));
    }
    if wanted < draws.max(4) {
        return Err(Error::Invalid(format!(
            "a population of {wanted} particles for {draws} draws; expected at least as many particles as draws, and four"
        )));
    }
    Ok(wanted.next_multiple_of(2))
}

/// Draws of a population hang together, so that a part of them cannot be made alone.
pub(crate) fn whole(solver: &str, draws: &Range<u64>) -> Result<()> {
    if draws.start == 0 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{solver} draws from one population, which has no parts: start at draw 0 and use another seed for more"
    )))
}

/// How many draws each population gives.
pub(crate) fn shares(draws: usize) -> [usize; 2] {
    [draws.div_ceil(2), draws / 2]
}

/// The number of different values.
pub(crate) fn distinct(values: &[u64]) -> usize {
    values.iter().collect::<BTreeSet<_>>().len()
}

/// States that are not finite stop a run.
pub(crate) fn finite(states: &Tensor, sigma: f64) -> Result<()> {
    match (0..states.draws()).find(|i| states.item(*i).iter().any(|v| !v.is_finite())) {
        Some(i) => Err(Error::Numerical(format!("particle {i} is not finite at noise level {sigma}"))),
        None => Ok(()),
    }
}

/// Which particles stand: those the weight (a logarithm) of which falls short of the best of their population, or of the `two`, by no more than `ruled_out`.
/// A population of which nothing stands is lost: the other's stand in its place.
pub(crate) fn standing(weights: &[f64], ruled_out: f64, two: bool) -> ([Vec<usize>; 2], Option<usize>) {
    let half = weights.len() / 2;
    let mut kept = [0, half].map(|first| {
        let members = first..first + half;
        let rivals = if two { weights } else { &weights[members.clone()] };
        let least = rivals.iter().copied().fold(f64::NEG_INFINITY, f64::max) - ruled_out;
        members.filter(|i| weights[*i] >= least).collect::<Vec<_>>()
    });
    let lost = replace_lost(&mut kept);
    (kept, lost)
}

/// The population of which nothing stands, if any, after the other's particles have been put in its place.
pub(crate) fn replace_lost(kept: &mut [Vec<usize>; 2]) -> Option<usize> {
    let lost = kept.iter().position(Vec::is_empty);
    if let Some(p) = lost {
        kept[p] = kept[1 - p].clone();
    }
    lost
}

/// Which particles go on where those of each population that stand are copied in the place of the others, all with equal weight: `half` a population.
pub(crate) fn copies(kept: &[Vec<usize>; 2], half: usize, rng: Philox, step: usize) -> Vec<usize> {
    let of = |(p, kept): (usize, &Vec<usize>)| {
        let u = rng.sequence(p as u64, step as u32).uniform();
        systematic(&vec![0.0; kept.len()], half, u).into_iter().map(|i| kept[i]).collect::<Vec<_>>()
    };
    kept.iter().enumerate().flat_map(of).collect()
}

/// What two populations end with.
pub(crate) struct Ended<'a> {
    /// The images of both, one population after the other.
    pub x: &'a Tensor,
    /// Which stand, and the population of which none does, so that the other's stand for it.
    pub kept: [Vec<usize>; 2],
    pub lost_now: Option<usize>,
    /// The population that was lost at an earlier choice.
    pub lost_before: Option<usize>,
    pub ancestors: &'a [u64],
    pub log_prior: &'a [f64],
    /// Lowest log prior of prior samples.
    pub known: f64,
}

/// The draws that are returned.
pub(crate) struct Returned {
    pub index: Vec<usize>,
    pub images: Tensor,
    pub ancestors: Vec<u64>,
    /// With the label, which says first what a user must not miss and `method` last.
    pub attributes: Vec<(String, String)>,
}

impl Ended<'_> {
    /// `draws` of those that stand.
    pub fn draw(&self, problem: &Problem, draws: usize, method: &str, rng: Philox) -> Result<Returned> {
        let shares = shares(draws);
        let lost = self.lost_before.or(self.lost_now);
        // Evenly from those that stand: copies of one state stand side by side. Both shares are of the same particles where a population is lost.
        let (of, offsets) = if self.lost_now.is_some() { (draws, [0, shares[0]]) } else { (shares[0], [0, 0]) };
        let taken = |p: usize, i: usize| {
            let (i, n) = (offsets[p] + i, self.kept[p].len());
            self.kept[p][if n >= of { i * n / of } else { i % n }]
        };
        let index: Vec<usize> = (0..2).flat_map(|p| (0..shares[p]).map(move |i| (p, i))).map(|(p, i)| taken(p, i)).collect();
        let images = self.x.select(&index)?;
        let ancestors: Vec<u64> = index.iter().map(|i| self.ancestors[*i]).collect();
        let particles: Vec<u64> = index.iter().map(|i| *i as u64).collect();
        let repeats = draws - distinct(&particles);
        // All that stand are compared, not only those that are returned; populations that have met prove nothing.
        let agreement = if lost.is_none() {
            let all: Vec<usize> = self.kept.concat();
            let each: Vec<u64> = all.iter().map(|i| *i as u64).collect();
            Some(agreement::compare(&self.x.select(&all)?, self.kept[0].len(), &each, rng)?)
        } else {
            None
        };
        let verdict = match &agreement {
            None => "ONE OF TWO POPULATIONS FOUND NOTHING THAT FITS AS WELL, so that the other's structure is not confirmed",
            Some(agreement) if agreement.agree() => "two populations agree",
            Some(_) => "two populations do not agree: THE SPREAD SHOWN IS TOO SMALL",
        };
        let misfit = misfit_said(problem, &images)?;
        let unlike = index.iter().filter(|i| self.log_prior[**i] < self.known - UNLIKE).count();
        let unlike_said =
            if unlike == 0 { String::new() } else { format!("{unlike} of {draws} draws ARE UNLIKE ANY IMAGE OF THE PRIOR; ") };
        let repeated = if repeats == 0 { String::new() } else { format!("; {repeats} of {draws} draws repeat others") };
        let mut attributes = vec![
            ("label".into(), format!("{misfit}{unlike_said}{verdict}{repeated}; {method}")),
            ("lowest_log_prior_of_prior_samples".into(), format!("{:.3}", self.known)),
            ("draws_unlike_prior".into(), unlike.to_string()),
        ];
        attributes.extend(self::attributes(self.x.draws(), &ancestors, agreement.as_ref()));
        Ok(Returned { index, images, ancestors, attributes })
    }
}

/// What every output says of its populations: `ancestors` are those of the draws, the first population's share first; without an `agreement`
/// the populations were not compared.
pub(crate) fn attributes(particles: usize, ancestors: &[u64], agreement: Option<&Agreement>) -> Vec<(String, String)> {
    let [first, second] = shares(ancestors.len());
    let (a, b) = ancestors.split_at(first);
    let mut out = vec![
        ("particles".into(), particles.to_string()),
        ("distinct_ancestors".into(), format!("{} {}", distinct(a), distinct(b))),
        ("populations_draws".into(), format!("{first} {second}")),
    ];
    // For programs: labels are sentences.
    let agree = agreement.map_or("not compared", |a| if a.agree() { "yes" } else { "no" });
    out.push(("populations_agree".into(), agree.into()));
    if let Some(agreement) = agreement {
        let statistic = format!("{:.6} along {} directions", agreement.statistic, agreement.directions);
        out.push(("populations_statistic".into(), statistic));
        out.push(("populations_p_value".into(), format!("{:.4}", agreement.p_value)));
    }
    out
}

/// How a label begins where `images` miss the data, of one product or several, by more than the noise; empty where they do not.
pub(crate) fn misfit_said(problem: &Problem, images: &Tensor) -> Result<String> {
    let far = problem.median_chi2(images)?.into_iter().filter(|(_, chi2)| *chi2 > LARGEST_CHI2);
    let far: Vec<String> = far.map(|(product, chi2)| format!("median reduced chi2 of {product} is {chi2:.2}")).collect();
    Ok(if far.is_empty() { String::new() } else { format!("DOES NOT FIT THE DATA ({}); ", far.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{g1, problem};
    use crate::{DenseOperator, LinearGaussianLikelihood};
    use halation_lapack as _;
    use ndarray::arr2;

    /// States go against the best of their own population or, where the two meet, of both; a population that is lost has the other's.
    #[test]
    fn what_is_ruled_out_goes() {
        let weights = [-70.0, -160.0, -322.0, -440.0];
        assert_eq!(standing(&weights, 100.0, false), ([vec![0, 1], vec![2]], None));
        assert_eq!(standing(&weights, 100.0, true), ([vec![0, 1], vec![0, 1]], Some(1)));
        assert_eq!(standing(&weights, 200.0, false), ([vec![0, 1], vec![2, 3]], None));
        assert_eq!(standing(&[-70.0, -180.0, -92.0, -410.0], 100.0, true), ([vec![0], vec![2]], None));
    }

    /// The label warns of a median reduced chi2 above 1.5, and of none below it.
    #[test]
    fn misfit_is_said_above_one_and_a_half() {
        let operator = DenseOperator::new([1, 1, 2], arr2(&[[1.0, 0.5]]).view()).unwrap();
        let likelihood = LinearGaussianLikelihood::new(operator, vec![0.9], vec![0.3]).unwrap();
        let prior = g1();
        let problem = problem(&prior, prior.range(), &likelihood);
        // Draws whose one datum is missed by sqrt(chi2) standard deviations; the largest does not count, the median does.
        let said = |chi2: f64| {
            let draws = [chi2, chi2, 100.0].into_iter().flat_map(|c| [(0.9 - 0.3 * c.sqrt()) as f32, 0.0]).collect();
            misfit_said(&problem, &Tensor::from_vec(&[3, 1, 1, 2], draws).unwrap()).unwrap()
        };
        assert_eq!(said(1.45), "");
        assert_eq!(said(1.7), "DOES NOT FIT THE DATA (median reduced chi2 of data is 1.70); ");
    }
}
