//! Whatever is the same in every run is computed now: what type inference knows, then what moves or adds up small
//! constants, and everything else that depends on constants alone by ONNX Runtime, in one batch.
//!
//! Left alone: ops that are random or of other domains, ops with bodies, graph outputs, what computes quantized weights
//! back ([`dequantized`]: folding it would undo a quantization), and what [`growth`](super::growth) forbids.

use super::growth::{Bounds, TINY, cone, freed};
use crate::{
    error::Result,
    ir::{Graph, Model, Op, OpId, Origin, Tensor, ValueId, Where},
    ops::{Known, fold::evaluate, infer::infer, is_deterministic, quantized::dequantized},
    passes::{Context, RemarkKind},
};
use std::collections::{BTreeSet, HashMap, HashSet};

fn foldable(op: &Op) -> bool {
    let kind = op.op_type.as_str();
    let other_types = kind.contains("Sequence") || kind.contains("Optional");
    is_deterministic(op) && op.bodies().next().is_none() && !other_types
}

/// What folding has learned of the main graph.
#[derive(Clone, Default)]
pub(super) struct Learned {
    /// Ops that cannot be computed here.
    failed: HashSet<OpId>,
    /// Bytes of values whose type is not inferred, once they were computed.
    sizes: HashMap<ValueId, u64>,
}

/// Infers types, and makes what inference knows (such as dimensions) constant; returns how many values it was.
pub(super) fn inferred(model: &mut Model, first: bool, cx: &mut Context<'_>) -> Result<usize> {
    let found = infer(model)?;
    for conflict in found.conflicts.into_iter().filter(|_| first) {
        let text = format!("declared {:?}, but it is {:?}", conflict.declared, conflict.inferred);
        cx.warning(conflict.at, text);
    }
    Ok(known(&mut model.graph, &found.known))
}

fn known(g: &mut Graph, found: &Known) -> usize {
    let mut folded = 0;
    for (op, bodies) in &found.bodies {
        let mut bodies = bodies.iter();
        g.edit_bodies(*op, |body| {
            let inner = bodies.next().map_or(0, |found| known(body, found));
            folded += inner;
            inner > 0
        });
    }
    let quantized = dequantized(g);
    let mut values: Vec<_> = found.values.iter().filter(|(v, _)| !quantized.contains(v)).collect();
    values.sort_unstable_by_key(|(v, _)| **v);
    for (v, t) in values {
        let bytes = t.byte_len() as u64;
        let fits = bytes <= TINY || bytes <= freed(g, &[*v]);
        folded += usize::from(fits && make_constant(g, *v, t));
    }
    folded
}

