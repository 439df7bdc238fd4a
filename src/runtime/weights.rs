//! Weights in ONNX Runtime's form. Sessions of models that hold the same tensors read the same memory: a pass runs many
//! models side by side that differ in a layer.

use super::{convert, find::locked};
use crate::{
    error::Result,
    ir::{DType, Data, Model, Tensor},
};
use ort::value::DynValue;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, Weak},
};

/// Smaller ones (below 16 KiB) stay in the model.
const LEAST: usize = 16 << 10;

/// A tensor by the address of its bytes, its type and its shape.
type Key = (usize, DType, Vec<usize>);
/// What is kept of a tensor keeps its bytes alive, so that an address stands for the same bytes as long as the value is in
/// use.
type Known = HashMap<Key, (Data, Weak<DynValue>)>;
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// The constants of a model's main graph that a session is given apart from it, by name.
pub(super) fn apart(model: &Model) -> Result<HashMap<String, Arc<DynValue>>> {
    let graph = &model.graph;
    let large = graph.initializers().filter(|(v, tensor)| tensor.byte_len() >= LEAST && !graph.is_input(*v));
    let shared = |(v, tensor)| {
        let name = graph.name_of(v);
        Ok(shared(name, tensor)?.map(|value| (name.to_owned(), value)))
    };
    large.filter_map(|of| shared(of).transpose()).collect()
}

/// Nothing for types that have no value of ONNX Runtime.
fn shared(name: &str, tensor: &Tensor) -> Result<Option<Arc<DynValue>>> {
    let Some(data) = tensor.data() else { return Ok(None) };
    let key = (data.as_slice().as_ptr().addr(), tensor.dtype(), tensor.shape().to_vec());
    let mut known = locked(&KNOWN);
    if let Some(value) = known.get(&key).and_then(|(_, value)| value.upgrade()) {
        return Ok(Some(value));
    }
    known.retain(|_, (_, value)| value.strong_count() > 0);
    let Some(value) = convert::copied(name, tensor)?.map(Arc::new) else { return Ok(None) };
    // What was read of a mapped file counts as memory until it is given back.
    tensor.release();
    known.insert(key, (data.clone(), Arc::downgrade(&value)));
    Ok(Some(value))
}
