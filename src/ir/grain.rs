//! Which elements of a tensor share a quantization scale.

/// Which elements of a tensor share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grain {
    /// All of them.
    #[default]
    Tensor,
    /// Those of each index of one axis.
    Axis(usize),
    /// Runs of neighbours along the axes from `first` to before `end`, taken as one axis.
    Blocks {
        /// The first of the axes.
        first: usize,
        /// One past the last of them.
        end: usize,
        /// Elements in a run; the last one may have fewer.
        size: usize,
    },
}

impl Grain {
    /// How the elements of this shape lie; `None` where it lacks an axis, or the runs are empty.
    pub fn lay(&self, shape: &[usize]) -> Option<Lay> {
        let product = |axes: &[usize]| axes.iter().product::<usize>();
        let runs_of = |outer, length: usize| Lay { outer, length, inner: 1, size: length.max(1) };
        Some(match *self {
            Grain::Tensor => runs_of(1, product(shape)),
            // What stands in front of the axis repeats its scales.
            Grain::Axis(axis) => runs_of(*shape.get(axis)?, product(&shape[axis + 1..])),
            Grain::Blocks { first, end, size } => {
                let length = product(shape.get(first..end).filter(|_| size > 0)?);
                Lay { outer: product(&shape[..first]), length, inner: product(&shape[end..]), size }
            }
        })
    }
}

/// A tensor seen as `[outer, length, inner]`, repeated as often as it has elements for, with a scale for each run of
/// `size` along the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lay {
    /// Elements in front.
    pub outer: usize,
    /// Elements along the middle.
    pub length: usize,
    /// Elements behind.
    pub inner: usize,
    /// Elements of the middle that share a scale.
    pub size: usize,
}

impl Lay {
    /// Runs along the middle.
    pub fn blocks(&self) -> usize {
        self.length.div_ceil(self.size)
    }
    /// The number of scales.
    pub fn scales(&self) -> usize {
        self.outer * self.blocks() * self.inner
    }
    /// The scale of an element, in the order of `[outer, blocks, inner]`. There must be elements.
    pub fn scale_of(&self, element: usize) -> usize {
        let (row, column) = (element / self.inner, element % self.inner);
        let (outer, at) = (row / self.length % self.outer, row % self.length);
        (outer * self.blocks() + at / self.size) * self.inner + column
    }
    /// The scales of an element and all behind it, as [`Lay::scale_of`] has them, without end. There must be elements.
    pub fn scales_from(self, element: usize) -> impl Iterator<Item = usize> {
        let (row, mut column) = (element / self.inner, element % self.inner);
        let (mut outer, mut at) = (row / self.length % self.outer, row % self.length);
        let stride = self.blocks() * self.inner;
        let mut first = outer * stride + at / self.size * self.inner;
        let mut left = self.size - at % self.size;
        std::iter::from_fn(move || {
            let scale = first + column;
            column += 1;
            if column == self.inner {
                (column, at, left) = (0, at + 1, left - 1);
                if at == self.length {
                    (at, outer, left) = (0, (outer + 1) % self.outer, self.size);
                    first = outer * stride;
                } else if left == 0 {
                    (first, left) = (first + self.inner, self.size);
                }
            }
            Some(scale)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales(grain: Grain, shape: &[usize]) -> (usize, Vec<usize>) {
        let lay = grain.lay(shape).unwrap();
        let len: usize = shape.iter().product();
        for start in 0..len {
            assert!(lay.scales_from(start).take(len).eq((start..start + len).map(|i| lay.scale_of(i))));
        }
        (lay.scales(), (0..len).map(|i| lay.scale_of(i)).collect())
    }

    #[test]
    fn each_element_has_its_scale() {
        assert_eq!(scales(Grain::Tensor, &[2, 2]), (1, vec![0; 4]));
        assert_eq!(scales(Grain::Tensor, &[]), (1, vec![0]));
        assert_eq!(scales(Grain::Axis(1), &[2, 3]), (3, vec![0, 1, 2, 0, 1, 2]));
        assert_eq!(scales(Grain::Axis(0), &[2, 3]), (2, vec![0, 0, 0, 1, 1, 1]));
        let blocks = |first, end, size| Grain::Blocks { first, end, size };
        assert_eq!(scales(blocks(0, 1, 2), &[3, 2]), (4, vec![0, 1, 0, 1, 2, 3]));
        assert_eq!(scales(blocks(1, 3, 4), &[2, 3, 2]), (4, vec![0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]));
        assert_eq!(scales(blocks(1, 2, 8), &[2, 2, 2]), (4, vec![0, 1, 0, 1, 2, 3, 2, 3]));
        assert_eq!(blocks(1, 3, 4).lay(&[2, 2]), None);
        assert_eq!(Grain::Axis(2).lay(&[2, 2]), None);
    }
}
