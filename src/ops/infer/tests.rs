//! Graphs of a few ops whose types are known by hand.

use super::*;
use crate::ir::{DType, Op, OpsetImport};

fn model(opset: i64) -> Model {
    let onnx = OpsetImport { version: opset, ..OpsetImport::default() };
    Model { ir_version: 8, opsets: vec![onnx], ..Model::default() }
}
fn dims(text: &[&str]) -> Vec<Dim> {
    text.iter()
        .map(|t| t.parse().map_or_else(|_| if *t == "?" { Dim::Unknown } else { Dim::from(*t) }, Dim::Known))
        .collect()
}
fn input(m: &mut Model, shape: &[&str]) -> ValueId {
    m.graph.add_input("x", Type::tensor(DType::F32, dims(shape)))
}
fn ints(m: &mut Model, v: &[i64]) -> ValueId {
    m.graph.add_initializer("c", Tensor::ints(v.iter().copied()))
}
fn node(m: &mut Model, op: Op, inputs: &[ValueId]) -> ValueId {
    m.graph.add_node(op, inputs, "v", None)
}
fn shown(m: &Model, v: ValueId) -> String {
    let dims: Vec<String> = m.graph.shape(v).expect("a rank").iter().map(Dim::to_string).collect();
    dims.join(",")
}

/// The inferred types of all outputs of a model in text form, each as `dtype[dim,dim]`.
fn inferred(text: &str) -> Vec<String> {
    let header = "<ir_version: 10, opset_import: [\"\" : 21, \"ai.onnx.ml\" : 3, \"com.microsoft\" : 1]>";
    let mut m = crate::ir::text::parse(&format!("{header}\nm {text}")).expect("a valid model");
    infer_types(&mut m).unwrap();
    let outputs = m.graph.outputs.iter();
    outputs.map(|v| format!("{}[{}]", m.graph.dtype(*v).expect("a dtype"), shown(&m, *v))).collect()
}

#[test]
fn classic_machine_learning() {
    let one = |x: &str, op: &str| inferred(&format!("({x} x) => (a) {{ a = ai.onnx.ml.{op} (x) }}"));
    let trees = "(float[N, 4] x) => (a, b) { a, b = ai.onnx.ml.TreeEnsembleClassifier \
                 <classlabels_strings = [\"p\", \"q\", \"r\"]> (x) }";
    assert_eq!(inferred(trees), ["string[N]", "float[N,3]"]);
    let machine =
        "(float[N, 4] x) => (a, b) { a, b = ai.onnx.ml.SVMClassifier <classlabels_ints = [3, 5]> (x) }";
    assert_eq!(inferred(machine), ["int64[N]", "float[N,?]"]);
    assert_eq!(one("double[4]", "LinearRegressor <targets = 2>"), ["float[1,2]"]);
    let places = "LabelEncoder <classes_strings = [\"p\", \"q\"]>";
    assert_eq!(one("string[N]", places), ["int64[N]"]);
    assert_eq!(one("int64[N]", places), ["string[N]"]);
    assert_eq!(one("int64[N, 2]", "OneHotEncoder <cats_int64s = [3, 5, 8]>"), ["float[N,2,3]"]);
}

#[test]
fn elements_of_sequences_keep_what_they_share() {
    let text = "(float[N, 3] x, float[M, 3] y, int64 k) => (one, all, new) {
        s = SequenceConstruct (x, y)
        one = SequenceAt (s, k)
        all = ConcatFromSequence <axis = 0> (s)
        new = ConcatFromSequence <axis = -1, new_axis = 1> (s)
    }";
    assert_eq!(inferred(text), ["float[?,3]", "float[?,3]", "float[?,3,?]"]);
}

