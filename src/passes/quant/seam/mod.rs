//! Seams: values across which a scale can be moved without changing what the model computes.
//!
//! Where everything that makes the channels of a value is linear in constants, and so is everything that reads them, dividing
//! what makes channel `i` by `s[i]` and multiplying what reads it by `s[i]` cancels out: `W2 f(W1 x + b) = (W2 S) f(S^-1 W1 x +
//! S^-1 b)` for any `f` with `f(a x) = a f(x)`, `a > 0` (Nagel et al. 2019). The axis algebra tells which axes of which values
//! are the same channels, across residual sums, concatenations, reshapes and depthwise convolutions; one operator in
//! between that is not positively homogeneous along them, and there is no seam.

mod search;

use crate::ir::{Graph, Model, Op, OpId, Origin, Tensor, ValueId};
pub(super) use search::seams;

/// For each channel of a value, its position in the seam; `None` where it is of another.
type Positions = Vec<Option<usize>>;

/// How a constant meets the channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meets {
    /// As the weight of a linear layer that reads them.
    Reads,
    /// As the weight of a linear layer that makes them.
    Makes,
    /// As factors along this of its axes that are read through.
    Scales(usize),
    /// As numbers along this of its axes that make, or are added to, the channels.
    Adds(usize),
}

/// A constant that changes with the scales.
#[derive(Clone, Debug)]
pub(super) struct Touch {
    pub op: OpId,
    pub slot: usize,
    pub meets: Meets,
    pub positions: Positions,
}

/// Channels whose scales are free.
#[derive(Clone, Debug)]
pub(super) struct Seam {
    /// How many there are.
    pub size: usize,
    pub touches: Vec<Touch>,
    /// The values that have them.
    pub values: Vec<Held>,
}

/// A value that has channels of a seam, and where.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub value: ValueId,
    pub axis: usize,
    pub positions: Positions,
}

impl Seam {
    /// Moves the scales: the channels become what they are divided by them. `None` where a constant would not be finite.
    pub(super) fn scale(&self, g: &mut Graph, scales: &[f32]) -> Option<()> {
        for touch in &self.touches {
            let old = g.input(touch.op, touch.slot)?;
            let tensor = g.initializer(old)?;
            let position = touch.position(g, tensor)?;
            let by = |at: usize| match (position(at), touch.meets) {
                (None, _) => 1.0,
                (Some(i), Meets::Reads | Meets::Scales(_)) => scales[i],
                (Some(i), _) => scales[i].recip(),
            };
            let values: Vec<f32> =
                tensor.view::<f32>()?.iter().enumerate().map(|(at, x)| x * by(at)).collect();
            if !values.iter().all(|x| x.is_finite()) {
                return None;
            }
            let new = Tensor::from_vec(tensor.shape(), values);
            if g.sole_use(old).is_some() {
                g.value_mut(old).origin = Origin::Initializer(new);
            } else {
                let name = g.name_of(old).to_owned();
                let new = g.add_initializer(&name, new);
                g.set_input(touch.op, touch.slot, Some(new));
            }
        }
        for held in self.values.iter().filter(|held| held.axis == 1) {
            let by =
                |at: usize| held.positions.get(at).copied().flatten().map_or(1.0, |i| f64::from(scales[i]));
            for moments in g.value_mut(held.value).moments.iter_mut() {
                for all in [&mut moments.mean, &mut moments.deviation] {
                    all.iter_mut().enumerate().for_each(|(at, x)| *x /= by(at));
                }
            }
        }
        Some(())
    }
}

impl Touch {
    /// The position in the seam of each element of the constant.
    pub(super) fn position<'a>(
        &'a self,
        g: &Graph,
        tensor: &Tensor,
    ) -> Option<Box<dyn Fn(usize) -> Option<usize> + 'a>> {
        let axis = match self.meets {
            Meets::Reads | Meets::Makes => {
                let ends = ends(g.op(self.op), tensor.shape())?;
                let end = usize::from(self.meets == Meets::Makes);
                return Some(Box::new(move |at| self.positions[ends(at)[end]]));
            }
            Meets::Scales(axis) | Meets::Adds(axis) => axis,
        };
        let inner: usize = tensor.shape()[axis + 1..].iter().product();
        Some(Box::new(move |at| self.positions[at / inner % self.positions.len()]))
    }
}

/// For an element of a linear layer's weight of this shape: the channel that it reads and the one that it makes.
pub(super) fn ends(node: &Op, shape: &[usize]) -> Option<Box<dyn Fn(usize) -> [usize; 2]>> {
    let (&[first, second], space) = (shape.first_chunk::<2>()?, &shape[2..]);
    let area: usize = space.iter().product();
    let groups = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|n| *n > 0)?;
    let rows = (first / groups).max(1);
    Some(match &*node.op_type {
        "Conv" => Box::new(move |at| {
            let (o, i) = (at / (second * area), at / area % second);
            [o / rows * second + i, o]
        }),
        "ConvTranspose" => Box::new(move |at| {
            let (i, o) = (at / (second * area), at / area % second);
            [i, i / rows * second + o]
        }),
        "Gemm" if node.int("transB").unwrap_or(0) != 0 => Box::new(move |at| [at % second, at / second]),
        "Gemm" | "MatMul" if space.is_empty() => Box::new(move |at| [at / second, at % second]),
        _ => return None,
    })
}

/// The axis of the channels in what a linear layer of this kind reads or makes.
pub(super) fn channels(node: &Op, rank: usize) -> usize {
    if node.op_type.starts_with("Conv") { 1 } else { rank - 1 }
}

/// Divides the channels of each value that leaves its scales free by numbers of one's own, and multiplies what reads them by
/// as much: the model computes the same, to rounding. `scales` is asked for as many finite numbers above 0 as a value has
/// channels; returns how many values changed. Types must have been inferred.
pub fn move_scales(model: &mut Model, mut scales: impl FnMut(usize) -> Vec<f32>) -> usize {
    let mut moved = 0;
    for seam in seams(model) {
        let scales = scales(seam.size);
        let usable = scales.len() == seam.size && scales.iter().all(|s| s.is_finite() && *s > 0.0);
        let mut graph = model.graph.clone();
        if usable && seam.scale(&mut graph, &scales).is_some() {
            (model.graph, moved) = (graph, moved + 1);
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Moments, text};

    #[test]
    fn what_is_known_of_a_value_moves_with_its_scales() {
        let text = "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[1,3,4,4] x) => (float[1,2,4,4] y) <float[4,3,1,1] w, float[4] b, float[2,4,1,1] v>
            { [first] c = Conv(x, w, b)  r = Relu(c)  [second] y = Conv(r, v) }";
        let mut model = text::parse(text).unwrap();
        crate::ops::infer_types(&mut model).unwrap();
        let c = model.graph.find("c").unwrap();
        let moments = Moments { mean: vec![1.0, 2.0, 3.0, 4.0], deviation: vec![1.0; 4] };
        model.graph.value_mut(c).moments = Some(Box::new(moments));
        assert_eq!(move_scales(&mut model, |_| vec![1.0, 2.0, 4.0, 8.0]), 1);
        let moved = Moments { mean: vec![1.0, 1.0, 0.75, 0.5], deviation: vec![1.0, 0.5, 0.25, 0.125] };
        assert_eq!(model.graph.value(c).moments.as_deref(), Some(&moved));
    }
}
