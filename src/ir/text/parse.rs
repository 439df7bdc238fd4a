//! Text to models.

use super::{
    attribute::{attribute, attributes},
    cursor::Cursor,
    weights,
};
use crate::{
    error::Result,
    ir::{Carried, Function, Graph, Model, Op, OpsetImport, Origin, Tensor, Type, ValueId},
};
use std::collections::HashMap;

/// Reads a model from ONNX's textual syntax; see the [module](super) for how it treats weights. The model is verified.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) with line and column where the text is not a model,
/// [`Error::Invalid`](crate::Error::Invalid) where it is one whose graph breaks an invariant.
pub fn parse(text: &str) -> Result<Model> {
    let mut c = Cursor::new(text)?;
    let mut model = Model::default();
    if c.eat('<') {
        header(&mut c, &mut model)?;
    }
    let name = c.name()?;
    model.graph = graph(&mut c, Graph::new(name), Scope::Whole)?;
    while !c.is_end() {
        model.functions.push(function(&mut c)?);
    }
    model.verify()?;
    Ok(model)
}

/// `key: value` pairs up to `>`. Keys the IR keeps only as carried bytes are read and dropped.
fn header(c: &mut Cursor<'_>, model: &mut Model) -> Result<()> {
    c.list('>', |c| {
        let place = c.place();
        let key = c.name()?;
        c.expect(':')?;
        match key.as_str() {
            "ir_version" => model.ir_version = c.int()?,
            "opset_import" => model.opsets = opsets(c)?,
            "model_version" => drop(c.int()?),
            "producer_name" | "producer_version" | "domain" | "doc_string" => drop(c.quoted()?),
            "metadata_props" => {
                c.expect('[')?;
                c.list(']', |c| {
                    c.quoted()?;
                    c.expect(':')?;
                    c.quoted()
                })?;
            }
            _ => return Err(c.error_at(place, format!("a model has no `{key}`"))),
        }
        Ok(())
    })?;
    Ok(())
}

fn opsets(c: &mut Cursor<'_>) -> Result<Vec<OpsetImport>> {
    c.expect('[')?;
    c.list(']', |c| {
        let domain = c.quoted()?;
        c.expect(':')?;
        Ok(OpsetImport { domain, version: c.int()?, carried: Carried::default() })
    })
}

fn function(c: &mut Cursor<'_>) -> Result<Function> {
    let mut f = Function::default();
    if c.eat('<') {
        c.list('>', |c| {
            let place = c.place();
            let key = c.name()?;
            c.expect(':')?;
            match key.as_str() {
                "opset_import" => f.opsets = opsets(c)?,
                "domain" => f.domain = c.quoted()?,
                "overload" => f.overload = c.quoted()?,
                "doc_string" => drop(c.quoted()?),
                _ => return Err(c.error_at(place, format!("a function has no `{key}`"))),
            }
            Ok(())
        })?;
    }
    f.name = c.name()?;
    if c.eat('<') {
        c.list('>', |c| {
            let name = c.name()?;
            if c.is(':') || c.is('=') {
                f.defaults.push(attribute(c, name, &Graph::default())?);
            } else {
                f.attributes.push(name);
            }
            Ok(())
        })?;
    }
    f.body = graph(c, Graph::new(""), Scope::Whole)?;
    Ok(f)
}

/// Whether names that a graph does not define may come from around it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scope {
    Whole,
    Body,
}

/// A value where it is declared.
struct Declared {
    name: String,
    ty: Option<Type>,
    tensor: Option<Tensor>,
    place: usize,
}

fn declared(c: &mut Cursor<'_>) -> Result<Declared> {
    let place = c.place();
    let ty = if c.is_type() { Some(c.type_()?) } else { None };
    let name = c.name()?;
    let mut tensor = None;
    if c.eat('=') {
        let Some(Type::Tensor(of)) = &ty else {
            return Err(c.error_at(place, format!("constant `{name}` needs a tensor type")));
        };
        tensor = Some(c.elements(of)?);
    }
    Ok(Declared { name, ty, tensor, place })
}

