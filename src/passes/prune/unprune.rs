//! The reverse of pruning: the weights of a cut model back in the architecture it was cut from, zero where it was cut.
//!
//! Ops of the two models belong together by the names of their first outputs, weights by the slots they are read in. Which
//! positions stayed the model says itself where this program pruned it; of another tool's model they are found from
//! weights that are still the original's.

use super::{Branch, Changed, Context, Pass, lift::lift, record::Record};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, Op, OpId, Origin, Tensor, ValueId},
    ops::{
        axes::{Flow, Group, Keep, put_back},
        infer_types,
        quantized::part,
    },
    passes::{
        lift::{add_bias, readers},
        simplify::Simplify,
    },
};
use std::collections::{BTreeSet, HashMap};

/// The model of `original`'s architecture that computes what `pruned` does: its weights are `pruned`'s, and zero at the
/// positions that were cut. Attributes and shape constants are the original's; biases that repair added stay. As the
/// pass prunes simplified models, `original` is simplified first where it does not fit as it is.
///
/// Outputs are equal where only exact groups were cut; see [`crate::ops::axes`].
///
/// # Errors
/// [`Error::Usage`] where `pruned` was not cut from `original`, or where no weights tell which positions stayed.
pub fn unprune(pruned: &Model, original: &Model, cx: &mut Context<'_>) -> Result<Model> {
    let (mut pruned, mut full) = (pruned.clone(), original.clone());
    lift(&mut pruned);
    lift(&mut full);
    infer_types(&mut full)?;
    let record = Record::of(&pruned)?;
    let dropped = record.as_ref().map_or(&[][..], |record| &record.branches);
    let paired = |full: &Model| {
        let (mut cut, branches) = (full.graph.clone(), branches(full, dropped)?);
        for branch in &branches {
            branch.drop_from(&mut cut);
        }
        Ok((pairs(&pruned.graph, &cut)?, branches))
    };
    let (pairs, branches) = match paired(&full) {
        Ok(paired) => paired,
        Err(Error::Usage { .. }) => {
            let (Changed::Yes | Changed::No) = Simplify::default().run(&mut full, cx)?;
            lift(&mut full);
            infer_types(&mut full)?;
            paired(&full)?
        }
        Err(other) => return Err(other),
    };
    let record = match record {
        Some(record) => record,
        None => found(&pruned, &full, &pairs)?,
    };
    Restoring { pruned: &pruned.graph, record, done: HashMap::new() }.run(&mut full, &pairs)?;
    branches.iter().for_each(|branch| branch.zero(&mut full.graph));
    infer_types(&mut full)?;
    full.verify()?;
    Ok(full)
}

fn unlike(what: impl Into<String>) -> Error {
    Error::usage(what, "give the model that went into `prune`, with the same shapes and outputs")
}

/// The branches of the original that were dropped.
fn branches(full: &Model, dropped: &[(String, usize)]) -> Result<Vec<Branch>> {
    let branch = |name: &(String, usize)| {
        let missing = || unlike(format!("the original has no sum `{}` with a branch to drop", name.0));
        Branch::named(full, name).ok_or_else(missing)
    };
    dropped.iter().map(branch).collect()
}

/// Ops of both graphs that belong together.
fn pairs(pruned: &Graph, full: &Graph) -> Result<Vec<(OpId, OpId)>> {
    let (ours, theirs) = (pruned.ops().count(), full.ops().count());
    if ours != theirs {
        return Err(unlike(format!("the pruned model has {ours} ops and the original {theirs}")));
    }
    let pair = |op: OpId| {
        let output = pruned.outputs_of(op).into_iter().flatten().next();
        let other = output.and_then(|v| Some(full.producer(full.find(pruned.name_of(v))?)?.0));
        let (node, place) = (pruned.op(op), pruned.place(op));
        match other {
            Some(other)
                if (&full.op(other).op_type, &full.op(other).domain) == (&node.op_type, &node.domain) =>
            {
                Ok((op, other))
            }
            _ => Err(unlike(format!("the original has no {} `{}`", node.op_type, place.name()))),
        }
    };
    pruned.order().into_iter().map(pair).collect()
}

