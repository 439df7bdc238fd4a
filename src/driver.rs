//! From a model to a compressed one: brings the model into the form each pass needs, runs it, and lowers the result.

use crate::{
    error::Result,
    ir::Model,
    lower,
    passes::{Changed, Context, Pass, Pipeline, simplify::Simplify},
    report::PassRun,
};
use std::time::Instant;

/// How to run a pipeline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preparation {
    /// Do not run `simplify` before a pass that needs it.
    pub no_simplify: bool,
}

/// Runs a pipeline over a model: `simplify` first where a pass needs it, the operator set raised where a pass writes newer
/// operators, and quantization schemes turned into nodes at the end. Returns what ran, in order.
pub fn compress(
    model: &mut Model,
    pipeline: &Pipeline,
    preparation: Preparation,
    cx: &mut Context<'_>,
) -> Result<Vec<PassRun>> {
    let mut runs = Vec::new();
    let mut simplified = preparation.no_simplify;
    for pass in pipeline.passes() {
        let needs = pass.needs();
        if let Some(opset) = needs.opset.filter(|o| *o > model.opset()) {
            let from = model.opset();
            lower::opset::upgrade(model, opset)?;
            cx.applied(
                (),
                format!("operator set raised from {from} to {opset}, which `{}` needs", pass.name()),
            );
            model.verify()?;
        }
        if needs.simplified && !simplified {
            runs.push(timed(&Simplify::default(), model, cx)?);
            simplified = true;
        }
        simplified |= pass.name() == Simplify::default().name();
        runs.push(timed(&**pass, model, cx)?);
    }
    lower::schemes::materialize(model)?;
    model.verify()?;
    Ok(runs)
}

fn timed(pass: &dyn Pass, model: &mut Model, cx: &mut Context<'_>) -> Result<PassRun> {
    let start = Instant::now();
    let changed = crate::passes::run_pass(pass, model, cx)?;
    Ok(PassRun {
        name: pass.name().to_owned(),
        changed: changed == Changed::Yes,
        seconds: start.elapsed().as_secs_f64(),
    })
}
