//! Multiply-accumulates as sums of products of the extents of axes: the one table behind the cost of a model and the
//! price of a cut, which therefore agree.

use crate::ir::{Graph, OpId, ValueId};
use std::collections::BTreeMap;

/// An axis of an op's operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) value: ValueId,
    pub(super) at: usize,
}

impl Axis {
    /// Its extent; one that is not known counts as 1.
    pub(super) fn extent(self, g: &Graph) -> u64 {
        let shape = g.shape(self.value);
        shape.and_then(|s| s.get(self.at)?.known()).unwrap_or(1) as u64
    }
}

/// The extents of `axes` times `times`, divided by `over`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Product<A> {
    pub(super) axes: Vec<A>,
    pub(super) times: u64,
    pub(super) over: u64,
}

impl<A> Product<A> {
    /// The product of extents.
    pub(super) fn of(axes: impl IntoIterator<Item = A>) -> Product<A> {
        Product { axes: axes.into_iter().collect(), times: 1, over: 1 }
    }
    /// Its value, at most what a `u64` holds.
    pub(super) fn value(&self, extent: impl Fn(&A) -> u64) -> u64 {
        self.axes.iter().fold(self.times, |n, axis| n.saturating_mul(extent(axis))) / self.over.max(1)
    }
}

/// The multiply-accumulates of an op without its bodies, as products to be added up; `None` for operators that are not
/// linear algebra, and where a rank that matters is not known.
pub(super) fn of_op(g: &Graph, id: OpId) -> Option<Vec<Product<Axis>>> {
    let op = g.op(id);
    let input = |slot: usize| axes(g, g.input(id, slot)?);
    let output = || axes(g, g.output(id, 0)?);
    if matches!(&*op.domain, "com.microsoft" | "com.microsoft.nchwc") {
        return fused(g, id);
    }
    let standard = matches!(&*op.domain, "" | "ai.onnx");
    Some(match &*op.op_type {
        // Every output element takes a kernel.
        "Conv" | "ConvInteger" | "DeformConv" if standard => one(output()?.iter().chain(input(1)?.get(1..)?)),
        "QLinearConv" if standard => one(output()?.iter().chain(input(3)?.get(1..)?)),
        // Every input element takes one.
        "ConvTranspose" if standard => one(input(0)?.iter().chain(input(1)?.get(1..)?)),
        "MatMul" | "MatMulInteger" | "QLinearMatMul" if standard => {
            one(output()?.iter().chain(input(0)?.last()))
        }
        "Gemm" if standard => {
            let inner = usize::from(op.int("transA") != Some(1));
            one(output()?.iter().chain(input(0)?.get(inner)))
        }
        "LSTM" | "GRU" | "RNN" if standard => {
            let x = input(0)?;
            let steps = x.get(..2)?;
            let product = |weight: &[Axis]| Product::of(steps.iter().chain(weight).copied());
            vec![product(&input(1)?), product(&input(2)?)]
        }
        "Attention" if standard => {
            // Scores for every pair of query and key, and as much again for the values.
            let (q, k) = (input(0)?, input(1)?);
            let keys = k[k.len().checked_sub(2)?];
            let pairs = |rows: Vec<Axis>| Product::of(rows.into_iter().chain([keys]));
            vec![pairs(q), pairs(output()?)]
        }
        "Einsum" if standard => {
            let equation: String = op.str("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
            let terms = equation.split("->").next()?.split(',');
            let mut labels: BTreeMap<char, Axis> = BTreeMap::new();
            for (slot, term) in terms.enumerate() {
                let axes = input(slot)?;
                (term.chars().count() == axes.len()).then_some(())?;
                for (label, axis) in term.chars().zip(axes) {
                    let widest = labels.entry(label).or_insert(axis);
                    if axis.extent(g) > widest.extent(g) {
                        *widest = axis;
                    }
                }
            }
            one(labels.values())
        }
        _ => return None,
    })
}

/// The same of ONNX Runtime's own operators.
fn fused(g: &Graph, id: OpId) -> Option<Vec<Product<Axis>>> {
    let op = g.op(id);
    let input = |slot: usize| axes(g, g.input(id, slot)?);
    let output = || axes(g, g.output(id, 0)?);
    let flag = |name: &str| op.int(name).is_some_and(|n| n != 0);
    // For every pair of a position asked for (`rows`) and a key, here or in the past, `times/over` times the row.
    let attend = |rows: Vec<Axis>, keys: Axis, past: Option<Axis>, times: u64, over: u64| {
        let pairs =
            move |keys: Axis| Product { times, over, ..Product::of(rows.iter().copied().chain([keys])) };
        std::iter::once(keys).chain(past).map(pairs).collect::<Vec<_>>()
    };
    let past = |slot: usize, at: usize| input(slot).and_then(|p| p.get(at).copied());
    Some(match &*op.op_type {
        "Conv" | "FusedConv" | "NhwcConv" | "NhwcFusedConv" => {
            one(output()?.iter().chain(input(1)?.get(1..)?))
        }
        "QLinearConv" => one(output()?.iter().chain(input(3)?.get(1..)?)),
        "MatMulNBits" | "MatMulIntegerToFloat" | "MatMulInteger16" | "DynamicQuantizeMatMul" => {
            one(output()?.iter().chain(input(0)?.last()))
        }
        "FusedMatMul" | "FusedMatMulActivation" | "TransposeMatMul" => {
            let a = input(0)?;
            let inner = match (a.len(), flag("transA"), flag("transBatchA")) {
                (2.., true, true) => 0,
                (n @ 2.., true, false) => n - 2,
                (n, ..) => n.checked_sub(1)?,
            };
            one(output()?.iter().chain(a.get(inner)))
        }
        "FusedGemm" | "QGemm" => one(output()?.iter().chain(input(0)?.get(usize::from(!flag("transA"))))),
        "DynamicQuantizeLSTM" => {
            let (x, w, r) = (input(0)?, input(1)?, input(2)?);
            let product = |weight: Vec<Axis>| Some(Product::of(x.get(..2)?.iter().copied().chain(weight)));
            vec![product(w)?, product(r)?]
        }
        // The projections, then queries by keys and scores by values, keys as wide as queries and values as the output.
        "Attention" | "QAttention" => {
            let (x, w) = (input(0)?, input(1)?);
            let [batch, seq, _] = x[..] else { return None };
            let [_, width] = w[..] else { return None };
            let past = past(if op.op_type == "Attention" { 4 } else { 8 }, 3);
            let mut all = vec![Product::of([batch, seq].into_iter().chain(w))];
            // Queries and values together are half of the weight's width and of the output's.
            all.extend(attend(vec![batch, seq, width], seq, past, 1, 2));
            all.extend(attend(output()?, seq, past, 1, 2));
            all
        }
        "MultiHeadAttention" => {
            let (q, y) = (input(0)?, output()?);
            let keys = match input(1) {
                Some(k) => *k.get(if k.len() == 4 { 2 } else { 1 })?,
                None => *q.get(1)?,
            };
            let past = past(6, 2);
            match q.len() {
                3 => [attend(q, keys, past, 1, 1), attend(y, keys, past, 1, 1)].concat(),
                _ => attend(y, keys, past, 2, 1),
            }
        }
        "GroupQueryAttention" => {
            let keys = input(1).or_else(|| input(0))?;
            attend(output()?, *keys.get(1)?, past(3, 2), 2, 1)
        }
        _ => return None,
    })
}

fn axes(g: &Graph, value: ValueId) -> Option<Vec<Axis>> {
    let rank = g.shape(value)?.len();
    Some((0..rank).map(|at| Axis { value, at }).collect())
}

fn one<'a>(axes: impl Iterator<Item = &'a Axis>) -> Vec<Product<Axis>> {
    vec![Product::of(axes.copied())]
}