/// The initializers that are read in the same slots, with the names of the original's.
fn weights<'a>(
    pruned: &'a Graph,
    full: &'a Graph,
    pairs: &'a [(OpId, OpId)],
) -> impl Iterator<Item = (ValueId, &'a Tensor)> + 'a {
    pairs.iter().flat_map(move |(a, b)| {
        let slots = pruned.inputs_of(*a).into_iter().zip(full.inputs_of(*b));
        slots.filter_map(|(a, b)| {
            Some((b.filter(|b| full.initializer(*b).is_some())?, pruned.initializer(a?)?))
        })
    })
}

/// Finds what stayed from weights that are as they were.
fn found(pruned: &Model, full: &Model, pairs: &[(OpId, OpId)]) -> Result<Record> {
    let g = &full.graph;
    let small: HashMap<ValueId, &Tensor> = weights(&pruned.graph, g, pairs).collect();
    let flow = Flow::of(full);
    let mut keep = Keep::new();
    for group in flow.groups() {
        let cut = |v: ValueId, axis: usize| {
            let (small, whole) = (small.get(&v)?, g.initializer(v)?);
            let fits = small.rank() == whole.rank() && small.dtype() == whole.dtype();
            (fits && small.shape()[axis] < whole.shape()[axis]).then_some((*small, whole))
        };
        let members: Vec<_> = group.members.iter().filter_map(|m| Some((m, cut(m.value, m.axis)?))).collect();
        if members.is_empty() {
            continue;
        }
        let stayed = members.iter().find_map(|(member, (small, whole))| {
            let rows = rows(small, whole, member.axis)?;
            let labels = flow.arena.labels(member.factor, group.factor);
            Some(rows.into_iter().filter_map(|at| labels[at]).collect::<BTreeSet<usize>>())
        });
        let stayed = stayed.ok_or_else(|| untold(g, &group))?;
        keep.insert(group.factor, stayed.into_iter().collect());
    }
    let mut record = Record::default();
    record.add(g, flow.cut(keep).stays());
    Ok(record)
}

fn untold(g: &Graph, group: &Group) -> Error {
    let mut names: Vec<_> = group.members.iter().map(|m| format!("`{}`", g.name_of(m.value))).collect();
    names.dedup();
    let what = format!("which positions stayed cannot be told: none of {} is as it was", names.join(", "));
    Error::usage(what, "prune with this program, which notes them in the model, or before any training")
}

/// Which positions of an axis of `whole` are those of `small`; `None` where that is open. Other axes may be cut too, so
/// what is at a position must be found, in order, among what was there; and found the same from both ends.
fn rows(small: &Tensor, whole: &Tensor, axis: usize) -> Option<Vec<usize>> {
    let slices = |tensor: &Tensor| -> Option<Vec<Vec<u32>>> {
        let numbers = tensor.to_f32()?;
        let (extent, row) = (tensor.shape()[axis], tensor.shape()[axis + 1..].iter().product::<usize>());
        let mut slices = vec![Vec::new(); extent];
        for (k, block) in numbers.chunks_exact(row.max(1)).enumerate() {
            slices[k % extent].extend(block.iter().map(|x| x.to_bits()));
        }
        Some(slices)
    };
    let (small, whole) = (slices(small)?, slices(whole)?);
    let within = |part: &[u32], all: &[u32]| {
        let mut all = all.iter();
        part.iter().all(|x| all.any(|y| x == y))
    };
    let mut next = 0;
    let mut first = Vec::with_capacity(small.len());
    for part in &small {
        let at = next + whole[next..].iter().position(|all| within(part, all))?;
        first.push(at);
        next = at + 1;
    }
    let mut end = whole.len();
    for (part, first) in small.iter().zip(&first).rev() {
        end = whole[..end].iter().rposition(|all| within(part, all))?;
        (end == *first).then_some(())?;
    }
    Some(first)
}

/// The original's graph as it gets its weights.
struct Restoring<'a> {
    pruned: &'a Graph,
    record: Record,
    /// What initializers of the original have become, with the pruned model's value.
    done: HashMap<ValueId, ValueId>,
}

