//! The minimal sets of triangles and quadrangles that ehtim reports chi2 on, beside our complete ones. They miss closures as soon
//! as a baseline of the reference station is missing.

use crate::Visibility;
use crate::closures::{ClosureAmplitude, Cycle};

/// All triangles of present baselines through the reference station: the one with the largest summed S/N.
pub fn minimal_triangles(visibilities: &[Visibility]) -> Vec<Cycle> {
    let stations = by_snr(visibilities);
    let mut out = Vec::new();
    for j in 1..stations.len() {
        for i in j + 1..stations.len() {
            let walk = [stations[0], stations[j], stations[i]];
            let legs = (0..3).map(|s| find(visibilities, walk[s], walk[(s + 1) % 3])).collect::<Option<Vec<_>>>();
            if let Some(legs) = legs {
                out.push(Cycle { legs, stations: walk.to_vec() });
            }
        }
    }
    out
}

/// N(N-3)/2 quadrangles (reference, i, j, k) of N stations where all four baselines are present:
/// ln|V(0,i)| + ln|V(j,k)| - ln|V(0,k)| - ln|V(i,j)| with 3 <= i < N, 1 <= j < i, k = 1 if j = i-1 and j+1 otherwise.
pub fn minimal_quadrangles(visibilities: &[Visibility]) -> Vec<ClosureAmplitude> {
    let s = by_snr(visibilities);
    let mut out = Vec::new();
    for i in 3..s.len() {
        for j in 1..i {
            let k = if j == i - 1 { 1 } else { j + 1 };
            let pairs = [(s[0], s[i], 1.0), (s[j], s[k], 1.0), (s[0], s[k], -1.0), (s[i], s[j], -1.0)];
            let legs = pairs.iter().map(|&(a, b, w)| Some((find(visibilities, a, b)?.0, w))).collect::<Option<Vec<_>>>();
            out.extend(legs.map(|legs| ClosureAmplitude { legs }));
        }
    }
    out
}

/// The stations present, largest summed S/N first.
fn by_snr(visibilities: &[Visibility]) -> Vec<usize> {
    let mut stations: Vec<usize> = visibilities.iter().flat_map(|v| [v.station1, v.station2]).collect();
    stations.sort_unstable();
    stations.dedup();
    let snr = |s: usize| visibilities.iter().filter(|v| v.station1 == s || v.station2 == s).map(Visibility::snr).sum::<f64>();
    let mut ranked: Vec<(usize, f64)> = stations.into_iter().map(|s| (s, snr(s))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.into_iter().map(|(s, _)| s).collect()
}

/// The visibility from `a` to `b` and its sign in that direction.
fn find(visibilities: &[Visibility], a: usize, b: usize) -> Option<(usize, f64)> {
    visibilities.iter().enumerate().find_map(|(k, v)| match (v.station1, v.station2) {
        pair if pair == (a, b) => Some((k, 1.0)),
        pair if pair == (b, a) => Some((k, -1.0)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::visibility;

    #[test]
    fn counts_and_gain_cancellation() {
        for n in 3..8 {
            let mut g = Vec::new();
            for a in 0..n {
                for b in a + 1..n {
                    g.push(visibility(0.0, a, b, 0, (1.0, 0.0), (1e9, 0.0), 0.01 + 0.001 * (a * b) as f64));
                }
            }
            assert_eq!(minimal_triangles(&g).len(), (n - 1) * (n - 2) / 2);
            let quads = minimal_quadrangles(&g);
            assert_eq!(quads.len(), n * n.saturating_sub(3) / 2);
            for quad in quads {
                for station in 0..n {
                    let touches = |k: usize| g[k].station1 == station || g[k].station2 == station;
                    assert_eq!(quad.legs.iter().filter(|l| touches(l.0)).map(|l| l.1).sum::<f64>(), 0.0);
                }
            }
        }
    }
}
