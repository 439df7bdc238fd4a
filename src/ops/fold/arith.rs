//! Operators that compute: elementwise arithmetic, comparisons, casts and reductions on small tensors.

use super::{
    Call,
    index::{axes, broadcast, broadcast_strides, count, strides, walk},
    numbers::Numbers,
};
use crate::ir::{DType, Tensor};

/// Elements that are worth computing here; larger work belongs to the runtime.
const MOST_ELEMENTS: usize = 1 << 16;

/// Elementwise with broadcasting, on two inputs of one type.
fn elementwise(
    a: &Tensor,
    b: &Tensor,
    out: DType,
    int: impl Fn(i128, i128) -> Option<i128>,
    float: impl Fn(f64, f64) -> Option<f64>,
) -> Option<Tensor> {
    let shape = broadcast(&[a.shape(), b.shape()])?;
    (a.dtype() == b.dtype() && count(&shape)? <= MOST_ELEMENTS).then_some(())?;
    let read = |t: &Tensor| walk(shape.clone(), broadcast_strides(t.shape(), &shape), 0);
    let pairs = read(a).zip(read(b));
    let numbers = match (Numbers::of(a)?, Numbers::of(b)?) {
        (Numbers::Ints(x), Numbers::Ints(y)) => {
            Numbers::Ints(pairs.map(|(i, j)| int(x[i], y[j])).collect::<Option<_>>()?)
        }
        (Numbers::Floats(x), Numbers::Floats(y)) => {
            let z: Vec<f64> = pairs.map(|(i, j)| float(x[i], y[j])).collect::<Option<_>>()?;
            match out {
                DType::Bool => Numbers::Ints(z.into_iter().map(|x| i128::from(x != 0.0)).collect()),
                _ => Numbers::Floats(z),
            }
        }
        _ => return None,
    };
    numbers.tensor(out, shape)
}

/// The operators of before opset 7 broadcast by attributes; those are left alone.
fn two<'a>(c: &Call<'a>) -> Option<(&'a Tensor, &'a Tensor)> {
    (c.opset >= 7).then_some((c.input(0)?, c.input(1)?))
}

fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

pub(super) fn binary(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let (a, b) = two(c)?;
    let d = a.dtype();
    let fmod = c.op.int("fmod") == Some(1);
    let out = match &*c.op.op_type {
        "Add" => elementwise(a, b, d, |x, y| x.checked_add(y), |x, y| Some(x + y)),
        "Sub" => elementwise(a, b, d, |x, y| x.checked_sub(y), |x, y| Some(x - y)),
        "Mul" => elementwise(a, b, d, |x, y| x.checked_mul(y), |x, y| Some(x * y)),
        "Div" => elementwise(a, b, d, |x, y| x.checked_div(y), |x, y| Some(x / y)),
        "Mod" => {
            let int = |x: i128, y: i128| {
                let r = x.checked_rem(y)?;
                Some(if !fmod && r != 0 && (r < 0) != (y < 0) { r + y } else { r })
            };
            elementwise(a, b, d, int, |x, y| fmod.then_some(x % y))
        }
        _ => None,
    };
    Some(vec![out?])
}

pub(super) fn compare(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let (a, b) = two(c)?;
    macro_rules! cmp {
        ($op:tt) => {
            elementwise(a, b, DType::Bool, |x, y| Some(i128::from(x $op y)), |x, y| Some(f64::from(u8::from(x $op y))))
        };
    }
    let logic = |f: fn(bool, bool) -> bool| {
        let both = a.dtype() == DType::Bool && b.dtype() == DType::Bool;
        both.then(|| elementwise(a, b, DType::Bool, |x, y| Some(i128::from(f(x != 0, y != 0))), |_, _| None))?
    };
    let out = match &*c.op.op_type {
        "Equal" => cmp!(==),
        "Less" => cmp!(<),
        "LessOrEqual" => cmp!(<=),
        "Greater" => cmp!(>),
        "GreaterOrEqual" => cmp!(>=),
        "And" => logic(|x, y| x && y),
        "Or" => logic(|x, y| x || y),
        "Xor" => logic(|x, y| x != y),
        _ => None,
    };
    Some(vec![out?])
}

