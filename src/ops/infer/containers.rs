//! Operators on sequences and options. What is known of a sequence is what is true of all its elements.

use super::{
    bodies::either,
    call::{Call, Found},
    fact::{Fact, Size, num},
};
use crate::{
    ir::{DType, TensorType, Type},
    ops::fold::index,
};

/// The output of an operator that makes, changes or reads a sequence or option; `None` for any other.
pub(super) fn containers(c: &Call<'_>) -> Found {
    if !c.op.is_standard() {
        return None;
    }
    Some(vec![match &*c.op.op_type {
        "SequenceConstruct" => {
            let first = of_element(c.input(0)?);
            sequence(
                (1..c.inputs.len()).try_fold(first, |all, k| Some(either(&all, &of_element(c.input(k)?))))?,
            )?
        }
        "SequenceEmpty" => {
            let dtype = c.op.int("dtype").and_then(|n| DType::from_onnx(i32::try_from(n).ok()?));
            sequence(Fact { dtype: Some(dtype.unwrap_or(DType::F32)), ..Fact::default() })?
        }
        "SplitToSequence" => {
            let x = c.input(0)?;
            sequence(Fact { dtype: x.dtype, shape: split(c), ..Fact::default() })?
        }
        "SequenceInsert" => sequence(either(&element(c)?, &of_element(c.input(1)?)))?,
        "SequenceErase" => sequence(element(c)?)?,
        "SequenceAt" => element(c)?,
        "ConcatFromSequence" => {
            let each = element(c)?;
            let shape = each.shape.and_then(|s| joined(c, s));
            Fact { dtype: each.dtype, shape, ..Fact::default() }
        }
        "OptionalGetElement" => match &c.input(0)?.other {
            Some(Type::Optional(_)) => element(c)?,
            _ => Fact { values: None, constant: None, ..c.input(0)?.clone() },
        },
        "Identity" => Fact { other: Some(c.input(0)?.other.clone()?), ..Fact::default() },
        _ => return None,
    }])
}

/// What is known of every element of the sequence, or of the option, that comes first.
fn element(c: &Call<'_>) -> Option<Fact> {
    match c.input(0)?.other.as_ref()? {
        Type::Sequence(t) | Type::Optional(t) => Some(Fact::declared(t, None)),
        _ => None,
    }
}

/// A tensor as the element of a sequence: its type.
fn of_element(x: &Fact) -> Fact {
    Fact { values: None, constant: None, ..x.clone() }
}

/// The sequence whose elements are all like this; of a tensor the element type must be known.
fn sequence(each: Fact) -> Option<Fact> {
    let ty = match each.ty()? {
        Type::Tensor(TensorType { dtype: None, .. }) => return None,
        ty => ty,
    };
    Some(Fact { other: Some(Type::Sequence(Box::new(ty))), ..Fact::default() })
}

/// The shape of each part of a SplitToSequence.
fn split(c: &Call<'_>) -> Option<Vec<Size>> {
    let mut s = c.shape(0)?.to_vec();
    let at = c.axis(0, s.len())?;
    if c.input(1).is_some() {
        s[at] = None;
    } else if c.op.int("keepdims") == Some(0) {
        s.remove(at);
    } else {
        s[at] = num(1);
    }
    Some(s)
}

/// The shape of all elements of this shape joined, on an axis of theirs or a new one; how many there are is unknown.
fn joined(c: &Call<'_>, mut each: Vec<Size>) -> Option<Vec<Size>> {
    let axis = c.op.int("axis")?;
    if c.flag("new_axis") {
        each.insert(index::axis(axis, each.len() + 1)?, None);
    } else {
        let at = index::axis(axis, each.len())?;
        each[at] = None;
    }
    Some(each)
}
