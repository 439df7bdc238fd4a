//! What a user may ask of the factorization.

use crate::{
    error::{Error, Result},
    passes::{Guard, Repair, choices},
};
use serde::{Deserialize, Serialize};

/// Options of the pass. At most one of those before `round` may be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SvdOptions {
    /// The share of the weights of all layers that can be split to keep, 0 to 1; 0.5 where no other target is given.
    pub ratio: Option<f64>,
    /// The share of the model's multiply-accumulates to keep, 0 to 1.
    pub macs: Option<f64>,
    /// The share of the model's parameters to keep, 0 to 1.
    pub params: Option<f64>,
    /// The share of the bytes of the model's weights to keep, 0 to 1.
    pub size: Option<f64>,
    /// The share of the time of a run to keep, 0 to 1, by this machine's clock.
    pub latency: Option<f64>,
    /// The least share of the squares of a layer's outputs (without samples: of its weights) to keep, 0 to 1.
    pub energy: Option<f64>,
    /// The largest error of a layer's outputs (without samples: of its weights), relative to their size, 0 to 1.
    pub error: Option<f64>,
    /// Ranks are multiples of this in layers at least twice as wide.
    pub round: usize,
    /// Globs of names of ops and weights to leave alone.
    pub exclude: Vec<String>,
    /// Whether what a split loses is made up for, as far as calibration samples tell how.
    pub repair: Repair,
    /// Whether splits that make the model slower on this machine are left out.
    pub guard: Guard,
}

impl Default for SvdOptions {
    fn default() -> Self {
        SvdOptions {
            ratio: None,
            macs: None,
            params: None,
            size: None,
            latency: None,
            energy: None,
            error: None,
            round: 8,
            exclude: Vec::new(),
            repair: Repair::default(),
            guard: Guard::default(),
        }
    }
}

/// What decides the ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// The share of the weights of all layers that can be split that stays.
    Split(f64),
    /// The share of the model's multiply-accumulates that stays.
    Macs(f64),
    /// The share of the elements of the model's weights that stays.
    Params(f64),
    /// The share of the bytes of the model's weights that stays.
    Size(f64),
    /// The share of the time of a run that stays.
    Latency(f64),
    /// The largest squared relative error of each layer.
    Lost(f64),
}

impl SvdOptions {
    /// The share of the weights that stays where no target is given.
    pub const RATIO: f64 = 0.5;

    /// Refuses values that make no sense; returns the target.
    pub(super) fn target(&self) -> Result<Target> {
        if self.round == 0 {
            return Err(Error::usage("`round` is 0", "1 turns rounding off"));
        }
        let shares = [
            ("ratio", self.ratio),
            ("macs", self.macs),
            ("params", self.params),
            ("size", self.size),
            ("latency", self.latency),
            ("energy", self.energy),
            ("error", self.error),
        ];
        Ok(match choices::one_share(&shares)? {
            None => Target::Split(Self::RATIO),
            Some((0, share)) => Target::Split(share),
            Some((1, share)) => Target::Macs(share),
            Some((2, share)) => Target::Params(share),
            Some((3, share)) => Target::Size(share),
            Some((4, share)) => Target::Latency(share),
            Some((5, share)) => Target::Lost(1.0 - share),
            Some((_, share)) => Target::Lost(share * share),
        })
    }
}
