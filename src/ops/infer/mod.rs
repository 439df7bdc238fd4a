//! Type and shape inference with symbolic dimensions.
//!
//! Every graph is walked in topological order. A side table holds what is known of each value: element type, extents
//! as expressions over the names of the inputs' dimensions, and the elements of small integer tensors, so that shapes
//! computed by Shape, Gather, Concat and arithmetic are known where Reshape, Expand or Slice use them. Bodies of If,
//! Loop and Scan are walked with the types of what they capture. What calls a model-local
//! function stays unknown; what is in one is left as it is, for its types may differ from call to call.
//!
//! What is written into a [`Value`](crate::ir::Value)`::ty`:
//! - graph inputs keep their declared type;
//! - inner values get the inferred type. The declared one is a claim that no runtime holds a model to, and files with
//!   wrong ones run: it counts only of the results of an operator of which nothing at all can be told;
//! - graph outputs keep their declared type, unknown parts refined, unless it contradicts what is inferred.
//!
//! A pass that changes what a value is must set its `ty` to `None`, or a stale type may fill a gap.
//!
//! For constant folding: [`infer`] also gives the tensors of all values, in bodies too, that are the same in every run
//! and small, though they are computed: for example the Shape of a value of static shape, whose input is no constant.
//! Each may be replaced by that constant (`Graph::make_constant`).

mod bodies;
mod call;
mod containers;
mod contrib;
mod elementwise;
mod expr;
mod fact;
mod features;
mod layout;
mod linear;
mod spatial;
mod symbols;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod values;

use crate::{
    error::Result,
    ir::{Attr, Dim, Graph, Model, OpId, Origin, Tensor, Type, ValueId, Where},
};
use call::Call;
use expr::Expr;
use fact::Fact;
use std::collections::{BTreeMap, HashMap, HashSet};
pub(crate) use symbols::Symbols;

/// A declared type that contradicts what is inferred.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The value.
    pub at: Where,
    /// What the model declares.
    pub declared: Type,
    /// What follows from the operators.
    pub inferred: Type,
}

/// What inference found besides the types it wrote into the model.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    /// Declared types that are wrong, in the order of the graph.
    pub conflicts: Vec<Conflict>,
    /// What of the main graph is constant.
    pub known: Known,
}

/// What is the same in every run though it is computed.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Values of one graph, with their tensors.
    pub values: HashMap<ValueId, Tensor>,
    /// What of the bodies of its ops, in their order, is.
    pub bodies: BTreeMap<OpId, Vec<Known>>,
}

/// Fills in the types of all values of a model; see the [module](self).
pub fn infer_types(model: &mut Model) -> Result<Vec<Conflict>> {
    Ok(infer(model)?.conflicts)
}

/// Fills in the types of all values of a model and gives the constant ones; see the [module](self).
pub fn infer(model: &mut Model) -> Result<Inference> {
    let mut walk = Walk {
        opset: model.opset(),
        // Before version 4 every initializer had to be listed as an input, and none is ever overridden.
        inputs_override: model.ir_version >= 4,
        conflicts: Vec::new(),
        unnamed: 0,
    };
    let (_, known) = walk.graph(&mut model.graph, &HashMap::new(), None);
    Ok(Inference { conflicts: walk.conflicts, known })
}

struct Walk {
    opset: i64,
    inputs_override: bool,
    conflicts: Vec<Conflict>,
    /// Extents that got a name of their own, so that a Reshape can tell that one went through unchanged.
    unnamed: usize,
}

