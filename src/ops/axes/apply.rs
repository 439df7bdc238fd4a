//! Shrinking groups: cutting positions out of a model, and its oracle, setting their weights to zero.

use super::{
    factor::{Arena, Factor},
    flow::Flow,
    rewrite::Rewrite,
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, OpId, Origin, Tensor, Use, ValueId, Where},
    ops::quantized::{self, Part},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Which positions of each group stay, sorted. Groups not listed stay whole.
pub type Keep = BTreeMap<Factor, Vec<usize>>;

/// What shrinking needs of an analysis, free of the model it was made from.
pub struct Cut {
    arena: Arena,
    rewrites: Rewrites,
    weights: Stays,
    /// Which channels stay of values whose distribution is known.
    channels: Vec<(ValueId, Vec<usize>)>,
    keep: Keep,
}

/// What besides weights changes in a graph, and in the bodies of its ops.
struct Rewrites {
    own: Vec<Rewrite>,
    bodies: Vec<(OpId, Vec<Rewrites>)>,
}

impl Rewrites {
    fn of(flow: &Flow<'_>) -> Rewrites {
        let bodies = flow.bodies.iter().map(|(op, bodies)| (*op, bodies.iter().map(Rewrites::of).collect()));
        Rewrites { own: flow.rewrites.clone(), bodies: bodies.collect() }
    }
    /// Changes the graph; inner types are cleared.
    fn apply<'k>(&self, graph: &mut Graph, arena: &Arena, keep: &impl Fn(Factor) -> Option<&'k [usize]>) {
        for rewrite in &self.own {
            rewrite.apply(graph, arena, keep);
        }
        for (op, bodies) in &self.bodies {
            let mut bodies = bodies.iter();
            graph
                .edit_bodies(*op, |body| bodies.next().map(|inner| inner.apply(body, arena, keep)).is_some());
        }
        let fixed: HashSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
        for v in graph.values().filter(|v| !fixed.contains(v)).collect::<Vec<_>>() {
            graph.value_mut(v).ty = None;
        }
    }
}

/// Initializers that lose positions, and which positions stay along each of their axes (`None`: all).
#[derive(Clone, Debug, Default)]
pub struct Stays(BTreeMap<ValueId, Vec<Option<Vec<usize>>>>);

impl Stays {
    /// Whether an initializer loses positions.
    pub fn is_cut(&self, v: ValueId) -> bool {
        self.0.contains_key(&v)
    }
    /// Which positions of an initializer's axis stay, in order; `None` where all do.
    pub fn kept(&self, v: ValueId, axis: usize) -> Option<&[usize]> {
        self.0.get(&v)?.get(axis)?.as_deref()
    }
    /// The initializers, with the positions that stay along each axis.
    pub fn iter(&self) -> impl Iterator<Item = (ValueId, &[Option<Vec<usize>>])> {
        self.0.iter().map(|(v, axes)| (*v, axes.as_slice()))
    }
    /// Adds what another cut then leaves of the cut model.
    pub fn then(&mut self, later: &Stays) {
        for (v, axes) in &later.0 {
            let before = self.0.entry(*v).or_insert_with(|| vec![None; axes.len()]);
            for (before, now) in before.iter_mut().zip(axes) {
                *before = match (before.take(), now) {
                    (Some(before), Some(now)) => {
                        Some(now.iter().filter_map(|k| before.get(*k)).copied().collect())
                    }
                    (before, now) => before.or_else(|| now.clone()),
                };
            }
        }
    }
}

impl Flow<'_> {
    /// Prepares shrinking.
    pub fn cut(&self, keep: Keep) -> Cut {
        let lookup = |f: Factor| keep.get(&f).map(Vec::as_slice);
        let mut weights = BTreeMap::new();
        for (v, _) in self.graph.initializers() {
            let shrunk = |f: &Factor| self.arena.leaves(*f).iter().any(|l| keep.contains_key(l));
            let axes: Vec<_> = self
                .known_dims(v)
                .iter()
                .map(|f| shrunk(f).then(|| self.arena.positions(*f, &lookup)))
                .collect();
            if axes.iter().any(Option::is_some) {
                weights.insert(v, axes);
            }
        }
        let known = self.graph.values().filter(|v| self.graph.value(*v).moments.is_some());
        let channels =
            known.filter_map(|v| Some((v, self.arena.positions(*self.known_dims(v).get(1)?, &lookup))));
        Cut {
            weights: Stays(weights),
            channels: channels.collect(),
            arena: self.arena.clone(),
            rewrites: Rewrites::of(self),
            keep,
        }
    }
}

