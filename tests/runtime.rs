//! The runtime against real models: the library, sessions, samples, measuring and validation.

mod support;

use npyz::WriterBuilder;
use onnx_compress::{
    Error,
    ir::{DType, Model, Origin, Tensor},
    lower,
    measure::{Measure, Measured, Need, Stat},
    runtime::{
        Measurer, Provider, Runtime, Samples, Session, SessionOptions, Synthesis, Tolerance, ValidateOptions,
        read_labels, validate,
    },
};
use std::{fs, path::Path, process::Command};
use support::{conformance, corpus, light, setup_dir, zoo, zoo_data, zoo_models};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

fn load(path: &Path) -> Model {
    lower::load(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn measurer(model: &Model, limit: usize) -> Measurer {
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), model, 8, Some(limit)).unwrap();
    Measurer::new(runtime(), samples, SessionOptions::default())
}

#[test]
fn the_library_tells_what_it_is() {
    let runtime = runtime();
    assert!(runtime.version().starts_with("1.31"), "{runtime:?}");
    assert_eq!(Runtime::find(None).unwrap().path(), runtime.path(), "a process has one library");
    let wrong = Runtime::find(Some(Path::new("no/such/folder"))).unwrap_err().to_string();
    assert!(wrong.contains("no/such/folder") && wrong.contains("pip install onnxruntime"), "{wrong}");
}

#[test]
fn an_explicit_path_wins_over_the_environment() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "the_library_tells_what_it_is"])
        .env("ORT_DYLIB_PATH", "no/such/library.so")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn cuda_that_is_not_there_is_an_error_with_the_fix() {
    let options = SessionOptions { provider: Provider::Cuda, ..SessionOptions::default() };
    let why = Session::new(&runtime(), &load(&zoo("simplecnn")), &options).unwrap_err().to_string();
    assert!(why.contains("onnxruntime-gpu") && why.contains("--provider cpu"), "{why}");
}

#[test]
fn every_real_model_runs_on_synthesized_inputs() {
    let runtime = runtime();
    for path in zoo_models().into_iter().chain(corpus()).chain(light().into_iter().take(1)) {
        let model = load(&path);
        let what = Synthesis { batches: 2, ..Synthesis::default() };
        let samples = Samples::synthesize(&runtime, &model, &what)
            .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert!(samples.is_synthetic() && samples.batches().len() == 2);
        assert_ne!(samples.batches()[0], samples.batches()[1], "{}: batches differ", path.display());
    }
}

#[test]
fn free_dimensions_are_settable_and_checked() {
    let model = load(&zoo("resnet20"));
    let with = |name: &str| Synthesis { dims: vec![(name.into(), 5)], ..Synthesis::default() };
    let samples = Samples::synthesize(&runtime(), &model, &with("batch")).unwrap();
    assert_eq!(samples.batches()[0][0].1.shape(), [5, 1, 28, 28]);
    let again = Samples::synthesize(&runtime(), &model, &with("batch")).unwrap();
    assert_eq!(samples.batches(), again.batches(), "seeded");
    let speech = load(&support::model("silero-vad/silero_vad_half.onnx"));
    let samples = Samples::synthesize(&runtime(), &speech, &Synthesis::default()).unwrap();
    assert_eq!(samples.batches()[0][0].1.shape(), [1, 576], "sound is at least a frame");
    let why = Samples::synthesize(&runtime(), &model, &with("height")).unwrap_err().to_string();
    assert!(why.contains("`height`") && why.contains("batch"), "{why}");
}

#[test]
fn identical_models_agree_and_are_as_accurate_as_trained() {
    let model = load(&zoo("resnet20"));
    let samples = Samples::load(&zoo_data("zoo_test.npz"), &model, 250, None).unwrap();
    let labels = samples.labels_of(&read_labels(&zoo_data("zoo_test.npz")).unwrap()).unwrap();
    assert_eq!((samples.len(), samples.batches().len(), labels.len()), (2000, 8, 2000));
    let options =
        ValidateOptions { labels: Some(labels), latency: true, threads: Some(1), ..Default::default() };
    let result = validate(&runtime(), &model, &model, &samples, &options).unwrap();
    let output = &result.outputs[0];
    assert_eq!((output.sqnr_db, output.max_abs, output.cosine), (None, 0.0, 1.0));
    assert_eq!((output.top1_agreement, result.passed()), (Some(1.0), true));
    let accuracy = result.accuracy.unwrap();
    assert!((0.92..0.94).contains(&accuracy.original) && accuracy.original == accuracy.compressed);
    let latency = result.latency.unwrap();
    assert!(
        latency.runs >= 10
            && latency.original.p50_ms > 0.0
            && latency.original.p95_ms >= latency.original.p50_ms
    );
    let json = serde_json::to_value(&result).unwrap();
    assert!(json["outputs"][0]["sqnr_db"].is_null() && json["provider"] == "cpu");
}