/// Min and Max of any number of inputs.
pub(super) fn extreme(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let max = c.op.op_type == "Max";
    let mut out = c.input(0)?.clone();
    (out.len() <= MOST_ELEMENTS && Numbers::of(&out).is_some()).then_some(())?;
    for k in 1..c.inputs.len() {
        let b = c.input(k)?;
        out = elementwise(
            &out,
            b,
            b.dtype(),
            |x, y| Some(if max { x.max(y) } else { x.min(y) }),
            |x, y| Some(if max { larger(x, y) } else { smaller(x, y) }),
        )?;
    }
    (c.opset >= 8 || c.inputs.len() == 1).then_some(vec![out])
}

pub(super) fn unary(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    (t.len() <= MOST_ELEMENTS).then_some(())?;
    let kind = &*c.op.op_type;
    let numbers = match Numbers::of(t)? {
        Numbers::Ints(v) => {
            let f = |x: i128| match kind {
                "Neg" if t.dtype() != DType::Bool => Some(-x),
                "Abs" if t.dtype() != DType::Bool => Some(x.abs()),
                "Not" if t.dtype() == DType::Bool => Some(1 - x),
                _ => None,
            };
            Numbers::Ints(v.into_iter().map(f).collect::<Option<_>>()?)
        }
        Numbers::Floats(v) => {
            let f: fn(f64) -> f64 = match kind {
                "Neg" => |x| -x,
                "Abs" => f64::abs,
                "Floor" => f64::floor,
                "Ceil" => f64::ceil,
                "Sqrt" => f64::sqrt,
                _ => return None,
            };
            Numbers::Floats(v.into_iter().map(f).collect())
        }
    };
    Some(vec![numbers.tensor(t.dtype(), t.shape().to_vec())?])
}

fn convert(t: &Tensor, to: DType) -> Option<Tensor> {
    if to == t.dtype() {
        return Some(t.clone());
    }
    (t.len() <= MOST_ELEMENTS).then_some(())?;
    let (lowest, highest) = match to {
        _ if !to.is_integer() => (0.0, 0.0),
        _ if matches!(to, DType::U8 | DType::U16 | DType::U32 | DType::U64) => {
            (0.0, 2f64.powi(to.bits() as i32))
        }
        _ => (-(2f64.powi(to.bits() as i32 - 1)), 2f64.powi(to.bits() as i32 - 1)),
    };
    let numbers = match Numbers::of(t)? {
        Numbers::Floats(v) if to == DType::Bool => {
            Numbers::Ints(v.into_iter().map(|x| i128::from(x != 0.0)).collect())
        }
        Numbers::Floats(v) if to.is_integer() => {
            // Outside the target's range the result depends on the machine: not ours to fix.
            let whole = |x: f64| (x.trunc() >= lowest && x.trunc() < highest).then_some(x.trunc() as i128);
            Numbers::Ints(v.into_iter().map(whole).collect::<Option<_>>()?)
        }
        other => other,
    };
    numbers.tensor(to, t.shape().to_vec())
}

pub(super) fn cast(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let to = match &*c.op.op_type {
        "CastLike" => c.input(1)?.dtype(),
        _ => DType::from_onnx(i32::try_from(c.op.int("to")?).ok()?)?,
    };
    Some(vec![convert(c.input(0)?, to)?])
}

