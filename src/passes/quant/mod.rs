//! Quantization: weights in few bits always, activations in integers where calibration samples tell
//! their ranges.
//!
//! The pass only annotates values with a [`QuantScheme`](crate::ir::QuantScheme); writing the model turns that into
//! operators.

mod absorb;
mod activations;
mod alone;
mod anew;
mod bias;
mod bodies;
mod branches;
mod budget;
mod chains;
mod choice;
mod compensate;
mod costs;
mod counting;
mod descent;
mod dynamic;
mod enough;
mod equalize;
mod expected;
mod finish;
mod form;
mod gptq;
mod guard;
mod held;
mod histogram;
mod last;
mod layers;
mod learned;
mod lost;
mod masks;
mod noisy;
mod observe;
mod options;
mod pairs;
mod placement;
mod ranges;
mod room;
mod rule;
mod saturation;
mod scales;
mod seam;
mod shield;
mod target;
mod trial;
mod unseen;
mod weights;
mod whole;
mod widen;

use super::{
    Changed, Context, Named, Needs, Options, Pass, RemarkKind, globs, lift, linear::effect::Original,
    pass::changed_options,
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, OpId, Origin, QuantForm, ValueId, Where},
    ops::infer_types,
};
use activations::Schemes;
use globset::GlobSet;
use layers::Tables;
use options::Budget;
use placement::{How, Kind, Placement};
use scales::Integers;
use weights::{Layers, Plan};

pub use layers::LayerOptions;
pub use options::{
    ActivationType, Activations, Equalize, Form, Latency, Method, Noise, Observer, QuantOptions,
};
pub use seam::move_scales;
pub use target::Target;

/// Quantizes weights to integers of few bits, and activations to integers where samples are at hand.
pub struct Quant {
    options: QuantOptions,
    budget: Option<Budget>,
    exclude: GlobSet,
    tables: Tables,
}

impl Quant {
    fn excludes(&self, graph: &Graph, op: OpId) -> bool {
        self.exclude.is_match(graph.place(op).name())
    }
    /// Whether an op between layers stays float, as `exclude` or a table has it.
    fn keeps_float(&self, graph: &Graph, op: OpId) -> bool {
        let asked = self.tables.activations(&[graph.op(op).name.as_str()]);
        self.excludes(graph, op) || asked == Some(Activations::None)
    }
    /// The options of the layers that read a weight.
    fn options_of(&self, graph: &Graph, weight: ValueId) -> QuantOptions {
        self.tables.over(&self.options, &readers(graph, weight))
    }
    /// Whether a table has what the layers of a weight read rounded as the model runs.
    fn asks_for_dynamic(&self, graph: &Graph, weight: ValueId) -> bool {
        self.tables.activations(&readers(graph, weight)) == Some(Activations::Dynamic)
    }
    /// Whether the bits of a weight are given, and not for the pass to widen.
    fn fixes_bits(&self, graph: &Graph, weight: ValueId) -> bool {
        self.tables.fix_bits(&readers(graph, weight))
    }
    /// Whether what integer kernels multiply by uint8 has seven bits alone.
    fn keeps_to_seven_bits(&self) -> bool {
        let given = self.options.reduce_range.or(self.options.target.profile().reduce_range);
        given.unwrap_or_else(saturation::here)
    }
    /// Whether weights of such integers are rounded by what their layers see on samples.
    fn learns(&self, integers: &Integers, samples: bool) -> bool {
        match self.options.method {
            Method::Auto => samples && integers.clip,
            Method::Gptq => true,
            Method::Rtn => false,
        }
    }
    /// How layers of a kind may compute.
    fn ways(&self, kind: Kind, samples: bool) -> Vec<How> {
        // Elements of activations beyond their range have eight bits all the same.
        let written = kind != Kind::Pair || self.options.multiplies_pairs() && !self.keeps_to_seven_bits();
        let allowed = |how: &&How| written && self.options.allows(kind, **how, samples);
        let integers = kind.ways().iter().filter(allowed);
        [How::Float].into_iter().chain(integers.copied()).collect()
    }
    /// Every kind in integers.
    fn widest(&self, samples: bool) -> Placement {
        let first = |kind| self.ways(kind, samples).get(1).map(|how| (kind, *how));
        Kind::ALL.into_iter().filter_map(first).fold(Placement::FLOAT, |all, (kind, how)| all.with(kind, how))
    }
    /// Gives weights their forms and activations their schemes. Returns how many activations are integers, and what of
    /// them is left alone and why.
    fn place(
        &self,
        model: &mut Model,
        layers: &Layers,
        placement: &Placement,
        schemes: &Schemes,
    ) -> (u64, Vec<(Where, String)>) {
        let (graph, mut said) = (&mut model.graph, Vec::new());
        dynamic::annotate(graph, layers, placement, &mut said);
        if !self.options.has_wide_activations() && self.keeps_to_seven_bits() {
            saturation::avoid(graph, layers, placement);
        }
        let (activations, integers) =
            activations::annotate(self, graph, layers, placement, schemes, &mut said);
        form::choose(self, model, layers, &integers);
        if self.options.target.profile().shields_floats {
            shield::mark(&mut model.graph);
        }
        (activations, said)
    }
}

fn readers(graph: &Graph, v: ValueId) -> Vec<&str> {
    lift::readers(graph, v).into_iter().map(|(graph, op, _)| graph.op(op).name.as_str()).collect()
}

impl Named for Quant {
    const NAME: &'static str = "quant";
    const ABOUT: &'static str =
        "Store weights as int8, and compute in integers where samples tell the ranges";
    type Options = QuantOptions;

