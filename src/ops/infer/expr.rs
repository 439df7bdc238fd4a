//! Symbolic extents: polynomials over named dimensions and floors, in a canonical form.
//!
//! An [`Expr`] is a sum of products, each with an integer coefficient, kept sorted, so that equal expressions are
//! equal values and print as equal text. Symbols stand for extents: they are never negative. Arithmetic is exact:
//! what overflows, grows too complex or has no canonical form is `None`, "not known", never a wrong number.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Products an expression may have, and the weight (symbols and nested terms) it may reach, before it counts as unknown.
const MOST_TERMS: usize = 12;
const MOST_WEIGHT: usize = 48;

/// A factor of a product.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// A named extent. A name that starts with `?` is known to no one outside this inference.
    Symbol(Arc<str>),
    /// The first divided by the second (positive), rounded down.
    Floor(Expr, i64),
}

/// An integer-valued expression over extents.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expr(BTreeMap<Vec<Atom>, i64>);

impl From<i64> for Expr {
    fn from(n: i64) -> Self {
        Expr((n != 0).then_some((Vec::new(), n)).into_iter().collect())
    }
}

impl Expr {
    /// A named extent.
    pub(crate) fn symbol(name: &str) -> Expr {
        Expr(BTreeMap::from([(vec![Atom::Symbol(name.into())], 1)]))
    }
    /// The number, where it is one.
    pub(crate) fn number(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }
    /// Surely not negative.
    pub(crate) fn is_natural(&self) -> bool {
        self.0.iter().all(|(product, n)| *n >= 0 && product.iter().all(Atom::is_natural))
    }
    /// Its text, where it consists of names that mean something outside.
    pub(crate) fn text(&self) -> Option<String> {
        (!self.is_private()).then(|| self.to_string())
    }
    fn is_private(&self) -> bool {
        self.0.keys().flatten().any(|a| match a {
            Atom::Symbol(name) => name.starts_with('?'),
            Atom::Floor(e, _) => e.is_private(),
        })
    }
    fn weight(&self) -> usize {
        let weight = |a: &Atom| match a {
            Atom::Symbol(_) => 1,
            Atom::Floor(e, _) => 1 + e.weight(),
        };
        self.0.keys().map(|product| 1 + product.iter().map(weight).sum::<usize>()).sum()
    }
    fn bounded(self) -> Option<Expr> {
        (self.0.len() <= MOST_TERMS && self.weight() <= MOST_WEIGHT).then_some(self)
    }
    fn put(&mut self, product: Vec<Atom>, n: i64) -> Option<()> {
        let sum = self.0.get(&product).copied().unwrap_or(0).checked_add(n)?;
        if sum == 0 {
            self.0.remove(&product)
        } else {
            self.0.insert(product, sum)
        };
        Some(())
    }
    pub(crate) fn add(&self, other: &Expr) -> Option<Expr> {
        let mut sum = self.clone();
        other.0.iter().try_for_each(|(product, n)| sum.put(product.clone(), *n))?;
        sum.bounded()
    }
    pub(crate) fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.mul(&Expr::from(-1))?)
    }
    pub(crate) fn mul(&self, other: &Expr) -> Option<Expr> {
        let mut out = Expr::default();
        for (a, n) in &self.0 {
            for (b, m) in &other.0 {
                let mut product = [&a[..], b].concat();
                product.sort();
                out.put(product, n.checked_mul(*m)?)?;
            }
        }
        out.bounded()
    }
    /// Rounded down; `None` for a divisor that is not a positive number.
    pub(crate) fn floor_div(&self, by: i64) -> Option<Expr> {
        if by <= 0 {
            return None;
        }
        let (mut whole, mut rest) = (Expr::default(), Expr::default());
        for (product, n) in &self.0 {
            let (q, r) = (n.div_euclid(by), n.rem_euclid(by));
            // What is left of a symbol's coefficient may be as large as the symbol: only a constant splits for free.
            if product.is_empty() || r == 0 {
                whole.put(product.clone(), q)?;
                rest.put(product.clone(), r)?;
            } else {
                rest.put(product.clone(), *n)?;
            }
        }
        match rest.number() {
            Some(_) => whole.bounded(),
            None => whole.add(&Expr(BTreeMap::from([(vec![Atom::Floor(rest, by)], 1)]))),
        }
    }
    pub(crate) fn ceil_div(&self, by: i64) -> Option<Expr> {
        self.add(&Expr::from(by.checked_sub(1)?))?.floor_div(by)
    }
    /// The quotient where the division surely leaves no remainder, as when a Reshape distributes elements: the
    /// divisor is a single product.
    pub(crate) fn exact_div(&self, by: &Expr) -> Option<Expr> {
        if self == by {
            return Some(Expr::from(1));
        }
        let mut divisor = by.0.iter();
        let (Some((atoms, m)), None) = (divisor.next(), divisor.next()) else { return None };
        let mut out = Expr::default();
        for (product, n) in &self.0 {
            let mut left = product.clone();
            for atom in atoms {
                left.remove(left.iter().position(|a| a == atom)?);
            }
            (n.checked_rem(*m)? == 0).then_some(())?;
            out.put(left, n.checked_div(*m)?)?;
        }
        Some(out)
    }
    /// The larger of both, where it is known which that is.
    pub(crate) fn larger(&self, other: &Expr) -> Option<Expr> {
        if self.sub(other)?.is_natural() {
            return Some(self.clone());
        }
        other.sub(self)?.is_natural().then(|| other.clone())
    }
    /// The smaller of both, where it is known which that is.
    pub(crate) fn smaller(&self, other: &Expr) -> Option<Expr> {
        if self.sub(other)?.is_natural() {
            return Some(other.clone());
        }
        other.sub(self)?.is_natural().then(|| self.clone())
    }
}

