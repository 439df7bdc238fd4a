//! Fixing dimensions that a model leaves free, so that all that follows from them is constant.

use crate::{
    error::{Error, Result},
    ir::{Dim, Graph, Model, Shape, TensorType, Type, ValueId},
    ops::{Symbols, infer_types},
    passes::pass::did_you_mean,
};
use std::collections::{BTreeMap, BTreeSet};

/// What dimensions of these names become.
type Renamed = BTreeMap<String, Dim>;

/// Gives named dimensions of the inputs a size, wherever the name occurs: in inputs, outputs, declared types and bodies.
/// Types are inferred again, so that outputs get the shapes that follow.
///
/// # Errors
/// [`Error::Usage`] for a name that no input has; the model is unchanged then.
pub fn freeze_dims(model: &mut Model, dims: &[(String, usize)]) -> Result<()> {
    let known = symbols(&model.graph);
    if let Some((name, _)) = dims.iter().find(|(name, _)| !known.contains(name.as_str())) {
        let help = match known.is_empty() {
            true => "all dimensions of the inputs are fixed or have no name".to_owned(),
            false => did_you_mean(name, known.iter().copied()),
        };
        return Err(Error::usage(format!("no input has a dimension `{name}`"), help));
    }
    let mut renamed = Renamed::new();
    for (name, size) in dims {
        become_one(&mut renamed, name, Dim::Known(*size))?;
    }
    apply(model, &renamed, Vec::new())
}

/// Fixes the shapes of inputs. A known dimension of the given shape fixes that of the input; where that has a name, as
/// [`freeze_dims`] does, everywhere. A named one keeps the dimension free under that name, an unknown one as it is.
///
/// # Errors
/// [`Error::Usage`] for an input that is not there, another rank, or a size that contradicts the model or another of the
/// given shapes; the model is unchanged then.
pub fn set_input_shapes(model: &mut Model, shapes: &[(String, Shape)]) -> Result<()> {
    let (mut renamed, mut given) = (Renamed::new(), Vec::new());
    for (name, wanted) in shapes {
        let (input, ty) = input(&model.graph, name)?;
        let declared = ty.shape.unwrap_or_else(|| wanted.clone());
        let mismatch = |why: String| {
            let text: Vec<_> = declared.iter().map(ToString::to_string).collect();
            Error::usage(format!("input `{name}` {why}"), format!("the model takes [{}]", text.join(",")))
        };
        if declared.len() != wanted.len() {
            return Err(mismatch(format!("has {} dimensions, not {}", declared.len(), wanted.len())));
        }
        let mut shape = declared.clone();
        for (k, (dim, wanted)) in declared.iter().zip(wanted).enumerate() {
            match (dim, wanted) {
                (_, Dim::Unknown) => {}
                (Dim::Known(n), _) if dim != wanted => {
                    return Err(mismatch(format!("has size {n} in dimension {k}, not {wanted}")));
                }
                _ if dim == wanted => {}
                _ => match name_of(dim) {
                    Some(symbol) => become_one(&mut renamed, symbol, wanted.clone())?,
                    None => shape[k] = wanted.clone(),
                },
            }
        }
        given.push((input, Type::Tensor(TensorType { dtype: ty.dtype, shape: Some(shape) })));
    }
    apply(model, &renamed, given)
}

/// An input that a run must give, with its type.
fn input(g: &Graph, name: &str) -> Result<(ValueId, TensorType)> {
    let inputs = || g.inputs.iter().copied().filter(|v| g.initializer(*v).is_none());
    let Some(v) = inputs().find(|v| g.name_of(*v) == name) else {
        let names: Vec<&str> = inputs().map(|v| g.name_of(v)).collect();
        let what = format!("there is no input `{name}`");
        return Err(Error::usage(what, did_you_mean(name, names.iter().copied())));
    };
    match &g.value(v).ty {
        None => Ok((v, TensorType::default())),
        Some(Type::Tensor(ty)) => Ok((v, ty.clone())),
        Some(_) => Err(Error::usage(format!("input `{name}` is no tensor"), "it has no shape to fix")),
    }
}

