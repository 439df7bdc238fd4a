//! Factors in another order. What one factor makes of another by moving its positions about follows every cut of it, however
//! it moves them; only where it meets an axis that has structure of its own must the two be brought together.

use super::factor::{Arena, Factor, Factors, Kind};
use std::collections::BTreeMap;

const UNLIKE: &str = "positions in another order do not line up with what it is made of";

impl Arena {
    /// The factor whose position `k` is position `order[k]` of another of the same extent.
    pub(super) fn permuted(&mut self, f: Factor, order: &[usize]) -> Factor {
        let (base, inner) = self.base(f, order.len());
        let order: Vec<usize> = order.iter().map(|k| inner[*k]).collect();
        if is_identity(&order) {
            return base;
        }
        match self.kind(base) {
            Kind::Concat => self.parts_moved(base, &order),
            _ => None,
        }
        .unwrap_or_else(|| self.push_permuted(base, order))
    }
    /// The parts of a concatenation in another order, each for itself, where an order leaves them together.
    fn parts_moved(&mut self, f: Factor, order: &[usize]) -> Option<Factor> {
        let parts = self.flat(f, Kind::Concat);
        let part_of = self.parts_of(&parts);
        let runs: Vec<&[usize]> = order.chunk_by(|p, q| part_of[*p] == part_of[*q]).collect();
        (runs.len() == parts.len()).then_some(())?;
        let moved = runs.into_iter().map(|run| {
            let start = run.iter().min().copied().unwrap_or(0);
            let order: Vec<usize> = run.iter().map(|p| p - start).collect();
            self.permuted(parts[part_of[start]], &order)
        });
        let moved: Factors = moved.collect();
        Some(self.concat(&moved))
    }
    /// What a factor is in its own order, and where in it each position is.
    fn base(&self, f: Factor, size: usize) -> (Factor, Vec<usize>) {
        let (mut base, mut order) = (self.find(f), (0..size).collect::<Vec<_>>());
        while let Some((part, inner)) = self.permutation(base) {
            order.iter_mut().for_each(|k| *k = inner[*k]);
            base = part;
        }
        (base, order)
    }
    /// Makes two structures one, of which at least one is in another order.
    pub(super) fn rearrange(&mut self, x: Factor, y: Factor) {
        let size = self.size(x).unwrap_or(0);
        let ((a, in_a), (b, in_b)) = (self.base(x, size), self.base(y, size));
        // Position `p` of `a` is `order[p]` of `b`.
        let mut order = vec![0; size];
        in_a.iter().zip(&in_b).for_each(|(p, q)| order[*p] = *q);
        if is_identity(&order) {
            return self.unify(a, b);
        }
        match (self.kind(a), self.kind(b)) {
            (Kind::Leaf, _) => {
                let moved = self.permuted(b, &order);
                self.refine(a, moved);
            }
            (_, Kind::Leaf) => {
                let moved = self.permuted(a, &inverse(&order));
                self.refine(b, moved);
            }
            (Kind::Product, Kind::Product) => match turned(&order) {
                Some(width) => {
                    let (slow, fast) = (self.leaf(Some(size / width)), self.leaf(Some(width)));
                    let (there, here) = (self.product(&[slow, fast]), self.product(&[fast, slow]));
                    self.unify(b, there);
                    self.unify(a, here);
                }
                None => self.clash(x, y, UNLIKE),
            },
            (Kind::Concat, Kind::Concat) => self.by_parts(a, b, &order),
            _ => self.clash(x, y, UNLIKE),
        }
    }
    /// Two concatenations, position `p` of the first being `order[p]` of the second: what a part of one has in common with
    /// a part of the other is one factor.
    fn by_parts(&mut self, a: Factor, b: Factor, order: &[usize]) {
        let (xs, ys) = (self.flat(a, Kind::Concat), self.flat(b, Kind::Concat));
        let (in_xs, in_ys) = (self.parts_of(&xs), self.parts_of(&ys));
        let mut shared: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (p, q) in order.iter().enumerate() {
            *shared.entry((in_xs[p], in_ys[*q])).or_default() += 1;
        }
        let shared: BTreeMap<_, _> = shared.into_iter().map(|(pair, n)| (pair, self.leaf(Some(n)))).collect();
        // Both sides list what they share in the order of the first.
        let from = inverse(order);
        for (i, x) in xs.iter().enumerate() {
            let positions = (0..order.len()).filter(|p| in_xs[*p] == i).map(|p| (in_ys[order[p]], p));
            let of: Vec<_> = positions.collect();
            self.made_of(*x, &of, |j| shared[&(i, j)]);
        }
        for (j, y) in ys.iter().enumerate() {
            let positions = (0..order.len()).filter(|q| in_ys[*q] == j).map(|q| (in_xs[from[q]], from[q]));
            let of: Vec<_> = positions.collect();
            self.made_of(*y, &of, |i| shared[&(i, j)]);
        }
    }
    /// For each position of a concatenation, which part it is in.
    fn parts_of(&self, parts: &[Factor]) -> Vec<usize> {
        let sizes = parts.iter().map(|f| self.size(*f).unwrap_or(0));
        sizes.enumerate().flat_map(|(k, n)| std::iter::repeat_n(k, n)).collect()
    }
    /// Makes a factor one with pieces of it, of each of which `of` lists the positions: the piece, and what its positions are
    /// in the order of.
    fn made_of(&mut self, f: Factor, of: &[(usize, usize)], piece: impl Fn(usize) -> Factor) {
        let mut sorted: Vec<usize> = (0..of.len()).collect();
        sorted.sort_unstable_by_key(|k| of[*k]);
        let mut pieces: Vec<usize> = sorted.iter().map(|k| of[*k].0).collect();
        pieces.dedup();
        let pieces: Factors = pieces.into_iter().map(piece).collect();
        let whole = self.concat(&pieces);
        let moved = self.permuted(whole, &inverse(&sorted));
        self.unify(f, moved);
    }
}