impl Atom {
    fn is_natural(&self) -> bool {
        match self {
            Atom::Symbol(_) => true,
            Atom::Floor(e, _) => e.is_natural(),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(name) => f.write_str(name),
            Atom::Floor(e, by) => write!(f, "floor(({e})/{by})"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        // Constants last: "batch + 1" reads better than "1 + batch".
        for (i, (product, n)) in self
            .0
            .iter()
            .skip_while(|(p, _)| p.is_empty())
            .chain(self.0.iter().take_while(|(p, _)| p.is_empty()))
            .enumerate()
        {
            let sign = match (i, *n < 0) {
                (0, true) => "-",
                (0, false) => "",
                (_, true) => " - ",
                (_, false) => " + ",
            };
            f.write_str(sign)?;
            let size = n.unsigned_abs();
            if size != 1 || product.is_empty() {
                write!(f, "{size}{}", if product.is_empty() { "" } else { "*" })?;
            }
            for (k, atom) in product.iter().enumerate() {
                write!(f, "{}{atom}", if k > 0 { "*" } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(x: i64) -> Expr {
        Expr::from(x)
    }
    #[test]
    fn equal_expressions_print_alike() {
        let (b, s) = (Expr::symbol("batch"), Expr::symbol("seq"));
        let x = b.mul(&s).unwrap().add(&n(2)).unwrap();
        let y = n(2).add(&s.mul(&b).unwrap()).unwrap();
        assert_eq!(x, y);
        assert_eq!(x.to_string(), "batch*seq + 2");
        assert_eq!(x.sub(&y).unwrap().number(), Some(0));
        assert_eq!(x.sub(&n(2)).unwrap().exact_div(&s).unwrap(), b);
    }
    #[test]
    fn division_rounds_as_stated() {
        let w = Expr::symbol("w");
        assert_eq!(n(-7).floor_div(2).unwrap().number(), Some(-4));
        assert_eq!(n(7).ceil_div(2).unwrap().number(), Some(4));
        let e = w.mul(&n(4)).unwrap().add(&n(3)).unwrap();
        assert_eq!(e.floor_div(2).unwrap().to_string(), "2*w + 1");
        assert_eq!(w.sub(&n(1)).unwrap().floor_div(2).unwrap().to_string(), "floor((w + 1)/2) - 1");
        assert!(w.floor_div(0).is_none());
    }
    #[test]
    fn what_is_not_known_is_none() {
        let (a, b) = (Expr::symbol("a"), Expr::symbol("b"));
        assert_eq!(a.larger(&b), None);
        assert_eq!(a.add(&b).unwrap().larger(&b), Some(a.add(&b).unwrap()));
        assert!(n(i64::MAX).add(&n(1)).is_none());
        assert!(Expr::symbol("?1").text().is_none());
    }
}
