//! What goes into the gates of a recurrent layer, step by step: inputs and earlier states as rows, and what the original's
//! weights make of them.

use super::{Map, Recurrent, State, Weights};
use faer::{Mat, MatRef};

/// One run of a recurrent layer.
pub(super) struct Unrolled<'a> {
    pub(super) layer: &'a Recurrent,
    /// `[time, batch, inputs]`
    pub(super) input: &'a [f32],
    /// `[time, directions, batch, hidden]`
    pub(super) states: &'a [f32],
    /// `[directions, batch, hidden]`
    pub(super) initial: Option<&'a [f32]>,
    pub(super) time: usize,
    pub(super) batch: usize,
}

impl Unrolled<'_> {
    /// The inputs at some positions, a row for each; position `k` is step `k % time` of sample `k / time`.
    pub(super) fn inputs(&self, positions: &[usize]) -> Mat<f64> {
        let n = self.layer.inputs;
        let start = |k: usize| (k % self.time * self.batch + k / self.time) * n;
        Mat::from_fn(positions.len(), n, |row, j| f64::from(self.input[start(positions[row]) + j]))
    }
    /// The states of a direction that those steps start from.
    pub(super) fn states(&self, direction: usize, positions: &[usize]) -> Mat<f64> {
        let (n, directions) = (self.layer.hidden, self.layer.backwards.len());
        let state = |k: usize, j: usize| {
            let (step, sample) = (k % self.time, k / self.time);
            let before = match self.layer.backwards[direction] {
                true => Some(step + 1).filter(|s| *s < self.time),
                false => step.checked_sub(1),
            };
            let at = |step: usize| ((step * directions + direction) * self.batch + sample) * n + j;
            match before {
                Some(step) => self.states[at(step)],
                None => self.initial.map_or(0.0, |initial| initial[at(0)]),
            }
        };
        Mat::from_fn(positions.len(), n, |row, j| f64::from(state(positions[row], j)))
    }
}

/// The part of the state that a map sees, by the weights of the layer that the states are of.
pub(super) fn seen(map: &Map, weights: &Weights, inputs: &Mat<f64>, states: &Mat<f64>) -> Option<Mat<f64>> {
    match map.state {
        State::Nothing => None,
        State::Whole => Some(states.clone()),
        State::Reset => {
            // The reset gate is the second.
            let n = states.ncols();
            let mut reset =
                inputs * weights.w.subrows(n, n).transpose() + states * weights.r.subrows(n, n).transpose();
            for (row, column) in (0..reset.nrows()).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let sum = reset[(row, column)] + weights.b[0][n + column] + weights.b[1][n + column];
                reset[(row, column)] = states[(row, column)] / (1.0 + (-sum).exp());
            }
            Some(reset)
        }
    }
}

/// What a map makes of inputs and states: a column for each unit of each of its gates.
pub(super) fn put_out(map: &Map, weights: &Weights, inputs: &Mat<f64>, seen: Option<&Mat<f64>>) -> Mat<f64> {
    let matrix = weights.of_map(map, weights.r.ncols());
    let n = inputs.nrows();
    let mut rows = Mat::<f64>::ones(n, matrix.nrows());
    let mut start = 0;
    for part in [map.input.then_some(inputs), seen].into_iter().flatten() {
        rows.subcols_mut(start, part.ncols()).copy_from(part);
        start += part.ncols();
    }
    rows * matrix
}

