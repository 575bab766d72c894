//! The noise levels of all descents, in pixel ranges.

use halation_nn::schedule::geometric;

/// Where the first descent starts: of a prior sample only the rough structure is left.
pub(super) const TOP: f64 = 2.0;
/// Where descents start: first, second and third.
const ROUGH: [f64; 3] = [TOP, 1.0, 0.5];
/// Where all others start. Of the image all but the details is kept.
const DETAILS: f64 = 0.1;
/// Where the first three end, unless they are the last: the structure is decided, and the linearisation good.
pub(super) const BOTTOM: f64 = 0.05;
/// At and below this noise the likelihood is taken at the noisy state itself.
pub(super) const TURN: f64 = 0.03;
/// Where all other descents end.
pub(super) const LAST: f64 = 0.01;
/// How dense the levels from `DETAILS` down are in the last descent and in the one before it, over those of others.
const DENSITY: [f64; 2] = [4.0, 1.5];

/// One descent in units of the noise.
#[derive(Clone, Debug)]
pub(super) struct Descent {
    /// Index of its first level.
    pub first: usize,
    /// Numbers of levels from its start to `DETAILS`, from there until the turn (or the end, where it does not turn), and from there to the end.
    pub counts: [usize; 3],
}

impl Descent {
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// The share of every descent of `levels` levels, by their lengths in ln sigma and their density; `restarts` follow the first.
pub(super) fn descents(levels: usize, restarts: usize) -> Vec<Descent> {
    let lengths: Vec<[f64; 3]> = (0..=restarts)
        .map(|i| {
            let from = ROUGH.get(i).copied().unwrap_or(DETAILS);
            let rough = (from / DETAILS).ln();
            if i < restarts && i < ROUGH.len() {
                return [rough, (DETAILS / BOTTOM).ln(), 0.0];
            }
            let density = DENSITY.get(restarts - i).copied().unwrap_or(1.0);
            [rough, density * (DETAILS / TURN).ln(), density * (TURN / LAST).ln()]
        })
        .collect();
    let total: f64 = lengths.iter().flatten().sum();
    let mut first = 0;
    let mut left = levels;
    let mut share = total;
    lengths
        .iter()
        .enumerate()
        .map(|(i, length)| {
            // Four levels at least for each that follows.
            let of_all = length.iter().sum::<f64>();
            let n = ((left as f64 * of_all / share).round() as usize).clamp(4, left - 4 * (restarts - i));
            let part = |length: f64, n: usize| (n as f64 * length / of_all).round() as usize;
            let settled = if length[2] > 0.0 { part(length[2], n).clamp(2, n - 2) } else { 0 };
            let rough = if length[0] > 0.0 { part(length[0], n).clamp(1, n - settled - 1) } else { 0 };
            let descent = Descent { first, counts: [rough, n - settled - rough, settled] };
            (first, left, share) = (first + n, left - n, share - of_all);
            descent
        })
        .collect()
}

/// The noise levels of descent `i`, over the pixel range, that turns at `turn`.
pub(super) fn sigmas(i: usize, descent: &Descent, turn: f64) -> Vec<f64> {
    let from = ROUGH.get(i).copied().unwrap_or(DETAILS);
    let [rough, middle, settled] = descent.counts;
    let open = |from: f64, to: f64, n: usize| geometric(from, to, n + 1).into_iter().take(n);
    let mut sigmas: Vec<f64> = if rough > 0 { open(from, DETAILS, rough).collect() } else { Vec::new() };
    if settled > 0 {
        sigmas.extend(open(DETAILS, turn, middle));
        sigmas.extend(geometric(turn, LAST.min(0.5 * turn), settled));
    } else if middle > 1 {
        sigmas.extend(geometric(DETAILS, BOTTOM, middle));
    } else {
        sigmas.push(BOTTOM);
    }
    sigmas
}
