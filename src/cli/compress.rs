//! The main job: read, compress, prove, write, report.

use super::{
    args::CompressArgs, args::ExternalArg, inspect::load, out, progress::Bars, recipe, say, table, validate,
};
use crate::{
    driver::{self, Preparation},
    error::{Error, Result},
    ir::Model,
    lower::{self, ExternalData, SaveOptions},
    measure::Measure,
    passes::{
        Context, PASSES, Pipeline, Remark, RemarkKind,
        interface::{freeze_dims, set_input_shapes, set_outputs},
    },
    report::{Report, Summary, slower},
    runtime::{Measurer, Runtime, Samples},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

/// Runs the job and returns an error that carries the exit code.
pub(super) fn run(args: &CompressArgs) -> Result<()> {
    let start = Instant::now();
    let pipeline = pipeline(args)?;
    if args.explain {
        return out(&explain(&pipeline));
    }
    let input = args.input.as_deref().ok_or_else(|| Error::usage("no model is given", "name one, or - "))?;
    let output = args.output.clone().unwrap_or_else(|| default_output(input));
    let mut model = load(input)?;
    freeze_dims(&mut model, &args.running.dim)?;
    set_input_shapes(&mut model, &args.input_shape)?;
    if !args.outputs.is_empty() {
        set_outputs(&mut model, &args.outputs)?;
    }
    let runtime = runtime(args)?;
    let samples = match (&runtime, &args.running.calib) {
        (None, Some(_)) => return Err(crate::measure::no_runtime("--calib")),
        // Made-up inputs validate; a pass must not take them for calibration data.
        (Some(runtime), calib) if calib.is_some() || !args.no_validate => {
            args.running.samples(runtime, &model)?
        }
        _ => Samples::from_batches([]),
    };
    let labels = args.running.labels(&samples)?;
    let measurer = runtime.as_ref().map(|runtime| {
        let measurer = Measurer::new(runtime.clone(), samples.clone(), args.running.session_options());
        measurer.timing_on(Some(args.running.threads)).with_labels(labels.clone().unwrap_or_default())
    });
    let bars = Bars::new(args.quiet);
    let mut cx = Context::new().with_seed(args.running.seed).with_progress(&bars);
    if let Some(measurer) = &measurer {
        cx = cx.with_measure(measurer as &dyn Measure);
    }
    // Before anything is written: the output may replace the input.
    let file_bytes = Summary::file_bytes(&model, input);
    let read = !args.quiet || args.report.is_some();
    let summary = |model: &Model| if read { Summary::of(model) } else { Summary::default() };
    let before = summary(&model);
    // Nothing but validation needs the two side by side.
    let original = (runtime.is_some() && !args.no_validate).then(|| model.clone());
    if !args.outputs.is_empty() {
        model.graph.sweep();
    }
    let preparation = Preparation {
        no_simplify: args.no_simplify,
        opset: args.opset,
        inline_functions: args.inline_functions,
        drop_unused_inputs: args.drop_unused_inputs,
    };
    let passes = driver::compress(&mut model, &pipeline, preparation, &mut cx)?;
    let validation = match (&runtime, &original) {
        (Some(runtime), Some(original)) => Some(prove(runtime, original, &model, &samples, args, &pipeline)?),
        _ => None,
    };
    let verdict = validation.as_ref().map_or(Ok(()), validate::verdict);
    let good = verdict.is_ok();
    let written = if good { write(&model, &output, args)? } else { None };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        input: input.to_owned(),
        output: good.then(|| output.clone()),
        pipeline: pipeline.to_string(),
        before: Summary { file_bytes, ..before },
        after: Summary { file_bytes: written, ..summary(&model) },
        passes,
        counts: cx.counts,
        remarks: cx.remarks,
        validation,
        slower: None,
        seconds: 0.0,
    };
    let latency = report.validation.as_ref().and_then(|found| found.latency);
    report.slower = latency.and_then(|latency| slower(&latency, &report.before, &report.after));
    report.seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data");
        std::fs::write(path, text + "\n").map_err(|e| Error::io("cannot write", path, e))?;
    }
    if !args.quiet {
        show(&report, args.verbose, output == Path::new("-"))?;
    }
    verdict
}