/// Some columns of a matrix.
pub(super) fn columns(matrix: MatRef<'_, f64>, kept: &[usize]) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), kept.len(), |i, j| matrix[(i, kept[j])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Graph, Op, Tensor, Type};

    /// A GRU layer in both directions with two inputs and one unit.
    fn gru(before_reset: i64) -> (Graph, Recurrent) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [3.into(), 1.into(), 2.into()]));
        let numbers = |n: usize| (0..n).map(|k| (k as f32 * 0.9).sin()).collect::<Vec<_>>();
        let w = g.add_initializer("w", Tensor::from_vec([2, 3, 2], numbers(12)));
        let r = g.add_initializer("r", Tensor::from_vec([2, 3, 1], numbers(6)));
        let b = g.add_initializer("b", Tensor::from_vec([2, 6], numbers(12)));
        let node = Op::new("GRU", "").with("direction", "bidirectional").with("hidden_size", 1);
        g.add_node(node.with("linear_before_reset", before_reset), &[x, w, r, b], "y", None);
        let op = g.ops().next().unwrap();
        let layer = Recurrent::of(&g, op).unwrap().unwrap();
        (g, layer)
    }

    #[test]
    fn maps_are_what_the_operator_computes() {
        for before_reset in [0, 1] {
            let (mut g, layer) = gru(before_reset);
            let mut weights = layer.weights(&g).unwrap();
            let input = [0.3, -0.2, 0.5, 0.1, -0.7, 0.9];
            // One step of the operator, by its definition.
            let step = |w: &Weights, x: &[f64], h: f64| {
                let part = |k: usize| w.w[(k, 0)] * x[0] + w.w[(k, 1)] * x[1] + w.b[0][k];
                let gate = |k: usize| 1.0 / (1.0 + (-(part(k) + w.r[(k, 0)] * h + w.b[1][k])).exp());
                let (z, r) = (gate(0), gate(1));
                let inner = match before_reset {
                    0 => w.r[(2, 0)] * (r * h) + w.b[1][2],
                    _ => r * (w.r[(2, 0)] * h + w.b[1][2]),
                };
                let new = (part(2) + inner).tanh();
                ((1.0 - z) * new + z * h, z, r, part(2), inner)
            };
            for d in 0..2 {
                let order: Vec<usize> = if d == 0 { vec![0, 1, 2] } else { vec![2, 1, 0] };
                let (mut h, mut states, mut inner) = (0.0, [0.0f32; 6], [(0.0, 0.0, 0.0, 0.0); 3]);
                for t in order {
                    let x = [f64::from(input[2 * t]), f64::from(input[2 * t + 1])];
                    let (next, z, r, part, rest) = step(&weights[d], &x, h);
                    (h, states[2 * t + d], inner[t]) = (next, next as f32, (z, r, part, rest));
                }
                let run = Unrolled {
                    layer: &layer,
                    input: &input,
                    states: &states,
                    initial: None,
                    time: 3,
                    batch: 1,
                };
                let positions = [0, 1, 2];
                let (x, before) = (run.inputs(&positions), run.states(d, &positions));
                for (t, (z, r, part, rest)) in inner.into_iter().enumerate() {
                    let out = |k: usize| {
                        let map = &layer.maps[k];
                        let seen = seen(map, &weights[d], &x, &before);
                        put_out(map, &weights[d], &x, seen.as_ref())
                    };
                    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
                    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b} at {t} of {d}");
                    near(sigmoid(out(0)[(t, 0)]), z);
                    near(sigmoid(out(0)[(t, 1)]), r);
                    if before_reset == 0 {
                        near(out(1)[(t, 0)], part + rest);
                    } else {
                        near(out(1)[(t, 0)], part);
                        near(r * out(2)[(t, 0)], rest);
                    }
                }
            }
            // What is read and set again is the same.
            let maps: Vec<_> = layer.maps.iter().map(|m| weights[1].of_map(m, 1)).collect();
            layer.maps.iter().zip(&maps).for_each(|(m, new)| weights[1].set_map(m, 1, new));
            let old = layer.weights(&g).unwrap();
            layer.set(&mut g, &weights).unwrap();
            let new = layer.weights(&g).unwrap();
            assert!((&old[1].w - &new[1].w).norm_max() < 1e-6 && (&old[1].r - &new[1].r).norm_max() < 1e-6);
            let bias = |w: &Weights, k: usize| w.b[0][k] + w.b[1][k];
            assert!((0..3).all(|k| (bias(&old[1], k) - bias(&new[1], k)).abs() < 1e-6));
        }
    }
}
