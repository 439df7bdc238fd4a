//! Model-local functions: calls of them replaced by what they do.

use crate::{
    error::{Error, Result},
    ir::{
        Attr, Attribute, Carried, Dim, Function, Graph, Model, Op, OpId, Origin, TensorType, Type, Use,
        ValueId, Where,
    },
};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Ops that a model may have once its functions are inlined, and how deep bodies may nest: a few functions that call
/// each other can stand for more than any memory holds.
const MOST_OPS: u64 = 1 << 20;
const MOST_NESTED: usize = 64;

/// The functions of a model.
struct Functions<'a> {
    list: &'a [Function],
    by_name: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Functions<'a> {
    fn new(list: &'a [Function]) -> Self {
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (k, function) in list.iter().enumerate() {
            by_name.entry(&*function.name).or_default().push(k);
        }
        Functions { list, by_name }
    }
    /// The function that an op calls.
    fn called(&self, op: &Op) -> Option<usize> {
        let named = self.by_name.get(&*op.op_type)?.iter().copied();
        named.into_iter().find(|k| {
            let f = &self.list[*k];
            canonical(&f.domain) == canonical(&op.domain) && f.overload == op.overload
        })
    }
}

/// ONNX's own domain has two names.
fn canonical(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Replaces all calls of model-local functions, in bodies and in functions too, by the functions' ops, and drops the
/// functions. Attributes that refer to those of the call are filled in, or left out where neither the call nor a default
/// gives one; names are made unique; the call's name stands before those of its ops. Returns how many calls there were.
///
/// # Errors
/// [`Error::Unsupported`] where a function imports another version of an operator set than the model
/// ([`upgrade`](crate::lower::opset::upgrade) brings them together), or the result would be too large;
/// [`Error::Malformed`] where functions call themselves or calls do not fit them. The model is unchanged then.
pub fn inline_functions(model: &mut Model) -> Result<usize> {
    let functions = Functions::new(&model.functions);
    check_size(&model.graph, &functions)?;
    let mut new = Model { functions: Vec::new(), ..model.clone() };
    let mut called = BTreeSet::new();
    let calls = expand(&mut new.graph, &functions, &mut called)?;
    for k in called {
        merge_imports(&mut new, &functions.list[k], &functions)?;
    }
    let mut used = HashSet::new();
    new.graph.for_each_nested(&mut |g| used.extend(g.ops().map(|op| canonical(&g.op(op).domain))));
    let of_functions: HashSet<&str> = functions.list.iter().map(|f| canonical(&f.domain)).collect();
    let needless =
        |domain: &str| !domain.is_empty() && of_functions.contains(domain) && !used.contains(domain);
    new.opsets = new.opsets.iter().filter(|o| !needless(canonical(&o.domain))).cloned().collect();
    *model = new;
    Ok(calls)
}

/// Drops the functions that nothing calls, neither the main graph nor a function that it calls; returns how many.
pub(super) fn drop_unused_functions(model: &mut Model) -> usize {
    let functions = Functions::new(&model.functions);
    let mut called = calls_in(&model.graph, &functions);
    let mut todo: Vec<usize> = called.iter().copied().collect();
    while let Some(k) = todo.pop() {
        let inner = calls_in(&functions.list[k].body, &functions);
        todo.extend(inner.into_iter().filter(|k| called.insert(*k)));
    }
    let all = std::mem::take(&mut model.functions);
    let before = all.len();
    model.functions =
        all.into_iter().enumerate().filter(|(k, _)| called.contains(k)).map(|(_, f)| f).collect();
    before - model.functions.len()
}

/// What the inlined whole of a graph is: its ops, and how deep its bodies nest.
type Size = (u64, usize);

/// Refuses what would be too large once inlined, and functions that call themselves.
fn check_size(graph: &Graph, functions: &Functions<'_>) -> Result<()> {
    // Each function once all that it calls are known.
    let mut sizes = vec![None; functions.list.len()];
    let mut callers = vec![Vec::new(); functions.list.len()];
    let mut waiting = Vec::new();
    for (k, function) in functions.list.iter().enumerate() {
        let called = calls_in(&function.body, functions);
        called.iter().for_each(|c| callers[*c].push(k));
        waiting.push(called.len());
    }
    let mut ready: Vec<usize> = (0..waiting.len()).filter(|k| waiting[*k] == 0).collect();
    while let Some(k) = ready.pop() {
        sizes[k] = Some(size(&functions.list[k].body, functions, &sizes, 0));
        for caller in &callers[k] {
            waiting[*caller] -= 1;
            ready.extend((waiting[*caller] == 0).then_some(*caller));
        }
    }
    if let Some(k) = sizes.iter().position(Option::is_none) {
        let name = &functions.list[k].name;
        return Err(Error::malformed((), format!("function `{name}` calls itself, or one that does")));
    }
    let (ops, nested) = size(graph, functions, &sizes, 0);
    if ops > MOST_OPS || nested > MOST_NESTED {
        let why = format!(
            "its functions stand for {ops} ops, nested {nested} deep; at most {MOST_OPS} and {MOST_NESTED} are inlined"
        );
        return Err(Error::unsupported((), why));
    }
    Ok(())
}

fn calls_in(graph: &Graph, functions: &Functions<'_>) -> HashSet<usize> {
    let mut called = HashSet::new();
    graph.for_each_nested(&mut |g| called.extend(g.ops().filter_map(|op| functions.called(g.op(op)))));
    called
}

/// `sizes` has those of all functions that the graph calls.
fn size(graph: &Graph, functions: &Functions<'_>, sizes: &[Option<Size>], nested: usize) -> Size {
    let (mut ops, mut deepest) = (0u64, nested);
    let mut add = |(more, depth): Size| {
        ops = ops.saturating_add(more);
        deepest = deepest.max(depth);
    };
    for op in graph.ops() {
        match functions.called(graph.op(op)).and_then(|k| sizes[k]) {
            Some((more, depth)) => add((more, depth.saturating_add(nested))),
            None => add((1, nested)),
        }
        graph.op(op).bodies().for_each(|body| add(size(body, functions, sizes, nested + 1)));
    }
    (ops, deepest)
}

/// Inlines until nothing calls a function any more; returns how many calls there were.
fn expand(g: &mut Graph, functions: &Functions<'_>, called: &mut BTreeSet<usize>) -> Result<usize> {
    let mut calls = 0;
    let mut ops: Vec<OpId> = g.ops().collect();
    while !ops.is_empty() {
        let newest = ops.iter().max().copied();
        for op in ops {
            if let Some(k) = functions.called(g.op(op)) {
                called.insert(k);
                inline(g, op, &functions.list[k])?;
                calls += 1;
                continue;
            }
            let mut failed = None;
            g.edit_bodies(op, |body| match expand(body, functions, called) {
                Ok(inner) => {
                    calls += inner;
                    inner > 0
                }
                Err(why) => {
                    failed = Some(why);
                    false
                }
            });
            failed.map_or(Ok(()), Err)?;
        }
        ops = g.ops().filter(|op| Some(*op) > newest).collect();
    }
    Ok(calls)
}

/// Puts a function's ops in the place of a call.
fn inline(g: &mut Graph, call: OpId, function: &Function) -> Result<()> {
    let (op, inputs, outputs) = (g.op(call).clone(), g.inputs_of(call), g.outputs_of(call));
    let misfit = |g: &Graph, why: String| {
        Err(Error::malformed(g.place(call), format!("call of function `{}`: {why}", function.name)))
    };
    let mut body = g.adopt(&function.body);
    let (takes, gives) = (body.inputs.len(), body.outputs.len());
    if inputs.len() > takes || outputs.len() > gives {
        let (given, read) = (inputs.len(), outputs.len());
        return misfit(g, format!("{given} inputs and {read} outputs, where it has {takes} and {gives}"));
    }
    let mut given = Vec::new();
    for (k, v) in std::mem::take(&mut body.inputs).into_iter().enumerate() {
        match inputs.get(k).copied().flatten() {
            Some(outer) => {
                body.inputs.push(v);
                given.push(outer);
            }
            None if body.is_output(v) => {
                return misfit(g, format!("input {k} is left out, but is what it gives back"));
            }
            None => leave_out(&mut body, v),
        }
    }
    fill_in(&mut body, &op, function, false);
    let results = g.inline_body(call, body, &given);
    g.remove_op(call);
    for (from, to) in outputs.into_iter().zip(results) {
        let Some(from) = from else { continue };
        let (name, ty) = (g.name_of(from).to_owned(), g.value(from).ty.clone());
        let was_output = g.is_output(from);
        g.replace_value(from, to);
        // A value inside the function takes over the name that the model knows it by.
        let inner = !was_output && !given.contains(&to) && !g.is_output(to);
        if inner && g.has_value(from) && g.remove_value_if_unused(from) {
            g.rename(to, &name);
            let value = g.value_mut(to);
            value.ty = ty.or_else(|| value.ty.take());
        }
    }
    Ok(())
}

/// Takes an input away from whatever uses it, in bodies too.
fn leave_out(g: &mut Graph, v: ValueId) {
    let name = g.name_of(v).to_owned();
    for at in g.uses(v) {
        match at {
            Use::Input(op, slot) => g.set_input(op, slot, None),
            Use::Capture(op) => {
                g.edit_bodies(op, |body| {
                    if let Some(v) = body.find(&name).filter(|v| body.value(*v).origin == Origin::Captured) {
                        leave_out(body, v);
                    }
                    true
                });
            }
        }
    }
    g.remove_value_if_unused(v);
}

/// Fills in what the call's attributes are, and puts its name before those of the ops. Of the types that the function
/// declares, only those in bodies stay, which some operators cannot do without; names of dimensions are the function's
/// own and go.
fn fill_in(body: &mut Graph, call: &Op, function: &Function, nested: bool) {
    for v in body.values().collect::<Vec<_>>() {
        let value = body.value_mut(v);
        value.carried = Carried::default();
        value.ty = value.ty.take().filter(|_| nested);
        if let Some(Type::Tensor(TensorType { shape: Some(shape), .. })) = &mut value.ty {
            shape.iter_mut().filter(|dim| dim.known().is_none()).for_each(|dim| *dim = Dim::Unknown);
        }
    }
    for id in body.ops().collect::<Vec<_>>() {
        let op = body.op_mut(id);
        if !call.name.is_empty() && !op.name.is_empty() {
            op.name = format!("{}/{}", call.name, op.name);
        }
        for attribute in std::mem::take(&mut op.attrs) {
            let Attr::Reference(of, _) = &attribute.value else {
                op.attrs.push(attribute);
                continue;
            };
            let default = || function.defaults.iter().find(|a| a.name == *of).map(|a| &a.value);
            if let Some(value) = call.attr(of).or_else(default).cloned() {
                op.attrs.push(Attribute { value, ..attribute });
            }
        }
        op.bodies_mut().for_each(|inner| fill_in(inner, call, function, true));
        body.refresh_captures(id);
    }
}

/// Imports the operator sets that a function's own ops are of.
fn merge_imports(model: &mut Model, function: &Function, functions: &Functions<'_>) -> Result<()> {
    let mut used = HashSet::new();
    function.body.for_each_nested(&mut |g| {
        let own = g.ops().map(|op| g.op(op)).filter(|op| functions.called(op).is_none());
        used.extend(own.map(|op| canonical(&op.domain)));
    });
    for import in &function.opsets {
        let domain = canonical(&import.domain);
        if !used.contains(domain) {
            continue;
        }
        match model.opset_of(domain) {
            None => model.opsets.push(import.clone()),
            Some(version) if version == import.version => {}
            Some(version) => {
                let shown = if domain.is_empty() { "ai.onnx" } else { domain };
                let why = format!(
                    "function `{}` is of version {} of operator set `{shown}`, the model of {version}",
                    function.name, import.version
                );
                return Err(Error::unsupported(Where::Model, why));
            }
        }
    }
    Ok(())
}