impl Walk {
    /// Infers one graph. `outer` says what is known of captured values, `given` of the inputs of a body.
    fn graph(
        &mut self,
        g: &mut Graph,
        outer: &HashMap<String, Fact>,
        given: Option<&[Fact]>,
    ) -> (HashMap<ValueId, Fact>, Known) {
        let mut facts = sources(g, outer, given, self.inputs_override && given.is_none());
        for (v, fact) in &facts {
            // Declared outside; a body knows it too, for whoever looks at the body alone.
            if g.value(*v).origin == Origin::Captured
                && let Some(ty) = fact.ty()
            {
                g.value_mut(*v).ty = Some(ty);
            }
        }
        let mut known = Known::default();
        for op in g.order() {
            let (found, bodies) = self.op(g, op, &facts);
            if !bodies.is_empty() {
                known.bodies.insert(op, bodies);
            }
            for (v, fact) in g.outputs_of(op).iter().zip(found) {
                if let Some(v) = v {
                    let fact = self.settle(g, *v, fact);
                    facts.insert(*v, fact);
                }
            }
        }
        let computed = |v: &ValueId| g.producer(*v).is_some_and(|(op, _)| !g.op(op).is("Constant"));
        let constants = facts.iter().filter(|(v, _)| computed(v));
        known.values = constants.filter_map(|(v, fact)| Some((*v, values::tensor(fact)?))).collect();
        (facts, known)
    }

    /// What an op's outputs are, one fact for each output slot; and what is constant in its bodies.
    fn op(&mut self, g: &mut Graph, id: OpId, facts: &HashMap<ValueId, Fact>) -> (Vec<Fact>, Vec<Known>) {
        let slots = g.inputs_of(id);
        let outputs = g.outputs_of(id).len();
        let unknown = Fact::default();
        let inputs: Vec<Option<&Fact>> =
            slots.iter().map(|v| v.map(|v| facts.get(&v).unwrap_or(&unknown))).collect();
        let op = g.op(id).clone();
        let call = Call { op: &op, opset: self.opset, inputs: &inputs, outputs };
        let (bodies, known) = self.bodies(g, id, &call, facts).into_iter().unzip::<_, _, Vec<_>, _>();
        let mut found = bodies::outputs(&call, &bodies).unwrap_or_else(|| one(&call));
        found.resize_with(outputs, Fact::default);
        (found, known)
    }

    /// Infers the bodies of an op and gives what is known of their outputs, and what is constant inside.
    fn bodies(
        &mut self,
        g: &mut Graph,
        id: OpId,
        call: &Call<'_>,
        facts: &HashMap<ValueId, Fact>,
    ) -> Vec<(Vec<Fact>, Known)> {
        if call.op.bodies().next().is_none() {
            return Vec::new();
        }
        let captured = g.captures_of(id).into_iter();
        let outer =
            captured.filter_map(|v| Some((g.name_of(v).to_owned(), facts.get(&v)?.clone()))).collect();
        let given = if call.op.is_standard() { bodies::inputs(call) } else { Vec::new() };
        let mut out = Vec::new();
        for body in g.op_mut(id).bodies_mut() {
            let (facts, known) = self.graph(body, &outer, Some(&given));
            let of = |v: &ValueId| facts.get(v).cloned().unwrap_or_default();
            out.push((body.outputs.iter().map(of).collect(), known));
        }
        out
    }

    /// Brings together what is inferred and what is declared, writes the type, and gives the fact that counts.
    fn settle(&mut self, g: &mut Graph, v: ValueId, mut fact: Fact) -> Fact {
        let declared = g.value(v).ty.clone();
        let inferred = fact.ty();
        let clash = match (&declared, &inferred) {
            (Some(d), Some(i)) => contradicts(d, i),
            _ => false,
        };
        if clash && let (Some(declared), Some(inferred)) = (declared.clone(), inferred.clone()) {
            let at = Where::Value(g.name_of(v).to_owned());
            self.conflicts.push(Conflict { at, declared, inferred });
        } else if let (Some(declared), None) = (&declared, &inferred) {
            fact = Fact::declared(declared, None);
        }
        let ty = match declared {
            Some(declared) if !clash && g.is_output(v) => Some(refined(declared, fact.ty())),
            _ => fact.ty(),
        };
        g.value_mut(v).ty = ty;
        for size in fact.shape.iter_mut().flatten().filter(|size| size.is_none()) {
            self.unnamed += 1;
            *size = Some(Expr::symbol(&format!("?{}", self.unnamed)));
        }
        fact
    }
}

