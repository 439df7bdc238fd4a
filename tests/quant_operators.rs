//! Operators that read and write integers (`form=qoperator`), one by one on ONNX Runtime: what they put out is, bit by bit, what
//! the same integers around float operators do.

mod support;

use onnx_compress::{
    ir::{DType, Model, QuantScheme, text},
    lower::{self, schemes::materialize},
    ops::infer_types,
    passes::{Changed, Context, Pipeline, Remark, RemarkKind},
    runtime::{Measurer, Samples, Session, SessionOptions, Synthesis, ValidateOptions, validate},
};
use support::quantized::runtime;

/// A layer, what is between it and another, and the operators that all become, first to last.
struct Case {
    options: &'static str,
    head: &'static str,
    nodes: &'static str,
    becomes: &'static [&'static str],
}

/// Between two convolutions of 8 channels.
const PLANES: &str = "(float[2, 8, 8, 8] x) => (float[2, C, H, W] y)";
/// Between two products of 32 columns.
const ROWS: &str = "(float[2, 6, 32] x) => (float[2, N, M] y)";

const Q: &str = "QuantizeLinear";
const DQ: &str = "DequantizeLinear";
const CONV: &str = "QLinearConv";
const MATMUL: &str = "QLinearMatMul";
const FLOATS: &str = "MatMulIntegerToFloat";

