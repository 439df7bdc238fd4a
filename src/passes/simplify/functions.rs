//! The bodies of model-local functions, each simplified as a model of its own.
//!
//! What an op of a body computes is not known where one of its attributes is the call's: until the body is simplified, it
//! counts as an op of a domain that nothing is known of. What depends on the call in other ways (types, constants) is
//! open anyway: a function's inputs have no type.

use super::Work;
use crate::{
    error::Result,
    ir::{Attr, Graph, Model, Type},
    passes::{Changed, Context},
};
use std::collections::HashMap;

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
        let declared = declared(&alone.graph);
        hide(&mut alone.graph);
        let result = fresh.clone().rounds(&mut alone, cx, true);
        show(&mut alone.graph);
        declare(&mut alone.graph, &declared);
        function.body = alone.graph;
        changed |= result?;
    }
    Ok(changed)
}

/// The types that a body declares.
fn declared(body: &Graph) -> HashMap<String, Type> {
    let mut all = HashMap::new();
    body.for_each_nested(&mut |g| {
        let typed = g.values().filter_map(|v| Some((g.name_of(v).to_owned(), g.value(v).ty.clone()?)));
        all.extend(typed);
    });
    all
}

/// Takes back the types that were inferred along the way: they may hold for a branch that no call takes.
fn declare(g: &mut Graph, types: &HashMap<String, Type>) {
    for v in g.values().collect::<Vec<_>>() {
        let ty = types.get(g.name_of(v)).cloned();
        g.value_mut(v).ty = ty;
    }
    for op in g.ops().collect::<Vec<_>>() {
        g.op_mut(op).bodies_mut().for_each(|body| declare(body, types));
    }
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
