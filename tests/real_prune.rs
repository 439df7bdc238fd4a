//! Pruning real models: the oracle of the axis algebra on every one, and the pass on a trained classifier.

mod support;

use onnx_compress::{
    ir::{Model, Tensor, text},
    lower::{self, schemes},
    ops::{
        self,
        axes::{Flow, Group, Keep},
        cost,
    },
    passes::{
        Context, Named, Pipeline,
        prune::{Prune, PruneOptions, lift},
    },
    runtime::{Measurer, Runtime, Samples, SessionOptions, Synthesis},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use std::path::Path;
use support::{
    conformance, corpus, light, model,
    oracle::{Oracle, halves_or_fewer, random_inputs, relative_difference, work},
    setup_dir, zoo, zoo_data, zoo_models,
};

/// The model with its weights in plain sight and its types inferred.
fn simplified(path: &Path) -> Model {
    let mut model = lower::load(path).unwrap();
    run("simplify", &mut model);
    lift(&mut model);
    ops::infer_types(&mut model).unwrap();
    model
}
fn run(pipeline: &str, model: &mut Model) -> Vec<String> {
    let mut cx = Context::new();
    let _ = pipeline.parse::<Pipeline>().unwrap().run(model, &mut cx).unwrap();
    cx.remarks.into_iter().map(|r| r.text).collect()
}
/// A random part of some groups.
fn some<'g>(groups: impl IntoIterator<Item = &'g Group>, seed: u64) -> Keep {
    groups.into_iter().zip(seed..).map(|(g, seed)| (g.factor, halves_or_fewer(g.size, seed))).collect()
}
/// Cuts a random part of every exact group of a model, and of one alone; returns how many groups there are.
fn holds(path: &Path) -> usize {
    let model = simplified(path);
    let oracle = Oracle::new();
    let counted = cost::of_model(&model).macs;
    let flow = Flow::of(&model);
    assert_eq!(work(&flow, &Keep::new()), counted, "{}: multiply-accumulates", path.display());
    let exact: Vec<Group> = flow.groups().into_iter().filter(|g| g.exact).collect();
    let seed = name(path).bytes().fold(0u64, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
    let one = exact.get(seed as usize % exact.len().max(1));
    for keep in [some(&exact, seed), some(one, seed)].into_iter().filter(|keep| !keep.is_empty()) {
        let groups = keep.len();
        let difference = oracle.cut_against_zero(&model, Flow::of(&model), keep);
        assert!(
            difference <= 1e-4,
            "{}: {groups} groups, outputs differ by {difference} of their size",
            path.display()
        );
    }
    exact.len()
}
fn name(path: &Path) -> &str {
    path.file_stem().and_then(|n| n.to_str()).unwrap()
}

#[test]
fn the_oracle_holds_on_the_zoo() {
    let counts: Vec<_> = zoo_models().iter().map(|p| (name(p).to_owned(), holds(p))).collect();
    assert!(counts.iter().all(|(_, n)| *n > 0), "every trained model has something to prune: {counts:?}");
}

#[test]
fn the_oracle_holds_on_pretrained_models() {
    let counts: Vec<_> = corpus().iter().map(|p| (name(p).to_owned(), holds(p))).collect();
    assert!(counts.iter().any(|(_, n)| *n > 0));
    // Every layer of these is in the branches of an If.
    let branched: Vec<_> = counts.iter().filter(|(name, _)| name.starts_with("silero_vad")).collect();
    assert!(!branched.is_empty() && branched.iter().all(|(_, n)| *n >= 3), "{branched:?}");
}

#[test]
fn the_oracle_holds_on_classic_networks() {
    for path in light() {
        let least = match name(&path) {
            n if n.contains("resnet50") => 30,
            n if n.contains("densenet121") => 100,
            n if n.contains("vgg19") || n.contains("squeezenet") => 15,
            _ => 1,
        };
        let groups = holds(&path);
        assert!(groups >= least, "{}: {groups} groups", path.display());
    }
}

/// Where a statistic runs over what is cut, the result is another function, of the same inputs and to the same shapes.
#[test]
fn lossy_groups_leave_models_that_run() {
    let mut lossy = 0;
    for path in zoo_models().into_iter().chain(corpus()) {
        let model = simplified(&path);
        let flow = Flow::of(&model);
        let groups: Vec<Group> = flow.groups().into_iter().filter(|g| !g.exact).collect();
        if groups.is_empty() {
            continue;
        }
        lossy += groups.len();
        let mut cut = model.clone();
        flow.cut(some(&groups, 7)).apply(&mut cut).unwrap();
        cut.verify().unwrap();
        let inputs = random_inputs(&model);
        let (a, b) = (Oracle::new().run(&model, &inputs), Oracle::new().run(&cut, &inputs));
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            assert_eq!(a.shape(), b.shape(), "{}: {name}", path.display());
        }
    }
    assert!(lossy >= 4, "{lossy} groups");
}

