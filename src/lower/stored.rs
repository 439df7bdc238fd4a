//! A constant stored as integers, and the operators that compute it back.
//!
//! - `Qdq`: `DequantizeLinear(q, scale, zero_point)`. Blocks that run along several axes (the windows of a convolution)
//!   are stored with those joined, and a Reshape follows.
//! - `Folded`: `(Cast(q) - Cast(zero_point)) * scale`, in float32, which every runtime computes in; a value of another type has
//!   its scales in that, and Cast around. Blocks are an axis of their own, so that the scales broadcast:
//!   `[outer, blocks, size, inner]`; a last block that is not full is filled up, and a Slice cuts the filling off.

use super::parameters::{self, Parameters};
use crate::{
    error::{Error, Result},
    ir::{DType, Float8, Grain, Graph, Lay, Op, Origin, QuantForm, QuantScheme, Tensor, Type, ValueId},
};

/// Replaces a constant by its integers and what computes it back.
pub(super) fn constant(
    graph: &mut Graph,
    v: ValueId,
    scheme: &QuantScheme,
    parameters: &mut Parameters,
) -> Result<()> {
    let Origin::Initializer(float) = std::mem::take(&mut graph.value_mut(v).origin) else {
        unreachable!("the caller looked")
    };
    graph.value_mut(v).ty = Some(Type::Tensor(float.ty()));
    let scheme = &scheme.clone().for_reals(float.dtype());
    let integers = scheme.quantize(&float)?;
    let name = graph.name_of(v).to_owned();
    let chain = Chain { graph, name, v, dtype: float.dtype(), shape: float.shape().to_vec() };
    match scheme.form {
        QuantForm::Qdq
        | QuantForm::Dynamic
        | QuantForm::Multiplied
        | QuantForm::Operator
        | QuantForm::Packed
        | QuantForm::Saturated
        | QuantForm::Shielded => chain.dequantize(integers, scheme, parameters),
        QuantForm::Folded => chain.fold(integers, scheme, parameters)?,
    }
    Ok(())
}

/// What computes a value back as it is put together.
struct Chain<'a> {
    graph: &'a mut Graph,
    name: String,
    v: ValueId,
    /// The value's.
    dtype: DType,
    /// The value's.
    shape: Vec<usize>,
}

