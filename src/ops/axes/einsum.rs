//! The axis rule of Einsum: equal letters are equal axes.

use super::{factor::Factor, flow::Flow};
use crate::ir::{Graph, OpId};
use std::collections::BTreeMap;

/// The letters of each operand, then those of the output. `None` where axes are left out (`...`) or taken twice.
fn letters(equation: &str) -> Option<Vec<Vec<char>>> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, output) = match equation.split_once("->") {
        Some((operands, output)) => (operands, output.chars().collect()),
        None => {
            // Those that are there once, in order of the alphabet.
            let all: Vec<char> = equation.chars().filter(|c| *c != ',').collect();
            let mut once: Vec<char> =
                all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect();
            once.sort_unstable();
            (&*equation, once)
        }
    };
    let terms: Vec<Vec<char>> = operands.split(',').map(|t| t.chars().collect()).chain([output]).collect();
    let plain = |term: &Vec<char>| {
        term.iter().enumerate().all(|(k, c)| c.is_ascii_alphabetic() && !term[..k].contains(c))
    };
    terms.iter().all(plain).then_some(terms)
}

/// For each operand its axes that live on in the output; `None` where the op is of another form.
pub(super) fn free(g: &Graph, op: OpId) -> Option<Vec<Vec<usize>>> {
    let terms = letters(g.op(op).str("equation")?)?;
    let (output, operands) = terms.split_last()?;
    let free = |term: &Vec<char>| (0..term.len()).filter(|k| output.contains(&term[*k])).collect();
    Some(operands.iter().map(free).collect())
}

/// Applies the rule; `None` where the op is none or of another form.
pub(super) fn apply(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let node = flow.graph.op(op);
    if !node.is("Einsum") {
        return None;
    }
    let terms = letters(node.str("equation")?)?;
    let (output, operands) = terms.split_last()?;
    let values = flow.graph.inputs_of(op).into_iter().collect::<Option<Vec<_>>>()?;
    if values.len() != operands.len() {
        return None;
    }
    let sides = values.iter().copied().chain([flow.graph.output(op, 0)?]);
    let mut known: BTreeMap<char, Factor> = BTreeMap::new();
    for (term, v) in terms.iter().zip(sides) {
        let dims = flow.dims(v)?;
        if dims.len() != term.len() {
            return None;
        }
        for (letter, f) in term.iter().zip(dims) {
            let first = *known.entry(*letter).or_insert(f);
            flow.arena.unify(first, f);
        }
    }
    for (letter, f) in known.into_iter().filter(|(letter, _)| !output.contains(letter)) {
        let pairs = operands.iter().zip(&values).filter(|(term, _)| term.contains(&letter));
        let over = pairs.map(|(_, v)| *v).collect();
        flow.sums.push((over, f));
    }
    Some(())
}
