//! Int8 quantization: weights always, activations where calibration samples tell their ranges.
//!
//! The pass only annotates values with a [`QuantScheme`](crate::ir::QuantScheme); writing the model turns that into
//! operators.

mod activations;
mod dynamic;
mod form;
mod placement;
mod weights;

use super::{Changed, Context, Named, Needs, Options, Pass, pass::changed_options};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, OpId, ValueId},
};
use globset::{Glob, GlobSet, GlobSetBuilder};
use placement::Placement;
use serde::{Deserialize, Serialize};

/// What activations become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// With calibration samples `static`, and `dynamic` where that is all a layer has a kernel for; otherwise `none`.
    #[default]
    Auto,
    /// Activations stay float: only weights get smaller.
    None,
    /// uint8 from measured ranges, so that the runtime computes in integers.
    Static,
    /// uint8 from the range of what is at hand as the model runs: no samples are needed.
    Dynamic,
}

impl Activations {
    /// Whether ranges are measured beforehand.
    fn is_static(self, samples: bool) -> bool {
        self == Activations::Static || self == Activations::Auto && samples
    }
    /// Whether ranges may be taken as the model runs.
    fn is_dynamic(self, samples: bool) -> bool {
        self == Activations::Dynamic || self == Activations::Auto && samples
    }
}

/// Which operators compute a weight back from its integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// For each weight what ONNX Runtime is fastest with.
    #[default]
    Auto,
    /// DequantizeLinear, which runtimes that compute in integers look for.
    Qdq,
    /// Cast and Mul, which any runtime does once, when it loads the model; activations stay float.
    Folded,
}

/// Options of [`Quant`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantOptions {
    /// What activations become.
    pub activations: Activations,
    /// Which operators compute a weight back from its integers.
    pub form: Form,
    /// One scale for each output channel of a weight instead of one for all of it.
    pub per_channel: bool,
    /// Globs of node names to leave alone.
    pub exclude: Vec<String>,
}

impl Default for QuantOptions {
    fn default() -> Self {
        QuantOptions {
            activations: Activations::Auto,
            form: Form::Auto,
            per_channel: true,
            exclude: Vec::new(),
        }
    }
}

/// Quantizes weights to symmetric int8, and activations to uint8 where samples are at hand.
pub struct Quant {
    options: QuantOptions,
    exclude: GlobSet,
}

impl Quant {
    fn excludes(&self, graph: &Graph, op: OpId) -> bool {
        self.exclude.is_match(graph.place(op).name())
    }
}

impl Named for Quant {
    const NAME: &'static str = "quant";
    const ABOUT: &'static str =
        "Store weights as int8, and compute in integers where samples tell the ranges";
    type Options = QuantOptions;

    fn new(options: QuantOptions) -> Result<Self> {
        let integers = options.activations.is_static(false) || options.activations.is_dynamic(false);
        if options.form == Form::Folded && integers {
            return Err(Error::usage(
                "pass `quant`: integer kernels need weights in the form `qdq`",
                "leave out `form=folded` or `activations`",
            ));
        }
        let mut set = GlobSetBuilder::new();
        let bad = |e: globset::Error| {
            Error::usage(format!("option `exclude` of pass `quant`: {e}"), "see `*`, `?`, `[...]`")
        };
        for glob in &options.exclude {
            set.add(Glob::new(glob).map_err(bad)?);
        }
        Ok(Quant { exclude: set.build().map_err(bad)?, options })
    }
}

impl Pass for Quant {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        // DequantizeLinear with a scale per channel came with 13, Mul with broadcasting with 7.
        Needs { simplified: true, opset: Some(if self.options.form == Form::Folded { 7 } else { 13 }) }
    }
    /// Eight bits leave 20 to 45 dB; where noise reaches a tenth of the outputs' power something went wrong.
    fn least_sqnr(&self) -> Option<f64> {
        Some(10.0)
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&QuantOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let placement = Placement::usual(&self.options, cx.has_samples());
        let layers = weights::annotate(self, &mut model.graph, placement != Placement::FLOAT, cx);
        cx.check_cancelled()?;
        dynamic::annotate(&mut model.graph, &layers, &placement);
        if placement.is_static() {
            activations::annotate(self, model, &layers, &placement, cx)?;
        }
        form::choose(self.options.form, &mut model.graph, &layers);
        weights::tell(&mut model.graph, &layers, &placement, cx);
        let stored = |v: &ValueId| model.graph.value(*v).quant.is_some();
        Ok(Changed::from(layers.weights.iter().any(stored)))
    }
}

#[cfg(test)]
mod tests;