fn is_identity(order: &[usize]) -> bool {
    order.iter().enumerate().all(|(k, p)| k == *p)
}
/// Where each position is in an order.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(k, p)| places[*p] = k);
    places
}
/// The extent of the faster of two nested axes that an order exchanges.
fn turned(order: &[usize]) -> Option<usize> {
    let fast = *order.get(1)?;
    let slow = order.len().checked_div(fast).filter(|n| n * fast == order.len())?;
    order.iter().enumerate().all(|(k, p)| k % slow * fast + k / slow == *p).then_some(fast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(arena: &Arena, f: Factor) -> Vec<usize> {
        let leaves = arena.leaves(f).into_iter();
        leaves.filter(|l| arena.frozen(*l).is_none()).map(|l| arena.size(l).unwrap()).collect()
    }

    #[test]
    fn nested_axes_are_exchanged_where_both_sides_are_nested() {
        let mut a = Arena::default();
        let order: Vec<usize> = (0..12).map(|k| k % 4 * 3 + k / 4).collect();
        let (x, parts) = (a.leaf(Some(12)), [4, 3, 3, 4].map(|n| a.leaf(Some(n))));
        let y = a.permuted(x, &order);
        assert_eq!(sizes(&a, y), [12], "alone, it is one axis");
        for (f, parts) in [(x, &parts[..2]), (y, &parts[2..])] {
            let nested = a.product(parts);
            a.unify(f, nested);
        }
        assert!(a.clashes.is_empty());
        assert_eq!((a.find(parts[0]), a.find(parts[1])), (a.find(parts[3]), a.find(parts[2])));
        let other = [2, 6].map(|n| a.leaf(Some(n)));
        let (nested, order) = (a.product(&other), [5, 3, 0, 1, 2, 4, 11, 10, 9, 8, 7, 6]);
        let z = a.permuted(nested, &order);
        a.unify(x, z);
        assert!(sizes(&a, x).is_empty() && sizes(&a, z).is_empty(), "neither is made of the other");
    }
    #[test]
    fn parts_have_in_common_what_an_order_moves_from_one_to_the_other() {
        let mut a = Arena::default();
        let f = [3, 4, 5, 2].map(|n| a.leaf(Some(n)));
        let (x, y) = (a.concat(&f[..2]), a.concat(&f[2..]));
        let turned = a.permuted(y, &[6, 5, 4, 3, 2, 1, 0]);
        a.unify(x, turned);
        assert!(a.clashes.is_empty());
        assert_eq!(f.map(|f| sizes(&a, f)), [vec![2, 1], vec![4], vec![4, 1], vec![2]]);
    }
    #[test]
    fn an_axis_that_is_itself_in_another_order_stays_whole() {
        let mut a = Arena::default();
        let x = a.leaf(Some(4));
        let (y, back) = (a.permuted(x, &[3, 2, 1, 0]), [3, 2, 1, 0]);
        assert_eq!(a.permuted(y, &back), x);
        a.unify(x, y);
        assert!(sizes(&a, x).is_empty());
    }
}
