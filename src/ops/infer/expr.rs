//! Symbolic extents: polynomials over named dimensions, floors and positive parts, in a canonical form.
//!
//! An [`Expr`] is a sum of products, each with an integer coefficient, kept sorted, so that equal expressions are
//! equal values and print as equal text. Symbols stand for extents: they are never negative. Arithmetic is exact:
//! what overflows, grows too complex or has no canonical form is `None`, "not known", never a wrong number.

use super::terms::Terms;
use std::{fmt, sync::Arc};

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
    /// The expression where it is positive, else 0. Larger and smaller of two are told by it.
    Positive(Expr),
}

/// An integer-valued expression over extents.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expr(Terms<Vec<Atom>>);

impl From<i64> for Expr {
    fn from(n: i64) -> Self {
        Expr((n != 0).then_some((Vec::new(), n)).into_iter().collect())
    }
}

impl Expr {
    /// A named extent.
    pub(crate) fn symbol(name: &str) -> Expr {
        Expr(Terms::one(vec![Atom::Symbol(name.into())], 1))
    }
    /// The number, where it is one.
    pub(crate) fn number(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()),
            _ => None,
        }
    }
    /// Surely not negative.
    pub(crate) fn is_natural(&self) -> bool {
        if self.0.iter().all(|(product, n)| n >= 0 && product.iter().all(Atom::is_natural)) {
            return true;
        }
        // A positive part alone in its product is either 0 or what it is the part of.
        let parts = self.0.iter().filter_map(|(product, n)| match &product[..] {
            [Atom::Positive(part)] => Some((product, part, n)),
            _ => None,
        });
        parts.take(1).any(|(product, part, n)| {
            let mut without = self.clone();
            without.0.remove(product);
            let with = || {
                part.mul(&Expr::from(n)).and_then(|part| without.add(&part)).is_some_and(|e| e.is_natural())
            };
            if n > 0 { without.is_natural() || with() } else { without.is_natural() && with() }
        })
    }
    /// Surely not 1, as an extent: it is even, say, or at least 2.
    pub(crate) fn is_never_one(&self) -> bool {
        self.number() != Some(0)
            && (self.content() > 1 || self.sub(&Expr::from(2)).is_some_and(|e| e.is_natural()))
    }
    /// The greatest common divisor of all coefficients.
    fn content(&self) -> u64 {
        self.0.iter().fold(0, |g, (_, n)| common_divisor(g, n.unsigned_abs()))
    }
    /// Each coefficient divided by a common divisor.
    fn over(&self, by: i64) -> Option<Expr> {
        let terms = self.0.iter().map(|(product, n)| Some((product.clone(), n.checked_div(by)?)));
        Some(Expr(terms.collect::<Option<_>>()?))
    }
    /// What it is where the symbol that `name` is stands for `n`; `None` where `name` is more than a symbol.
    pub(crate) fn at(&self, name: &Expr, n: i64) -> Option<Expr> {
        let (Some((product, 1)), 1) = (name.0.iter().next(), name.0.len()) else { return None };
        let [symbol @ Atom::Symbol(_)] = &product[..] else { return None };
        let mut sum = Expr::default();
        for (product, k) in self.0.iter() {
            let factors = product.iter().map(|atom| match atom {
                atom if atom == symbol => Some(Expr::from(n)),
                Atom::Symbol(_) => Some(Expr(Terms::one(vec![atom.clone()], 1))),
                Atom::Floor(e, by) => e.at(name, n)?.floor_div(*by),
                Atom::Positive(e) => e.at(name, n)?.positive(),
            });
            let product = factors.into_iter().try_fold(Expr::from(k), |all, factor| all.mul(&factor?))?;
            sum = sum.add(&product)?;
        }
        Some(sum)
    }
    /// Its text, where it consists of names that mean something outside.
    pub(crate) fn text(&self) -> Option<String> {
        (!self.is_private()).then(|| self.to_string())
    }
    fn is_private(&self) -> bool {
        self.0.iter().flat_map(|(product, _)| product).any(|a| match a {
            Atom::Symbol(name) => name.starts_with('?'),
            Atom::Floor(e, _) | Atom::Positive(e) => e.is_private(),
        })
    }
    fn weight(&self) -> usize {
        let weight = |a: &Atom| match a {
            Atom::Symbol(_) => 1,
            Atom::Floor(e, _) | Atom::Positive(e) => 1 + e.weight(),
        };
        self.0.iter().map(|(product, _)| 1 + product.iter().map(weight).sum::<usize>()).sum()
    }
    fn bounded(self) -> Option<Expr> {
        (self.0.len() <= MOST_TERMS && self.weight() <= MOST_WEIGHT).then_some(self)
    }
    fn put(&mut self, product: Vec<Atom>, n: i64) -> Option<()> {
        let sum = self.0.get(&product).unwrap_or(0).checked_add(n)?;
        if sum == 0 {
            self.0.remove(&product)
        } else {
            self.0.insert(product, sum)
        };
        Some(())
    }
    pub(crate) fn add(&self, other: &Expr) -> Option<Expr> {
        let mut sum = self.clone();
        other.0.iter().try_for_each(|(product, n)| sum.put(product.clone(), n))?;
        sum.bounded()
    }
    pub(crate) fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.mul(&Expr::from(-1))?)
    }
    pub(crate) fn mul(&self, other: &Expr) -> Option<Expr> {
        let mut out = Expr::default();
        for (a, n) in self.0.iter() {
            for (b, m) in other.0.iter() {
                let mut product = [&a[..], b].concat();
                product.sort();
                out.put(product, n.checked_mul(m)?)?;
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
        for (product, n) in self.0.iter() {
            let (q, r) = (n.div_euclid(by), n.rem_euclid(by));
            // What is left of a symbol's coefficient may be as large as the symbol: only a constant splits for free.
            if product.is_empty() || r == 0 {
                whole.put(product.clone(), q)?;
                rest.put(product.clone(), r)?;
            } else {
                rest.put(product.clone(), n)?;
            }
        }
        match rest.number() {
            Some(_) => whole.bounded(),
            None => {
                let common = i64::try_from(common_divisor(rest.content(), by.unsigned_abs())).ok()?;
                let floor = Atom::Floor(rest.over(common)?, by.checked_div(common)?);
                whole.add(&Expr(Terms::one(vec![floor], 1)))
            }
        }
    }
    pub(crate) fn ceil_div(&self, by: i64) -> Option<Expr> {
        self.add(&Expr::from(by.checked_sub(1)?))?.floor_div(by)
    }
    /// The quotient where the division surely leaves no remainder, as when a Reshape distributes elements.
    pub(crate) fn exact_div(&self, by: &Expr) -> Option<Expr> {
        if let Some(n) = by.number().filter(|n| *n > 0) {
            return self.floor_div(n);
        }
        // Division of polynomials by their leading terms, those of the most factors.
        let leading = |e: &Expr| {
            let terms = e.0.iter().max_by_key(|(product, _)| (product.len(), *product));
            terms.map(|(product, n)| (product.clone(), n))
        };
        let (atoms, m) = leading(by)?;
        let (mut quotient, mut rest) = (Expr::default(), self.clone());
        while let Some((mut left, n)) = leading(&rest) {
            for atom in &atoms {
                left.remove(left.iter().position(|a| a == atom)?);
            }
            (n.checked_rem(m)? == 0).then_some(())?;
            let term = Expr(Terms::one(left, n.checked_div(m)?));
            rest = rest.sub(&term.mul(by)?)?;
            quotient = quotient.add(&term)?;
        }
        Some(quotient)
    }
    /// The expression where it is positive, else 0.
    pub(crate) fn positive(&self) -> Option<Expr> {
        let minus = self.mul(&Expr::from(-1))?;
        if self.is_natural() {
            return Some(self.clone());
        }
        if minus.is_natural() {
            return Some(Expr::default());
        }
        // Of an expression and its opposite only one is kept, whose last term is positive: x = max(x, 0) - max(-x, 0).
        if self.0.iter().next_back().is_some_and(|(_, n)| n < 0) {
            return self.add(&minus.positive()?);
        }
        let by = i64::try_from(self.content()).ok().filter(|n| *n > 0)?;
        Expr(Terms::one(vec![Atom::Positive(self.over(by)?)], by)).bounded()
    }
    /// The larger of both.
    pub(crate) fn larger(&self, other: &Expr) -> Option<Expr> {
        other.add(&self.sub(other)?.positive()?)
    }
    /// The smaller of both.
    pub(crate) fn smaller(&self, other: &Expr) -> Option<Expr> {
        self.sub(&self.sub(other)?.positive()?)
    }
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Atom {
    fn is_natural(&self) -> bool {
        match self {
            Atom::Symbol(_) | Atom::Positive(_) => true,
            Atom::Floor(e, _) => e.is_natural(),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(name) => f.write_str(name),
            Atom::Floor(e, by) => write!(f, "floor(({e})/{by})"),
            Atom::Positive(e) => write!(f, "max({e}, 0)"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 0 {
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
            let sign = match (i, n < 0) {
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
        assert_eq!(a.add(&b).unwrap().exact_div(&a), None);
        assert!(n(i64::MAX).add(&n(1)).is_none());
        assert!(Expr::symbol("?1").text().is_none());
    }
    #[test]
    fn larger_and_smaller_have_one_form() {
        let (a, b) = (Expr::symbol("a"), Expr::symbol("b"));
        let (both, five) = (a.add(&b).unwrap(), n(5));
        assert_eq!(both.larger(&b), Some(both.clone()));
        assert_eq!(both.smaller(&b), Some(b.clone()));
        assert_eq!(a.larger(&five), five.larger(&a));
        assert_eq!(a.larger(&five).unwrap().to_string(), "max(a - 5, 0) + 5");
        // a + max(5 - a, 0) is the larger one too.
        let rest = five.sub(&a).unwrap().positive().unwrap();
        assert_eq!(a.add(&rest), a.larger(&five));
        let (high, low) = (a.larger(&b).unwrap(), a.smaller(&b).unwrap());
        assert_eq!(high.add(&low), Some(both));
        assert!(high.is_natural() && low.is_natural());
        assert!(!low.sub(&n(1)).unwrap().is_natural());
        assert_eq!(a.smaller(&five).unwrap().at(&a, 1), Some(n(1)));
        assert_eq!(a.smaller(&five).unwrap().at(&a, 9), Some(n(5)));
    }
    #[test]
    fn sums_divide_sums() {
        let (a, b, c) = (Expr::symbol("a"), Expr::symbol("b"), Expr::symbol("c"));
        let (one_more, two_less) = (a.add(&n(1)).unwrap(), b.sub(&n(2)).unwrap());
        let product = one_more.mul(&two_less).unwrap().mul(&c).unwrap();
        assert_eq!(product.exact_div(&one_more), two_less.mul(&c));
        assert_eq!(product.exact_div(&c.mul(&two_less).unwrap()), Some(one_more.clone()));
        assert_eq!(product.exact_div(&two_less.add(&n(1)).unwrap()), None);
        // Three halves of an even number.
        assert_eq!(a.mul(&n(768)).unwrap().exact_div(&n(512)).unwrap().to_string(), "floor((3*a)/2)");
        assert!(one_more.mul(&n(2)).unwrap().is_never_one() && a.add(&n(2)).unwrap().is_never_one());
        assert!(!one_more.is_never_one());
    }
}