#[test]
fn shape_arithmetic_reaches_reshape() {
    let mut m = model(17);
    let x = input(&mut m, &["batch", "seq", "768"]);
    let shape = node(&mut m, Op::new("Shape", ""), &[x]);
    let (zero, one) = (ints(&mut m, &[0]), ints(&mut m, &[1]));
    let b = node(&mut m, Op::new("Gather", ""), &[shape, zero]);
    let s = node(&mut m, Op::new("Gather", ""), &[shape, one]);
    let rest = ints(&mut m, &[12, 64]);
    let target = node(&mut m, Op::new("Concat", "").with("axis", 0i64), &[b, s, rest]);
    let heads = node(&mut m, Op::new("Reshape", ""), &[x, target]);
    let flat = ints(&mut m, &[-1, 768]);
    let rows = node(&mut m, Op::new("Reshape", ""), &[heads, flat]);
    assert_eq!(infer_types(&mut m).unwrap(), []);
    assert_eq!(shown(&m, heads), "batch,seq,12,64");
    assert_eq!(shown(&m, rows), "batch*seq,768");
    assert_eq!(m.graph.dtype(target), Some(DType::I64));
}

#[test]
fn unnamed_dimensions_cancel_but_are_not_named() {
    let mut m = model(17);
    let x = input(&mut m, &["?", "12", "64"]);
    let target = ints(&mut m, &[0, -1]);
    let y = node(&mut m, Op::new("Reshape", ""), &[x, target]);
    infer_types(&mut m).unwrap();
    assert_eq!(shown(&m, y), "?,768");
}

#[test]
fn windows_of_any_rank() {
    let mut m = model(17);
    let x = input(&mut m, &["n", "3", "w", "9", "10"]);
    let weight = Tensor::from_vec([8, 3, 3, 3, 3], vec![0f32; 8 * 81]);
    let w = m.graph.add_initializer("w", weight);
    let conv = Op::new("Conv", "").with("pads", vec![1i64, 1, 1, 1, 1, 1]).with("strides", vec![1i64, 2, 2]);
    let y = node(&mut m, conv, &[x, w]);
    let pool =
        Op::new("MaxPool", "").with("kernel_shape", vec![1i64, 2, 2]).with("strides", vec![1i64, 2, 3]);
    let z = node(&mut m, pool.with("ceil_mode", 1i64), &[y]);
    infer_types(&mut m).unwrap();
    assert_eq!(shown(&m, y), "n,8,w,5,5");
    assert_eq!(shown(&m, z), "n,8,w,3,2");
}

#[test]
fn inferred_wins_inside_and_contradictions_are_told() {
    let mut m = model(17);
    let x = input(&mut m, &["2", "3"]);
    let y = node(&mut m, Op::new("Relu", ""), &[x]);
    m.graph.value_mut(y).ty = Some(Type::tensor(DType::F32, dims(&["2", "4"])));
    let z = node(&mut m, Op::new("Custom", "").in_domain("x"), &[y]);
    m.graph.value_mut(z).ty = Some(Type::tensor(DType::F16, dims(&["7"])));
    let conflicts = infer_types(&mut m).unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(shown(&m, y), "2,3");
    assert_eq!(shown(&m, z), "7", "what is not known is taken as declared");
}

#[test]
fn known_values_are_given_for_folding() {
    let mut m = model(17);
    let x = input(&mut m, &["2", "n"]);
    let shape = node(&mut m, Op::new("Shape", "").with("end", 1i64), &[x]);
    let all = node(&mut m, Op::new("Shape", ""), &[x]);
    let found = infer(&mut m).unwrap();
    assert_eq!(found.known.values.get(&shape), Some(&Tensor::ints([2])));
    assert_eq!(found.known.values.get(&all), None);
}

#[test]
fn branches_agree_or_stay_unknown() {
    let mut m = model(17);
    let x = input(&mut m, &["n", "4"]);
    let cond = m.graph.add_input("cond", Type::tensor(DType::Bool, []));
    let branch = |m: &Model, op: &str| {
        let mut body = m.graph.new_body(op);
        let captured = body.named_value("x");
        body.value_mut(captured).origin = Origin::Captured;
        let y = body.add_node(Op::new(op, ""), &[captured], "y", None);
        body.outputs.push(y);
        body
    };
    let op = Op::new("If", "")
        .with("then_branch", branch(&m, "Relu"))
        .with("else_branch", branch(&m, "Transpose"));
    let y = node(&mut m, op, &[cond]);
    let _ = x;
    infer_types(&mut m).unwrap();
    assert_eq!(shown(&m, y), "?,?");
    assert_eq!(m.graph.dtype(y), Some(DType::F32));
}