#[test]
fn a_perturbed_bias_shows_as_exactly_that_error() {
    let original = load(&zoo("resnet20"));
    let samples = Samples::load(&zoo_data("zoo_test.npz"), &original, 50, Some(100)).unwrap();
    let mut changed = original.clone();
    let graph = &mut changed.graph;
    let (bias, values) = graph
        .initializers()
        .find(|(_, t)| t.shape() == [10])
        .map(|(v, t)| (v, t.to_f32().unwrap().into_owned()))
        .expect("the last layer has a bias of ten classes");
    let mut values = values;
    values[3] += 0.5;
    graph.value_mut(bias).origin = Origin::Initializer(Tensor::from_vec([10], values));
    let run = |tolerance| {
        let options = ValidateOptions { tolerance, ..Default::default() };
        validate(&runtime(), &original, &changed, &samples, &options).unwrap()
    };
    let result = run(Tolerance::default());
    let output = &result.outputs[0];
    assert!((output.max_abs - 0.5).abs() < 1e-5 && (output.mean_abs - 0.05).abs() < 1e-5, "{output:?}");
    assert!(output.sqnr_db.is_some_and(f64::is_finite) && result.passed());
    let strict = run(Tolerance { max_abs: Some(0.1), ..Tolerance::default() });
    assert!(!strict.passed() && strict.failures[0].contains("largest difference"), "{:?}", strict.failures);
}

#[test]
fn models_with_other_outputs_are_not_comparable() {
    let (model, other) = (load(&zoo("resnet20")), load(&zoo("resnet20")));
    let mut other = other;
    let output = other.graph.outputs[0];
    other.graph.rename(output, "something_else");
    let samples = Samples::load(&zoo_data("zoo_test.npz"), &model, 4, Some(4)).unwrap();
    let why = validate(&runtime(), &model, &other, &samples, &ValidateOptions::default()).unwrap_err();
    assert!(matches!(why, Error::Usage { .. }) && why.to_string().contains("only the original has"), "{why}");
}

#[test]
fn ranges_equal_those_of_the_fetched_values() {
    for name in ["resnet20", "resnet20_op13", "resnet20_dynamo21", "resnet20_fp16", "vit_raw", "lstm_raw"] {
        let model = load(&zoo(name));
        let measurer = measurer(&model, 24);
        assert!(measurer.has_samples() && measurer.samples().batches().len() == 3);
        // Some computed values with at least two axes, spread over the graph.
        let order = model.graph.order();
        let first = &measurer.samples().batches()[0];
        let names: Vec<String> = order
            .iter()
            .step_by(order.len() / 6 + 1)
            .filter_map(|op| Some(model.graph.name_of(model.graph.output(*op, 0)?).to_owned()))
            .collect();
        let probe = measurer.run(&model, first, &names).unwrap();
        let usable: Vec<String> = names
            .into_iter()
            .zip(&probe)
            .filter(|(_, t)| t.rank() >= 2 && t.to_f32().is_some() && !t.is_empty())
            .map(|(name, _)| name)
            .collect();
        assert!(usable.len() >= 2, "{name}: {usable:?}");
        let needs: Vec<Need> = usable
            .iter()
            .flat_map(|value| {
                [None, Some(1)].map(|axis| Need { value: value.clone(), stat: Stat::Range { axis } })
            })
            .collect();
        let stats = measurer.measure(&model, &needs).unwrap();
        assert_eq!(stats.0, measurer.measure(&model, &needs).unwrap().0, "cached");
        for need in &needs {
            let Stat::Range { axis } = need.stat;
            let mut expected: Vec<(f32, f32)> = Vec::new();
            for batch in measurer.samples().batches() {
                let found = measurer.run(&model, batch, std::slice::from_ref(&need.value)).unwrap();
                let (shape, data) = (found[0].shape(), found[0].to_f32().unwrap());
                let (extent, inner) = match axis {
                    Some(axis) => (shape[axis], shape[axis + 1..].iter().product()),
                    None => (1, data.len()),
                };
                expected.resize(extent, (f32::INFINITY, f32::NEG_INFINITY));
                for (k, x) in data.iter().enumerate() {
                    let (low, high) = &mut expected[k / inner % extent];
                    (*low, *high) = (low.min(*x), high.max(*x));
                }
            }
            let Measured::Range { min, max } = &stats.0[need];
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * (1.0 + b.abs());
            assert_eq!(min.len(), expected.len(), "{name} {need:?}");
            for ((low, high), (a, b)) in expected.iter().zip(min.iter().zip(max)) {
                assert!(
                    close(*a, *low) && close(*b, *high),
                    "{name} {need:?}: {a}..{b}, expected {low}..{high}"
                );
            }
        }
    }
}

