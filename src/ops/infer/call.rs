//! What a rule is given, and the pieces that rules share.

use super::{
    expr::Expr,
    fact::{Fact, Size, num},
};
use crate::ir::{Op, Tensor};
use crate::ops::fold::index;

/// One op at inference: what it is and what is known of its inputs.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) op: &'a Op,
    pub(super) opset: i64,
    pub(super) inputs: &'a [Option<&'a Fact>],
    pub(super) outputs: usize,
}

/// What a rule finds out: the outputs in slot order, fewer where it says nothing of the later ones; `None` for nothing.
pub(super) type Found = Option<Vec<Fact>>;

impl<'a> Call<'a> {
    /// An input, where it is not left out.
    pub(super) fn input(&self, slot: usize) -> Option<&'a Fact> {
        self.inputs.get(slot).copied().flatten()
    }
    pub(super) fn shape(&self, slot: usize) -> Option<&'a [Size]> {
        self.input(slot)?.shape.as_deref()
    }
    pub(super) fn constant(&self, slot: usize) -> Option<&'a Tensor> {
        self.input(slot)?.constant.as_ref()
    }
    /// A list of integers that older opsets give as an attribute and newer ones as an input; `Err` where it is there
    /// but not known, `Ok(None)` where it is left out.
    pub(super) fn list(&self, attribute: &str, slot: usize) -> Result<Option<Vec<i64>>, ()> {
        match (self.op.ints(attribute), self.input(slot)) {
            (Some(list), _) => Ok(Some(list.to_vec())),
            (None, None) => Ok(None),
            (None, Some(fact)) => fact.numbers().map(Some).ok_or(()),
        }
    }
    /// The attribute `axis`, in `0..rank`.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Option<usize> {
        index::axis(self.op.int("axis").unwrap_or(default), rank)
    }
    pub(super) fn flag(&self, name: &str) -> bool {
        self.op.int(name).unwrap_or(0) != 0
    }
}

/// One output of this shape.
pub(super) fn shaped(shape: Vec<Size>) -> Found {
    Some(vec![Fact::shaped(shape)])
}
/// The sum, where both are known.
pub(super) fn add(a: &Size, b: &Size) -> Size {
    a.as_ref()?.add(b.as_ref()?)
}
/// The difference, where both are known.
pub(super) fn sub(a: &Size, b: &Size) -> Size {
    a.as_ref()?.sub(b.as_ref()?)
}
/// The product, where it is known: nothing times an unknown is nothing.
pub(super) fn mul(a: &Size, b: &Size) -> Size {
    a.as_ref()?.mul(b.as_ref()?)
}
/// The product of extents.
pub(super) fn product(sizes: &[Size]) -> Size {
    sizes.iter().fold(num(1), |p, s| mul(&p, s))
}
/// A whole number, where the size is one.
pub(super) fn number(s: &Size) -> Option<i64> {
    s.as_ref()?.number()
}

/// What two broadcast extents become.
pub(super) fn broadcast_size(a: &Size, b: &Size) -> Size {
    match (number(a), number(b)) {
        _ if a == b => a.clone(),
        (Some(1), _) => b.clone(),
        (_, Some(1)) => a.clone(),
        (Some(x), Some(y)) if x != y => None,
        // The other one is either equal or 1, or the op fails.
        (Some(_), _) => a.clone(),
        (_, Some(_)) => b.clone(),
        _ => {
            let (x, y) = (a.as_ref(), b.as_ref());
            // Where the one is 1 the other is too: then it tells the result, and where it is no 1 it tells it anyway.
            let tells = |x: &Expr, y: Option<&Expr>| y.and_then(|y| y.at(x, 1)) == Some(Expr::from(1));
            let sure =
                |x: Option<&Expr>, y: Option<&Expr>| x.filter(|x| x.is_never_one() || tells(x, y)).cloned();
            sure(x, y).or_else(|| sure(y, x))
        }
    }
}

/// Multidirectional broadcasting.
pub(super) fn broadcast(a: &[Size], b: &[Size]) -> Vec<Size> {
    let rank = a.len().max(b.len());
    let one = num(1);
    let at = |s: &[Size], k: usize| (k + s.len()).checked_sub(rank).map_or(one.clone(), |i| s[i].clone());
    (0..rank).map(|k| broadcast_size(&at(a, k), &at(b, k))).collect()
}

/// The product of a size and a float scale, rounded down: exact only for numbers, and for symbols with scales that are
/// whole but for a few binary places.
pub(super) fn scale(size: &Size, by: f32) -> Size {
    match number(size) {
        Some(n) => {
            let scaled = (n as f32 * by).floor();
            (0.0..1e9).contains(&scaled).then(|| Expr::from(scaled as i64))
        }
        None => {
            let of_256 = by * 256.0;
            let exact = (1.0..1e9).contains(&of_256) && of_256.fract() == 0.0;
            size.as_ref().filter(|_| exact)?.mul(&Expr::from(of_256 as i64))?.floor_div(256)
        }
    }
}

/// Unknown extents, as many as a shape tensor of this (1-d) shape lists.
pub(super) fn unknown(of_list: &[Size]) -> Option<Vec<Size>> {
    // No runtime has tensors of a rank beyond this; a hostile file may ask for one that fills the memory.
    let rank = usize::try_from(number(of_list.first()?)?).ok().filter(|n| *n <= 256)?;
    Some(vec![None; rank])
}
