//! Brings a model into its plainest form: weights are initializers, nothing is computed that is not needed.
//!
//! Until nothing changes: constants become initializers, what depends on constants alone is computed, what is computed
//! twice is shared, rules are applied (one family a file), dead code goes. Outputs change by rounding at most.

mod affine;
mod alike;
mod before;
mod branches;
mod carry;
mod chain;
mod concat;
mod constants;
mod control;
mod early;
mod fold;
mod functions;
mod growth;
mod layout;
mod left;
mod lift;
mod masked;
mod merge;
mod no_op;
mod normalized;
mod ones;
mod pad;
mod recognize;
mod recurrent;
mod share;
mod sink;
mod statistics;
mod weights;

use super::{
    Changed, Context, Named, Options, Pass,
    functions::drop_unused_functions,
    pass::changed_options,
    rules::{Misses, RuleSet},
};
use crate::{
    error::Result,
    ir::{Model, Where},
};
pub(super) use control::inline as inline_decided;
use growth::Bounds;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
    let families = [
        no_op::RULES,
        chain::RULES,
        affine::RULES,
        affine::MATMUL_RULES,
        normalized::RULES,
        before::SCALES,
        before::SHIFTS,
        left::RULES,
        merge::RULES,
        constants::RULES,
        pad::RULES,
        ones::RULES,
        ones::REDUCTIONS,
        layout::RULES,
        layout::CHAINS,
    ];
    RuleSet::new(families.into_iter().flatten())
});

static RECOGNIZED: LazyLock<RuleSet> =
    LazyLock::new(|| RuleSet::new(recognize::FAMILIES.iter().copied().flatten()));

/// The options of [`Simplify`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimplifyOptions {
    /// By how many bytes all folded constants together may be larger than the constants they make superfluous.
    pub fold_limit: u64,
    /// Whether operators that exporters took apart, such as LayerNormalization or Gelu, are put together again.
    pub recognize: bool,
}

impl Default for SimplifyOptions {
    fn default() -> Self {
        SimplifyOptions { fold_limit: 64 * 1024, recognize: false }
    }
}

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Simplify {
    options: SimplifyOptions,
}

impl Named for Simplify {
    const NAME: &'static str = "simplify";
    const ABOUT: &'static str = "fold constants and BatchNormalization, share and drop what is not needed";
    type Options = SimplifyOptions;
    fn new(options: SimplifyOptions) -> Result<Self> {
        Ok(Simplify { options })
    }
}

impl Pass for Simplify {
    fn name(&self) -> &str {
        Self::NAME
    }
    /// Only rounding may differ: 80 dB is one part in 10⁴ of the outputs' norm.
    fn least_sqnr(&self) -> Option<f64> {
        Some(80.0)
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let fresh = Work {
            bounds: Bounds::new(self.options.fold_limit),
            learned: fold::Learned::default(),
            misses: Misses::new(),
            recognize: self.options.recognize,
        };
        let mut work = fresh.clone();
        let mut changed = work.rounds(model, cx, true)?;
        if work.bounds.allow_growth() {
            let before = (work.clone(), model.clone(), cx.counts.clone(), cx.remarks.len());
            let grown = work.rounds(model, cx, false)?;
            if work.bounds.exceeded() {
                (work, *model, cx.counts) = (before.0, before.1, before.2);
                cx.remarks.truncate(before.3);
            } else if grown == Changed::Yes {
                changed = grown;
            }
        }
        for v in work.bounds.left {
            let why = "a constant that is cheaper computed than stored";
            cx.missed(Where::Value(model.graph.name_of(v).to_owned()), why);
        }
        for (at, why) in work.misses {
            cx.missed(Where::Op(at), why);
        }
        let unused = drop_unused_functions(model);
        cx.count("unused-function", unused as u64);
        changed |= Changed::from(unused > 0);
        changed |= functions::bodies(model, cx, &fresh)?;
        Ok(changed)
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&SimplifyOptions::default()))
    }
}

/// What a run keeps between its rounds.
#[derive(Clone)]
struct Work {
    bounds: Bounds,
    learned: fold::Learned,
    misses: Misses,
    recognize: bool,
}

impl Work {
    /// Repeats all steps until none changes anything, or folding has added too much.
    fn rounds(&mut self, model: &mut Model, cx: &mut Context<'_>, mut first: bool) -> Result<Changed> {
        let mut changed = Changed::No;
        while !self.bounds.exceeded() {
            cx.check_cancelled()?;
            let opset = model.opset();
            let inputs = lift::close_inputs(model);
            let lifted = lift::constants(&mut model.graph);
            let known = fold::inferred(model, first, cx)?;
            let local = fold::local(&mut model.graph, opset);
            let inside = fold::bodies(&mut model.graph, opset);
            let folded = known + local + inside + fold::fold(model, &mut self.bounds, &mut self.learned, cx);
            let decided = control::inline(&mut model.graph, opset);
            let chosen = masked::choices(&mut model.graph);
            let joined = concat::flatten(&mut model.graph);
            let equal = share::constants(&mut model.graph);
            let shared = share::ops(&mut model.graph);
            let states = recurrent::zero_states(&mut model.graph);
            let dead = model.graph.sweep();
            cx.count("constant-input", inputs as u64);
            cx.count("constant-to-initializer", lifted as u64);
            cx.count("constant-folded", folded as u64);
            cx.count("decided-control-flow", decided as u64);
            cx.count("choice-of-parts", chosen as u64);
            cx.count("concat-of-concat", joined as u64);
            cx.count("equal-constant", equal as u64);
            cx.count("equal-op", shared as u64);
            cx.count("zero-state", states as u64);
            cx.count("dead-code", dead as u64);
            // Before other rules take parts of what would be recognized.
            let mut recognized = 0;
            if self.recognize {
                let attention = recognize::attention(&mut model.graph, opset, &mut self.misses);
                cx.count("attention", attention as u64);
                recognized = attention + RECOGNIZED.apply(&mut model.graph, opset, cx, &mut self.misses);
            }
            statistics::note(&mut model.graph);
            let ruled = recognized + RULES.apply(&mut model.graph, opset, cx, &mut self.misses);
            let branched = branches::maps(&mut model.graph, opset);
            let carried = carry::scales(&mut model.graph, opset);
            let early = early::gathers(&mut model.graph);
            let sunk = sink::transposes(&mut model.graph, opset);
            cx.count("map-into-branches", branched as u64);
            cx.count("map-carried-to-layer", carried as u64);
            cx.count("early-gather", early as u64);
            cx.count("transposes-joined", sunk as u64);
            let shrunk = equal + shared + states + dead;
            let moved = chosen + branched + carried + early + sunk;
            if inputs + lifted + folded + decided + joined + shrunk + ruled + moved == 0 {
                break;
            }
            (first, changed) = (false, Changed::Yes);
        }
        Ok(changed)
    }
}