/// The names of the inputs' dimensions.
fn symbols(g: &Graph) -> BTreeSet<&str> {
    let types = g.inputs.iter().filter_map(|v| g.value(*v).ty.as_ref()?.as_tensor());
    let dims = types.flat_map(|ty| ty.shape.iter().flatten());
    dims.filter_map(name_of).collect()
}

/// The name of a dimension. Some exporters write "?" for each that they do not know, which is none.
fn name_of(dim: &Dim) -> Option<&str> {
    match dim {
        Dim::Symbol(name) if !name.starts_with('?') => Some(name),
        _ => None,
    }
}

fn become_one(renamed: &mut Renamed, name: &str, dim: Dim) -> Result<()> {
    match renamed.insert(name.to_owned(), dim.clone()) {
        Some(other) if other != dim => {
            let what = format!("dimension `{name}` cannot be both {other} and {dim}");
            Err(Error::usage(what, "a name stands for one size, in all inputs"))
        }
        _ => Ok(()),
    }
}

/// Writes the dimensions into a copy of the model, infers what follows from them, and puts it in the model's place.
fn apply(model: &mut Model, renamed: &Renamed, given: Vec<(ValueId, Type)>) -> Result<()> {
    if renamed.is_empty() && given.is_empty() {
        return Ok(());
    }
    let (mut new, symbols) = (model.clone(), Symbols::of(model));
    for (v, ty) in given {
        new.graph.value_mut(v).ty = Some(ty);
    }
    rename(&mut new.graph, renamed);
    // Inference takes what an output declares for true; what it declares by name may be a number by now.
    let mut named = Vec::new();
    for v in new.graph.outputs.clone() {
        if new.graph.is_input(v) {
            continue;
        }
        if let Some(Type::Tensor(TensorType { shape: Some(shape), .. })) = &mut new.graph.value_mut(v).ty {
            named.push((v, shape.clone()));
            shape.iter_mut().filter(|dim| dim.known().is_none()).for_each(|dim| *dim = Dim::Unknown);
        }
    }
    infer_types(&mut new)?;
    for (v, before) in named {
        if let Some(Type::Tensor(TensorType { shape: Some(shape), .. })) = &mut new.graph.value_mut(v).ty {
            // What has a name of the file's own keeps it, unless it turned out to be a number.
            for (dim, before) in shape.iter_mut().zip(before) {
                if dim.known().is_none() && before != Dim::Unknown {
                    *dim = before;
                }
            }
        }
    }
    symbols.forget_others(&mut new);
    *model = new;
    Ok(())
}

fn rename(g: &mut Graph, renamed: &Renamed) {
    for v in g.values().collect::<Vec<_>>() {
        if let Some(ty) = &mut g.value_mut(v).ty {
            rename_in(ty, renamed);
        }
    }
    for op in g.ops().collect::<Vec<_>>() {
        g.op_mut(op).bodies_mut().for_each(|body| rename(body, renamed));
    }
}

fn rename_in(ty: &mut Type, renamed: &Renamed) {
    match ty {
        Type::Tensor(t) | Type::SparseTensor(t) => {
            for dim in t.shape.iter_mut().flatten() {
                let Dim::Symbol(text) = dim else { continue };
                if let Some(new) = renamed.get(text) {
                    *dim = new.clone();
                } else if renamed.keys().any(|name| mentions(text, name)) {
                    *dim = Dim::Unknown;
                }
            }
        }
        Type::Sequence(of) | Type::Optional(of) | Type::Map(_, of) => rename_in(of, renamed),
        Type::Opaque => {}
    }
}

