//! Complete sets of closure quantities of one integration.
//!
//! Station phases add a difference and station log-gains a sum to each baseline, so what is free of them is the cycle space of the
//! baseline graph for phases, and the null space of its unsigned incidence matrix for log-amplitudes (Blackburn et al. 2020,
//! ApJ 894, 31, sections 3 and 4, for complete graphs; here for any graph).

use crate::Visibility;

/// A closed walk over baselines: its closure phase is the sum of sign times the phase of each leg.
#[derive(Clone, Debug, PartialEq)]
pub struct Cycle {
    /// (index of the visibility in the integration, +1 or -1).
    pub legs: Vec<(usize, f64)>,
    /// The stations in the order of the walk, each once.
    pub stations: Vec<usize>,
}

/// An integer combination of log-amplitudes in which every station's gain cancels.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosureAmplitude {
    /// (index of the visibility in the integration, weight).
    pub legs: Vec<(usize, f64)>,
}

/// sigma^2 / |V|^2: the variance of the phase and of the log-amplitude at high S/N.
pub(crate) fn relative_variance(v: &Visibility) -> f64 {
    v.snr().powi(-2)
}

/// An integer basis of the cycle space of the baselines of one integration: N_b - N_s + components cycles.
///
/// They are the fundamental cycles of a breadth-first spanning tree of each component; of all roots the one with the fewest legs,
/// then the least total variance, is taken. Fundamental cycles form a basis over the integers, so that every closure phase of the
/// graph is an integer sum of these, and short cycles keep each phase error far from a half turn, where wrapping would fail.
pub fn cycle_basis(visibilities: &[Visibility]) -> Vec<Cycle> {
    let edges: Vec<Edge> = visibilities.iter().map(Edge::of).collect();
    let mut basis = Vec::new();
    for component in components(&edges) {
        let best = component
            .iter()
            .map(|&root| fundamental_cycles(&edges, root))
            .min_by(|a, b| {
                let cost = |cycles: &[Cycle]| -> (usize, f64) {
                    let legs = cycles.iter().flat_map(|c| &c.legs);
                    (legs.clone().count(), legs.map(|&(k, _)| edges[k].variance).sum())
                };
                let (a, b) = (cost(a), cost(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            })
            .unwrap_or_default();
        basis.extend(best);
    }
    basis
}

/// A basis, in integers, of the combinations of log-amplitudes that are free of station gains: N_b - N_s + bipartite components.
///
/// The null space of the unsigned incidence matrix (stations x baselines) by elimination with the baselines of highest S/N as
/// pivots, so that each faint baseline enters one combination alone. A component without an odd cycle has one more such
/// combination than one with.
pub fn closure_amplitude_basis(visibilities: &[Visibility]) -> Vec<ClosureAmplitude> {
    let edges: Vec<Edge> = visibilities.iter().map(Edge::of).collect();
    let stations = stations_of(&edges);
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by(|&a, &b| edges[a].variance.total_cmp(&edges[b].variance).then(a.cmp(&b)));
    // Entries stay in {0, 1/2, 1, 2} up to sign, which f64 holds exactly.
    let mut rows: Vec<Vec<f64>> =
        stations.iter().map(|&s| order.iter().map(|&k| if edges[k].ends.contains(&s) { 1.0 } else { 0.0 }).collect()).collect();
    let mut pivots: Vec<usize> = Vec::new();
    let mut free = Vec::new();
    for column in 0..order.len() {
        let next = pivots.len();
        let Some(found) = (next..rows.len()).find(|&r| rows[r][column] != 0.0) else {
            free.push(column);
            continue;
        };
        rows.swap(next, found);
        let scale = rows[next][column];
        rows[next].iter_mut().for_each(|x| *x /= scale);
        let pivot = rows[next].clone();
        for (r, row) in rows.iter_mut().enumerate() {
            let factor = row[column];
            if r != next && factor != 0.0 {
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            }
        }
        pivots.push(column);
    }
    free.into_iter()
        .map(|column| {
            let mut legs = vec![(order[column], 1.0)];
            legs.extend(pivots.iter().enumerate().map(|(r, &p)| (order[p], -rows[r][column])).filter(|leg| leg.1 != 0.0));
            if legs.iter().any(|leg| leg.1.fract() != 0.0) {
                legs.iter_mut().for_each(|leg| leg.1 *= 2.0);
            }
            legs.sort_by_key(|leg| leg.0);
            ClosureAmplitude { legs }
        })
        .collect()
}

struct Edge {
    ends: [usize; 2],
    variance: f64,
}

impl Edge {
    fn of(v: &Visibility) -> Self {
        Self { ends: [v.station1, v.station2], variance: relative_variance(v) }
    }
}

fn stations_of(edges: &[Edge]) -> Vec<usize> {
    let mut stations: Vec<usize> = edges.iter().flat_map(|e| e.ends).collect();
    stations.sort_unstable();
    stations.dedup();
    stations
}

/// The stations of each connected component, sorted.
fn components(edges: &[Edge]) -> Vec<Vec<usize>> {
    let mut left = stations_of(edges);
    let mut out = Vec::new();
    while let Some(&root) = left.first() {
        let mut members: Vec<usize> = spanning_tree(edges, root).into_iter().map(|n| n.station).collect();
        members.sort_unstable();
        left.retain(|s| members.binary_search(s).is_err());
        out.push(members);
    }
    out
}

struct Node {
    station: usize,
    /// (position of the parent in the list, edge to it); none for the root.
    parent: Option<(usize, usize)>,
}

/// Breadth first from `root`, neighbours in order of rising variance.
fn spanning_tree(edges: &[Edge], root: usize) -> Vec<Node> {
    let mut tree = vec![Node { station: root, parent: None }];
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by(|&a, &b| edges[a].variance.total_cmp(&edges[b].variance).then(a.cmp(&b)));
    let mut at = 0;
    while at < tree.len() {
        let here = tree[at].station;
        for &k in &order {
            let [a, b] = edges[k].ends;
            let there = if a == here {
                b
            } else if b == here {
                a
            } else {
                continue;
            };
            if tree.iter().all(|n| n.station != there) {
                tree.push(Node { station: there, parent: Some((at, k)) });
            }
        }
        at += 1;
    }
    tree
}

fn fundamental_cycles(edges: &[Edge], root: usize) -> Vec<Cycle> {
    let tree = spanning_tree(edges, root);
    let position = |station: usize| tree.iter().position(|n| n.station == station);
    let path = |from: usize| {
        let mut path = vec![from];
        while let Some((parent, _)) = path.last().and_then(|&at| tree[at].parent) {
            path.push(parent);
        }
        path
    };
    let in_tree = |k: usize| tree.iter().any(|n| n.parent.is_some_and(|(_, edge)| edge == k));
    let signed = |k: usize, from: usize| (k, if edges[k].ends[0] == from { 1.0 } else { -1.0 });
    let mut cycles = Vec::new();
    for (k, edge) in edges.iter().enumerate() {
        // Baselines of another component have no position in this tree.
        let (Some(a), Some(b)) = (position(edge.ends[0]), position(edge.ends[1])) else { continue };
        if in_tree(k) {
            continue;
        }
        let (mut up_a, mut up_b) = (path(a), path(b));
        // Both end at the root; what they share beyond their meeting point cancels.
        while up_a.len() > 1 && up_b.len() > 1 && up_a[up_a.len() - 2] == up_b[up_b.len() - 2] {
            up_a.pop();
            up_b.pop();
        }
        // Walk: a -> b over the new edge, b up to the meeting point, down to a.
        let mut walk = vec![a];
        walk.extend(&up_b);
        walk.extend(up_a.iter().rev().skip(1));
        walk.pop();
        let mut legs = vec![signed(k, edge.ends[0])];
        for pair in up_b.windows(2) {
            if let Some((_, e)) = tree[pair[0]].parent {
                legs.push(signed(e, tree[pair[0]].station));
            }
        }
        for pair in up_a.windows(2).rev() {
            if let Some((_, e)) = tree[pair[0]].parent {
                legs.push(signed(e, tree[pair[1]].station));
            }
        }
        cycles.push(Cycle { legs, stations: walk.into_iter().map(|at| tree[at].station).collect() });
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::visibility;
    use halation_compute::Philox;

    fn graph(edges: &[(usize, usize)], seed: u64) -> Vec<Visibility> {
        let mut random = Philox::new(seed).sequence(0, 0);
        edges.iter().map(|&(a, b)| visibility(0.0, a, b, 0, (1.0, 0.0), (1e9, 0.0), random.range(0.01, 0.2))).collect()
    }

    fn random_graph(stations: usize, keep: f64, seed: u64) -> Vec<Visibility> {
        let mut random = Philox::new(seed).sequence(1, 0);
        let mut edges = Vec::new();
        for a in 0..stations {
            for b in a + 1..stations {
                if random.uniform() < keep {
                    edges.push(if random.uniform() < 0.5 { (a, b) } else { (b, a) });
                }
            }
        }
        graph(&edges, seed)
    }

    /// Rank by elimination.
    fn rank(mut rows: Vec<Vec<f64>>) -> usize {
        let columns = rows.first().map_or(0, Vec::len);
        let mut rank = 0;
        for c in 0..columns {
            let Some(p) = (rank..rows.len()).max_by(|&a, &b| rows[a][c].abs().total_cmp(&rows[b][c].abs())) else { break };
            if rows[p][c].abs() < 1e-9 {
                continue;
            }
            rows.swap(rank, p);
            let pivot = rows[rank].clone();
            for row in rows.iter_mut().skip(rank + 1) {
                let f = row[c] / pivot[c];
                row.iter_mut().zip(&pivot).for_each(|(x, y)| *x -= f * y);
            }
            rank += 1;
        }
        rank
    }

    fn incidence(g: &[Visibility], signed: bool) -> Vec<Vec<f64>> {
        (0..8)
            .map(|s| {
                let entry = |v: &Visibility| {
                    (v.station1 == s) as i32 as f64 + if signed { -1.0 } else { 1.0 } * (v.station2 == s) as i32 as f64
                };
                g.iter().map(entry).collect()
            })
            .collect()
    }

    fn dense(legs: &[(usize, f64)], n: usize) -> Vec<f64> {
        let mut row = vec![0.0; n];
        legs.iter().for_each(|&(k, w)| row[k] += w);
        row
    }

    /// Dimension by rank of the incidence matrix, independence by rank of the basis, cancellation exactly.
    #[test]
    fn bases_are_complete_independent_and_free_of_station_terms() {
        for seed in 0..300 {
            let g = random_graph(3 + seed as usize % 6, [0.3, 0.5, 0.7, 1.0][seed as usize % 4], seed);
            for signed in [true, false] {
                let legs: Vec<Vec<(usize, f64)>> = if signed {
                    cycle_basis(&g).into_iter().map(|c| c.legs).collect()
                } else {
                    closure_amplitude_basis(&g).into_iter().map(|c| c.legs).collect()
                };
                let m = incidence(&g, signed);
                assert_eq!(legs.len(), g.len() - rank(m.clone()), "seed {seed} signed {signed}");
                let rows: Vec<_> = legs.iter().map(|l| dense(l, g.len())).collect();
                for row in &rows {
                    assert!(row.iter().all(|x| x.fract() == 0.0));
                    for station in &m {
                        assert_eq!(station.iter().zip(row).map(|(a, b)| a * b).sum::<f64>(), 0.0, "seed {seed} signed {signed}");
                    }
                }
                assert_eq!(rank(rows), legs.len());
            }
        }
    }

    #[test]
    fn a_complete_graph_has_triangles_through_one_station_and_known_counts() {
        for n in 3..9 {
            let g = random_graph(n, 1.0, n as u64);
            let cycles = cycle_basis(&g);
            assert_eq!(cycles.len(), (n - 1) * (n - 2) / 2);
            assert!(cycles.iter().all(|c| c.legs.len() == 3 && c.stations.len() == 3));
            assert_eq!(closure_amplitude_basis(&g).len(), n * (n - 3) / 2);
        }
    }

    #[test]
    fn a_walk_visits_its_stations_in_order() {
        let g = graph(&[(0, 1), (2, 1), (2, 3), (3, 0)], 5);
        let cycles = cycle_basis(&g);
        assert_eq!(cycles.len(), 1);
        let c = &cycles[0];
        for (step, &(k, sign)) in c.legs.iter().enumerate() {
            let (from, to) = (c.stations[step], c.stations[(step + 1) % c.stations.len()]);
            let expected = if sign > 0.0 { (from, to) } else { (to, from) };
            assert_eq!((g[k].station1, g[k].station2), expected, "{c:?}");
        }
        // An even cycle alone is bipartite: one closure amplitude, with alternating signs.
        let amplitudes = closure_amplitude_basis(&g);
        assert_eq!(amplitudes.len(), 1);
        assert_eq!(amplitudes[0].legs.iter().map(|l| l.1).sum::<f64>(), 0.0);
    }
}
