//! Linear layers: an op with constant weights and, with it or behind it, a constant bias.

use super::window::{Walk, Window};
use crate::ir::{DType, Graph, OpId, Origin, Tensor, Use, ValueId};
use faer::Mat;
use std::borrow::Cow;

/// Where the bias of a layer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bias {
    /// The third input of the op; one that is left out can be added.
    Own,
    /// An input of the Add behind it.
    Behind(OpId, usize),
    /// Nowhere, and there is no place for it.
    Absent,
}

/// A linear layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) op: OpId,
    /// What goes in.
    pub(crate) input: ValueId,
    /// What comes out, bias included.
    pub(crate) output: ValueId,
    pub(crate) weight: ValueId,
    /// The axis of the weight that runs over the outputs.
    pub(crate) axis: usize,
    pub(crate) walk: Walk,
    /// Parts that each see their own share of the channels.
    pub(crate) groups: usize,
    /// Input channels that each part sees, and how many numbers of each.
    pub(crate) channels: usize,
    pub(crate) area: usize,
    /// Outputs of each part.
    pub(crate) outputs: usize,
    pub(super) bias: Bias,
}

impl Layer {
    /// The layer that an op is, `None` where it is none, or why its weights cannot be found anew.
    pub(crate) fn of(g: &Graph, op: OpId, opset: i64) -> Option<Result<Layer, &'static str>> {
        let node = g.op(op);
        if !node.is_standard() {
            return None;
        }
        match &*node.op_type {
            "Conv" | "Gemm" => {}
            "MatMul" if g.input(op, 1).is_some_and(|w| g.initializer(w).is_some()) => {}
            "ConvTranspose" => return Some(Err("transposed convolutions are not solved for")),
            _ => return None,
        }
        Some(Layer::linear(g, op, opset).and_then(|layer| match layer.is_alone(g) {
            true => Ok(layer),
            false => Err("its weights are shared"),
        }))
    }
    /// All the layers that read the weights of an op, in the graph's order, where several do and each makes the same of
    /// them. Their biases stay as they are. `None` where the op is none of these, or why they cannot be looked at together.
    pub(crate) fn sharing(g: &Graph, op: OpId, opset: i64) -> Option<Result<Vec<Layer>, &'static str>> {
        let first = Layer::linear(g, op, opset).ok().filter(|layer| !layer.is_alone(g))?;
        let found = || {
            let uses = g.uses(first.weight);
            let mut layers = Vec::with_capacity(uses.len());
            for of in g.order().into_iter().filter(|op| uses.iter().any(|at| at.op() == *op)) {
                let layer = match &*g.op(of).op_type {
                    kind if kind == g.op(op).op_type => Layer::linear(g, of, opset)?,
                    _ => return Err("its weights are shared by ops of other kinds"),
                };
                let output = g.output(of, 0).ok_or("an output is missing")?;
                layers.push(Layer { bias: Bias::Absent, output, ..layer });
            }
            let alike = |a: &Layer| (a.weight, a.axis, a.groups) == (first.weight, first.axis, first.groups);
            match layers.len() == uses.len() && layers.iter().all(alike) && !g.is_output(first.weight) {
                true => Ok(layers),
                false => Err("its weights are shared in several ways"),
            }
        };
        Some(found())
    }
    /// Whether nothing else reads its weights.
    fn is_alone(&self, g: &Graph) -> bool {
        g.sole_use(self.weight).is_some()
    }
    /// An op that makes something of a matrix by the channels of its input, but not as rows that could be solved for: each
    /// row is all that a transposed convolution spreads for an element, or all that goes into the gates of a recurrent
    /// layer for a step. `None` where it is none, or why it cannot be looked at so.
    pub(crate) fn fed(g: &Graph, op: OpId) -> Option<Result<Layer, &'static str>> {
        let node = g.op(op);
        let spreads = node.is("ConvTranspose");
        (spreads || ["LSTM", "GRU", "RNN"].iter().any(|name| node.is(name))).then_some(())?;
        let found = || {
            let slots =
                || Some((g.input(op, 0)?, g.input(op, 1)?, g.outputs_of(op).into_iter().flatten().next()?));
            let (input, weight, output) = slots().ok_or("an input is missing")?;
            let shape = weights(g, weight)?.shape();
            if g.sole_use(weight).is_none() {
                return Err("its weights are shared");
            }
            if spreads && node.int("group").unwrap_or(1) != 1 {
                return Err("its channels are in groups");
            }
            let (walk, axis, channels) = match (spreads, shape) {
                (true, [channels, _, space @ ..]) => {
                    (Walk::Windows(Window::pointwise(space.len())), 1, *channels)
                }
                (false, [_, _, inputs]) => (Walk::Rows, 0, *inputs),
                _ => return Err("its weights are no matrix"),
            };
            let outputs = shape.iter().product::<usize>() / channels.max(1);
            let bias = Bias::Absent;
            Ok(Layer { op, input, output, weight, axis, walk, groups: 1, channels, area: 1, outputs, bias })
        };
        Some(found())
    }
    /// A Gather of rows of a table: a layer that sees all zeros but for a one. `None` where it is none, or why it cannot be
    /// looked at so.
    pub(crate) fn lookup(g: &Graph, op: OpId) -> Option<Result<Layer, &'static str>> {
        let (node, weight) = (g.op(op), g.input(op, 0)?);
        let table = g.constant(weight).filter(|t| t.rank() == 2 && is_real(t.dtype()))?;
        let rows = node.is("Gather") && node.int("axis").unwrap_or(0) == 0;
        let &[channels, outputs] = table.shape() else { return None };
        let (input, output) = (g.input(op, 1)?, g.output(op, 0)?);
        let (walk, bias, axis, groups, area) = (Walk::Rows, Bias::Absent, 1, 1, 1);
        let layer = Layer { op, input, output, weight, axis, walk, groups, channels, area, outputs, bias };
        let found = weights(g, weight).map(|_| layer);
        rows.then(|| {
            found.and_then(|layer| layer.is_alone(g).then_some(layer).ok_or("its weights are shared"))
        })
    }
    fn linear(g: &Graph, op: OpId, opset: i64) -> Result<Layer, &'static str> {
        let node = g.op(op);
        let slots = || Some((g.input(op, 0)?, g.input(op, 1)?, g.output(op, 0)?));
        let (input, weight, output) = slots().ok_or("an input is missing")?;
        let tensor = weights(g, weight)?;
        let shape = tensor.shape();
        let (mut walk, mut groups, mut axis, mut bias) = (Walk::Rows, 1, 0, Bias::Own);
        let channels = match (&*node.op_type, shape) {
            ("Conv", [_, c, ..]) => {
                walk = Walk::Windows(Window::of(node, shape).ok_or("its attributes do not fit its weights")?);
                groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0);
                *c
            }
            ("Gemm", [a, b]) => {
                let scaled = ["alpha", "beta"].iter().any(|name| node.float(name).unwrap_or(1.0) != 1.0);
                if scaled || node.int("transA").unwrap_or(0) != 0 {
                    return Err("it scales or transposes");
                }
                axis = usize::from(node.int("transB").unwrap_or(0) == 0);
                if g.input(op, 2).is_none() && opset < 11 {
                    bias = Bias::Absent;
                }
                if axis == 1 { *a } else { *b }
            }
            ("MatMul", [a, _]) => {
                axis = 1;
                bias = behind(g, output, shape[1]);
                *a
            }
            _ => return Err("its weights are no matrix"),
        };
        let (outputs, area) = (shape[axis], shape.iter().skip(2).product());
        if groups == 0 || !outputs.is_multiple_of(groups) {
            return Err("its attributes do not fit its weights");
        }
        let output = match bias {
            Bias::Behind(add, _) => g.output(add, 0).unwrap_or(output),
            _ => output,
        };
        let outputs = outputs / groups;
        let layer = Layer { op, input, output, weight, axis, walk, groups, channels, area, outputs, bias };
        match layer.bias_value(g) {
            Some(v) if !g.constant(v).is_some_and(|t| is_vector(t, layer.outputs * groups)) => {
                Err("its bias is not one constant for each output")
            }
            _ => Ok(layer),
        }
    }
    /// Whether a bias is there or can be added.
    pub(crate) fn has_bias(&self) -> bool {
        self.bias != Bias::Absent
    }
    /// Whether its channels are the second axis, with space behind.
    pub(crate) fn is_convolution(&self) -> bool {
        self.walk != Walk::Rows
    }
    /// Unknowns of each output: weights and bias.
    pub(crate) fn unknowns(&self) -> usize {
        self.channels * self.area + usize::from(self.has_bias())
    }
    /// Its weight, and its bias where there is one.
    pub(crate) fn constants(&self, g: &Graph) -> Vec<ValueId> {
        [Some(self.weight), self.bias_value(g)].into_iter().flatten().collect()
    }
    fn bias_value(&self, g: &Graph) -> Option<ValueId> {
        match self.bias {
            Bias::Own => g.input(self.op, 2),
            Bias::Behind(add, slot) => g.input(add, slot),
            Bias::Absent => None,
        }
    }
    /// The weights of each part as a matrix with a column for each output; the bias, 0 where it can be added, is last.
    pub(crate) fn weights(&self, g: &Graph) -> Option<Vec<Mat<f64>>> {
        let tensor = g.constant(self.weight)?;
        let weights = tensor.to_f32()?;
        let bias = self.bias_value(g).and_then(|v| g.constant(v)?.to_f32());
        let matrix = |part: usize| {
            Mat::from_fn(self.unknowns(), self.outputs, |row, k| {
                let output = part * self.outputs + k;
                let number = match row < self.channels * self.area {
                    true => weights[self.index(row, output)],
                    false => bias.as_ref().map_or(0.0, |b| b[output]),
                };
                f64::from(number)
            })
        };
        let mut parts: Vec<_> = (0..self.groups).map(matrix).collect();
        for (part, channel) in parts.iter_mut().zip(self.statistics(g).into_iter().flatten()) {
            channel.fold(part);
        }
        Some(parts)
    }
    /// Weights of a part without their bias.
    pub(crate) fn without_bias(&self, weights: &Mat<f64>) -> Mat<f64> {
        weights.subrows(0, self.channels * self.area).to_owned()
    }
    /// Where the weight of an input of a part stands in the tensor.
    pub(crate) fn index(&self, row: usize, output: usize) -> usize {
        match self.axis {
            0 => output * self.channels * self.area + row,
            _ => row * self.outputs * self.groups + output,
        }
    }
    /// Replaces weights and bias; a bias that others read too stays as it is for them.
    pub(crate) fn set(&self, g: &mut Graph, parts: &[Mat<f64>]) -> Option<()> {
        let (dtype, shape) = (g.dtype(self.weight)?, g.constant(self.weight)?.shape().to_vec());
        let inputs = self.channels * self.area;
        let mut weights = vec![0.0; shape.iter().product()];
        let mut bias = Vec::with_capacity(self.outputs * self.groups);
        let mut parts = Cow::Borrowed(parts);
        if let Some(statistics) = self.statistics(g) {
            parts.to_mut().iter_mut().zip(statistics).for_each(|(part, channel)| channel.unfold(part));
        }
        for (part, matrix) in parts.iter().enumerate() {
            for k in 0..self.outputs {
                let output = part * self.outputs + k;
                (0..inputs).for_each(|row| weights[self.index(row, output)] = matrix[(row, k)] as f32);
                bias.extend(self.has_bias().then(|| matrix[(inputs, k)] as f32));
            }
        }
        let weights = Tensor::from_f32(dtype, shape, weights).filter(is_finite)?;
        if self.has_bias() {
            self.set_bias(g, bias, dtype)?;
        }
        g.value_mut(self.weight).origin = Origin::Initializer(weights);
        Some(())
    }
    /// Makes weights and bias, where it has one, zero.
    pub(crate) fn silence(&self, g: &mut Graph) -> Option<()> {
        let parts = self.weights(g)?;
        let zeros: Vec<_> = parts.iter().map(|part| Mat::zeros(part.nrows(), part.ncols())).collect();
        match self.bias_value(g) {
            Some(_) => self.set(g, &zeros),
            None => Layer { bias: Bias::Absent, ..self.clone() }.set(g, &zeros),
        }
    }
    /// Adds a number to what each output is; a bias that others read too stays as it is for them. `None` where there is no
    /// place for a bias.
    pub(crate) fn shift(&self, g: &mut Graph, by: &[f64]) -> Option<()> {
        let old = self.bias_value(g).and_then(|v| g.constant(v)?.to_f32());
        let bias = |(k, by): (usize, &f64)| (old.as_ref().map_or(0.0, |old| f64::from(old[k])) + by) as f32;
        let bias: Vec<f32> = by.iter().enumerate().map(bias).collect();
        let dtype = g.dtype(self.weight)?;
        (self.has_bias() && bias.len() == self.outputs * self.groups).then_some(())?;
        self.set_bias(g, bias, dtype)
    }
    fn set_bias(&self, g: &mut Graph, bias: Vec<f32>, dtype: DType) -> Option<()> {
        let old = self.bias_value(g);
        let shape = match old {
            Some(v) => g.constant(v)?.shape().to_vec(),
            None => vec![bias.len()],
        };
        let tensor = Tensor::from_f32(dtype, shape, bias).filter(is_finite)?;
        match old {
            Some(v) if g.initializer(v).is_some() && g.sole_use(v).is_some() => {
                g.value_mut(v).origin = Origin::Initializer(tensor);
            }
            _ => {
                let hint = old
                    .map_or_else(|| format!("{}_bias", g.name_of(self.weight)), |v| g.name_of(v).to_owned());
                let value = Some(g.add_initializer(&hint, tensor));
                match self.bias {
                    Bias::Behind(add, slot) => g.set_input(add, slot, value),
                    _ if old.is_some() => g.set_input(self.op, 2, value),
                    _ => g.set_inputs(self.op, &[Some(self.input), Some(self.weight), value]),
                }
            }
        }
        Some(())
    }
}

