//! A Transpose moves down to where it meets another: `f(Transpose(x)) = Transpose(f'(x))` for what works element by
//! element or along an axis, with `f'` the same along the axis that stands there before.
//!
//! Two in a row are one. Where all inputs of a Concat or a sum come from Transposes of one permutation, one after it
//! takes their place. A reduction that drops axes needs none before it where the others come in the same order without,
//! and a Split none where each part is turned again. Only then does one move, so each move leaves fewer of them: nothing
//! moves back and forth.

use crate::{
    ir::{Dim, Graph, Op, OpId, Shape, Tensor, Type, ValueId},
    ops::fold::{
        evaluate,
        index::{axes, axis},
        moves::permutation,
    },
};
use std::collections::BTreeSet;

const UNARY: &[&str] = &[
    "Abs",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tanh",
    "ThresholdedRelu",
];
const BINARY: &[&str] = &["Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"];
const REDUCTIONS: &[&str] = &[
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

fn any(op: &Op, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| op.is(kind))
}

/// A Transpose, and the ops under it in their order that it can move past.
struct Chain {
    transpose: OpId,
    /// Whether others read it too; then it stays for them.
    shared: bool,
    /// What reads it here.
    reader: OpId,
    past: Vec<(OpId, Changes)>,
}

/// What an op needs to do the same before a Transpose: attributes and constant inputs.
#[derive(Default)]
struct Changes {
    attrs: Vec<(&'static str, Vec<i64>)>,
    axis: Option<i64>,
    inputs: Vec<(usize, Tensor)>,
}

/// Moves Transposes down as far as that makes them fewer; returns how many went.
pub(super) fn transposes(g: &mut Graph, opset: i64) -> usize {
    let mut gone = 0;
    for op in g.order() {
        gone += join(g, op, opset).or_else(|| drop_axes(g, op, opset)).or_else(|| split(g, op)).unwrap_or(0);
    }
    gone
}

/// Takes away the Transpose over a reduction whose result has its axes in the same order without it.
fn drop_axes(g: &mut Graph, op: OpId, opset: i64) -> Option<usize> {
    if !any(g.op(op), REDUCTIONS) || g.op(op).int("keepdims").unwrap_or(1) != 0 {
        return None;
    }
    let v = g.input(op, 0)?;
    let rank = g.rank(v)?;
    let perm = over(g, v, rank)?;
    let chain = chain(g, v, op, &perm, opset).filter(|chain| !chain.shared)?;
    let (changes, dropped) = reduction(g, op, &perm)?;
    let kept: Vec<usize> = perm.iter().copied().filter(|k| !dropped.contains(k)).collect();
    kept.is_sorted().then_some(())?;
    apply(g, chain, &perm);
    amend(g, op, changes);
    Some(1)
}

/// Moves a Transpose past a Split of which only Transposes read the parts.
fn split(g: &mut Graph, op: OpId) -> Option<usize> {
    let (v, sides) = (g.input(op, 0)?, g.outputs_of(op));
    let (above, _) = g.producer(v).filter(|_| g.op(op).is("Split") && g.sole_use(v).is_some())?;
    let rank = g.rank(v)?;
    let perm = if g.op(above).is("Transpose") { permutation(g.op(above), rank)? } else { return None };
    let along = axis(g.op(op).int("axis").unwrap_or(0), rank)?;
    let mut readers = Vec::new();
    for part in sides.iter().flatten() {
        if g.is_output(*part) {
            return None;
        }
        for reader in g.uses(*part).into_iter().map(|u| u.op()) {
            let own =
                if g.op(reader).is("Transpose") { permutation(g.op(reader), rank)? } else { return None };
            readers.push((reader, own.iter().map(|k| perm[*k] as i64).collect::<Vec<i64>>()));
        }
    }
    if readers.is_empty() {
        return None;
    }
    let x = g.input(above, 0)?;
    g.set_input(op, 0, Some(x));
    g.op_mut(op).set("axis", perm[along] as i64);
    for part in sides.into_iter().flatten() {
        g.value_mut(part).ty = before(g, part, &perm);
    }
    for (reader, both) in readers {
        g.op_mut(reader).set("perm", both);
    }
    g.remove_op(above);
    g.remove_value_if_unused(v);
    Some(1)
}

/// What a reduction needs to do the same before a permutation, and the axes it then reduces.
fn reduction(g: &Graph, op: OpId, perm: &[usize]) -> Option<(Changes, Vec<usize>)> {
    let (node, rank) = (g.op(op), perm.len());
    let list = match (node.ints("axes"), g.input(op, 1)) {
        (Some(list), _) => Some(list.to_vec()),
        (None, Some(v)) => Some(g.constant(v)?.to_i64()?),
        (None, None) => None,
    };
    let mut changes = Changes::default();
    // None given may mean all or, where the op says so, no axis at all: then nothing is to change.
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        let none = node.int("noop_with_empty_axes").unwrap_or(0) != 0;
        return Some((changes, if none { Vec::new() } else { (0..rank).collect() }));
    };
    let own: Vec<usize> = axes(&list, rank)?.into_iter().map(|k| perm[k]).collect();
    let moved = list.iter().map(|a| Some(perm[axis(*a, rank)?] as i64)).collect::<Option<Vec<i64>>>()?;
    match node.ints("axes") {
        Some(_) => changes.attrs.push(("axes", moved)),
        None => changes.inputs.push((1, Tensor::ints(moved))),
    }
    Some((changes, own))
}