/// Computes what is cheap to compute from constants and takes no more room than they, in bodies too; returns how many
/// values it was.
pub(super) fn local(g: &mut Graph, opset: i64) -> usize {
    let mut folded = 0;
    let quantized = dequantized(g);
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = local(body, opset);
            folded += inner;
            inner > 0
        });
        let outputs = g.outputs_of(op);
        let inputs: Vec<_> = g.inputs_of(op).iter().map(|v| v.map(|v| g.constant(v))).collect();
        let undoes = outputs.iter().flatten().any(|v| quantized.contains(v));
        if !foldable(g.op(op)) || undoes || inputs.contains(&Some(None)) {
            continue;
        }
        let sizes = outputs.iter().map(|v| declared_bytes(g, (*v)?)).collect::<Option<Vec<u64>>>();
        let values: Vec<ValueId> = outputs.iter().copied().flatten().collect();
        let fits = |n: &Vec<u64>| n.iter().all(|n| *n <= TINY) || n.iter().sum::<u64>() <= freed(g, &values);
        if !sizes.is_some_and(|sizes| fits(&sizes)) {
            continue;
        }
        let inputs: Vec<_> = inputs.into_iter().map(Option::flatten).collect();
        let Some(results) = evaluate(g.op(op), opset, &inputs, outputs.len()) else { continue };
        for (v, t) in values.into_iter().zip(results) {
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

/// Folds what is left in the main graph, on ONNX Runtime where need be; returns how many values became constants.
pub(super) fn fold(
    model: &mut Model,
    bounds: &mut Bounds,
    learned: &mut Learned,
    cx: &mut Context<'_>,
) -> usize {
    let mut aside = learned.failed.clone();
    bounds.begin();
    loop {
        let (constant, frontier) = frontier(&model.graph, &aside);
        if frontier.is_empty() {
            return 0;
        }
        let bytes = |v: &ValueId| declared_bytes(&model.graph, *v);
        let open = |v: &ValueId| bytes(v).is_none() && !learned.sizes.contains_key(v);
        let open: Vec<ValueId> = frontier.iter().copied().filter(open).collect();
        let Some(results) = compute(model, &open, cx) else {
            learned.failed.extend(constant);
            return 0;
        };
        learned.sizes.extend(results.iter().map(|(v, t)| (*v, t.byte_len() as u64)));
        let size = |v: &ValueId| bytes(v).or_else(|| learned.sizes.get(v).copied());
        let sized = frontier.iter().filter_map(|v| Some((*v, size(v)?)));
        let fitting = bounds.fitting(&model.graph, sized.collect());
        if fitting.is_empty() {
            // What is left is computed in every run, but perhaps from something that need not be.
            aside.extend(frontier.iter().filter_map(|v| Some(model.graph.producer(*v)?.0)));
            continue;
        }
        let Some(results) = compute(model, &fitting, cx) else {
            learned.failed.extend(constant);
            return 0;
        };
        return results.into_iter().filter(|(v, t)| make_constant(&mut model.graph, *v, t)).count();
    }
}

/// The ops that depend on constants alone, and those of their results that others read.
fn frontier(g: &Graph, failed: &HashSet<OpId>) -> (HashSet<OpId>, BTreeSet<ValueId>) {
    let mut constant: HashSet<OpId> = HashSet::new();
    let quantized = dequantized(g);
    for op in g.order() {
        let known =
            |v: &ValueId| g.constant(*v).is_some() || g.producer(*v).is_some_and(|p| constant.contains(&p.0));
        if foldable(g.op(op))
            && !failed.contains(&op)
            && g.inputs_of(op).iter().flatten().all(known)
            && !g.outputs_of(op).iter().flatten().any(|v| g.is_output(*v) || quantized.contains(v))
        {
            constant.insert(op);
        }
    }
    let outputs = constant.iter().flat_map(|op| g.outputs_of(*op).into_iter().flatten());
    let read = outputs.filter(|v| g.uses(*v).iter().any(|u| !constant.contains(&u.op()))).collect();
    (constant, read)
}

/// The tensors of values that depend on constants alone; `None`, with a remark, where some cannot be computed.
fn compute(model: &Model, wanted: &[ValueId], cx: &mut Context<'_>) -> Option<Vec<(ValueId, Tensor)>> {
    let g = &model.graph;
    let mut known = evaluated(g, model.opset(), wanted);
    let (here, left): (Vec<ValueId>, Vec<_>) = wanted.iter().partition(|v| known.contains_key(v));
    let mut results: Vec<_> = here.into_iter().filter_map(|v| Some((v, known.remove(&v)?))).collect();
    if left.is_empty() {
        return Some(results);
    }
    if !cx.has_runtime() {
        let text = format!("{} constant values are not folded: no ONNX Runtime is there", left.len());
        cx.remark(RemarkKind::Note, Where::Model, text);
        return None;
    }
    let names: Vec<String> = left.iter().map(|v| g.name_of(*v).to_owned()).collect();
    match cx.run(&subgraph(model, &left), &Vec::new(), &names) {
        Ok(tensors) => results.extend(left.into_iter().zip(tensors)),
        Err(e) => {
            cx.remark(RemarkKind::Note, Where::Model, format!("constants are not folded: {e}"));
            return None;
        }
    }
    results.sort_unstable_by_key(|(v, _)| *v);
    Some(results)
}

/// Of what these values depend on, what needs no runtime to compute, from constants alone.
fn evaluated(g: &Graph, opset: i64, wanted: &[ValueId]) -> HashMap<ValueId, Tensor> {
    let (ops, _) = cone(g, wanted);
    let mut known: HashMap<ValueId, Tensor> = HashMap::new();
    for op in g.order().into_iter().filter(|op| ops.contains(op)) {
        let tensor = |v: ValueId| g.constant(v).or_else(|| known.get(&v));
        let inputs: Option<Vec<_>> =
            g.inputs_of(op).iter().map(|v| v.map_or(Some(None), |v| tensor(v).map(Some))).collect();
        let outputs = g.outputs_of(op);
        let results = inputs.and_then(|inputs| evaluate(g.op(op), opset, &inputs, outputs.len()));
        let named = outputs.into_iter().zip(results.into_iter().flatten());
        known.extend(named.filter_map(|(v, t)| Some((v?, t))));
    }
    known
}

/// Folds in bodies what takes several steps, as weights that are put together anew, where nothing grows and no runtime is
/// needed; returns how many values it was.
pub(super) fn bodies(g: &mut Graph, opset: i64) -> usize {
    let mut folded = 0;
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            let inner = bodies(body, opset);
            let (_, frontier) = frontier(body, &HashSet::new());
            let sized = frontier.into_iter().filter_map(|v| Some((v, declared_bytes(body, v)?)));
            let fitting = Bounds::new(0).fitting(body, sized.collect());
            let known = evaluated(body, opset, &fitting);
            let known = fitting.iter().filter_map(|v| Some((*v, known.get(v)?)));
            let here = known.filter(|(v, t)| make_constant(body, *v, t)).count();
            folded += inner + here;
            inner + here > 0
        });
    }
    folded
}

