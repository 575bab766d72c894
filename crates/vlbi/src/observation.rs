use num_complex::Complex64;

/// One station of an array.
#[derive(Clone, Debug, PartialEq)]
pub struct Station {
    /// Name, for example `AA`.
    pub name: String,
    /// Geocentric right-handed position, metres (X Greenwich, Y 90 deg East, Z North).
    pub position_m: [f64; 3],
    /// System equivalent flux density, Jy; none when the file says 0 or nothing.
    pub sefd_jy: Option<f64>,
}

/// One band: a file's intermediate frequencies or channels are averaged into one band per IF.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Centre frequency, Hz.
    pub frequency_hz: f64,
    /// Bandwidth, Hz.
    pub bandwidth_hz: f64,
}

/// One Stokes I visibility, V = sum I exp(+2 pi i (u l + v m)), of the pair (station1, station2).
///
/// Everything that this crate reads or simulates has station1 < station2: a baseline stored the other way round is turned, with
/// (u, v) -> -(u, v) and V -> conj(V).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visibility {
    /// Modified Julian day, UTC, of the middle of the integration.
    pub mjd: f64,
    /// Integration time, seconds; 0 when the file does not say.
    pub integration_s: f64,
    /// Index of the first station.
    pub station1: usize,
    /// Index of the second station.
    pub station2: usize,
    /// East component of the baseline in wavelengths.
    pub u_lambda: f64,
    /// North component of the baseline in wavelengths.
    pub v_lambda: f64,
    /// Index of the band. Closures never mix bands.
    pub band: usize,
    /// Complex visibility, Jy.
    pub value_jy: Complex64,
    /// Standard deviation of the real part and of the imaginary part separately, Jy.
    pub sigma_jy: f64,
}

/// What one or more UVFITS files of one source hold, reduced to Stokes I; flagged data are left out and counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Name of the source.
    pub source: String,
    /// Right ascension, degrees.
    pub ra_deg: f64,
    /// Declination, degrees.
    pub dec_deg: f64,
    /// All stations that the files list.
    pub stations: Vec<Station>,
    /// The bands.
    pub bands: Vec<Band>,
    /// Unflagged visibilities without autocorrelations, sorted by band, time, then stations.
    pub visibilities: Vec<Visibility>,
    /// Scan limits (start, end) in modified Julian days, from the NX table or from gaps in time, sorted.
    pub scans: Vec<(f64, f64)>,
    /// Groups in the files, before flagging.
    pub rows: usize,
}

/// Baselines between stations closer than this are called intra-site, metres.
pub const INTRA_SITE_M: f64 = 10_000.0;
/// Intra-site baselines count as zero baselines when they are shorter than this, wavelengths.
pub const ZERO_BASELINE_LAMBDA: f64 = 1e8;

impl Visibility {
    /// Length of the projected baseline in wavelengths.
    pub fn baseline_lambda(&self) -> f64 {
        self.u_lambda.hypot(self.v_lambda)
    }
}

impl Observation {
    /// Whether each station has data.
    pub fn stations_with_data(&self) -> Vec<bool> {
        let mut used = vec![false; self.stations.len()];
        for v in &self.visibilities {
            used[v.station1] = true;
            used[v.station2] = true;
        }
        used
    }

    /// The station pairs with data, sorted.
    pub fn baselines(&self) -> Vec<(usize, usize)> {
        let pairs: std::collections::BTreeSet<_> = self.visibilities.iter().map(|v| (v.station1, v.station2)).collect();
        pairs.into_iter().collect()
    }

    /// Whether two stations stand on one site, so that their baseline sees the total flux: closer than [`INTRA_SITE_M`].
    pub fn is_intra_site(&self, station1: usize, station2: usize) -> bool {
        let (a, b) = (self.stations[station1].position_m, self.stations[station2].position_m);
        let d2: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
        d2.sqrt() < INTRA_SITE_M
    }

    /// Whether a visibility is a zero baseline: intra-site and shorter than [`ZERO_BASELINE_LAMBDA`].
    pub fn is_zero_baseline(&self, v: &Visibility) -> bool {
        v.baseline_lambda() < ZERO_BASELINE_LAMBDA && self.is_intra_site(v.station1, v.station2)
    }

    /// Length of the longest projected baseline in wavelengths; 0 without data.
    pub fn max_baseline_lambda(&self) -> f64 {
        self.visibilities.iter().map(Visibility::baseline_lambda).fold(0.0, f64::max)
    }

    /// Median |V| of the zero baselines, Jy: the total flux as the array sees it. None when there are no zero baselines.
    pub fn zero_baseline_flux_jy(&self) -> Option<f64> {
        let mut amplitudes: Vec<f64> =
            self.visibilities.iter().filter(|v| self.is_zero_baseline(v)).map(|v| v.value_jy.norm()).collect();
        amplitudes.sort_by(f64::total_cmp);
        let n = amplitudes.len();
        if n == 0 { None } else { Some(0.5 * (amplitudes[(n - 1) / 2] + amplitudes[n / 2])) }
    }

    /// Mean frequency of the bands weighted by their bandwidths, Hz.
    pub fn frequency_hz(&self) -> f64 {
        let width: f64 = self.bands.iter().map(|b| b.bandwidth_hz).sum();
        if width > 0.0 {
            self.bands.iter().map(|b| b.frequency_hz * b.bandwidth_hz).sum::<f64>() / width
        } else {
            self.bands.iter().map(|b| b.frequency_hz).sum::<f64>() / self.bands.len().max(1) as f64
        }
    }

    /// Sorts the visibilities by band, time, then stations.
    pub(crate) fn sort(&mut self) {
        self.visibilities.sort_by(|a, b| {
            (a.band.cmp(&b.band)).then(a.mjd.total_cmp(&b.mjd)).then((a.station1, a.station2).cmp(&(b.station1, b.station2)))
        });
    }
}
