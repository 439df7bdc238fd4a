//! The reverse of pruning on trained models: the original's architecture, the pruned model's outputs.

mod support;

use assert_cmd::Command;
use onnx_compress::{
    ir::{Model, Origin, Tensor, text},
    lower,
    ops::{self, cost},
    passes::{Context, Pipeline, prune::unprune},
    runtime::{Measurer, Runtime, Samples, SessionOptions, Synthesis},
};
use predicates::str::contains;
use support::{
    corpus,
    oracle::{Oracle, relative_difference},
    zoo, zoo_data,
};

fn runtime() -> Runtime {
    Runtime::find(Some(&support::setup_dir().join("ort"))).unwrap()
}
fn images(model: &Model, n: usize) -> Samples {
    Samples::load(&zoo_data("zoo_calib.npz"), model, 32, Some(n)).unwrap()
}
/// The model after passes, written and read again.
fn compressed(original: &Model, pipeline: &str) -> Model {
    compressed_by(original, pipeline, images(original, 32))
}
fn compressed_by(original: &Model, pipeline: &str, samples: Samples) -> Model {
    let measurer = Measurer::new(runtime(), samples, SessionOptions::default());
    let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
    let _ = pipeline.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap();
    lower::parse(lower::to_bytes(&model).unwrap().into(), None).unwrap()
}
fn restored(pruned: &Model, original: &Model) -> onnx_compress::Result<Model> {
    let measurer = Measurer::new(runtime(), Samples::from_batches([]), SessionOptions::default());
    unprune(pruned, original, &mut Context::new().with_measure(&measurer))
}
/// How far the first outputs of two models are apart on images, as a share of the largest.
fn difference(a: &Model, b: &Model) -> f32 {
    let batch = images(a, 32).batches()[0].clone();
    let first = |m: &Model| Oracle::new().run(m, &batch)[0].1.to_f32().unwrap().into_owned();
    relative_difference(&first(a), &first(b))
}
/// All layers of this model are in the branches of an If.
#[test]
fn weights_of_bodies_go_back() {
    let path = corpus().into_iter().find(|p| p.ends_with("silero_vad.onnx")).expect("set up");
    let original = lower::load(&path).unwrap();
    let pruned = compressed_by(&original, "simplify,prune(ratio=0.4)", Samples::from_batches([]));
    let full = restored(&pruned, &original).unwrap();
    assert!(work(&pruned) < work(&original) && work(&full) == work(&original));
    let difference = Oracle::new().difference(&pruned, &full);
    assert!(difference <= 1e-4, "outputs differ by {difference} of their size");
}
/// Repair gives layers in the branch that all samples take biases that they lack.
#[test]
fn biases_that_repair_adds_in_branches_stay() {
    let original = text::parse(include_str!("golden/prune/decided_if.onnxtxt")).unwrap();
    let synthesis = Synthesis { batches: 16, ..Synthesis::default() };
    let samples = Samples::synthesize(&runtime(), &original, &synthesis).unwrap();
    let added = |m: &Model| {
        let mut biases = 0;
        m.graph.for_each_nested(&mut |g| {
            let gemms = g.ops().filter(|op| g.op(*op).is("Gemm"));
            biases += gemms.filter(|op| g.input(*op, 2).is_some()).count();
        });
        biases
    };
    for text in ["prune(macs=0.5,round=1)", "prune(macs=0.5,round=1,depth=false,steps=2)"] {
        let pruned = compressed_by(&original, text, Samples::from_batches(samples.batches().iter().cloned()));
        assert_eq!((added(&original), added(&pruned)), (0, 2), "{text}");
        let full = restored(&pruned, &original).unwrap();
        assert!(work(&pruned) < work(&original) && work(&full) == work(&original));
        let difference = Oracle::new().difference(&pruned, &full);
        assert!(difference <= 1e-4, "{text}: outputs differ by {difference} of their size");
    }
}
/// What was cut of integers is what stands for zero.
#[test]
fn quantized_weights_go_back() {
    let mut original = lower::load(&zoo("resnet20")).unwrap();
    let quant: Pipeline = "simplify,quant(activations=none,form=qdq)".parse().unwrap();
    let _ = quant.run(&mut original, &mut Context::new()).unwrap();
    lower::schemes::materialize(&mut original).unwrap();
    let pruned = compressed(&original, "prune(macs=0.75)");
    let full = restored(&pruned, &original).unwrap();
    assert!(work(&pruned) < work(&original) && work(&full) == work(&original));
    let difference = difference(&pruned, &full);
    assert!(difference <= 1e-4, "outputs differ by {difference} of their size");
}
fn work(model: &Model) -> u64 {
    let mut model = model.clone();
    ops::infer_types(&mut model).unwrap();
    cost::of_model(&model).macs
}

fn shapes(model: &Model) -> Vec<(String, Vec<usize>)> {
    let g = &model.graph;
    let mut shapes: Vec<_> =
        g.initializers().map(|(v, t)| (g.name_of(v).to_owned(), t.shape().to_vec())).collect();
    shapes.sort();
    shapes
}