/// Weights that can be found anew, or why they cannot.
pub(super) fn weights(g: &Graph, weight: ValueId) -> Result<&Tensor, &'static str> {
    let tensor = g.constant(weight).filter(|t| is_real(t.dtype()) && g.value(weight).quant.is_none());
    let tensor = tensor.ok_or("its weights are no constant floating-point numbers")?;
    if g.initializer(weight).is_none() {
        return Err("its weights come from a Constant node, which `simplify` makes an initializer");
    }
    if tensor.is_empty() { Err("its weights are empty") } else { Ok(tensor) }
}

/// The Add of one constant for each of `outputs` behind a value, where nothing else reads that.
fn behind(g: &Graph, output: ValueId, outputs: usize) -> Bias {
    let Some(Use::Input(add, slot)) = g.sole_use(output).filter(|u| g.op(u.op()).is("Add")) else {
        return Bias::Absent;
    };
    let other = g.input(add, 1 - slot.min(1));
    let fits =
        |v: ValueId| g.constant(v).is_some_and(|t| is_vector(t, outputs) && Some(t.rank()) <= g.rank(output));
    match other {
        Some(v) if fits(v) => Bias::Behind(add, 1 - slot.min(1)),
        _ => Bias::Absent,
    }
}

/// Whether a tensor holds one number for each of `n` outputs, along its last axis.
fn is_vector(tensor: &Tensor, n: usize) -> bool {
    is_real(tensor.dtype()) && tensor.len() == n && tensor.shape().last() == Some(&n)
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.to_f32().is_some_and(|numbers| numbers.iter().all(|x| x.is_finite()))
}

/// Whether numbers of this type are read and written as reals.
fn is_real(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
}
