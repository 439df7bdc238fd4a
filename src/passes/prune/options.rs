//! What a user may ask of pruning.

use super::budget::{Budget, Of};
use crate::{
    error::{Error, Result},
    passes::{Repair, Scope, choices, globs},
};
use globset::GlobSet;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How positions are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// `hessian` where there are calibration samples, else `l2`.
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
    /// The size of the scales of the BatchNormalizations a position runs through (network slimming, Liu et al. 2017);
    /// the groups that run through none go by `l2`.
    Bn,
    /// Chance, by the seed: what any other criterion has to beat.
    Random,
    /// What a position adds to the layers that read it, on calibration samples: weights times inputs (Wanda, Sun et al.
    /// 2023).
    Activation,
    /// How much that varies: what is always the same a bias takes up (FLAP, An et al. 2023). Without samples, as far as
    /// BatchNormalization tells.
    Variance,
    /// What is lost when the layers that read a position make up for it as well as they can, on calibration samples.
    Hessian,
    /// Needs gradients, which an ONNX model has none of: refused.
    Taylor,
    /// As `taylor`.
    Fisher,
}

/// Options of the pass. At most one of `ratio`, `macs`, `params`, `size` and `latency` may be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneOptions {
    /// The share of positions to cut, 0 to 1; 0.3 where nothing else is given.
    pub ratio: Option<f64>,
    /// The share of the multiply-accumulates to keep, 0 to 1.
    pub macs: Option<f64>,
    /// The share of the parameters to keep, 0 to 1.
    pub params: Option<f64>,
    /// The share of the bytes of all weights to keep, 0 to 1.
    pub size: Option<f64>,
    /// The share of the time of a run to keep, 0 to 1, by this machine's clock.
    pub latency: Option<f64>,
    /// How positions are ranked.
    pub criterion: Criterion,
    /// Whether positions compete within the model or within their group.
    pub scope: Scope,
    /// In how many steps the target is reached: after each, what is left is repaired and judged anew.
    pub steps: usize,
    /// Kept counts are multiples of this in groups at least twice as wide; where nothing is given, of what suits the
    /// layers.
    pub round: Option<usize>,
    /// How many positions a group keeps at least; where nothing is given, a tenth.
    pub min: Option<usize>,
    /// Globs of names of ops and weights whose groups stay whole.
    pub exclude: Vec<String>,
    /// Also cut groups over which a statistic runs (LayerNormalization, softmax, a mean).
    pub lossy: bool,
    /// Whether branches of sums, as residual blocks are, may go as a whole where samples tell what that costs.
    pub depth: bool,
    /// A file for what `hessian` measures: written where it is not there, else read instead of measuring.
    pub sensitivity: Option<PathBuf>,
    /// Whether the weights behind a cut are found anew from calibration samples.
    pub repair: Repair,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            ratio: None,
            macs: None,
            params: None,
            size: None,
            latency: None,
            criterion: Criterion::default(),
            scope: Scope::default(),
            steps: 1,
            round: None,
            min: None,
            exclude: Vec::new(),
            lossy: false,
            depth: true,
            sensitivity: None,
            repair: Repair::default(),
        }
    }
}

impl PruneOptions {
    /// The share of positions that is cut where no target is given.
    pub const RATIO: f64 = 0.3;

    /// What may be left. Refuses values that make no sense.
    pub(super) fn budget(&self) -> Result<Budget> {
        let shares = [
            ("ratio", self.ratio),
            ("macs", self.macs),
            ("params", self.params),
            ("size", self.size),
            ("latency", self.latency),
        ];
        let kinds = [Of::Positions, Of::Macs, Of::Params, Of::Bytes, Of::Latency];
        let given = choices::one_share(&shares)?.unwrap_or((0, Self::RATIO));
        let budget = match given {
            (0, cut) => Budget { of: Of::Positions, share: 1.0 - cut },
            (k, share) => Budget { of: kinds[k], share },
        };
        if self.steps == 0 || (self.steps > 1 && budget.of == Of::Latency) {
            return Err(Error::usage(
                format!("`steps` is {}", self.steps),
                "give at least 1, and 1 with `latency`",
            ));
        }
        Ok(budget)
    }
    /// Refuses values that make no sense; returns the compiled globs.
    pub(super) fn check(&self) -> Result<GlobSet> {
        if self.round == Some(0) {
            return Err(Error::usage("`round` is 0", "1 turns rounding off"));
        }
        if self.min == Some(0) {
            return Err(Error::usage("`min` is 0", "a group keeps at least 1 position"));
        }
        if matches!(self.criterion, Criterion::Taylor | Criterion::Fisher) {
            return Err(Error::usage(
                "this `criterion` needs gradients, which an ONNX model has none of",
                "use `hessian`, which needs samples alone",
            ));
        }
        if self.sensitivity.is_some() {
            if !matches!(self.criterion, Criterion::Auto | Criterion::Hessian) {
                return Err(Error::usage(
                    "`sensitivity` is what `hessian` measures",
                    "leave `criterion` out",
                ));
            }
            if self.steps > 1 {
                let help = "give `steps=1`, or no `sensitivity`";
                return Err(Error::usage("later `steps` are of models that `sensitivity` is not of", help));
            }
        }
        globs::excluded(&self.exclude)
    }
}
