//! Half precision: weights and activations as float16 or bfloat16, wherever their numbers fit.

mod choose;
mod loss;
mod rewrite;

use super::{Changed, Context, Named, Needs, Options, Pass, RemarkKind, globs, pass::changed_options};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, OpId, Origin, ValueId},
    measure::{Measured, Need, Stat},
    ops::infer_types,
};
use choose::{Choice, Kept, Scope};
use globset::GlobSet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Constants of fewer elements are no weights: casts around an op that reads one, or behind one, take more than they save.
const WORTH: usize = 1024;

/// A type of half precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float16: 11 bits of precision, numbers up to 65504.
    #[default]
    Fp16,
    /// bfloat16: 8 bits of precision, the range of float32.
    Bf16,
}

/// The types of the model's inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// As they are: casts stand behind inputs and in front of outputs.
    #[default]
    Keep,
    /// Of half precision, where their numbers fit.
    Cast,
}

/// Options of [`Cast`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CastOptions {
    /// What float32 becomes.
    pub precision: Precision,
    /// The types of the model's inputs and outputs.
    pub io: Io,
    /// Globs of node names that compute in float.
    pub exclude: Vec<String>,
    /// Globs of operators that compute in float: `Softmax`, `Reduce*`.
    pub exclude_ops: Vec<String>,
}

/// The pass.
pub struct Cast {
    options: CastOptions,
    names: GlobSet,
    operators: GlobSet,
}

impl Named for Cast {
    const NAME: &'static str = "cast";
    const ABOUT: &'static str =
        "Compute in float16 or bfloat16 wherever the numbers fit, and store weights so";
    type Options = CastOptions;
    fn new(options: CastOptions) -> Result<Self> {
        let (names, operators) = (globs::excluded(&options.exclude)?, globs::excluded(&options.exclude_ops)?);
        Ok(Cast { options, names, operators })
    }
}

impl Cast {
    fn dtype(&self) -> DType {
        match self.options.precision {
            Precision::Fp16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }
    fn excludes(&self, g: &Graph, op: OpId) -> bool {
        self.names.is_match(g.place(op).name()) || self.operators.is_match(&g.op(op).op_type)
    }
}

impl Pass for Cast {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        // With 13 Cast knows bfloat16, and the last operators learn float16.
        Needs { simplified: true, opset: Some(13), given: false }
    }
    /// Rounding every number leaves 29 (made-up inputs of a deep model) to 77 dB in float16, 33 to 65 in bfloat16.
    fn least_sqnr(&self) -> Option<f64> {
        Some(match self.options.precision {
            Precision::Fp16 => 25.0,
            Precision::Bf16 => 20.0,
        })
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&CastOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        infer_types(model)?;
        let ranges = ranges(model, cx)?;
        let choice = choose::choose(self, &Scope { graph: &model.graph, outer: None, ranges: &ranges });
        let mut without = BTreeMap::new();
        tell(&model.graph, &choice, &mut without, cx);
        if !without.is_empty() {
            let list: Vec<String> = without.iter().map(|(name, n)| format!("{name} ({n})")).collect();
            let text =
                format!("no {} kernel is known of {}: they compute in float", self.dtype(), list.join(", "));
            cx.remark(RemarkKind::Note, (), text);
        }
        tell_vanished(&model.graph, &choice, self.dtype(), cx);
        let done = rewrite::rewrite(&mut model.graph, &choice, self.dtype(), self.options.io);
        infer_types(model)?;
        cx.count("ops", done.ops as u64);
        cx.count("weights", done.constants as u64);
        cx.count("casts", done.casts as u64);
        Ok((done.ops + done.constants + done.casts > 0).into())
    }
}

/// The smallest and largest elements of computed float32 values on the samples, real or made up; nothing without any.
fn ranges(model: &Model, cx: &mut Context<'_>) -> Result<HashMap<ValueId, (f32, f32)>> {
    let g = &model.graph;
    let values = g.values().filter(|v| choose::is_float(g, *v) && g.value(*v).origin == Origin::Computed);
    let values: Vec<ValueId> = values.collect();
    let need = |v: &ValueId| Need { value: g.name_of(*v).to_owned(), stat: Stat::Range { axis: None } };
    let needs: Vec<Need> = values.iter().map(need).collect();
    let stats = match cx.measure(model, &needs) {
        Ok(stats) => stats,
        Err(why) if cx.has_samples() => return Err(why),
        Err(_) => {
            cx.remark(
                RemarkKind::Note,
                (),
                "no samples: whether activations fit is not known, give some with --calib",
            );
            return Ok(HashMap::new());
        }
    };
    let range = |(v, need): (ValueId, Need)| match stats.0.get(&need)? {
        Measured::Range { min, max } => Some((v, (*min.first()?, *max.first()?))),
    };
    Ok(values.into_iter().zip(needs).filter_map(range).collect())
}

/// Says which ops compute in float, and why; those without a kernel go to `without`, to be said once.
fn tell(g: &Graph, choice: &Choice, without: &mut BTreeMap<String, usize>, cx: &mut Context<'_>) {
    for (op, why) in &choice.kept {
        match why {
            Kept::Numbers(why) => cx.missed(g.place(*op), format!("computes in float: {why}")),
            Kept::Quantized => cx.missed(g.place(*op), "computes in float: it is quantized"),
            Kept::Unsupported => *without.entry(g.op(*op).full_type()).or_default() += 1,
            Kept::Excluded | Kept::Alone => {}
        }
    }
    for (op, bodies) in &choice.bodies {
        for (body, choice) in g.op(*op).bodies().zip(bodies) {
            tell(body, choice, without, cx);
        }
    }
}

/// Says how many numbers of constants become 0.
fn tell_vanished(g: &Graph, choice: &Choice, dtype: DType, cx: &mut Context<'_>) {
    let (mut vanished, mut constants) = (0, 0);
    for (v, tensor) in g.initializers().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
        let read = g.uses(v).iter().any(|at| choice.half.contains(&at.op()));
        let lost = loss::of_constant(tensor, dtype).unwrap_or(0);
        if read && lost > 0 {
            vanished += lost;
            constants += 1;
        }
    }
    if vanished > 0 {
        let text =
            format!("{vanished} numbers of {constants} weights are too small for {dtype} and become 0");
        cx.remark(RemarkKind::Note, (), text);
    }
}
