//! From a model to a compressed one: brings the model into the form each pass needs, runs it, and lowers the result.

use crate::{
    error::{Error, Result},
    ir::{Function, Model, Where},
    lower,
    ops::{self, Symbols},
    passes::{
        Changed, Context, Pass, Pipeline, RemarkKind, inline_functions, interface::drop_unused_inputs,
        simplify::Simplify,
    },
    report::PassRun,
};
use std::time::Instant;

/// What to do around the passes of a pipeline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preparation {
    /// Do not run `simplify` before a pass that needs it.
    pub no_simplify: bool,
    /// Raise ONNX's own operator set to this version first.
    pub opset: Option<i64>,
    /// Replace calls of model-local functions by what they do first.
    pub inline_functions: bool,
    /// Drop the inputs that nothing uses in the end.
    pub drop_unused_inputs: bool,
}

/// Runs a pipeline over a model: `simplify` first where a pass needs it, the operator set raised where that is asked for or
/// a pass writes newer operators, and quantization schemes turned into nodes at the end. Returns what ran, in order.
///
/// # Errors
/// [`Error::Usage`] where an operator set is asked for that is older than the model's; what the passes fail with.
pub fn compress(
    model: &mut Model,
    pipeline: &Pipeline,
    preparation: Preparation,
    cx: &mut Context<'_>,
) -> Result<Vec<PassRun>> {
    let mut runs = Vec::new();
    let (file_version, symbols) = (model.ir_version, Symbols::of(model));
    if pipeline.passes().iter().any(|pass| pass.needs().given) {
        cx.give(model);
    }
    if let Some(opset) = preparation.opset {
        if opset < model.opset() {
            let what = format!("operator set {opset} is older than the model's, {}", model.opset());
            return Err(Error::usage(what, "operator sets are only ever raised"));
        }
        raise_opset(model, opset, "as asked for", cx)?;
    }
    if preparation.inline_functions {
        inline(model, cx)?;
    }
    let mut simplified = preparation.no_simplify;
    for pass in pipeline.passes() {
        let needs = pass.needs();
        if let Some(opset) = needs.opset {
            raise_opset(model, opset, &format!("which `{}` needs", pass.name()), cx)?;
        }
        if needs.simplified && !simplified {
            runs.push(timed(&Simplify::default(), model, cx)?);
            simplified = true;
        }
        simplified |= pass.name() == Simplify::default().name();
        runs.push(timed(&**pass, model, cx)?);
    }
    if preparation.drop_unused_inputs {
        cx.enter("inputs");
        for name in drop_unused_inputs(model) {
            cx.remark(RemarkKind::Note, Where::Value(name), "an input that nothing uses was dropped");
        }
    }
    lower::schemes::materialize(model)?;
    symbols.forget_others(model);
    model.verify()?;
    if model.ir_version > file_version {
        cx.enter("file");
        let text = format!("version of the file format raised from {file_version} to {}", model.ir_version);
        cx.remark(RemarkKind::Note, (), text);
    }
    Ok(runs)
}

/// Inlines functions, once they and the model are of one operator set.
fn inline(model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
    let versions = |f: &Function| f.opsets.iter().filter(|o| o.is_standard()).map(|o| o.version).max();
    if let Some(newest) = model.functions.iter().filter_map(versions).max() {
        raise_opset(model, newest, "which a function is of", cx)?;
        lower::opset::upgrade(model, model.opset())?;
    }
    let (functions, calls) = (model.functions.len(), inline_functions(model)?);
    if functions > 0 {
        cx.enter("functions");
        let text = format!("{calls} calls of {functions} model-local functions are inlined");
        cx.remark(RemarkKind::Note, (), text);
    }
    Ok(())
}

fn raise_opset(model: &mut Model, target: i64, why: &str, cx: &mut Context<'_>) -> Result<()> {
    let from = model.opset();
    if from >= target {
        return Ok(());
    }
    // What an attribute becomes may depend on the type of an input.
    ops::infer_types(model)?;
    lower::opset::upgrade(model, target)?;
    model.verify()?;
    cx.enter("opset");
    cx.remark(RemarkKind::Note, (), format!("operator set raised from {from} to {target}, {why}"));
    Ok(())
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
