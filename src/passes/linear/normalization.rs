//! BatchNormalization as a layer of one input and one output for each channel: what it does by statistics that a cut has
//! made wrong is found anew as weights and biases are.

use super::{
    Layer,
    layer::{Bias, weights},
    window::{Walk, Window},
};
use crate::ir::{Graph, OpId};
use faer::Mat;

/// What a channel is taken to be: its mean, and the root of its variance and epsilon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    mean: f64,
    deviation: f64,
}

impl Channel {
    /// From `scale` and `B` to a weight and a bias for the channel as it comes.
    pub(super) fn fold(self, part: &mut Mat<f64>) {
        part[(0, 0)] /= self.deviation;
        part[(1, 0)] -= self.mean * part[(0, 0)];
    }
    /// The reverse of [`Channel::fold`].
    pub(super) fn unfold(self, part: &mut Mat<f64>) {
        part[(1, 0)] += self.mean * part[(0, 0)];
        part[(0, 0)] *= self.deviation;
    }
}

impl Layer {
    /// As [`Layer::of`], and BatchNormalization too.
    pub(crate) fn or_normalization(g: &Graph, op: OpId, opset: i64) -> Option<Result<Layer, &'static str>> {
        Layer::of(g, op, opset)
            .or_else(|| g.op(op).is("BatchNormalization").then(|| Layer::normalization(g, op)))
    }
    fn normalization(g: &Graph, op: OpId) -> Result<Layer, &'static str> {
        let slots = || Some((g.input(op, 0)?, g.input(op, 1)?, g.output(op, 0)?));
        let (input, weight, output) = slots().ok_or("an input is missing")?;
        let (groups, node) = (weights(g, weight)?.len(), g.op(op));
        let axes =
            g.rank(input).and_then(|rank| rank.checked_sub(2)).ok_or("its input's axes are not known")?;
        let trains = node.int("training_mode").unwrap_or(0) != 0 || g.outputs_of(op).len() > 1;
        let vector =
            |slot| g.input(op, slot).and_then(|v| g.constant(v)).is_some_and(|t| t.shape() == [groups]);
        if trains || !(1..=4).all(vector) {
            return Err("its statistics are not one constant for each channel");
        }
        if g.sole_use(weight).is_none() {
            return Err("its scales are shared");
        }
        let walk = Walk::Windows(Window::pointwise(axes));
        let (axis, channels, area, outputs, bias) = (0, 1, 1, 1, Bias::Own);
        Ok(Layer { op, input, output, weight, axis, walk, groups, channels, area, outputs, bias })
    }
    /// The statistics of each channel; `None` where it is no BatchNormalization.
    pub(super) fn statistics(&self, g: &Graph) -> Option<Vec<Channel>> {
        let node = g.op(self.op);
        if !node.is("BatchNormalization") {
            return None;
        }
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        let numbers = |slot| g.constant(g.input(self.op, slot)?)?.to_f32();
        let (mean, variance) = (numbers(3)?, numbers(4)?);
        let channel = |(mean, variance): (&f32, &f32)| Channel {
            mean: f64::from(*mean),
            deviation: (f64::from(*variance) + epsilon).sqrt(),
        };
        Some(mean.iter().zip(variance.iter()).map(channel).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn layer() -> (crate::ir::Model, Layer) {
        let source = "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 2, 3, 3] x) => (float[N, 2, 3, 3] y)
             <float[2] scale = {2, -1}, float[2] shift = {0.5, 3}, float[2] mean = {1, -4}, float[2] variance = {3, 0}>
             { y = BatchNormalization <epsilon = 1.0> (x, scale, shift, mean, variance) }";
        let model = text::parse(source).unwrap();
        let op = model.graph.ops().next().unwrap();
        let layer = Layer::or_normalization(&model.graph, op, 17).unwrap().unwrap();
        (model, layer)
    }

    #[test]
    fn scales_and_biases_follow_from_weights_and_back() {
        let (mut model, layer) = layer();
        let mut parts = layer.weights(&model.graph).unwrap();
        // 2 (x - 1) / 2 + 0.5 = x - 0.5, and -(x + 4) + 3 = -x - 1.
        let found: Vec<_> = parts.iter().map(|p| [p[(0, 0)], p[(1, 0)]]).collect();
        assert_eq!(found, [[1.0, -0.5], [-1.0, -1.0]]);
        (parts[0][(0, 0)], parts[0][(1, 0)]) = (3.0, 0.25);
        layer.set(&mut model.graph, &parts).unwrap();
        let numbers = |slot| {
            let v = model.graph.input(layer.op, slot).unwrap();
            model.graph.constant(v).unwrap().to_f32().unwrap().into_owned()
        };
        // 6 (x - 1) / 2 + 3.25 = 3 x + 0.25; the statistics stay.
        assert_eq!((numbers(1), numbers(2)), (vec![6.0, -1.0], vec![3.25, 3.0]));
        assert_eq!((numbers(3), numbers(4)), (vec![1.0, -4.0], vec![3.0, 0.0]));
    }
}