/// Moves the Transposes over the inputs of an op past it.
fn join(g: &mut Graph, op: OpId, opset: i64) -> Option<usize> {
    let node = g.op(op);
    let turns = node.is("Transpose");
    if !(turns || node.is("Concat") || any(node, BINARY) && opset >= 7) {
        return None;
    }
    let out = g.output(op, 0)?;
    let inputs: Vec<ValueId> = g.inputs_of(op).into_iter().collect::<Option<_>>()?;
    let distinct: BTreeSet<ValueId> = inputs.iter().copied().collect();
    let first = *inputs.first()?;
    let rank = g.rank(first)?;
    let perm = over(g, first, rank)?;
    let chains = distinct.iter().map(|v| chain(g, *v, op, &perm, opset)).collect::<Option<Vec<Chain>>>()?;
    let same_rank = distinct.iter().all(|v| g.rank(*v) == Some(rank));
    let own = if turns { permutation(g.op(op), rank)? } else { Vec::new() };
    let undone = turns && own.iter().map(|k| perm[*k]).eq(0..rank);
    // In a row they are one already by another rule.
    let apart = !turns || chains.iter().all(|c| !c.past.is_empty());
    let gone = chains.iter().filter(|c| !c.shared).count() + usize::from(undone);
    let gone = gone.saturating_sub(usize::from(!turns));
    if !same_rank || !apart || gone == 0 {
        return None;
    }
    for chain in chains {
        apply(g, chain, &perm);
    }
    let order = |perm: &[usize]| perm.iter().map(|k| *k as i64).collect::<Vec<i64>>();
    if turns {
        let both: Vec<usize> = own.iter().map(|k| perm[*k]).collect();
        g.op_mut(op).set("perm", order(&both));
        return Some(gone);
    }
    if g.op(op).is("Concat") {
        let along = axis(g.op(op).int("axis").unwrap_or(1), rank)?;
        g.op_mut(op).set("axis", perm[along] as i64);
    }
    let name = format!("{}_transpose", g.op(op).name);
    let before = g.add_value(&format!("{}_before", g.name_of(out)), before(g, out, &perm));
    g.set_outputs(op, &[Some(before)]);
    g.add_op(Op::new("Transpose", name).with("perm", order(&perm)), &[Some(before)], &[Some(out)]);
    Some(gone)
}

/// The type that a value has before the permutation.
fn before(g: &Graph, v: ValueId, perm: &[usize]) -> Option<Type> {
    let ty = g.tensor_type(v)?;
    let shape = ty.shape.filter(|s| s.len() == perm.len())?;
    let mut own: Shape = shape.iter().map(|_| Dim::Unknown).collect();
    for (dim, k) in shape.into_iter().zip(perm) {
        own[*k] = dim;
    }
    Some(Type::tensor(ty.dtype?, own))
}

/// The permutation of the Transpose over a value.
fn over(g: &Graph, mut v: ValueId, rank: usize) -> Option<Vec<usize>> {
    loop {
        let (op, _) = g.producer(v)?;
        if g.op(op).is("Transpose") {
            return permutation(g.op(op), rank);
        }
        v = data(g, op)?;
    }
}

/// The one input of an op that is not constant.
fn data(g: &Graph, op: OpId) -> Option<ValueId> {
    let inputs = g.inputs_of(op);
    let mut open = inputs.iter().flatten().filter(|v| g.constant(**v).is_none());
    let first = *open.next()?;
    open.all(|v| *v == first).then_some(first)
}

/// The Transpose over a value that only `reader` reads, if it can move past all that lies between.
fn chain(g: &Graph, v: ValueId, reader: OpId, perm: &[usize], opset: i64) -> Option<Chain> {
    let (mut v, mut reader, mut past) = (v, reader, Vec::new());
    loop {
        let (op, _) = g.producer(v).filter(|_| g.rank(v) == Some(perm.len()))?;
        let shared = g.is_output(v) || g.uses(v).iter().any(|u| u.op() != reader);
        if g.op(op).is("Transpose") {
            let same = permutation(g.op(op), perm.len()).as_deref() == Some(perm);
            past.reverse();
            return same.then_some(Chain { transpose: op, shared, reader, past });
        }
        if shared || g.outputs_of(op).len() != 1 {
            return None;
        }
        past.push((op, changes(g, op, perm, opset)?));
        (v, reader) = (data(g, op)?, op);
    }
}

