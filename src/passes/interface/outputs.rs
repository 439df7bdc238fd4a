//! Choosing what a model computes, and leaving out the inputs that are not needed for it.

use crate::{
    error::{Error, Result},
    ir::{Graph, Model, Type, ValueId},
    ops::{Symbols, infer_types},
    passes::pass::did_you_mean,
};

/// Makes these values the outputs, in this order; inner values among them get their inferred type. What is not needed
/// for them stays until it is swept: [`Graph::sweep`].
///
/// # Errors
/// [`Error::Usage`] for a name that no op of the main graph computes, for one given twice or for none,
/// [`Error::Unsupported`] where the element type of an inner value is not known. The model is unchanged then.
pub fn set_outputs(model: &mut Model, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::usage("no outputs are named", "a model must compute something"));
    }
    let mut outputs = Vec::new();
    for name in names {
        let v = computed(&model.graph, name)?;
        if outputs.contains(&v) {
            return Err(Error::usage(format!("output `{name}` is named twice"), "name each once"));
        }
        outputs.push(v);
    }
    let (mut new, symbols) = (model.clone(), Symbols::of(model));
    infer_types(&mut new)?;
    for (v, name) in outputs.iter().zip(names) {
        let known = match &new.graph.value(*v).ty {
            Some(Type::Tensor(ty)) => ty.dtype.is_some(),
            ty => ty.is_some(),
        };
        if !known && !model.graph.is_output(*v) {
            let why =
                format!("`{name}` cannot be an output: its type is not known, and a model must declare it");
            return Err(Error::unsupported((), why));
        }
    }
    new.graph.outputs = outputs;
    symbols.forget_others(&mut new);
    *model = new;
    Ok(())
}

/// The value of that name, which an op computes.
fn computed(g: &Graph, name: &str) -> Result<ValueId> {
    let is_computed = |v: &ValueId| g.producer(*v).is_some();
    match g.find(name) {
        Some(v) if is_computed(&v) => Ok(v),
        Some(v) if g.is_input(v) => {
            Err(Error::usage(format!("`{name}` is an input"), "outputs are values that the model computes"))
        }
        Some(v) if g.initializer(v).is_some() => {
            Err(Error::usage(format!("`{name}` is a constant"), "outputs are values that the model computes"))
        }
        _ => {
            let what = format!("the model computes no `{name}`");
            let values: Vec<&str> = g.values().filter(is_computed).map(|v| g.name_of(v)).collect();
            let near = did_you_mean(name, values.iter().copied());
            // All values of a model are too many to list.
            let help =
                if near.starts_with("did") { near } else { "`print` shows the names of all values".into() };
            Err(Error::usage(what, help))
        }
    }
}

/// Drops the inputs that nothing uses, and returns their names.
pub fn drop_unused_inputs(model: &mut Model) -> Vec<String> {
    let g = &mut model.graph;
    let used = |g: &Graph, v: ValueId| !g.uses(v).is_empty() || g.is_output(v);
    let (kept, unused): (Vec<_>, Vec<_>) =
        std::mem::take(&mut g.inputs).into_iter().partition(|v| used(g, *v));
    g.inputs = kept;
    let names = unused.iter().map(|v| g.name_of(*v).to_owned()).collect();
    for v in unused {
        g.remove_value_if_unused(v);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn model() -> Model {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
            g (float[n,4] x, float[n,4] k) => (float[n,4] y, float[n,4] z) <float[4] w = {1,2,3,4}> {
                a = Mul(x, w)
                y = Relu(a)
                z = Add(y, k)
                u = custom.Own(x)
                unread = Neg(u)
            }"#;
        text::parse(text).unwrap()
    }
    fn set(model: &mut Model, names: &[&str]) -> Result<()> {
        set_outputs(model, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn inner_values_become_outputs_and_the_rest_goes() {
        let mut model = model();
        set(&mut model, &["y", "a"]).unwrap();
        model.graph.sweep();
        assert_eq!(drop_unused_inputs(&mut model), ["k"]);
        model.verify().unwrap();
        let g = &model.graph;
        let names: Vec<_> = g.outputs.iter().map(|v| g.name_of(*v)).collect();
        assert_eq!((names, g.inputs.len(), g.ops().count()), (vec!["y", "a"], 1, 2));
        assert_eq!(g.shape(g.outputs[1]).unwrap()[..], ["n".into(), 4.into()]);
    }
    #[test]
    fn what_no_op_computes_is_refused() {
        let (mut model, before) = (model(), model());
        let mut why = |names: &[&str]| set(&mut model, names).unwrap_err().to_string();
        assert!(why(&["unraed"]).contains("did you mean `unread`?"));
        assert!(why(&["nothing_like_that"]).contains("`print` shows"));
        assert!(why(&["w"]).contains("is a constant") && why(&["x"]).contains("is an input"));
        assert!(why(&["y", "y"]).contains("twice") && why(&[]).contains("no outputs"));
        assert!(why(&["u"]).contains("its type is not known"));
        assert!(model == before);
    }
}
