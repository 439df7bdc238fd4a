//! What a pass is, and how one is made from text.

use super::Context;
use crate::{
    error::{Error, Result},
    ir::Model,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Options of a pass as JSON, in the order they were written.
pub type Options = serde_json::Map<String, serde_json::Value>;

/// Whether a pass changed the model.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// The model is as it was.
    No,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Changed::Yes } else { Changed::No }
    }
}
impl std::ops::BitOrAssign for Changed {
    fn bitor_assign(&mut self, other: Self) {
        if other == Changed::Yes {
            *self = Changed::Yes;
        }
    }
}

/// The form a pass needs the model in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Weights are initializers, BatchNormalization is folded, types are inferred: `simplify` runs first.
    pub simplified: bool,
    /// The lowest version of ONNX's operator set whose operators it writes; older models are converted first.
    pub opset: Option<i64>,
    /// The model as it came in is kept beside it, to compare with.
    pub given: bool,
}

/// A transformation of a model. It must leave the model valid ([`Graph::verify`](crate::ir::Graph::verify) runs after
/// it), be deterministic, and say through remarks what it did and what it left alone and why.
pub trait Pass {
    /// The name in pipeline text and reports.
    fn name(&self) -> &str;
    /// The form it needs the model in.
    fn needs(&self) -> Needs {
        Needs::default()
    }
    /// The signal-to-noise ratio of the outputs, in dB, below which the result counts as broken. `None` where only
    /// the task's own metric can tell, as after pruning.
    fn least_sqnr(&self) -> Option<f64>;
    /// Transforms the model.
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed>;
    /// The options that differ from their defaults, as pipeline text shows them.
    fn options(&self) -> Options {
        serde_json::Map::new()
    }
}

/// A pass that can be made from pipeline text.
pub trait Named: Pass + Sized + 'static {
    /// The name in pipeline text.
    const NAME: &'static str;
    /// One line for `onnx-compress passes`.
    const ABOUT: &'static str;
    /// Typed options: derive `Serialize`, `Deserialize` with `#[serde(default, deny_unknown_fields)]`.
    type Options: DeserializeOwned + Serialize + Default;
    /// Makes the pass, or says which option value makes no sense.
    fn new(options: Self::Options) -> Result<Self>;
}

/// One line of the pass table.
pub struct PassInfo {
    /// The name in pipeline text.
    pub name: &'static str,
    /// One line on what it does.
    pub about: &'static str,
    /// Makes the pass from options as JSON.
    pub build: fn(Options) -> Result<Box<dyn Pass>>,
    /// All options with their defaults.
    pub defaults: fn() -> Options,
}

impl PassInfo {
    /// The line for a pass.
    pub const fn of<P: Named>() -> Self {
        PassInfo { name: P::NAME, about: P::ABOUT, build: build::<P>, defaults: defaults::<P> }
    }
}

fn defaults<P: Named>() -> Options {
    changed_options(&P::Options::default(), None::<&P::Options>)
}

fn build<P: Named>(options: Options) -> Result<Box<dyn Pass>> {
    let known = defaults::<P>();
    if let Some(key) = options.keys().find(|k| !known.contains_key(*k)) {
        let what = format!("pass `{}` has no option `{key}`", P::NAME);
        return Err(Error::Usage { what, help: Some(did_you_mean(key, known.keys().map(String::as_str))) });
    }
    let parsed = serde_json::from_value(options.into())
        .map_err(|e| Error::Usage { what: format!("options of pass `{}`: {e}", P::NAME), help: None })?;
    Ok(Box::new(P::new(parsed)?))
}

/// The options as JSON, without those equal to `base` (all, where there is none). For [`Pass::options`].
pub(crate) fn changed_options<O: Serialize>(options: &O, base: Option<&O>) -> Options {
    let object = |o: &O| match serde_json::to_value(o) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => unreachable!("options are plain structs"),
    };
    let mut map = object(options);
    if let Some(base) = base.map(object) {
        map.retain(|k, v| base.get(k) != Some(v));
    }
    map
}

/// Advice for a name that is not there: the nearest one, or all of them.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let near = known.clone().map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    match near {
        Some((distance, k)) if distance <= 1 + name.len() / 3 => format!("did you mean `{k}`?"),
        _ => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// For passes without options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoOptions {}
