//! How two models differ, part by part.

use super::Summary;
use crate::{
    error::Result,
    ir::{Attr, Graph, Model, Op, OpId, Origin, ValueId},
    lower,
    runtime::numbers,
};
use serde::Serialize;
use std::collections::HashMap;

/// Something that one of two models lacks (`None`) or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is called.
    pub name: String,
    /// What it is in the first model.
    pub before: Option<String>,
    /// What it is in the second.
    pub after: Option<String>,
}

/// An op that one of two models lacks or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpChange {
    /// Its operator in both.
    #[serde(flatten)]
    pub operator: Change,
    /// Where the operator is the same: what of its attributes, inputs and outputs differs.
    pub differs: Vec<String>,
}

/// A constant that one of two models lacks or has otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConstantChange {
    /// Its type in both.
    #[serde(flatten)]
    pub ty: Change,
    /// The largest absolute difference of its elements, where both have it in one shape and its elements are numbers.
    pub max_difference: Option<f64>,
}

/// How two models differ. Doc strings and the declared types of inner values are not compared.
#[derive(Clone, Debug, Serialize)]
pub struct ModelDiff {
    /// Whether they do not: all lists below are empty.
    pub equal: bool,
    /// The first model.
    pub before: Summary,
    /// The second model.
    pub after: Summary,
    /// The version of the file format and those of operator sets.
    pub versions: Vec<Change>,
    /// Producer, description, metadata: see [`lower::metadata`].
    pub metadata: Vec<Change>,
    /// Inputs with their types.
    pub inputs: Vec<Change>,
    /// Outputs with their types.
    pub outputs: Vec<Change>,
    /// Operators with how many ops are of them.
    pub operators: Vec<Change>,
    /// Ops by name, or by first output where they have none. One in a body or function is called by the path to it.
    pub ops: Vec<OpChange>,
    /// Initializers by name, those in bodies by path.
    pub initializers: Vec<ConstantChange>,
}

/// Compares two models.
///
/// # Errors
/// Where a model's metadata cannot be read.
pub fn diff(before: &Model, after: &Model) -> Result<ModelDiff> {
    let (a, b) = (Parts::of(before), Parts::of(after));
    let (sizes_before, sizes_after) = (Summary::of(before), Summary::of(after));
    let counts =
        |summary: &Summary| summary.operators.iter().map(|(k, n)| (k.clone(), n.to_string())).collect();
    let metadata = |model| lower::metadata(model).map(|found| found.into_iter().collect());
    let mut found = ModelDiff {
        equal: false,
        versions: changes(versions(before), versions(after)),
        metadata: changes(metadata(before)?, metadata(after)?),
        inputs: interface(&before.graph, &before.graph.inputs, &after.graph, &after.graph.inputs),
        outputs: interface(&before.graph, &before.graph.outputs, &after.graph, &after.graph.outputs),
        operators: changes(counts(&sizes_before), counts(&sizes_after)),
        ops: ops(&a, &b),
        initializers: initializers(&a, &b),
        before: sizes_before,
        after: sizes_after,
    };
    let lists = [&found.versions, &found.metadata, &found.inputs, &found.outputs, &found.operators];
    found.equal = lists.iter().all(|l| l.is_empty()) && found.ops.is_empty() && found.initializers.is_empty();
    Ok(found)
}

/// Names with what they are, in order.
type Named<T> = Vec<(String, T)>;

/// Each name of either list with what it is in both, those of the first list first.
fn matched<T>(before: Named<T>, after: Named<T>) -> Vec<(String, Option<T>, Option<T>)> {
    let order: HashMap<String, usize> =
        before.iter().enumerate().map(|(k, (name, _))| (name.clone(), k)).collect();
    let mut all: Vec<_> = before.into_iter().map(|(name, x)| (name, Some(x), None)).collect();
    for (name, y) in after {
        match order.get(&name) {
            Some(k) => all[*k].2 = Some(y),
            None => all.push((name, None, Some(y))),
        }
    }
    all
}

fn changes(before: Named<String>, after: Named<String>) -> Vec<Change> {
    let all = matched(before, after).into_iter().filter(|(_, before, after)| before != after);
    all.map(|(name, before, after)| Change { name, before, after }).collect()
}

fn versions(model: &Model) -> Named<String> {
    let format = ("file format".to_owned(), model.ir_version.to_string());
    let sets = model.opsets.iter().map(|o| {
        let domain = if o.is_standard() { "ai.onnx" } else { &o.domain };
        (domain.to_owned(), o.version.to_string())
    });
    std::iter::once(format).chain(sets).collect()
}

fn interface(g: &Graph, ours: &[ValueId], h: &Graph, theirs: &[ValueId]) -> Vec<Change> {
    let named = |g: &Graph, vs: &[ValueId]| -> Named<String> {
        let ty = |v: &ValueId| g.value(*v).ty.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
        vs.iter().map(|v| (g.name_of(*v).to_owned(), ty(v))).collect()
    };
    let (before, after) = (named(g, ours), named(h, theirs));
    let order = |list: &Named<String>| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (first, second) = (order(&before), order(&after));
    let mut found = changes(before, after);
    let [mut a, mut b] = [first.clone(), second.clone()];
    a.sort();
    b.sort();
    if a == b && first != second {
        let (before, after) = (Some(first.join(", ")), Some(second.join(", ")));
        found.push(Change { name: "order".to_owned(), before, after });
    }
    found
}

