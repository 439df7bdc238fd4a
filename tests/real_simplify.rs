//! Simplified models compute what they did: on the zoo, the pretrained models and the conformance set, on ONNX Runtime.

mod support;

use onnx_compress::{
    Result,
    ir::{DType, Dim, Model, Tensor},
    lower,
    measure::{Batch, Measure},
    ops::{infer_types, moments::Estimates},
    passes::{
        Changed, Context, Named, Pass,
        simplify::{Simplify, SimplifyOptions},
    },
    runtime::{Optimize, Runtime, Session, SessionOptions},
};
use rayon::prelude::*;
use std::{collections::HashMap, fs, path::Path};

/// How far a float may be off, relative to the largest of its output.
const TOLERANCE: f32 = 1e-5;

/// The same against outputs that another implementation computed: what the conformance set's own judge allows.
const PUBLISHED_TOLERANCE: f32 = 1e-3;

/// Runs models as they are, so that differences are ours.
struct OnRuntime(Runtime);

impl OnRuntime {
    fn new() -> Self {
        let folder = support::setup_dir().join("ort");
        OnRuntime(Runtime::find(Some(&folder)).expect("set-up fetched the library: `cargo xtask setup`"))
    }
    fn outputs(&self, model: &[u8], batch: &Batch) -> Result<Batch> {
        self.rewritten(model, batch, Optimize::Off)
    }
    fn rewritten(&self, model: &[u8], batch: &Batch, optimize: Optimize) -> Result<Batch> {
        let options = SessionOptions { threads: Some(1), optimize, ..SessionOptions::default() };
        Session::from_bytes(&self.0, model, &options)?.run(batch)
    }
}

impl Measure for OnRuntime {
    fn run(&self, model: &Model, batch: &Batch, fetch: &[String]) -> Result<Vec<Tensor>> {
        let found: HashMap<String, Tensor> =
            self.outputs(&lower::to_bytes(model)?, batch)?.into_iter().collect();
        Ok(fetch.iter().map(|name| found[name].clone()).collect())
    }
}

/// Why two results differ: floats by more than `tolerance` of the largest, anything else at all.
fn difference(got: &Batch, wanted: &Batch, tolerance: f32) -> Option<String> {
    if got.len() != wanted.len() {
        return Some(format!("{} outputs instead of {}", got.len(), wanted.len()));
    }
    got.iter().zip(wanted).find_map(|((name, a), (expected, b))| {
        if name != expected || (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
            return Some(format!("{name} {:?} instead of {expected} {:?}", a.ty(), b.ty()));
        }
        let (Some(x), Some(y)) = (a.to_f32(), b.to_f32()) else {
            return (a != b).then(|| format!("{name} differs"));
        };
        let largest = y.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
        // Half-precision results are rounded to 11 bits whatever was done before.
        let tolerance = if a.dtype() == DType::F32 || a.dtype() == DType::F64 { tolerance } else { 2e-3 };
        let bound = tolerance * largest.max(1e-3);
        let off = |(p, q): (&f32, &f32)| !(p == q || p.is_nan() && q.is_nan() || (p - q).abs() <= bound);
        let at = x.iter().zip(&*y).position(off)?;
        Some(format!("{name}[{at}] is {} instead of {}, largest {largest}", x[at], y[at]))
    })
}

/// The largest difference of any float output, relative to the largest value of that output.
fn largest_difference(a: &Batch, b: &Batch) -> f32 {
    let largest = |v: &mut dyn Iterator<Item = f32>| v.fold(0f32, |m, x| m.max(x.abs()));
    let pairs = a.iter().zip(b).filter_map(|((_, a), (_, b))| Some((a.to_f32()?, b.to_f32()?)));
    let relative = pairs.map(|(a, b)| {
        largest(&mut a.iter().zip(&*b).map(|(x, y)| x - y)) / largest(&mut b.iter().copied()).max(1e-3)
    });
    relative.fold(0.0, f32::max)
}

/// Simplifies a model, and checks what holds for any: it stays valid, does not grow, and is done after one run.
fn simplify(
    mut model: Model,
    pass: &Simplify,
    runtime: &OnRuntime,
) -> std::result::Result<(Model, usize, usize), String> {
    let before = ops(&model);
    let mut cx = Context::new().with_measure(runtime);
    let _changed = pass.run(&mut model, &mut cx).map_err(|e| e.to_string())?;
    model.verify().map_err(|e| e.to_string())?;
    let after = ops(&model);
    if after > before {
        return Err(format!("{before} ops became {after}"));
    }
    let bytes = lower::to_bytes(&model).map_err(|e| e.to_string())?;
    let again = pass.run(&mut model, &mut cx).map_err(|e| e.to_string())?;
    if again == Changed::Yes || lower::to_bytes(&model).map_err(|e| e.to_string())? != bytes {
        return Err(format!("a second run changes it: {:?}", cx.counts));
    }
    Ok((model, before, after))
}

