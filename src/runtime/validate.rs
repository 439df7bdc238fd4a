//! The compressed model against the original: outputs, accuracy, latency.

use super::{
    Optimize, OutputError, Provider, Runtime, Samples, Session, SessionOptions,
    accuracy::{Accuracy, Scores},
    compare::{Difference, numbers},
    latency::{Latency, time},
    rows::rows_of,
    samples::inputs_of,
};
use crate::{
    error::{Error, Result},
    ir::Model,
    measure::Batch,
};
use serde::Serialize;
use std::collections::HashMap;

/// What must hold for a validation to pass. What is `None` is not asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// The least cosine of any output.
    pub min_cosine: Option<f64>,
    /// The least signal to noise ratio of any output, in decibel.
    pub min_sqnr_db: Option<f64>,
    /// The largest absolute difference of any element.
    pub max_abs: Option<f64>,
    /// The least share of rows with the same largest element.
    pub min_top1: Option<f64>,
    /// The largest loss of accuracy against labels, as a share: 0.01 is one point.
    pub max_drop: Option<f64>,
}

impl Tolerance {
    /// Whether an output's cosine and signal to noise ratio are high enough, or its difference is about what ONNX
    /// Runtime's own rewrites make: an output near zero has few digits that mean anything.
    fn allows(&self, output: &OutputError) -> bool {
        let sqnr = output.sqnr_db.unwrap_or(f64::INFINITY);
        let own = output.own_sqnr_db.is_some_and(|own| sqnr >= own - ALIKE_DB);
        own || (self.min_cosine.is_none_or(|least| output.cosine >= least)
            && self.min_sqnr_db.is_none_or(|least| sqnr >= least))
    }
}

/// Noise of at most twice the size counts as alike.
const ALIKE_DB: f64 = 6.02;

/// A cosine of 0.95 on every output, which catches a broken model and lets through what compression is expected to do.
impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { min_cosine: Some(0.95), min_sqnr_db: None, max_abs: None, min_top1: None, max_drop: None }
    }
}

