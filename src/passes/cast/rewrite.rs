//! Values get their types as the ops around them compute, with casts where these differ.

use super::{
    Io, WORTH,
    choose::{Choice, Kept, is_float},
};
use crate::{
    ir::{DType, Graph, Op, OpId, Origin, Tensor, TensorType, Type, Use, ValueId},
    ops::half::halves,
};
use std::collections::HashSet;

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Ops that compute in half precision now.
    pub ops: usize,
    /// Constants that are stored in half precision now.
    pub constants: usize,
    /// Casts that were put in.
    pub casts: usize,
}

/// The types that a value is wanted in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Wanted {
    half: bool,
    float: bool,
}

impl Wanted {
    fn add(&mut self, half: bool) {
        if half { self.half = true } else { self.float = true }
    }
}

/// What is around a graph.
struct Around<'a> {
    /// Whether its float inputs and outputs are of half precision.
    inputs: bool,
    outputs: bool,
    /// Captured values that are.
    captured: &'a HashSet<String>,
}

/// Rewrites the main graph and its bodies.
pub(super) fn rewrite(g: &mut Graph, choice: &Choice, dtype: DType, io: Io) -> Done {
    let mut rewrite = Rewrite { dtype, done: Done::default() };
    let (inputs, outputs) = (io == Io::Cast, io == Io::Cast);
    rewrite.graph(g, choice, &Around { inputs, outputs, captured: &HashSet::new() });
    g.sweep();
    rewrite.done
}

struct Rewrite {
    dtype: DType,
    done: Done,
}

impl Rewrite {
    fn graph(&mut self, g: &mut Graph, choice: &Choice, around: &Around<'_>) {
        let dtype = self.dtype;
        self.done.ops += choice.half.len();
        let floats: Vec<ValueId> = g.values().filter(|v| is_float(g, *v)).collect();
        let mut half: HashSet<ValueId> = HashSet::new();
        for v in &floats {
            if self.is_half(g, choice, around, *v) {
                half.insert(*v);
            }
        }
        // Decided on the graph as it was.
        let uses: Vec<Vec<(Use, Wanted)>> =
            floats.iter().map(|v| wanted_by_uses(g, choice, dtype, *v)).collect();
        for v in &half {
            self.retype(g, *v);
        }
        for (v, uses) in floats.iter().zip(uses) {
            self.connect(g, *v, half.contains(v), uses, around.outputs && !choice.wide.contains(v));
        }
        for op in g.ops().collect::<Vec<_>>() {
            if choice.half.contains(&op) {
                retype_attributes(g.op_mut(op), dtype);
            }
            if let Some(bodies) = choice.bodies.get(&op) {
                let captured: HashSet<String> = g
                    .captures_of(op)
                    .into_iter()
                    .filter(|v| g.dtype(*v) == Some(dtype))
                    .map(|v| g.name_of(v).to_owned())
                    .collect();
                let inside = choice.half.contains(&op);
                let around = Around { inputs: inside, outputs: inside, captured: &captured };
                let mut bodies = bodies.iter();
                g.edit_bodies(op, |body| {
                    bodies.next().is_some_and(|choice| {
                        self.graph(body, choice, &around);
                        true
                    })
                });
            }
            drop_idle(g, op, dtype);
        }
    }

    /// Whether a value is of half precision by where it comes from.
    fn is_half(&self, g: &Graph, choice: &Choice, around: &Around<'_>, v: ValueId) -> bool {
        if g.is_input(v) {
            return around.inputs && !choice.wide.contains(&v);
        }
        match &g.value(v).origin {
            Origin::Captured => around.captured.contains(g.name_of(v)),
            Origin::Initializer(tensor) => self.stored_half(g, choice, v, tensor),
            Origin::SparseInitializer(_) => false,
            Origin::Computed => g.producer(v).is_some_and(|(op, slot)| {
                let fixed = halves(g.op(op), self.dtype).unwrap_or_default();
                choice.half.contains(&op) && !fixed.outputs.contains(&slot)
            }),
        }
    }