/// Facts of what a graph does not compute: inputs, constants, captured values.
fn sources(
    g: &Graph,
    outer: &HashMap<String, Fact>,
    given: Option<&[Fact]>,
    inputs_override: bool,
) -> HashMap<ValueId, Fact> {
    let mut facts = HashMap::new();
    let inputs: HashSet<ValueId> = g.inputs.iter().copied().collect();
    for v in g.values() {
        let value = g.value(v);
        let fact = match &value.origin {
            Origin::Initializer(t) if inputs_override && inputs.contains(&v) => match &value.ty {
                Some(ty) => Fact::declared(ty, Some(value.name())),
                None => Fact { dtype: Some(t.dtype()), ..Fact::default() },
            },
            Origin::Initializer(t) => Fact::constant(t),
            Origin::SparseInitializer(_) => match g.tensor_type(v) {
                Some(ty) => Fact::declared(&Type::Tensor(ty), None),
                None => continue,
            },
            Origin::Captured => outer.get(value.name()).cloned().unwrap_or_default(),
            Origin::Computed if inputs.contains(&v) => {
                // The names of a body's dimensions mean nothing outside it, but are as good as any inside.
                let mut fact = Fact::default();
                if let (Some(given), Some(k)) = (given, g.inputs.iter().position(|i| *i == v)) {
                    fact = given.get(k).cloned().unwrap_or_default();
                }
                if let Some(ty) = &value.ty {
                    fact.fill(&Fact::declared(ty, Some(value.name())));
                }
                fact
            }
            Origin::Computed => continue,
        };
        facts.insert(v, fact);
    }
    facts
}

/// The outputs of an op without bodies. Where an attribute is the caller's of a function to give, all is open.
fn one(call: &Call<'_>) -> Vec<Fact> {
    if call.op.attrs.iter().any(|a| matches!(a.value, Attr::Reference(..))) {
        return Vec::new();
    }
    if let Some(found) = values::fold(call) {
        return found;
    }
    if let Some(found) = containers::containers(call) {
        return found;
    }
    let Some((types, rule)) = table::entry(call.op) else { return Vec::new() };
    let mut found = rule(call).unwrap_or_default();
    found.resize_with(call.outputs, Fact::default);
    let followed = if call.op.is_standard() { values::follow(call).unwrap_or_default() } else { Vec::new() };
    for (k, fact) in found.iter_mut().enumerate() {
        if let Some(more) = followed.get(k) {
            *fact = bodies::both(std::mem::take(fact), more);
        }
        fact.dtype = types.of(call, k, fact.dtype);
    }
    found
}

/// Whether both cannot be true of one value.
fn contradicts(a: &Type, b: &Type) -> bool {
    let (Type::Tensor(a), Type::Tensor(b)) = (a, b) else {
        return std::mem::discriminant(a) != std::mem::discriminant(b) && !matches!(a, Type::Opaque);
    };
    let dtypes = a.dtype.zip(b.dtype).is_some_and(|(x, y)| x != y);
    let dims = |x: &Dim, y: &Dim| x.known().zip(y.known()).is_some_and(|(x, y)| x != y);
    let shapes = a
        .shape
        .as_ref()
        .zip(b.shape.as_ref())
        .is_some_and(|(x, y)| x.len() != y.len() || x.iter().zip(y).any(|(x, y)| dims(x, y)));
    dtypes || shapes
}

/// A declared type with its unknown parts filled in.
fn refined(declared: Type, inferred: Option<Type>) -> Type {
    let (Type::Tensor(mut d), Some(Type::Tensor(i))) = (declared.clone(), inferred) else { return declared };
    d.dtype = d.dtype.or(i.dtype);
    match (&mut d.shape, i.shape) {
        (Some(mine), Some(theirs)) => {
            for (m, t) in mine.iter_mut().zip(theirs) {
                if *m == Dim::Unknown {
                    *m = t;
                }
            }
        }
        (mine @ None, theirs) => *mine = theirs,
        _ => {}
    }
    Type::Tensor(d)
}
