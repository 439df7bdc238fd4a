//! Following the elements of small integer tensors: what is a number is folded, what is symbolic is moved and computed
//! with as expressions, so that shapes made by Shape, Gather, Concat and arithmetic are known where they are used.

use super::{
    call::Call,
    expr::Expr,
    fact::{Fact, Size, num},
};
use crate::ir::{DType, Tensor};
use crate::ops::fold::{self, index, numbers::Numbers};

/// Elements of an input that is folded during inference; larger constants are left to folding proper.
const MOST_INPUT: usize = 4096;

/// The outputs of an op whose inputs are all known numbers.
pub(super) fn fold(c: &Call<'_>) -> Option<Vec<Fact>> {
    let is_constant = c.op.is("Constant");
    if c.inputs.is_empty() && !is_constant {
        return None;
    }
    let tensors: Vec<Option<Tensor>> = c
        .inputs
        .iter()
        .map(|input| match input {
            Some(fact) => tensor(fact).filter(|t| t.len() <= MOST_INPUT).map(Some),
            None => Some(None),
        })
        .collect::<Option<_>>()?;
    let inputs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let out = fold::evaluate(c.op, c.opset, &inputs, c.outputs)?;
    // Larger results are known by shape and type alone, or every inference would compute them anew.
    (is_constant || out.iter().all(|t| t.len() <= MOST_INPUT))
        .then(|| out.iter().map(Fact::constant).collect())
}

/// The tensor that a fact says a value is.
pub(super) fn tensor(fact: &Fact) -> Option<Tensor> {
    if let Some(t) = &fact.constant {
        return Some(t.clone());
    }
    let numbers = fact.numbers()?.into_iter().map(i128::from).collect();
    Numbers::Ints(numbers).tensor(fact.dtype?, static_shape(fact)?)
}

fn static_shape(fact: &Fact) -> Option<Vec<usize>> {
    fact.shape.as_ref()?.iter().map(|d| usize::try_from(d.as_ref()?.number()?).ok()).collect()
}

/// Shapes and elements of outputs that are made of followed elements.
pub(super) fn follow(c: &Call<'_>) -> Option<Vec<Fact>> {
    let fact = |shape: Vec<usize>, values: Vec<Size>| {
        Fact::with_values(shape.iter().map(|n| super::fact::len(*n)).collect(), Some(values))
    };
    match &*c.op.op_type {
        "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Slice" | "Gather"
        | "Split" | "Expand" | "Tile" => moved(c, 1),
        "Concat" => moved(c, c.inputs.len()),
        "Cast" => {
            let to = DType::from_onnx(i32::try_from(c.op.int("to")?).ok()?)?;
            matches!(to, DType::I32 | DType::I64).then_some(())?;
            let input = c.input(0)?;
            matches!(input.dtype?, DType::I32 | DType::I64)
                .then(|| vec![Fact { dtype: Some(to), constant: None, ..input.clone() }])
        }
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max" | "Equal" | "Less" | "LessOrEqual"
        | "Greater" | "GreaterOrEqual" | "And" | "Or"
            if c.inputs.len() == 2 && c.opset >= 8 =>
        {
            let (a, b) = (c.input(0)?, c.input(1)?);
            let (shape, [x, y]) = aligned([a, b])?;
            Some(vec![fact(shape, x.iter().zip(&y).map(|(x, y)| compute(c, x, y)).collect())])
        }
        "Where" => {
            let (shape, [test, x, y]) = aligned([c.input(0)?, c.input(1)?, c.input(2)?])?;
            let choose = |k: usize| match test[k].as_ref().and_then(Expr::number) {
                Some(0) => y[k].clone(),
                Some(_) => x[k].clone(),
                None => x[k].clone().filter(|_| x[k] == y[k]),
            };
            let values = (0..test.len()).map(choose).collect();
            Some(vec![fact(shape, values)])
        }
        "Neg" | "Abs" | "Not" => {
            let a = c.input(0)?;
            let one = |x: &Size| match &*c.op.op_type {
                "Neg" => x.as_ref()?.mul(&Expr::from(-1)),
                "Not" => Expr::from(1).sub(x.as_ref()?),
                _ => x.clone().filter(Expr::is_natural),
            };
            Some(vec![fact(static_shape(a)?, a.values.as_ref()?.iter().map(one).collect())])
        }
        "ReduceProd" | "ReduceSum" => {
            // Over all elements of a vector, the form in which exporters count elements.
            let a = c.input(0).filter(|a| a.rank() == Some(1))?;
            let axes = c.list("axes", 1).ok()?.unwrap_or_default();
            if !matches!(axes[..], [] | [0] | [-1]) || (axes.is_empty() && c.flag("noop_with_empty_axes")) {
                return None;
            }
            let product = c.op.op_type == "ReduceProd";
            let total = a.values.as_ref()?.iter().try_fold(Expr::from(i64::from(product)), |t, x| {
                if product { t.mul(x.as_ref()?) } else { t.add(x.as_ref()?) }
            });
            let shape = if c.op.int("keepdims") == Some(0) { vec![] } else { vec![1] };
            Some(vec![fact(shape, vec![total])])
        }
        _ => None,
    }
}

