//! Whatever is the same in every run is computed now: what type inference knows, then what moves or adds up small
//! constants, and everything else that depends on constants alone by ONNX Runtime, in one batch.
//!
//! Left alone: ops that are random or of other domains, ops with bodies, graph outputs, DequantizeLinear (folding it
//! would undo a quantization), and results larger than the constants they come from by more than the limit.

use crate::{
    error::Result,
    ir::{Graph, Model, Op, OpId, Origin, Tensor, ValueId, Where},
    ops::{fold::evaluate, infer::infer, is_deterministic},
    passes::{Context, RemarkKind},
};
use std::collections::{BTreeSet, HashMap, HashSet};

fn foldable(op: &Op) -> bool {
    let kind = op.op_type.as_str();
    let other_types = kind.contains("Sequence") || kind.contains("Optional");
    is_deterministic(op) && op.bodies().next().is_none() && !other_types && kind != "DequantizeLinear"
}

/// What folding has already found not to be worth it, or not possible.
#[derive(Default)]
pub(super) struct Refused(HashSet<OpId>);

/// Infers types, and makes what inference knows (such as dimensions) constant; returns how many values it was.
pub(super) fn inferred(model: &mut Model, first: bool, cx: &mut Context<'_>) -> Result<usize> {
    let found = infer(model)?;
    for conflict in found.conflicts.into_iter().filter(|_| first) {
        let text = format!("declared {:?}, but it is {:?}", conflict.declared, conflict.inferred);
        cx.warning(conflict.at, text);
    }
    let mut values: Vec<_> = found.values.into_iter().collect();
    values.sort_unstable_by_key(|(v, _)| *v);
    Ok(values.into_iter().filter(|(v, t)| make_constant(&mut model.graph, *v, t)).count())
}

/// Computes what is cheap to compute from constants, in bodies too; returns how many values it was.
pub(super) fn local(g: &mut Graph, opset: i64, limit: u64) -> usize {
    let mut folded = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = local(body, opset, limit);
            folded += inner;
            inner > 0
        });
        let outputs = g.outputs_of(op);
        let fits = |v: &Option<ValueId>| {
            v.is_some_and(|v| declared_bytes(g, v).is_some_and(|n| n <= cone_bytes(g, v) + limit))
        };
        if !foldable(g.op(op)) || !outputs.iter().all(fits) {
            continue;
        }
        let inputs: Vec<_> = g.inputs_of(op).iter().map(|v| v.map(|v| g.constant(v))).collect();
        if inputs.contains(&Some(None)) {
            continue;
        }
        let inputs: Vec<_> = inputs.into_iter().map(Option::flatten).collect();
        let Some(results) = evaluate(g.op(op), opset, &inputs, outputs.len()) else { continue };
        for (v, t) in outputs.into_iter().flatten().zip(results) {
            folded += usize::from(make_constant(g, v, &t));
        }
    }
    folded
}

/// Puts a constant in the place of a computed value, unless that is a graph output. Of several outputs of an op none may
/// be left out (Split needs them all), so there the readers change, and the op goes once it has none.
fn make_constant(g: &mut Graph, v: ValueId, t: &Tensor) -> bool {
    let Some((producer, _)) = g.producer(v).filter(|_| !g.is_output(v)) else { return false };
    if g.outputs_of(producer).len() == 1 {
        g.make_constant(v, t.clone());
        g.remove_op(producer);
        return true;
    }
    if g.uses(v).is_empty() {
        return false;
    }
    let constant = g.add_initializer(&format!("{}_constant", g.name_of(v)), t.clone());
    g.replace_uses(v, constant);
    true
}

/// Folds what is left in the main graph on ONNX Runtime; returns how many values became constants.
pub(super) fn fold(
    model: &mut Model,
    limit: u64,
    refused: &mut Refused,
    cx: &mut Context<'_>,
) -> Result<usize> {
    let g = &model.graph;
    let mut constant: HashSet<OpId> = HashSet::new();
    for op in g.order() {
        let known =
            |v: &ValueId| g.constant(*v).is_some() || g.producer(*v).is_some_and(|p| constant.contains(&p.0));
        let inputs = g.inputs_of(op);
        let outputs = g.outputs_of(op);
        if foldable(g.op(op))
            && !refused.0.contains(&op)
            && inputs.iter().flatten().all(known)
            && !outputs.iter().flatten().any(|v| g.is_output(*v))
        {
            constant.insert(op);
        }
    }
    let frontier: Vec<ValueId> = {
        let outputs = constant.iter().flat_map(|op| g.outputs_of(*op).into_iter().flatten());
        let read = outputs.filter(|v| g.uses(*v).iter().any(|u| !constant.contains(&u.op())));
        read.collect::<BTreeSet<_>>().into_iter().collect()
    };
    if frontier.is_empty() {
        return Ok(0);
    }
    if !cx.has_runtime() {
        refused.0.extend(constant);
        let text = format!("{} constant values are not folded: no ONNX Runtime is there", frontier.len());
        cx.remark(RemarkKind::Note, Where::Model, text);
        return Ok(0);
    }
    let (small, large): (Vec<_>, Vec<_>) = frontier
        .into_iter()
        .partition(|v| declared_bytes(g, *v).is_none_or(|n| n <= cone_bytes(g, *v) + limit));
    refuse(g, &large, refused, cx);
    if small.is_empty() {
        return Ok(0);
    }
    let part = subgraph(model, &small);
    let names: Vec<String> = small.iter().map(|v| g.name_of(*v).to_owned()).collect();
    let results = match cx.run(&part, &Vec::new(), &names) {
        Ok(results) => results,
        Err(e) => {
            refused.0.extend(constant);
            cx.remark(RemarkKind::Note, Where::Model, format!("constants are not folded: {e}"));
            return Ok(0);
        }
    };
    let mut folded = 0;
    for (v, t) in small.into_iter().zip(results) {
        if t.byte_len() as u64 > cone_bytes(&model.graph, v) + limit {
            refuse(&model.graph, &[v], refused, cx);
            continue;
        }
        folded += usize::from(make_constant(&mut model.graph, v, &t));
    }
    Ok(folded)
}