/// What a model consists of, bodies and functions included.
struct Parts<'a> {
    ops: Named<(&'a Graph, OpId)>,
    constants: Named<&'a Origin>,
}

impl<'a> Parts<'a> {
    fn of(model: &'a Model) -> Self {
        let mut parts = Parts { ops: Vec::new(), constants: Vec::new() };
        parts.add(&model.graph, "");
        for function in &model.functions {
            let overload = if function.overload.is_empty() { "" } else { ":" };
            let name = format!("{}.{}{overload}{}/", function.domain, function.name, function.overload);
            parts.add(&function.body, &name);
        }
        // Names of ops need not be unique.
        let mut seen: HashMap<String, u32> = HashMap::new();
        for (name, _) in &mut parts.ops {
            let n = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
            if *n > 1 {
                *name += &format!("#{n}");
            }
        }
        parts
    }
    fn add(&mut self, g: &'a Graph, path: &str) {
        for v in g.values() {
            let origin = &g.value(v).origin;
            if matches!(origin, Origin::Initializer(_) | Origin::SparseInitializer(_)) {
                self.constants.push((format!("{path}{}", g.name_of(v)), origin));
            }
        }
        for id in g.order() {
            let name = format!("{path}{}", g.place(id).name());
            self.ops.push((name.clone(), (g, id)));
            for attribute in &g.op(id).attrs {
                let bodies = match &attribute.value {
                    Attr::Graph(body) => std::slice::from_ref(&**body),
                    Attr::Graphs(bodies) => bodies,
                    _ => &[],
                };
                bodies.iter().for_each(|body| self.add(body, &format!("{name}/{}/", attribute.name)));
            }
        }
    }
}

fn ops(a: &Parts<'_>, b: &Parts<'_>) -> Vec<OpChange> {
    let all = matched(a.ops.clone(), b.ops.clone()).into_iter().map(|(name, before, after)| {
        let operator = |side: Option<(&Graph, OpId)>| side.map(|(g, op)| g.op(op).full_type());
        let same = before.zip(after).filter(|_| operator(before) == operator(after));
        let differs = same.map_or_else(Vec::new, |(a, b)| differences(a, b));
        OpChange { operator: Change { name, before: operator(before), after: operator(after) }, differs }
    });
    all.filter(|c| c.operator.before != c.operator.after || !c.differs.is_empty()).collect()
}

/// What differs between two ops of one name, besides the operator.
fn differences((g, x): (&Graph, OpId), (h, y): (&Graph, OpId)) -> Vec<String> {
    let attributes = |op: &Op| op.attrs.iter().map(|a| (a.name.clone(), a.value.clone())).collect();
    let mut found = Vec::new();
    for (name, a, b) in matched(attributes(g.op(x)), attributes(h.op(y))) {
        // What is in bodies is compared op by op.
        let bodies = |a: &Option<Attr>| matches!(a, Some(Attr::Graph(_) | Attr::Graphs(_)));
        if a == b || bodies(&a) && bodies(&b) {
            continue;
        }
        let text = |a: &Option<Attr>| a.as_ref().map_or_else(|| "none".to_owned(), shown);
        found.push(format!("attribute {name}: {} -> {}", text(&a), text(&b)));
    }
    let names = |g: &Graph, slots: &[Option<ValueId>]| -> String {
        slots.iter().map(|v| v.map_or("", |v| g.name_of(v))).collect::<Vec<_>>().join(", ")
    };
    for (what, a, b) in [
        ("inputs", names(g, &g.inputs_of(x)), names(h, &h.inputs_of(y))),
        ("outputs", names(g, &g.outputs_of(x)), names(h, &h.outputs_of(y))),
    ] {
        if a != b {
            found.push(format!("{what}: ({a}) -> ({b})"));
        }
    }
    found
}

/// An attribute in a few words.
fn shown(value: &Attr) -> String {
    fn list<T: ToString>(values: &[T]) -> String {
        match values.len() {
            0..=8 => format!("[{}]", values.iter().map(T::to_string).collect::<Vec<_>>().join(",")),
            n => format!("{n} numbers"),
        }
    }
    match value {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => v.to_string(),
        Attr::String(v) => String::from_utf8_lossy(v).into_owned(),
        Attr::Ints(v) => list(v),
        Attr::Floats(v) => list(v),
        Attr::Tensor(t) => format!("a tensor {} of digest {:08x}", t.ty(), t.digest()),
        Attr::Type(t) => t.to_string(),
        Attr::Reference(name, _) => format!("the function's {name}"),
        Attr::Graph(_) | Attr::Graphs(_) => "a body".to_owned(),
        _ => "a value".to_owned(),
    }
}