pub(super) fn range(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let (start, limit, delta) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let one = |t: &Tensor| Numbers::of(t).filter(|v| v.len() == 1);
    let numbers = match (one(start)?, one(limit)?, one(delta)?) {
        (Numbers::Ints(s), Numbers::Ints(l), Numbers::Ints(d)) => {
            let (s, l, d) = (s[0], l[0], d[0]);
            let (span, step) = if d < 0 { (s - l, -d) } else { (l - s, d) };
            let n = (span + step - 1).checked_div_euclid(step)?.max(0);
            let n = usize::try_from(n).ok().filter(|n| *n <= MOST_ELEMENTS)?;
            Numbers::Ints((0..n).map(|k| s + d * k as i128).collect())
        }
        (Numbers::Floats(s), Numbers::Floats(l), Numbers::Floats(d)) => {
            let n = ((l[0] - s[0]) / d[0]).ceil().max(0.0);
            (d[0] != 0.0 && n <= MOST_ELEMENTS as f64).then_some(())?;
            Numbers::Floats((0..n as usize).map(|k| s[0] + d[0] * k as f64).collect())
        }
        _ => return None,
    };
    let n = numbers.len();
    Some(vec![numbers.tensor(start.dtype(), vec![n])?])
}

/// ReduceSum, ReduceProd, ReduceMin and ReduceMax of integers.
pub(super) fn reduce(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let Numbers::Ints(v) = Numbers::of(t).filter(|n| n.len() <= MOST_ELEMENTS)? else { return None };
    let given = match c.input(1) {
        Some(_) => c.ints("axes", 1)?,
        None => c.op.ints("axes").unwrap_or_default().to_vec(),
    };
    if given.is_empty() && c.op.int("noop_with_empty_axes") == Some(1) {
        return Some(vec![t.clone()]);
    }
    let gone = if given.is_empty() { (0..t.rank()).collect() } else { axes(&given, t.rank())? };
    let keep = c.op.int("keepdims") != Some(0);
    let start = match &*c.op.op_type {
        "ReduceSum" => Some(0),
        "ReduceProd" => Some(1),
        _ => None,
    };
    let (own, inner): (Vec<isize>, Vec<usize>) =
        (strides(t.shape()), gone.iter().map(|a| t.shape()[*a]).collect());
    let outer: Vec<usize> = (0..t.rank()).filter(|a| !gone.contains(a)).collect();
    let steps = |of: &[usize]| of.iter().map(|a| own[*a]).collect::<Vec<_>>();
    let outer_shape: Vec<usize> = outer.iter().map(|a| t.shape()[*a]).collect();
    let mut out = Vec::new();
    for base in walk(outer_shape.clone(), steps(&outer), 0) {
        let mut all = walk(inner.clone(), steps(&gone), base as isize).map(|k| v[k]);
        let first = match start {
            Some(x) => x,
            None => all.next()?,
        };
        out.push(all.try_fold(first, |a, b| match &*c.op.op_type {
            "ReduceSum" => a.checked_add(b),
            "ReduceProd" => a.checked_mul(b),
            "ReduceMin" => Some(a.min(b)),
            "ReduceMax" => Some(a.max(b)),
            _ => None,
        })?);
    }
    let shape = match keep {
        true => (0..t.rank()).map(|a| if gone.contains(&a) { 1 } else { t.shape()[a] }).collect(),
        false => outer_shape,
    };
    Some(vec![Numbers::Ints(out).tensor(t.dtype(), shape)?])
}

pub(super) fn non_zero(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    (t.len() <= MOST_ELEMENTS && t.rank() > 0).then_some(())?;
    let hits: Vec<usize> = match Numbers::of(t)? {
        Numbers::Ints(v) => (0..v.len()).filter(|k| v[*k] != 0).collect(),
        Numbers::Floats(v) => (0..v.len()).filter(|k| v[*k] != 0.0).collect(),
    };
    let mut out = Vec::with_capacity(t.rank() * hits.len());
    for (extent, stride) in t.shape().iter().zip(strides(t.shape())) {
        out.extend(hits.iter().map(|k| (*k as i64 / stride as i64) % *extent as i64));
    }
    Some(vec![Tensor::from_vec([t.rank(), hits.len()], out)])
}
