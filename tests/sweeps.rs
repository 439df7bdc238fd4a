//! Sweeps over samples against runs of the same batches.

mod support;

use onnx_compress::{
    Error,
    ir::{DType, Model, Op, Tensor, Type},
    lower,
    measure::{ALL, Measure, Probe},
    runtime::{Measurer, Runtime, Samples, SessionOptions, Synthesis},
};
use support::{light, setup_dir, zoo};

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
    assert_eq!(a.len(), b.len());
    let of = |pairs: &mut dyn Iterator<Item = f64>| pairs.map(|x| x * x).sum::<f64>();
    let error = of(&mut a.iter().zip(b.iter()).map(|(a, b)| f64::from(a - b)));
    (error / of(&mut a.iter().map(|a| f64::from(*a)))).sqrt()
}

#[test]
fn models_of_heavy_weights_compute_the_same_though_they_hold_them_once() {
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let mut heavy = light();
    heavy.retain(|path| path.metadata().unwrap().len() > 24 << 20);
    assert!(heavy.len() >= 3, "{heavy:?}");
    for path in &heavy {
        let model = lower::load(path).unwrap();
        let samples =
            Samples::synthesize(&runtime, &model, &Synthesis { batches: 2, ..Synthesis::default() });
        let measurer = Measurer::new(runtime.clone(), samples.unwrap(), SessionOptions::default());
        let graph = &model.graph;
        let layers = graph.ops().filter(|op| graph.op(*op).is("Conv")).filter_map(|op| graph.output(op, 0));
        let values = layers.step_by(8).chain(graph.outputs.iter().copied());
        let fetch: Vec<String> = values.map(|v| graph.name_of(v).to_owned()).collect();
        let mut batches = 0;
        let swept = measurer.sweep(&[Probe { model: &model, fetch: &fetch }], ALL, &mut |seen| {
            batches += 1;
            let run = measurer.run(&model, &measurer.samples().batches()[seen.batch], &fetch)?;
            for ((name, a), b) in fetch.iter().zip(&run).zip(&seen.values[0]) {
                assert!(distance(a, b) < 1e-5, "{}: {name}: {}", path.display(), distance(a, b));
            }
            Ok(())
        });
        swept.unwrap();
        assert_eq!(batches, 2);
    }
}

/// Whether the model tells how many bytes its outputs take, or the first batch does.
#[test]
fn batches_come_in_order_though_several_run_at_once() {
    let told = Type::tensor(DType::F32, []);
    for ty in [None, Some(told)] {
        in_order(|model| {
            if ty.is_some() {
                let y = model.graph.outputs[0];
                let largest = Op::new("ReduceMax", "largest").with("keepdims", 0);
                model.graph.outputs[0] = model.graph.add_node(largest, &[y], "largest", ty.clone());
            }
        });
    }
}

fn in_order(change: impl Fn(&mut Model)) {
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let mut model = lower::load(&zoo("resnet20")).unwrap();
    change(&mut model);
    let many = Synthesis { batches: 150, ..Synthesis::default() };
    let samples = Samples::synthesize(&runtime, &model, &many).unwrap();
    let measurer = Measurer::new(runtime, samples, SessionOptions::default());
    let fetch: Vec<String> = model.graph.outputs.iter().map(|v| model.graph.name_of(*v).to_owned()).collect();
    let probes = [Probe { model: &model, fetch: &fetch }];
    let (mut next, batches) = (0, measurer.samples().batches());
    let given: std::collections::HashSet<&[u8]> = batches.iter().map(|batch| batch[0].1.bytes()).collect();
    assert_eq!(given.len(), 150, "what came of one batch is told from that of another");
    let swept = measurer.sweep(&probes, ALL, &mut |seen| {
        assert_eq!((seen.batch, seen.batches), (next, 150));
        next += 1;
        let run = measurer.run(&model, &batches[seen.batch], &fetch)?;
        assert!(distance(&run[0], &seen.values[0][0]) < 1e-5, "{}", seen.batch);
        Ok(())
    });
    swept.unwrap();
    assert_eq!(next, 150);
    // Where looking fails nothing is left running, and why is told.
    for last in [0, 1, 100] {
        let mut seen_last = 0;
        let failed = measurer.sweep(&probes, ALL, &mut |seen| {
            seen_last = seen.batch;
            if seen.batch == last { Err(Error::Runtime("enough".into())) } else { Ok(()) }
        });
        assert!(failed.unwrap_err().to_string().contains("enough"));
        assert_eq!(seen_last, last);
    }
}

#[test]
fn batches_that_hold_some_samples_are_told_by_where_they_begin() {
    let batch = |rows: usize| vec![("x".to_owned(), Tensor::from_vec([rows], vec![0f32; rows]))];
    let samples = Samples::from_batches([4, 4, 4, 2].map(batch));
    let held = |range| samples.holding(range).iter().map(|batch| batch[0].1.shape()[0]).sum::<usize>();
    assert_eq!([held(0..0), held(0..1), held(0..4), held(0..5), held(ALL)], [4, 4, 4, 8, 14]);
    assert_eq!([held(4..14), held(5..14), held(12..ALL.end), held(14..ALL.end)], [10, 6, 2, 0]);
    assert_eq!(held(0..6) + held(6..ALL.end), 14, "none is in both");
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let measurer = Measurer::new(runtime, samples.clone(), SessionOptions::default());
    let model = lower::load(&zoo("resnet20")).unwrap();
    let probes = [Probe { model: &model, fetch: &[] }];
    measurer.sweep(&probes, 14..ALL.end, &mut |_| panic!("there is nothing to see")).unwrap();
}
