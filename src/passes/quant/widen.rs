//! Models of float16 whose layers are to compute in integers: ONNX Runtime's integer kernels read and write float32 alone, and
//! a processor computes float16 by way of float32 anyway. So everything in between becomes float32, while inputs and outputs
//! keep their type, and constants that stay floats are stored as they were.

use crate::{
    ir::{Attr, DType, Graph, Model, Op, Origin, Tensor, TensorType, Type, ValueId},
    ops::infer_types,
};

/// Attributes that name the type of what an operator makes.
const TYPES: &[&str] = &["to", "dtype", "output_dtype", "output_datatype"];
/// Elements from which on two bytes saved of each are worth a Cast.
const WORTH: usize = 64;

/// Whether a graph reads constants of float16 as weights.
pub(super) fn is_half(g: &Graph) -> bool {
    g.initializers().any(|(_, t)| t.dtype() == DType::F16 && t.rank() > 1)
}

/// The model with all float16 as float32, but for its interface; or why that cannot be.
pub(super) fn widened(model: &Model) -> Result<Model, String> {
    if !model.functions.is_empty() {
        return Err("it has functions of its own (`--inline-functions`)".into());
    }
    let (mut other, mut sparse) = (None, false);
    model.graph.for_each_nested(&mut |g| {
        let unknown = |op: &Op| !op.is_standard() && op.domain != "com.microsoft";
        other = other.take().or_else(|| g.ops().map(|op| g.op(op)).find(|op| unknown(op)).map(Op::full_type));
        sparse |= g.values().any(
            |v| matches!(&g.value(v).origin, Origin::SparseInitializer(s) if s.values.dtype() == DType::F16),
        );
    });
    if let Some(op) = other {
        return Err(format!("whether {op} computes in float32 is not known"));
    }
    if sparse {
        return Err("it has sparse constants of float16".into());
    }
    let mut wide = model.clone();
    let g = &mut wide.graph;
    let interface: Vec<ValueId> = g.inputs.iter().chain(&g.outputs).copied().collect();
    let interface: Vec<ValueId> = interface.into_iter().filter(|v| g.dtype(*v) == Some(DType::F16)).collect();
    interface.iter().for_each(|v| move_out(g, *v));
    widen(g, &interface);
    infer_types(&mut wide).map_err(|why| why.to_string())?;
    drop_idle(&mut wide.graph);
    wide.graph.sweep();
    Ok(wide)
}

/// Puts a cast behind an input, or in front of an output.
fn move_out(g: &mut Graph, v: ValueId) {
    let ty = g.value(v).ty.clone();
    let wide = g.add_value(&format!("{}_{}", g.name_of(v), DType::F32), ty);
    let cast = |to: DType| Op::new("Cast", "").with("to", i64::from(to.onnx()));
    match g.producer(v) {
        Some((op, slot)) => {
            let mut outputs = g.outputs_of(op);
            outputs[slot] = Some(wide);
            g.set_outputs(op, &outputs);
            g.replace_uses(v, wide);
            g.add_op(cast(DType::F16), &[Some(wide)], &[Some(v)]);
        }
        None => {
            g.replace_uses(v, wide);
            g.add_op(cast(DType::F32), &[Some(v)], &[Some(wide)]);
        }
    }
}

/// Makes all float16 of a graph and its bodies float32, but for these values and the casts to them.
fn widen(g: &mut Graph, but: &[ValueId]) {
    for v in g.values().collect::<Vec<_>>() {
        if but.contains(&v) {
            continue;
        }
        let value = g.value_mut(v);
        value.ty = value.ty.take().map(wide_type);
        if let Origin::Initializer(tensor) = &value.origin {
            value.origin = Origin::Initializer(wide_tensor(tensor.clone()));
        }
    }
    for op in g.ops().collect::<Vec<_>>() {
        let fixed = g.outputs_of(op).iter().flatten().any(|v| but.contains(v));
        let [half, float] = [DType::F16, DType::F32].map(|dtype| i64::from(dtype.onnx()));
        for a in g.op_mut(op).attrs.iter_mut().filter(|_| !fixed) {
            match &mut a.value {
                Attr::Int(n) if *n == half && TYPES.contains(&&*a.name) => *n = float,
                Attr::Tensor(t) => *t = wide_tensor(t.clone()),
                Attr::Type(ty) => *ty = wide_type(ty.clone()),
                _ => {}
            }
        }
        g.edit_bodies(op, |body| {
            widen(body, &[]);
            true
        });
    }
}

fn wide_type(ty: Type) -> Type {
    match ty {
        Type::Tensor(TensorType { dtype: Some(DType::F16), shape }) => {
            Type::Tensor(TensorType { dtype: Some(DType::F32), shape })
        }
        Type::Sequence(of) => Type::Sequence(Box::new(wide_type(*of))),
        Type::Optional(of) => Type::Optional(Box::new(wide_type(*of))),
        other => other,
    }
}