/// Whether a dimension is an expression over that name, as `batch*heads` is over `batch`.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || "_.".contains(c))).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    /// Two inputs of one batch, an If over it, and an output whose declared names follow from it.
    fn model() -> Model {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[batch,3,?] x, float[batch,seq] m, bool c) => (float[out,seq] y, float["batch*3",rest] z)
            <float[batch,3,?] t> {
                t = Relu(x)
                s = If(c) <
                    then_branch = a () => (float[batch,seq] u) { u = Neg(m) },
                    else_branch = b () => (float[batch,seq] v) { v = Abs(m) } >
                y = Add(s, m)
                shape = Constant<value_ints = [-1, 4]>()
                z = Reshape(t, shape)
            }"#;
        text::parse(text).unwrap()
    }
    fn shape_of(g: &Graph, name: &str) -> String {
        let dims = g.shape(g.find(name).unwrap()).unwrap();
        dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
    fn why(result: Result<()>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn a_name_is_frozen_wherever_it_occurs() {
        let mut model = model();
        freeze_dims(&mut model, &[("batch".into(), 2)]).unwrap();
        model.verify().unwrap();
        let g = &model.graph;
        let shapes = ["x", "m", "t", "s", "y"].map(|name| shape_of(g, name));
        assert_eq!(shapes, ["2,3,?", "2,seq", "2,3,?", "2,?", "2,seq"], "`s` has no names in the file");
        assert_eq!(
            shape_of(g, "z"),
            "?,4",
            "the expression over a frozen name goes, `rest` turned out to be 4"
        );
        let branch = g.ops().flat_map(|op| g.op(op).bodies()).next().unwrap();
        assert_eq!(shape_of(branch, "u"), "2,seq");
    }
    #[test]
    fn a_shape_freezes_names_and_what_has_none() {
        let mut model = model();
        let shape = |dims: &[Dim]| dims.iter().cloned().collect::<Shape>();
        let x = ("x".into(), shape(&[2.into(), Dim::Unknown, 8.into()]));
        let m = ("m".into(), shape(&["n".into(), "len".into()]));
        assert!(why(set_input_shapes(&mut model, &[x.clone(), m])).contains("both 2 and n"));
        let m = ("m".into(), shape(&[Dim::Unknown, "len".into()]));
        set_input_shapes(&mut model, &[x, m]).unwrap();
        let shapes = ["x", "m", "y", "z"].map(|name| shape_of(&model.graph, name));
        assert_eq!(shapes, ["2,3,8", "2,len", "2,len", "12,4"]);
    }
    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let (mut model, before) = (model(), model());
        let mut set = |name: &str, dims: &[usize]| {
            let dims = dims.iter().map(|n| Dim::Known(*n)).collect();
            why(set_input_shapes(&mut model, &[(name.to_owned(), dims)]))
        };
        assert!(set("x", &[1, 3]).contains("has 3 dimensions, not 2 (the model takes [batch,3,?])"));
        assert!(set("x", &[1, 4, 8]).contains("has size 3 in dimension 1, not 4"));
        assert!(set("k", &[1]).contains("there is no input `k`"));
        assert!(why(freeze_dims(&mut model, &[("bacth".into(), 1)])).contains("did you mean `batch`?"));
        assert!(why(freeze_dims(&mut model, &[("out".into(), 1)])).contains("known: batch, seq"));
        assert!(model == before);
    }
    #[test]
    fn question_marks_are_no_name() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float["?",3,"?"] x) => (float["?",3,"?"] y) { y = Relu (x) }"#;
        let mut model = text::parse(text).unwrap();
        assert!(why(freeze_dims(&mut model, &[("?".into(), 1)])).contains("have no name"));
        let wanted = [1.into(), Dim::Unknown, 8.into()].into_iter().collect();
        set_input_shapes(&mut model, &[("x".into(), wanted)]).unwrap();
        assert_eq!(shape_of(&model.graph, "y"), "1,3,8");
    }
}
