//! Recurrent layers: LSTM, GRU and RNN as linear maps from inputs and earlier states to what goes into the gates.

mod moments;
mod unroll;

pub(crate) use moments::{Kept, moments};

use crate::ir::{Graph, OpId, Origin, Tensor, ValueId};
use faer::Mat;
use std::ops::Range;

/// Which biases of a layer a map has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bias {
    /// The sum of the input's and the state's.
    Both,
    Input,
    State,
}

/// What a map sees of the state before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Nothing,
    Whole,
    /// Times the reset gate of a GRU.
    Reset,
}

/// A linear map into some gates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map {
    /// Which gates, in ONNX's order.
    pub(crate) gates: Range<usize>,
    /// Whether it sees the input.
    pub(crate) input: bool,
    pub(crate) state: State,
    pub(crate) bias: Bias,
}

impl Map {
    pub(crate) fn sees_state(&self) -> bool {
        self.state != State::Nothing
    }
}

/// A recurrent layer (LSTM-22, GRU-22, RNN-22 and before) with `[time, batch, inputs]` in and `[time, directions, batch,
/// hidden]` out.
#[derive(Clone, Debug)]
pub(crate) struct Recurrent {
    pub(crate) op: OpId,
    pub(crate) input: ValueId,
    /// The state before the first step, `[directions, batch, hidden]`; zero where absent.
    pub(crate) initial: Option<ValueId>,
    pub(crate) w: ValueId,
    pub(crate) r: ValueId,
    b: Option<ValueId>,
    /// For each direction whether it runs backwards.
    pub(crate) backwards: Vec<bool>,
    /// Gates, inputs and units.
    pub(crate) gates: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
    pub(crate) maps: Vec<Map>,
}

/// The weights of one direction.
pub(crate) struct Weights {
    /// `[gates * hidden, inputs]`
    pub(crate) w: Mat<f64>,
    /// `[gates * hidden, hidden]`
    pub(crate) r: Mat<f64>,
    /// Of the input, then of the state, `[gates * hidden]` each.
    pub(crate) b: [Vec<f64>; 2],
}