impl Cut {
    /// What stays of each initializer that loses positions.
    pub fn stays(&self) -> &Stays {
        &self.weights
    }
    /// Removes the positions that do not stay, and adapts attributes and shape constants. Inner types are cleared
    /// and must be inferred again.
    pub fn apply(&self, model: &mut Model) -> Result<()> {
        let graph = &mut model.graph;
        self.each_axis(graph, |_, tensor, axis, keep| take(tensor, axis, keep))?;
        let keep = |f: Factor| self.keep.get(&f).map(Vec::as_slice);
        self.rewrites.apply(graph, &self.arena, &keep);
        for (v, stay) in &self.channels {
            let value = graph.value_mut(*v);
            value.moments = value.moments.take().and_then(|m| m.take(stay).map(Box::new));
        }
        graph.sweep();
        Ok(())
    }
    /// Sets the weights at the removed positions to zero: for exact groups the model then computes what the cut one
    /// does. Integers become those that stand for zero. Divisors and scales stay, as dividing by zero would say nothing.
    pub fn zero(&self, model: &mut Model) -> Result<()> {
        let graph = &mut model.graph;
        let blanks: HashMap<ValueId, Tensor> =
            self.weights.0.keys().filter_map(|v| Some((*v, blank(graph, *v)?))).collect();
        self.each_axis(graph, |v, tensor, axis, keep| {
            let mut stays = vec![false; tensor.shape()[axis]];
            keep.iter().for_each(|k| stays[*k] = true);
            let blank = blanks.get(&v).map(Tensor::bytes);
            blocks(tensor, axis, |k, place, block| match blank {
                _ if stays[k] => {}
                Some(blank) => block.copy_from_slice(&blank[place..place + block.len()]),
                None => block.fill(0),
            })
        })
    }
    fn each_axis(
        &self,
        graph: &mut Graph,
        change: impl Fn(ValueId, &Tensor, usize, &[usize]) -> Option<Tensor>,
    ) -> Result<()> {
        for (v, axes) in &self.weights.0 {
            let Some(mut tensor) = graph.initializer(*v).cloned() else { continue };
            for (axis, keep) in axes.iter().enumerate() {
                let Some(keep) = keep else { continue };
                tensor = change(*v, &tensor, axis, keep).ok_or_else(|| {
                    let at = Where::Value(graph.name_of(*v).to_owned());
                    Error::unsupported(at, format!("{} weights cannot be cut", tensor.dtype()))
                })?;
            }
            graph.value_mut(*v).origin = Origin::Initializer(tensor);
        }
        Ok(())
    }
}

/// What an initializer is where it is cut: `None` for zeros; divisors and scales are what they are.
fn blank(graph: &Graph, v: ValueId) -> Option<Tensor> {
    let tensor = graph.initializer(v)?;
    match quantized::part(graph, v) {
        Some(Part::Integers(op)) => {
            let zeros = Tensor::from_vec(tensor.shape(), vec![0f32; tensor.len()]);
            quantized::scheme(graph, op)?.quantize(&zeros).ok()
        }
        Some(Part::Scales) => Some(tensor.clone()),
        None => divides(graph, v).then(|| tensor.clone()),
    }
}

/// Whether something is divided by a value: zeros there would say nothing.
fn divides(graph: &Graph, v: ValueId) -> bool {
    graph.uses(v).iter().any(|at| matches!(at, Use::Input(op, 1) if graph.op(*op).is("Div")))
}

