//! Multiply-accumulates as a function of the extents of factors, so that a cut can be priced before it is made.

use super::{
    factor::{Arena, Factor},
    flow::Flow,
};
use crate::{
    ir::OpId,
    ops::{
        cost,
        macs::{self, Axis, Product},
    },
};

/// The multiply-accumulates of one op, its bodies included, as [`cost::of_op`] counts them.
#[derive(Clone, Debug)]
pub struct Price {
    /// The op.
    pub op: OpId,
    products: Vec<Product<Factor>>,
}

impl Price {
    /// The multiply-accumulates when `kept` says how many positions stay of a leaf (`None`: all). Unknown extents
    /// (a batch) count as 1.
    pub fn macs(&self, arena: &Arena, kept: &impl Fn(Factor) -> Option<usize>) -> u64 {
        let value = |p: &Product<Factor>| p.value(|f| arena.extent(*f, kept) as u64);
        self.products.iter().map(value).fold(0, u64::saturating_add)
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
    /// The price of every op that costs multiply-accumulates. Together they are those of the main graph as
    /// [`cost::of_model`] counts them.
    pub fn prices(&self) -> Vec<Price> {
        let prices = self.graph.ops().map(|op| self.price(op));
        prices.filter(|p| p.macs(&self.arena, &|_| None) > 0).collect()
    }
    fn price(&self, op: OpId) -> Price {
        let own = macs::of_op(self.graph, op).unwrap_or_default();
        let bodies = Product { times: cost::of_bodies(self.graph, op).macs, ..Product::of([]) };
        Price { op, products: own.iter().map(|p| self.over_factors(p)).chain([bodies]).collect() }
    }
    /// The product over factors; the extents of axes that the analysis did not meet are multiplied in.
    fn over_factors(&self, product: &Product<Axis>) -> Product<Factor> {
        let mut result = Product { times: product.times, over: product.over, ..Product::of([]) };
        for axis in &product.axes {
            match self.known_dims(axis.value).get(axis.at) {
                Some(factor) => result.axes.push(*factor),
                None => result.times = result.times.saturating_mul(axis.extent(self.graph)),
            }
        }
        result
    }
}
