//! Factors: what the axes of values are made of.

use smallvec::SmallVec;
use std::{collections::HashSet, sync::Arc};

/// Names a factor of one [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Factor(u32);

/// Factors in order.
pub type Factors = SmallVec<[Factor; 4]>;

/// Why an axis may not shrink that an operator works along: space, steps, directions, gates.
pub const WORKED_ALONG: &str = "its operator works along it";

/// How a factor is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not divided any further.
    Leaf,
    /// Row-major nesting: the last part varies fastest.
    Product,
    /// One part after the other.
    Concat,
    /// The positions of its part in another order.
    Permuted,
}

#[derive(Clone, Debug)]
struct Node {
    size: Option<usize>,
    kind: Kind,
    parts: Factors,
    /// Where each position of a permuted factor is in its part.
    order: Option<Arc<[usize]>>,
    /// What this leaf turned out to be.
    link: Option<Factor>,
    /// On a structure: all its leaves are.
    frozen: Option<Arc<str>>,
    /// On a structure: all its leaves are.
    statistic: bool,
}

/// All factors of an analysis. Leaves that turn out to be equal, or to have structure, link to what they became.
#[derive(Clone, Debug, Default)]
pub struct Arena {
    nodes: Vec<Node>,
    /// Why factors that had to be equal could not be, in order of discovery.
    pub clashes: Vec<String>,
}