/// The tensor of which `small` is left when an axis keeps only these positions (`None`: all): zero where it was cut, or,
/// where `v` divides or scales, as it is in `graph`. `None` where the two do not belong together.
pub fn put_back(graph: &Graph, v: ValueId, small: &Tensor, kept: &[Option<&[usize]>]) -> Option<Tensor> {
    let whole = graph.initializer(v)?;
    let fits = |axis: usize| match kept.get(axis).copied().flatten() {
        Some(kept) => kept.len() == small.shape()[axis] && kept.iter().all(|k| *k < whole.shape()[axis]),
        None => small.shape()[axis] == whole.shape()[axis],
    };
    let same = small.dtype() == whole.dtype() && small.rank() == whole.rank();
    (same && (0..small.rank()).all(fits)).then_some(())?;
    if small.shape() == whole.shape() {
        return Some(small.clone());
    }
    let mut bytes = blank(graph, v).map_or_else(|| vec![0; whole.byte_len()], |b| b.bytes().to_vec());
    let cut = kept.iter().rposition(Option::is_some)?;
    let row = small.shape()[cut + 1..].iter().product::<usize>() * width(small)?;
    if row > 0 {
        for (k, from) in small.bytes().chunks_exact(row).enumerate() {
            let (mut left, mut at, mut step) = (k, 0, 1);
            for axis in (0..=cut).rev() {
                let place = left % small.shape()[axis];
                left /= small.shape()[axis];
                at += step * kept[axis].map_or(place, |kept| kept[place]);
                step *= whole.shape()[axis];
            }
            bytes[at * row..][..row].copy_from_slice(from);
        }
    }
    Tensor::new(whole.dtype(), whole.shape(), bytes::Bytes::from(bytes)).ok()
}

/// Bytes of one element; `None` for strings and types packed below a byte.
fn width(tensor: &Tensor) -> Option<usize> {
    let n = tensor.len();
    (n > 0 && tensor.data().is_some() && tensor.byte_len().is_multiple_of(n)).then(|| tensor.byte_len() / n)
}

/// The tensor restricted to some positions of an axis.
fn take(tensor: &Tensor, axis: usize, keep: &[usize]) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let row = shape[axis + 1..].iter().product::<usize>() * width(tensor)?;
    let mut bytes = Vec::with_capacity(tensor.byte_len() / shape[axis] * keep.len());
    for outer in tensor.bytes().chunks_exact(row * shape[axis]) {
        keep.iter().for_each(|k| bytes.extend_from_slice(&outer[k * row..(k + 1) * row]));
    }
    shape[axis] = keep.len();
    Tensor::new(tensor.dtype(), shape, bytes::Bytes::from(bytes)).ok()
}

/// The tensor after `f` changed the bytes at each position of an axis, given with the place of the first.
fn blocks(tensor: &Tensor, axis: usize, f: impl Fn(usize, usize, &mut [u8])) -> Option<Tensor> {
    let shape = tensor.shape();
    let row = shape[axis + 1..].iter().product::<usize>() * width(tensor)?;
    let mut bytes = tensor.bytes().to_vec();
    for (k, block) in bytes.chunks_exact_mut(row).enumerate() {
        f(k % shape[axis], k * row, block);
    }
    Tensor::new(tensor.dtype(), shape, bytes::Bytes::from(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_twice_counts_from_the_original() {
        let mut graph = Graph::new("g");
        let [v, w] = ["v", "w"].map(|name| graph.add_initializer(name, Tensor::ints([0])));
        let stays = |v, axes: &[Option<&[usize]>]| {
            Stays(BTreeMap::from([(v, axes.iter().map(|a| a.map(<[usize]>::to_vec)).collect())]))
        };
        let mut all = stays(v, &[Some(&[1, 3, 5, 7]), None]);
        all.then(&stays(v, &[Some(&[0, 2]), Some(&[4])]));
        all.then(&stays(w, &[Some(&[6])]));
        all.then(&stays(v, &[None, Some(&[0])]));
        assert_eq!(all.kept(v, 0), Some(&[1, 5][..]));
        assert_eq!((all.kept(v, 1), all.kept(w, 0)), (Some(&[4][..]), Some(&[6][..])));
    }
}
