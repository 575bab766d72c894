use crate::Pulse;
use std::collections::BTreeMap;

/// Which data products a likelihood uses, and what it assumes about the calibration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataProducts {
    /// Closure phases and log closure amplitudes: free of all station gains and phases, and of the total flux.
    #[default]
    Closures,
    /// Closure phases and log-amplitudes with station log-gains marginalised.
    #[serde(rename = "amplitudes+closures")]
    AmplitudesAndClosures,
    /// Complex visibilities with station phases (uniform) and log-gains (Gaussian) per integration marginalised. What is left of
    /// the phases then is exactly the closure phases, so this equals `AmplitudesAndClosures`.
    Visibilities,
    /// Complex visibilities taken as they are: no gains, no phases. A linear Gaussian problem when the pixel scale is given.
    CalibratedVisibilities,
}

impl DataProducts {
    /// The product named `text` as the command line has it; none when there is no such product.
    pub fn parse(text: &str, assume_calibrated: bool) -> Option<Self> {
        match (text, assume_calibrated) {
            ("closures", false) => Some(Self::Closures),
            ("amplitudes+closures", false) => Some(Self::AmplitudesAndClosures),
            ("visibilities", false) => Some(Self::Visibilities),
            ("visibilities", true) => Some(Self::CalibratedVisibilities),
            _ => None,
        }
    }
}

/// How u, the image in the network's gauge (peak about 1), becomes I in Jy/pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FluxScale {
    /// Free: one log-gain common to all data with an improper flat prior, marginalised exactly. Closures never need another.
    /// Complex visibilities cannot use it.
    #[default]
    Free,
    /// I = F u / sum(u) with the total compact flux density F in Jy.
    TotalJy(f64),
    /// I = s u with s in Jy/pixel: V is linear in u, and the total flux follows from the image.
    PixelJy(f64),
}

/// Prior standard deviations of station log-gains, ln|g|, independent per station, scan and band.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GainPrior {
    /// By station name.
    pub by_station: BTreeMap<String, f64>,
    /// For all other stations.
    pub default: f64,
}

impl GainPrior {
    /// The standard deviation of ln|g| of a station.
    pub fn sigma(&self, station: &str) -> f64 {
        self.by_station.get(station).copied().unwrap_or(self.default)
    }
}

impl Default for GainPrior {
    /// The amplitude budget of the EHT 2017 stations (EHT Collaboration 2019, Paper IV, ApJL 875, L4); 0.10 elsewhere.
    fn default() -> Self {
        let budget = [("AA", 0.10), ("AP", 0.11), ("AZ", 0.07), ("LM", 0.22), ("PV", 0.10), ("SM", 0.15), ("JC", 0.14)];
        Self { by_station: budget.into_iter().map(|(name, sigma)| (name.to_string(), sigma)).collect(), default: 0.10 }
    }
}

/// The affine map from the prior's own units z to the image u: u = scale z + offset.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PriorUnits {
    /// du/dz.
    pub scale: f64,
    /// u at z = 0.
    pub offset: f64,
}

impl Default for PriorUnits {
    /// z in [-1, 1] to u in [0, 1].
    fn default() -> Self {
        Self { scale: 0.5, offset: 0.5 }
    }
}

impl PriorUnits {
    /// u of z.
    pub fn image(&self, z: &[f32]) -> Vec<f64> {
        z.iter().map(|&z| self.scale * z as f64 + self.offset).collect()
    }
}

/// What a [`crate::VlbiLikelihood`] is made of, besides data and grid.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LikelihoodSettings {
    /// The data products.
    pub data: DataProducts,
    /// From u to Jy/pixel.
    pub flux: FluxScale,
    /// The pixel's shape.
    pub pulse: Pulse,
    /// Station log-gains, where amplitudes are used.
    pub gains: GainPrior,
    /// From the prior's units to u.
    pub units: PriorUnits,
}
