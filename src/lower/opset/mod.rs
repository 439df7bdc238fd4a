//! Newer operator sets: rewrites a model so that it means the same under a later version of ONNX's operators.
//!
//! Versions are taken one at a time. Most operators only gain types or optional inputs from one version to the next and
//! stay as they are; `steps` holds those whose meaning or form changes.

mod steps;

use crate::{
    error::{Error, Result},
    ir::{Graph, Model, OpsetImport},
};

/// The oldest version that is converted from, and the newest that is converted to.
pub const VERSIONS: (i64, i64) = (7, 25);

/// Operator set versions with the lowest version of the file format that may use them.
const IR_VERSIONS: [(i64, i64); 9] =
    [(9, 4), (10, 5), (11, 6), (12, 7), (15, 8), (19, 9), (21, 10), (23, 11), (24, 12)];

/// Raises ONNX's own operator set to `target`, in the main graph, bodies and functions, and the version of the file
/// format as far as that asks for it. What is there already is left alone. Some operators convert only where the type of
/// their input is known: run [`infer_types`](crate::ops::infer_types) first.
///
/// # Errors
/// [`Error::Unsupported`] names the op that has no equivalent in the newer set, or the version out of reach; the
/// model is unchanged then.
pub fn upgrade(model: &mut Model, target: i64) -> Result<()> {
    let (oldest, newest) = VERSIONS;
    let from = model.opset();
    if from < target && (from < oldest || target > newest) {
        let why = format!("operator set {from} to {target}: only {oldest} to {newest} can be converted");
        return Err(Error::unsupported((), why));
    }
    let mut new = model.clone();
    for version in from + 1..=target {
        graph(&mut new.graph, version, false)?;
    }
    let mut raised = from < target;
    raise(&mut new.opsets, target);
    for function in &mut new.functions {
        let uses = function.opsets.iter().filter(|o| o.is_standard()).map(|o| o.version).max();
        let Some(from) = uses.filter(|v| *v < target) else { continue };
        if from < oldest {
            let why = format!("function `{}` uses operator set {from}, older than {oldest}", function.name);
            return Err(Error::unsupported((), why));
        }
        for version in from + 1..=target {
            graph(&mut function.body, version, true)?;
        }
        raise(&mut function.opsets, target);
        raised = true;
    }
    if !raised {
        return Ok(());
    }
    let needed = IR_VERSIONS.iter().rev().find(|(opset, _)| *opset <= target).map_or(3, |(_, ir)| *ir);
    let needed = if target == 25 { 13 } else { needed };
    new.ir_version = new.ir_version.max(needed);
    *model = new;
    Ok(())
}

fn raise(opsets: &mut [OpsetImport], target: i64) {
    for import in opsets.iter_mut().filter(|o| o.is_standard()) {
        import.version = import.version.max(target);
    }
}

/// One version further, in a graph and its bodies.
fn graph(g: &mut Graph, version: i64, in_function: bool) -> Result<()> {
    for op in g.order() {
        let mut failed = None;
        g.edit_bodies(op, |body| {
            if failed.is_none() {
                failed = graph(body, version, false).err();
            }
            true
        });
        if let Some(why) = failed {
            return Err(why);
        }
        if g.op(op).is_standard() {
            steps::Step { g, op, in_function }.to(version)?;
        }
    }
    Ok(())
}
