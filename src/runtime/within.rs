//! Samples of what runs within a model, as branches do: the values that it captures, in the batches that take it.

use super::{Measurer, Samples};
use crate::{
    error::Result,
    ir::{Model, Tensor},
    measure::{ALL, Batch, Measure, Probe, Seen},
};

/// Bytes of values that are computed for samples; the batches behind are left out.
const MOST_HELD: usize = 256 << 20;

/// See [`Measure::within`].
pub(super) fn samples(
    measurer: &Measurer,
    model: &Model,
    inputs: &[String],
    (condition, holds): (&str, bool),
) -> Result<Samples> {
    let fetch = [inputs, &[condition.to_owned()]].concat();
    let (mut batches, mut held) = (Vec::new(), 0);
    measurer.sweep(&[Probe { model, fetch: &fetch }], ALL, &mut |seen: Seen<'_>| {
        let Some((condition, values)) = seen.values.first().and_then(|values| values.split_last()) else {
            return Ok(());
        };
        if held >= MOST_HELD || condition.bytes().first().is_none_or(|byte| (*byte != 0) != holds) {
            return Ok(());
        }
        let given = &measurer.samples().batches()[seen.batch];
        let mut own = Batch::with_capacity(inputs.len());
        for (name, value) in inputs.iter().zip(values) {
            let tensor = match given.iter().find(|(given, _)| given == name) {
                Some((_, tensor)) => tensor.clone(),
                None => {
                    held += value.byte_len();
                    // What ONNX Runtime lends would keep a session in memory.
                    Tensor::new(value.dtype(), value.shape(), value.bytes().to_vec())?
                }
            };
            own.push((name.clone(), tensor));
        }
        batches.push(own);
        Ok(())
    })?;
    let mut samples = Samples::from_batches(batches);
    samples.synthetic = measurer.samples().synthetic;
    Ok(samples)
}