/// Movement: the op is run on the positions of the elements instead of on the elements.
fn moved(c: &Call<'_>, data_inputs: usize) -> Option<Vec<Fact>> {
    let mut pool: Vec<Size> = Vec::new();
    let mut tensors: Vec<Option<Tensor>> = Vec::new();
    for (slot, input) in c.inputs.iter().enumerate() {
        tensors.push(match input {
            Some(fact) if slot < data_inputs => {
                let values = fact.values.as_ref()?;
                let start = pool.len() as i64;
                pool.extend(values.iter().cloned());
                let positions: Vec<i64> = (start..pool.len() as i64).collect();
                let shape = static_shape(fact).filter(|s| index::count(s) == Some(positions.len()))?;
                Some(Tensor::from_vec(shape, positions))
            }
            Some(fact) => Some(tensor(fact)?),
            None => None,
        });
    }
    let inputs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let out = fold::evaluate(c.op, c.opset, &inputs, c.outputs)?;
    out.iter()
        .map(|t| {
            let values = t.to_i64()?.iter().map(|k| pool.get(*k as usize).cloned()).collect::<Option<_>>()?;
            let shape = t.shape().iter().map(|n| super::fact::len(*n)).collect();
            Some(Fact::with_values(shape, Some(values)))
        })
        .collect()
}

/// Elements of several tensors, broadcast to their common shape.
fn aligned<const N: usize>(facts: [&Fact; N]) -> Option<(Vec<usize>, [Vec<Size>; N])> {
    let shapes: Vec<Vec<usize>> = facts.iter().map(|f| static_shape(f)).collect::<Option<_>>()?;
    let all = index::broadcast(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    if index::count(&all)? > MOST_INPUT {
        return None;
    }
    let mut out = [const { Vec::new() }; N];
    for k in 0..N {
        let values = facts[k].values.as_ref()?;
        let places = index::walk(all.clone(), index::broadcast_strides(&shapes[k], &all), 0);
        out[k] = places.map(|p| values.get(p).cloned()).collect::<Option<_>>()?;
    }
    Some((all, out))
}

/// One element of an operator on two, where what is known of them tells it.
fn compute(c: &Call<'_>, x: &Size, y: &Size) -> Size {
    let op_type = &*c.op.op_type;
    let number = |x: &Size| x.as_ref()?.number();
    // One side may be enough.
    match (op_type, number(x), number(y)) {
        ("And", Some(0), _) | ("And", _, Some(0)) => return num(0),
        ("And", Some(1), _) | ("Or", Some(0), _) => return y.clone(),
        ("And", _, Some(1)) | ("Or", _, Some(0)) => return x.clone(),
        ("Or", Some(1), _) | ("Or", _, Some(1)) => return num(1),
        _ => {}
    }
    let (x, y) = (x.as_ref()?, y.as_ref()?);
    let less = |x: &Expr, y: &Expr| Some(y.sub(x)?.sub(&Expr::from(1))?.is_natural());
    let at_most = |x: &Expr, y: &Expr| Some(y.sub(x)?.is_natural());
    let decided = |yes: Option<bool>, no: Option<bool>| match (yes?, no?) {
        (true, _) => num(1),
        (_, true) => num(0),
        _ => None,
    };
    match op_type {
        "Add" => x.add(y),
        "Sub" => x.sub(y),
        "Mul" => x.mul(y),
        // ONNX rounds towards zero: the same as down where nothing is negative.
        "Div" if x.is_natural() && y.is_natural() => match y.number() {
            Some(n) => x.floor_div(n),
            None => x.exact_div(y),
        },
        "Mod" if x.is_natural() && y.is_natural() => x.sub(&x.floor_div(y.number()?)?.mul(y)?),
        "Min" => x.smaller(y),
        "Max" => x.larger(y),
        "Equal" => decided(Some(x == y), Some(less(x, y)? || less(y, x)?)),
        "Less" => decided(less(x, y), at_most(y, x)),
        "LessOrEqual" => decided(at_most(x, y), less(y, x)),
        "Greater" => decided(less(y, x), at_most(x, y)),
        "GreaterOrEqual" => decided(at_most(y, x), less(x, y)),
        _ => None,
    }
}
