//! Unification: making two factors one, refining leaves where the other side has structure.
//!
//! Sizes decide: a leaf of 64 that must equal `4 x 16` becomes that product; a leaf that must equal `a ++ b` becomes
//! that concatenation. What cannot be aligned is frozen on both sides, which is always safe, and recorded.

use super::factor::{Arena, Factor, Factors, Kind};
use std::collections::VecDeque;

impl Arena {
    /// Makes two factors one, or freezes both.
    pub fn unify(&mut self, a: Factor, b: Factor) {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return;
        }
        match (self.size(a), self.size(b)) {
            (Some(m), Some(n)) if m == n => {}
            (Some(m), Some(n)) => return self.clash(a, b, &format!("extents {m} and {n} differ")),
            _ => {
                self.freeze(a, "its extent is not known");
                return self.freeze(b, "its extent is not known");
            }
        }
        match (self.kind(a), self.kind(b)) {
            (Kind::Leaf, Kind::Leaf) => self.link(a, b),
            (Kind::Leaf, _) => self.refine(a, b),
            (_, Kind::Leaf) => self.refine(b, a),
            (Kind::Permuted, _) | (_, Kind::Permuted) => self.rearrange(a, b),
            (Kind::Product, Kind::Product) => self.align(a, b, Kind::Product),
            (Kind::Concat, Kind::Concat) => self.align(a, b, Kind::Concat),
            (Kind::Product, Kind::Concat) => self.distribute(a, b),
            (Kind::Concat, Kind::Product) => self.distribute(b, a),
        }
    }
    pub(super) fn clash(&mut self, a: Factor, b: Factor, why: &str) {
        self.clashes.push(why.to_owned());
        self.freeze(a, why);
        self.freeze(b, why);
    }
    pub(super) fn refine(&mut self, leaf: Factor, structure: Factor) {
        if self.leaves(structure).contains(&leaf) {
            self.clash(leaf, structure, "an axis would contain itself");
        } else {
            self.link(leaf, structure);
        }
    }
    /// Walks two structures of one kind in step, splitting the larger part wherever their parts differ.
    fn align(&mut self, a: Factor, b: Factor, kind: Kind) {
        let mut xs: VecDeque<Factor> = self.flat(a, kind).into_iter().collect();
        let mut ys: VecDeque<Factor> = self.flat(b, kind).into_iter().collect();
        while let (Some(x), Some(y)) = (xs.pop_front(), ys.pop_front()) {
            // A part may have gained structure since it was listed.
            let (px, py) = (self.flat(x, kind), self.flat(y, kind));
            if px.len() > 1 || py.len() > 1 {
                prepend(&mut xs, px);
                prepend(&mut ys, py);
                continue;
            }
            let (m, n) = (self.size(x).unwrap_or(0), self.size(y).unwrap_or(0));
            if m == n {
                self.unify(x, y);
                continue;
            }
            let (large, small, rest) = if m > n { (x, y, &mut xs) } else { (y, x, &mut ys) };
            let head = m.min(n);
            let split = match kind {
                Kind::Product => self.split_product(large, head),
                _ => self.split_concat(large, head),
            };
            let Some((head, tail)) = split else {
                let why = "parts of its extent do not line up";
                for f in [x, y].into_iter().chain(xs).chain(ys) {
                    self.freeze(f, why);
                }
                return self.clashes.push(why.to_owned());
            };
            rest.push_front(tail);
            self.unify(head, small);
        }
    }
    /// `f == head x rest`.
    fn split_product(&mut self, f: Factor, head: usize) -> Option<(Factor, Factor)> {
        let size = self.size(f)?;
        let whole = matches!(self.kind(f), Kind::Leaf | Kind::Permuted);
        if !whole || head == 0 || size % head != 0 {
            return None;
        }
        let (h, r) = (self.leaf(Some(head)), self.leaf(Some(size / head)));
        let whole = self.product(&[h, r]);
        self.unify(f, whole);
        Some((h, r))
    }
    /// `f == head ++ rest`; a product is cut along its slowest part, a concatenation between or inside its parts.
    fn split_concat(&mut self, f: Factor, head: usize) -> Option<(Factor, Factor)> {
        let size = self.size(f)?;
        match self.kind(f) {
            Kind::Leaf | Kind::Permuted => {
                let (h, r) = (self.leaf(Some(head)), self.leaf(Some(size.checked_sub(head)?)));
                let whole = self.concat(&[h, r]);
                self.unify(f, whole);
                Some((h, r))
            }
            Kind::Product => {
                let parts = self.flat(f, Kind::Product);
                let (major, inner) = parts.split_first()?;
                let inner = self.product(inner);
                let width = self.size(inner)?;
                if width == 0 || !head.is_multiple_of(width) {
                    return None;
                }
                let (h, r) = self.split_concat(*major, head / width)?;
                Some((self.product(&[h, inner]), self.product(&[r, inner])))
            }
            Kind::Concat => {
                let parts = self.flat(f, Kind::Concat);
                let mut at = 0;
                for (k, part) in parts.iter().enumerate() {
                    let n = self.size(*part)?;
                    if at + n > head {
                        let mut front: Factors = parts[..k].into();
                        let mut back: Factors = parts[k + 1..].into();
                        if at == head {
                            back.insert(0, *part);
                        } else {
                            let (h, r) = self.split_concat(*part, head - at)?;
                            front.push(h);
                            back.insert(0, r);
                        }
                        return Some((self.concat(&front), self.concat(&back)));
                    }
                    at += n;
                }
                None
            }
        }
    }
    /// Product against concatenation: the product is cut where the parts of the concatenation meet.
    fn distribute(&mut self, product: Factor, concat: Factor) {
        let mut rest = product;
        let parts = self.flat(concat, Kind::Concat);
        let Some((last, init)) = parts.split_last() else { return };
        for part in init {
            let size = self.size(*part).unwrap_or(0);
            let Some((head, tail)) = self.split_concat(rest, size) else {
                return self.clash(product, concat, "a concatenation does not line up with nested axes");
            };
            self.unify(head, *part);
            rest = tail;
        }
        self.unify(rest, *last);
    }
}

