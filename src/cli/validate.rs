//! The comparison of two models: the command, and its table in the report of a run.

use super::{args::RunArgs, inspect::load, out, say, table};
use crate::{
    error::{Error, Result},
    ir::{Dim, Model},
    passes::interface::{freeze_dims, set_input_shapes, set_outputs},
    report::{Summary, slower},
    runtime::{Validation, validate},
};
use std::path::Path;

/// Compares two model files.
pub(super) fn run(
    original: &Path,
    compressed: &Path,
    running: &RunArgs,
    least_sqnr: Option<f64>,
    json: bool,
) -> Result<()> {
    let (mut before, after) = (load(original)?, load(compressed)?);
    give_outputs_of(&mut before, &after)?;
    let runtime = running.runtime()?;
    let samples = running.samples(&runtime, &taken_by_both(&before, &after, &running.dim)?)?;
    let options = running.validate_options(&samples, least_sqnr)?;
    let found = validate(&runtime, &before, &after, &samples, &options)?;
    if json {
        out(&serde_json::to_string_pretty(&found).expect("a validation is plain data"))?;
    } else {
        let slower = found.latency.and_then(|t| slower(&t, &Summary::of(&before), &Summary::of(&after)));
        let warning = slower.map(|text| format!("\nwarning: {text}")).unwrap_or_default();
        out(&(show(&found) + &warning))?;
    }
    verdict(&found)
}

/// Makes the original give what a compressed model gives that was cut to other outputs.
fn give_outputs_of(original: &mut Model, compressed: &Model) -> Result<()> {
    let names = |model: &Model| -> Vec<String> {
        model.graph.outputs.iter().map(|v| model.graph.name_of(*v).to_owned()).collect()
    };
    let (all, kept) = (names(original), names(compressed));
    if kept.iter().all(|name| all.contains(name)) && all.len() == kept.len() {
        return Ok(());
    }
    set_outputs(original, &kept)?;
    let gone: Vec<_> = all.into_iter().filter(|name| !kept.contains(name)).collect();
    if !gone.is_empty() {
        say(&format!("note: only the original gives {}", gone.join(", ")));
    }
    Ok(())
}

/// The original with its inputs narrowed to what the compressed model takes too, and to the dimensions given.
fn taken_by_both(before: &Model, after: &Model, dims: &[(String, usize)]) -> Result<Model> {
    let mut narrowed = before.clone();
    freeze_dims(&mut narrowed, dims)?;
    let (g, h) = (&before.graph, &after.graph);
    let shared = h.inputs.iter().filter(|v| g.find(h.name_of(**v)).is_some_and(|v| g.is_input(v)));
    let needed = shared.filter(|v| h.initializer(**v).is_none());
    let known = |dim: Dim| if dim.known().is_some() { dim } else { Dim::Unknown };
    let shapes: Vec<_> = needed
        .filter_map(|v| Some((h.name_of(*v).to_owned(), h.shape(*v)?.into_iter().map(known).collect())))
        .collect();
    set_input_shapes(&mut narrowed, &shapes)?;
    Ok(narrowed)
}

/// The error of a validation that failed: exit code 3.
pub(super) fn verdict(found: &Validation) -> Result<()> {
    if found.passed() {
        return Ok(());
    }
    let what = match found.synthetic {
        true => {
            " (made-up inputs can look worse than real ones, which --calib gives; --min-sqnr sets the bar)"
        }
        false => "",
    };
    Err(Error::BelowBar(format!("validation failed: {}{what}", found.failures.join("; "))))
}

/// The outputs' errors and the run times, in at most 80 columns.
pub(super) fn show(found: &Validation) -> String {
    let mut outputs = table::table(&["output", "max error", "mean error", "cosine", "SQNR dB", "top-1"]);
    for o in &found.outputs {
        let cells = [
            o.name.clone(),
            format!("{:.2e}", o.max_abs),
            format!("{:.2e}", o.mean_abs),
            format!("{:.6}", o.cosine),
            o.sqnr_db.map_or_else(|| "exact".to_owned(), |db| format!("{db:.1}")),
            o.top1_agreement.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0)),
        ];
        outputs.add_row(cells);
    }
    let source = if found.synthetic { "made-up inputs; --calib gives real ones" } else { "samples" };
    let mut lines = vec![outputs.to_string(), format!("compared on {} {source}", found.samples)];
    for (o, own) in found.outputs.iter().filter_map(|o| Some((o, o.own_sqnr_db?))) {
        lines.push(format!("`{}`: ONNX Runtime's own rewrites alone make it {own:.1} dB", o.name));
    }
    if let Some(accuracy) = &found.accuracy {
        let (before, after) = (accuracy.original * 100.0, accuracy.compressed * 100.0);
        lines.push(format!("accuracy {before:.2}% -> {after:.2}% of {} labelled samples", accuracy.samples));
    }
    if let Some(time) = &found.latency {
        let threads = time.threads.map_or_else(|| "all".to_owned(), |n| n.to_string());
        lines.push(format!(
            "latency p50 {:.3} -> {:.3} ms ({}), p95 {:.3} -> {:.3} ms; batch {}, threads {threads}, {}",
            time.original.p50_ms,
            time.compressed.p50_ms,
            table::ratio(time.compressed.p50_ms, time.original.p50_ms),
            time.original.p95_ms,
            time.compressed.p95_ms,
            time.batch,
            found.provider
        ));
    }
    lines.join("\n")
}
