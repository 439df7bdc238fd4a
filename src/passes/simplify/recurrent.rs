//! LSTM, GRU and RNN start from zero where no initial state is given; a state of zeros made for them need not be.

use crate::ir::{Graph, ValueId};

/// The input slots of initial hidden and cell states.
const STATES: [usize; 2] = [5, 6];
/// Ops whose result holds nothing but elements of their first input.
const REARRANGING: &[&str] =
    &["Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Tile", "Identity", "Flatten"];

/// Leaves out initial states of zeros, in bodies too; returns how many.
pub(super) fn zero_states(g: &mut Graph) -> usize {
    let mut dropped = 0;
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            let inner = zero_states(body);
            dropped += inner;
            inner > 0
        });
        if !["LSTM", "GRU", "RNN"].iter().any(|kind| g.op(op).is(kind)) {
            continue;
        }
        let mut inputs = g.inputs_of(op);
        let zero = |slot: &usize| inputs.get(*slot).copied().flatten().is_some_and(|v| is_zero(g, v));
        let zeros: Vec<usize> = STATES.into_iter().filter(zero).collect();
        if zeros.is_empty() {
            continue;
        }
        dropped += zeros.len();
        zeros.into_iter().for_each(|slot| inputs[slot] = None);
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        g.set_inputs(op, &inputs);
    }
    dropped
}

/// Whether every element of a value is known to be zero.
fn is_zero(g: &Graph, mut v: ValueId) -> bool {
    loop {
        if let Some(t) = g.constant(v) {
            return t.as_strings().is_none() && t.bytes().iter().all(|b| *b == 0);
        }
        let Some((producer, _)) = g.producer(v) else { return false };
        let op = g.op(producer);
        if op.is("ConstantOfShape") {
            return op.tensor("value").is_none_or(|t| t.bytes().iter().all(|b| *b == 0));
        }
        match g.input(producer, 0).filter(|_| REARRANGING.iter().any(|kind| op.is(kind))) {
            Some(input) => v = input,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{DType, Graph, Op, Tensor, Type};

    #[test]
    fn zeros_of_a_computed_shape_are_left_out_and_others_stay() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [4, 2, 3].map(Into::into)));
        let w = g.add_initializer("w", Tensor::from_vec([1, 5, 3], vec![1f32; 15]));
        let shape = g.add_input("shape", Type::tensor(DType::I64, [3.into()]));
        let zeros = g.add_node(Op::new("ConstantOfShape", "z"), &[shape], "z", None);
        let ones = Op::new("ConstantOfShape", "o").with("value", Tensor::from_vec([1], vec![1f32]));
        let ones = g.add_node(ones, &[shape], "o", None);
        let y = g.add_value("y", None);
        let inputs = [Some(x), Some(w), Some(w), None, None, Some(zeros), Some(ones)];
        let op = g.add_op(Op::new("LSTM", "l"), &inputs, &[Some(y)]);
        g.outputs.push(y);
        assert_eq!(super::zero_states(&mut g), 1);
        assert_eq!((g.input(op, 5), g.input(op, 6)), (None, Some(ones)));
    }
}
