//! Expected values by hand, most of them the awkward cases: negative axes, clamping, empty results, mixed signs.

use super::evaluate;
use crate::ir::{Attr, DType, Op, Tensor};

fn op(name: &str) -> Op {
    Op::new(name, "")
}
fn run(op: &Op, inputs: &[&Tensor]) -> Option<Tensor> {
    let inputs: Vec<_> = inputs.iter().map(|t| Some(*t)).collect();
    evaluate(op, 18, &inputs, 1).map(|mut v| v.remove(0))
}
fn ints(v: &[i64]) -> Tensor {
    Tensor::ints(v.iter().copied())
}
fn matrix() -> Tensor {
    Tensor::from_vec([2, 3], vec![0i64, 1, 2, 3, 4, 5])
}
fn bools(v: &[bool]) -> Tensor {
    Tensor::new(DType::Bool, [v.len()], v.iter().map(|b| u8::from(*b)).collect::<Vec<_>>()).unwrap()
}

#[test]
fn constants_in_every_form() {
    assert_eq!(run(&op("Constant").with("value_int", 7i64), &[]), Some(Tensor::scalar(7i64)));
    assert_eq!(run(&op("Constant").with("value_ints", vec![1i64, 2]), &[]), Some(ints(&[1, 2])));
    assert_eq!(run(&op("Constant").with("value_float", 0.5f32), &[]), Some(Tensor::scalar(0.5f32)));
    let floats = Attr::Floats(vec![1.0, 2.0]);
    assert_eq!(
        run(&op("Constant").with("value_floats", floats), &[]),
        Some(Tensor::from_vec([2], vec![1f32, 2.0]))
    );
    assert_eq!(run(&op("Constant").with("value", matrix()), &[]), Some(matrix()));
    assert_eq!(run(&op("Constant").with("value_string", "a"), &[]).unwrap().as_strings().unwrap()[0], "a");
    assert_eq!(run(&op("Constant"), &[]), None);
}

#[test]
fn shapes_and_sizes() {
    let t = Tensor::from_vec([2, 3, 4], vec![0f32; 24]);
    assert_eq!(run(&op("Shape"), &[&t]), Some(ints(&[2, 3, 4])));
    assert_eq!(run(&op("Shape").with("start", -2i64).with("end", -1i64), &[&t]), Some(ints(&[3])));
    assert_eq!(run(&op("Size"), &[&t]), Some(Tensor::scalar(24i64)));
    assert_eq!(run(&op("Reshape"), &[&t, &ints(&[0, -1])]).unwrap().shape(), [2, 12]);
    assert_eq!(run(&op("Reshape"), &[&t, &ints(&[5, -1])]), None, "24 elements are no multiple of 5");
    assert_eq!(run(&op("Flatten").with("axis", -1i64), &[&t]).unwrap().shape(), [6, 4]);
    assert_eq!(run(&op("Unsqueeze"), &[&t, &ints(&[-1, 0])]).unwrap().shape(), [1, 2, 3, 4, 1]);
    let u = t.reshaped([1, 24, 1]);
    assert_eq!(run(&op("Squeeze"), &[&u]).unwrap().shape(), [24]);
    assert_eq!(run(&op("Squeeze"), &[&u, &ints(&[-1])]).unwrap().shape(), [1, 24]);
    assert_eq!(run(&op("Squeeze").with("axes", vec![1i64]), &[&u]), None, "24 is not 1");
}

#[test]
fn elements_move() {
    let m = matrix();
    assert_eq!(run(&op("Transpose"), &[&m]), Some(Tensor::from_vec([3, 2], vec![0i64, 3, 1, 4, 2, 5])));
    let gather = |axis: i64, k: &Tensor| run(&op("Gather").with("axis", axis), &[&m, k]);
    assert_eq!(gather(-1, &Tensor::scalar(-1i64)), Some(ints(&[2, 5])));
    assert_eq!(gather(0, &ints(&[1, 0])), Some(Tensor::from_vec([2, 3], vec![3i64, 4, 5, 0, 1, 2])));
    assert_eq!(gather(0, &ints(&[2])), None, "out of range");
    assert_eq!(
        run(&op("Concat").with("axis", -1i64), &[&m, &m]).unwrap().view::<i64>().unwrap()[..6],
        [0, 1, 2, 0, 1, 2]
    );
    assert_eq!(
        run(&op("Expand"), &[&ints(&[1, 2]), &ints(&[2, 1])]),
        Some(Tensor::from_vec([2, 2], vec![1i64, 2, 1, 2]))
    );
    assert_eq!(run(&op("Tile"), &[&ints(&[1, 2]), &ints(&[2])]), Some(ints(&[1, 2, 1, 2])));
    let halves = evaluate(&op("Split").with("axis", -1i64), 18, &[Some(&m)], 2).unwrap();
    assert_eq!(halves[1], Tensor::from_vec([2, 1], vec![2i64, 5]), "the last part takes what is left");
    let filled = op("ConstantOfShape").with("value", ints(&[9]));
    assert_eq!(run(&filled, &[&ints(&[2])]), Some(ints(&[9, 9])));
    let empty = ints(&[]);
    assert_eq!(run(&filled, &[&empty]), Some(Tensor::scalar(9i64)));
    assert_eq!(
        run(&op("Where"), &[&bools(&[true, false]), &ints(&[1, 2]), &Tensor::scalar(0i64)]),
        Some(ints(&[1, 0]))
    );
}

