//! What inference knows of a value: more than its type, also the elements of small integer tensors.

use super::expr::Expr;
use crate::ir::{DType, Dim, Tensor, TensorType, Type};

/// Elements of integer tensors that are followed one by one; shapes and indices are shorter.
const MOST_ELEMENTS: usize = 1024;

/// An extent or an element; `None` where it is not known.
pub(super) type Size = Option<Expr>;

/// A number as an extent or element.
pub(super) fn num(n: i64) -> Size {
    Some(Expr::from(n))
}
/// A length as an extent.
pub(super) fn len(n: usize) -> Size {
    i64::try_from(n).ok().map(Expr::from)
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<Size>>,
    /// The elements in row-major order, of integer tensors whose shape is known.
    pub(super) values: Option<Vec<Size>>,
    /// The whole tensor, where it is the same in every run.
    pub(super) constant: Option<Tensor>,
    /// The type, where it is no dense tensor.
    pub(super) other: Option<Type>,
}

impl Fact {
    /// Of this shape, elements unknown.
    pub(super) fn shaped(shape: Vec<Size>) -> Fact {
        Fact { shape: Some(shape), ..Fact::default() }
    }
    /// A vector of these elements.
    pub(super) fn vector(values: Vec<Size>) -> Fact {
        Fact { shape: Some(vec![len(values.len())]), values: Some(values), ..Fact::default() }
    }
    /// Of this shape and elements; the elements are dropped where there are too many to follow.
    pub(super) fn with_values(shape: Vec<Size>, values: Option<Vec<Size>>) -> Fact {
        let values = values.filter(|v| v.len() <= MOST_ELEMENTS);
        Fact { shape: Some(shape), values, ..Fact::default() }
    }
    /// All there is to know of a constant.
    pub(super) fn constant(t: &Tensor) -> Fact {
        let values = if t.len() <= MOST_ELEMENTS { t.to_i64() } else { None };
        Fact {
            dtype: Some(t.dtype()),
            shape: Some(t.shape().iter().map(|n| len(*n)).collect()),
            values: values.map(|v| v.into_iter().map(num).collect()),
            constant: Some(t.clone()),
            other: None,
        }
    }
    pub(super) fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }
    /// The elements, where each is a known number.
    pub(super) fn numbers(&self) -> Option<Vec<i64>> {
        self.values.as_ref()?.iter().map(|v| v.as_ref()?.number()).collect()
    }
    /// The only element of a tensor of one.
    pub(super) fn scalar(&self) -> Option<&Expr> {
        match self.values.as_deref()? {
            [Some(x)] => Some(x),
            _ => None,
        }
    }
    /// As declared by a file. `private` names the dimensions that the file leaves unnamed, so that equal ones can be
    /// recognised; without it they stay unknown.
    pub(super) fn declared(ty: &Type, private: Option<&str>) -> Fact {
        let Type::Tensor(t) = ty else { return Fact { other: Some(ty.clone()), ..Fact::default() } };
        let dim = |(k, d): (usize, &Dim)| match d {
            Dim::Known(n) => len(*n),
            Dim::Symbol(name) if !name.starts_with('?') => Some(Expr::symbol(name)),
            // Some exporters write "?" for every dimension they do not know: equal text, but not equal extents.
            Dim::Symbol(_) | Dim::Unknown => private.map(|p| Expr::symbol(&format!("?{p}/{k}"))),
        };
        Fact {
            dtype: t.dtype,
            shape: t.shape.as_ref().map(|s| s.iter().enumerate().map(dim).collect()),
            ..Fact::default()
        }
    }
    /// As a type; `None` where nothing is known.
    pub(super) fn ty(&self) -> Option<Type> {
        if self.other.is_some() {
            return self.other.clone();
        }
        let dim = |s: &Size| match s {
            Some(e) => match e.number() {
                Some(n) => usize::try_from(n).map_or(Dim::Unknown, Dim::Known),
                None => e.text().map_or(Dim::Unknown, Dim::Symbol),
            },
            None => Dim::Unknown,
        };
        let shape = self.shape.as_ref().map(|s| s.iter().map(dim).collect());
        (self.dtype.is_some() || shape.is_some())
            .then_some(Type::Tensor(TensorType { dtype: self.dtype, shape }))
    }
    /// Fills in what is not known from another source.
    pub(super) fn fill(&mut self, from: &Fact) {
        self.dtype = self.dtype.or(from.dtype);
        if self.other.is_none() && self.dtype.is_none() && self.shape.is_none() {
            self.other.clone_from(&from.other);
        }
        match (&mut self.shape, &from.shape) {
            (None, other) => self.shape.clone_from(other),
            (Some(mine), Some(theirs)) if mine.len() == theirs.len() => {
                for (m, t) in mine.iter_mut().zip(theirs) {
                    if m.as_ref().is_none_or(|e| e.text().is_none()) && t.is_some() {
                        m.clone_from(t);
                    }
                }
            }
            _ => {}
        }
        if self.values.is_none() {
            self.values.clone_from(&from.values);
        }
    }
}
