//! Layers in the place of one.

use super::{
    form::Form,
    layer::{Candidate, Kind},
};
use crate::{
    ir::{DType, Graph, Op, Tensor, ValueId},
    passes::linear::Layer,
};
use faer::Mat;
use std::collections::HashSet;

/// Attributes of a convolution that concern its kernel.
const OF_KERNEL: [&str; 5] = ["kernel_shape", "strides", "dilations", "pads", "auto_pad"];

/// Puts layers with these kernels, of each part, in the place of one, or of each that shares its weights. The last of them
/// stays the op that was there, with its bias.
/// `None`, and the graph as it was, where the kernels do not fit the layer's type of numbers.
pub(super) fn replace(
    g: &mut Graph,
    candidate: &Candidate,
    form: Form,
    kernels: &[Vec<Mat<f64>>],
) -> Option<()> {
    let Candidate { layer, kind, .. } = candidate;
    let weight = g.constant(layer.weight)?;
    let (dtype, shape) = (weight.dtype(), weight.shape().to_vec());
    let spatial = shape.get(2..).filter(|_| layer.is_convolution()).unwrap_or(&[]);
    let n = kernels.first()?.len();
    let tensors = (0..n).map(|k| {
        let last = k + 1 == n;
        let parts: Vec<&Mat<f64>> = kernels.iter().map(|part| &part[k]).collect();
        if *kind == Kind::Fed && last {
            let tensor = tensor(dtype, &parts, &[], layer.axis == 0)?;
            let rank = parts[0].nrows();
            let shape = if layer.axis == 0 {
                [&shape[..2], &[rank]].concat()
            } else {
                [&[rank], &shape[1..]].concat()
            };
            return Some(tensor.reshaped(shape));
        }
        if !layer.is_convolution() {
            return tensor(dtype, &parts, &[], last && layer.axis == 0);
        }
        let ones = vec![1; spatial.len()];
        let extents = match form {
            Form::Spatial if last => vec![1, spatial[1]],
            Form::Spatial => vec![spatial[0], 1],
            Form::Inputs if last => spatial.to_vec(),
            Form::Outputs | Form::Depthwise if !last && *kind == Kind::Solved => spatial.to_vec(),
            Form::Tucker if k == 1 => spatial.to_vec(),
            _ => ones,
        };
        tensor(dtype, &parts, &extents, true)
    });
    let tensors = tensors.collect::<Option<Vec<_>>>()?;
    let name = g.name_of(layer.weight).to_owned();
    let weights: Vec<ValueId> = tensors
        .into_iter()
        .enumerate()
        .map(|(k, t)| g.add_initializer(&format!("{name}_{}", k + 1), t))
        .collect();
    for layer in candidate.layers() {
        rewire(g, layer, *kind, form, &weights);
    }
    g.remove_value_if_unused(layer.weight);
    Some(())
}

/// Puts layers with these weights in the place of one.
fn rewire(g: &mut Graph, layer: &Layer, kind: Kind, form: Form, weights: &[ValueId]) {
    let n = weights.len();
    let op = g.op(layer.op).clone();
    let hint = g.output(layer.op, 0).map(|y| g.name_of(y).to_owned()).unwrap_or_default();
    let mut input = layer.input;
    for (k, kernel) in weights[..n - 1].iter().enumerate() {
        let mut before = match (kind, layer.is_convolution()) {
            (Kind::Fed, true) => Op::new("Conv", ""),
            (Kind::Solved, true) | (Kind::Lookup, _) => op.clone(),
            _ => Op::new("MatMul", ""),
        };
        before.name = unused_name(g, &format!("{}_{}", op.name, k + 1));
        before.carried = Default::default();
        shape_to(&mut before, layer, form, k, n);
        let inputs = if kind == Kind::Lookup { [*kernel, input] } else { [input, *kernel] };
        input = g.add_node(before, &inputs, &format!("{hint}_{}", k + 1), None);
    }
    match kind {
        Kind::Solved => shape_to(g.op_mut(layer.op), layer, form, n - 1, n),
        Kind::Fed => {}
        Kind::Lookup => {
            let product = Op { name: op.name, carried: op.carried, ..Op::new("MatMul", "") };
            *g.op_mut(layer.op) = product;
        }
    }
    g.set_input(layer.op, 0, Some(input));
    g.set_input(layer.op, 1, weights.last().copied());
}

/// This name, or one made from it where an op has it: ONNX Runtime refuses two ops of one name.
fn unused_name(g: &Graph, hint: &str) -> String {
    let taken: HashSet<&str> = g.ops().map(|op| &*g.op(op).name).collect();
    let others = (1..).map(|k| format!("{hint}_{k}"));
    std::iter::once(hint.to_owned()).chain(others).find(|name| !taken.contains(&**name)).unwrap_or_default()
}

/// The kernels of all parts as a tensor: rows are inputs, the positions of the kernel among them, and columns outputs.
/// `turned`, outputs come first, part after part. `None` where numbers of the type cannot hold it.
fn tensor(dtype: DType, parts: &[&Mat<f64>], extents: &[usize], turned: bool) -> Option<Tensor> {
    let (rows, columns) = (parts.first()?.nrows(), parts.first()?.ncols());
    let area: usize = extents.iter().product();
    let rising = |part: &&Mat<f64>| -> Vec<f32> {
        let part = *part;
        match turned {
            true => (0..columns).flat_map(|j| (0..rows).map(move |i| part[(i, j)] as f32)).collect(),
            false => (0..rows).flat_map(|i| (0..columns).map(move |j| part[(i, j)] as f32)).collect(),
        }
    };
    let shape = match turned {
        true => [&[parts.len() * columns, rows / area], extents].concat(),
        false => vec![rows, columns],
    };
    let tensor = Tensor::from_f32(dtype, shape, parts.iter().flat_map(rising).collect::<Vec<f32>>())?;
    let finite = tensor.to_f32()?.iter().all(|x| x.is_finite());
    finite.then_some(tensor)
}

/// Gives layer `k` of `n` what of a convolution's attributes concerns it.
fn shape_to(op: &mut Op, layer: &Layer, form: Form, k: usize, n: usize) {
    let keeps = match form {
        Form::Outputs | Form::Depthwise => k == 0,
        Form::Inputs => k + 1 == n,
        Form::Tucker => k == 1,
        Form::Spatial => return along(op, k),
    };
    if !keeps && op.is("Conv") {
        OF_KERNEL.iter().for_each(|attr| drop(op.unset(attr)));
    }
    if form == Form::Depthwise && k == 0 {
        op.set("group", (layer.groups * layer.channels) as i64);
    }
}

/// Makes a two-dimensional convolution work along one spatial axis, and be pointwise along the other.
fn along(conv: &mut Op, axis: usize) {
    for (attr, neutral) in [("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)] {
        if let Some(values) = conv.ints(attr) {
            let kept = values.iter().enumerate().map(|(k, v)| if k % 2 == axis { *v } else { neutral });
            let kept: Vec<i64> = kept.collect();
            conv.set(attr, kept);
        }
    }
}