fn initializers(a: &Parts<'_>, b: &Parts<'_>) -> Vec<ConstantChange> {
    let differing = matched(a.constants.clone(), b.constants.clone()).into_iter().filter(|(_, a, b)| a != b);
    let described = differing.map(|(name, a, b)| {
        let max_difference = a.zip(b).and_then(|(a, b)| max_difference(a, b));
        ConstantChange { ty: Change { name, before: a.map(ty), after: b.map(ty) }, max_difference }
    });
    described.collect()
}

fn ty(constant: &Origin) -> String {
    match constant {
        Origin::Initializer(t) => t.ty().to_string(),
        Origin::SparseInitializer(s) => format!("sparse {}{:?}", s.values.dtype(), s.dims),
        Origin::Computed | Origin::Captured => "?".to_owned(),
    }
}

fn max_difference(a: &Origin, b: &Origin) -> Option<f64> {
    let (Origin::Initializer(a), Origin::Initializer(b)) = (a, b) else { return None };
    if a.shape() != b.shape() {
        return None;
    }
    fn largest<T: Into<f64>>(pairs: impl Iterator<Item = (T, T)>) -> f64 {
        let pairs = pairs.map(|(a, b)| (a.into(), b.into()));
        pairs.map(|(a, b): (f64, f64)| if a == b { 0.0 } else { (a - b).abs() }).fold(0.0, f64::max)
    }
    // Weights can be large: those of single precision are compared where they lie.
    match (a.view::<f32>(), b.view::<f32>()) {
        (Some(a), Some(b)) => Some(largest(a.iter().copied().zip(b.iter().copied()))),
        _ => Some(largest(numbers(a)?.into_iter().zip(numbers(b)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn model(ops: &str, weights: &str, y: &str) -> Model {
        let source = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[n,2] x, bool c) => ({y}) <{weights}> {{ {ops} }}"#
        );
        text::parse(&source).unwrap()
    }

    #[test]
    fn each_part_is_compared_by_name() {
        let a = model(
            r#"[one] h = Softmax <axis = 1> (x)
               [two] y = If (c) < then_branch = t () => (float[n,2] p) <float[2] k = {1, 2}> { p = Mul (h, k) },
                                  else_branch = e () => (float[n,2] q) { [in] q = Neg (h) } >"#,
            "float[2] w = {1, 2}, float[1] gone = {0}",
            "float[n,2] y",
        );
        assert!(diff(&a, &a).unwrap().equal);
        let mut b = model(
            r#"[one] h = Softmax <axis = -1> (x)
               [two] y = If (c) < then_branch = t () => (float[n,2] p) <float[2] k = {1, 2.5}> { p = Mul (h, k) },
                                  else_branch = e () => (float[n,2] q) { [in] q = Abs (h) } >
               [three] z = Relu (y)"#,
            "double[2] w = {1, 2}",
            "float[2,2] y, float[n,2] z",
        );
        b.opsets[0].version = 18;
        let found = diff(&a, &b).unwrap();
        assert!(!found.equal);
        let change = |name: &str, before: Option<&str>, after: Option<&str>| Change {
            name: name.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        assert_eq!(found.versions, [change("ai.onnx", Some("17"), Some("18"))]);
        assert_eq!(found.inputs, []);
        let y = change("y", Some("float[n,2]"), Some("float[2,2]"));
        assert_eq!(found.outputs, [y, change("z", None, Some("float[n,2]"))]);
        let operators: Vec<_> = found.operators.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(operators, ["Neg", "Abs", "Relu"]);
        let ops: Vec<_> =
            found.ops.iter().map(|c| (c.operator.name.as_str(), c.differs.join("; "))).collect();
        let expected = [("one", "attribute axis: 1 -> -1"), ("two/else_branch/in", ""), ("three", "")]
            .map(|(n, d)| (n, d.into()));
        assert_eq!(ops, expected);
        let constants: Vec<_> = found.initializers.iter().map(|c| (c.ty.clone(), c.max_difference)).collect();
        let expected = [
            (change("w", Some("float[2]"), Some("double[2]")), Some(0.0)),
            (change("gone", Some("float[1]"), None), None),
            (change("two/then_branch/k", Some("float[2]"), Some("float[2]")), Some(0.5)),
        ];
        assert_eq!(constants, expected);
    }
    #[test]
    fn order_and_wiring_count() {
        let (a, mut b) =
            (model("y = Add (x, x)", "", "float[n,2] y"), model("y = Add (x, x)", "", "float[n,2] y"));
        b.graph.inputs.reverse();
        let found = diff(&a, &b).unwrap();
        assert_eq!(
            (found.inputs[0].name.as_str(), found.inputs[0].after.as_deref()),
            ("order", Some("c, x"))
        );
        let other = model("u = Neg (x)\n y = Add (x, u)", "", "float[n,2] y");
        let found = diff(&a, &other).unwrap();
        assert_eq!(found.ops[0].differs, ["inputs: (x, x) -> (x, u)"]);
    }
}
