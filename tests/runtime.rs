//! The runtime against real models: finding the library, sessions, and errors a user meets.

mod support;

use onnx_compress::{
    ir::Tensor,
    runtime::{Provider, Runtime, Session, SessionOptions},
};
use std::{fs, path::Path, process::Command};
use support::{setup_dir, zoo, zoo_data, zoo_models};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

/// One array of a .npz file.
fn npz(file: &str, key: &str) -> (Vec<usize>, Vec<f32>) {
    let mut archive = npyz::npz::NpzArchive::open(zoo_data(file)).unwrap();
    let array = archive.by_name(key).unwrap().unwrap_or_else(|| panic!("{file} has no {key}"));
    let shape = array.shape().iter().map(|d| usize::try_from(*d).unwrap()).collect();
    let values = match array.dtype().descr().contains("f2") {
        true => array.into_vec::<half::f16>().unwrap().into_iter().map(f32::from).collect(),
        false => array.into_vec::<f32>().unwrap(),
    };
    (shape, values)
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a row has classes")
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
fn every_zoo_model_runs() {
    let runtime = runtime();
    for path in zoo_models() {
        let model = fs::read(&path).unwrap();
        let session = Session::from_bytes(&runtime, &model, &SessionOptions::default()).unwrap();
        let image = Tensor::from_vec([2, 1, 28, 28], vec![0.5f32; 2 * 28 * 28]);
        let outputs = session.run(&vec![(session.inputs()[0].clone(), image)]);
        let outputs = outputs.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert_eq!(outputs[0].1.shape(), [2, 10], "{}", path.display());
        assert!(outputs[0].1.to_f32().unwrap().iter().all(|x| x.is_finite()));
    }
}

#[test]
fn resnet20_classifies_as_well_as_it_was_trained() {
    let (shape, pixels) = npz("zoo_test.npz", "image");
    let mut archive = npyz::npz::NpzArchive::open(zoo_data("zoo_test.npz")).unwrap();
    let labels: Vec<usize> = match archive.by_name("labels").unwrap().unwrap() {
        array if array.dtype().descr().contains("u1") => {
            array.into_vec::<u8>().unwrap().into_iter().map(usize::from).collect()
        }
        array => array.into_vec::<i64>().unwrap().into_iter().map(|x| x as usize).collect(),
    };
    let model = fs::read(zoo("resnet20")).unwrap();
    let session = Session::from_bytes(&runtime(), &model, &SessionOptions::default()).unwrap();
    let outputs = session.run(&vec![("image".to_owned(), Tensor::from_vec(shape, pixels))]).unwrap();
    let scores = outputs[0].1.to_f32().unwrap().into_owned();
    let right = scores.chunks(10).zip(&labels).filter(|(row, label)| argmax(row) == **label).count();
    let accuracy = right as f64 / labels.len() as f64;
    assert!((0.92..0.94).contains(&accuracy), "{accuracy}");
}

#[test]
fn cuda_that_is_not_there_is_an_error_with_the_fix() {
    let options = SessionOptions { provider: Provider::Cuda, ..SessionOptions::default() };
    let model = fs::read(zoo("simplecnn")).unwrap();
    let why = Session::from_bytes(&runtime(), &model, &options).unwrap_err().to_string();
    assert!(why.contains("onnxruntime-gpu") && why.contains("--provider cpu"), "{why}");
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
