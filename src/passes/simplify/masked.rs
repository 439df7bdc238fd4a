//! A choice by place between constants and what is joined of parts is joined of the parts chosen:
//! `Where([0, 1, 1], ones, Concat(n, [-1, -1])) = Concat(n, [1, 1])`.
//!
//! Exporters write shapes so in which -1 means an extent that stays.

use crate::ir::{DType, Graph, OpId, Tensor, ValueId};

/// Chooses among parts, in bodies too; returns how many ops went.
pub(super) fn choices(g: &mut Graph) -> usize {
    let mut chosen = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = choices(body);
            chosen += inner;
            inner > 0
        });
        chosen += usize::from(choose(g, op).is_some());
    }
    chosen
}

/// A part of a Concat: what gives it now, or the constant that stands for it.
enum Part {
    Kept(ValueId),
    New(Tensor),
}

fn choose(g: &mut Graph, op: OpId) -> Option<()> {
    if !g.op(op).is("Where") {
        return None;
    }
    let [mask, yes, no] = [0, 1, 2].map(|slot| g.input(op, slot));
    let mask = g.constant(mask?)?.to_i64()?;
    let (constant, joined, wanted) = match (g.constant(yes?), g.constant(no?)) {
        (Some(c), None) => (c, no?, 0),
        (None, Some(c)) => (c, yes?, 1),
        _ => return None,
    };
    let (concat, _) = g.producer(joined)?;
    let vectors = constant.shape() == [mask.len()] && g.rank(joined) == Some(1);
    if !g.op(concat).is("Concat") || !vectors || g.sole_use(joined).is_none() {
        return None;
    }
    let numbers = constant.to_i64().filter(|_| constant.dtype() == DType::I64)?;
    let (mut at, mut parts) = (0, Vec::new());
    for v in g.inputs_of(concat) {
        let v = v?;
        let n = g.shape(v)?.first()?.known()?;
        let (mask, numbers) = (mask.get(at..at + n)?, &numbers[at..at + n]);
        parts.push(if mask.iter().all(|m| *m == wanted) {
            Part::Kept(v)
        } else if mask.iter().all(|m| *m != wanted) {
            Part::New(Tensor::ints(numbers.iter().copied()))
        } else {
            let old = g.constant(v)?.to_i64()?;
            let each = mask.iter().zip(old).zip(numbers);
            Part::New(Tensor::ints(each.map(|((m, old), new)| if *m == wanted { old } else { *new })))
        });
        at += n;
    }
    if at != mask.len() {
        return None;
    }
    let hint = format!("{}_part", g.name_of(joined));
    let parts: Vec<Option<ValueId>> = parts
        .into_iter()
        .map(|part| match part {
            Part::Kept(v) => Some(v),
            Part::New(t) => Some(g.add_initializer(&hint, t)),
        })
        .collect();
    let out = g.output(op, 0)?;
    g.remove_op(op);
    g.set_inputs(concat, &parts);
    g.set_outputs(concat, &[Some(out)]);
    g.remove_value_if_unused(joined);
    Some(())
}