    /// Whether a constant is stored in half precision: all its users compute so, or lack nothing but a kernel.
    fn stored_half(&self, g: &Graph, choice: &Choice, v: ValueId, tensor: &Tensor) -> bool {
        let (mut wanted, mut lenient) = (Wanted::default(), !g.is_output(v));
        for (at, by) in wanted_by_uses(g, choice, self.dtype, v) {
            wanted.half |= by.half;
            wanted.float |= by.float;
            let Use::Input(op, _) = at else {
                lenient &= !by.float;
                continue;
            };
            lenient &= !by.float || choice.kept.get(&op) == Some(&Kept::Unsupported) && !quantizes(g.op(op));
        }
        if !lenient || g.value(v).quant.is_some() {
            return false;
        }
        wanted.half && !wanted.float
            || wanted.float && tensor.len() >= WORTH && super::loss::of_constant(tensor, self.dtype).is_ok()
    }

    fn retype(&mut self, g: &mut Graph, v: ValueId) {
        let value = g.value_mut(v);
        if let Some(Type::Tensor(ty)) = &mut value.ty {
            ty.dtype = Some(self.dtype);
        }
        if let Origin::Initializer(tensor) = &value.origin
            && let Some(numbers) = tensor.to_f32()
            && let Some(half) = Tensor::from_f32(self.dtype, tensor.shape(), numbers.into_owned())
        {
            value.origin = Origin::Initializer(half);
            self.done.constants += 1;
        }
    }

    /// Gives each use of a value the type it wants: the value's own, or the other one by a single cast.
    fn connect(&mut self, g: &mut Graph, v: ValueId, half: bool, uses: Vec<(Use, Wanted)>, outputs: bool) {
        let captured = g.value(v).origin == Origin::Captured;
        let mut other: Option<ValueId> = None;
        let given = g.is_output(v);
        // The interface keeps its name: what is computed moves to a new one.
        let own = if given && outputs != half && !g.is_input(v) && g.value(v).origin == Origin::Computed {
            let own = self.move_out(g, v, half, outputs);
            other = Some(v);
            own
        } else {
            if given && outputs != half && (captured || g.producer(v).is_some()) {
                other = Some(self.cast(g, v, !half));
            }
            v
        };
        for (at, wanted) in uses {
            if wanted.half && wanted.float || wanted == Wanted::default() {
                // Ops that follow take what is there; a body that wants both casts by itself.
                if own != v {
                    g.replace_use(at, v, own);
                }
                continue;
            }
            let fits = wanted.half == half;
            if fits && own != v {
                g.replace_use(at, v, own);
            } else if !fits {
                let to = *other.get_or_insert_with(|| self.cast(g, own, !half));
                if to != v {
                    g.replace_use(at, v, to);
                }
            }
        }
    }

    /// A new value that the producer of `v` computes instead, of which `v` becomes a cast.
    fn move_out(&mut self, g: &mut Graph, v: ValueId, half: bool, outputs: bool) -> ValueId {
        let ty = g.value(v).ty.clone();
        let own = g.add_value(&self.hint(g, v, half), ty);
        if let Some((op, slot)) = g.producer(v) {
            let mut slots = g.outputs_of(op);
            slots[slot] = Some(own);
            g.set_outputs(op, &slots);
        }
        let to = self.type_of(outputs);
        if let Some(Type::Tensor(ty)) = &mut g.value_mut(v).ty {
            ty.dtype = Some(to);
        }
        g.add_op(cast_to(to), &[Some(own)], &[Some(v)]);
        self.done.casts += 1;
        own
    }

