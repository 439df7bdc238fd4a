//! The bodies of model-local functions, each simplified as a model of its own.
//!
//! What an op of a body computes is not known where one of its attributes is the call's: until the body is simplified, it
//! counts as an op of a domain that nothing is known of. What depends on the call in other ways (types, constants) is
//! open anyway: a function's inputs have no type.

use super::Work;
use crate::{
    error::Result,
    ir::{Attr, Graph, Model},
    passes::{Changed, Context},
};

/// No domain begins like this.
const HIDDEN: &str = "\0";

/// Simplifies each function's body, without letting it grow. `fresh` is the work that no model has been given yet.
pub(super) fn bodies(model: &mut Model, cx: &mut Context<'_>, fresh: &Work) -> Result<Changed> {
    let mut changed = Changed::No;
    for function in &mut model.functions {
        let body = std::mem::take(&mut function.body);
        let mut alone = Model {
            ir_version: model.ir_version,
            opsets: function.opsets.clone(),
            graph: body,
            ..Model::default()
        };
        hide(&mut alone.graph);
        let result = fresh.clone().rounds(&mut alone, cx, true);
        show(&mut alone.graph);
        function.body = alone.graph;
        // What was inferred along the way holds for any call, but older versions of the format have no place for it.
        let inferred = |g: &Graph, v| g.value(v).carried.0.is_empty();
        for v in function.body.values().collect::<Vec<_>>() {
            if inferred(&function.body, v) {
                function.body.value_mut(v).ty = None;
            }
        }
        changed |= result?;
    }
    Ok(changed)
}

fn hide(g: &mut Graph) {
    for id in g.ops().collect::<Vec<_>>() {
        let op = g.op_mut(id);
        if op.attrs.iter().any(|a| matches!(a.value, Attr::Reference(..))) {
            op.domain.insert_str(0, HIDDEN);
        }
        op.bodies_mut().for_each(hide);
    }
}

fn show(g: &mut Graph) {
    for id in g.ops().collect::<Vec<_>>() {
        let op = g.op_mut(id);
        if let Some(domain) = op.domain.strip_prefix(HIDDEN) {
            op.domain = domain.to_owned();
        }
        op.bodies_mut().for_each(show);
    }
}
