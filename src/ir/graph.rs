//! The bipartite graph of ops and values.

use super::{
    Annotation, Carried, DType, Moments, Op, QuantScheme, Shape, SparseTensor, Tensor, TensorType, Type,
    Where,
};
use petgraph::{
    Direction::{self, Incoming, Outgoing},
    stable_graph::{NodeIndex, StableDiGraph},
    visit::EdgeRef,
};
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// Names an op of one graph. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub(super) NodeIndex);
/// Names a value of one graph. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(super) NodeIndex);

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Origin {
    /// An op's output or a graph input: the edges and the input list tell which.
    #[default]
    Computed,
    /// A constant of the graph. If it is also a graph input, it is that input's default.
    Initializer(Tensor),
    /// A constant given by its non-zero elements.
    SparseInitializer(SparseTensor),
    /// In a body: the value of that name in the graph around it.
    Captured,
}

/// A value: a tensor (or sequence, map...) that flows through the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    pub(super) name: String,
    /// Its declared or inferred type.
    pub ty: Option<Type>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is to be quantized to when the model is written: constants of floating-point numbers and computed float32
    /// values have one.
    pub quant: Option<QuantScheme>,
    /// What is known of its distribution; as long as its channels, where there is any.
    pub moments: Option<Box<Moments>>,
    /// What the file said beyond that.
    pub carried: Carried,
}

impl Value {
    /// Its name, unique in the model's scope.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One use of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// As an op's input in this slot.
    Input(OpId, usize),
    /// By the bodies of an op.
    Capture(OpId),
}

