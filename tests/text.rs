//! The textual syntax against ONNX's own parser, on real models.

mod support;

use onnx_compress::{
    ir::{Graph, Model, Op, text},
    lower,
};
use std::{fmt::Write, fs, path::PathBuf};
use support::{conformance, corpus, python_output, zoo_models};

/// What `parse_text.py` prints for a model.
fn summary(model: &Model) -> String {
    let mut types = Vec::new();
    model.graph.for_each_nested(&mut |g: &Graph| {
        let name = |op: &Op| format!("{}.{}", op.domain, op.op_type);
        types.extend(g.ops().map(|o| name(g.op(o))));
    });
    types.sort();
    let g = &model.graph;
    let counts = format!("{} {} {} {}", types.len(), g.inputs.len(), g.outputs.len(), model.functions.len());
    format!("{counts} {}", types.join(","))
}

/// The text without comments, which hold digests of weights that the text does not.
fn without_comments(text: &str) -> String {
    let mut plain = String::new();
    for line in text.lines() {
        let comment =
            line.rfind(" # ").filter(|at| line[at + 3..].chars().all(|c| c.is_ascii_hexdigit() || c == ' '));
        // writing to a String cannot fail
        let _ = writeln!(plain, "{}", &line[..comment.unwrap_or(line.len())]);
    }
    plain
}

/// Prints each model and holds the text against our reader and ONNX's.
fn check(paths: &[PathBuf]) {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, mut expected) = (Vec::new(), String::new());
    for (k, path) in paths.iter().enumerate() {
        let model = lower::load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let printed = text::print(&model);
        let read = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let again = text::print(&read);
        assert_eq!(without_comments(&printed), without_comments(&again), "{}", path.display());
        assert_eq!(summary(&model), summary(&read), "{}", path.display());
        let file = folder.path().join(format!("{k}.onnxtxt"));
        fs::write(&file, printed).unwrap();
        files.push(file);
        // writing to a String cannot fail
        let _ = writeln!(expected, "{}", summary(&model));
    }
    let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let found = python_output("parse_text.py", &files);
    for ((path, expected), found) in paths.iter().zip(expected.lines()).zip(found.lines()) {
        assert_eq!(expected, found, "{}", path.display());
    }
    assert_eq!(expected.lines().count(), found.lines().count());
}

#[test]
fn zoo_and_pretrained_models_are_read_by_onnx_and_by_us() {
    check(&[zoo_models(), corpus()].concat());
}

#[test]
fn conformance_models_are_read_by_onnx_and_by_us() {
    check(&conformance().into_iter().map(|c| c.model).collect::<Vec<_>>());
}