fn declared_bytes(g: &Graph, v: ValueId) -> Option<u64> {
    let ty = g.tensor_type(v)?;
    let count = ty.static_shape()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    Some(ty.dtype?.bytes_for(count)? as u64)
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
        measure::{Batch, Measure},
        passes::{Changed, Context, Pass, simplify::Simplify},
    };

    /// Answers any run with tensors of `size` elements, and checks that the model needs no inputs.
    struct Answer(usize);
    impl Measure for Answer {
        fn run(&self, model: &Model, _: &Batch, fetch: &[String]) -> Result<Vec<Tensor>> {
            model.verify()?;
            assert!(model.graph.inputs.is_empty());
            let vector = |k: usize| Tensor::from_vec([self.0], vec![k as f32; self.0]);
            Ok((0..fetch.len()).map(vector).collect())
        }
    }
    /// `x` plus the sum of some vectors that Compress makes of constants, whose size only a run tells.
    fn sums(vectors: usize) -> Model {
        let mut g = Graph::new("g");
        let mut sum = g.add_input("x", Type::tensor(DType::F32, [1.into()]));
        for k in 0..vectors {
            let c = g.add_initializer("c", Tensor::from_vec([2], vec![k as f32; 2]));
            let keep = g.add_initializer("keep", Tensor::ints([1, 1]));
            let s = g.add_node(Op::new("Compress", "s"), &[c, keep], "s", None);
            sum = g.add_node(Op::new("Add", "a"), &[sum, s], "y", None);
        }
        g.outputs.push(sum);
        Model { graph: g, ir_version: 8, ..Model::default() }
    }
    #[test]
    fn folding_as_a_whole_stays_within_the_limit() {
        // Of so many vectors with so many elements each, so many are left.
        for (vectors, size, left) in [
            (9, 16, 0),      // none takes more room than a node
            (2, 8000, 0),    // 64 kB in all
            (3, 8000, 3),    // 96 kB in all
            (1, 1 << 20, 1), // 4 MB
        ] {
            let mut model = sums(vectors);
            let runtime = Answer(size);
            let mut cx = Context::new().with_measure(&runtime);
            let _changed = Simplify::default().run(&mut model, &mut cx).unwrap();
            model.verify().unwrap();
            assert_eq!(
                (model.graph.ops().count(), cx.remarks.len()),
                (vectors + left, left),
                "{vectors} of {size}"
            );
            assert_eq!(Simplify::default().run(&mut model, &mut cx).unwrap(), Changed::No);
        }
    }
}