#[test]
fn symbolic_sizes_flow_through_shape_arithmetic() {
    let halves = "(float[n, 3, h, w] x, float[8, 3, 3, 3] k) => (c, p, r) {
        c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, k)
        p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (c)
        s = Constant <value_floats = [1.0, 1.0, 1.5, 0.5]> ()
        r = Resize (x, , s)
    }";
    let (h, w) = ("floor((h + 1)/2)", "floor((w + 1)/2)");
    let c = format!("float[n,8,{h},{w}]");
    assert_eq!(inferred(halves)[0], c);
    assert_eq!(inferred(halves)[1], format!("float[n,8,floor(({h})/2),floor(({w})/2)]"));
    assert_eq!(inferred(halves)[2], "float[n,3,floor((3*h)/2),floor((w)/2)]");
    let cuts = "(float[b, s, 8] x) => (all, head, tail, most, flat, heads, twice) <int64[1] zero = {0},
        int64[1] one = {1}, int64[1] five = {5}, int64[1] end = {9223372036854775807}, int64[1] last = {-1},
        int64[2] two = {-1, 8}> {
        all = Slice (x, zero, end, one)
        head = Slice (x, zero, five, one)
        tail = Slice (x, one, end, one)
        most = Slice (x, zero, last, one)
        flat = Reshape (x, two)
        shape = Shape (x)
        length = Gather (shape, one)
        parts = Constant <value_ints = [2, 4]> ()
        target = Concat <axis = 0> (last, length, parts)
        heads = Reshape (flat, target)
        twice = Concat <axis = 1> (x, tail)
    }";
    let expected = [
        "float[b,s,8]",
        "float[b,s - max(s - 5, 0),8]",
        "float[b,max(s - 1, 0),8]",
        "float[b,max(s - 1, 0),8]",
        "float[b*s,8]",
        "float[b,s,2,4]",
        "float[b,s + max(s - 1, 0),8]",
    ];
    assert_eq!(inferred(cuts), expected);
}

#[test]
fn positions_of_a_sentence_reach_its_embedding() {
    let text =
        "(int64[b, s] ids, float[99, 8] words, float[1, 512, 8] places) => (y, mask, steps) <int64 one = {1},
        int64 zero = {0}, int64[1] at = {0}, int64[1] axis = {1}> {
        e = Gather (words, ids)
        shape = Shape (ids)
        s = Gather (shape, axis)
        p = Slice (places, at, s, axis)
        y = Add (e, p)
        minus = Constant <value_ints = [-1, -1]> ()
        same = Equal (shape, minus)
        rank = Constant <value_ints = [2]> ()
        ones = ConstantOfShape <value = int64[1] {1}> (rank)
        target = Where (same, ones, shape)
        m = ConstantOfShape (target)
        mask = Expand (m, shape)
        length = Gather (shape, one)
        steps = Range (zero, length, one)
    }";
    assert_eq!(inferred(text), ["float[b,s,8]", "float[b,s]", "int64[s]"]);
}

#[test]
fn what_is_declared_inside_is_no_fact() {
    let mut m = model(17);
    let x = input(&mut m, &["2", "n"]);
    let found = node(&mut m, Op::new("NonZero", ""), &[x]);
    m.graph.value_mut(found).ty = Some(Type::tensor(DType::I64, dims(&["2", "5"])));
    let shape = node(&mut m, Op::new("Shape", ""), &[found]);
    let known = infer(&mut m).unwrap().known;
    assert_eq!(shown(&m, found), "2,?", "how many there are is not for the file to say");
    assert_eq!(known.values.get(&shape), None);
}