fn wide_tensor(tensor: Tensor) -> Tensor {
    match (tensor.dtype(), tensor.to_f32()) {
        (DType::F16, Some(numbers)) => Tensor::from_vec(tensor.shape(), numbers.into_owned()),
        _ => tensor,
    }
}

/// Takes out casts of what is float32 already.
fn drop_idle(g: &mut Graph) {
    for op in g.order() {
        g.edit_bodies(op, |body| {
            drop_idle(body);
            true
        });
        let (from, to) = (g.input(op, 0), g.output(op, 0));
        let idle = g.op(op).is("Cast") && g.op(op).int("to") == Some(i64::from(DType::F32.onnx()));
        if let (Some(from), Some(to)) = (from, to)
            && idle
            && g.dtype(from) == Some(DType::F32)
        {
            g.replace_value(to, from);
        }
    }
}

/// Stores constants that stayed floats in float16 again, where that loses nothing.
pub(super) fn narrow(g: &mut Graph) {
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            narrow(body);
            true
        });
    }
    let large = |v: &ValueId| g.initializer(*v).is_some_and(|t| t.len() >= WORTH);
    for v in g.values().filter(large).collect::<Vec<_>>() {
        store(g, v, DType::F16);
    }
}

/// Stores a constant of float32 that stayed one in a type of half precision, where that loses nothing.
pub(super) fn store(g: &mut Graph, v: ValueId, dtype: DType) {
    let value = g.value(v);
    let Origin::Initializer(tensor) = &value.origin else { return };
    if value.quant.is_some() || g.is_input(v) || g.is_output(v) || tensor.dtype() != DType::F32 {
        return;
    }
    let Some(numbers) = tensor.to_f32() else { return };
    let half = Tensor::from_f32(dtype, tensor.shape(), numbers.to_vec());
    let exact = |half: &Tensor| half.to_f32().is_some_and(|back| back == numbers);
    let Some(half) = half.filter(exact) else { return };
    let (name, ty) = (g.name_of(v).to_owned(), Type::Tensor(tensor.ty()));
    let half = g.add_initializer(&format!("{name}_{dtype}"), half);
    let value = g.value_mut(v);
    (value.origin, value.ty) = (Origin::Computed, Some(ty));
    let cast = Op::new("Cast", "").with("to", i64::from(DType::F32.onnx()));
    g.add_op(cast, &[Some(half)], &[Some(v)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn model(text: &str) -> Model {
        text::parse(&format!("<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]> {text}")).unwrap()
    }
    fn types(g: &Graph) -> Vec<DType> {
        let mut found = Vec::new();
        g.for_each_nested(&mut |g| found.extend(g.values().filter_map(|v| g.dtype(v))));
        found
    }

    #[test]
    fn all_is_wide_but_the_interface() {
        let half = model(
            "g (float16[2, 64] x, bool go) => (float16[2, 64] x, float16[2, 64] y, float16[2, 64] z)
             <float16[2, 64] w> {
               y = Add (x, w)
               a = Mul (y, w)
               z = If (go) <
                 then_branch = t () => (float16[2, 64] u) <float16[64] s> { u = Mul (a, s) },
                 else_branch = e () => (float16[2, 64] v) { l = Cast <to = 1> (a) k = Sin (l) v = Cast <to = 10> (k) }>
             }",
        );
        let mut wide = widened(&half).unwrap();
        wide.verify().unwrap();
        let g = &wide.graph;
        let interface =
            |g: &Graph| g.inputs.iter().chain(&g.outputs).map(|v| g.dtype(*v)).collect::<Vec<_>>();
        assert_eq!(interface(g), interface(&half.graph));
        assert_eq!(types(g).into_iter().filter(|d| *d == DType::F16).count(), 3, "x, y and z");
        let casts = g.ops().filter(|op| g.op(*op).is("Cast")).count();
        let mut inside = 0;
        g.for_each_nested(&mut |g| inside += g.ops().filter(|op| g.op(*op).is("Cast")).count());
        assert_eq!((casts, inside), (3, 3), "behind x and in front of y and z; none in bodies");
        narrow(&mut wide.graph);
        wide.verify().unwrap();
        let mut floats = 0;
        wide.graph.for_each_nested(&mut |g| {
            floats += g.initializers().filter(|(_, t)| t.dtype() == DType::F32).count();
        });
        assert_eq!(floats, 0, "constants are stored as they came");
    }
    #[test]
    fn what_is_not_known_stays() {
        let own = model("g (float16[2] x) => (float16[2] y) { y = own.Op (x) }");
        assert!(widened(&own).unwrap_err().contains("own:Op"));
    }
    #[test]
    fn what_half_precision_would_change_stays_wide() {
        let mut g = Graph::new("g");
        let numbers = |x: f32| Tensor::from_vec([WORTH], vec![x; WORTH]);
        let [exact, other] = [0.5, 0.1].map(|x| g.add_initializer("c", numbers(x)));
        let sum = g.add_node(Op::new("Add", ""), &[exact, other], "sum", None);
        g.outputs.push(sum);
        narrow(&mut g);
        assert!(g.initializer(exact).is_none() && g.initializer(other).is_some());
    }
}