/// Integers behind DequantizeLinear go as the floats would that they stand for.
#[test]
fn quantized_models_can_be_cut() {
    for name in ["resnet20", "vit"] {
        let mut model = simplified(&zoo(name));
        run("quant(activations=none,form=qdq)", &mut model);
        schemes::materialize(&mut model).unwrap();
        lift(&mut model);
        ops::infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        let keep = some(flow.groups().iter().filter(|g| g.exact), 3);
        assert!(keep.len() > 8, "{} groups", keep.len());
        let difference = Oracle::new().cut_against_zero(&model, flow, keep);
        assert!(difference <= 1e-4, "{name}: outputs differ by {difference} of their size");
        let before = cost::of_model(&model).macs;
        run("prune(macs=0.75)", &mut model);
        ops::infer_types(&mut model).unwrap();
        let share = cost::of_model(&model).macs as f64 / before as f64;
        assert!((0.5..=0.75).contains(&share), "{name}: {share} of the multiply-accumulates are left");
    }
}

/// Every operator in every form: the analysis holds, and prices an op as it is counted.
#[test]
fn work_is_priced_as_it_is_counted_for_every_operator() {
    let mut with_work = 0;
    for test in conformance() {
        let mut model = lower::load(&test.model).unwrap_or_else(|e| panic!("{}: {e}", test.name));
        ops::infer_types(&mut model).unwrap_or_else(|e| panic!("{}: {e}", test.name));
        let counted = cost::of_model(&model).macs;
        assert_eq!(work(&Flow::of(&model), &Keep::new()), counted, "{}", test.name);
        with_work += usize::from(counted > 0);
    }
    assert!(with_work > 100, "{with_work} models have linear algebra");
}

/// The images of the test set in the model's layout, with their classes.
fn test_set(input: &str) -> (Tensor, Vec<usize>) {
    let mut archive = npyz::npz::NpzArchive::open(zoo_data("zoo_test.npz")).unwrap();
    let images = archive.by_name(input).unwrap().expect("the test set has the images");
    let shape: Vec<usize> = images.shape().iter().map(|d| usize::try_from(*d).unwrap()).collect();
    let values = match images.dtype().descr().contains("f2") {
        true => images.into_vec::<half::f16>().unwrap().into_iter().map(f32::from).collect(),
        false => images.into_vec::<f32>().unwrap(),
    };
    let labels = archive.by_name("labels").unwrap().expect("the test set has labels");
    let labels = labels.into_vec::<i64>().unwrap().into_iter().map(|c| usize::try_from(c).unwrap()).collect();
    (Tensor::from_vec(shape, values), labels)
}
fn classes(oracle: &Oracle, model: &Model, images: &Tensor) -> (Vec<f32>, Vec<usize>) {
    let input = model.graph.name_of(model.graph.inputs[0]).to_owned();
    let scores = oracle.run(model, &vec![(input, images.clone())])[0].1.to_f32().unwrap().into_owned();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let classes = scores.chunks(10).map(best).collect();
    (scores, classes)
}

#[test]
fn resnet20_shrinks_to_three_quarters_of_its_work() {
    let original = simplified(&zoo("resnet20"));
    let options = PruneOptions { macs: Some(0.75), ..PruneOptions::default() };
    let selection =
        Prune::new(options).unwrap().select(&original, &Flow::of(&original), &mut Context::new()).unwrap();
    let mut zeroed = original.clone();
    Flow::of(&original).cut(selection.keep).zero(&mut zeroed).unwrap();
    let mut pruned = original.clone();
    run("prune(macs=0.75,repair=none)", &mut pruned);
    ops::infer_types(&mut pruned).unwrap();

    let share = cost::of_model(&pruned).macs as f64 / cost::of_model(&original).macs as f64;
    assert!((0.60..=0.75).contains(&share), "{share} of the multiply-accumulates are left");
    let bytes = |m: &Model| lower::to_bytes(m).unwrap().len();
    assert!(bytes(&pruned) * 10 < bytes(&original) * 9, "{} of {} bytes", bytes(&pruned), bytes(&original));

    let (images, labels) = test_set("image");
    let oracle = Oracle::new();
    let (a, b) = (classes(&oracle, &pruned, &images), classes(&oracle, &zeroed, &images));
    assert!(relative_difference(&a.0, &b.0) <= 1e-4);
    let right = |classes: &[usize]| classes.iter().zip(&labels).filter(|(c, l)| c == l).count();
    assert!(right(&a.1).abs_diff(right(&b.1)) <= 1, "a tie may fall either way");
    assert!(right(&a.1) > labels.len() / 5, "twice as good as chance before any recovery");
}

