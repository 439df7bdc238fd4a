//! Brings a model into its plainest form: weights are initializers, nothing is computed that is not needed.
//!
//! Until nothing changes: Constant nodes become initializers, rules are applied, dead code goes.

mod batch_norm;
mod lift;
mod no_op;

use super::{
    Changed, Context, Named, NoOptions, Pass,
    rules::{Misses, RuleSet},
};
use crate::{
    error::Result,
    ir::{Model, Where},
};
use std::sync::LazyLock;

static RULES: LazyLock<RuleSet> =
    LazyLock::new(|| RuleSet::new(no_op::RULES.iter().chain(batch_norm::RULES)));

/// The pass.
pub struct Simplify;

impl Named for Simplify {
    const NAME: &'static str = "simplify";
    const ABOUT: &'static str = "lift constants, fold BatchNormalization, drop what does nothing";
    type Options = NoOptions;
    fn new(NoOptions {}: NoOptions) -> Result<Self> {
        Ok(Simplify)
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
        let (mut changed, mut misses) = (Changed::No, Misses::new());
        loop {
            cx.check_cancelled()?;
            let opset = model.opset();
            let inputs = lift::close_inputs(model);
            let lifted = lift::constants(&mut model.graph);
            let dead = model.graph.sweep();
            cx.count("constant-input", inputs as u64);
            cx.count("constant-to-initializer", lifted as u64);
            cx.count("dead-code", dead as u64);
            let ruled = RULES.apply(&mut model.graph, opset, cx, &mut misses);
            if inputs + lifted + dead + ruled == 0 {
                break;
            }
            changed = Changed::Yes;
        }
        for (at, why) in misses {
            cx.missed(Where::Op(at), why);
        }
        Ok(changed)
    }
}