#[test]
fn repaired_models_go_back_into_their_architecture() {
    for (name, pipeline) in [
        ("resnet20_raw", "simplify,prune(macs=0.5,criterion=l2)"),
        ("vit_raw", "simplify,prune(macs=0.7,criterion=l2)"),
        ("lstm_raw", "simplify,prune(macs=0.5)"),
        ("simplecnn", "simplify,prune(macs=0.5)"),
    ] {
        let original = lower::load(&zoo(name)).unwrap();
        let mut pruned = compressed(&original, pipeline);
        // As training would: every weight moves.
        let weights: Vec<_> = pruned.graph.initializers().map(|(v, t)| (v, t.clone())).collect();
        for (v, t) in weights {
            if let Some(numbers) = t.to_f32() {
                let moved = numbers.iter().map(|x| x * 1.001).collect();
                let tensor = Tensor::from_f32(t.dtype(), t.shape(), moved).unwrap();
                pruned.graph.value_mut(v).origin = Origin::Initializer(tensor);
            }
        }
        let full = restored(&pruned, &original).unwrap_or_else(|e| panic!("{name}: {e}"));
        let apart = difference(&pruned, &full);
        assert!(apart <= 1e-4, "{name}: outputs differ by {apart} of their size");
        let mut simplified = compressed(&original, "simplify");
        ops::infer_types(&mut simplified).unwrap();
        assert_eq!(cost::of_model(&full).macs, cost::of_model(&simplified).macs, "{name}");
        let left = |all: &[(String, Vec<usize>)]| {
            all.iter().filter(|(name, _)| simplified.graph.find(name).is_some()).cloned().collect::<Vec<_>>()
        };
        assert_eq!(left(&shapes(&full)), shapes(&simplified), "{name}");
        assert!(full.notes.is_empty() && !pruned.notes.is_empty(), "{name}");
        assert!(difference(&full, &original) > 1e-3, "{name}: the cut changed something");
    }
}

#[test]
fn branches_that_were_dropped_come_back_and_add_nothing() {
    let original = lower::load(&zoo("vit_raw")).unwrap();
    let simplified = compressed(&original, "simplify");
    for options in ["", ",repair=none"] {
        let pruned = compressed(&original, &format!("simplify,prune(macs=0.25{options})"));
        assert!(pruned.graph.ops().count() < simplified.graph.ops().count(), "a block went as a whole");
        let full = restored(&pruned, &original).unwrap();
        assert_eq!(full.graph.ops().count(), simplified.graph.ops().count());
        let apart = difference(&pruned, &full);
        assert!(apart <= 1e-4, "outputs differ by {apart} of their size");
        let mut unlike = pruned.clone();
        let note = unlike.notes.get_mut("pruned").unwrap();
        *note = note.replacen(r#""branches":[[""#, r#""branches":[["not_"#, 1);
        assert!(restored(&unlike, &original).unwrap_err().to_string().contains("with a branch to drop"));
    }
}

#[test]
fn what_was_cut_twice_counts_from_the_original() {
    let original = lower::load(&zoo("resnet20")).unwrap();
    let once = compressed(&original, "prune(ratio=0.2,round=1,repair=none,criterion=l2)");
    let twice = compressed(&once, "prune(ratio=0.3,round=1,repair=none,criterion=l2)");
    let full = restored(&twice, &original).unwrap();
    assert_eq!(shapes(&full), shapes(&original));
    assert!(difference(&twice, &full) <= 1e-4);
    let half = restored(&compressed(&once, "simplify"), &original).unwrap();
    assert!(difference(&once, &half) <= 1e-4);
}

#[test]
fn what_another_tool_cut_is_found_by_weights_that_it_left() {
    for name in ["resnet20", "vit", "lstm", "simplecnn"] {
        let original = lower::load(&zoo(name)).unwrap();
        let mut pruned = compressed(&original, "simplify,prune(ratio=0.4,repair=none,criterion=l2)");
        let noted = restored(&pruned, &original).unwrap();
        pruned.notes.clear();
        let found = restored(&pruned, &original).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(found == noted, "{name}: both ways lead to the same model");
    }
    let original = lower::load(&zoo("simplecnn")).unwrap();
    let mut pruned = compressed(&original, "prune(ratio=0.4)");
    pruned.notes.clear();
    for v in pruned.graph.initializers().map(|(v, _)| v).collect::<Vec<_>>() {
        let t = pruned.graph.initializer(v).unwrap().clone();
        if let Some(numbers) = t.to_f32() {
            let moved = Tensor::from_vec(t.shape(), numbers.iter().map(|x| x * 1.01).collect());
            pruned.graph.value_mut(v).origin = Origin::Initializer(moved);
        }
    }
    let why = restored(&pruned, &original).unwrap_err();
    assert_eq!(why.exit_code(), 2);
    assert!(why.to_string().contains("which positions stayed cannot be told"), "{why}");
}

#[test]
fn the_command_writes_a_model_that_computes_the_same() {
    let program = || {
        let mut command = Command::cargo_bin("onnx-compress").unwrap();
        command.current_dir(support::project_dir()).env("NO_COLOR", "1");
        command
    };
    let folder = tempfile::tempdir().unwrap();
    let (small, full) = (folder.path().join("small.onnx"), folder.path().join("full.onnx"));
    let pruned = program()
        .arg(zoo("simplecnn"))
        .args(["-p", "prune(macs=0.5)", "--no-validate", "-o"])
        .arg(&small)
        .arg("--calib")
        .arg(zoo_data("zoo_calib.npz"))
        .assert();
    pruned.success();
    let unprune = |like: &str| {
        let mut command = program();
        command.arg("unprune").arg(&small).arg("--like").arg(zoo(like)).arg("-o").arg(&full);
        command
    };
    unprune("resnet20").assert().code(2).stderr(contains("give the model that went into `prune`"));
    assert!(!full.exists());
    unprune("simplecnn").assert().success().stdout(contains("wrote"));
    program().arg("validate").arg(&small).arg(&full).args(["--min-sqnr", "80"]).assert().success();
    let mut diff = program();
    diff.arg("diff").arg(zoo("simplecnn")).arg(&full).assert().code(3).stdout(contains("480 k      480 k"));
    let script = "import onnx,sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    assert!(support::python().arg("-c").arg(script).arg(&full).status().unwrap().success());
}