/// A graph after its name: `(inputs) => (outputs) <constants> { ops }`.
pub(super) fn graph(c: &mut Cursor<'_>, mut g: Graph, scope: Scope) -> Result<Graph> {
    c.expect('(')?;
    for d in c.list(')', declared)? {
        let v = g.named_value(&d.name);
        if d.name.is_empty() || g.is_input(v) {
            return Err(c.error_at(d.place, format!("an input is named `{}` again or not at all", d.name)));
        }
        g.inputs.push(v);
        let value = g.value_mut(v);
        value.ty = d.ty;
        value.origin = d.tensor.map_or(Origin::Computed, Origin::Initializer);
    }
    c.expect_arrow()?;
    c.expect('(')?;
    let outputs = c.list(')', declared)?;
    let mut open = Vec::new();
    if c.eat('<') {
        for d in c.list('>', declared)? {
            let v = g.named_value(&d.name);
            if d.name.is_empty() || g.initializer(v).is_some() {
                return Err(
                    c.error_at(d.place, format!("a constant is named `{}` again or not at all", d.name))
                );
            }
            match d.tensor {
                Some(tensor) => g.value_mut(v).origin = Origin::Initializer(tensor),
                None => {
                    g.value_mut(v).ty = d.ty.clone();
                    open.push((v, d));
                }
            }
        }
    }
    let mut first_use = HashMap::new();
    c.expect('{')?;
    while !c.eat('}') {
        op(c, &mut g, &mut first_use)?;
    }
    for d in outputs {
        let v = g.named_value(&d.name);
        first_use.entry(v).or_insert(d.place);
        g.outputs.push(v);
        if d.ty.is_some() {
            g.value_mut(v).ty = d.ty;
        }
    }
    for (v, d) in open {
        if g.producer(v).is_none() {
            constant(c, &mut g, v, &d)?;
        }
    }
    let undefined = |g: &Graph, v: &ValueId| {
        g.value(*v).origin == Origin::Computed && !g.is_input(*v) && g.producer(*v).is_none()
    };
    let undefined: Vec<_> = g.values().filter(|v| undefined(&g, v)).collect();
    for v in undefined {
        match (scope, first_use.get(&v)) {
            (Scope::Body, _) => g.value_mut(v).origin = Origin::Captured,
            (Scope::Whole, Some(place)) => {
                return Err(c.error_at(*place, format!("`{}` is not defined", g.name_of(v))));
            }
            (Scope::Whole, None) => drop(g.remove_value_if_unused(v)),
        }
    }
    Ok(g)
}

/// Gives a listed value that nothing computes its contents.
fn constant(c: &mut Cursor<'_>, g: &mut Graph, v: ValueId, d: &Declared) -> Result<()> {
    let origin = match &d.ty {
        Some(Type::Tensor(ty)) => {
            let (dtype, shape) = c.constant_type(ty, d.place)?;
            Origin::Initializer(c.made_up(dtype, &shape, &d.name, d.place)?)
        }
        Some(Type::SparseTensor(ty)) => {
            let (dtype, dims) = c.constant_type(ty, d.place)?;
            Origin::SparseInitializer(weights::empty_sparse(dtype, dims)?)
        }
        _ => return Err(c.error_at(d.place, format!("`{}` is neither computed nor a tensor", d.name))),
    };
    let is_input = g.is_input(v);
    let value = g.value_mut(v);
    value.origin = origin;
    if !is_input {
        value.ty = None;
    }
    Ok(())
}

/// `[name] outputs = domain.Type:overload <attributes> (inputs)`; attributes may also follow the inputs.
fn op(c: &mut Cursor<'_>, g: &mut Graph, first_use: &mut HashMap<ValueId, usize>) -> Result<()> {
    let mut op = Op::default();
    if c.eat('[') && !c.eat(']') {
        op.name = c.name()?;
        c.expect(']')?;
    }
    let outputs = slots(c, '=')?;
    let mut parts = vec![c.name()?];
    while c.eat('.') {
        parts.push(c.name()?);
    }
    op.op_type = parts.pop().unwrap_or_default();
    op.domain = parts.join(".");
    if c.eat(':') {
        op.overload = c.name()?;
    }
    op.attrs = attributes(c, g)?;
    c.expect('(')?;
    let inputs = slots(c, ')')?;
    if op.attrs.is_empty() {
        op.attrs = attributes(c, g)?;
    }
    let mut ids = Vec::new();
    for (name, place) in &outputs {
        let v = (!name.is_empty()).then(|| g.named_value(name));
        let taken = |v: ValueId| {
            g.producer(v).is_some()
                || g.is_input(v)
                || g.value(v).origin != Origin::Computed
                || ids.contains(&Some(v))
        };
        if v.is_some_and(taken) {
            return Err(c.error_at(*place, format!("`{name}` is defined already")));
        }
        ids.push(v);
    }
    let mut used = |g: &mut Graph, name: &str, place: usize| {
        let v = g.named_value(name);
        first_use.entry(v).or_insert(place);
        v
    };
    let here = outputs.first().or(inputs.first()).map_or(c.place(), |(_, place)| *place);
    for body in op.bodies() {
        for v in body.values().filter(|v| body.value(*v).origin == Origin::Captured) {
            used(g, body.name_of(v), here);
        }
    }
    let inputs: Vec<_> =
        inputs.iter().map(|(name, place)| (!name.is_empty()).then(|| used(g, name, *place))).collect();
    g.add_op(op, &inputs, &ids);
    Ok(())
}

/// Names up to a closing character, each with its place; an omitted one is empty.
fn slots(c: &mut Cursor<'_>, close: char) -> Result<Vec<(String, usize)>> {
    let mut names = Vec::new();
    while !c.eat(close) {
        let place = c.place();
        let name = if c.is(',') { String::new() } else { c.name()? };
        names.push((name, place));
        if !c.eat(',') && !c.is(close) {
            return c.expected(&format!("`,` or `{close}`"));
        }
    }
    Ok(names)
}
