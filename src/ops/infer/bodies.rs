//! If, Loop and Scan: what goes into their bodies and what comes out.

use super::{
    call::{Call, Found},
    expr::Expr,
    fact::{Fact, Size},
};
use crate::ir::DType;
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
        "Scan" => {
            let scan = Scan::of(c);
            let slices = (0..scan.scanned).map(|k| {
                let mut fact = state(scan.first + scan.states + k);
                fact.shape = fact.shape.and_then(|mut s| {
                    s.remove(scan.axis(c, "scan_input_axes", k, s.len())?);
                    scan.one_sample(s)
                });
                fact
            });
            let states = (0..scan.states).map(|k| {
                let fact = state(scan.first + k);
                Fact { shape: fact.shape.and_then(|s| scan.one_sample(s)), ..fact }
            });
            states.chain(slices).collect()
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
        ("Scan", [body]) => {
            let scan = Scan::of(c);
            let length = (0..scan.scanned).find_map(|k| {
                let s = c.shape(scan.first + scan.states + k)?;
                s[scan.axis(c, "scan_input_axes", k, s.len())?].clone()
            });
            let batch = (scan.first..c.inputs.len()).find_map(|k| c.shape(k)?.first()?.clone());
            let outputs = body.iter().enumerate().map(|(k, out)| match k.checked_sub(scan.states) {
                None => {
                    let start = c.input(scan.first + k).cloned().unwrap_or_default();
                    Fact { dtype: start.dtype.or(out.dtype), shape: start.shape, ..Fact::default() }
                }
                Some(k) => {
                    let out = if scan.batched { stacked(out, 0, batch.clone()) } else { out.clone() };
                    let rank = out.rank().map_or(0, |r| r + 1);
                    match scan.axis(c, "scan_output_axes", k, rank) {
                        Some(at) => stacked(&out, at, length.clone()),
                        None => Fact { dtype: out.dtype, ..Fact::default() },
                    }
                }
            });
            Some(outputs.collect())
        }
        _ => None,
    }
}

/// How a Scan's inputs are laid out: states first, then what is scanned.
struct Scan {
    /// The slot of the first state.
    first: usize,
    states: usize,
    scanned: usize,
    /// Operator set 8: lengths come first, and every tensor has a batch axis, which the body does not see.
    batched: bool,
}

impl Scan {
    fn of(c: &Call<'_>) -> Scan {
        let batched = c.opset < 9;
        let first = usize::from(batched);
        let all = c.inputs.len().saturating_sub(first);
        let scanned = c.op.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0).min(all);
        Scan { first, states: all - scanned, scanned, batched }
    }
    /// The axis of a tensor of this rank along which the `k`-th input or output is scanned.
    fn axis(&self, c: &Call<'_>, attribute: &str, k: usize, rank: usize) -> Option<usize> {
        if self.batched {
            return index::axis(1, rank);
        }
        index::axis(c.op.ints(attribute).and_then(|a| a.get(k).copied()).unwrap_or(0), rank)
    }
    /// The shape without the batch axis, where there is one.
    fn one_sample(&self, mut shape: Vec<Size>) -> Option<Vec<Size>> {
        if self.batched {
            (!shape.is_empty()).then(|| shape.remove(0))?;
        }
        Some(shape)
    }
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
pub(super) fn either(a: &Fact, b: &Fact) -> Fact {
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
