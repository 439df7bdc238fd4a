//! Sparsity on trained models: what is zero, where, and what it costs.

mod support;

use npyz::WriterBuilder;
use onnx_compress::{
    ir::{Model, Tensor},
    lower,
    passes::{
        Context, Named, Pass, Pipeline,
        sparsify::{Criterion, Sparsify, SparsifyOptions},
    },
    runtime::{Measurer, Runtime, Samples, SessionOptions},
};
use std::collections::BTreeMap;
use support::{oracle::Oracle, zoo, zoo_data};

fn with_images(images: usize, original: &Model, f: impl FnOnce(&mut Model, &mut Context<'_>)) -> Model {
    let runtime = Runtime::find(Some(&support::setup_dir().join("ort"))).unwrap();
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), original, 32, Some(images)).unwrap();
    let measurer = Measurer::new(runtime, samples, SessionOptions::default());
    let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
    f(&mut model, &mut cx);
    model
}
fn run(pipeline: &str, model: &mut Model, cx: &mut Context<'_>) {
    let _ =
        pipeline.parse::<Pipeline>().unwrap().run(model, cx).unwrap_or_else(|e| panic!("{pipeline}: {e}"));
}
/// For each weight of more than one axis which elements are zero.
fn zeros(model: &Model) -> BTreeMap<String, Vec<bool>> {
    let g = &model.graph;
    let weights = g.initializers().filter(|(_, t)| t.rank() > 1);
    let zeros = weights.filter_map(|(v, t)| {
        Some((g.name_of(v).to_owned(), t.to_f32()?.iter().map(|x| *x == 0.0).collect()))
    });
    zeros.collect()
}
fn share(zeros: &BTreeMap<String, Vec<bool>>) -> f64 {
    let all = zeros.values().flatten();
    all.clone().filter(|zero| **zero).count() as f64 / all.count() as f64
}
/// The share of the test images that a model gets right.
fn right(model: &Model) -> f64 {
    let labels = onnx_compress::runtime::read_labels(&zoo_data("zoo_test.npz")).unwrap();
    let samples = Samples::load(&zoo_data("zoo_test.npz"), model, 500, None).unwrap();
    let oracle = Oracle::new();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let classes = samples.batches().iter().flat_map(|batch| {
        let scores = oracle.run(model, batch)[0].1.to_f32().unwrap().into_owned();
        scores.chunks(10).map(best).collect::<Vec<_>>()
    });
    let right =
        classes.zip(&labels).filter(|(class, label)| i64::try_from(*class).unwrap() == **label).count();
    right as f64 / labels.len() as f64
}

#[test]
fn resnet20_keeps_its_accuracy_with_few_weights_when_data_choose() {
    let original = lower::load(&zoo("resnet20")).unwrap();
    let before = right(&original);
    let sparse = with_images(128, &original, |model, cx| run("sparsify(ratio=0.8)", model, cx));
    let found = share(&zeros(&sparse));
    assert!((found - 0.8).abs() < 0.01, "{found} of the weights are zero");
    let after = right(&sparse);
    assert!(after >= before - 0.03, "{before} -> {after}");
    let shapes = |m: &Model| m.graph.initializers().map(|(_, t)| t.ty()).collect::<Vec<_>>();
    assert_eq!(shapes(&sparse)[..shapes(&original).len()], shapes(&original), "shapes stay");
}

#[test]
fn patterns_hold_in_every_run_of_inputs() {
    let original = lower::load(&zoo("resnet20")).unwrap();
    for (pattern, m) in [("2:4", 4), ("4:8", 8)] {
        let text = format!("sparsify(pattern=\"{pattern}\")");
        let mut sparse = original.clone();
        run(&text, &mut sparse, &mut Context::new());
        let mut weights = 0;
        for (_, tensor) in sparse.graph.initializers().filter(|(_, t)| t.rank() == 4 && t.shape()[1] % m == 0)
        {
            let (channels, area) = (tensor.shape()[1], tensor.shape()[2] * tensor.shape()[3]);
            let numbers = tensor.to_f32().unwrap();
            for output in numbers.chunks(channels * area) {
                for (start, at) in (0..channels).step_by(m).flat_map(|c| (0..area).map(move |at| (c, at))) {
                    let zeros = (start..start + m).filter(|c| output[c * area + at] == 0.0).count();
                    assert!(zeros >= m / 2, "{pattern}: {zeros} zeros in a run");
                }
            }
            weights += 1;
        }
        assert_eq!(weights, 20, "all convolutions but the first");
    }
}

#[test]
fn weights_stored_by_their_non_zero_elements_compute_the_same() {
    let original = lower::load(&zoo("resnet20")).unwrap();
    let [dense, sparse] = ["dense", "sparse"].map(|store| {
        let mut model = original.clone();
        run(&format!("sparsify(ratio=0.8,criterion=l1,store={store})"), &mut model, &mut Context::new());
        lower::parse(lower::to_bytes(&model).unwrap().into(), None).unwrap()
    });
    let bytes = |model: &Model| lower::to_bytes(model).unwrap().len();
    assert!(bytes(&sparse) * 10 < bytes(&dense) * 6, "{} of {} bytes", bytes(&sparse), bytes(&dense));
    assert_eq!(Oracle::new().difference(&dense, &sparse), 0.0);
}