impl Recurrent {
    /// The layer that an op is, `None` where it is none, or why its weights cannot be found anew.
    pub(crate) fn of(g: &Graph, op: OpId) -> Option<Result<Recurrent, &'static str>> {
        let node = g.op(op);
        let (gates, maps) = match &*node.op_type {
            _ if !node.is_standard() => return None,
            "LSTM" => (4, vec![Map { gates: 0..4, input: true, state: State::Whole, bias: Bias::Both }]),
            "RNN" => (1, vec![Map { gates: 0..1, input: true, state: State::Whole, bias: Bias::Both }]),
            "GRU" => {
                let first = Map { gates: 0..2, input: true, state: State::Whole, bias: Bias::Both };
                let mut maps = vec![first];
                match node.int("linear_before_reset").unwrap_or(0) {
                    0 => maps.push(Map { gates: 2..3, input: true, state: State::Reset, bias: Bias::Both }),
                    _ => {
                        maps.push(Map { gates: 2..3, input: true, state: State::Nothing, bias: Bias::Input });
                        maps.push(Map { gates: 2..3, input: false, state: State::Whole, bias: Bias::State });
                    }
                }
                (3, maps)
            }
            _ => return None,
        };
        Some(Recurrent::with(g, op, gates, maps))
    }
    fn with(g: &Graph, op: OpId, gates: usize, maps: Vec<Map>) -> Result<Recurrent, &'static str> {
        let node = g.op(op);
        let resets = maps.iter().any(|m| m.state == State::Reset);
        if g.input(op, 4).is_some() || g.input(op, 7).is_some() {
            return Err("lengths or peepholes are given");
        }
        if node.int("layout").unwrap_or(0) != 0 || node.int("input_forget").unwrap_or(0) != 0 {
            return Err("its layout or gates are not the usual ones");
        }
        if resets && node.attr("activations").is_some() {
            return Err("its activations are not the usual ones");
        }
        let backwards = match node.str("direction").unwrap_or("forward") {
            "forward" => vec![false],
            "reverse" => vec![true],
            _ => vec![false, true],
        };
        let slots = || Some((g.input(op, 0)?, g.input(op, 1)?, g.input(op, 2)?));
        let (input, w, r) = slots().ok_or("an input is missing")?;
        let b = g.input(op, 3);
        let own =
            |v: ValueId| g.initializer(v).is_some_and(|t| t.to_f32().is_some()) && g.sole_use(v).is_some();
        if ![Some(w), Some(r), b].into_iter().flatten().all(own) {
            return Err("its weights are shared or no constant floating-point numbers");
        }
        let shape = |v: ValueId| g.initializer(v).map(|t| t.shape().to_vec()).unwrap_or_default();
        let ([d, rows, inputs], [_, _, hidden]) = (&shape(w)[..], &shape(r)[..]) else {
            return Err("its weights do not have three axes");
        };
        let (inputs, hidden) = (*inputs, *hidden);
        let fits = *d == backwards.len()
            && *rows == gates * hidden
            && shape(r) == [*d, *rows, hidden]
            && b.is_none_or(|b| shape(b) == [*d, 2 * rows]);
        if !fits || inputs == 0 || hidden == 0 {
            return Err("its weights do not fit each other");
        }
        let initial = g.input(op, 5);
        Ok(Recurrent { op, input, initial, w, r, b, backwards, gates, inputs, hidden, maps })
    }
    /// The weights of each direction.
    pub(crate) fn weights(&self, g: &Graph) -> Option<Vec<Weights>> {
        let (w, r) = (g.initializer(self.w)?.to_f32()?, g.initializer(self.r)?.to_f32()?);
        let b = match self.b {
            Some(b) => Some(g.initializer(b)?.to_f32()?),
            None => None,
        };
        let rows = self.gates * self.hidden;
        let direction = |d: usize| {
            let bias = |k: usize| {
                let at = |row: usize| b.as_ref().map_or(0.0, |b| f64::from(b[(2 * d + k) * rows + row]));
                (0..rows).map(at).collect()
            };
            Weights {
                w: Mat::from_fn(rows, self.inputs, |i, j| f64::from(w[(d * rows + i) * self.inputs + j])),
                r: Mat::from_fn(rows, self.hidden, |i, j| f64::from(r[(d * rows + i) * self.hidden + j])),
                b: [bias(0), bias(1)],
            }
        };
        Some((0..self.backwards.len()).map(direction).collect())
    }
    /// Replaces the weights. `None` where they do not fit the type of the old ones.
    pub(crate) fn set(&self, g: &mut Graph, new: &[Weights]) -> Option<()> {
        let dtype = g.dtype(self.w)?;
        let (d, rows) = (self.backwards.len(), self.gates * self.hidden);
        let flat = |m: &Mat<f64>| {
            m.row_iter().flat_map(|r| r.iter().map(|x| *x as f32).collect::<Vec<_>>()).collect()
        };
        let tensor = |shape: &[usize], parts: Vec<Vec<f32>>| {
            Tensor::from_f32(dtype, shape, parts.concat())
                .filter(|t| t.to_f32().is_some_and(|t| t.iter().all(|x| x.is_finite())))
        };
        let w = tensor(&[d, rows, self.inputs], new.iter().map(|n| flat(&n.w)).collect())?;
        let r = tensor(&[d, rows, self.hidden], new.iter().map(|n| flat(&n.r)).collect())?;
        let biases = new.iter().map(|n| n.b.concat().into_iter().map(|x| x as f32).collect());
        let b = tensor(&[d, 2 * rows], biases.collect())?;
        g.value_mut(self.w).origin = Origin::Initializer(w);
        g.value_mut(self.r).origin = Origin::Initializer(r);
        match self.b {
            Some(old) => g.value_mut(old).origin = Origin::Initializer(b),
            None => {
                let added = g.add_initializer(&format!("{}_bias", g.name_of(self.w)), b);
                g.set_input(self.op, 3, Some(added));
            }
        }
        Some(())
    }
}

impl Weights {
    /// A map as a matrix: rows of the input, of the state, and of the bias; a column for each unit of each gate.
    pub(crate) fn of_map(&self, map: &Map, hidden: usize) -> Mat<f64> {
        let (inputs, states) = self.widths(map);
        Mat::from_fn(inputs + states + 1, map.gates.len() * hidden, |row, column| {
            let at = map.gates.start * hidden + column;
            match row {
                row if row < inputs => self.w[(at, row)],
                row if row < inputs + states => self.r[(at, row - inputs)],
                _ => match map.bias {
                    Bias::Both => self.b[0][at] + self.b[1][at],
                    Bias::Input => self.b[0][at],
                    Bias::State => self.b[1][at],
                },
            }
        })
    }
    /// Takes over such a matrix.
    pub(crate) fn set_map(&mut self, map: &Map, hidden: usize, new: &Mat<f64>) {
        let (inputs, states) = self.widths(map);
        for column in 0..new.ncols() {
            let at = map.gates.start * hidden + column;
            (0..inputs).for_each(|row| self.w[(at, row)] = new[(row, column)]);
            (0..states).for_each(|row| self.r[(at, row)] = new[(inputs + row, column)]);
            let bias = new[(inputs + states, column)];
            match map.bias {
                Bias::Both => self.b[0][at] = bias - self.b[1][at],
                Bias::Input => self.b[0][at] = bias,
                Bias::State => self.b[1][at] = bias,
            }
        }
    }
    /// How many inputs and states a map sees.
    fn widths(&self, map: &Map) -> (usize, usize) {
        let inputs = if map.input { self.w.ncols() } else { 0 };
        (inputs, if map.sees_state() { self.r.ncols() } else { 0 })
    }
}