fn refuse(g: &Graph, values: &[ValueId], refused: &mut Refused, cx: &mut Context<'_>) {
    for v in values {
        refused.0.extend(g.producer(*v).map(|p| p.0));
        let why = "a constant that is cheaper computed than stored";
        cx.missed(Where::Value(g.name_of(*v).to_owned()), why);
    }
}

fn declared_bytes(g: &Graph, v: ValueId) -> Option<u64> {
    let ty = g.tensor_type(v)?;
    let count = ty.static_shape()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    Some(ty.dtype?.bytes_for(count)? as u64)
}

/// The ops and initializers that a value is computed from.
fn cone(g: &Graph, roots: &[ValueId]) -> (HashSet<OpId>, BTreeSet<ValueId>) {
    let (mut ops, mut leaves, mut todo) = (HashSet::new(), BTreeSet::new(), roots.to_vec());
    while let Some(v) = todo.pop() {
        match g.producer(v) {
            Some((op, _)) if ops.insert(op) => todo.extend(g.inputs_of(op).into_iter().flatten()),
            Some(_) => {}
            None => {
                leaves.insert(v);
            }
        }
    }
    (ops, leaves)
}

fn cone_bytes(g: &Graph, v: ValueId) -> u64 {
    let (_, leaves) = cone(g, &[v]);
    leaves.into_iter().filter_map(|v| Some(g.initializer(v)?.byte_len() as u64)).sum()
}

/// A model that computes exactly these values, from no inputs.
fn subgraph(model: &Model, wanted: &[ValueId]) -> Model {
    let g = &model.graph;
    let (ops, leaves) = cone(g, wanted);
    let mut part = Graph::new("constants");
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for v in leaves {
        let new = part.named_value(g.name_of(v));
        part.value_mut(new).origin =
            g.initializer(v).map_or(Origin::Computed, |t: &Tensor| Origin::Initializer(t.clone()));
        map.insert(v, new);
    }
    for op in g.order().into_iter().filter(|op| ops.contains(op)) {
        let inputs: Vec<_> = g.inputs_of(op).iter().map(|v| v.and_then(|v| map.get(&v).copied())).collect();
        let mut outputs = Vec::new();
        for v in g.outputs_of(op) {
            outputs.push(v.map(|v| {
                let new = part.named_value(g.name_of(v));
                part.value_mut(new).ty = g.value(v).ty.clone();
                map.insert(v, new);
                new
            }));
        }
        part.add_op(g.op(op).clone(), &inputs, &outputs);
    }
    part.outputs = wanted.iter().filter_map(|v| map.get(v).copied()).collect();
    Model { graph: part, ir_version: model.ir_version, opsets: model.opsets.clone(), ..Model::default() }
}

#[cfg(test)]
mod tests {
    use crate::{
        error::Result,
        ir::{DType, Graph, Model, Op, Tensor, Type},
        measure::{Batch, Measure, Need, Stats, no_runtime},
        passes::{Changed, Context, Pass, simplify::Simplify},
    };

    /// Answers any run with tensors of `size` elements, and checks that the model needs no inputs.
    struct Answer(usize);
    impl Measure for Answer {
        fn has_samples(&self) -> bool {
            false
        }
        fn measure(&self, _: &Model, _: &[Need]) -> Result<Stats> {
            Err(no_runtime("measuring"))
        }
        fn run(&self, model: &Model, _: &Batch, fetch: &[String]) -> Result<Vec<Tensor>> {
            model.verify()?;
            assert!(model.graph.inputs.is_empty() && model.graph.ops().count() == 1);
            Ok(fetch.iter().map(|_| Tensor::from_vec([self.0], vec![2f32; self.0])).collect())
        }
    }
    #[test]
    fn constant_parts_are_folded_unless_they_grow_the_model() {
        for (size, left) in [(2, 1), (1 << 20, 2)] {
            let mut g = Graph::new("g");
            let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
            let c = g.add_initializer("c", Tensor::from_vec([2], vec![4f32; 2]));
            let s = g.add_node(Op::new("Erf", "s"), &[c], "s", None);
            let y = g.add_node(Op::new("Add", "a"), &[x, s], "y", None);
            g.outputs.push(y);
            let mut model = Model { graph: g, ir_version: 8, ..Model::default() };
            let runtime = Answer(size);
            let mut cx = Context::new().with_measure(&runtime);
            let changed = Simplify::default().run(&mut model, &mut cx).unwrap();
            model.verify().unwrap();
            assert_eq!((changed, model.graph.ops().count()), (Changed::from(left == 1), left));
            assert_eq!(cx.remarks.len(), left - 1, "the miss says why");
        }
    }
}