impl Arena {
    fn push(&mut self, size: Option<usize>, kind: Kind, parts: Factors) -> Factor {
        let (order, link, frozen) = (None, None, None);
        self.nodes.push(Node { size, kind, parts, order, link, frozen, statistic: false });
        Factor((self.nodes.len() - 1) as u32)
    }
    /// A new leaf. Empty axes and those of unknown extent are frozen from the start.
    pub fn leaf(&mut self, size: Option<usize>) -> Factor {
        let f = self.push(size, Kind::Leaf, Factors::new());
        if size.is_none_or(|n| n == 0) {
            self.freeze(f, "its extent is not known");
        }
        f
    }
    /// What a factor has become.
    pub fn find(&self, mut f: Factor) -> Factor {
        while let Some(next) = self.nodes[f.0 as usize].link {
            f = next;
        }
        f
    }
    fn node(&self, f: Factor) -> &Node {
        &self.nodes[self.find(f).0 as usize]
    }
    fn node_mut(&mut self, f: Factor) -> &mut Node {
        let f = self.find(f);
        &mut self.nodes[f.0 as usize]
    }
    /// The extent, where it is known.
    pub fn size(&self, f: Factor) -> Option<usize> {
        self.node(f).size
    }
    /// How the factor is built.
    pub fn kind(&self, f: Factor) -> Kind {
        self.node(f).kind
    }
    /// Why no leaf of it may shrink.
    pub fn frozen(&self, f: Factor) -> Option<&Arc<str>> {
        self.node(f).frozen.as_ref()
    }
    /// A factor whose position `k` is position `order[k]` of another, which is no permuted one.
    pub(super) fn push_permuted(&mut self, part: Factor, order: Vec<usize>) -> Factor {
        let f = self.push(Some(order.len()), Kind::Permuted, Factors::from_slice(&[part]));
        self.node_mut(f).order = Some(order.into());
        f
    }
    /// The part of a permuted factor, and where in it each position is.
    pub(super) fn permutation(&self, f: Factor) -> Option<(Factor, Arc<[usize]>)> {
        let node = self.node(f);
        Some((self.find(*node.parts.first()?), node.order.clone()?))
    }
    /// Whether a statistic runs over it: shrinking changes what is computed from the rest.
    pub fn is_statistic(&self, f: Factor) -> bool {
        self.node(f).statistic
    }
    /// The product of parts of known extent; parts of extent 1 do not count.
    pub fn product(&mut self, parts: &[Factor]) -> Factor {
        let wide: Factors =
            parts.iter().map(|f| self.find(*f)).filter(|f| self.size(*f) != Some(1)).collect();
        match wide[..] {
            [] => match parts.first() {
                Some(one) => self.find(*one),
                None => self.leaf(Some(1)),
            },
            [only] => only,
            _ => self.compose(Kind::Product, wide),
        }
    }
    /// The concatenation of parts of known extent; empty parts do not count.
    pub fn concat(&mut self, parts: &[Factor]) -> Factor {
        let wide: Factors =
            parts.iter().map(|f| self.find(*f)).filter(|f| self.size(*f) != Some(0)).collect();
        match wide[..] {
            [] => self.leaf(Some(0)),
            [only] => only,
            _ => self.compose(Kind::Concat, wide),
        }
    }
    fn compose(&mut self, kind: Kind, parts: Factors) -> Factor {
        let size =
            parts.iter().map(|f| self.size(*f)).try_fold(usize::from(kind == Kind::Product), |n, s| {
                if kind == Kind::Product { n.checked_mul(s?) } else { n.checked_add(s?) }
            });
        if size.is_none() {
            parts.iter().for_each(|f| self.freeze(*f, "its extent is not known"));
            return self.leaf(None);
        }
        self.push(size, kind, parts)
    }
    /// The parts of a structure of that kind, with nested ones of the same kind opened; else the factor itself.
    pub fn flat(&self, f: Factor, kind: Kind) -> Factors {
        let (mut out, mut stack) = (Factors::new(), vec![f]);
        while let Some(f) = stack.pop() {
            let f = self.find(f);
            let node = &self.nodes[f.0 as usize];
            if node.kind == kind && kind != Kind::Leaf {
                stack.extend(node.parts.iter().rev());
            } else {
                out.push(f);
            }
        }
        out
    }
    /// The distinct leaves under a factor, in order of first appearance.
    pub fn leaves(&self, f: Factor) -> Vec<Factor> {
        let (mut out, mut seen, mut stack) = (Vec::new(), HashSet::new(), vec![f]);
        while let Some(f) = stack.pop() {
            let f = self.find(f);
            let node = &self.nodes[f.0 as usize];
            if seen.insert(f) {
                match node.kind {
                    Kind::Leaf => out.push(f),
                    _ => stack.extend(node.parts.iter().rev()),
                }
            }
        }
        out
    }
    /// Forbids every leaf under a factor to shrink. The first reason stays.
    pub fn freeze(&mut self, f: Factor, why: &str) {
        if self.frozen(f).is_some() {
            return;
        }
        let why: Arc<str> = why.into();
        let mut stack = vec![f];
        while let Some(f) = stack.pop() {
            let node = self.node_mut(f);
            if node.frozen.is_none() {
                node.frozen = Some(why.clone());
                stack.extend(node.parts.iter());
            }
        }
    }
    /// Marks every leaf under a factor as one a statistic runs over.
    pub fn mark_statistic(&mut self, f: Factor) {
        let mut stack = vec![f];
        while let Some(f) = stack.pop() {
            let node = self.node_mut(f);
            if !std::mem::replace(&mut node.statistic, true) {
                stack.extend(node.parts.iter());
            }
        }
    }
    /// Makes a leaf be another factor, which takes over what was known about the leaf.
    pub(super) fn link(&mut self, leaf: Factor, to: Factor) {
        let (leaf, to) = (self.find(leaf), self.find(to));
        let node = &mut self.nodes[leaf.0 as usize];
        let (frozen, statistic) = (node.frozen.take(), node.statistic);
        node.link = Some(to);
        if let Some(why) = frozen {
            self.freeze(to, &why);
        }
        if statistic {
            self.mark_statistic(to);
        }
    }
    /// The positions that stay along a factor when `keep` says which stay of a leaf (`None`: all).
    pub fn positions<'a>(&self, f: Factor, keep: &impl Fn(Factor) -> Option<&'a [usize]>) -> Vec<usize> {
        let f = self.find(f);
        let node = &self.nodes[f.0 as usize];
        let all = node.size.unwrap_or(0);
        match node.kind {
            Kind::Leaf => keep(f).map_or_else(|| (0..all).collect(), <[usize]>::to_vec),
            Kind::Concat => {
                let (mut at, mut out) = (0, Vec::new());
                for part in self.flat(f, Kind::Concat) {
                    out.extend(self.positions(part, keep).into_iter().map(|p| p + at));
                    at += self.size(part).unwrap_or(0);
                }
                out
            }
            Kind::Product => {
                let mut out = vec![0];
                for part in self.flat(f, Kind::Product) {
                    let (width, inner) = (self.size(part).unwrap_or(0), self.positions(part, keep));
                    out = out.iter().flat_map(|p| inner.iter().map(move |q| p * width + q)).collect();
                }
                out
            }
            Kind::Permuted => {
                let Some((part, order)) = self.permutation(f) else { return Vec::new() };
                let mut stays = vec![false; all];
                self.positions(part, keep).into_iter().for_each(|p| stays[p] = true);
                (0..all).filter(|k| stays[order[*k]]).collect()
            }
        }
    }
    /// For each position along a factor, the position along one of its leaves, where the leaf takes part in it.
    pub fn labels(&self, f: Factor, leaf: Factor) -> Vec<Option<usize>> {
        let (f, leaf) = (self.find(f), self.find(leaf));
        let all = self.size(f).unwrap_or(0);
        match self.kind(f) {
            Kind::Leaf if f == leaf => (0..all).map(Some).collect(),
            Kind::Leaf => vec![None; all],
            Kind::Concat => self.flat(f, Kind::Concat).iter().flat_map(|p| self.labels(*p, leaf)).collect(),
            Kind::Product => {
                let mut out = vec![None];
                for part in self.flat(f, Kind::Product) {
                    let inner = self.labels(part, leaf);
                    out = out.iter().flat_map(|o| inner.iter().map(move |i| i.or(*o))).collect();
                }
                out
            }
            Kind::Permuted => {
                let Some((part, order)) = self.permutation(f) else { return Vec::new() };
                let inner = self.labels(part, leaf);
                order.iter().map(|k| inner[*k]).collect()
            }
        }
    }
}
