//! Resampling with the filter (1, 3, 3, 1) / 8 in each direction, a binomial one without phase shift (Zhang 2019, arXiv:1904.11486;
//! Karras et al. 2020, arXiv:1912.04958): what NCSN++ halves and doubles its images with.

use crate::{Error, Map, Result};

/// Taps in one direction.
const TAPS: [f32; 4] = [0.125, 0.375, 0.375, 0.125];

/// `factor` times the sum over taps k, l of t[k] t[l] x[2y + k - 1 + frame, 2x + l - 1 + frame], pixels outside of `x` being zero: the
/// result's side is half of that of `x` without its frame.
pub(crate) fn fold(x: &Map, factor: f32, frame: usize, pad: usize) -> Result<Map> {
    let [height, width, c] = x.item_shape();
    if height % 2 != 0 || width % 2 != 0 || height < 2 * frame || width < 2 * frame {
        return Err(Error::shape("resample", &[x.draws(), height, width, c], "even height and width"));
    }
    let mut out = Map::stale(x.draws(), [height / 2 - frame, width / 2 - frame, c], pad);
    out.fill_rows(|d, y, out| {
        let mut column = vec![0.0f32; width * c];
        for (k, tap) in TAPS.iter().enumerate() {
            if let Some(from) = before(2 * y + k + frame, height) {
                column.iter_mut().zip(x.row(d, from)).for_each(|(s, v)| *s += tap * factor * v);
            }
        }
        out.fill(0.0);
        for (px, out) in out.chunks_exact_mut(c).enumerate() {
            for (l, tap) in TAPS.iter().enumerate() {
                if let Some(from) = before(2 * px + l + frame, width) {
                    out.iter_mut().zip(&column[from * c..]).for_each(|(s, v)| *s += tap * v);
                }
            }
        }
    });
    Ok(out)
}

/// The transpose of [`fold`].
pub(crate) fn spread(x: &Map, factor: f32, frame: usize, pad: usize) -> Result<Map> {
    let [height, width, c] = x.item_shape();
    let mut out = Map::stale(x.draws(), [2 * (height + frame), 2 * (width + frame), c], pad);
    out.fill_rows(|d, y, out| {
        let mut column = vec![0.0f32; width * c];
        for (tap, from) in sources(y, frame, height) {
            column.iter_mut().zip(x.row(d, from)).for_each(|(s, v)| *s += tap * factor * v);
        }
        out.fill(0.0);
        for (px, out) in out.chunks_exact_mut(c).enumerate() {
            for (tap, from) in sources(px, frame, width) {
                out.iter_mut().zip(&column[from * c..]).for_each(|(s, v)| *s += tap * v);
            }
        }
    });
    Ok(out)
}

/// `i - 1` where it is one of `n` places.
fn before(i: usize, n: usize) -> Option<usize> {
    i.checked_sub(1).filter(|i| *i < n)
}

/// The taps that lead from one of `n` folded places to place `to`, and those places: 2 from + k - 1 + frame = to.
fn sources(to: usize, frame: usize, n: usize) -> impl Iterator<Item = (f32, usize)> {
    TAPS.into_iter().enumerate().filter_map(move |(k, tap)| {
        let twice = (to + 1).checked_sub(k + frame)?;
        (twice % 2 == 0 && twice / 2 < n).then_some((tap, twice / 2))
    })
}
