//! Multiply-accumulates as a function of the extents of factors, so that a cut can be priced before it is made.

use super::{
    factor::{Arena, Factor, Factors},
    flow::Flow,
};
use crate::ir::OpId;

/// The multiply-accumulates of one op: `scale` times the extents of `factors`. Unknown extents (a batch) count as 1.
#[derive(Clone, Debug)]
pub struct Price {
    /// The op.
    pub op: OpId,
    factors: Factors,
    scale: u64,
}

impl Price {
    /// The multiply-accumulates when `kept` says how many positions stay of a leaf (`None`: all).
    pub fn macs(&self, arena: &Arena, kept: &impl Fn(Factor) -> Option<usize>) -> u64 {
        self.factors.iter().fold(self.scale, |n, f| n.saturating_mul(arena.extent(*f, kept) as u64))
    }
}

impl Arena {
    /// The extent of a factor when `kept` says how many positions stay of a leaf (`None`: all). An unknown one is 1.
    pub fn extent(&self, f: Factor, kept: &impl Fn(Factor) -> Option<usize>) -> usize {
        let f = self.find(f);
        match self.kind(f) {
            super::Kind::Leaf => kept(f).or(self.size(f)).unwrap_or(1),
            super::Kind::Product => {
                self.flat(f, super::Kind::Product).iter().map(|p| self.extent(*p, kept)).product()
            }
            super::Kind::Concat => {
                self.flat(f, super::Kind::Concat).iter().map(|p| self.extent(*p, kept)).sum()
            }
        }
    }
}

impl Flow<'_> {
    /// The price of every convolution and matrix product.
    pub fn prices(&self) -> Vec<Price> {
        self.graph.ops().filter_map(|op| self.price(op)).filter(|p| p.scale > 0).collect()
    }
    fn price(&self, op: OpId) -> Option<Price> {
        let node = self.graph.op(op);
        let dims = |v: Option<crate::ir::ValueId>| v.map(|v| self.known_dims(v));
        let (a, b) = (dims(self.graph.input(op, 0))?, dims(self.graph.input(op, 1)));
        let y = dims(self.graph.output(op, 0))?;
        let image = |d: &[Factor]| {
            let batch = d.first().and_then(|f| self.arena.size(*f)).unwrap_or(1);
            d.iter().skip(2).map(|f| self.arena.size(*f).unwrap_or(1)).product::<usize>() * batch
        };
        let (factors, scale): (Factors, usize) = match node.op_type.as_str() {
            "Conv" if node.is_standard() => (b?.into(), image(y)),
            "ConvTranspose" if node.is_standard() => (b?.into(), image(a)),
            "MatMul" if node.is_standard() => (y.iter().chain(a.last()).copied().collect(), 1),
            "Gemm" if node.is_standard() => {
                let inner = a.get(usize::from(node.int("transA").unwrap_or(0) == 0));
                (y.iter().chain(inner).copied().collect(), 1)
            }
            _ => return None,
        };
        Some(Price { op, factors, scale: scale as u64 })
    }
}