#[test]
fn zeros_stay_zeros_when_weights_are_quantized() {
    let quants = ["resnet20", "vit", "lstm"].map(|name| (name, "quant"));
    let few = ["resnet20", "simplecnn"].map(|name| (name, "quant(bits=4)"));
    for (name, quant) in quants.into_iter().chain(few) {
        let mut original = lower::load(&zoo(name)).unwrap();
        if quant.contains("bits") {
            lower::opset::upgrade(&mut original, 21).unwrap();
        }
        let mut before = BTreeMap::new();
        let quantized = with_images(32, &original, |model, cx| {
            run("simplify,sparsify(ratio=0.6,criterion=l1)", model, cx);
            before = zeros(model);
            run(quant, model, cx);
        });
        let g = &quantized.graph;
        let mut weights = 0;
        for (name, zeros) in before {
            let v = g.find(&name).unwrap();
            let Some(scheme) = &g.value(v).quant else { continue };
            let integers = scheme.quantize(g.initializer(v).unwrap()).unwrap();
            let back = scheme.dequantize(&integers).unwrap();
            let back = back.to_f32().unwrap();
            assert!(back.iter().zip(&zeros).all(|(x, zero)| !zero || *x == 0.0), "{name}: {quant}");
            weights += usize::from(zeros.contains(&true));
        }
        assert!(weights >= 2, "{name}: {weights} sparse weights are quantized");
    }
}

#[test]
fn masks_are_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("masks.npz");
    let original = lower::load(&zoo("simplecnn")).unwrap();
    let weight = |m: &Model| m.graph.initializer(m.graph.find("conv1.weight").unwrap()).unwrap().clone();
    let shape: Vec<u64> = weight(&original).shape().iter().map(|n| *n as u64).collect();
    let stays: Vec<u8> = (0..weight(&original).len()).map(|k| u8::from(k % 3 != 0)).collect();
    let write = |name: &str, shape: &[u64]| {
        let mut archive = npyz::npz::NpzWriter::create(&file).unwrap();
        let array = archive.array(name, Default::default()).unwrap();
        let mut array = array.default_dtype().shape(shape).begin_nd().unwrap();
        array.extend(&stays).unwrap();
        array.finish().unwrap();
    };
    let text = format!("sparsify(mask={})", serde_json::json!(file));
    write("conv1.weight", &shape);
    let mut sparse = original.clone();
    run(&text, &mut sparse, &mut Context::new());
    let (old, new) = (weight(&original), weight(&sparse));
    let (old, new) = (old.to_f32().unwrap(), new.to_f32().unwrap());
    for (k, (old, new)) in old.iter().zip(new.iter()).enumerate() {
        assert_eq!(*new, if k % 3 == 0 { 0.0 } else { *old });
    }
    let refused = |text: &str| {
        let pipeline = text.parse::<Pipeline>();
        let error = pipeline.and_then(|p| p.run(&mut original.clone(), &mut Context::new())).unwrap_err();
        (error.exit_code(), error.to_string())
    };
    let (code, why) = refused(&text.replace("mask=", "ratio=0.5,mask="));
    assert!(code == 2 && why.contains("both given"), "{why}");
    let flat = [stays.len() as u64];
    write("conv1.weight", &flat);
    let (code, why) = refused(&text);
    assert!(code == 2 && why.contains("the mask of `conv1.weight` is ["), "{why}");
    write("conv7.weight", &flat);
    let (code, why) = refused(&text);
    assert!(code == 2 && why.contains("`conv7.weight` is no weight"), "{why}");
    assert_eq!(refused("sparsify(mask=nowhere.npz)").0, 1);
}

#[test]
fn masks_of_ones_own_are_followed() {
    let original = lower::load(&zoo("simplecnn")).unwrap();
    let weight = original.graph.initializer(original.graph.find("conv2.weight").unwrap()).unwrap();
    let stays: Vec<u8> = (0..weight.len()).map(|k| u8::from(k % 3 != 0)).collect();
    let masks = || [("conv2.weight".to_owned(), Tensor::from_vec(weight.shape(), stays.clone()))];
    for criterion in [Criterion::L1, Criterion::Sparsegpt] {
        let sparse = with_images(64, &original, |model, cx| {
            let options = SparsifyOptions { criterion, ..SparsifyOptions::default() };
            let pass = Sparsify::new(options).unwrap().with_masks(masks());
            let _ = pass.run(model, cx).unwrap();
        });
        let tensor = |m: &Model| m.graph.initializer(m.graph.find("conv2.weight").unwrap()).unwrap().clone();
        let (old, new) = (tensor(&original), tensor(&sparse));
        let (old, new) = (old.to_f32().unwrap(), new.to_f32().unwrap());
        assert!(new.iter().zip(&stays).all(|(x, stays)| (*x != 0.0) == (*stays == 1)));
        let moved = old.iter().zip(new.iter()).any(|(a, b)| *b != 0.0 && a != b);
        assert_eq!(moved, criterion == Criterion::Sparsegpt, "the weights that stay make up for the others");
        let others =
            |m: &Model| zeros(m).into_iter().filter(|(name, _)| name != "conv2.weight").collect::<Vec<_>>();
        assert_eq!(others(&original), others(&sparse));
    }
    let pass = |name: &str, shape: &[usize]| {
        let mask = Tensor::from_vec(shape, vec![1u8; shape.iter().product()]);
        let pass = Sparsify::new(SparsifyOptions::default()).unwrap().with_masks([(name.to_owned(), mask)]);
        pass.run(&mut original.clone(), &mut Context::new()).unwrap_err()
    };
    assert!(pass("conv9.weight", &[1]).to_string().contains("`conv9.weight` is no weight"));
    assert_eq!(pass("conv2.weight", &[1]).exit_code(), 2);
}
