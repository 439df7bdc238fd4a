//! Damage curves in a file: what cutting costs is measured once and serves every later budget for the same model.

use super::{branch::Branch, select::Candidate};
use crate::{
    error::{Error, Result},
    files::save_bytes,
    ir::{Model, Tensor},
};
use serde::{Deserialize, Serialize};
use std::{fs, io::ErrorKind, path::Path};

/// What is in the file, as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sensitivity {
    /// Of the weights that the curves are of.
    fingerprint: String,
    groups: Vec<Curve>,
    /// `None` where they were not looked at.
    branches: Option<Vec<Without>>,
}

/// A group, known by its first weight.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Curve {
    weight: String,
    axis: usize,
    /// One for each position: the least go first.
    scores: Vec<f64>,
    /// The error of the outputs, relative to their squares, after so many positions have gone.
    damage: Option<Vec<f64>>,
}

/// A branch, by the sum that it is an operand of, and the error of the outputs without it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Without {
    sum: String,
    operand: usize,
    damage: f64,
}

impl Sensitivity {
    /// Of what was measured; `branches` with the error without each.
    pub(super) fn of(
        model: &Model,
        candidates: &[Candidate],
        branches: Option<(&[Branch], &[f64])>,
    ) -> Sensitivity {
        let curve = |c: &Candidate| {
            let (weight, axis) = key(model, c);
            let damage = c.damage.as_ref().map(|d| d.iter().copied().map(finite).collect());
            Curve { weight, axis, scores: c.scores.iter().copied().map(finite).collect(), damage }
        };
        let without = |(branch, damage): (&Branch, &f64)| {
            let (sum, operand) = branch.name(&model.graph);
            Without { sum, operand, damage: finite(*damage) }
        };
        Sensitivity {
            fingerprint: fingerprint(model),
            groups: candidates.iter().map(curve).collect(),
            branches: branches.map(|(b, damage)| b.iter().zip(damage).map(without).collect()),
        }
    }
    /// What a file holds; `None` where there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Sensitivity>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|why| {
                let what = format!("`sensitivity` {}: {why}", path.display());
                Error::usage(what, "name a file that an earlier run wrote, or a new one")
            }),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => Err(Error::io("cannot read", path, why)),
        }
    }
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self).expect("curves are plain data");
        save_bytes((text + "\n").as_bytes(), path)
    }
    /// Gives candidates their scores and curves. Refuses those of another model, or of other groups.
    pub(super) fn put(&self, model: &Model, candidates: &mut [Candidate]) -> Result<()> {
        if self.fingerprint != fingerprint(model) {
            return Err(unfit("the weights are not those of this model"));
        }
        let same = |(c, curve): (&Candidate, &Curve)| {
            key(model, c) == (curve.weight.clone(), curve.axis)
                && curve.scores.len() == c.group.size
                && curve.damage.as_ref().is_none_or(|d| d.len() == c.group.size + 1)
        };
        if self.groups.len() != candidates.len() || !candidates.iter().zip(&self.groups).all(same) {
            return Err(unfit("the groups are others; `exclude` and `lossy` must be the same"));
        }
        for (candidate, curve) in candidates.iter_mut().zip(&self.groups) {
            candidate.scores.clone_from(&curve.scores);
            candidate.damage.clone_from(&curve.damage);
        }
        Ok(())
    }
    /// The error of the outputs without each branch.
    pub(super) fn without(&self, model: &Model, branches: &[Branch]) -> Result<Vec<f64>> {
        let of = |branch: &Branch| {
            let (sum, operand) = branch.name(&model.graph);
            let mut known = self.branches.iter().flatten();
            known.find(|w| w.sum == sum && w.operand == operand).map(|w| w.damage)
        };
        let found: Option<_> = branches.iter().map(of).collect();
        found.ok_or_else(|| unfit("not all branches are in it; `depth` and `exclude` must be the same"))
    }
}

fn unfit(why: &str) -> Error {
    Error::usage(format!("`sensitivity` does not fit: {why}"), "name a new file to measure anew")
}

/// The first weight of a group.
fn key(model: &Model, candidate: &Candidate) -> (String, usize) {
    let first = candidate.group.members.first();
    first.map_or_else(Default::default, |m| (model.graph.name_of(m.value).to_owned(), m.axis))
}

/// JSON knows no infinity.
fn finite(x: f64) -> f64 {
    if x.is_nan() { f64::MAX } else { x.clamp(f64::MIN, f64::MAX) }
}

/// Digests of the names of all weights, and of their types, shapes and contents.
fn fingerprint(model: &Model) -> String {
    let weights = || model.graph.initializers();
    let contents: Vec<u32> = weights().map(|(_, tensor)| tensor.digest()).collect();
    let names = weights().flat_map(|(v, _)| [model.graph.name_of(v).as_bytes(), &[0]]).flatten().copied();
    let names: Vec<u8> = names.collect();
    let names = Tensor::from_vec([names.len()], names).digest();
    format!("{names:08x}{:08x}", Tensor::from_vec([contents.len()], contents).digest())
}
