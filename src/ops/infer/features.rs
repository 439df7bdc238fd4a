//! Operators of classic machine learning (`ai.onnx.ml`), on text, and of training (`ai.onnx.preview.training`).

use super::{
    call::{Call, Found, product, shaped},
    elementwise::same,
    fact::{Fact, Size, len, num},
    table::{Entry, Types},
};
use crate::ir::{Attr, DType};
use Types::{ByRule, Each, Is, Like};

/// The operators of `ai.onnx.ml`.
pub(super) fn learned(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        "Binarizer" | "Imputer" => (Like(0), same),
        "Scaler" | "Normalizer" => (Is(DType::F32), same),
        "LabelEncoder" => (ByRule, label_encoder),
        "CategoryMapper" => (ByRule, category_mapper),
        "ArrayFeatureExtractor" => (Like(0), array_feature_extractor),
        "FeatureVectorizer" => (Is(DType::F32), feature_vectorizer),
        "OneHotEncoder" => (Is(DType::F32), one_hot_encoder),
        "TreeEnsemble" => (Like(0), |c| regressor(c, "n_targets")),
        "TreeEnsembleRegressor" => (Is(DType::F32), |c| regressor(c, "n_targets")),
        "LinearRegressor" => (Is(DType::F32), |c| regressor(c, "targets")),
        "SVMRegressor" => (Is(DType::F32), |c| regressor(c, "")),
        "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" => (ByRule, classifier),
        _ => return None,
    })
}

/// The operators of training: all work on groups of tensors, the first group the weights.
pub(super) fn training(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        // After the rate and the step: weights, gradients, states. The gradients alone do not come out again.
        "Adagrad" | "Momentum" => (ByRule, |c| updated(c, 3)),
        "Adam" => (ByRule, |c| updated(c, 4)),
        // The derivative by each of `xs`, which come first.
        "Gradient" => (ByRule, |c| Some((0..c.outputs).map(|k| typed(c, k)).collect())),
        _ => return None,
    })
}

/// The standard operators on text.
pub(super) fn text(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        "StringConcat" => (Is(DType::String), super::elementwise::broadcasting),
        "RegexFullMatch" => (Is(DType::Bool), same),
        "StringNormalizer" => (Is(DType::String), string_normalizer),
        "StringSplit" => (Each(&[Is(DType::String), Is(DType::I64)]), string_split),
        "TfIdfVectorizer" => (Is(DType::F32), tf_idf),
        _ => return None,
    })
}

/// The type of an input, without its elements.
fn typed(c: &Call<'_>, slot: usize) -> Fact {
    let shape = c.shape(slot).map(<[Size]>::to_vec);
    Fact { dtype: c.input(slot).and_then(|x| x.dtype), shape, ..Fact::default() }
}

fn updated(c: &Call<'_>, groups: usize) -> Found {
    let n = c.inputs.len().checked_sub(2)? / groups;
    let source = |k: usize| if k < n { 2 + k } else { 2 + k + n };
    Some((0..c.outputs).map(|k| typed(c, source(k))).collect())
}

fn label_encoder(c: &Call<'_>) -> Found {
    let given = c.op.attrs.iter().find_map(|a| match (&*a.name, &a.value) {
        ("values_int64s", _) => Some(DType::I64),
        ("values_floats", _) => Some(DType::F32),
        ("values_strings" | "classes_strings", _) => Some(DType::String),
        ("values_tensor", Attr::Tensor(t)) => Some(t.dtype()),
        _ => None,
    });
    // Version 1 has one list of strings and maps them to their places, or places to them.
    let input = c.input(0)?.dtype;
    let dtype = match (c.op.attr("classes_strings"), input) {
        (Some(_), Some(DType::String)) => Some(DType::I64),
        (Some(_), None) => None,
        _ => given,
    };
    Some(vec![Fact { dtype, ..typed(c, 0) }])
}

fn category_mapper(c: &Call<'_>) -> Found {
    let dtype = match c.input(0)?.dtype {
        Some(DType::String) => Some(DType::I64),
        Some(DType::I64) => Some(DType::String),
        _ => None,
    };
    Some(vec![Fact { dtype, ..typed(c, 0) }])
}

/// The samples of a matrix; a vector is one.
fn samples(c: &Call<'_>) -> Size {
    match c.shape(0) {
        Some([_]) => num(1),
        Some([n, ..]) => n.clone(),
        _ => None,
    }
}

fn array_feature_extractor(c: &Call<'_>) -> Found {
    let taken = product(c.shape(1)?);
    let lead = match c.shape(0)? {
        [_] => vec![num(1)],
        [lead @ .., _] => lead.to_vec(),
        [] => return None,
    };
    shaped([lead, vec![taken]].concat())
}

fn feature_vectorizer(c: &Call<'_>) -> Found {
    let width = c.op.ints("inputdimensions")?.iter().try_fold(0i64, |sum, n| sum.checked_add(*n))?;
    shaped(vec![samples(c), num(width)])
}

fn one_hot_encoder(c: &Call<'_>) -> Found {
    let categories = strings(c, "cats_strings").or_else(|| Some(c.op.ints("cats_int64s")?.len()))?;
    shaped([c.shape(0)?, &[len(categories)]].concat())
}

/// One row a sample, with as many numbers as the attribute says, else one.
fn regressor(c: &Call<'_>, targets: &str) -> Found {
    shaped(vec![samples(c), num(c.op.int(targets).unwrap_or(1))])
}

/// The label of each sample, and its scores.
fn classifier(c: &Call<'_>) -> Found {
    let named = strings(c, "classlabels_strings").filter(|n| *n > 0);
    let numbered = c.op.ints("classlabels_int64s").or(c.op.ints("classlabels_ints"));
    let dtype = Some(if named.is_some() { DType::String } else { DType::I64 });
    // Support vector machines may score every pair of classes instead.
    let classes = named.or(numbered.map(<[i64]>::len)).filter(|n| *n > 1 && c.op.op_type != "SVMClassifier");
    let scores = Fact::shaped(vec![samples(c), classes.and_then(len)]);
    Some(vec![Fact { dtype, ..Fact::shaped(vec![samples(c)]) }, Fact { dtype: Some(DType::F32), ..scores }])
}

/// How many strings an attribute lists.
fn strings(c: &Call<'_>, name: &str) -> Option<usize> {
    match c.op.attr(name) {
        Some(Attr::Strings(list)) => Some(list.len()),
        _ => None,
    }
}

fn string_normalizer(c: &Call<'_>) -> Found {
    let mut s = c.shape(0)?.to_vec();
    *s.last_mut()? = None;
    shaped(s)
}

fn string_split(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    Some(vec![Fact::shaped([s, &[None]].concat()), Fact::shaped(s.to_vec())])
}

/// A count, or a weight, of each n-gram in place of the last axis.
fn tf_idf(c: &Call<'_>) -> Found {
    let last = c.op.ints("ngram_indexes")?.iter().max()?.checked_add(1)?;
    let (_, lead) = c.shape(0)?.split_last()?;
    shaped([lead, &[num(last)]].concat())
}