impl Restoring<'_> {
    fn run(mut self, full: &mut Model, pairs: &[(OpId, OpId)]) -> Result<()> {
        let g = &mut full.graph;
        // What kept its name first: what repair gave an op of its own is a new value for that op alone.
        for (small, tensor) in self.pruned.initializers() {
            if let Some(whole) = g.find(self.pruned.name_of(small)).filter(|v| is_weight(g, *v, tensor)) {
                let restored = self.restored(g, whole, tensor, g.name_of(whole))?;
                g.value_mut(whole).origin = Origin::Initializer(restored);
                self.done.insert(whole, small);
            }
        }
        for (ours, theirs) in pairs {
            for (slot, small) in self.pruned.inputs_of(*ours).into_iter().enumerate() {
                let Some((small, tensor)) = small.and_then(|v| Some((v, self.pruned.initializer(v)?))) else {
                    continue;
                };
                match g.input(*theirs, slot) {
                    Some(whole) if self.done.get(&whole) == Some(&small) => {}
                    Some(whole) if is_weight(g, whole, tensor) => {
                        let restored = self.restored(g, whole, tensor, g.name_of(whole))?;
                        let own = g.add_initializer(self.pruned.name_of(small), restored);
                        g.set_input(*theirs, slot, Some(own));
                    }
                    Some(_) => {}
                    None => {
                        let weight = g.input(*theirs, 1).map(|v| g.name_of(v));
                        let bias = weight.and_then(|w| self.added_bias(g, g.op(*theirs), w, tensor));
                        let bias = bias.ok_or_else(|| misfit(self.pruned.name_of(small)))?;
                        let bias = g.add_initializer(self.pruned.name_of(small), bias);
                        let mut inputs = g.inputs_of(*theirs);
                        inputs.resize(inputs.len().max(slot + 1), None);
                        inputs[slot] = Some(bias);
                        g.set_inputs(*theirs, &inputs);
                    }
                }
            }
            let bodies: Vec<&Graph> = self.pruned.op(*ours).bodies().collect();
            let mut bodies = bodies.into_iter();
            g.edit_bodies(*theirs, |body| bodies.next().is_some_and(|small| refill(small, body)));
        }
        for (weight, bias) in self.added_inside(g)? {
            add_bias(g, &weight, &bias);
        }
        g.sweep();
        Ok(())
    }
    /// The biases that repair gave to layers in bodies, and the weights of these.
    fn added_inside(&self, g: &Graph) -> Result<Vec<(String, Tensor)>> {
        let mut added = Vec::new();
        for (v, tensor) in self.pruned.initializers() {
            let name = self.pruned.name_of(v);
            let [(inside, op, 2)] = readers(self.pruned, v)[..] else { continue };
            if std::ptr::eq(inside, self.pruned) || g.find(name).is_some() {
                continue;
            }
            let weight = inside.input(op, 1).map_or("", |v| inside.name_of(v));
            let bias = self.added_bias(g, inside.op(op), weight, tensor).ok_or_else(|| misfit(name))?;
            added.push((weight.to_owned(), bias));
        }
        Ok(added)
    }
    fn restored(&self, g: &Graph, whole: ValueId, small: &Tensor, name: &str) -> Result<Tensor> {
        let none = vec![None; small.rank()];
        let axes = self.record.weights.get(name).unwrap_or(&none);
        let kept: Vec<_> = axes.iter().map(|axis| axis.as_ref().map(|s| s.kept.as_slice())).collect();
        put_back(g, whole, small, &kept).ok_or_else(|| misfit(name))
    }
    /// The bias that repair gave a convolution or a Gemm which had none: it lost what the weight's outputs lost.
    fn added_bias(&self, g: &Graph, node: &Op, weight: &str, small: &Tensor) -> Option<Tensor> {
        let axis = match node.is("Gemm") {
            true => usize::from(node.int("transB").unwrap_or(0) == 0),
            false => node.is("Conv").then_some(0)?,
        };
        let outputs = g.initializer(g.find(weight)?)?.shape().get(axis).copied()?;
        let (numbers, mut whole) = (small.to_f32()?, vec![0.0; outputs]);
        let axes = self.record.weights.get(weight);
        match axes.and_then(|axes| axes.get(axis)?.as_ref()) {
            Some(stayed) if stayed.kept.len() == numbers.len() => {
                for (at, x) in stayed.kept.iter().zip(&numbers[..]) {
                    *whole.get_mut(*at)? = *x;
                }
            }
            None if whole.len() == numbers.len() => whole.copy_from_slice(&numbers),
            _ => return None,
        }
        Tensor::from_f32(small.dtype(), [whole.len()], whole)
    }
}

fn misfit(name: &str) -> Error {
    unlike(format!("`{name}` does not have the shape that is left of the original's"))
}

/// Whether both are floating-point numbers, or integers that stand for such: others (shapes, indices) stay the original's.
fn is_weight(g: &Graph, whole: ValueId, small: &Tensor) -> bool {
    let is_float = g.initializer(whole).is_some_and(|t| t.dtype().is_float());
    is_float && small.dtype().is_float() || part(g, whole).is_some()
}

/// Takes the constants of a body, in which nothing is cut, from the pruned model's.
fn refill(small: &Graph, body: &mut Graph) -> bool {
    let mut changed = false;
    for (v, tensor) in small.initializers() {
        let own = body.find(small.name_of(v));
        let own =
            own.filter(|own| body.initializer(*own).is_some_and(|t| t.ty() == tensor.ty() && t != tensor));
        if let Some(own) = own {
            body.value_mut(own).origin = Origin::Initializer(tensor.clone());
            changed = true;
        }
    }
    changed
}
