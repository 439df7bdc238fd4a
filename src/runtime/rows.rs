//! Samples within batches: rows of the first axis.

use super::samples::inputs_of;
use crate::{
    error::Result,
    ir::{Data, Model, Tensor},
    measure::Batch,
};
use bytes::Bytes;

/// The samples in a batch, by the first axis of the first input that has one.
pub(super) fn rows_of(batch: &Batch) -> usize {
    batch.iter().find_map(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1)
}

/// The first sample of a batch of several; `None` where there is one, or the model says how many there are.
pub(super) fn single(batch: &Batch, model: &Model) -> Option<Batch> {
    let (rows, mut one) = (rows_of(batch), batch.clone());
    for input in inputs_of(model) {
        let (_, tensor) = one.iter_mut().find(|(name, _)| *name == input.name)?;
        let open = input.ty.shape.as_ref().and_then(|s| s.first()).is_none_or(|d| d.known().is_none());
        if tensor.shape().first() == Some(&rows) && open {
            *tensor = take_rows(tensor, &[0]).ok()?;
        }
    }
    (rows > 1 && rows_of(&one) == 1).then_some(one)
}

/// Rows of the first axis. Neighbouring rows share the bytes.
pub(super) fn take_rows(data: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let mut shape = data.shape().to_vec();
    let width = data.byte_len() / shape[0].max(1);
    shape[0] = rows.len();
    let together = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let bytes: Bytes = match (data.data(), rows.first()) {
        (Some(Data::Owned(all)), Some(first)) if together => {
            all.slice(first * width..(first + rows.len()) * width)
        }
        _ => {
            let all = data.bytes();
            rows.iter().flat_map(|row| &all[row * width..(row + 1) * width]).copied().collect()
        }
    };
    Tensor::new(data.dtype(), shape, bytes)
}