impl Use {
    /// The op that uses the value.
    pub fn op(self) -> OpId {
        match self {
            Use::Input(op, _) | Use::Capture(op) => op,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Entity {
    /// An op with the number of input and output slots its node declares (trailing ones may be empty).
    Op(Box<Op>, [usize; 2]),
    Value(Box<Value>),
    /// What stands where something was removed, so that no id is ever given out twice.
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    Slot(u32),
    Capture,
}

/// Names in use in a model, shared by a graph and its bodies so that a fresh name is fresh in every scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<String, u32>>>);

impl Names {
    fn copied(&self) -> Names {
        Names(Arc::new(Mutex::new(self.0.lock().expect("no panic while held").clone())))
    }
    pub(super) fn take(&self, name: &str) {
        self.0.lock().expect("no panic while held").entry(name.to_owned()).or_insert(0);
    }
    pub(super) fn fresh(&self, hint: &str) -> String {
        let mut names = self.0.lock().expect("no panic while held");
        let mut next = match names.get(hint) {
            None => {
                names.insert(hint.to_owned(), 0);
                return hint.to_owned();
            }
            Some(n) => *n,
        };
        loop {
            next += 1;
            let name = format!("{hint}_{next}");
            if !names.contains_key(&name) {
                names.insert(hint.to_owned(), next);
                names.insert(name.clone(), 0);
                return name;
            }
        }
    }
}

/// Slots of an op, in order; `None` where an optional one is left out.
pub type Slots = SmallVec<[Option<ValueId>; 4]>;

/// A graph: the main one, the body of a control-flow op, or the body of a function.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Inputs in order. One that also is an initializer has that default.
    pub inputs: Vec<ValueId>,
    /// Outputs in order. A value may stand here more than once.
    pub outputs: Vec<ValueId>,
    /// Quantization parameters by tensor name.
    pub annotations: Vec<Annotation>,
    /// What the file said beyond that.
    pub carried: Carried,
    pub(super) g: StableDiGraph<Entity, Edge>,
    pub(super) by_name: HashMap<String, ValueId>,
    pub(super) names: Names,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }
    /// Stops sharing names with what it was cloned from.
    pub(crate) fn own_names(&mut self) {
        let names = self.names.copied();
        self.share_names(&names);
    }
    fn share_names(&mut self, names: &Names) {
        self.names = names.clone();
        for op in self.ops().collect::<Vec<_>>() {
            self.op_mut(op).bodies_mut().for_each(|body| body.share_names(names));
        }
    }
    /// An empty graph that will be the body of one of this graph's ops: they share their names.
    pub fn new_body(&self, name: impl Into<String>) -> Graph {
        Graph { name: name.into(), names: self.names.clone(), ..Graph::default() }
    }
    /// An op.
    pub fn op(&self, id: OpId) -> &Op {
        match &self.g[id.0] {
            Entity::Op(op, _) => op,
            _ => unreachable!("an OpId names an op until it is removed"),
        }
    }
    /// An op, to be changed. After changing bodies call [`Graph::refresh_captures`].
    pub fn op_mut(&mut self, id: OpId) -> &mut Op {
        match &mut self.g[id.0] {
            Entity::Op(op, _) => op,
            _ => unreachable!("an OpId names an op until it is removed"),
        }
    }
    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        match &self.g[id.0] {
            Entity::Value(value) => value,
            _ => unreachable!("a ValueId names a value until it is removed"),
        }
    }
    /// A value, to be changed. Its name is changed by [`Graph::rename`].
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        match &mut self.g[id.0] {
            Entity::Value(value) => value,
            _ => unreachable!("a ValueId names a value until it is removed"),
        }
    }
    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }
    /// Whether the op is still there.
    pub fn has_op(&self, id: OpId) -> bool {
        matches!(self.g.node_weight(id.0), Some(Entity::Op(..)))
    }
    /// Whether the value is still there.
    pub fn has_value(&self, id: ValueId) -> bool {
        matches!(self.g.node_weight(id.0), Some(Entity::Value(_)))
    }
    /// A value's name.
    pub fn name_of(&self, id: ValueId) -> &str {
        &self.value(id).name
    }
    /// Ops, oldest first (see [`Graph::order`] for a topological order).
    pub fn ops(&self) -> impl Iterator<Item = OpId> + '_ {
        self.g.node_indices().filter(|n| matches!(self.g[*n], Entity::Op(..))).map(OpId)
    }
    /// Values, oldest first.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.g.node_indices().filter(|n| matches!(self.g[*n], Entity::Value(_))).map(ValueId)
    }
    /// Values that are dense initializers, oldest first, with their tensors.
    pub fn initializers(&self) -> impl Iterator<Item = (ValueId, &Tensor)> + '_ {
        self.values().filter_map(|v| Some((v, self.initializer(v)?)))
    }
    /// The bytes of all of them; free to ask.
    pub fn initializer_bytes(&self) -> usize {
        self.initializers().map(|(_, tensor)| tensor.byte_len()).sum()
    }
    /// An op's inputs by slot.
    pub fn inputs_of(&self, id: OpId) -> Slots {
        self.slots(id, Incoming)
    }
    /// An op's outputs by slot.
    pub fn outputs_of(&self, id: OpId) -> Slots {
        self.slots(id, Outgoing)
    }
    /// An op's input in one slot, `None` where it is left out.
    pub fn input(&self, id: OpId, slot: usize) -> Option<ValueId> {
        self.inputs_of(id).get(slot).copied().flatten()
    }
    /// An op's output in one slot, `None` where it is left out.
    pub fn output(&self, id: OpId, slot: usize) -> Option<ValueId> {
        self.outputs_of(id).get(slot).copied().flatten()
    }
    fn slots(&self, id: OpId, direction: Direction) -> Slots {
        let Entity::Op(_, arity) = &self.g[id.0] else { unreachable!("an OpId names an op") };
        let mut slots: Slots = SmallVec::new();
        slots.resize(arity[usize::from(direction == Outgoing)], None);
        for e in self.g.edges_directed(id.0, direction) {
            if let Edge::Slot(k) = e.weight() {
                let other = if direction == Incoming { e.source() } else { e.target() };
                slots[*k as usize] = Some(ValueId(other));
            }
        }
        slots
    }
    /// The op that computes a value, and in which output slot.
    pub fn producer(&self, id: ValueId) -> Option<(OpId, usize)> {
        self.g.edges_directed(id.0, Incoming).find_map(|e| match e.weight() {
            Edge::Slot(k) => Some((OpId(e.source()), *k as usize)),
            Edge::Capture => None,
        })
    }
    /// The uses of a value by ops, oldest op first. That it is a graph output is not among them.
    pub fn uses(&self, id: ValueId) -> Vec<Use> {
        let mut uses: Vec<Use> = self
            .g
            .edges_directed(id.0, Outgoing)
            .map(|e| match e.weight() {
                Edge::Slot(k) => Use::Input(OpId(e.target()), *k as usize),
                Edge::Capture => Use::Capture(OpId(e.target())),
            })
            .collect();
        uses.sort_unstable_by_key(|u| (u.op(), *u));
        uses
    }
    /// Outer values that an op's bodies use, oldest first.
    pub fn captures_of(&self, id: OpId) -> Vec<ValueId> {
        let edges = self.g.edges_directed(id.0, Incoming);
        let mut captures: Vec<_> =
            edges.filter(|e| *e.weight() == Edge::Capture).map(|e| ValueId(e.source())).collect();
        captures.sort_unstable();
        captures
    }
    /// Whether the value is a graph input.
    pub fn is_input(&self, id: ValueId) -> bool {
        self.inputs.contains(&id)
    }
    /// Whether the value is a graph output.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.contains(&id)
    }
    /// The only use of a value, where it has exactly one and is no graph output.
    pub fn sole_use(&self, id: ValueId) -> Option<Use> {
        match self.uses(id)[..] {
            [only] if !self.is_output(id) => Some(only),
            _ => None,
        }
    }
    /// The op, and which of its bodies, that alone uses a value from around it.
    pub fn sole_body(&self, id: ValueId) -> Option<(OpId, usize)> {
        let Use::Capture(op) = self.sole_use(id)? else { return None };
        let captures = |body: &&Graph| {
            body.find(self.name_of(id)).is_some_and(|v| body.value(v).origin == Origin::Captured)
        };
        let mut bodies = self.op(op).bodies().enumerate().filter(|(_, body)| captures(body));
        let (first, others) = (bodies.next()?.0, bodies.next());
        others.is_none().then_some((op, first))
    }
    /// The tensor of a dense initializer, constant or overridable.
    pub fn initializer(&self, id: ValueId) -> Option<&Tensor> {
        match &self.value(id).origin {
            Origin::Initializer(t) => Some(t),
            _ => None,
        }
    }
    /// The tensor of a value that is the same in every run: an initializer that is no graph input, or the output of
    /// a Constant node that holds a tensor.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        match self.initializer(id) {
            Some(t) => (!self.is_input(id)).then_some(t),
            None => {
                let op = self.op(self.producer(id)?.0);
                op.is("Constant").then(|| op.tensor("value")).flatten()
            }
        }
    }
    /// The tensor type of a value, from its bytes or as declared or inferred.
    pub fn tensor_type(&self, id: ValueId) -> Option<TensorType> {
        match &self.value(id).origin {
            Origin::Initializer(t) => Some(t.ty()),
            Origin::SparseInitializer(s) => {
                Some(TensorType::new(s.values.dtype(), s.dims.iter().map(|d| (*d).into())))
            }
            _ => self.value(id).ty.as_ref()?.as_tensor().cloned(),
        }
    }
    /// The shape of a value, where its rank is known.
    pub fn shape(&self, id: ValueId) -> Option<Shape> {
        self.tensor_type(id)?.shape
    }
    /// The element type of a value.
    pub fn dtype(&self, id: ValueId) -> Option<DType> {
        self.tensor_type(id)?.dtype
    }
    /// The number of dimensions of a value.
    pub fn rank(&self, id: ValueId) -> Option<usize> {
        self.tensor_type(id)?.rank()
    }
    /// How messages name an op: its name, or its first output where it has none.
    pub fn place(&self, id: OpId) -> Where {
        let name = &self.op(id).name;
        if !name.is_empty() {
            return Where::Op(name.clone());
        }
        let output = self.outputs_of(id).into_iter().flatten().next();
        Where::Op(output.map_or_else(|| self.op(id).op_type.clone(), |v| self.name_of(v).to_owned()))
    }
    /// Calls `f` on this graph and every body nested in it, outer ones first.
    pub fn for_each_nested<'a>(&'a self, f: &mut impl FnMut(&'a Graph)) {
        f(self);
        for op in self.ops() {
            for body in self.op(op).bodies() {
                body.for_each_nested(f);
            }
        }
    }
}

/// Equal by structure: the same ops in the same order on values of the same names.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let names = |g: &Graph, vs: &[ValueId]| vs.iter().map(|v| g.value(*v).clone()).collect::<Vec<_>>();
        let slots =
            |g: &Graph, vs: Slots| vs.iter().map(|v| v.map(|v| g.name_of(v).to_owned())).collect::<Vec<_>>();
        let op = |g: &Graph, o: OpId| (slots(g, g.inputs_of(o)), slots(g, g.outputs_of(o)));
        let values = |g: &Graph| {
            let mut all: Vec<_> = g.values().map(|v| g.value(v).clone()).collect();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        };
        let (a, b) = (self.order(), other.order());
        self.name == other.name
            && a.len() == b.len()
            && self.carried == other.carried
            && self.annotations == other.annotations
            && names(self, &self.inputs) == names(other, &other.inputs)
            && names(self, &self.outputs) == names(other, &other.outputs)
            && a.iter().zip(&b).all(|(x, y)| self.op(*x) == other.op(*y) && op(self, *x) == op(other, *y))
            && values(self) == values(other)
    }
}
