//! Scans: from the rows that the NX table names, otherwise from gaps in time.

use crate::Visibility;

/// A pause longer than this many seconds, and longer than 1.5 integrations, ends a scan.
const SCAN_GAP_S: f64 = 60.0;

const DAY_S: f64 = 86_400.0;

/// The smallest time between two integrations, seconds; infinite when there is only one.
///
/// Some programs write into INTTIM the time summed over IFs and hands, far longer than the pace of the data: it is limited by this.
fn cadence_s(visibilities: &[Visibility]) -> f64 {
    let mut times: Vec<f64> = visibilities.iter().map(|v| v.mjd).collect();
    times.sort_by(f64::total_cmp);
    // Times come in steps of milliseconds (f32 fractions of a day): closer ones are the same integration.
    let same_s = 0.05;
    times.windows(2).map(|w| (w[1] - w[0]) * DAY_S).filter(|d| *d > same_s).fold(f64::INFINITY, f64::min)
}

fn limits(mjd: f64, integration_s: f64, cadence_s: f64) -> (f64, f64) {
    let half = 0.5 * integration_s.min(cadence_s) / DAY_S;
    (mjd - half, mjd + half)
}

/// Scan limits by the gap rule: a new scan begins where nothing was observed for 60 s and for 1.5 integrations.
pub(crate) fn scans_from_gaps(visibilities: &[Visibility]) -> Vec<(f64, f64)> {
    let cadence_s = cadence_s(visibilities);
    let mut spans: Vec<(f64, f64)> = visibilities.iter().map(|v| limits(v.mjd, v.integration_s, cadence_s)).collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut scans: Vec<(f64, f64)> = Vec::new();
    for (start, end) in spans {
        match scans.last_mut() {
            Some(last) if start - last.1 <= (SCAN_GAP_S / DAY_S).max(1.5 * (end - start)) => last.1 = last.1.max(end),
            _ => scans.push((start, end)),
        }
    }
    scans
}

/// Scan limits from the row ranges of an NX table; `times` holds (MJD, integration in seconds) of every row, none where it is unusable.
///
/// None when the scans overlap or when a visibility lies in none of them: then the table is not to be trusted.
pub(crate) fn scans_from_rows(
    ranges: &[(usize, usize)],
    times: &[Option<(f64, f64)>],
    visibilities: &[Visibility],
) -> Option<Vec<(f64, f64)>> {
    let cadence_s = cadence_s(visibilities);
    let mut scans = Vec::with_capacity(ranges.len());
    let mut covered = 0;
    for &(first, last) in ranges {
        // Ranges that share rows are no scans (and would cost a pass over the file each).
        covered += last + 1 - first;
        if covered > times.len() {
            return None;
        }
        let inside = times.get(first..=last)?.iter().flatten().map(|t| limits(t.0, t.1, cadence_s));
        let span = inside.fold((f64::INFINITY, f64::NEG_INFINITY), |s, t| (s.0.min(t.0), s.1.max(t.1)));
        if span.0.is_finite() {
            scans.push(span);
        }
    }
    scans.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Times are stored in steps of milliseconds, so neighbours may touch.
    let touch = 0.05 / DAY_S;
    if scans.is_empty() || scans.windows(2).any(|w| w[1].0 < w[0].1 - touch) {
        return None;
    }
    let holds = |v: &Visibility| {
        let next = scans.partition_point(|s| s.0 <= v.mjd);
        next > 0 && v.mjd <= scans[next - 1].1
    };
    visibilities.iter().all(holds).then_some(scans)
}

/// The union of several lists of scans; scans that overlap become one.
pub(crate) fn merge_scans(lists: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = lists.iter().flatten().copied().collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for (start, end) in all {
        match merged.last_mut() {
            Some(last) if start < last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}