    /// The value in the other type; where it is a cast from that type, what it was cast from.
    fn cast(&mut self, g: &mut Graph, v: ValueId, half: bool) -> ValueId {
        let to = self.type_of(half);
        let source = g.producer(v).filter(|(op, _)| g.op(*op).is("Cast")).and_then(|(op, _)| g.input(op, 0));
        if let Some(source) = source.filter(|source| half && g.dtype(*source) == Some(to)) {
            return source;
        }
        let ty = g.tensor_type(v).map(|ty| Type::Tensor(TensorType { dtype: Some(to), ..ty }));
        self.done.casts += 1;
        let hint = self.hint(g, v, half);
        g.add_node(cast_to(to), &[v], &hint, ty)
    }

    fn type_of(&self, half: bool) -> DType {
        if half { self.dtype } else { DType::F32 }
    }
    fn hint(&self, g: &Graph, v: ValueId, half: bool) -> String {
        format!("{}_{}", g.name_of(v), self.type_of(half))
    }
}

fn cast_to(dtype: DType) -> Op {
    Op::new("Cast", "").with("to", i64::from(dtype.onnx()))
}

/// What each use of a float32 value wants; nothing where it takes any.
fn wanted_by_uses(g: &Graph, choice: &Choice, dtype: DType, v: ValueId) -> Vec<(Use, Wanted)> {
    let of = |at: Use| {
        let mut wanted = Wanted::default();
        match at {
            Use::Input(op, _) if choice.follow.contains(&op) => {}
            Use::Input(op, slot) => wanted.add(reads_half(g, choice, dtype, op, slot)),
            Use::Capture(op) => {
                let bodies = choice.bodies.get(&op).into_iter().flatten();
                for (body, inner) in g.op(op).bodies().zip(bodies) {
                    let by = wanted_in_body(body, inner, dtype, g.name_of(v), choice.half.contains(&op));
                    wanted.half |= by.half;
                    wanted.float |= by.float;
                }
            }
        }
        (at, wanted)
    };
    g.uses(v).into_iter().map(of).collect()
}

fn reads_half(g: &Graph, choice: &Choice, dtype: DType, op: OpId, slot: usize) -> bool {
    let fixed = halves(g.op(op), dtype).unwrap_or_default();
    choice.half.contains(&op) && !fixed.inputs.contains(&slot)
}

/// What a body wants of a value that it captures by this name.
fn wanted_in_body(body: &Graph, choice: &Choice, dtype: DType, name: &str, outputs: bool) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(v) = body.find(name).filter(|v| body.value(*v).origin == Origin::Captured) else {
        return wanted;
    };
    for (_, by) in wanted_by_uses(body, choice, dtype, v) {
        wanted.half |= by.half;
        wanted.float |= by.float;
    }
    if body.is_output(v) {
        wanted.add(outputs);
    }
    wanted
}

/// Whether an op takes scales or integers, which are no weights.
fn quantizes(op: &Op) -> bool {
    op.op_type.contains("Quant") || op.op_type.contains("QLinear") || op.op_type.contains("Integer")
}

/// Attributes that say which type an op in half precision gives.
fn retype_attributes(op: &mut Op, dtype: DType) {
    let float = i64::from(DType::F32.onnx());
    if op.is("Cast") && op.int("to") == Some(float) {
        op.set("to", i64::from(dtype.onnx()));
    }
    if op.is("ConstantOfShape") {
        let number = op.tensor("value").map_or(Some(0.0), Tensor::scalar_f32);
        if let Some(value) = number.and_then(|x| Tensor::from_f32(dtype, [1], vec![x])) {
            op.set("value", value);
        }
    }
}

/// Takes out a cast of what is of half precision already.
fn drop_idle(g: &mut Graph, op: OpId, dtype: DType) {
    let node = g.op(op);
    if !node.is("Cast") || node.int("to") != Some(i64::from(dtype.onnx())) {
        return;
    }
    let (Some(from), Some(to)) = (g.input(op, 0), g.output(op, 0)) else { return };
    if g.dtype(from) == Some(dtype) {
        g.replace_value(to, from);
        if g.has_op(op) && g.output(op, 0).is_none_or(|to| g.uses(to).is_empty() && !g.is_output(to)) {
            g.remove_op(op);
        }
    }
}
