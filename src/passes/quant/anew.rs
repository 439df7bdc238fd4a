//! What came as integers becomes floats again, to be quantized anew: constants behind DequantizeLinear, or Cast and arithmetic
//! (the form `folded`), and activations between QuantizeLinear and DequantizeLinear.

use crate::{
    error::Result,
    ir::{Graph, Model, OpId, Tensor, ValueId, Where},
    ops::{
        fold::{evaluate, reals},
        infer_types, quantized,
    },
    passes::{Changed, Context, RemarkKind},
};
use std::collections::{HashMap, HashSet};

/// Makes floats of what a model stores as integers and computes back, in bodies too, and says of what.
pub(super) fn floats(model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
    let opset = model.opset();
    let mut done = Done::default();
    restore(&mut model.graph, opset, &mut done);
    tell_read_whole(&model.graph, cx);
    if done.constants.is_empty() {
        return Ok(Changed::No);
    }
    model.graph.sweep();
    infer_types(model)?;
    for (name, was) in &done.constants {
        cx.applied(Where::Value(name.clone()), format!("it was {was}, and is quantized anew"));
    }
    cx.count("requantized", done.constants.len() as u64);
    if done.pairs > 0 {
        let text =
            format!("{} activations that were integers are float, unless they are rounded anew", done.pairs);
        cx.remark(RemarkKind::Note, (), text);
    }
    Ok(Changed::Yes)
}

/// Says which ops read integers themselves, as operators that only some runtimes have do.
fn tell_read_whole(main: &Graph, cx: &mut Context<'_>) {
    main.for_each_nested(&mut |g| {
        for (op, v) in quantized::read_whole(g) {
            let why = format!("it reads the integers of `{}` itself, so they stay", g.name_of(v));
            cx.missed(g.place(op), why);
        }
    });
}

/// What became floats: constants with what they were, and activations.
#[derive(Default)]
struct Done {
    constants: Vec<(String, String)>,
    pairs: usize,
}

fn restore(g: &mut Graph, opset: i64, done: &mut Done) {
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            restore(body, opset, done);
            true
        });
    }
    let stored = quantized::dequantized(g);
    let mut known: HashMap<ValueId, (Tensor, String)> = HashMap::new();
    let mut ready = Vec::new();
    for op in g.order() {
        let Some(v) = g.output(op, 0).filter(|v| stored.contains(v)) else { continue };
        let Some(computed) = compute(g, op, opset, &known) else { continue };
        // What is only part of the way back is not wanted itself.
        let read =
            g.uses(v).iter().any(|at| !g.outputs_of(at.op()).iter().flatten().all(|y| stored.contains(y)));
        if read && computed.0.dtype().is_float() && !g.is_output(v) {
            ready.push(v);
        }
        // Floats take room: what has been read is not kept.
        g.inputs_of(op).iter().flatten().filter(|x| g.sole_use(**x).is_some()).for_each(|x| {
            known.remove(x);
        });
        known.insert(v, computed);
    }
    for v in ready {
        if let Some((tensor, was)) = known.remove(&v) {
            done.constants.push((g.name_of(v).to_owned(), was));
            g.make_constant(v, tensor);
        }
    }
    if !done.constants.is_empty() {
        done.pairs += drop_pairs(g);
    }
}

/// What an op makes of constants, and what type they were stored as.
fn compute(
    g: &Graph,
    op: OpId,
    opset: i64,
    known: &HashMap<ValueId, (Tensor, String)>,
) -> Option<(Tensor, String)> {
    let inputs = g.inputs_of(op);
    let first = inputs.first().copied().flatten()?;
    let was = match known.get(&first) {
        Some((_, was)) => was.clone(),
        None => g.constant(first)?.dtype().to_string(),
    };
    if g.op(op).op_type == "DequantizeLinear" {
        let real = quantized::scheme(g, op)?.dequantize(g.constant(first)?).ok()?;
        let dtype = g.dtype(g.output(op, 0)?).or_else(|| g.dtype(inputs.get(1).copied().flatten()?))?;
        let numbers = real.to_f32()?.into_owned();
        return Some((Tensor::from_f32(dtype, real.shape(), numbers)?, was));
    }
    let tensor = |v: ValueId| g.constant(v).or_else(|| known.get(&v).map(|(tensor, _)| tensor));
    let inputs: Option<Vec<_>> =
        inputs.iter().map(|v| v.map_or(Some(None), |v| tensor(v).map(Some))).collect();
    let (node, inputs, outputs) = (g.op(op), inputs?, g.outputs_of(op).len());
    let first = || evaluate(node, opset, &inputs, outputs)?.into_iter().next();
    Some((reals(node, &inputs).or_else(first)?, was))
}

/// Lets the floats that are rounded and turned back by the same scales through, be it one for each channel; returns how many.
fn drop_pairs(g: &mut Graph) -> usize {
    let mut dropped = HashSet::new();
    for op in g.order().into_iter().filter(|op| g.op(*op).is("DequantizeLinear")).collect::<Vec<_>>() {
        let first = g.input(op, 0).and_then(|x| g.producer(x)).map(|(first, _)| first);
        let Some(first) = first.filter(|f| g.op(*f).is("QuantizeLinear")) else { continue };
        let (Some(x), Some(y)) = (g.input(first, 0), g.output(op, 0)) else { continue };
        let parameter = |op, slot| g.input(op, slot).and_then(|v| g.constant(v));
        let same = |slot| match (parameter(first, slot), parameter(op, slot)) {
            (Some(one), Some(all)) if one.len() == 1 => {
                one.dtype() == all.dtype()
                    && all.bytes().chunks(one.byte_len()).all(|each| each == one.bytes())
            }
            (a, b) => a == b,
        };
        if same(1) && same(2) && g.dtype(x) == g.dtype(y) {
            g.replace_value(y, x);
            dropped.insert(first);
        }
    }
    dropped.len()
}
