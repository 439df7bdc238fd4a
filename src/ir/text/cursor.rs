//! A place among the tokens of a text, and the small parts of the syntax: words, numbers, types, tensors.

use super::{
    TYPE_WORDS, is_type_word,
    lex::{Kind, Lexed, Token, error_at, lex},
    literal::{self, Literal},
    weights,
};
use crate::{
    error::{Error, Result},
    ir::{Carried, DType, Dim, Shape, SparseTensor, Tensor, TensorType, Type},
};

/// How deep types and bodies may nest.
pub(super) const MOST_NESTED: usize = 64;

/// Reads tokens one by one.
pub(super) struct Cursor<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    comments: Vec<(usize, &'a str)>,
    at: usize,
    /// How deep the current type or body is nested.
    depth: usize,
    /// The seed of contents that are made up, and the bytes still allowed for them.
    seed: u64,
    allowance: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self> {
        let Lexed { tokens, comments } = lex(text)?;
        let mut cursor =
            Cursor { text, tokens, comments, at: 0, depth: 0, seed: 0, allowance: weights::MOST_BYTES };
        if let Some((_, seed)) =
            cursor.comments.iter().find_map(|(k, c)| Some((k, c.strip_prefix("weights: seed ")?)))
        {
            let wrong = |_| Error::malformed((), format!("`# weights: seed {seed}` names no whole number"));
            cursor.seed = seed.trim().parse().map_err(wrong)?;
        }
        Ok(cursor)
    }
    /// The next token.
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }
    /// The text of the next token.
    fn peek_text(&self) -> &'a str {
        let (from, to) = self.peek().span;
        &self.text[from..to]
    }
    /// Where the next token is, to report an error there later.
    pub(super) fn place(&self) -> usize {
        self.at
    }
    /// The next token's text, and moves past it; stays at the end of the text.
    pub(super) fn next_text(&mut self) -> &'a str {
        let text = self.peek_text();
        if self.peek().kind != Kind::End {
            self.at += 1;
        }
        text
    }
    pub(super) fn error_at(&self, place: usize, why: impl std::fmt::Display) -> Error {
        error_at(self.text, self.tokens[place].span.0, why)
    }
    /// An error that says what should stand here.
    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        let found = match self.peek().kind {
            Kind::End => "the text ends".to_owned(),
            _ => format!("found `{}`", self.peek_text()),
        };
        Err(self.error_at(self.at, format!("expected {what}, {found}")))
    }
    pub(super) fn is(&self, c: char) -> bool {
        self.peek().kind == Kind::Punct(c)
    }
    pub(super) fn is_end(&self) -> bool {
        self.peek().kind == Kind::End
    }
    /// Moves past a character, if it is the next token.
    pub(super) fn eat(&mut self, c: char) -> bool {
        let there = self.is(c);
        self.at += usize::from(there);
        there
    }
    pub(super) fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }
    /// `=>`
    pub(super) fn expect_arrow(&mut self) -> Result<()> {
        if !self.is('=') {
            return self.expected("`=>`");
        }
        self.expect('=')?;
        self.expect('>')
    }
    /// Items up to a closing character, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.eat(',') {
                break;
            }
        }
        if self.eat(close) { Ok(items) } else { self.expected(&format!("`,` or `{close}`")) }
    }
    /// Reads something that nests, within the limit.
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MOST_NESTED {
            return Err(self.error_at(self.at, format!("nested deeper than {MOST_NESTED}")));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }
    pub(super) fn is_name(&self) -> bool {
        matches!(self.peek().kind, Kind::Word | Kind::Quoted(_))
    }
    /// A name, bare or quoted.
    pub(super) fn name(&mut self) -> Result<String> {
        let name = match &self.peek().kind {
            Kind::Word => self.peek_text().to_owned(),
            Kind::Quoted(content) => content.clone(),
            _ => return self.expected("a name"),
        };
        self.at += 1;
        Ok(name)
    }
    pub(super) fn quoted(&mut self) -> Result<String> {
        if !matches!(self.peek().kind, Kind::Quoted(_)) {
            return self.expected("a text in quotes");
        }
        self.name()
    }
    pub(super) fn int(&mut self) -> Result<i64> {
        if self.peek().kind != Kind::Int {
            return self.expected("a whole number");
        }
        let place = self.at;
        let text = self.next_text();
        text.parse().map_err(|_| self.error_at(place, format!("{text} is no 64-bit number")))
    }
    /// The text of a number, if one is next; `inf` and `nan` count.
    pub(super) fn number(&self) -> Option<&'a str> {
        let text = self.peek_text();
        let special = || text.parse::<f32>().is_ok();
        match self.peek().kind {
            Kind::Int | Kind::Float => Some(text),
            Kind::Word if special() => Some(text),
            _ => None,
        }
    }
    pub(super) fn is_type(&self) -> bool {
        self.peek().kind == Kind::Word && is_type_word(self.peek_text())
    }

    pub(super) fn type_(&mut self) -> Result<Type> {
        self.nested(Self::type_inner)
    }
    fn type_inner(&mut self) -> Result<Type> {
        if let Some(dtype) = DType::from_name(self.peek_text()) {
            self.at += 1;
            return Ok(Type::Tensor(self.tensor_type(dtype)?));
        }
        if !TYPE_WORDS.contains(&self.peek_text()) {
            return self.expected("a type");
        }
        let word = self.next_text();
        self.expect('(')?;
        let ty = match word {
            "seq" => Type::Sequence(Box::new(self.type_()?)),
            "optional" => Type::Optional(Box::new(self.type_()?)),
            "sparse_tensor" => {
                let dtype = self.dtype()?;
                Type::SparseTensor(self.tensor_type(dtype)?)
            }
            "map" => {
                let key = self.dtype()?;
                self.expect(',')?;
                Type::Map(key, Box::new(self.type_()?))
            }
            _ => {
                while !self.is(')') && !self.is_end() {
                    self.at += 1; // the domain and name of an opaque type, which the IR does not tell apart
                }
                Type::Opaque
            }
        };
        self.expect(')')?;
        Ok(ty)
    }
    fn dtype(&mut self) -> Result<DType> {
        match DType::from_name(self.peek_text()) {
            Some(dtype) => {
                self.at += 1;
                Ok(dtype)
            }
            None => self.expected("an element type"),
        }
    }
    /// `[dims]` after an element type: nothing is a scalar, empty brackets are an unknown rank.
    fn tensor_type(&mut self, dtype: DType) -> Result<TensorType> {
        let shape = if !self.eat('[') {
            Some(Shape::new())
        } else if self.eat(']') {
            None
        } else {
            Some(self.list(']', Self::dim)?.into())
        };
        Ok(TensorType { dtype: Some(dtype), shape })
    }
    fn dim(&mut self) -> Result<Dim> {
        if self.eat('?') {
            return Ok(Dim::Unknown);
        }
        if self.is_name() {
            return Ok(Dim::Symbol(self.name()?));
        }
        let place = self.at;
        let extent = self.int()?;
        usize::try_from(extent)
            .map(Dim::Known)
            .map_err(|_| self.error_at(place, "an extent cannot be negative"))
    }

    /// Element type and extents of a constant.
    pub(super) fn constant_type(&self, ty: &TensorType, place: usize) -> Result<(DType, Vec<usize>)> {
        ty.dtype.zip(ty.static_shape()).ok_or_else(|| self.error_at(place, "a constant needs known extents"))
    }
    /// `{elements}` of a constant of the given type.
    pub(super) fn elements(&mut self, ty: &TensorType) -> Result<Tensor> {
        let place = self.at;
        let (dtype, shape) = self.constant_type(ty, place)?;
        self.expect('{')?;
        let items = self.list('}', |c| match c.number() {
            Some(number) => {
                c.at += 1;
                Ok(Literal::Number(number.to_owned()))
            }
            None if matches!(c.peek().kind, Kind::Quoted(_)) => Ok(Literal::Text(c.quoted()?)),
            None => c.expected("an element"),
        })?;
        if items.is_empty() && !shape.contains(&0) {
            return self.made_up(dtype, &shape, "", place);
        }
        literal::read(dtype, &shape, items).map_err(|why| self.error_at(place, why))
    }
    /// Random contents for a constant that stands in the text without any.
    pub(super) fn made_up(
        &mut self,
        dtype: DType,
        shape: &[usize],
        name: &str,
        place: usize,
    ) -> Result<Tensor> {
        let len = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let per_element = if dtype == DType::String { size_of::<bytes::Bytes>() } else { 8 };
        match len.and_then(|n| n.checked_mul(per_element)).and_then(|n| self.allowance.checked_sub(n)) {
            Some(left) => self.allowance = left,
            None => return Err(self.error_at(place, "too much random content for one text")),
        }
        let line = self.tokens[place].line;
        let positive = |(l, c): &(usize, &str)| *l == line && c.split_whitespace().any(|w| w == "positive");
        weights::random(dtype, shape, name, self.seed, self.comments.iter().any(positive))
    }
    /// `{values, indices}` of a sparse constant of the given type.
    pub(super) fn sparse(&mut self, ty: &TensorType) -> Result<SparseTensor> {
        let (_, dims) = self.constant_type(ty, self.at)?;
        self.expect('{')?;
        let mut part = |close: char| -> Result<Tensor> {
            let place = self.at;
            let Type::Tensor(ty) = self.type_()? else {
                return Err(self.error_at(place, "expected a tensor"));
            };
            let tensor = self.elements(&ty)?;
            self.expect(close)?;
            Ok(tensor)
        };
        Ok(SparseTensor { values: part(',')?, indices: part('}')?, dims, carried: Carried::default() })
    }
}
