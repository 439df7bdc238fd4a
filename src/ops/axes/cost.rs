//! Multiply-accumulates as a function of the extents of factors, so that a cut can be priced before it is made.

use super::{
    factor::{Arena, Factor, Kind},
    flow::Flow,
};
use crate::{
    ir::OpId,
    ops::macs::{self, Axis, Product},
};

/// The multiply-accumulates of one op, its bodies included, as [`crate::ops::cost::of_op`] counts them.
#[derive(Clone, Debug)]
pub struct Price {
    /// The op.
    pub op: OpId,
    products: Vec<Product<Factor>>,
    /// Those of its bodies.
    bodies: Vec<Vec<Price>>,
    /// Whether but one of the bodies is run: the dearest counts.
    one: bool,
}

impl Price {
    /// The multiply-accumulates when `kept` says how many positions stay of a leaf (`None`: all). Unknown extents
    /// (a batch) count as 1.
    pub fn macs(&self, arena: &Arena, kept: &impl Fn(Factor) -> Option<usize>) -> u64 {
        self.total(&|price| price.own(arena, kept))
    }
    /// Those of all layers, whole, of which less is left where `kept` says so.
    pub fn touched(&self, arena: &Arena, kept: &impl Fn(Factor) -> Option<usize>) -> u64 {
        self.total(&|price| {
            let whole = price.own(arena, &|_| None);
            if price.own(arena, kept) < whole { whole } else { 0 }
        })
    }
    fn own(&self, arena: &Arena, kept: &impl Fn(Factor) -> Option<usize>) -> u64 {
        let value = |p: &Product<Factor>| p.value(|f| arena.extent(*f, kept) as u64);
        self.products.iter().map(value).fold(0, u64::saturating_add)
    }
    /// `of` the op and of those in its bodies.
    fn total(&self, of: &dyn Fn(&Price) -> u64) -> u64 {
        let body = |ops: &Vec<Price>| ops.iter().map(|op| op.total(of)).fold(0, u64::saturating_add);
        let bodies = self.bodies.iter().map(body);
        let bodies = if self.one { bodies.max().unwrap_or(0) } else { bodies.fold(0, u64::saturating_add) };
        of(self).saturating_add(bodies)
    }
}

impl Arena {
    /// The extent of a factor when `kept` says how many positions stay of a leaf (`None`: all). An unknown one is 1.
    pub fn extent(&self, f: Factor, kept: &impl Fn(Factor) -> Option<usize>) -> usize {
        let f = self.find(f);
        match self.kind(f) {
            Kind::Leaf => kept(f).or(self.size(f)).unwrap_or(1),
            Kind::Product => self.flat(f, Kind::Product).iter().map(|p| self.extent(*p, kept)).product(),
            Kind::Concat => self.flat(f, Kind::Concat).iter().map(|p| self.extent(*p, kept)).sum(),
            Kind::Permuted => self.permutation(f).map_or(1, |(part, _)| self.extent(part, kept)),
        }
    }
}

impl Flow<'_> {
    /// The price of every op that costs multiply-accumulates. Together they are those of the main graph as
    /// [`crate::ops::cost::of_model`] counts them.
    pub fn prices(&self) -> Vec<Price> {
        let mut prices = self.all_prices();
        prices.retain(|p| p.macs(&self.arena, &|_| None) > 0);
        prices
    }
    fn all_prices(&self) -> Vec<Price> {
        self.graph.ops().map(|op| self.price(op)).collect()
    }
    fn price(&self, op: OpId) -> Price {
        let own = macs::of_op(self.graph, op).unwrap_or_default();
        let bodies = self.bodies.iter().filter(|(of, _)| *of == op).flat_map(|(_, bodies)| bodies);
        Price {
            op,
            products: own.iter().map(|p| self.over_factors(p)).collect(),
            bodies: bodies.map(Flow::all_prices).collect(),
            one: self.graph.op(op).is("If"),
        }
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
