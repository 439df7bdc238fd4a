//! The scales and zero points of what is quantized. A file holds many of them, so their names are short, and what is equal
//! is there once: integer kernels look for a zero point for each channel, though nearly all are zeros.

use crate::ir::{DType, Graph, QuantScheme, Tensor, ValueId};
use std::collections::HashMap;

/// The zero points that are there already.
#[derive(Default)]
pub(super) struct Parameters(HashMap<(DType, Vec<usize>, Vec<u8>), ValueId>);

impl Parameters {
    /// Scales and zero points of this shape, which must hold as many as the scheme has.
    pub(super) fn of(&mut self, graph: &mut Graph, scheme: &QuantScheme, shape: &[usize]) -> [ValueId; 2] {
        [scale(graph, scheme, DType::F32, shape), self.zero_point(graph, scheme.zero_point_tensor(shape))]
    }
    /// A constant that equals this one.
    pub(super) fn zero_point(&mut self, graph: &mut Graph, zeros: Tensor) -> ValueId {
        let key = (zeros.dtype(), zeros.shape().to_vec(), zeros.bytes().to_vec());
        *self.0.entry(key).or_insert_with(|| graph.add_initializer("zero_point", zeros))
    }
}

/// Scales of this type and shape, which must hold as many as the scheme has.
pub(super) fn scale(graph: &mut Graph, scheme: &QuantScheme, dtype: DType, shape: &[usize]) -> ValueId {
    graph.add_initializer("scale", scheme.scale_tensor(dtype, shape))
}
