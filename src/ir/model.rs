//! A model: graphs, functions, and everything the file carried besides.

use super::{Attribute, Graph};
use crate::error::Result;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Fields of a file's message that the IR does not interpret (doc strings, metadata, fields newer than this
/// program), kept as encoded protobuf of that same message and written back unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried(pub Bytes);

/// An operator set that a model or function uses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OpsetImport {
    /// Empty (or `ai.onnx`) for ONNX's own operators.
    pub domain: String,
    /// Its version.
    pub version: i64,
    /// What the file said beyond that.
    pub carried: Carried,
}

impl OpsetImport {
    /// Whether this is ONNX's own operator set.
    pub fn is_standard(&self) -> bool {
        self.domain.is_empty() || self.domain == "ai.onnx"
    }
}

/// Quantization parameters that the file attaches to a tensor by name (`TensorAnnotation`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Annotation {
    /// The annotated tensor.
    pub tensor: String,
    /// Key (`SCALE_TENSOR`, `ZERO_POINT_TENSOR`) and the tensor that holds it.
    pub parameters: Vec<(String, String)>,
    /// What the file said beyond that.
    pub carried: Carried,
}

/// A model-local function.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Function {
    /// The domain it is called by.
    pub domain: String,
    /// The name it is called by.
    pub name: String,
    /// Distinguishes functions of equal domain and name.
    pub overload: String,
    /// Attributes a caller must give.
    pub attributes: Vec<String>,
    /// Attributes with a default.
    pub defaults: Vec<Attribute>,
    /// The operator sets its body uses.
    pub opsets: Vec<OpsetImport>,
    /// The body; its inputs and outputs are the function's.
    pub body: Graph,
    /// What the file said beyond that.
    pub carried: Carried,
}

/// A whole model (`ModelProto`).
#[derive(Debug, PartialEq, Default)]
pub struct Model {
    /// The version of the file format.
    pub ir_version: i64,
    /// Operator sets in the file's order; duplicates and unused ones are kept.
    pub opsets: Vec<OpsetImport>,
    /// The main graph.
    pub graph: Graph,
    /// Model-local functions.
    pub functions: Vec<Function>,
    /// What passes leave for later runs of this program, by key; in the file, entries of `metadata_props` under
    /// [`Model::NOTE`] and the key.
    pub notes: BTreeMap<String, String>,
    /// Producer, metadata, training information and the rest.
    pub carried: Carried,
}

impl Clone for Model {
    fn clone(&self) -> Model {
        let mut clone = Model {
            ir_version: self.ir_version,
            opsets: self.opsets.clone(),
            graph: self.graph.clone(),
            functions: self.functions.clone(),
            notes: self.notes.clone(),
            carried: self.carried.clone(),
        };
        // What is done to a clone uses up no names of the original.
        clone.graph.own_names();
        clone.functions.iter_mut().for_each(|f| f.body.own_names());
        clone
    }
}

impl Model {
    /// What the keys of notes begin with in a file's `metadata_props`.
    pub const NOTE: &'static str = "onnx-compress.";

    /// The version of ONNX's own operator set; 1 where the file imports none, as ONNX prescribes.
    pub fn opset(&self) -> i64 {
        self.opset_of("").unwrap_or(1)
    }
    /// The version imported for a domain.
    pub fn opset_of(&self, domain: &str) -> Option<i64> {
        let canonical = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
        let domain = canonical(domain);
        self.opsets.iter().filter(|o| canonical(&o.domain) == domain).map(|o| o.version).max()
    }
    /// Imports a domain if no version of it is imported yet.
    pub fn require_domain(&mut self, domain: &str, version: i64) {
        if self.opset_of(domain).is_none() {
            self.opsets.push(OpsetImport { domain: domain.to_owned(), version, carried: Carried::default() });
        }
    }
    /// Checks the invariants of every graph; see [`Graph::verify`].
    pub fn verify(&self) -> Result<()> {
        self.graph.verify()?;
        self.functions.iter().try_for_each(|f| f.body.verify())
    }
    /// Calls `f` on the main graph, every body nested in it, and every function body; outer graphs first.
    pub fn for_each_graph<'a>(&'a self, mut f: impl FnMut(&'a Graph)) {
        self.graph.for_each_nested(&mut f);
        for function in &self.functions {
            function.body.for_each_nested(&mut f);
        }
    }
}