/// Ops in all graphs but those of functions.
fn ops(model: &Model) -> usize {
    let mut n = 0;
    model.graph.for_each_nested(&mut |g| n += g.ops().count());
    n
}

/// Inputs that a model of the corpus accepts: open dimensions are 1 (batch) or what its architecture divides.
fn inputs(model: &Model) -> Batch {
    let g = &model.graph;
    let open: Vec<_> = g.inputs.iter().copied().filter(|v| g.initializer(*v).is_none()).collect();
    open.into_iter()
        .map(|v| {
            let (name, ty) = (g.name_of(v).to_owned(), g.tensor_type(v).unwrap());
            let recurrent = g.inputs.iter().any(|v| ["state", "h"].contains(&g.name_of(*v)));
            let shape: Vec<usize> = ty
                .shape
                .unwrap()
                .iter()
                .enumerate()
                .map(|(k, d)| match d {
                    Dim::Known(n) => *n,
                    _ if name == "state" || k == 0 => 1,
                    _ if recurrent => 576,
                    _ if k == 1 && name == "audio" => 4096,
                    _ if k == 1 => 16,
                    // Text recognition and classification, which leave the height unnamed, take lines of 48.
                    Dim::Symbol(name) if name.starts_with("p2o") => 192,
                    _ if k == 2 => 48,
                    _ => 192,
                })
                .collect();
            let n = shape.iter().product();
            // A fixed sequence of varied values in [0, 1).
            let wave = (0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0);
            let tensor = match (ty.dtype.unwrap(), name.as_str()) {
                (DType::I64, "sr") => Tensor::from_vec(shape, vec![16000i64; n]),
                (DType::I64, "attention_mask") => Tensor::from_vec(shape, vec![1i64; n]),
                (DType::I64, _) => Tensor::from_vec(shape, wave.map(|x| (x * 900.0) as i64).collect()),
                (_, "fmin") => Tensor::from_vec(shape, vec![46.875f32; n]),
                (_, "fmax") => Tensor::from_vec(shape, vec![2093.75f32; n]),
                (dtype, _) => {
                    Tensor::from_f32(dtype, shape, wave.collect()).expect("inputs are float or int64")
                }
            };
            (name, tensor)
        })
        .collect()
}

/// Simplified models with the number of ops left, or why one is wrong.
fn simplified_models(pass: &Simplify, opset: i64) -> Vec<(String, std::result::Result<usize, String>)> {
    let runtime = OnRuntime::new();
    let models: Vec<_> = support::zoo_models().into_iter().chain(support::corpus()).collect();
    models
        .par_iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let loaded = || {
                let mut model = lower::load(path)?;
                let _types = infer_types(&mut model)?;
                lower::opset::upgrade(&mut model, opset).map(|()| model)
            };
            let raised = loaded().map_err(|e| e.to_string());
            let simplified = raised.and_then(|model| simplify(model, pass, &runtime));
            let checked = simplified.and_then(|(model, _, after)| {
                let batch = inputs(&lower::load(path).map_err(|e| e.to_string())?);
                let original = fs::read(path).unwrap();
                let run = |bytes: &[u8]| runtime.outputs(bytes, &batch).map_err(|e| e.to_string());
                let wanted = run(&original).map_err(|e| format!("the original: {e}"))?;
                let got = run(&lower::to_bytes(&model).unwrap())?;
                let Some(why) = difference(&got, &wanted, TOLERANCE) else { return Ok(after) };
                // Folding BatchNormalization rounds each weight once; a deep network can amplify that beyond the
                // tolerance. ONNX Runtime folds it too when it loads a model: then its own error is the bar.
                let own = runtime.rewritten(&original, &batch, Optimize::Basic).map_err(|e| e.to_string())?;
                let bar = 1.1 * largest_difference(&own, &wanted);
                difference(&got, &wanted, bar).map_or(Ok(after), |_| Err(why))
            });
            (name, checked)
        })
        .collect()
}

