//! Options that several passes offer.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What positions or weights compete with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All others of the model: where they matter little, more go.
    #[default]
    Global,
    /// Those of their own group or tensor: every one loses the same share.
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

/// Whether the clock is asked if a change pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Where there is ONNX Runtime: what makes the model slower on this machine is left out.
    #[default]
    Auto,
    /// Never: the same on every machine.
    None,
}

/// The one of some shares that is given, by its place; refuses several, and what is no share.
pub(super) fn one_share(options: &[(&str, Option<f64>)]) -> Result<Option<(usize, f64)>> {
    let given = options.iter().enumerate().filter_map(|(k, (name, share))| Some((k, *name, (*share)?)));
    let given: Vec<_> = given.collect();
    match given[..] {
        [] => Ok(None),
        [(k, _, share)] if share > 0.0 && share < 1.0 => Ok(Some((k, share))),
        [(_, name, share)] => {
            Err(Error::usage(format!("`{name}` is {share}"), "give a share between 0 and 1"))
        }
        [(_, first, _), (_, second, _), ..] => {
            Err(Error::usage(format!("`{first}` and `{second}` are both given"), "give one of them"))
        }
    }
}
