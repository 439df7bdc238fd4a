//! Large means move on through Relu into the biases behind it, so that fewer integers are spent on where no element is
//! (high-bias absorption, Nagel et al. 2019).
//!
//! ```text
//! W2 relu(x) + b2  =  W2 relu(x - c) + (b2 + W2 c)        for x >= c >= 0
//! ```
//!
//! With `c` three deviations below the mean of a channel, where it is above zero, one element in 740 is cut. Everything that
//! reads the Relu has to be linear, with a bias and without padding: zeros there would stand for `c`.

use super::{Quant, unseen::product};
use crate::{
    ir::{Graph, Model, OpId, ValueId},
    passes::linear::Layer,
};

/// Elements are taken to be above the mean less so many deviations.
const DEVIATIONS: f64 = 3.0;

/// Moves means from the biases of layers that BatchNormalization was part of; returns from how many.
pub(super) fn absorb(pass: &Quant, model: &mut Model) -> usize {
    let opset = model.opset();
    let g = &mut model.graph;
    let layers: Vec<Layer> = g.order().into_iter().filter_map(|op| Layer::of(g, op, opset)?.ok()).collect();
    let mut absorbed = 0;
    for maker in &layers {
        let Some((relu, made)) = relu_behind(g, maker.output) else { continue };
        let readers: Option<Vec<&Layer>> = readers(g, made, &layers);
        let Some(readers) = readers.filter(|readers| {
            readers.iter().chain([&maker]).all(|layer| layer.has_bias() && !pass.excludes(g, layer.op))
        }) else {
            continue;
        };
        if pass.excludes(g, relu) {
            continue;
        }
        let Some(least) = least(g, maker.output) else { continue };
        let more: Option<Vec<Vec<f64>>> =
            readers.iter().map(|reader| product(g, reader, g.constant(reader.weight)?, &least)).collect();
        let Some(more) = more else { continue };
        let mut moved = g.clone();
        let less: Vec<f64> = least.iter().map(|c| -c).collect();
        let shifts = readers.into_iter().zip(&more).chain([(maker, &less)]);
        if shifts.map(|(layer, by)| layer.shift(&mut moved, by)).all(|done| done.is_some()) {
            for v in [maker.output, made] {
                let known = moved.value_mut(v).moments.as_mut();
                let means = known.into_iter().flat_map(|moments| &mut moments.mean);
                means.zip(&least).for_each(|(mean, c)| *mean -= c);
            }
            (*g, absorbed) = (moved, absorbed + 1);
        }
    }
    absorbed
}

/// The Relu that alone reads a value, and what it makes.
fn relu_behind(g: &Graph, v: ValueId) -> Option<(OpId, ValueId)> {
    let op = g.sole_use(v)?.op();
    let made = g.output(op, 0).filter(|y| g.op(op).is("Relu") && !g.is_output(*y) && !g.is_output(v))?;
    Some((op, made))
}

/// What reads a value, where all of that is linear and reads no padding.
fn readers<'a>(g: &Graph, v: ValueId, layers: &'a [Layer]) -> Option<Vec<&'a Layer>> {
    let whole = |layer: &&Layer| {
        let node = g.op(layer.op);
        let unpadded = matches!(node.str("auto_pad"), None | Some("NOTSET" | "VALID"));
        unpadded && node.ints("pads").is_none_or(|pads| pads.iter().all(|n| *n == 0))
    };
    let uses = g.uses(v).into_iter();
    uses.map(|at| layers.iter().find(|l| l.op == at.op() && l.input == v).filter(whole)).collect()
}