/// What an op needs to do before the permutation what it does after it; `None` where it is not known to be able to.
fn changes(g: &Graph, op: OpId, perm: &[usize], opset: i64) -> Option<Changes> {
    let (node, rank) = (g.op(op), perm.len());
    let constant = |slot| g.input(op, slot).and_then(|v| g.constant(v));
    let mapped = |list: &[i64]| {
        let all = list.iter().map(|a| Some(perm[axis(*a, rank)?] as i64));
        axes(list, rank).and_then(|_| all.collect::<Option<Vec<i64>>>())
    };
    let mut changes = Changes::default();
    if any(node, UNARY) {
        let numbers = (1..g.inputs_of(op).len()).all(|k| g.input(op, k).is_none() || constant(k).is_some());
        return numbers.then_some(changes);
    }
    if any(node, BINARY) && opset >= 7 && g.inputs_of(op).len() == 2 {
        for slot in 0..2 {
            if let Some(c) = constant(slot) {
                changes.inputs.push((slot, turned_back(c, perm, opset)?));
            }
        }
        return Some(changes);
    }
    if any(node, &["Softmax", "LogSoftmax"]) && opset >= 13 {
        changes.axis = Some(mapped(&[node.int("axis").unwrap_or(-1)])?[0]);
        return Some(changes);
    }
    if any(node, REDUCTIONS) && node.int("keepdims").unwrap_or(1) != 0 {
        return Some(reduction(g, op, perm)?.0);
    }
    if node.is("Slice") && opset >= 10 && constant(1).is_some() && constant(2).is_some() {
        let given = match g.input(op, 3) {
            Some(_) => constant(3)?.to_i64()?,
            None => (0..constant(1)?.len() as i64).collect(),
        };
        changes.inputs.push((3, Tensor::ints(mapped(&given)?)));
        return Some(changes);
    }
    if node.is("Pad") && g.input(op, 3).is_none() {
        let pads = node.ints("pads").map(<[i64]>::to_vec);
        let pads = pads.or_else(|| constant(1)?.to_i64()).filter(|pads| pads.len() == 2 * rank)?;
        let mut own = vec![0; 2 * rank];
        for (k, n) in pads.into_iter().enumerate() {
            own[k / rank * rank + perm[k % rank]] = n;
        }
        match node.ints("pads") {
            Some(_) => changes.attrs.push(("pads", own)),
            None => changes.inputs.push((1, Tensor::ints(own))),
        }
        return Some(changes);
    }
    None
}

/// A constant that meets a permuted value, as it meets that value before.
pub(super) fn turned_back(c: &Tensor, perm: &[usize], opset: i64) -> Option<Tensor> {
    if c.len() == 1 {
        return (c.rank() <= perm.len()).then(|| c.clone());
    }
    let mut shape = vec![1; perm.len().checked_sub(c.rank())?];
    shape.extend_from_slice(c.shape());
    let mut inverse = vec![0i64; perm.len()];
    for (k, p) in perm.iter().enumerate() {
        inverse[*p] = k as i64;
    }
    let turn = Op::new("Transpose", "").with("perm", inverse);
    evaluate(&turn, opset, &[Some(&c.reshaped(shape))], 1)?.pop()
}

fn apply(g: &mut Graph, chain: Chain, perm: &[usize]) {
    let (Some(x), Some(u)) = (g.input(chain.transpose, 0), g.output(chain.transpose, 0)) else { return };
    for slot in (0..g.inputs_of(chain.reader).len())
        .filter(|k| g.input(chain.reader, *k) == Some(u))
        .collect::<Vec<_>>()
    {
        g.set_input(chain.reader, slot, Some(x));
    }
    if !chain.shared {
        g.remove_op(chain.transpose);
        g.remove_value_if_unused(u);
    }
    for (op, changes) in chain.past {
        amend(g, op, changes);
        if let Some(v) = g.output(op, 0) {
            g.value_mut(v).ty = before(g, v, perm);
        }
    }
}

fn amend(g: &mut Graph, op: OpId, changes: Changes) {
    for (name, list) in changes.attrs {
        g.op_mut(op).set(name, list);
    }
    if let Some(axis) = changes.axis {
        g.op_mut(op).set("axis", axis);
    }
    for (slot, tensor) in changes.inputs {
        let old = g.input(op, slot);
        if old.and_then(|v| g.constant(v)) != Some(&tensor) {
            let hint = old.map_or_else(|| format!("{}_axes", g.op(op).name), |v| g.name_of(v).to_owned());
            let new = g.add_initializer(&hint, tensor);
            g.set_input(op, slot, Some(new));
        }
    }
}
