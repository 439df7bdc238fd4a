//! The text of symbolic extents as numbers, for given sizes of the names in it.

use std::collections::HashMap;

/// The value of a text such as `2*h + floor((w - 1)/2) + max(h - 3, 0)`; `None` where it has a name of no known size.
pub(crate) fn evaluate(text: &str, sizes: &HashMap<String, i64>) -> Option<i64> {
    let mut reader = Reader { rest: text, sizes };
    let value = reader.sum()?;
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
    sizes: &'a HashMap<String, i64>,
}

impl Reader<'_> {
    fn eat(&mut self, what: &str) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
    fn sum(&mut self) -> Option<i64> {
        let mut sum = if self.eat("-") { -self.product()? } else { self.product()? };
        loop {
            if self.eat(" + ") {
                sum += self.product()?;
            } else if self.eat(" - ") {
                sum -= self.product()?;
            } else {
                return Some(sum);
            }
        }
    }
    fn product(&mut self) -> Option<i64> {
        let mut product = self.factor()?;
        while self.eat("*") {
            product *= self.factor()?;
        }
        Some(product)
    }
    fn factor(&mut self) -> Option<i64> {
        if self.eat("floor((") {
            let value = self.sum()?;
            self.eat(")/").then_some(())?;
            let by = self.number()?;
            return self.eat(")").then(|| value.div_euclid(by));
        }
        if self.eat("max(") {
            let value = self.sum()?;
            return self.eat(", 0)").then_some(value.max(0));
        }
        // Names may hold anything; the longest that fits is meant.
        let name =
            self.sizes.keys().filter(|name| self.rest.starts_with(name.as_str())).max_by_key(|n| n.len());
        match name {
            Some(name) => {
                let value = self.sizes[name];
                self.rest = &self.rest[name.len()..];
                Some(value)
            }
            None => self.number(),
        }
    }
    fn number(&mut self) -> Option<i64> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().ok()
    }
}