    fn new(options: QuantOptions) -> Result<Self> {
        options.check()?;
        let (exclude, tables) = (globs::excluded(&options.exclude)?, Tables::new(&options)?);
        Ok(Quant { budget: options.budget()?, exclude, tables, options })
    }
}

impl Pass for Quant {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        let opset = self.tables.combined(&self.options).iter().map(QuantOptions::opset).max();
        Needs { simplified: true, opset, given: self.options.size.is_some() }
    }
    /// Eight bits and more leave at least 20 dB, four 10 to 30; below, only the task can tell.
    fn least_sqnr(&self) -> Option<f64> {
        let fewest = self.tables.combined(&self.options).iter().map(|options| options.bits).min();
        match (fewest?, self.budget) {
            (_, Some(Budget::Size(_))) => None,
            (8 | 16, _) => Some(10.0),
            (4, _) => Some(5.0),
            _ => None,
        }
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&QuantOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let before = model.clone();
        let changed = self.decide(model, cx);
        if changed.is_err() {
            *model = before;
        }
        changed
    }
}

impl Quant {
    fn decide(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        self.tables.check(&self.options, &model.graph)?;
        let told = cx.has_samples() || self.options.activations == Activations::Static;
        if self.options.form == Form::QOperator && !told {
            let help = "give some with `--calib`, `activations=static` for ranges that BatchNormalization tells, or `form=qdq`";
            return Err(Error::usage("`form=qoperator` needs samples, for the ranges of activations", help));
        }
        let restored = match self.options.requantize {
            true => anew::floats(model, cx)?,
            false => Changed::No,
        };
        let integers = Placement::usual(&self.options, cx.has_samples()) != Placement::FLOAT;
        if integers && widen::is_half(&model.graph) {
            let said = cx.said();
            let wide = match self.budget {
                Some(Budget::Size(_)) => {
                    Err("float32 in between takes bytes that a target for the file does not foresee".into())
                }
                _ => widen::widened(model),
            };
            let why = match wide {
                Ok(wide) => match self.in_float32(wide, cx)? {
                    Some(wide) => {
                        *model = wide;
                        return Ok(Changed::Yes);
                    }
                    None => "with integers, and float32 in between, it is no faster".to_owned(),
                },
                Err(why) => why,
            };
            cx.unsay(said);
            cx.remark(RemarkKind::Note, (), format!("activations stay float16: {why}"));
        }
        let quantized = self.quantize(model, cx)?;
        Ok(if restored == Changed::Yes { restored } else { quantized })
    }
    /// The model, which was widened, where it computes in integers; nothing where it does not.
    fn in_float32(&self, mut wide: Model, cx: &mut Context<'_>) -> Result<Option<Model>> {
        if self.quantize(&mut wide, cx)? == Changed::No {
            return Ok(None);
        }
        let g = &mut wide.graph;
        let integers = |v: ValueId| {
            let value = g.value(v);
            let scheme = value.quant.as_ref();
            scheme.is_some_and(|s| value.origin == Origin::Computed || s.form == QuantForm::Dynamic)
        };
        if !g.values().any(integers) {
            return Ok(None);
        }
        widen::narrow(g);
        cx.remark(RemarkKind::Note, (), "what is between integers computes in float32 instead of float16");
        Ok(Some(wide))
    }
    fn quantize(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let plan = Plan {
            pass: self,
            bits: self.options.bits,
            opset: model.opset(),
            activations: Placement::usual(&self.options, cx.has_samples()) != Placement::FLOAT,
        };
        let mut before = model.clone();
        bodies::separate(&plan, &mut model.graph);
        let branches = self.branches(&plan, model, cx)?;
        if !branches.is_empty() {
            before = model.clone();
        }
        let half = weights::uncast(&plan, &mut model.graph);
        let lifted = bodies::lift(&plan, &mut model.graph, &branches);
        if !lifted.is_empty() {
            infer_types(model)?;
        }
        let expected =
            plan.activations && !cx.has_samples() && self.options.activations == Activations::Static;
        if expected && self.options.equalize == Equalize::Auto {
            let count = absorb::absorb(self, model);
            if count > 0 {
                let text = format!("means moved from {count} layers into the biases behind them");
                cx.remark(RemarkKind::Note, (), text);
            }
        }
        let mut layers = weights::annotate(&plan, &mut model.graph, cx);
        cx.check_cancelled()?;
        layers = equalize::equalized(&plan, model, layers, cx)?;
        match self.budget {
            None => {
                let float = Original::of(alone::float(model, &layers));
                layers = noisy::widened(&plan, model, &float, layers, cx)?;
                self.finish(model, &float, &layers, self.options.latency, cx)?;
            }
            Some(Budget::Size(share)) => budget::within_size(&plan, share, model, &layers, cx)?,
            Some(Budget::Drop(most)) => budget::within_drop(&plan, most, model, &layers, cx)?,
        }
        let stored = |v: &ValueId| model.graph.value(*v).quant.is_some();
        let changed = Changed::from(layers.weights.iter().any(stored));
        match changed {
            Changed::Yes => {
                half.into_iter().for_each(|(v, dtype)| widen::store(&mut model.graph, v, dtype));
                // Handing weights to a body takes time in each run. What has a scheme goes there when that becomes operators.
                for name in lifted {
                    if model.graph.find(&name).is_some_and(|v| model.graph.value(v).quant.is_none()) {
                        lift::put_back(&mut model.graph, &name);
                    }
                }
            }
            Changed::No => *model = before,
        }
        let changed = if branches.is_empty() { changed } else { Changed::Yes };
        branches.into_iter().for_each(|branch| branch.put_back(model));
        Ok(changed)
    }
}

#[cfg(test)]
mod tests;
