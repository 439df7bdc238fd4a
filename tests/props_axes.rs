//! The oracle of the axis algebra on random architectures: with any positions of the exact groups cut out, a model
//! gives the outputs that the original gives with those positions zero in all its initializers.

mod support;

use onnx_compress::{
    ir::{DType, Dim, Graph, Model, Op, OpsetImport, Tensor, Type, ValueId},
    lower,
    ops::axes::{Flow, Keep},
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use support::oracle::{Oracle, halves_or_fewer};

/// A value with its shape after the batch axis.
#[derive(Clone)]
struct Act {
    value: ValueId,
    shape: Vec<usize>,
}

/// Builds models with declared types and random weights.
struct Builder {
    graph: Graph,
    rng: ChaCha8Rng,
}

fn batched(shape: &[usize]) -> Type {
    Type::tensor(DType::F32, std::iter::once(Dim::from("N")).chain(shape.iter().map(|n| Dim::from(*n))))
}

impl Builder {
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let n = shape.iter().product::<usize>();
        let values = (0..n).map(|_| self.rng.random_range(-0.5..0.5f32)).collect();
        self.graph.add_initializer("w", Tensor::from_vec(shape, values))
    }
    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_initializer("ints", Tensor::ints(values.iter().copied()))
    }
    fn op(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> Act {
        let hint = op.op_type.to_lowercase();
        let value = self.graph.add_node(op, inputs, &hint, Some(batched(shape)));
        Act { value, shape: shape.to_vec() }
    }
    fn like(&mut self, op: &str, x: &Act) -> Act {
        self.op(Op::new(op, ""), &[x.value], &x.shape)
    }
    fn conv(&mut self, x: &Act, out: usize, kernel: usize, group: usize) -> Act {
        let w = self.weight(&[out, x.shape[0] / group, kernel, kernel]);
        let b = self.weight(&[out]);
        let pad = (kernel / 2) as i64;
        let op = Op::new("Conv", "").with("group", group as i64).with("pads", vec![pad; 4]);
        self.op(op, &[x.value, w, b], &[out, x.shape[1], x.shape[2]])
    }
    fn add(&mut self, a: &Act, b: &Act) -> Act {
        self.op(Op::new("Add", ""), &[a.value, b.value], &a.shape)
    }
    fn linear(&mut self, x: &Act, out: usize) -> Act {
        let inner = *x.shape.last().unwrap();
        let (w, b) = (self.weight(&[inner, out]), self.weight(&[out]));
        let mut shape = x.shape.clone();
        *shape.last_mut().unwrap() = out;
        let product = self.op(Op::new("MatMul", ""), &[x.value, w], &shape);
        self.op(Op::new("Add", ""), &[product.value, b], &shape)
    }
    fn reshape(&mut self, x: &Act, shape: &[usize]) -> Act {
        // 0 keeps the batch.
        let target: Vec<i64> = std::iter::once(0).chain(shape.iter().map(|n| *n as i64)).collect();
        let target = self.ints(&target);
        self.op(Op::new("Reshape", ""), &[x.value, target], shape)
    }
    fn transpose(&mut self, x: &Act, perm: &[i64]) -> Act {
        let shape: Vec<usize> = perm[1..].iter().map(|p| x.shape[*p as usize - 1]).collect();
        self.op(Op::new("Transpose", "").with("perm", perm.to_vec()), &[x.value], &shape)
    }
    /// Splits an axis, counted with the batch, into equal parts.
    fn split(&mut self, x: &Act, axis: usize, parts: usize) -> Vec<Act> {
        let mut shape = x.shape.clone();
        shape[axis - 1] /= parts;
        let sizes = self.ints(&vec![shape[axis - 1] as i64; parts]);
        let outs: Vec<ValueId> =
            (0..parts).map(|_| self.graph.add_value("part", Some(batched(&shape)))).collect();
        let slots: Vec<_> = outs.iter().copied().map(Some).collect();
        let op = Op::new("Split", "").with("axis", axis as i64);
        self.graph.add_op(op, &[Some(x.value), Some(sizes)], &slots);
        outs.into_iter().map(|value| Act { value, shape: shape.clone() }).collect()
    }

    /// One block on a feature map `[channels, height, width]`.
    fn block(&mut self, x: &Act, kind: Block) -> Act {
        let c = x.shape[0];
        let map = [x.shape[1], x.shape[2]];
        match kind {
            Block::Conv(out) => {
                let y = self.conv(x, out, 3, 1);
                self.like("Relu", &y)
            }
            Block::Norm => {
                let p: Vec<ValueId> = (0..4).map(|_| self.weight(&[c])).collect();
                // A variance is positive.
                let var = Tensor::from_vec([c], (0..c).map(|k| 0.5 + k as f32 / 8.0).collect());
                let var = self.graph.add_initializer("var", var);
                self.op(Op::new("BatchNormalization", ""), &[x.value, p[0], p[1], p[2], var], &x.shape)
            }
            Block::Residual => {
                let y = self.conv(x, 12, 1, 1);
                let y = self.like("Sigmoid", &y);
                let y = self.conv(&y, c, 3, 1);
                self.add(x, &y)
            }
            Block::Depthwise => self.conv(x, c, 3, c),
            Block::Grouped => {
                let x = self.conv(x, 16, 1, 1);
                let y = self.conv(&x, 24, 3, 4);
                self.conv(&y, 8, 1, 1)
            }
            Block::Concat => {
                let (a, b) = (self.conv(x, 6, 1, 1), self.conv(x, 10, 3, 1));
                let op = Op::new("Concat", "").with("axis", 1);
                self.op(op, &[a.value, x.value, b.value], &[16 + c, map[0], map[1]])
            }
            Block::Split => {
                let x = self.conv(x, 16, 1, 1);
                let parts = self.split(&x, 1, 2);
                let y = self.conv(&parts[1], 8, 3, 1);
                let op = Op::new("Concat", "").with("axis", 1);
                self.op(op, &[y.value, parts[0].value], &x.shape)
            }
            Block::Slice => {
                let x = self.conv(x, 16, 1, 1);
                let args = [[4], [12], [1]].map(|v| self.ints(&v));
                let y = self.op(
                    Op::new("Slice", ""),
                    &[x.value, args[0], args[1], args[2]],
                    &[8, map[0], map[1]],
                );
                self.conv(&y, 8, 1, 1)
            }
            Block::Squeeze => {
                let pooled = self.op(Op::new("GlobalAveragePool", ""), &[x.value], &[c, 1, 1]);
                let s = self.conv(&pooled, 6, 1, 1);
                let s = self.like("Relu", &s);
                let s = self.conv(&s, c, 1, 1);
                let s = self.like("Sigmoid", &s);
                self.op(Op::new("Mul", ""), &[x.value, s.value], &x.shape)
            }
            Block::Transposed => {
                let w = self.weight(&[c, 10, 1, 1]);
                self.op(Op::new("ConvTranspose", ""), &[x.value, w], &[10, map[0], map[1]])
            }
            Block::Pool => {
                let op = Op::new("MaxPool", "").with("kernel_shape", vec![3, 3]).with("pads", vec![1; 4]);
                self.op(op, &[x.value], &x.shape)
            }
        }
    }
    /// Self-attention on `[tokens, width]` with 4 heads of 3, then a sum with the input and a LayerNormalization.
    fn attention(&mut self, x: &Act, kind: Attention) -> Act {
        let (t, width, heads, d) = (x.shape[0], x.shape[1], 4, 3);
        let inner = heads * d;
        let heads_of = |b: &mut Self, v: &Act| {
            let v = b.reshape(v, &[t, heads, d]);
            b.transpose(&v, &[0, 2, 1, 3])
        };
        let [q, k, v] = match kind {
            Attention::Separate => [0; 3].map(|_| {
                let y = self.linear(x, inner);
                heads_of(self, &y)
            }),
            Attention::Fused => {
                let all = self.linear(x, 3 * inner);
                let parts = self.split(&all, 2, 3);
                [0, 1, 2].map(|k| heads_of(self, &parts[k]))
            }
            Attention::FiveAxes => {
                let all = self.linear(x, 3 * inner);
                let all = self.reshape(&all, &[t, 3, heads, d]);
                let all = self.transpose(&all, &[0, 2, 3, 1, 4]);
                let parts = self.split(&all, 1, 3);
                [0, 1, 2].map(|k| {
                    let axes = self.ints(&[1]);
                    self.op(Op::new("Squeeze", ""), &[parts[k].value, axes], &[heads, t, d])
                })
            }
        };
        let turned = self.transpose(&k, &[0, 1, 3, 2]);
        let scores = self.op(Op::new("MatMul", ""), &[q.value, turned.value], &[heads, t, t]);
        let scale = self.graph.add_initializer("scale", Tensor::scalar(0.577f32));
        let scores = self.op(Op::new("Mul", ""), &[scores.value, scale], &scores.shape);
        let p = self.op(Op::new("Softmax", "").with("axis", -1), &[scores.value], &scores.shape);
        let y = self.op(Op::new("MatMul", ""), &[p.value, v.value], &[heads, t, d]);
        let y = self.transpose(&y, &[0, 2, 1, 3]);
        let y = self.reshape(&y, &[t, inner]);
        let y = self.linear(&y, width);
        let y = self.add(x, &y);
        let (scale, bias) = (self.weight(&[width]), self.weight(&[width]));
        self.op(Op::new("LayerNormalization", ""), &[y.value, scale, bias], &y.shape)
    }
}

