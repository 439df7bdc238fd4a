//! Ops and their attributes.

use super::{Carried, Graph, SparseTensor, Tensor, Type};
use bytes::Bytes;

/// The value of an attribute (`AttributeProto`).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are ONNX's own kinds")]
pub enum Attr {
    Float(f32),
    Int(i64),
    /// Bytes; ONNX does not require UTF-8.
    String(Bytes),
    Tensor(Tensor),
    /// The body of If, Loop or Scan.
    Graph(Box<Graph>),
    SparseTensor(Box<SparseTensor>),
    Type(Type),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Bytes>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Graph>),
    SparseTensors(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// In a function body: the function's attribute of that name. The number is `AttributeProto.type`.
    Reference(String, i32),
}

macro_rules! attr_from {
    ($($t:ty => $variant:ident),*) => {
        $(impl From<$t> for Attr { fn from(v: $t) -> Self { Attr::$variant(v.into()) } })*
    };
}
attr_from!(f32 => Float, i64 => Int, Tensor => Tensor, Vec<f32> => Floats, Vec<i64> => Ints, Type => Type);
impl From<&str> for Attr {
    fn from(v: &str) -> Self {
        Attr::String(Bytes::copy_from_slice(v.as_bytes()))
    }
}
impl From<Graph> for Attr {
    fn from(v: Graph) -> Self {
        Attr::Graph(Box::new(v))
    }
}

/// A named attribute of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Attr,
    /// What the file said beyond that.
    pub carried: Carried,
}

/// An operator at work: what it is, not what it is connected to (the graph knows that).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Op {
    /// The operator set's domain; empty for ONNX's own (`ai.onnx` is normalised to it by [`Op::is`]).
    pub domain: String,
    /// The operator's name: "Conv".
    pub op_type: String,
    /// Which overload of a model-local function; empty for operators.
    pub overload: String,
    /// The node's own name; may be empty, need not be unique.
    pub name: String,
    /// Attributes in the file's order.
    pub attrs: Vec<Attribute>,
    /// What the file said beyond that.
    pub carried: Carried,
}

impl Op {
    /// An operator of ONNX's own domain, without attributes.
    pub fn new(op_type: &str, name: impl Into<String>) -> Self {
        Op { op_type: op_type.to_owned(), name: name.into(), ..Op::default() }
    }
    /// The same with one more attribute.
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Self {
        self.set(name, value);
        self
    }
    /// The same in another domain.
    pub fn in_domain(mut self, domain: &str) -> Self {
        self.domain = domain.to_owned();
        self
    }
    /// Whether this is ONNX's own domain, whose name is empty or `ai.onnx`.
    pub fn is_standard(&self) -> bool {
        self.domain.is_empty() || self.domain == "ai.onnx"
    }
    /// Whether this is the operator of that name in ONNX's own domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.is_standard() && self.op_type == op_type
    }
    /// The operator as people read it: its name, before which another domain stands with a colon.
    pub fn full_type(&self) -> String {
        if self.is_standard() { self.op_type.clone() } else { format!("{}:{}", self.domain, self.op_type) }
    }
    /// An attribute's value.
    pub fn attr(&self, name: &str) -> Option<&Attr> {
        self.attrs.iter().find(|a| a.name == name).map(|a| &a.value)
    }
    /// Sets an attribute, keeping its place among the others.
    pub fn set(&mut self, name: &str, value: impl Into<Attr>) {
        let value = value.into();
        match self.attrs.iter_mut().find(|a| a.name == name) {
            Some(a) => a.value = value,
            None => self.attrs.push(Attribute { name: name.to_owned(), value, carried: Carried::default() }),
        }
    }
    /// Removes an attribute and returns what it was.
    pub fn unset(&mut self, name: &str) -> Option<Attr> {
        let at = self.attrs.iter().position(|a| a.name == name)?;
        Some(self.attrs.remove(at).value)
    }
    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attr(name)? {
            Attr::Int(v) => Some(*v),
            _ => None,
        }
    }
    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attr(name)? {
            Attr::Float(v) => Some(*v),
            _ => None,
        }
    }
    /// An integer list attribute.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attr(name)? {
            Attr::Ints(v) => Some(v),
            _ => None,
        }
    }
    /// A string attribute, where it is UTF-8.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.attr(name)? {
            Attr::String(v) => std::str::from_utf8(v).ok(),
            _ => None,
        }
    }
    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.attr(name)? {
            Attr::Tensor(v) => Some(v),
            _ => None,
        }
    }
    /// The bodies among the attributes, in order.
    pub fn bodies(&self) -> impl Iterator<Item = &Graph> {
        self.attrs.iter().flat_map(|a| match &a.value {
            Attr::Graph(g) => std::slice::from_ref(&**g),
            Attr::Graphs(gs) => gs.as_slice(),
            _ => &[],
        })
    }
    /// The bodies among the attributes, to be changed.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.attrs.iter_mut().flat_map(|a| match &mut a.value {
            Attr::Graph(g) => std::slice::from_mut(&mut **g),
            Attr::Graphs(gs) => gs.as_mut_slice(),
            _ => &mut [],
        })
    }
}