/// What all elements of each channel of a value are above, as far as it is more than zero; `None` where none is.
fn least(g: &Graph, v: ValueId) -> Option<Vec<f64>> {
    let moments = g.value(v).moments.as_deref()?;
    let channels = moments.mean.iter().zip(&moments.deviation);
    let least: Vec<f64> =
        channels.map(|(mean, deviation)| (mean - DEVIATIONS * deviation).max(0.0)).collect();
    least.iter().any(|c| *c > 0.0).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{Moments, text},
        ops::{infer_types, spans::Spans},
        passes::{Named, quant::QuantOptions},
    };

    /// Two products with a Relu in between: 3 to 4 channels to 2.
    fn model(second: &str) -> Model {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[5,3] x) => (float[5,2] y)
            <float[3,4] w = {{1, -2, 3, 1, 2, 1, -1, 0, 1, 1, 1, 2}}, float[4] b = {{10, 4, 1, 20}},
             float[4,2] v = {{1, 2, 3, -4, 5, 6, -7, 8}}, float[2] d = {{1, -1}}>
            {{ [first] h = Gemm(x, w, b)  [relu] r = Relu(h)  {second} }}"
        );
        let mut model = text::parse(&text).unwrap();
        infer_types(&mut model).unwrap();
        let h = model.graph.find("h").unwrap();
        let moments = Moments { mean: vec![10.0, 4.0, 1.0, 20.0], deviation: vec![1.0, 1.0, 1.0, 2.0] };
        model.graph.value_mut(h).moments = Some(Box::new(moments));
        model
    }
    fn absorbed(model: &mut Model, options: QuantOptions) -> usize {
        absorb(&Quant::new(options).unwrap(), model)
    }
    /// What the model makes of a row.
    fn run(model: &Model, x: [f32; 3]) -> Vec<f32> {
        let g = &model.graph;
        let op = |name: &str| g.ops().find(|op| g.op(*op).name == name).unwrap();
        let gemm = |x: &[f32], name: &str| {
            let constant = |slot| g.constant(g.input(op(name), slot).unwrap()).unwrap();
            let (w, b) = (constant(1).view::<f32>().unwrap(), constant(2).view::<f32>().unwrap());
            let column = |k: usize| x.iter().zip(w.iter().skip(k).step_by(b.len())).map(|(x, w)| x * w);
            (0..b.len()).map(|k| column(k).sum::<f32>() + b[k]).collect::<Vec<f32>>()
        };
        let inner: Vec<f32> = gemm(&x, "first").into_iter().map(|x| x.max(0.0)).collect();
        gemm(&inner, "second")
    }

    #[test]
    fn nothing_changes_where_no_element_is_cut_and_the_span_shrinks() {
        let mut model = model("[second] y = Gemm(r, v, d)");
        let before = model.clone();
        assert_eq!(absorbed(&mut model, QuantOptions::default()), 1);
        assert_ne!(before, model);
        for x in [[0.0; 3], [0.5, -0.5, 0.25], [-0.25, 0.5, 1.0], [-1.0, 0.0, 0.5]] {
            assert_eq!(run(&model, x), run(&before, x), "{x:?}");
        }
        let span = |model: &Model| {
            let g = &model.graph;
            Spans::of(g, 6.0).get(g.find("r").unwrap())
        };
        assert_eq!((span(&before), span(&model)), (Some((0.0, 32.0)), Some((0.0, 18.0))));
        assert_eq!(absorbed(&mut model, QuantOptions::default()), 0, "nothing is left");
    }
    #[test]
    fn what_others_read_or_is_excluded_stays() {
        let mut other = model("[second] y = Gemm(r, v, d)  s = Sin(r)");
        assert_eq!(absorbed(&mut other, QuantOptions::default()), 0);
        let exclude = QuantOptions { exclude: vec!["second".into()], ..QuantOptions::default() };
        assert_eq!(absorbed(&mut model("[second] y = Gemm(r, v, d)"), exclude), 0);
        for (pads, moved) in [("", 1), ("<pads = [0, 0, 1, 0]>", 0), ("<auto_pad = \"SAME_UPPER\">", 0)] {
            let text = format!(
                "<ir_version: 8, opset_import: [\"\": 17]>
                g (float[1,1,5,5] x) => (y) <float[2,1,1,1] w = {{1, 1}}, float[2] b = {{9, 0}}, float[1,2,2,2] v>
                {{ h = Conv(x, w, b)  r = Relu(h)  y = Conv{pads}(r, v) }}"
            );
            let mut model = text::parse(&text).unwrap();
            infer_types(&mut model).unwrap();
            let h = model.graph.find("h").unwrap();
            let moments = Moments { mean: vec![9.0, 0.0], deviation: vec![1.0; 2] };
            model.graph.value_mut(h).moments = Some(Box::new(moments));
            assert_eq!(absorbed(&mut model, QuantOptions::default()), moved, "{pads}");
        }
    }
}
