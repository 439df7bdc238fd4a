//! What a user may ask of pruning.

use super::budget::Budget;
use crate::{
    error::{Error, Result},
    passes::globs,
};
use globset::GlobSet;
use serde::{Deserialize, Serialize};

/// How positions are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// `damage` where there are calibration samples, else `l2`.
    #[default]
    Auto,
    /// The mean absolute weight.
    L1,
    /// The root of the mean square weight.
    L2,
    /// The mean square weight over that of all positions of the group that weigh as much or more (LAMP, Lee et al. 2021).
    Lamp,
    /// The mean distance from the other positions' weights: what others can stand in for goes (FPGM, He et al. 2019).
    Fpgm,
    /// Chance, by the seed: what any other criterion has to beat.
    Random,
    /// What is lost when the layers that read a position make up for it as well as they can, on calibration samples.
    Damage,
}

/// What positions compete with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All others of the model: layers with weak positions lose more.
    #[default]
    Global,
    /// Those of their own group: every group loses the same share.
    Layer,
}

/// Whether what is left is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// Where there are calibration samples.
    #[default]
    Auto,
    /// Never: the weights that stay are the original's.
    None,
}

/// Options of the pass. At most one of `ratio`, `macs`, `params` and `latency` may be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneOptions {
    /// The share of positions to cut, 0 to 1; 0.3 where nothing else is given.
    pub ratio: Option<f64>,
    /// The share of the multiply-accumulates to keep, 0 to 1.
    pub macs: Option<f64>,
    /// The share of the parameters to keep, 0 to 1.
    pub params: Option<f64>,
    /// The share of the time of a run to keep, 0 to 1, by this machine's clock.
    pub latency: Option<f64>,
    /// How positions are ranked.
    pub criterion: Criterion,
    /// Whether positions compete within the model or within their group.
    pub scope: Scope,
    /// Kept counts are multiples of this in groups at least twice as wide.
    pub round: usize,
    /// Globs of names of ops and weights whose groups stay whole.
    pub exclude: Vec<String>,
    /// Also cut groups over which a statistic runs (LayerNormalization, softmax, a mean).
    pub lossy: bool,
    /// Whether the weights behind a cut are found anew from calibration samples.
    pub repair: Repair,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            ratio: None,
            macs: None,
            params: None,
            latency: None,
            criterion: Criterion::default(),
            scope: Scope::default(),
            round: 8,
            exclude: Vec::new(),
            lossy: false,
            repair: Repair::default(),
        }
    }
}

impl PruneOptions {
    /// The share of positions that is cut where no target is given.
    pub const RATIO: f64 = 0.3;

    /// What may be left.
    pub(super) fn budget(&self) -> Budget {
        match (self.macs, self.params, self.latency) {
            (Some(share), ..) => Budget::Macs(share),
            (_, Some(share), _) => Budget::Params(share),
            (.., Some(share)) => Budget::Latency(share),
            _ => Budget::Positions(1.0 - self.ratio.unwrap_or(Self::RATIO)),
        }
    }
    /// Refuses values that make no sense; returns the compiled globs.
    pub(super) fn check(&self) -> Result<GlobSet> {
        let share = |name: &str, value: Option<f64>| match value {
            Some(v) if !(v > 0.0 && v < 1.0) => {
                Err(Error::usage(format!("`{name}` is {v}"), "give a share between 0 and 1"))
            }
            _ => Ok(()),
        };
        share("ratio", self.ratio)?;
        share("macs", self.macs)?;
        share("params", self.params)?;
        share("latency", self.latency)?;
        let given =
            [("ratio", self.ratio), ("macs", self.macs), ("params", self.params), ("latency", self.latency)];
        let given: Vec<_> = given.iter().filter(|g| g.1.is_some()).map(|g| format!("`{}`", g.0)).collect();
        if given.len() > 1 {
            return Err(Error::usage(format!("{} are given", given.join(" and ")), "give one of them"));
        }
        if self.round == 0 {
            return Err(Error::usage("`round` is 0", "1 turns rounding off"));
        }
        globs::excluded(&self.exclude)
    }
}