fn prepend(queue: &mut VecDeque<Factor>, parts: Factors) {
    for part in parts.into_iter().rev() {
        queue.push_front(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(arena: &mut Arena, sizes: &[usize]) -> Vec<Factor> {
        sizes.iter().map(|n| arena.leaf(Some(*n))).collect()
    }
    fn sizes(arena: &Arena, f: Factor) -> Vec<usize> {
        arena.leaves(f).iter().map(|l| arena.size(*l).unwrap()).collect()
    }

    #[test]
    fn a_leaf_takes_the_structure_of_what_it_equals() {
        let mut a = Arena::default();
        let f = leaves(&mut a, &[64, 4, 16]);
        let heads = a.product(&f[1..]);
        a.unify(f[0], heads);
        assert_eq!(sizes(&a, f[0]), [4, 16]);
        a.freeze(f[0], "test");
        assert!(a.frozen(f[1]).is_some() && a.frozen(f[2]).is_some());
    }
    #[test]
    fn products_are_aligned_by_splitting() {
        let mut a = Arena::default();
        let f = leaves(&mut a, &[12, 5, 4, 15]);
        let (x, y) = (a.product(&f[..2]), a.product(&f[2..]));
        a.unify(x, y);
        assert_eq!(sizes(&a, x), [4, 3, 5]);
        assert_eq!(a.leaves(x), a.leaves(y));
    }
    #[test]
    fn concatenations_are_aligned_by_splitting() {
        let mut a = Arena::default();
        let f = leaves(&mut a, &[10, 6, 4, 12]);
        let (x, y) = (a.concat(&f[..2]), a.concat(&f[2..]));
        a.unify(x, y);
        assert_eq!(sizes(&a, x), [4, 6, 6]);
        assert_eq!(a.leaves(x), a.leaves(y));
    }
    #[test]
    fn a_product_meets_a_concatenation_along_its_slowest_axis() {
        let mut a = Arena::default();
        let f = leaves(&mut a, &[3, 8, 8, 16]);
        let (x, y) = (a.product(&f[..2]), a.concat(&f[2..]));
        a.unify(x, y);
        assert!(a.clashes.is_empty());
        let inner = a.find(f[1]);
        assert!(a.leaves(f[2]).contains(&inner) && a.leaves(f[3]).contains(&inner));
        let keep = [0, 7];
        let kept = a.positions(x, &|l| (l == inner).then_some(&keep[..]));
        assert_eq!(kept, [0, 7, 8, 15, 16, 23]);
        assert_eq!(a.positions(y, &|l| (l == inner).then_some(&keep[..])), kept);
    }
    #[test]
    fn what_cannot_line_up_freezes_both_sides() {
        let mut a = Arena::default();
        let f = leaves(&mut a, &[4, 9, 6, 6]);
        let (x, y) = (a.product(&f[..2]), a.product(&f[2..]));
        a.unify(x, y);
        assert_eq!(a.clashes.len(), 1);
        for l in a.leaves(x).into_iter().chain(a.leaves(y)) {
            assert!(a.frozen(l).is_some());
        }
        let (m, n) = (a.leaf(Some(3)), a.leaf(Some(4)));
        a.unify(m, n);
        assert!(a.frozen(m).is_some() && a.frozen(n).is_some());
    }
    #[test]
    fn unknown_extents_freeze() {
        let mut a = Arena::default();
        let (m, n) = (a.leaf(None), a.leaf(Some(4)));
        a.unify(m, n);
        assert!(a.frozen(n).is_some());
    }
}