/// What stands between convolutions.
const fn planes(nodes: &'static str, becomes: &'static [&'static str]) -> Case {
    Case { options: "", head: PLANES, nodes, becomes }
}

/// What stands between products.
const fn rows(nodes: &'static str, becomes: &'static [&'static str]) -> Case {
    Case { options: "", head: ROWS, nodes, becomes }
}

const CASES: &[Case] = &[
    planes("r = Relu (a)", &[Q, CONV, CONV, DQ]),
    Case { options: ",repair=none", ..planes("r = Conv (a, square)", &[Q, CONV, CONV, CONV, DQ]) },
    Case { options: ",per_channel=false", ..planes("r = Relu (a)", &[Q, CONV, CONV, DQ]) },
    Case { options: ",activation_type=int8", ..planes("r = Relu (a)", &[Q, CONV, CONV, DQ]) },
    Case { options: ",reduce_range=true", ..planes("r = Clip (a, low, high)", &[Q, CONV, CONV, DQ]) },
    planes("r = Conv <group = 4, pads = [1, 1, 1, 1]> (a, grouped)", &[Q, CONV, CONV, CONV, DQ]),
    planes("r = Conv <group = 8, dilations = [2, 2]> (a, deep, bias)", &[Q, CONV, CONV, CONV, DQ]),
    planes("r = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (a, wide)", &[Q, CONV, CONV, CONV, DQ]),
    planes("b = Sigmoid (a) r = Add (a, b)", &[Q, CONV, "QLinearSigmoid", "QLinearAdd", CONV, DQ]),
    planes(
        "b = LeakyRelu <alpha = 0.1> (a) r = Mul (a, b)",
        &[Q, CONV, "QLinearLeakyRelu", "QLinearMul", CONV, DQ],
    ),
    planes("r = GlobalAveragePool (a)", &[Q, CONV, "QLinearGlobalAveragePool", CONV, DQ]),
    planes("b = Relu (a) r = Concat <axis = 2> (b, b)", &[Q, CONV, "QLinearConcat", CONV, DQ]),
    planes(
        "b = Conv (a, square) c = Sigmoid (a) d = Concat <axis = 1> (b, c) r = Conv (d, double)",
        &[Q, CONV, CONV, "QLinearSigmoid", "QLinearConcat", CONV, CONV, DQ],
    ),
    // What joins values by broadcasting, and a value with itself.
    planes(
        "b = GlobalAveragePool (a) r = Mul (a, b)",
        &[Q, CONV, "QLinearGlobalAveragePool", "QLinearMul", CONV, DQ],
    ),
    planes("r = Add (a, a)", &[Q, CONV, "QLinearAdd", CONV, DQ]),
    planes("r = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)", &[Q, CONV, "MaxPool", CONV, DQ]),
    planes(
        "r = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], dilations = [1, 1]> (a)",
        &[Q, CONV, "MaxPool", CONV, DQ],
    ),
    Case {
        options: ",activation_type=int8",
        ..planes("r = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (a)", &[Q, CONV, "MaxPool", CONV, DQ])
    },
    planes("r = Transpose <perm = [0, 1, 3, 2]> (a)", &[Q, CONV, "Transpose", CONV, DQ]),
    planes("r = Reshape (a, flat)", &[Q, CONV, "Reshape", CONV, DQ]),
    planes("b = Unsqueeze (a, two) r = Squeeze (b, two)", &[Q, CONV, "Unsqueeze", "Squeeze", CONV, DQ]),
    planes("r = Slice (a, one, four, two)", &[Q, CONV, "Slice", CONV, DQ]),
    planes("r = Gather <axis = 2> (a, picked)", &[Q, CONV, "Gather", CONV, DQ]),
    planes("r = GatherElements <axis = 2> (a, elements)", &[Q, CONV, "GatherElements", CONV, DQ]),
    planes("r = Tile (a, times)", &[Q, CONV, "Tile", CONV, DQ]),
    planes(
        "b = GlobalAveragePool (a) r = Expand (b, square_shape)",
        &[Q, CONV, "QLinearGlobalAveragePool", "Expand", CONV, DQ],
    ),
    planes(
        "r = Resize <mode = \"nearest\", coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (a, , twice)",
        &[Q, CONV, "Resize", CONV, DQ],
    ),
    planes(
        "b = DepthToSpace <blocksize = 2> (a) c = Concat <axis = 1> (b, b) r = Concat <axis = 1> (c, c)",
        &[Q, CONV, "DepthToSpace", "QLinearConcat", "QLinearConcat", CONV, DQ],
    ),
    planes("b, c = Split <axis = 2> (a, halves) r = Add (b, c)", &[Q, CONV, "Split", "QLinearAdd", CONV, DQ]),
    planes("r = HardSwish (a)", &[Q, CONV, Q, "QLinearMul", CONV, DQ]),
    planes("r = HardSigmoid (a)", &[Q, CONV, Q, CONV, DQ]),
    rows("r = Relu (a)", &[Q, MATMUL, FLOATS]),
    Case { options: ",per_channel=false", ..rows("r = Relu (a)", &[Q, MATMUL, FLOATS]) },
    Case { options: ",activation_type=int8", ..rows("r = Relu (a)", &[Q, MATMUL, FLOATS]) },
    rows("b = Reshape (a, rows) r = Gemm (b, across, bias2)", &[Q, MATMUL, "Reshape", "QGemm", FLOATS]),
    Case {
        head: "(float[6, 32] x) => (float[6, 32] y)",
        ..rows("r = Gemm <transB = 1, alpha = 0.5> (a, across)", &[Q, MATMUL, "QGemm", FLOATS])
    },
    Case {
        head: "(float[2, 8, 8, 8] x) => (float[2, 40] y)",
        ..planes(
            "b = GlobalAveragePool (a) c = Flatten (b) y = Gemm <transB = 1> (c, last, bias40)",
            &[Q, CONV, "QLinearGlobalAveragePool", "Flatten", "QGemm"],
        )
    },
];

/// The model of a case. A last layer follows unless the case has it.
fn model(case: &Case) -> Model {
    let planes = case.head.contains("8, 8, 8");
    let (first, last) = match planes {
        true => ("[first] a = Conv <pads = [1, 1, 1, 1]> (x, wide, bias)", "[final] y = Conv (r, square)"),
        false => ("[first] a = MatMul (x, square2)", "[final] y = MatMul (r, slim)"),
    };
    let last = if case.nodes.contains("y =") { "" } else { last };
    let source = format!(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        case {}
        <float[8, 8, 3, 3] wide, float[8] bias, float[8, 8, 1, 1] square, float[8, 16, 1, 1] double,
         float[8, 2, 3, 3] grouped, float[8, 1, 3, 3] deep, float[32, 32] square2, float[32, 32] across, float[32, 24] slim, float[32] bias2,
         float[40, 8] last, float[40] bias40, float low = {{0.0}}, float high = {{0.5}},
         int64[4] flat = {{2, 8, 16, 4}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}},
         int64[3] picked = {{3, 0, 7}}, int64[4] times = {{1, 1, 2, 1}}, int64[4] square_shape = {{2, 8, 3, 3}},
         float[4] twice = {{1.0, 1.0, 2.0, 2.0}}, int64[2] halves = {{4, 4}}, int64[2] rows = {{12, 32}},
         int64[2, 8, 1, 8] elements = {{{}}}>
        {{ {first} {} {last} }}"#,
        case.head,
        (0..128).map(|k| (k * 5 % 6).to_string()).collect::<Vec<_>>().join(", "),
        case.nodes,
    );
    let mut model = text::parse(&source).unwrap_or_else(|e| panic!("{}: {e}", case.nodes));
    infer_types(&mut model).unwrap();
    model
}

fn samples(model: &Model) -> Samples {
    let synthesis = Synthesis { batches: 4, ..Synthesis::default() };
    let made_up = Samples::synthesize(&runtime(), model, &synthesis).unwrap();
    Samples::from_batches(made_up.batches().iter().cloned())
}

/// The model with integers in this form, its schemes not yet written, and what was said.
fn annotated(original: &Model, samples: &Samples, form: &str, options: &str) -> (Model, Vec<Remark>) {
    let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
    let mut cx = Context::new().with_measure(&measurer);
    let pass: Pipeline = format!("quant(latency=any,noise=any,form={form}{options})").parse().unwrap();
    let mut model = original.clone();
    assert_eq!(pass.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    (model, cx.remarks)
}

fn operators(model: &Model) -> Vec<&str> {
    let g = &model.graph;
    let computes = |op: &&str| *op != DQ;
    let all = g.order().into_iter().map(|op| g.op(op).op_type.as_str());
    let last = g.outputs.iter().filter_map(|y| g.producer(*y)).map(|(op, _)| g.op(op).op_type.as_str());
    all.filter(computes).chain(last.filter(|op| *op == DQ)).collect()
}

/// Asserts that two models put out the same bits, near what the original does.
fn same(what: &str, original: &Model, samples: &Samples, [pairs, operators]: [&Model; 2]) {
    let run = |model: &Model| {
        let session = Session::new(&runtime(), model, &SessionOptions::default())
            .unwrap_or_else(|e| panic!("{what}: {e:?}"));
        samples.batches().iter().map(|batch| session.run(batch).unwrap()).collect::<Vec<_>>()
    };
    assert!(run(pairs) == run(operators), "{what}: other bits");
    let result = validate(&runtime(), original, operators, samples, &ValidateOptions::default()).unwrap();
    let sqnr = result.outputs[0].sqnr_db.unwrap();
    assert!(sqnr > 25.0, "{what}: {sqnr} dB");
}

#[test]
fn each_operator_computes_what_floats_between_pairs_do() {
    for case in CASES {
        let (original, what) = (model(case), format!("{}{}", case.nodes, case.options));
        let samples = samples(&original);
        let [pairs, written] = ["qdq", "qoperator"].map(|form| {
            let (mut model, _) = annotated(&original, &samples, form, case.options);
            materialize(&mut model).unwrap();
            model.verify().unwrap();
            model
        });
        assert_eq!(operators(&written), case.becomes, "{what}");
        // One behind the output; what stands for HardSigmoid changes the steps.
        let count = |kind: &str| written.graph.ops().filter(|op| written.graph.op(*op).is(kind)).count();
        assert_eq!(count(DQ), count(Q) - 1 + usize::from(case.becomes.last() == Some(&DQ)), "{what}");
        same(&what, &original, &samples, [&pairs, &written]);
    }
}

/// Where nothing is timed means over windows stay float, so they are annotated here.
#[test]
fn means_over_windows_compute_what_floats_between_pairs_do() {
    for (attributes, kind) in [
        ("kernel_shape = [2, 2], strides = [2, 2]", "QLinearAveragePool"),
        ("kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1", "QLinearAveragePool"),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", "QLinearAveragePool"),
    ] {
        let nodes: &'static str = format!("p = AveragePool <{attributes}> (a) r = Sigmoid (p)").leak();
        let case = planes(nodes, &[]);
        let original = model(&case);
        let samples = samples(&original);
        let [pairs, written] = ["qdq", "qoperator"].map(|form| {
            let (mut model, _) = annotated(&original, &samples, form, "");
            let p = model.graph.find("p").unwrap();
            model.graph.value_mut(p).quant = QuantScheme::over(DType::U8, -4.0, 4.0);
            materialize(&mut model).unwrap();
            model
        });
        assert_eq!(operators(&written), [Q, CONV, kind, "QLinearSigmoid", CONV, DQ], "{attributes}");
        same(attributes, &original, &samples, [&pairs, &written]);
    }
}

#[test]
fn layers_without_such_an_operator_are_named() {
    for (table, named) in [
        (r#"{"name":"first","float8":"e4m3fn"}"#, vec!["first"]),
        (r#"{"name":"first","activations":"none"}"#, vec!["first"]),
        (r#"{"name":"first","form":"qdq"}"#, vec![]),
    ] {
        let mut original = model(&planes("r = Conv <group = 4> (a, grouped)", &[]));
        lower::opset::upgrade(&mut original, 21).unwrap();
        let samples = samples(&original);
        let (_, said) = annotated(&original, &samples, "qoperator", &format!(",layers=[{table}]"));
        let notes = said.iter().filter(|r| r.kind == RemarkKind::Note && r.text.contains("form=qoperator"));
        assert_eq!(notes.map(|r| r.at.name()).collect::<Vec<_>>(), named, "{said:?}");
    }
}