#[test]
fn the_layers_of_every_real_model_can_be_measured() {
    let runtime = runtime();
    for path in corpus() {
        let model = load(&path);
        let samples = Samples::synthesize(&runtime, &model, &Synthesis::default()).unwrap();
        let measurer = Measurer::new(runtime.clone(), samples, SessionOptions::default());
        let graph = &model.graph;
        let layers =
            graph.ops().filter(|op| ["Conv", "MatMul", "Gemm"].iter().any(|kind| graph.op(*op).is(kind)));
        let values = layers.flat_map(|op| [graph.input(op, 0), graph.output(op, 0)]).flatten();
        let needs: Vec<Need> = values
            .flat_map(|v| [None, Some(1)].map(|axis| (graph.name_of(v).to_owned(), axis)))
            .map(|(value, axis)| Need { value, stat: Stat::Range { axis } })
            .collect();
        let stats =
            measurer.measure(&model, &needs).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        for need in &needs {
            let Measured::Range { min, max } = &stats.0[need];
            let ordered = min.iter().zip(max).all(|(low, high)| low <= high);
            assert!(!min.is_empty() && ordered, "{}: {need:?}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_measured_says_why() {
    let model = load(&zoo("simplecnn"));
    let measurer = measurer(&model, 8);
    let need = |value: &str, axis| [Need { value: value.into(), stat: Stat::Range { axis } }];
    let why = measurer.measure(&model, &need("nowhere", None)).unwrap_err().to_string();
    assert!(why.contains("nowhere"), "{why}");
    let why = measurer.measure(&model, &need("image", Some(7))).unwrap_err().to_string();
    assert!(why.contains("4 axes"), "{why}");
    let none = Measurer::new(runtime(), Samples::default(), SessionOptions::default());
    assert!(!none.has_samples() && none.measure(&model, &need("image", None)).is_err());
}

fn write_npz(path: &Path, arrays: &[(&str, &[u64])]) {
    let mut writer = npyz::npz::NpzWriter::create(path).unwrap();
    for (key, shape) in arrays {
        let count = shape.iter().product::<u64>();
        let array = writer.array(key, Default::default()).unwrap().default_dtype().shape(shape);
        let mut array = array.begin_nd().unwrap();
        array.extend((0..count).map(|k| k as f32)).unwrap();
        array.finish().unwrap();
    }
}

#[test]
fn labels_follow_the_samples_taken() {
    let model = load(&zoo("resnet20"));
    let labels = read_labels(&zoo_data("zoo_test.npz")).unwrap();
    let some = Samples::load(&zoo_data("zoo_test.npz"), &model, 64, Some(200)).unwrap();
    let picked = some.labels_of(&labels).unwrap();
    assert_eq!((picked.len(), picked[7]), (200, labels[70]));
    let options = ValidateOptions { labels: Some(picked), batches: Some(3), ..Default::default() };
    let accuracy = validate(&runtime(), &model, &model, &some, &options).unwrap().accuracy.unwrap();
    assert!(accuracy.samples == 192 && accuracy.original > 0.85, "{accuracy:?}");
    let why = some.labels_of(&labels[1..]).unwrap_err().to_string();
    assert!(why.contains("1999 labels") && why.contains("2000 samples"), "{why}");
}

#[test]
fn a_file_with_external_data_runs_like_the_model_in_memory() {
    let runtime = runtime();
    let model = load(&zoo("resnet20"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("split.onnx");
    let how = lower::SaveOptions { external_data: lower::ExternalData::Always };
    lower::save(&model, &path, &how).unwrap();
    let options = SessionOptions::default();
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), &model, 4, Some(4)).unwrap();
    let of_file = Session::from_file(&runtime, &path, &options).unwrap().run(&samples.batches()[0]).unwrap();
    assert_eq!(
        of_file,
        Session::new(&runtime, &model, &options).unwrap().run(&samples.batches()[0]).unwrap()
    );
}

#[test]
fn data_that_does_not_fit_is_refused_with_key_and_expectation() {
    let model = load(&zoo("resnet20"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let check = |arrays: &[(&str, &[u64])], said: &[&str]| {
        write_npz(&path, arrays);
        let why = Samples::load(&path, &model, 8, None).unwrap_err();
        let text = why.to_string();
        assert!(matches!(why, Error::Usage { .. }) && said.iter().all(|word| text.contains(word)), "{text}");
    };
    check(&[("picture", &[2, 1, 28, 28])], &["no data for input `image`", "picture"]);
    check(&[("image", &[2, 1, 28, 28]), ("extra", &[2])], &["`extra`", "the inputs are image"]);
    check(&[("image", &[2, 1, 27, 28])], &["`image`", "[2, 1, 27, 28]", "28, 28]"]);
    check(&[("image", &[2, 28])], &["`image`", "[2, 28]"]);
    let absent = Samples::load(Path::new("no.npz"), &model, 8, None).unwrap_err().to_string();
    assert!(absent.contains("there is no no.npz"), "{absent}");
}

#[test]
fn a_subset_is_spread_over_the_data_and_files_of_a_folder_follow_each_other() {
    let model = load(&zoo("resnet20"));
    let folder = tempfile::tempdir().unwrap();
    write_npz(&folder.path().join("a.npz"), &[("image", &[6, 1, 28, 28])]);
    write_npz(&folder.path().join("b.npz"), &[("image", &[2, 1, 28, 28])]);
    let all = Samples::load(folder.path(), &model, 4, None).unwrap();
    let sizes = |s: &Samples| s.batches().iter().map(|b| b[0].1.shape()[0]).collect::<Vec<_>>();
    assert_eq!((sizes(&all), all.len()), (vec![4, 2, 2], 8));
    let some = Samples::load(folder.path(), &model, 4, Some(4)).unwrap();
    let firsts: Vec<f32> = some
        .batches()
        .iter()
        .flat_map(|b| b[0].1.to_f32().unwrap().chunks(784).map(|row| row[0] / 784.0).collect::<Vec<_>>())
        .collect();
    assert_eq!(firsts, [0.0, 2.0, 4.0, 0.0], "rows 0, 2, 4 of the first file and 0 of the second");
}

#[test]
fn onnx_test_data_runs_and_gives_what_it_expects() {
    let runtime = runtime();
    let tests = ["node/test_abs", "node/test_and2d", "node/test_gather_0", "node/test_matmul_3d"];
    let all = conformance();
    for name in tests {
        let test =
            all.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no conformance test {name}"));
        let model = load(&test.model);
        let samples = Samples::load(test.model.parent().unwrap(), &model, 1, None).unwrap();
        assert_eq!(samples.batches().len(), test.data_sets.len(), "{name}");
        let session = Session::new(&runtime, &model, &SessionOptions::default()).unwrap();
        for (batch, folder) in samples.batches().iter().zip(&test.data_sets) {
            let bytes = fs::read(folder.join("output_0.pb")).unwrap();
            let (_, expected) = lower::tensor_from_proto(bytes.into()).unwrap();
            let found = session.run(batch).unwrap().remove(0).1;
            assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{name}");
            match (found.to_f32(), expected.to_f32()) {
                (Some(a), Some(b)) => {
                    let close = a.iter().zip(b.iter()).all(|(a, b)| (a - b).abs() < 1e-4);
                    assert!(close, "{name}");
                }
                _ => assert_eq!(found, expected, "{name}"),
            }
        }
    }
}

#[test]
fn element_types_go_in_and_out_unchanged() {
    let runtime = runtime();
    let all =
        [DType::F16, DType::BF16, DType::F64, DType::I8, DType::U16, DType::U64, DType::Bool, DType::String];
    for dtype in all {
        let mut model = Model { ir_version: 8, ..Model::default() };
        model.require_domain("", 17);
        let ty = onnx_compress::ir::Type::tensor(dtype, ["n".into()]);
        let x = model.graph.add_input("x", ty.clone());
        let y = model.graph.add_node(onnx_compress::ir::Op::new("Identity", "same"), &[x], "y", Some(ty));
        model.graph.name = "identity".into();
        model.graph.outputs.push(y);
        let tensor = match dtype {
            DType::String => Tensor::strings([2], vec!["a".into(), "ß".into()]).unwrap(),
            _ => Tensor::new(dtype, [2], vec![1u8; 2 * dtype.bits() / 8]).unwrap(),
        };
        let session = Session::new(&runtime, &model, &SessionOptions::default()).unwrap();
        assert_eq!(
            session.run(&vec![("x".into(), tensor.clone())]).unwrap(),
            [("y".into(), tensor)],
            "{dtype}"
        );
    }
}
