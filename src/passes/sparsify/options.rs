//! What a user may ask of the pass.

use crate::{
    error::{Error, Result},
    passes::{Scope, choices},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What makes a weight dispensable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// `sparsegpt` where there are calibration samples, else `l1`.
    #[default]
    Auto,
    /// That it is small.
    L1,
    /// That it is small times the norm of its input.
    Wanda,
    /// That the other weights of its output can make up for it, and they do.
    Sparsegpt,
    /// Chance.
    Random,
}

/// Where zeros may stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// Anywhere.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Two of every four inputs that follow each other.
    #[serde(rename = "2:4")]
    TwoOfFour,
    /// Four of every eight.
    #[serde(rename = "4:8")]
    FourOfEight,
}

impl Pattern {
    /// Inputs that follow each other, of which half become zero.
    pub(super) fn inputs(self) -> Option<usize> {
        match self {
            Pattern::None => None,
            Pattern::TwoOfFour => Some(4),
            Pattern::FourOfEight => Some(8),
        }
    }
}

/// How sparse weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// With their zeros, as every runtime reads them.
    #[default]
    Dense,
    /// By their non-zero elements where that takes fewer bytes, as `sparse_initializer`.
    Sparse,
}

/// Options of the pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SparsifyOptions {
    /// The share of weights that becomes zero, 0 to 1; 0.5 where none is given. Patterns have their own.
    pub ratio: Option<f64>,
    /// Where zeros may stand.
    pub pattern: Pattern,
    /// Whether weights compete within the model or within their tensor.
    pub scope: Scope,
    /// What makes a weight dispensable.
    pub criterion: Criterion,
    /// A `.npz` file with masks: see [`Sparsify::with_masks`](super::Sparsify::with_masks).
    pub mask: Option<PathBuf>,
    /// How sparse weights are written.
    pub store: Store,
    /// Globs of names of ops and weights to leave alone.
    pub exclude: Vec<String>,
}

impl SparsifyOptions {
    /// The share that becomes zero where none is given.
    pub const RATIO: f64 = 0.5;

    /// Refuses values that make no sense; returns the share.
    pub(super) fn share(&self) -> Result<f64> {
        let given = choices::one_share(&[("ratio", self.ratio)])?;
        if given.is_some() && self.pattern != Pattern::None {
            let hint = "a pattern makes half of the weights zero";
            return Err(Error::usage("`ratio` and `pattern` are both given", hint));
        }
        if self.mask.is_some() && (given.is_some() || self.pattern != Pattern::None) {
            let hint = "a mask says which weights become zero";
            return Err(Error::usage("`mask` and `ratio` or `pattern` are both given", hint));
        }
        Ok(given.map_or(Self::RATIO, |(_, share)| share))
    }
}