fn pipeline(args: &CompressArgs) -> Result<Pipeline> {
    match (&args.recipe, &args.passes) {
        (Some(path), _) => recipe::read(path),
        (None, Some(text)) => text.parse(),
        (None, None) => "simplify".parse(),
    }
}

/// Every pass with every option, defaults included.
fn explain(pipeline: &Pipeline) -> String {
    let mut lines = vec![pipeline.to_string()];
    for pass in pipeline.passes() {
        let given = pass.options();
        lines.push(format!("{}:", pass.name()));
        let defaults = PASSES.iter().find(|p| p.name == pass.name()).map(|p| (p.defaults)());
        for (key, default) in defaults.into_iter().flatten() {
            lines.push(format!("  {key} = {}", given.get(&key).unwrap_or(&default)));
        }
    }
    lines.join("\n")
}

fn default_output(input: &Path) -> PathBuf {
    if input == Path::new("-") { PathBuf::from("-") } else { input.with_extension("compressed.onnx") }
}

/// The runtime, unless the run can do without: with `--no-validate` and no data a missing library is no error.
fn runtime(args: &CompressArgs) -> Result<Option<Runtime>> {
    match args.running.runtime() {
        Ok(runtime) => {
            if args.verbose {
                let (path, source) = (runtime.path().display(), runtime.source());
                say(&format!("ONNX Runtime {} from {path} ({source})", runtime.version()));
            }
            Ok(Some(runtime))
        }
        Err(_) if args.no_validate && args.running.calib.is_none() => Ok(None),
        Err(e) => Err(e),
    }
}

fn prove(
    runtime: &Runtime,
    original: &Model,
    model: &Model,
    samples: &Samples,
    args: &CompressArgs,
    pipeline: &Pipeline,
) -> Result<crate::runtime::Validation> {
    // A pipeline is as exact as its least exact pass; where one has no bar of its own there is none.
    let bars: Option<Vec<f64>> = pipeline.passes().iter().map(|p| p.least_sqnr()).collect();
    let bar = bars.and_then(|bars| bars.into_iter().reduce(f64::min));
    let options = args.running.validate_options(samples, args.min_sqnr.or(bar))?;
    crate::runtime::validate(runtime, original, model, samples, &options)
}

/// Writes the model and returns the bytes of all its files.
fn write(model: &Model, output: &Path, args: &CompressArgs) -> Result<Option<u64>> {
    if output == Path::new("-") {
        let bytes = lower::to_bytes(model)?;
        let written = std::io::stdout().lock().write_all(&bytes);
        written.map_err(|e| Error::io("cannot write to", "standard output", e))?;
        return Ok(Some(bytes.len() as u64));
    }
    let external_data = match args.external_data {
        ExternalArg::Auto => ExternalData::Auto,
        ExternalArg::Never => ExternalData::Never,
        ExternalArg::Always => ExternalData::Always,
    };
    lower::save(model, output, &SaveOptions { external_data }).map(Some)
}

fn show(report: &Report, verbose: bool, to_stderr: bool) -> Result<()> {
    let mut lines = vec![table::sizes(&report.before, &report.after).to_string()];
    lines.extend(report.validation.iter().map(validate::show));
    lines.extend(report.slower.iter().map(|text| format!("warning: {text}")));
    let shown = |r: &&Remark| verbose || r.kind == RemarkKind::Warning;
    for r in report.remarks.iter().filter(shown) {
        let kind = format!("{:?}", r.kind).to_lowercase();
        lines.push(format!("{}: {kind}{}: {}", r.pass, r.at.suffix(), r.text));
    }
    match &report.output {
        Some(path) => lines.push(format!("wrote {} in {:.1} s", path.display(), report.seconds)),
        None => lines.push("nothing was written".to_owned()),
    }
    let text = lines.join("\n");
    // With the model on standard output, the table goes where it does not mix with it.
    if to_stderr {
        say(&text);
        return Ok(());
    }
    out(&text)
}
