//! The inputs that an output position of a layer is computed from, and where its outputs stand.

use crate::ir::Op;

/// How a linear layer walks over its input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Walk {
    /// `[..., inputs] -> [..., outputs]`
    Rows,
    /// `[batch, channels, space...] -> [batch, channels, space...]`
    Windows(Window),
}

/// The attributes of a convolution, one entry for each spatial axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Pads,
}

/// What stands around the elements.
#[derive(Clone, Debug, PartialEq)]
enum Pads {
    /// Before the first of each axis, then behind the last of each.
    Given(Vec<usize>),
    /// As much as the output's extent takes, the odd one behind (upper) or before (lower).
    Same { lower: bool },
}

impl Window {
    /// Of a convolution with weights of this shape; `None` where attributes do not fit it.
    pub(crate) fn of(op: &Op, weight: &[usize]) -> Option<Window> {
        let kernel = weight.get(2..)?.to_vec();
        let list = |name: &str, n: usize, default: usize| match op.ints(name) {
            None => Some(vec![default; n]),
            Some(list) => list.iter().map(|n| usize::try_from(*n).ok()).collect(),
        };
        let pads = match op.str("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => Pads::Given(list("pads", 2 * kernel.len(), 0)?),
            "VALID" => Pads::Given(vec![0; 2 * kernel.len()]),
            "SAME_UPPER" => Pads::Same { lower: false },
            "SAME_LOWER" => Pads::Same { lower: true },
            _ => return None,
        };
        let (strides, dilations) = (list("strides", kernel.len(), 1)?, list("dilations", kernel.len(), 1)?);
        let fits = kernel.iter().all(|k| *k > 0)
            && strides.len() == kernel.len()
            && strides.iter().all(|k| *k > 0)
            && dilations.len() == kernel.len()
            && !matches!(&pads, Pads::Given(p) if p.len() != 2 * kernel.len());
        fits.then_some(Window { kernel, strides, dilations, pads })
    }
    /// One element at a time, with so many spatial axes.
    pub(crate) fn pointwise(axes: usize) -> Window {
        let ones = vec![1; axes];
        let pads = Pads::Given(vec![0; 2 * axes]);
        Window { kernel: ones.clone(), strides: ones.clone(), dilations: ones, pads }
    }
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }
    /// The spatial extents of the output of this input.
    fn output(&self, input: &[usize]) -> Vec<usize> {
        let along = |(axis, extent): (usize, &usize)| match &self.pads {
            Pads::Same { .. } => extent.div_ceil(self.strides[axis]),
            Pads::Given(pads) => {
                let padded = extent + pads[axis] + pads[axis + self.kernel.len()];
                padded.checked_sub(self.reach(axis)).map_or(0, |left| left / self.strides[axis] + 1)
            }
        };
        input.iter().enumerate().map(along).collect()
    }
    /// The padding before the first element of a spatial axis.
    fn pad(&self, axis: usize, input: usize, output: usize) -> usize {
        match &self.pads {
            Pads::Given(pads) => pads[axis],
            Pads::Same { lower } => {
                let total =
                    (output.saturating_sub(1) * self.strides[axis] + self.reach(axis)).saturating_sub(input);
                (total + usize::from(*lower)) / 2
            }
        }
    }
    /// For each element of the kernel, the input element under it; `None` in the padding.
    fn under(&self, input: &[usize], output: &[usize], mut at: usize) -> Vec<Option<usize>> {
        let mut found = vec![Some(0)];
        let mut place = vec![0; output.len()];
        for axis in (0..output.len()).rev() {
            place[axis] = at % output[axis];
            at /= output[axis];
        }
        for axis in 0..self.kernel.len() {
            let start = place[axis] * self.strides[axis];
            let pad = self.pad(axis, input[axis], output[axis]);
            let along = |k: usize| {
                let at = (start + k * self.dilations[axis]).checked_sub(pad)?;
                (at < input[axis]).then_some(at)
            };
            let next = |before: &Option<usize>| {
                let before = *before;
                (0..self.kernel[axis])
                    .map(move |k| Some(before? * input[axis] + along(k)?))
                    .collect::<Vec<_>>()
            };
            found = found.iter().flat_map(next).collect();
        }
        found
    }
}

/// One run of a layer: its input and how its outputs lie.
pub(crate) struct Run<'a> {
    walk: &'a Walk,
    input: &'a [f32],
    shape: &'a [usize],
    /// The spatial extents of the output.
    space: Vec<usize>,
    /// How many output positions there are.
    pub(crate) positions: usize,
}

