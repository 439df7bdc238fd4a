//! Weights that sessions read where the model has them. A pass runs many models side by side that differ in a layer: all read the
//! same memory.

use super::{convert, failed, find::locked};
use crate::{
    error::Result,
    ir::{DType, Data, Model, Tensor},
};
use ort::{AsPointer as _, session::builder::SessionBuilder, sys};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, Weak},
};

/// Smaller ones (below 16 KiB) stay in the model.
const LEAST: usize = 16 << 10;

/// The constants of a model's main graph that a session is given apart from it.
pub(super) struct Apart {
    /// What stands for those of these names in the model: places in `data`.
    pub(super) numbers: HashMap<String, usize>,
    data: Vec<Arc<Data>>,
}

impl Apart {
    /// Those of this model.
    pub(super) fn of(model: &Model) -> Apart {
        let (graph, mut numbers, mut data) = (&model.graph, HashMap::new(), Vec::new());
        for (v, tensor) in graph.initializers().filter(|(v, t)| t.byte_len() >= LEAST && !graph.is_input(*v))
        {
            if let Some(bytes) = aligned(tensor) {
                numbers.insert(graph.name_of(v).to_owned(), data.len());
                data.push(bytes);
            }
        }
        Apart { numbers, data }
    }
    /// Has a session read them where they are. Returns what is to live as long as the session does.
    #[allow(unsafe_code, reason = "ort has this for bytes in memory of its own alone")]
    pub(super) fn give_to(self, builder: SessionBuilder) -> Result<(SessionBuilder, Vec<Arc<Data>>)> {
        // An older ONNX Runtime (1.24 was tried) does not know this, and copies them.
        let directly = "session.use_external_initializer_file_buffers_directly";
        let builder = builder.with_config_entry(directly, "1").map_err(|why| failed("weights", &why))?;
        for (number, data) in self.data.iter().enumerate() {
            let name: Vec<_> = format!("{number}\0").bytes().map(|byte| byte as sys::os_char).collect();
            let bytes = data.as_slice();
            // SAFETY: the name ends with a zero. The bytes do not move, are only read (the pointer is not const as C has it), and
            // live as long as the session, for which whoever calls this cares: a builder that is dropped does not touch them.
            let given = unsafe {
                ort::Error::result_from_status((ort::api().AddExternalInitializersFromMemory)(
                    builder.ptr().cast_mut(),
                    &name.as_ptr(),
                    &bytes.as_ptr().cast_mut().cast(),
                    &bytes.len(),
                    1,
                ))
            };
            given.map_err(|why| failed("weights", &why))?;
        }
        Ok((builder, self.data))
    }
}

/// The bytes of a tensor, aligned for its type; nothing for strings.
fn aligned(tensor: &Tensor) -> Option<Arc<Data>> {
    /// A copy by the bytes that it is of, which it keeps: an address stands for the same bytes as long as the copy is in use.
    type Copies = HashMap<(usize, usize, DType), (Data, Weak<Data>)>;
    static COPIES: LazyLock<Mutex<Copies>> = LazyLock::new(Mutex::default);

    let data = tensor.data()?;
    // Before the lock is taken: they may be still to compute.
    let key = (data.as_slice().as_ptr().addr(), data.len(), tensor.dtype());
    let mut copies = locked(&COPIES);
    if let Some(copy) = copies.get(&key).and_then(|(_, copy)| copy.upgrade()) {
        return Some(copy);
    }
    copies.retain(|_, (_, copy)| copy.strong_count() > 0);
    let Some(copy) = convert::realigned(tensor).map(Arc::new) else { return Some(Arc::new(data.clone())) };
    // What was read of a mapped file counts as memory until it is given back.
    tensor.release();
    copies.insert(key, (data.clone(), Arc::downgrade(&copy)));
    Some(copy)
}
