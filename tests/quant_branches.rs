//! Branches of If with integer activations on ONNX Runtime: they are what the networks in them would be by themselves.

mod support;

use onnx_compress::{
    ir::{DType, Graph, Model, Op, Origin, Tensor, Type},
    lower::schemes::materialize,
    measure::{ALL, Batch, Measure, Probe},
    ops::infer_types,
    passes::{Changed, Context, Pipeline},
    runtime::{Measurer, Optimize, Samples, Session, SessionOptions, Synthesis, ValidateOptions, validate},
};
use support::{
    model,
    quantized::{kernels, load, runtime},
    zoo, zoo_data,
};

fn flag(value: bool) -> Tensor {
    Tensor::new(DType::Bool, [], vec![u8::from(value)]).unwrap()
}

/// The graph as a body of a graph that has its inputs, what it puts out going through this op.
fn branch(around: &Graph, graph: &Graph, last: &str) -> Graph {
    let mut body = around.adopt(graph);
    for (v, name) in std::mem::take(&mut body.inputs).into_iter().zip(&graph.inputs) {
        body.rename(v, graph.name_of(*name));
        body.value_mut(v).origin = Origin::Captured;
    }
    for k in 0..body.outputs.len() {
        let (from, ty) = (body.outputs[k], body.value(body.outputs[k]).ty.clone());
        body.outputs[k] = body.add_node(Op::new(last, ""), &[from], "result", ty);
    }
    body
}

/// A model that computes what the network does where `go` holds, and the negative of that elsewhere.
fn branching(network: &Model) -> Model {
    let mut graph = Graph::new("branching");
    for v in &network.graph.inputs {
        let input = graph.named_value(network.graph.name_of(*v));
        graph.value_mut(input).ty = network.graph.value(*v).ty.clone();
        graph.inputs.push(input);
    }
    let go = graph.add_input("go", Type::tensor(DType::Bool, []));
    let [then, other] = ["Identity", "Neg"].map(|last| branch(&graph, &network.graph, last));
    let choose = Op::new("If", "choose").with("then_branch", then).with("else_branch", other);
    let outputs = network.graph.outputs.iter().map(|v| network.graph.value(*v).ty.clone());
    let outputs: Vec<_> = outputs.map(|ty| graph.add_value("y", ty)).collect();
    graph.add_op(choose, &[Some(go)], &outputs.iter().copied().map(Some).collect::<Vec<_>>());
    graph.outputs = outputs;
    let mut model = Model { graph, ..network.clone() };
    model.verify().unwrap();
    infer_types(&mut model).unwrap();
    model
}

fn quantized(original: &Model, samples: Samples) -> Model {
    let measurer = Measurer::new(runtime(), samples, SessionOptions::default());
    let mut model = original.clone();
    let pipeline: Pipeline = "simplify,quant(latency=any)".parse().unwrap();
    let mut cx = Context::new().with_measure(&measurer);
    assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    materialize(&mut model).unwrap();
    model.verify().unwrap();
    model
}

fn run(model: &Model, batch: &Batch) -> Vec<f32> {
    let options = SessionOptions { optimize: Optimize::All, ..SessionOptions::default() };
    let outputs = Session::new(&runtime(), model, &options).unwrap().run(batch).unwrap();
    outputs[0].1.to_f32().unwrap().into_owned()
}

fn with(batch: &Batch, go: bool) -> Batch {
    batch.iter().cloned().chain([("go".to_owned(), flag(go))]).collect()
}

#[test]
fn a_branch_becomes_what_its_network_would_by_itself() {
    for name in ["resnet20", "lstm", "simplecnn"] {
        let mut network = load(&zoo(name));
        infer_types(&mut network).unwrap();
        let samples = Samples::load(&zoo_data("zoo_calib.npz"), &network, 16, None).unwrap();
        let all = samples.batches();
        let taken = |k: usize| !k.is_multiple_of(3);
        let branching = branching(&network);
        let both = all.iter().enumerate().map(|(k, batch)| with(batch, taken(k)));
        let together = quantized(&branching, Samples::from_batches(both));
        for (go, sign) in [(true, 1.0), (false, -1.0)] {
            let own = all.iter().enumerate().filter(|(k, _)| taken(*k) == go).map(|(_, batch)| batch.clone());
            let alone = quantized(&network, Samples::from_batches(own));
            let (expected, found) = (run(&alone, &all[1]), run(&together, &with(&all[1], go)));
            let far = |(a, b): (&f32, &f32)| (a - sign * b).abs() > 1e-4 * a.abs().max(1.0);
            let off = expected.iter().zip(&found).filter(|pair| far(*pair)).count();
            assert_eq!(off, 0, "{name}, {go}: {expected:?} {found:?}");
            let float = run(&network, &all[1]);
            assert!(
                float.iter().zip(&expected).any(far),
                "{name}: what is rounded can be told from what is not"
            );
        }
    }
}

#[test]
fn a_voice_detector_computes_in_integers_where_its_layers_are_in_branches() {
    let original = load(&model("silero-vad/silero_vad.onnx"));
    let made_up = |seed| {
        let what = Synthesis { seed, batches: 16, ..Synthesis::default() };
        let samples = Samples::synthesize(&runtime(), &original, &what).unwrap();
        Samples::from_batches(samples.batches().iter().cloned())
    };
    let model = quantized(&original, made_up(0));
    let kernels = kernels(&model);
    let of = |kind: &str| kernels.get(kind).copied().unwrap_or(0);
    assert!(of("QLinearConv") + of("ConvInteger") >= 3, "{kernels:?}");
    assert_eq!(of("DynamicQuantizeLSTM"), 1, "no sample takes the other branch: {kernels:?}");
    let result = validate(&runtime(), &original, &model, &made_up(1), &ValidateOptions::default()).unwrap();
    for output in &result.outputs {
        assert!(output.sqnr_db.unwrap() > 15.0, "{}: {:?} dB", output.name, output.sqnr_db);
    }
}

#[test]
fn a_branch_is_measured_over_the_samples_that_take_it() {
    let mut network = load(&zoo("simplecnn"));
    infer_types(&mut network).unwrap();
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), &network, 8, Some(48)).unwrap();
    let batches = samples.batches().iter().enumerate().map(|(k, batch)| with(batch, k % 2 == 1));
    let measurer = Measurer::new(runtime(), Samples::from_batches(batches), SessionOptions::default());
    let model = branching(&network);
    let input = network.graph.name_of(network.graph.inputs[0]).to_owned();
    let fetch = [input.clone()];
    for go in [true, false] {
        let within = measurer.within(&model, &fetch, ("go", go)).unwrap();
        assert!(within.has_samples());
        let mut seen = Vec::new();
        let probe = Probe { model: &network, fetch: &fetch };
        within
            .sweep(&[probe], ALL, &mut |batch| {
                seen.push(batch.values[0][0].clone());
                Ok(())
            })
            .unwrap();
        let own = samples.batches().iter().skip(usize::from(go)).step_by(2).map(|batch| batch[0].1.clone());
        assert_eq!(seen, own.collect::<Vec<_>>());
    }
    let always = Samples::from_batches(samples.batches().iter().map(|batch| with(batch, true)));
    let always = Measurer::new(runtime(), always, SessionOptions::default());
    assert!(!always.within(&model, &[input], ("go", false)).unwrap().has_inputs());
}
