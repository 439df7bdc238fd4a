//! Storing weights by their non-zero elements.

use super::weights::Candidate;
use crate::ir::{Carried, Graph, Origin, SparseTensor, Tensor};

/// The bytes of an element's place.
const PLACE: usize = size_of::<i64>();

/// Stores the weights that take fewer bytes that way by their non-zero elements; returns how many there are.
pub(super) fn sparse(g: &mut Graph, candidates: &[Candidate]) -> usize {
    let mut stored = 0;
    for candidate in candidates {
        let Some(tensor) = g.initializer(candidate.value) else { continue };
        if let Some(sparse) = smaller(tensor) {
            g.value_mut(candidate.value).origin = Origin::SparseInitializer(sparse);
            stored += 1;
        }
    }
    stored
}

/// The non-zero elements of a tensor with their linear places; `None` where that is no smaller.
fn smaller(tensor: &Tensor) -> Option<SparseTensor> {
    let numbers = tensor.to_f32()?;
    let places: Vec<i64> = (0i64..).zip(numbers.iter()).filter(|(_, x)| **x != 0.0).map(|(k, _)| k).collect();
    let width = tensor.byte_len() / tensor.len().max(1);
    (places.len() * (width + PLACE) < tensor.byte_len()).then_some(())?;
    let values = numbers.iter().copied().filter(|x| *x != 0.0).collect();
    let values = Tensor::from_f32(tensor.dtype(), [places.len()], values)?;
    Some(SparseTensor {
        values,
        indices: Tensor::ints(places),
        dims: tensor.shape().to_vec(),
        carried: Carried::default(),
    })
}
