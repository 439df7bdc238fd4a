//! The intermediate representation: a model, its graphs, and the edits that keep them valid.
//!
//! A [`Graph`] is bipartite: ops and values are nodes, an edge says in which slot an op reads or writes a value.
//! It is the single source of truth for definitions and uses. Nothing here knows protobuf, files or the runtime.

mod attr;
mod data;
mod deferred;
mod dtype;
mod edit;
mod float8;
mod grain;
mod graph;
mod inline;
mod model;
mod moments;
mod order;
mod packed;
mod place;
mod quant;
mod tensor;
pub mod text;
mod types;
mod verify;

pub use attr::{Attr, Attribute, Op};
pub use data::{Data, MappedFile};
pub use deferred::{Deferred, Recipe};
pub use dtype::DType;
pub use float8::Float8;
pub use grain::{Grain, Lay};
pub use graph::{Graph, OpId, Origin, Slots, Use, Value, ValueId};
pub use model::{Annotation, Carried, Function, Model, OpsetImport};
pub use moments::Moments;
pub use place::Where;
pub(crate) use quant::nearest;
pub use quant::{QuantForm, QuantScheme};
pub use tensor::{Element, SparseTensor, Storage, Tensor};
pub use types::{Dim, Shape, TensorType, Type};
