//! What kept counts are multiples of: what the runtime's kernels work in, where less would be padded up again.

use crate::{ir::Graph, ops::axes::Group, passes::lift::readers};

/// Channels that ONNX Runtime's convolutions take at once with the widest vectors; half of it with narrower ones.
const BLOCK: usize = 16;

/// The number that kept counts of a group are multiples of: what was asked for, else by the layers that its positions
/// go through. Less than half of a group is never lost to rounding.
pub(super) fn multiple(g: &Graph, group: &Group, asked: Option<usize>) -> usize {
    let wanted: &[usize] = match asked {
        Some(n) => &[n],
        // Time goes with the units one by one, as good as: they are not padded.
        None if reads(g, group, &["LSTM", "GRU", "RNN"], 2) => &[],
        None if reads(g, group, &["Conv"], 1) => &[BLOCK, BLOCK / 2],
        None => &[BLOCK / 2],
    };
    wanted.iter().copied().find(|n| group.size >= 2 * n).unwrap_or(1)
}

/// Whether an op of one of these types reads a weight of the group in this slot.
fn reads(g: &Graph, group: &Group, types: &[&str], slot: usize) -> bool {
    let mut all = group.members.iter().flat_map(|m| readers(g, m.value));
    all.any(|(g, op, k)| k == slot && types.iter().any(|t| g.op(op).is(t)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ir::text, ops::axes::Flow};

    #[test]
    fn layers_say_what_counts_are_worth_while() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[T, 1, 3, 8, 8] x) => (float[T, 1, 5] y)
             <float[12, 3, 3, 3] c0, float[24, 12, 3, 3] c1, float[40, 24, 1, 1] c2, float[1, 80, 40] w,
              float[1, 80, 20] r, float[20, 24] a, float[24, 5] b, int64[2] at, int64[3] row, int64[4] image>
             {
               i = Reshape (x, image)
               p = Conv (i, c0)
               q = Conv (p, c1)
               s = Conv (q, c2)
               m = GlobalAveragePool (s)
               t = Reshape (m, row)
               h, last = LSTM <hidden_size = 20> (t, w, r)
               z = Squeeze (last, at)
               k = MatMul (z, a)
               y = MatMul (k, b)
             }",
        )
        .unwrap();
        let put = |model: &mut crate::ir::Model, name: &str, numbers: &[i64]| {
            let v = model.graph.find(name).unwrap();
            let tensor = crate::ir::Tensor::ints(numbers.to_vec());
            model.graph.value_mut(v).origin = crate::ir::Origin::Initializer(tensor);
        };
        put(&mut model, "at", &[0]);
        put(&mut model, "row", &[-1, 1, 40]);
        put(&mut model, "image", &[-1, 3, 8, 8]);
        crate::ops::infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        let told = |asked| {
            let groups = flow.groups();
            groups.iter().map(|group| (group.size, multiple(&model.graph, group, asked))).collect::<Vec<_>>()
        };
        assert_eq!(told(None), [(12, 1), (24, 8), (40, 16), (20, 1), (24, 8)]);
        assert_eq!(told(Some(10)), [(12, 1), (24, 10), (40, 10), (20, 10), (24, 10)]);
    }
}
