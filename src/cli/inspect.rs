//! `inspect`, `print` and `passes`: commands that only look.

use super::{out, table};
use crate::{
    driver::{Preparation, compress},
    error::{Error, Result},
    ir::{Graph, Model, ValueId, text},
    lower,
    passes::{
        Context, Named, PASSES, Pipeline,
        prune::{self, Standing, Survey},
        simplify::Simplify,
    },
    report::{self, Layer, Summary},
};
use comfy_table::CellAlignment;
use std::path::Path;

/// Reads a model; `-` is standard input.
pub(super) fn load(path: &Path) -> Result<Model> {
    if path != Path::new("-") {
        return lower::load(path);
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
        .map_err(|e| Error::io("cannot read", "standard input", e))?;
    lower::parse(bytes.into(), None)
}

/// A value as "name float[batch,3,224,224]".
fn signature(graph: &Graph, v: ValueId) -> String {
    let ty = graph.value(v).ty.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    format!("{} {ty}", graph.name_of(v))
}

/// Shows what a model holds.
pub(super) fn inspect(path: &Path, json: bool) -> Result<()> {
    let model = load(path)?;
    let summary = Summary::of_file(&model, path);
    if json {
        let text = serde_json::to_string_pretty(&summary).expect("a summary is plain data");
        return out(&text);
    }
    let graph = &model.graph;
    let mut lines = Vec::new();
    for (label, values) in [("input", &graph.inputs), ("output", &graph.outputs)] {
        lines.extend(values.iter().map(|v| format!("{label:<8}{}", signature(graph, *v))));
    }
    lines.push(format!(
        "{:<8}opset {}, {} nodes, {} parameters, {} of weights, {} MACs",
        "model",
        summary.opset,
        summary.nodes,
        table::count(summary.parameters),
        table::bytes(summary.weight_bytes),
        table::count(summary.macs)
    ));
    let mut operators = table::table(&["operator", "nodes"]);
    let mut sorted: Vec<_> = summary.operators.iter().collect();
    sorted.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
    for (name, n) in sorted {
        operators.add_row([name.clone(), n.to_string()]);
    }
    lines.push(operators.to_string());
    out(&lines.join("\n"))
}

/// Shows what `prune` can cut of a model, once it is simplified as the pass asks for.
pub(super) fn groups(path: &Path, json: bool) -> Result<()> {
    let mut model = load(path)?;
    let simplify: Pipeline = Simplify::NAME.parse()?;
    compress(&mut model, &simplify, Preparation::default(), &mut Context::new())?;
    let Survey { groups, macs, cuttable } = prune::survey(&mut model)?;
    if json {
        return out(&serde_json::to_string_pretty(&groups).expect("a list of groups is plain data"));
    }
    let mut rows = table::table(&["layer", "positions", "weights", "parameters", "MACs", "cut"]);
    if let Some(cut) = rows.column_mut(5) {
        cut.set_cell_alignment(CellAlignment::Left);
    }
    for group in &groups {
        let cut = match (group.standing, &group.reason) {
            (Standing::Exact, _) => "exact".to_owned(),
            (Standing::Lossy, _) => "lossy".to_owned(),
            (Standing::Refused, why) => format!("no: {}", why.as_deref().unwrap_or("not known")),
        };
        let numbers = [group.positions, group.weights()].map(|n| n.to_string());
        let figures = [group.parameters, group.macs].map(table::count);
        rows.add_row([group.layer.clone()].into_iter().chain(numbers).chain(figures).chain([cut]));
    }
    let count = |standing| groups.iter().filter(|g| g.standing == standing).count();
    let (exact, lossy, refused) = (count(Standing::Exact), count(Standing::Lossy), count(Standing::Refused));
    let share = 100.0 * cuttable as f64 / macs.max(1) as f64;
    out(&format!(
        "{rows}\ngroups: {exact} can be cut, {lossy} with `lossy=true`, {refused} cannot\n\
         {share:.1} % of the multiply-accumulates are in layers that can be cut"
    ))
}

/// Columns for the text of a layer: all of it, its operator's name, its shape.
const TEXT: usize = 43;
const OPERATOR: usize = 12;
const SHAPE: usize = 16;

/// Shows each op of a model with what it gives and costs, in a line of at most 80 columns.
pub(super) fn layers(path: &Path, json: bool) -> Result<()> {
    let layers = report::layers(&load(path)?)?;
    if json {
        return out(&serde_json::to_string_pretty(&layers).expect("a list of layers is plain data"));
    }
    let mut rows = table::table(&["layer", "type", "shape", "params", "bytes", "MACs"]);
    for column in [1, 2] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Left);
        }
    }
    let figures =
        |parameters, bytes, macs| [table::count(parameters), table::bytes(bytes), table::count(macs)];
    let texts: Vec<_> =
        layers.iter().map(|l| [table::head(&l.operator, OPERATOR), table::head(&l.shape(), SHAPE)]).collect();
    let widest = |column: usize| texts.iter().map(|t| t[column].chars().count()).max().unwrap_or(0).max(6);
    let name = TEXT - widest(0) - widest(1);
    for (layer, text) in layers.iter().zip(texts) {
        let figures = figures(layer.parameters, layer.weight_bytes, layer.macs);
        rows.add_row([table::tail(&layer.name, name)].into_iter().chain(text).chain(figures));
    }
    let total = |of: fn(&Layer) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
    let totals = figures(total(|l| l.parameters), total(|l| l.weight_bytes), total(|l| l.macs));
    rows.add_row(
        ["total".to_owned(), format!("{} ops", layers.len()), String::new()].into_iter().chain(totals),
    );
    out(&rows.to_string())
}

/// Prints a model as text.
pub(super) fn print(path: &Path) -> Result<()> {
    out(text::print(&load(path)?).trim_end())
}

/// Lists the passes, or describes one.
pub(super) fn passes(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        let list: Vec<_> = PASSES.iter().map(|p| format!("{:<10}{}", p.name, p.about)).collect();
        return out(&list.join("\n"));
    };
    let pass = Pipeline::named(name, serde_json::Map::new())?;
    let info = PASSES.iter().find(|p| p.name == pass.name()).expect("it was just found by name");
    let mut lines = vec![format!("{}: {}", info.name, info.about)];
    lines.extend((info.defaults)().iter().map(|(key, value)| format!("  {key} = {value}")));
    out(&lines.join("\n"))
}
