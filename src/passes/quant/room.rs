//! Room beyond what samples reach, where integers are many.
//!
//! Of 65,536 integers a span that is half as wide again costs little more than half a bit. What new data has beyond the ends of
//! the samples' saturates, and that costs the outputs hundreds of times as much as all rounding does. Where a function in front
//! ends, as Softmax and Clip do, nothing is beyond.

use super::activations::Schemes;
use crate::{
    ir::{Graph, QuantScheme},
    ops::spans::Spans,
};

/// How many times as far as samples both ends are.
const TIMES: f64 = 1.5;
/// No element lies so many deviations from the mean of its channel.
const DEVIATIONS: f64 = 100.0;

/// Widens the spans of these values on both sides of zero.
pub(super) fn leave(graph: &Graph, schemes: &mut Schemes) {
    let spans = Spans::of(graph, DEVIATIONS);
    for (v, scheme) in schemes {
        let ends = scheme.as_ref().and_then(|scheme| Some((scheme.dtype, scheme.ends()?)));
        let Some((dtype, ends)) = ends else { continue };
        let [low, high] = ends.map(f64::from);
        let (least, most) = spans.get(*v).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        let wide = (low.min((low * TIMES).max(least)), high.max((high * TIMES).min(most)));
        *scheme = QuantScheme::over(dtype, wide.0 as f32, wide.1 as f32).or(scheme.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{DType, text},
        ops::infer_types,
    };

    #[test]
    fn spans_widen_as_far_as_functions_reach() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 8] x) => (float[N, 8] p, float[N, 8] s)
            <float low = {-1}, float high = {6}> { r = Relu (x) c = Clip (x, low, high) p = Softmax (r) s = Add (c, r) }"#;
        let mut model = text::parse(text).unwrap();
        infer_types(&mut model).unwrap();
        let g = &model.graph;
        for (name, [low, high], expected) in [
            ("x", [-2.0, 4.0], [-3.0, 6.0]),
            ("r", [0.0, 4.0], [0.0, 6.0]),
            ("c", [-1.0, 5.0], [-1.0, 6.0]),
            ("c", [-0.5, 6.0], [-0.75, 6.0]),
            ("p", [0.0, 0.5], [0.0, 0.75]),
            ("p", [0.0, 0.9], [0.0, 1.0]),
            ("s", [-1.0, 10.0], [-1.5, 15.0]),
        ] {
            let v = g.find(name).unwrap();
            let mut schemes = Schemes::from([(v, QuantScheme::over(DType::U16, low, high))]);
            leave(g, &mut schemes);
            let found = schemes[&v].as_ref().unwrap().ends().unwrap();
            let near = |k: usize| (found[k] - expected[k]).abs() < 1e-3;
            assert!(near(0) && near(1), "{name}: {found:?} for {expected:?}");
        }
    }
}