/// Checks that no model failed, and that of these so many ops are left.
fn check_counts(results: &[(String, std::result::Result<usize, String>)], expected: &[(&str, usize)]) {
    let table: Vec<_> = results.iter().map(|(name, r)| format!("{name}: {r:?}")).collect();
    let failed = results.iter().filter(|(_, r)| r.is_err()).count();
    assert_eq!(failed, 0, "failed\n{}", table.join("\n"));
    for (model, ops) in expected {
        let found = results.iter().find(|(name, _)| name == model).expect("a model of the zoo");
        assert_eq!(found.1, Ok(*ops), "{model}\n{}", table.join("\n"));
    }
}

#[test]
fn real_models_compute_the_same_with_fewer_ops() {
    let results = simplified_models(&Simplify::default(), 0);
    let expected = [("resnet20.onnx", 52), ("resnet20_raw.onnx", 52), ("simplecnn.onnx", 11)];
    check_counts(&results, &[&expected[..], &[("lstm.onnx", 7), ("vit.onnx", 126)]].concat());
}

#[test]
fn recognized_operators_compute_the_same() {
    // Every operator that is recognized is in this set.
    let results = simplified_models(&recognizing(), 23);
    check_counts(&results, &[("vit_op13.onnx", 94), ("vit.onnx", 94)]);
}

fn recognizing() -> Simplify {
    Simplify::new(SimplifyOptions { recognize: true, ..SimplifyOptions::default() }).expect("valid options")
}

/// The tensor of a `.pb` file under a name; `None` where it holds another kind of value.
fn tensor(path: &Path, name: &str) -> Option<(String, Tensor)> {
    let (_, tensor) = lower::tensor_from_proto(fs::read(path).ok()?.into()).ok()?;
    Some((name.to_owned(), tensor))
}

#[test]
fn the_conformance_set_computes_the_same() {
    conformance(&Simplify::default());
}

#[test]
fn the_conformance_set_computes_the_same_with_operators_recognized() {
    conformance(&recognizing());
}

fn conformance(pass: &Simplify) {
    let runtime = OnRuntime::new();
    let tests: Vec<_> = support::conformance().into_iter().filter(|t| t.runs).collect();
    let results: Vec<_> = tests
        .par_iter()
        .map(|test| {
            let original = lower::load(&test.model).map_err(|e| format!("{}: {e}", test.name))?;
            let (model, ..) =
                simplify(original.clone(), pass, &runtime).map_err(|e| format!("{}: {e}", test.name))?;
            let bytes = lower::to_bytes(&model).unwrap();
            let mut compared = 0;
            for folder in &test.data_sets {
                let g = &original.graph;
                let fed = g
                    .inputs
                    .iter()
                    .enumerate()
                    .map(|(k, v)| tensor(&folder.join(format!("input_{k}.pb")), g.name_of(*v)));
                let Some(batch) = fed.collect::<Option<Batch>>() else { continue };
                let Ok(wanted) = runtime.outputs(&fs::read(&test.model).unwrap(), &batch) else { continue };
                let got = runtime.outputs(&bytes, &batch).map_err(|e| format!("{}: {e}", test.name))?;
                if let Some(why) = difference(&got, &wanted, TOLERANCE) {
                    return Err(format!("{}: {why}", test.name));
                }
                let named = got.iter().enumerate();
                let published =
                    named.map(|(k, (name, _))| tensor(&folder.join(format!("output_{k}.pb")), name));
                let published =
                    published.collect::<Option<Batch>>().ok_or("an expected output is missing")?;
                if let Some(why) = difference(&got, &published, PUBLISHED_TOLERANCE) {
                    return Err(format!("{} against the published outputs: {why}", test.name));
                }
                compared += 1;
            }
            Ok(compared)
        })
        .collect();
    let failed: Vec<_> =
        results.iter().filter_map(|r: &std::result::Result<usize, String>| r.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {}:\n{failed:#?}", failed.len(), tests.len());
    let compared: usize = results.iter().flatten().sum();
    assert!(compared > 1000, "only {compared} data sets could be compared");
}

#[test]
fn what_batch_normalization_tells_is_known_of_every_later_layer() {
    let mut model = lower::load(&support::zoo("resnet20_raw")).unwrap();
    let _ = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
    let _ = infer_types(&mut model).unwrap();
    let (g, estimates) = (&model.graph, Estimates::of(&model.graph));
    let read: Vec<_> = g.ops().filter(|op| g.op(*op).is("Conv")).filter_map(|op| g.input(op, 0)).collect();
    let unknown: Vec<_> = read.iter().filter(|x| estimates.get(**x).is_none()).collect();
    assert_eq!(unknown, [&g.inputs[0]], "all but the input itself");
}
