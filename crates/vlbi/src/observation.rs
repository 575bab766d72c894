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

/// One Stokes I visibility, V = sum I exp(+2 pi i (u l + v m)), of the pair (station1, station2) as ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visibility {
    /// Modified Julian day, UTC, of the middle of the integration.
    pub mjd: f64,
    /// Integration time, seconds.
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
