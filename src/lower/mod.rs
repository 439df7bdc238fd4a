//! ONNX protobuf in and out.
//!
//! [`load`] maps the file and reads its structure; weights stay ranges of the map, or of the mapped files of external
//! data. What the IR does not model is carried along as encoded records and written back by [`save`], so an untouched
//! model comes out equal to what came in, but for these normalisations:
//!
//! - nodes of a graph that is not sorted come out in topological order;
//! - fields come out in one order, lists of numbers packed as ONNX declares them;
//! - attributes get their `type` and their value even where the file left them to be guessed;
//! - external data is laid out anew (or put into the model file, see [`ExternalData`]); checksums of the old layout go.

mod clipped;
mod dynamic;
mod export;
mod external;
mod few_bits;
mod import;
mod metadata;
mod operators;
pub mod opset;
mod pairs;
mod parameters;
pub mod proto;
mod rope;
mod saturated;
pub mod schemes;
mod shielded;
mod stored;
mod wire;

pub(crate) use export::to_bytes_without;
pub use export::{ExternalData, SaveOptions, byte_len, save, tensor_to_proto, to_bytes};
pub use import::{load, parse, tensor_from_proto};
pub use metadata::metadata;