impl<'a> Run<'a> {
    /// On an input of this shape. `None` where the two do not belong together.
    pub(crate) fn of(walk: &'a Walk, input: &'a [f32], shape: &'a [usize]) -> Option<Run<'a>> {
        let (space, batch) = match walk {
            Walk::Rows => (Vec::new(), shape.split_last()?.1.iter().product()),
            Walk::Windows(window) => {
                let [batch, _, space @ ..] = shape else { return None };
                (space.len() == window.kernel.len()).then(|| (window.output(space), *batch))?
            }
        };
        let positions = batch * space.iter().product::<usize>();
        Some(Run { walk, input, shape, space, positions })
    }
    /// Whether an output of this shape belongs to the input.
    pub(crate) fn puts_out(&self, shape: &[usize]) -> bool {
        match self.walk {
            Walk::Rows => shape.split_last().map(|s| s.1) == self.shape.split_last().map(|s| s.1),
            Walk::Windows(_) => {
                shape.len() == self.shape.len()
                    && shape.first() == self.shape.first()
                    && shape[2..] == self.space
            }
        }
    }
    /// Adds the inputs of an output position to a row: of `channels` channels from `first` on.
    pub(crate) fn inputs(&self, position: usize, first: usize, channels: usize, row: &mut Vec<f64>) {
        match self.walk {
            Walk::Rows => {
                let width = self.shape[self.shape.len() - 1];
                let start = position * width + first;
                row.extend(self.input[start..start + channels].iter().map(|x| f64::from(*x)));
            }
            Walk::Windows(window) => {
                let (input, area) = (&self.shape[2..], self.shape[2..].iter().product::<usize>());
                let inside = self.space.iter().product::<usize>();
                let under = window.under(input, &self.space, position % inside);
                let batch = position / inside * self.shape[1];
                for channel in first..first + channels {
                    let plane = &self.input[(batch + channel) * area..][..area];
                    row.extend(under.iter().map(|at| at.map_or(0.0, |at| f64::from(plane[at]))));
                }
            }
        }
    }
    /// Where output channel 0 of a position stands among outputs of `channels` channels, and how far the next one is.
    pub(crate) fn output(&self, position: usize, channels: usize) -> (usize, usize) {
        let inside = self.space.iter().product::<usize>();
        match self.walk {
            Walk::Rows => (position * channels, 1),
            Walk::Windows(_) => (position / inside * channels * inside + position % inside, inside),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(op: Op, kernel: &[usize]) -> Walk {
        Walk::Windows(Window::of(&op, &[&[1, 1], kernel].concat()).unwrap())
    }
    fn row(walk: &Walk, shape: &[usize], output: &[usize], position: usize) -> Vec<f64> {
        let input: Vec<f32> = (1..=shape.iter().product::<usize>()).map(|k| k as f32).collect();
        let run = Run::of(walk, &input, shape).unwrap();
        assert!(run.puts_out(output), "{:?}", run.space);
        let mut row = Vec::new();
        run.inputs(position, 0, 1, &mut row);
        row
    }

    #[test]
    fn windows_follow_strides_dilations_and_padding() {
        let op = || Op::new("Conv", "");
        let strided = op().with("strides", vec![2, 1]).with("pads", vec![1, 0, 0, 0]);
        let walk = window(strided, &[2, 2]);
        assert_eq!(row(&walk, &[1, 1, 3, 3], &[1, 1, 2, 2], 1), [0.0, 0.0, 2.0, 3.0]);
        assert_eq!(row(&walk, &[1, 1, 3, 3], &[1, 1, 2, 2], 2), [4.0, 5.0, 7.0, 8.0]);
        let walk = window(op().with("dilations", vec![2]), &[2]);
        assert_eq!(row(&walk, &[1, 1, 4], &[1, 1, 2], 1), [2.0, 4.0]);
        for (mode, expected) in [("SAME_UPPER", [4.0, 0.0]), ("SAME_LOWER", [3.0, 4.0])] {
            let walk = window(op().with("auto_pad", mode), &[2]);
            assert_eq!(row(&walk, &[1, 1, 4], &[1, 1, 4], 3), expected, "{mode}");
        }
    }
    #[test]
    fn outputs_are_found_by_channel() {
        let walk = window(Op::new("Conv", ""), &[1, 1]);
        let run = Run::of(&walk, &[0.0; 12], &[2, 1, 2, 3]).unwrap();
        assert_eq!((run.positions, run.output(7, 5)), (12, (31, 6)));
        assert!(run.puts_out(&[2, 5, 2, 3]) && !run.puts_out(&[2, 5, 2, 2]));
        assert_eq!(row(&Walk::Rows, &[2, 2, 1], &[2, 2, 5], 3), [4.0]);
        assert!(!Run::of(&Walk::Rows, &[], &[2, 2, 1]).unwrap().puts_out(&[2, 3, 5]));
        assert!(Run::of(&walk, &[], &[2, 1, 2]).is_none());
    }
}