#[cfg(test)]
mod tests {
    use crate::{
        ir::text,
        ops::{axes::Flow, cost, infer_types},
    };

    /// The multiply-accumulates of a model with one op on inputs of these types, priced as well as counted.
    fn counted(inputs: &str, op: &str) -> u64 {
        let text = format!(
            "<ir_version: 10, opset_import: [\"\" : 23, \"com.microsoft\" : 1]>\nm ({inputs}) => (y) {{ {op} }}"
        );
        let mut model = text::parse(&text).unwrap();
        infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        let priced = flow.prices().iter().map(|p| p.macs(&flow.arena, &|_| None)).sum::<u64>();
        assert_eq!(priced, cost::of_model(&model).macs, "{op}");
        priced
    }

    #[test]
    fn operators_by_hand() {
        let lstm = "float[7, N, 5] x, float[2, 12, 5] w, float[2, 12, 3] r";
        let op = "y = LSTM <hidden_size = 3, direction = \"bidirectional\"> (x, w, r)";
        assert_eq!(counted(lstm, op), 7 * 2 * 12 * (5 + 3));
        let einsum = "float[2, 1, 5] a, float[1, 7, 5] b";
        assert_eq!(counted(einsum, "y = Einsum <equation = \"b i k, b j k -> i j\"> (a, b)"), 2 * 7 * 5);
        let heads = "float[2, 6, 32] q, float[2, 9, 16] k, float[2, 9, 16] v";
        let op = "y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)";
        assert_eq!(counted(heads, op), 2 * (2 * 6 * 9 * 32));
        let up = "float[1, 4, 8, 8] x, float[4, 3, 2, 2] w";
        assert_eq!(counted(up, "y = ConvTranspose <group = 2, strides = [2, 2]> (x, w)"), 4 * 64 * 3 * 4);
        assert_eq!(counted("float[5, 4] x, float[5, 6] w", "y = Gemm <transA = 1> (x, w)"), 5 * 4 * 6);
        assert_eq!(counted("float[5, 4] x", "y = Relu (x)"), 0);
    }
    #[test]
    fn fused_operators_by_hand() {
        let fused = |inputs: &str, op: &str| counted(inputs, &format!("y = com.microsoft.{op}"));
        let matrices = "float[4, 2, 3] a, float[2, 4, 6] b";
        assert_eq!(fused(matrices, "FusedMatMul <transA = 1, transBatchA = 1> (a, b)"), 2 * 3 * 4 * 6);
        assert_eq!(
            fused("float[5, 4] a, float[6, 5] b", "FusedGemm <transA = 1, transB = 1> (a, b)"),
            4 * 5 * 6
        );
        let past = "float[2, 3, 8] x, float[8, 24] w, float[2, 2, 2, 5, 4] past";
        let projected = 2 * 3 * 8 * 24;
        assert_eq!(
            fused(past, "Attention <num_heads = 2> (x, w, , , past)"),
            projected + 2 * (2 * 3 * (3 + 5) * 8)
        );
        let uneven = "Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (x, w)";
        let inputs = "float[2, 3, 8] x, float[8, 20] w";
        assert_eq!(fused(inputs, uneven), 2 * 3 * 8 * 20 + 2 * 3 * 3 * (8 + 4));
        let heads = "float[2, 3, 8] q, float[2, 5, 8] k, float[2, 5, 12] v";
        assert_eq!(fused(heads, "MultiHeadAttention <num_heads = 2> (q, k, v)"), 2 * 3 * 5 * (8 + 12));
        let packed =
            "float[1, 1, 64] q, float[1, 2, 5, 8] pk, float[1, 2, 5, 8] pv, int32[1] last, int32 total";
        let grouped = "GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, , , pk, pv, last, total)";
        assert_eq!(fused(packed, grouped), (1 + 5) * 32 * 2);
    }
    #[test]
    fn of_two_branches_the_dearest_counts() {
        let op = "y = If <then_branch = yes () => (float[2, 3] p) { p = MatMul (x, w) }, \
                  else_branch = no () => (float[2, 3] q) { r = MatMul (x, w) q = MatMul (r, s) }> (go)";
        let inputs = "bool go, float[2, 4] x, float[4, 3] w, float[3, 3] s";
        assert_eq!(counted(inputs, op), 2 * 4 * 3 + 2 * 3 * 3);
    }
}
