//! Walking tensors by index: strides, broadcasting, and axes that count from the end.

/// An axis in `0..rank`, also where it is given counting from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// Distinct axes, ascending.
pub(crate) fn axes(given: &[i64], rank: usize) -> Option<Vec<usize>> {
    let mut axes: Vec<usize> = given.iter().map(|a| axis(*a, rank)).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.windows(2).all(|w| w[0] != w[1]).then_some(axes)
}

/// The number of elements; `None` on overflow.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// Row-major strides in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for k in (1..shape.len()).rev() {
        strides[k - 1] = strides[k].saturating_mul(shape[k] as isize);
    }
    strides
}

/// The shape that shapes have together by ONNX's (and numpy's) multidirectional broadcasting.
pub(crate) fn broadcast(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max()?;
    let mut out = vec![1usize; rank];
    for shape in shapes {
        for (o, d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            match (*o, *d) {
                (_, 1) => {}
                (1, d) => *o = d,
                (o, d) if o == d => {}
                _ => return None,
            }
        }
    }
    Some(out)
}

/// The strides with which a tensor is read as one of the (broader) shape `out`.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<isize> {
    let lead = out.len() - shape.len();
    let own = strides(shape);
    (0..out.len()).map(|k| if k < lead || shape[k - lead] == 1 { 0 } else { own[k - lead] }).collect()
}

/// Source positions in row-major order of a `shape` read from `offset` with `strides`. The caller answers for all of
/// them lying inside the source.
pub(crate) fn walk(shape: Vec<usize>, strides: Vec<isize>, offset: isize) -> impl Iterator<Item = usize> {
    let mut left = count(&shape).unwrap_or(0);
    let mut at = vec![0usize; shape.len()];
    let mut position = offset;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let here = position as usize;
        for k in (0..shape.len()).rev() {
            at[k] += 1;
            position += strides[k];
            if at[k] < shape[k] {
                break;
            }
            position -= strides[k] * shape[k] as isize;
            at[k] = 0;
        }
        Some(here)
    })
}
