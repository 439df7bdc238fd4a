//! Text to attributes.

use super::{
    cursor::Cursor,
    lex::Kind,
    parse::{Scope, graph},
    print::ATTRIBUTE_KINDS,
};
use crate::{
    error::Result,
    ir::{Attr, Attribute, Carried, Graph, Type},
};

/// `<attributes>`, or none.
pub(super) fn attributes(c: &mut Cursor<'_>, g: &Graph) -> Result<Vec<Attribute>> {
    if !c.eat('<') {
        return Ok(Vec::new());
    }
    c.list('>', |c| {
        let name = c.name()?;
        attribute(c, name, g)
    })
}

/// An attribute after its name: `: kind = value`, the kind being needed for empty lists and references only.
pub(super) fn attribute(c: &mut Cursor<'_>, name: String, g: &Graph) -> Result<Attribute> {
    let mut kind = ("", 0);
    if c.eat(':') {
        let place = c.place();
        let word = c.name()?;
        let known = ATTRIBUTE_KINDS.iter().find(|(k, _)| *k == word);
        kind = *known.ok_or_else(|| c.error_at(place, format!("`{word}` is no kind of attribute")))?;
    }
    c.expect('=')?;
    let place = c.place();
    let value = if c.eat('@') {
        Attr::Reference(c.name()?, kind.1)
    } else if c.eat('[') {
        let items = c.list(']', |c| single(c, kind.0, g))?;
        many(items, kind.0).ok_or_else(|| c.error_at(place, "the items of a list must be of one kind"))?
    } else {
        single(c, kind.0, g)?
    };
    let (found, _) = kind_of(&value);
    if !kind.0.is_empty() && found != kind.1 {
        return Err(c.error_at(place, format!("this is not of kind `{}`", kind.0)));
    }
    Ok(Attribute { name, value, carried: Carried::default() })
}

/// One value; whole numbers are floats where the kind says so.
fn single(c: &mut Cursor<'_>, kind: &str, g: &Graph) -> Result<Attr> {
    let place = c.place();
    if let Some(number) = c.number() {
        let wants_float = matches!(kind, "float" | "floats");
        c.next_text();
        let whole = if wants_float { None } else { number.parse().ok() };
        return match (whole, number.parse()) {
            (Some(n), _) => Ok(Attr::Int(n)),
            (None, Ok(x)) => Ok(Attr::Float(x)),
            (None, Err(_)) => Err(c.error_at(place, format!("{number} is no number"))),
        };
    }
    if c.is_type() {
        let ty = c.type_()?;
        if c.is_name() {
            c.name()?; // a tensor's own name, which the IR carries only as bytes
            c.eat('=');
        }
        return match ty {
            Type::Tensor(ty) if c.is('{') => Ok(Attr::Tensor(c.elements(&ty)?)),
            Type::SparseTensor(ty) if c.is('{') => Ok(Attr::SparseTensor(Box::new(c.sparse(&ty)?))),
            ty => Ok(Attr::Type(ty)),
        };
    }
    if matches!(c.peek().kind, Kind::Quoted(_)) {
        return Ok(Attr::String(c.quoted()?.into()));
    }
    if !c.is_name() {
        return c.expected("an attribute's value");
    }
    let body = g.new_body(c.name()?);
    Ok(Attr::Graph(Box::new(c.nested(|c| graph(c, body, Scope::Body))?)))
}

/// The list of these values; of an empty one the kind tells.
fn many(items: Vec<Attr>, kind: &str) -> Option<Attr> {
    macro_rules! all {
        ($one:ident, $many:ident, $convert:expr) => {
            items
                .into_iter()
                .map(|item| if let Attr::$one(x) = item { Some($convert(x)) } else { None })
                .collect::<Option<Vec<_>>>()
                .map(Attr::$many)
        };
    }
    let plural = |n: i32| if n < 6 { n + 5 } else { n + 1 };
    let of_items = items.first().map(|item| plural(kind_of(item).0));
    let of_word = ATTRIBUTE_KINDS.iter().find(|(word, _)| *word == kind).map(|(_, n)| *n);
    match of_items.or(of_word)? {
        6 => all!(Float, Floats, |x| x),
        7 => all!(Int, Ints, |x| x),
        8 => all!(String, Strings, |x| x),
        9 => all!(Tensor, Tensors, |x| x),
        10 => all!(Graph, Graphs, |x: Box<Graph>| *x),
        12 => all!(SparseTensor, SparseTensors, |x: Box<_>| *x),
        14 => all!(Type, Types, |x| x),
        _ => None,
    }
}

/// The number of a value's kind (`AttributeProto.AttributeType`) and its word.
fn kind_of(value: &Attr) -> (i32, &'static str) {
    let number = match value {
        Attr::Float(_) => 1,
        Attr::Int(_) => 2,
        Attr::String(_) => 3,
        Attr::Tensor(_) => 4,
        Attr::Graph(_) => 5,
        Attr::Floats(_) => 6,
        Attr::Ints(_) => 7,
        Attr::Strings(_) => 8,
        Attr::Tensors(_) => 9,
        Attr::Graphs(_) => 10,
        Attr::SparseTensor(_) => 11,
        Attr::SparseTensors(_) => 12,
        Attr::Type(_) => 13,
        Attr::Types(_) => 14,
        Attr::Reference(_, number) => *number,
    };
    let word = ATTRIBUTE_KINDS.iter().find(|(_, n)| *n == number).map_or("", |(word, _)| word);
    (number, word)
}
