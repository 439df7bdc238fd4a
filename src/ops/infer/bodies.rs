//! If, Loop and Scan: what goes into their bodies and what comes out.

use super::{
    call::{Call, Found},
    expr::Expr,
    fact::{Fact, Size},
};
use crate::ir::{DType, Type};
use crate::ops::fold::index;

/// What is known of a body's inputs before it is walked; fewer where nothing is.
pub(super) fn inputs(c: &Call<'_>) -> Vec<Fact> {
    let of = |slot: usize| c.input(slot).cloned().unwrap_or_default();
    // What goes round may change its shape on the way; its element type may not.
    let carried = |slot: usize| Fact { dtype: of(slot).dtype, ..Fact::default() };
    // A Scan's state keeps its shape.
    let state = |slot: usize| Fact { values: None, constant: None, ..of(slot) };
    match &*c.op.op_type {
        "Loop" => {
            let scalar = |d| Fact { dtype: Some(d), ..Fact::shaped(vec![]) };
            let first = [scalar(DType::I64), scalar(DType::Bool)];
            first.into_iter().chain((2..c.inputs.len()).map(carried)).collect()
        }
        "Scan" if c.opset >= 9 => {
            let (states, scanned) = scan_split(c);
            let slices = (0..scanned).map(|k| {
                let mut fact = of(states + k);
                fact.values = None;
                fact.constant = None;
                fact.shape = fact.shape.and_then(|mut s| {
                    s.remove(scan_axis(c, "scan_input_axes", k, s.len())?);
                    Some(s)
                });
                fact
            });
            (0..states).map(state).chain(slices).collect()
        }
        _ => Vec::new(),
    }
}

/// The op's outputs from those of its bodies.
pub(super) fn outputs(c: &Call<'_>, bodies: &[Vec<Fact>]) -> Found {
    match (&*c.op.op_type, bodies) {
        ("If", [a, b]) => {
            // Attributes may come in either order.
            let then_first = c.op.attrs.iter().find(|a| a.name.ends_with("_branch"))?.name == "then_branch";
            let (yes, no) = if then_first { (a, b) } else { (b, a) };
            match c.input(0).and_then(|f| f.scalar()?.number()) {
                Some(0) => Some(no.clone()),
                Some(_) => Some(yes.clone()),
                None => Some(yes.iter().zip(no).map(|(x, y)| either(x, y)).collect()),
            }
        }
        ("Loop", [body]) => {
            let states = c.inputs.len().saturating_sub(2);
            let outputs = body.get(1..)?.iter().enumerate().map(|(k, out)| match c.input(k + 2) {
                Some(start) if k < states => either(start, out),
                _ if k < states => Fact { dtype: out.dtype, ..Fact::default() },
                _ => stacked(out, 0, None),
            });
            Some(outputs.collect())
        }
        ("Scan", [body]) if c.opset >= 9 => {
            let (states, scanned) = scan_split(c);
            let length = (0..scanned).find_map(|k| {
                let s = c.shape(states + k)?;
                s[scan_axis(c, "scan_input_axes", k, s.len())?].clone()
            });
            let outputs = body.iter().enumerate().map(|(k, out)| match k.checked_sub(states) {
                None => {
                    let start = c.input(k).cloned().unwrap_or_default();
                    Fact { dtype: start.dtype.or(out.dtype), shape: start.shape, ..Fact::default() }
                }
                Some(k) => {
                    let rank = out.rank().map_or(0, |r| r + 1);
                    match scan_axis(c, "scan_output_axes", k, rank) {
                        Some(at) => stacked(out, at, length.clone()),
                        None => Fact { dtype: out.dtype, ..Fact::default() },
                    }
                }
            });
            Some(outputs.collect())
        }
        _ => None,
    }
}

fn scan_split(c: &Call<'_>) -> (usize, usize) {
    let scanned = c.op.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let scanned = scanned.min(c.inputs.len());
    (c.inputs.len() - scanned, scanned)
}

fn scan_axis(c: &Call<'_>, attribute: &str, k: usize, rank: usize) -> Option<usize> {
    index::axis(c.op.ints(attribute).and_then(|a| a.get(k).copied()).unwrap_or(0), rank)
}

/// Results of all iterations along a new axis.
fn stacked(out: &Fact, at: usize, length: Size) -> Fact {
    let shape = out.shape.clone().map(|mut s| {
        s.insert(at.min(s.len()), length);
        s
    });
    Fact { dtype: out.dtype, shape, ..Fact::default() }
}

/// What is true of both.
fn either(a: &Fact, b: &Fact) -> Fact {
    let shape = match (&a.shape, &b.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            Some(x.iter().zip(y).map(|(x, y)| x.clone().filter(|_| x == y)).collect())
        }
        _ => None,
    };
    let other = a.other.clone().filter(|t| Some(t) == b.other.as_ref());
    let both = |x: Option<DType>, y: Option<DType>| if x == y { x } else { x.xor(y) };
    Fact { dtype: both(a.dtype, b.dtype), shape, other, ..Fact::default() }
}

/// Outputs of operators on sequences and options, whose types are no dense tensors.
pub(super) fn containers(c: &Call<'_>) -> Found {
    let tensor = |dtype: Option<DType>, shape: Option<Vec<Size>>| Fact { dtype, shape, ..Fact::default() };
    let other = |ty: Type| Fact { other: Some(ty), ..Fact::default() };
    let bare = |dtype: DType| Type::Tensor(crate::ir::TensorType { dtype: Some(dtype), shape: None });
    let element = |slot: usize| match c.input(slot)?.other.as_ref()? {
        Type::Sequence(t) | Type::Optional(t) => Some((**t).clone()),
        _ => None,
    };
    let of_type = |ty: Type| match ty {
        Type::Tensor(t) => tensor(t.dtype, None),
        ty => other(ty),
    };
    if !c.op.is_standard() {
        return None;
    }
    Some(vec![match &*c.op.op_type {
        "SequenceConstruct" | "SplitToSequence" => other(Type::Sequence(Box::new(bare(c.input(0)?.dtype?)))),
        "SequenceEmpty" => {
            let dtype = c.op.int("dtype").and_then(|n| DType::from_onnx(i32::try_from(n).ok()?));
            other(Type::Sequence(Box::new(bare(dtype.unwrap_or(DType::F32)))))
        }
        "SequenceInsert" | "SequenceErase" => other(Type::Sequence(Box::new(bare(match element(0)? {
            Type::Tensor(t) => t.dtype?,
            _ => return None,
        })))),
        "SequenceAt" | "ConcatFromSequence" => of_type(element(0)?),
        "OptionalGetElement" => match element(0) {
            Some(Type::Tensor(t)) => Fact::declared(&Type::Tensor(t), None),
            Some(ty) => other(ty),
            None => tensor(c.input(0)?.dtype, c.input(0)?.shape.clone()),
        },
        "Identity" => other(c.input(0)?.other.clone()?),
        _ => return None,
    }])
}

/// Two facts about the same value, each true: everything either of them says.
pub(super) fn both(a: Fact, b: &Fact) -> Fact {
    let shape = match (&a.shape, &b.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            Some(x.iter().zip(y).map(|(x, y)| sharper(x, y)).collect())
        }
        (x, y) => x.clone().or_else(|| y.clone()),
    };
    Fact { dtype: a.dtype.or(b.dtype), shape, values: b.values.clone().or(a.values), ..a }
}

fn sharper(x: &Size, y: &Size) -> Size {
    match (x.as_ref().and_then(Expr::number), y) {
        (None, Some(_)) => y.clone(),
        _ => x.clone(),
    }
}