impl Chain<'_> {
    fn quantized(&mut self, integers: Tensor) -> ValueId {
        self.graph.add_initializer(&format!("{}_quantized", self.name), integers)
    }
    /// An op in between and its output. Names and types of these would take more of the file than small weights do.
    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let hint = op.op_type.to_lowercase();
        self.graph.add_node(op, inputs, &hint, None)
    }
    /// The op that computes the value itself.
    fn last(&mut self, op: Op, inputs: &[ValueId]) {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.add_op(op, &inputs, &[Some(self.v)]);
    }
    fn shape_of_value(&mut self) -> ValueId {
        let shape = Tensor::ints(self.shape.iter().map(|n| *n as i64));
        self.graph.add_initializer("shape", shape)
    }

    fn dequantize(mut self, integers: Tensor, scheme: &QuantScheme, known: &mut Parameters) {
        let op = Op::new("DequantizeLinear", "");
        let count = scheme.scales.len();
        let (op, stored, parameters) = match scheme.grain {
            Grain::Tensor => (op, self.shape.clone(), Vec::new()),
            Grain::Axis(axis) => (op.with("axis", axis as i64), self.shape.clone(), vec![count]),
            Grain::Blocks { first, end, size } => {
                let joined = self.shape[first..end].iter().product();
                let view = |middle| [&self.shape[..first], &[middle], &self.shape[end..]].concat();
                let op = op.with("axis", first as i64).with("block_size", size as i64);
                (op, view(joined), view(joined.div_ceil(size)))
            }
        };
        let mut inputs = vec![
            self.quantized(integers.reshaped(&stored[..])),
            parameters::scale(self.graph, scheme, self.dtype, &parameters),
        ];
        // Integer kernels look for a zero point, which is a number for each channel; for each block, and beside floats, it would
        // be a waste.
        let unread = matches!(scheme.grain, Grain::Blocks { .. }) || Float8::of(scheme.dtype).is_some();
        if !(scheme.is_symmetric() && unread) {
            inputs.push(known.zero_point(self.graph, scheme.zero_point_tensor(&parameters)));
        }
        if stored == self.shape {
            return self.last(op, &inputs);
        }
        let real = self.node(op, &inputs);
        let shape = self.shape_of_value();
        self.last(Op::new("Reshape", ""), &[real, shape]);
    }

    fn fold(mut self, integers: Tensor, scheme: &QuantScheme, known: &mut Parameters) -> Result<()> {
        let after = |axis: usize| vec![1; self.shape.len() - axis - 1];
        let (stored, parameters, blocks) = match scheme.grain {
            Grain::Tensor => (integers, Vec::new(), None),
            Grain::Axis(axis) => (integers, [vec![scheme.scales.len()], after(axis)].concat(), None),
            Grain::Blocks { .. } => {
                let none = || Error::invalid((), "quantization scheme: it is for a tensor of more axes");
                let lay = scheme.grain.lay(&self.shape).ok_or_else(none)?;
                (filled(integers, &lay), vec![lay.outer, lay.blocks(), 1, lay.inner], Some(lay))
            }
        };
        let wide = || cast(DType::F32);
        let quantized = self.quantized(stored);
        let mut real = self.node(wide(), &[quantized]);
        if !scheme.is_symmetric() {
            let zeros = known.zero_point(self.graph, scheme.zero_point_tensor(&parameters));
            let zeros = self.node(wide(), &[zeros]);
            real = self.node(Op::new("Sub", ""), &[real, zeros]);
        }
        // What is computed in float32 gains nothing from scales of more digits.
        let narrow = if self.dtype.bits() < 32 { self.dtype } else { DType::F32 };
        let mut scale = parameters::scale(self.graph, scheme, narrow, &parameters);
        if narrow != DType::F32 {
            scale = self.node(wide(), &[scale]);
        }
        let mut steps = vec![(Op::new("Mul", ""), vec![scale])];
        if self.dtype != DType::F32 {
            steps.push((cast(self.dtype), Vec::new()));
        }
        if let Some(lay) = blocks {
            let whole = lay.blocks() * lay.size;
            if whole != lay.length {
                let joined = [lay.outer, whole, lay.inner];
                let rows = self.graph.add_initializer("shape", Tensor::ints(joined.map(|n| n as i64)));
                steps.push((Op::new("Reshape", ""), vec![rows]));
                let bounds = [("start", 0), ("end", lay.length as i64), ("axis", 1)];
                let bounds = bounds.map(|(role, n)| self.graph.add_initializer(role, Tensor::ints([n])));
                steps.push((Op::new("Slice", ""), bounds.to_vec()));
            }
            steps.push((Op::new("Reshape", ""), vec![self.shape_of_value()]));
        }
        let last = steps.len() - 1;
        for (at, (op, others)) in steps.into_iter().enumerate() {
            let inputs = [&[real][..], &others].concat();
            match at == last {
                true => self.last(op, &inputs),
                false => real = self.node(op, &inputs),
            }
        }
        Ok(())
    }
}

fn cast(to: DType) -> Op {
    Op::new("Cast", "").with("to", i64::from(to.onnx()))
}

/// The elements as `[outer, blocks, size, inner]`, the last block filled up with zeros.
fn filled(integers: Tensor, lay: &Lay) -> Tensor {
    let shape = [lay.outer, lay.blocks(), lay.size, lay.inner];
    let whole = lay.blocks() * lay.size;
    if whole == lay.length {
        return integers.reshaped(shape);
    }
    // Those of less than a byte take one here.
    let width = integers.dtype().bits().div_ceil(8) * lay.inner;
    let narrow = integers.unpacked();
    let bytes = narrow.unwrap_or_else(|| integers.bytes().iter().map(|b| *b as i8).collect());
    let mut out = Vec::with_capacity(bytes.len() / lay.length * whole);
    for part in bytes.chunks(lay.length * width) {
        out.extend_from_slice(part);
        out.resize(out.len() + (whole - lay.length) * width, 0);
    }
    Tensor::packed(integers.dtype(), shape, &out).unwrap_or_else(|| {
        let bytes: Vec<u8> = out.into_iter().map(|x| x as u8).collect();
        Tensor::new(integers.dtype(), shape, bytes).expect("as many bytes as elements take")
    })
}