/// The model cut as the text says and repaired from so many images, and how many layers were.
fn repaired(text: &str, original: &Model, images: usize) -> (Model, u64) {
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), original, 32, Some(images)).unwrap();
    let measurer = Measurer::new(runtime, samples, SessionOptions::default());
    let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
    let _ = text.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap();
    (model, cx.counts.get("prune/repaired").copied().unwrap_or(0))
}

/// The share of the test images that a model gets right.
fn right(model: &Model) -> f64 {
    let (images, labels) = test_set("image");
    let (_, found) = classes(&Oracle::new(), model, &images);
    found.iter().zip(&labels).filter(|(c, l)| c == l).count() as f64 / labels.len() as f64
}

#[test]
fn resnet20_is_repaired_from_images_without_labels() {
    let original = simplified(&zoo("resnet20"));
    let (model, layers) = repaired("prune(macs=0.75,criterion=l2)", &original, 256);
    assert!(layers >= 12, "{layers} layers are repaired");
    let shapes = |m: &Model| m.graph.initializers().map(|(_, t)| t.shape().to_vec()).collect::<Vec<_>>();
    let mut unrepaired = original;
    run("prune(macs=0.75,repair=none)", &mut unrepaired);
    assert_eq!(shapes(&model), shapes(&unrepaired), "repair changes numbers alone");

    let right = right(&model);
    assert!(right >= 0.9, "{right} of the images are right");
}

#[test]
fn half_the_work_of_resnet20_costs_a_few_images_when_data_choose() {
    let original = simplified(&zoo("resnet20"));
    let (model, _) = repaired("prune(macs=0.5)", &original, 256);
    let share = cost::of_model(&model).macs as f64 / cost::of_model(&original).macs as f64;
    assert!((0.4..=0.5).contains(&share), "{share} of the multiply-accumulates are left");
    let right = right(&model);
    assert!(right >= 0.91, "{right} of the images are right");
}

/// Blocks go where the model that is left has less squared error times the square of its time: as halving the work of this model
/// saves much the same time either way, its error cannot be twice that of narrower layers.
#[test]
fn blocks_go_where_the_outputs_bear_it() {
    let original = simplified(&zoo("vit"));
    let (images, _) = test_set("image");
    let outputs = |model: &Model| classes(&Oracle::new(), model, &images).0;
    let wanted = outputs(&original);
    let error = |text: &str| {
        let found = outputs(&repaired(text, &original, 256).0);
        found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let (with, without) = (error("prune(macs=0.5)"), error("prune(macs=0.5,depth=false)"));
    assert!(with < 2.0 * without, "{with} with blocks that go, {without} where none does");
}

#[test]
fn curves_in_a_file_serve_a_second_budget_and_no_other_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("curves.json");
    let text = |macs: f64| format!("prune(macs={macs},repair=none,sensitivity={:?})", file.to_str().unwrap());
    let original = simplified(&zoo("simplecnn"));
    let cut = |text: &str| {
        let mut model = original.clone();
        run(text, &mut model);
        model
    };
    // Without samples and without a file nothing tells what cutting costs.
    let refused = |text: &str, model: &Model| {
        let mut model = model.clone();
        let error = text.parse::<Pipeline>().and_then(|p| p.run(&mut model, &mut Context::new()).map(drop));
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    assert!(refused(&text(0.75), &original).contains("needs samples"));
    let measured = repaired(&text(0.75), &original, 64).0;
    let written = std::fs::read(&file).unwrap();
    assert!(cut(&text(0.75)) == measured, "the same from the file");
    assert!(
        cut(&text(0.5)) == repaired("prune(macs=0.5,repair=none)", &original, 64).0,
        "another budget too"
    );
    assert!(cut("prune(macs=0.5,repair=none)") != cut(&text(0.5)), "by data and not by weights");
    assert_eq!(std::fs::read(&file).unwrap(), written, "a file that is there is only read");

    assert!(refused(&text(0.75), &simplified(&zoo("lstm"))).contains("not those of this model"));
    let excluded = text(0.75).replace("repair=none", "repair=none,exclude=[\"*conv1*\"]");
    assert!(refused(&excluded, &original).contains("the groups are others"));
    assert!(refused(&text(0.75).replace("repair=none", "steps=2"), &original).contains("`steps`"));
    assert!(refused(&text(0.75).replace("repair=none", "criterion=l2"), &original).contains("`hessian`"));
    std::fs::write(&file, "{}").unwrap();
    assert!(refused(&text(0.75), &original).contains("curves.json"));
}

/// Curves are of the model as it is, whether samples tell which branch of an If is taken or not.
#[test]
fn curves_of_branches_serve_without_samples() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("curves.json");
    let text = format!("prune(macs=0.6,round=1,repair=none,sensitivity={:?})", file.to_str().unwrap());
    let original = text::parse(include_str!("golden/prune/decided_if.onnxtxt")).unwrap();
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let synthesis = Synthesis { batches: 16, ..Synthesis::default() };
    let samples = Samples::synthesize(&runtime, &original, &synthesis).unwrap();
    let samples = Samples::from_batches(samples.batches().iter().cloned());
    let measurer = Measurer::new(runtime, samples, SessionOptions::default());
    let [mut measured, mut again, mut without] = [0; 3].map(|_| original.clone());
    let cut = |model: &mut Model, mut cx: Context<'_>| {
        let _ = text.parse::<Pipeline>().unwrap().run(model, &mut cx).unwrap();
    };
    cut(&mut measured, Context::new().with_measure(&measurer));
    cut(&mut again, Context::new().with_measure(&measurer));
    cut(&mut without, Context::new());
    assert!(measured == again && measured == without);
    assert!(measured != original);
}