#[test]
fn slices_clamp_and_reverse() {
    let v = ints(&[0, 1, 2, 3, 4]);
    let slice = |s: i64, e: i64, step: i64| {
        run(&op("Slice"), &[&v, &ints(&[s]), &ints(&[e]), &ints(&[-1]), &ints(&[step])])
    };
    assert_eq!(slice(1, i64::MAX, 2), Some(ints(&[1, 3])));
    assert_eq!(slice(-2, 100, 1), Some(ints(&[3, 4])));
    assert_eq!(slice(-1, i64::MIN, -2), Some(ints(&[4, 2, 0])));
    assert_eq!(slice(3, 3, 1), Some(ints(&[])));
    assert_eq!(slice(0, 1, 0), None);
    let old = op("Slice").with("starts", vec![1i64]).with("ends", vec![-1i64]);
    assert_eq!(run(&old, &[&v]), Some(ints(&[1, 2, 3])));
}

#[test]
fn arithmetic_is_onnxs() {
    let (a, b) = (ints(&[7, -7]), ints(&[2]));
    assert_eq!(run(&op("Div"), &[&a, &b]), Some(ints(&[3, -3])), "integers round towards zero");
    assert_eq!(run(&op("Mod"), &[&a, &b]), Some(ints(&[1, 1])), "the sign is the divisor's");
    assert_eq!(run(&op("Mod").with("fmod", 1i64), &[&a, &b]), Some(ints(&[1, -1])));
    assert_eq!(run(&op("Div"), &[&a, &ints(&[0])]), None);
    let wrap = |x: i32| Tensor::scalar(x);
    assert_eq!(run(&op("Add"), &[&wrap(i32::MAX), &wrap(1)]), Some(wrap(i32::MIN)));
    assert_eq!(run(&op("Max"), &[&a, &b, &ints(&[3])]), Some(ints(&[7, 3])));
    assert_eq!(run(&op("Less"), &[&a, &b]), Some(bools(&[false, true])));
    assert_eq!(run(&op("Not"), &[&bools(&[true])]), Some(bools(&[false])));
    assert_eq!(run(&op("Or"), &[&bools(&[true, false]), &bools(&[false])]), Some(bools(&[true, false])));
    assert_eq!(run(&op("Sqrt"), &[&Tensor::scalar(2f32)]), Some(Tensor::scalar(2f32.sqrt())));
    assert_eq!(run(&op("Floor"), &[&Tensor::scalar(-0.5f32)]), Some(Tensor::scalar(-1f32)));
    assert_eq!(
        evaluate(&op("Add"), 6, &[Some(&a), Some(&b)], 1),
        None,
        "broadcasting was another thing then"
    );
}

#[test]
fn casts_ranges_and_reductions() {
    let to = |d: DType| op("Cast").with("to", i64::from(d.onnx()));
    assert_eq!(run(&to(DType::I64), &[&Tensor::scalar(-1.9f32)]), Some(Tensor::scalar(-1i64)));
    assert_eq!(run(&to(DType::I64), &[&Tensor::scalar(f32::NAN)]), None);
    assert_eq!(
        run(&to(DType::Bool), &[&Tensor::from_vec([2], vec![0.5f32, 0.0])]),
        Some(bools(&[true, false]))
    );
    assert_eq!(run(&to(DType::U8), &[&Tensor::scalar(-1i64)]), Some(Tensor::scalar(255u8)));
    let range = |s, l, d| run(&op("Range"), &[&Tensor::scalar(s), &Tensor::scalar(l), &Tensor::scalar(d)]);
    assert_eq!(range(1i64, 6, 2), Some(ints(&[1, 3, 5])));
    assert_eq!(range(5, 0, -2), Some(ints(&[5, 3, 1])));
    assert_eq!(range(0, -1, 1), Some(ints(&[])));
    let m = matrix();
    assert_eq!(run(&op("ReduceSum").with("keepdims", 0i64), &[&m, &ints(&[-1])]), Some(ints(&[3, 12])));
    assert_eq!(run(&op("ReduceProd").with("keepdims", 0i64), &[&ints(&[2, 3])]), Some(Tensor::scalar(6i64)));
    assert_eq!(
        run(&op("ReduceMax").with("axes", vec![0i64]), &[&m]),
        Some(Tensor::from_vec([1, 3], vec![3i64, 4, 5]))
    );
    assert_eq!(
        run(&op("NonZero"), &[&m]),
        Some(Tensor::from_vec([2, 5], vec![0i64, 0, 1, 1, 1, 1, 2, 0, 1, 2]))
    );
}