/// How to validate.
#[derive(Clone, Debug, Default)]
pub struct ValidateOptions {
    /// How many batches to compare; `None` is all.
    pub batches: Option<usize>,
    /// What runs both models.
    pub provider: Provider,
    /// Threads within an operator, for both.
    pub threads: Option<usize>,
    /// Whether to time both.
    pub latency: bool,
    /// The right class of each sample, in order (see [`Samples::labels_of`]).
    pub labels: Option<Vec<i64>>,
    /// What must hold.
    pub tolerance: Tolerance,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Validation {
    /// Batches compared.
    pub batches: usize,
    /// Samples compared.
    pub samples: usize,
    /// Whether the inputs were made up rather than given.
    pub synthetic: bool,
    /// What ran both models.
    pub provider: Provider,
    /// Each output that both models have, in the original's order.
    pub outputs: Vec<OutputError>,
    /// Accuracy against labels, where there are any.
    pub accuracy: Option<Accuracy>,
    /// Latency, where it was asked for.
    pub latency: Option<Latency>,
    /// What was asked.
    pub tolerance: Tolerance,
    /// What of it does not hold, as sentences; empty where all does.
    pub failures: Vec<String>,
}

impl Validation {
    /// Whether everything asked holds.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs both models on the samples and compares what they give.
pub fn validate(
    runtime: &Runtime,
    original: &Model,
    compressed: &Model,
    samples: &Samples,
    options: &ValidateOptions,
) -> Result<Validation> {
    same_interface(original, compressed)?;
    let session_options =
        SessionOptions { provider: options.provider, threads: options.threads, ..SessionOptions::default() };
    let before = Session::new(runtime, original, &session_options)?;
    let after = Session::new(runtime, compressed, &session_options)?;
    let batches = &samples.batches()[..options.batches.unwrap_or(usize::MAX).min(samples.batches().len())];
    let Some(first) = batches.first() else {
        return Err(Error::usage("there are no samples to validate on", "give some, or let them be made up"));
    };
    let count = batches.iter().map(rows_of).sum();
    let mut scores = options.labels.as_deref().map(Scores::new);
    let mut outputs = differences(&before, &after, batches, &mut scores)?;
    if outputs.iter().any(|output| !options.tolerance.allows(output)) {
        let plain = SessionOptions { optimize: Optimize::Off, ..session_options };
        let plain = Session::new(runtime, original, &plain)?;
        let own = differences(&before, &plain, batches, &mut None)?;
        outputs.iter_mut().zip(own).for_each(|(output, own)| output.own_sqnr_db = own.sqnr_db);
    }
    let accuracy = scores.map(|scores| scores.finish(count)).transpose()?;
    let own = after.take(first);
    let latency = options
        .latency
        .then(|| time((&before, first), (&after, &own), rows_of(first), options.threads))
        .transpose()?;
    let mut validation = Validation {
        batches: batches.len(),
        samples: count,
        synthetic: samples.is_synthetic(),
        provider: options.provider,
        outputs,
        accuracy,
        latency,
        tolerance: options.tolerance.clone(),
        failures: Vec::new(),
    };
    validation.failures = failures(&validation);
    Ok(validation)
}

/// How far the outputs of `after` are from those of `before`, in its order.
fn differences(
    before: &Session,
    after: &Session,
    batches: &[Batch],
    scores: &mut Option<Scores<'_>>,
) -> Result<Vec<OutputError>> {
    let mut differences = vec![Difference::default(); before.outputs().len()];
    for batch in batches {
        let (a, b) = (before.run(batch)?, after.run(&after.take(batch))?);
        let b: HashMap<&str, _> = b.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for ((name, x), difference) in a.iter().zip(&mut differences) {
            let y = b.get(name.as_str()).ok_or_else(|| Error::Runtime(format!("output `{name}` is gone")))?;
            if x.shape() != y.shape() {
                let (x, y) = (x.shape(), y.shape());
                let what = format!("output `{name}` has shape {y:?} where the original has {x:?}");
                return Err(Error::BelowBar(what));
            }
            let Some((p, q)) = numbers(x).zip(numbers(y)) else {
                let differing = x.as_strings().zip(y.as_strings());
                let differing =
                    differing.map(|(x, y)| x.iter().zip(y).map(|(x, y)| f64::from(u8::from(x != y))));
                let marks: Vec<f64> = differing.into_iter().flatten().collect();
                difference.add(&vec![0.0; marks.len()], &marks, None);
                continue;
            };
            let classes =
                x.shape().last().copied().filter(|n| *n >= 2 && x.dtype().is_float() && x.rank() >= 2);
            difference.add(&p, &q, classes);
            if let (Some(scores), Some(classes)) = (scores.as_mut(), classes) {
                scores.add(name, &p, &q, classes);
            }
        }
    }
    let named = differences.into_iter().zip(before.outputs());
    Ok(named.map(|(difference, name)| difference.finish(name.clone())).collect())
}

fn same_interface(original: &Model, compressed: &Model) -> Result<()> {
    let names = |model: &Model| -> (Vec<String>, Vec<String>) {
        let outputs = model.graph.outputs.iter().map(|v| model.graph.name_of(*v).to_owned());
        (inputs_of(model).into_iter().map(|input| input.name).collect(), outputs.collect())
    };
    let only = |a: &[String], b: &[String]| a.iter().find(|name| !b.contains(name)).cloned();
    let ((inputs, outputs), (other_inputs, other_outputs)) = (names(original), names(compressed));
    // An input that nothing needs any more may have gone.
    let found = [
        ("input", "compressed model", only(&other_inputs, &inputs)),
        ("output", "original", only(&outputs, &other_outputs)),
        ("output", "compressed model", only(&other_outputs, &outputs)),
    ];
    for (what, side, name) in found {
        if let Some(name) = name {
            let why = format!("only the {side} has the {what} `{name}`");
            return Err(Error::usage(why, "models are compared by the names of their inputs and outputs"));
        }
    }
    Ok(())
}

fn failures(validation: &Validation) -> Vec<String> {
    let (asked, mut failures) = (&validation.tolerance, Vec::new());
    for output in &validation.outputs {
        let name = &output.name;
        if output.not_finite_compressed > output.not_finite_original || output.not_finite_differing > 0 {
            let n = output.not_finite_differing;
            failures
                .push(format!("`{name}`: {n} elements differ that are NaN or infinite in one of the models"));
        }
        let alike = asked.allows(output);
        if let Some(least) = asked.min_cosine.filter(|least| !alike && output.cosine < *least) {
            failures.push(format!("`{name}`: cosine {:.4} is below {least}", output.cosine));
        }
        if let (Some(least), Some(sqnr)) = (asked.min_sqnr_db, output.sqnr_db)
            && !alike
            && sqnr < least
        {
            failures.push(format!("`{name}`: SQNR {sqnr:.1} dB is below {least}"));
        }
        if let Some(most) = asked.max_abs.filter(|most| output.max_abs > *most) {
            failures.push(format!("`{name}`: largest difference {:.3e} is above {most}", output.max_abs));
        }
        if let (Some(least), Some(top1)) = (asked.min_top1, output.top1_agreement)
            && top1 < least
        {
            failures.push(format!(
                "`{name}`: top-1 agreement {:.2} % is below {:.2} %",
                top1 * 100.0,
                least * 100.0
            ));
        }
    }
    if let (Some(most), Some(accuracy)) = (asked.max_drop, validation.accuracy) {
        let drop = accuracy.original - accuracy.compressed;
        // A share of counted samples is exact to far less than one sample.
        if drop > most + 1e-9 {
            failures.push(format!(
                "accuracy falls by {:.2} points, more than {:.2}",
                drop * 100.0,
                most * 100.0
            ));
        }
    }
    failures
}