#[test]
fn recurrent_layers_are_repaired_too() {
    let original = simplified(&zoo("lstm"));
    let (model, layers) = repaired("prune(macs=0.5)", &original, 256);
    assert_eq!(layers, 2, "the recurrent layer and the classifier");
    let right = right(&model);
    assert!(right >= 0.865, "{right} of the images are right");
}

#[test]
fn half_precision_is_repaired_in_its_own_type() {
    let original = simplified(&zoo("resnet20_fp16"));
    let (model, layers) = repaired("prune(macs=0.75)", &original, 64);
    assert!(layers >= 6, "{layers} layers are repaired");
    let types = |m: &Model| m.graph.initializers().map(|(_, t)| t.dtype()).collect::<Vec<_>>();
    assert_eq!(types(&model), types(&original));
    let bytes = |m: &Model| lower::to_bytes(m).unwrap();
    assert!(
        bytes(&repaired("prune(macs=0.75)", &original, 64).0) == bytes(&model),
        "two runs give the same bytes"
    );
    let right = right(&model);
    assert!(right >= 0.88, "{right} of the images are right");
}

#[test]
fn layers_of_the_branch_that_samples_take_are_repaired() {
    // A real detector of speech: one If whose branches, for two rates, hold all layers.
    let path = model("silero-vad/silero_vad_op18_ifless.onnx");
    let mut original = lower::load(&path).unwrap();
    run("simplify", &mut original);
    let batch = |k: usize| {
        let mut random = ChaCha8Rng::seed_from_u64(k as u64);
        let sound = (0..576).map(|_| random.random_range(-0.2f32..0.2));
        vec![
            ("input".to_owned(), Tensor::from_vec([1, 576], sound.collect())),
            ("sr".to_owned(), Tensor::scalar(16_000i64)),
            ("state".to_owned(), Tensor::from_vec([2, 1, 128], vec![0f32; 256])),
        ]
    };
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let samples = Samples::from_batches((0..48).map(batch));
    let measurer = Measurer::new(runtime, samples, SessionOptions::default());
    let cut = |pass: &str| {
        let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
        let _ = pass.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap();
        let oracle = Oracle::new();
        // The squared error of both outputs, each relative to its squares.
        let error = |k| {
            let [a, b] = [&original, &model].map(|m| oracle.run(m, &batch(k)));
            let off = |(a, b): (&(String, Tensor), &(String, Tensor))| {
                let (a, b) = (a.1.to_f32().unwrap(), b.1.to_f32().unwrap());
                let squares = a.iter().map(|x| x * x).sum::<f32>();
                a.iter().zip(b.iter()).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / squares
            };
            a.iter().zip(&b).map(off).sum::<f32>()
        };
        let repaired = cx.counts.get("prune/repaired").copied().unwrap_or(0);
        ((60..68).map(error).sum::<f32>() / 8.0, repaired, model)
    };
    let (with, repaired, pruned) = cut("prune(ratio=0.3)");
    let (without, none, _) = cut("prune(ratio=0.3,repair=none)");
    assert!(repaired >= 3 && none == 0, "{repaired} layers are repaired");
    assert!(with < 0.2 * without, "{with} against {without}");
    // The branch that no sample takes is cut too, and no worse than by its weights alone.
    let other = |name: &str| pruned.graph.initializer(pruned.graph.find(name).unwrap()).unwrap().shape()[0];
    assert!(other("model_8k.encoder.0.reparam_conv.weight") >= 32);
}