#[derive(Clone, Copy, Debug)]
enum Block {
    Conv(usize),
    Norm,
    Residual,
    Depthwise,
    Grouped,
    Concat,
    Split,
    Slice,
    Squeeze,
    Transposed,
    Pool,
}
#[derive(Clone, Copy, Debug)]
enum Attention {
    Separate,
    Fused,
    FiveAxes,
}
#[derive(Clone, Copy, Debug)]
enum Head {
    Flatten,
    Pooled,
    Tokens(Attention),
}

fn block() -> impl Strategy<Value = Block> {
    use Block::*;
    let plain = [Norm, Residual, Depthwise, Grouped, Concat, Split, Slice, Squeeze, Transposed, Pool];
    prop_oneof![(4usize..20).prop_map(Conv), proptest::sample::select(plain.to_vec())]
}
fn head() -> impl Strategy<Value = Head> {
    let attention = [Attention::Separate, Attention::Fused, Attention::FiveAxes].map(Head::Tokens);
    proptest::sample::select([&[Head::Flatten, Head::Pooled][..], &attention].concat())
}

fn build(blocks: &[Block], head: Head, seed: u64) -> Model {
    let mut b = Builder { graph: Graph::new("random"), rng: ChaCha8Rng::seed_from_u64(seed) };
    let input = b.graph.add_input("x", batched(&[3, 4, 4]));
    let mut x = Act { value: input, shape: vec![3, 4, 4] };
    x = b.block(&x, Block::Conv(8));
    for kind in blocks {
        x = b.block(&x, *kind);
    }
    let c = x.shape[0];
    let y = match head {
        Head::Flatten => {
            let flat = b.op(Op::new("Flatten", ""), &[x.value], &[c * 16]);
            let (w, bias) = (b.weight(&[5, c * 16]), b.weight(&[5]));
            b.op(Op::new("Gemm", "").with("transB", 1), &[flat.value, w, bias], &[5])
        }
        Head::Pooled => {
            let axes = b.ints(&[2, 3]);
            let op = Op::new("ReduceMean", "").with("keepdims", 0);
            let pooled = b.op(op, &[x.value, axes], &[c]);
            let hidden = b.linear(&pooled, 16);
            let hidden = b.like("Tanh", &hidden);
            b.linear(&hidden, 5)
        }
        Head::Tokens(kind) => {
            let tokens = b.reshape(&x, &[c, 16]);
            let tokens = b.transpose(&tokens, &[0, 2, 1]);
            let y = b.attention(&tokens, kind);
            b.linear(&y, 5)
        }
    };
    b.graph.outputs.push(y.value);
    let opsets = vec![OpsetImport { version: 18, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph: b.graph, ..Model::default() }
}

fn check(model: &Model, seed: u64) {
    model.verify().unwrap();
    let oracle = Oracle::new();
    let flow = Flow::of(model);
    let groups: Vec<_> = flow.groups().into_iter().filter(|g| g.exact).collect();
    assert!(!groups.is_empty(), "hidden channels form groups");
    let keep: Keep = groups.iter().map(|g| (g.factor, halves_or_fewer(g.size, seed))).collect();
    let difference = oracle.cut_against_zero(model, flow, keep);
    assert!(difference <= 1e-4, "the outputs differ by {difference} of their size");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn cutting_equals_zeroing(
        blocks in proptest::collection::vec(block(), 0..6),
        head in head(),
        seed in any::<u64>(),
    ) {
        check(&build(&blocks, head, seed), seed);
    }
}

#[test]
fn every_block_and_every_head_holds_on_its_own() {
    use Block::*;
    for kind in [Norm, Residual, Depthwise, Grouped, Concat, Split, Slice, Squeeze, Transposed, Pool] {
        check(&build(&[kind], Head::Flatten, 1), 1);
    }
    for kind in [Attention::Separate, Attention::Fused, Attention::FiveAxes] {
        check(&build(&[], Head::Tokens(kind), 2), 2);
    }
}

/// Heads, the width of queries and keys, and the width of values are groups that nobody named.
#[test]
fn attention_falls_apart_into_heads_and_widths() {
    let sizes = |kind| {
        let model = build(&[], Head::Tokens(kind), 3);
        let mut sizes: Vec<usize> =
            Flow::of(&model).groups().iter().filter(|g| g.exact).map(|g| g.size).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(Attention::Separate), [3, 3, 4]);
    assert_eq!(sizes(Attention::Fused), [3, 3, 4]);
    assert_eq!(sizes(Attention::FiveAxes), [3, 4], "one axis holds queries, keys and values");
}

/// The oracle can fail: another set of positions gives other outputs.
#[test]
fn cutting_other_positions_is_noticed() {
    let model = build(&[Block::Residual], Head::Flatten, 4);
    let oracle = Oracle::new();
    let keep = |parity: usize| -> Keep {
        let groups = Flow::of(&model).groups();
        groups.iter().map(|g| (g.factor, (parity..g.size).step_by(2).collect())).collect()
    };
    let (mut cut, mut zeroed) = (model.clone(), model.clone());
    Flow::of(&model).cut(keep(0)).apply(&mut cut).unwrap();
    Flow::of(&model).cut(keep(1)).zero(&mut zeroed).unwrap();
    assert!(oracle.difference(&cut, &zeroed) > 1e-2);
    assert!(lower::to_bytes(&cut).unwrap().len() < lower::to_bytes(&zeroed).unwrap().len());
}
