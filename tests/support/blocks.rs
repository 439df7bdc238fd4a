//! Building blocks of random architectures: feature maps, tokens, and what networks do with them.

use onnx_compress::ir::{DType, Dim, Graph, Op, Tensor, Type, ValueId};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// A value with its shape after the batch axis.
#[derive(Clone)]
pub(crate) struct Act {
    pub(crate) value: ValueId,
    pub(crate) shape: Vec<usize>,
}

/// Builds models with declared types and random weights.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    rng: ChaCha8Rng,
}

pub(crate) fn batched(shape: &[usize]) -> Type {
    Type::tensor(DType::F32, std::iter::once(Dim::from("N")).chain(shape.iter().map(|n| Dim::from(*n))))
}

impl Builder {
    pub(crate) fn new(seed: u64) -> Builder {
        Builder { graph: Graph::new("random"), rng: ChaCha8Rng::seed_from_u64(seed) }
    }
    /// Blocks in a row behind a first convolution of 8 channels, on inputs `x` of 3 channels of 4 x 4.
    pub(crate) fn row(blocks: &[Block], seed: u64) -> (Builder, Act) {
        let mut b = Builder::new(seed);
        let value = b.graph.add_input("x", batched(&[3, 4, 4]));
        let x = b.block(&Act { value, shape: vec![3, 4, 4] }, Block::Conv(8));
        let last = blocks.iter().fold(x, |x, kind| b.block(&x, *kind));
        (b, last)
    }
    pub(crate) fn weight(&mut self, shape: &[usize]) -> ValueId {
        let n = shape.iter().product::<usize>();
        let values = (0..n).map(|_| self.rng.random_range(-0.5..0.5f32)).collect();
        self.graph.add_initializer("w", Tensor::from_vec(shape, values))
    }
    pub(crate) fn ints(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_initializer("ints", Tensor::ints(values.iter().copied()))
    }
    pub(crate) fn op(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> Act {
        let hint = op.op_type.to_lowercase();
        let value = self.graph.add_node(op, inputs, &hint, Some(batched(shape)));
        Act { value, shape: shape.to_vec() }
    }
    pub(crate) fn like(&mut self, op: &str, x: &Act) -> Act {
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
    pub(crate) fn linear(&mut self, x: &Act, out: usize) -> Act {
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
    pub(crate) fn block(&mut self, x: &Act, kind: Block) -> Act {
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
            Block::Picked => {
                let x = self.conv(x, 12, 1, 1);
                let pick = |b: &mut Self, x: &Act, list: &[i64]| {
                    let places = b.ints(list);
                    let op = Op::new("Gather", "").with("axis", 1);
                    b.op(op, &[x.value, places], &[list.len(), map[0], map[1]])
                };
                // Some channels, others again, and all in the order of a shuffle.
                let some = pick(self, &x, &[11, 0, 3, 4, 9, 2]);
                let again = pick(self, &x, &[2, 5, 5, 7, 9, -1, 2]);
                let all = pick(self, &x, &[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
                let y = [self.conv(&some, 8, 1, 1), self.conv(&again, 8, 1, 1), self.conv(&all, 8, 3, 1)];
                let op = Op::new("Concat", "").with("axis", 1);
                self.op(op, &y.map(|y| y.value), &[24, map[0], map[1]])
            }
            Block::Reversed => {
                let x = self.conv(x, 12, 1, 1);
                let back = |b: &mut Self, x: &Act, from: i64, to: i64, step: i64, n: usize| {
                    let args = [[from], [to], [1], [step]].map(|v| b.ints(&v));
                    b.op(
                        Op::new("Slice", ""),
                        &[x.value, args[0], args[1], args[2], args[3]],
                        &[n, map[0], map[1]],
                    )
                };
                let all = back(self, &x, 11, -100, -1, 12);
                let run = back(self, &all, 9, 3, -1, 6);
                let spread = back(self, &x, -1, i64::MIN, -2, 6);
                let y = [self.conv(&run, 8, 3, 1), self.conv(&spread, 8, 1, 1)];
                let op = Op::new("Concat", "").with("axis", 1);
                self.op(op, &y.map(|y| y.value), &[16, map[0], map[1]])
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
            Block::Shuffle => {
                let x = self.conv(x, 16, 1, 1);
                let y = self.conv(&x, 16, 1, 2);
                let y = self.reshape(&y, &[2, 8, map[0], map[1]]);
                let y = self.transpose(&y, &[0, 2, 1, 3, 4]);
                let y = self.reshape(&y, &[16, map[0], map[1]]);
                let y = self.conv(&y, 16, 3, 16);
                let y = self.conv(&y, 16, 1, 2);
                self.add(&x, &y)
            }
            Block::GroupNorm => {
                let x = self.conv(x, 12, 1, 1);
                let (scale, bias) = (self.weight(&[4]), self.weight(&[4]));
                let op = Op::new("GroupNormalization", "").with("num_groups", 4);
                self.op(op, &[x.value, scale, bias], &x.shape)
            }
            Block::Fold => {
                let fold = |op: &str| Op::new(op, "").with("blocksize", 2);
                let half = [map[0] / 2, map[1] / 2];
                let y = self.op(fold("SpaceToDepth"), &[x.value], &[4 * c, half[0], half[1]]);
                let y = self.conv(&y, 24, 1, 1);
                let unfold =
                    fold("DepthToSpace").with("mode", if c.is_multiple_of(2) { "CRD" } else { "DCR" });
                self.op(unfold, &[y.value], &[6, map[0], map[1]])
            }
            Block::Pool => {
                let op = Op::new("MaxPool", "").with("kernel_shape", vec![3, 3]).with("pads", vec![1; 4]);
                self.op(op, &[x.value], &x.shape)
            }
        }
    }
    /// The pixels of a feature map one after the other: `[tokens, width]`.
    pub(crate) fn tokens(&mut self, x: &Act) -> Act {
        let flat = self.reshape(x, &[x.shape[0], x.shape[1] * x.shape[2]]);
        self.transpose(&flat, &[0, 2, 1])
    }
    /// Self-attention on `[tokens, width]` with 4 heads of 3, then a sum with the input and a LayerNormalization.
    pub(crate) fn attention(&mut self, x: &Act, kind: Attention) -> Act {
        let (t, width, heads, d) = (x.shape[0], x.shape[1], 4, 3);
        let inner = heads * d;
        let heads_of = |b: &mut Self, v: &Act| {
            let v = b.reshape(v, &[t, heads, d]);
            b.transpose(&v, &[0, 2, 1, 3])
        };
        let [q, k, v] = match kind {
            Attention::Separate | Attention::OneSquashed | Attention::BothSquashed => [0; 3].map(|_| {
                let y = self.linear(x, inner);
                heads_of(self, &y)
            }),
            Attention::Fused => {
                let all = self.linear(x, 3 * inner);
                let parts = self.split(&all, 2, 3);
                [0, 1, 2].map(|k| heads_of(self, &parts[k]))
            }
            Attention::SharedByExpand | Attention::SharedByTile => {
                let q = self.linear(x, inner);
                let q = heads_of(self, &q);
                let [k, v] = [0; 2].map(|_| {
                    let y = self.linear(x, 2 * d);
                    let y = self.reshape(&y, &[t, 2, d]);
                    let y = self.transpose(&y, &[0, 2, 1, 3]);
                    let (axes, times) = (self.ints(&[2]), self.ints(&[1, 1, 2, 1, 1]));
                    let y = self.op(Op::new("Unsqueeze", ""), &[y.value, axes], &[2, 1, t, d]);
                    let repeat = if matches!(kind, Attention::SharedByTile) { "Tile" } else { "Expand" };
                    let y = self.op(Op::new(repeat, ""), &[y.value, times], &[2, 2, t, d]);
                    self.reshape(&y, &[heads, t, d])
                });
                [q, k, v]
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
        let [q, k] = match kind {
            // Not zero at zero; with an operand that is, or without one.
            Attention::OneSquashed => [self.like("Sigmoid", &q), k],
            Attention::BothSquashed => [self.like("Sigmoid", &q), self.like("Softplus", &k)],
            _ => [q, k],
        };
        let turned = self.transpose(&k, &[0, 1, 3, 2]);
        let scores = self.op(Op::new("MatMul", ""), &[q.value, turned.value], &[heads, t, t]);
        let scale = self.graph.add_initializer("scale", Tensor::scalar(0.577f32));
        let scores = self.op(Op::new("Mul", ""), &[scores.value, scale], &scores.shape);
        let p = match kind {
            // A softmax would not tell that something is left behind that is equal in all scores.
            Attention::BothSquashed => self.like("Sigmoid", &scores),
            _ => self.op(Op::new("Softmax", "").with("axis", -1), &[scores.value], &scores.shape),
        };
        let y = self.op(Op::new("MatMul", ""), &[p.value, v.value], &[heads, t, d]);
        let y = self.transpose(&y, &[0, 2, 1, 3]);
        let y = self.reshape(&y, &[t, inner]);
        let y = self.linear(&y, width);
        let y = self.add(x, &y);
        let (scale, bias) = (self.weight(&[width]), self.weight(&[width]));
        self.op(Op::new("LayerNormalization", ""), &[y.value, scale, bias], &y.shape)
    }
    /// A recurrent layer over the tokens of `[tokens, width]`, its directions side by side.
    pub(crate) fn recurrent(&mut self, x: &Act, kind: Recurrent, directions: usize) -> Act {
        let (t, k, h) = (x.shape[0], x.shape[1], 6);
        let (gates, d) = (kind.gates(), directions);
        let typed = |dims: &[Dim]| Type::tensor(DType::F32, dims.to_vec());
        let n = Dim::from("N");
        let steps_first = [t.into(), n.clone(), k.into()];
        let turn = Op::new("Transpose", "").with("perm", vec![1, 0, 2]);
        let turned = self.graph.add_node(turn, &[x.value], "steps", Some(typed(&steps_first)));
        let w = self.weight(&[d, gates * h, k]);
        let (r, b) = (self.weight(&[d, gates * h, h]), self.weight(&[d, 2 * gates * h]));
        let direction = if d == 2 { "bidirectional" } else { "reverse" };
        let op = Op::new(kind.operator(), "").with("hidden_size", h as i64).with("direction", direction);
        let y = [t.into(), d.into(), n, h.into()];
        let y = self.graph.add_node(op, &[turned, w, r, b], "units", Some(typed(&y)));
        let turn = Op::new("Transpose", "").with("perm", vec![2, 0, 1, 3]);
        let y = self.op(turn, &[y], &[t, d, h]);
        self.reshape(&y, &[t, d * h])
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Recurrent {
    Rnn,
    Gru,
    Lstm,
}
impl Recurrent {
    fn operator(self) -> &'static str {
        ["RNN", "GRU", "LSTM"][self as usize]
    }
    fn gates(self) -> usize {
        [1, 3, 4][self as usize]
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Block {
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
    /// Channels change groups between two grouped convolutions.
    Shuffle,
    GroupNorm,
    /// Blocks of the map become channels and map again.
    Fold,
    Pool,
    /// Gathers of constant positions: some, others with some of the same, all of them.
    Picked,
    /// Slices from the end to the start.
    Reversed,
}
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attention {
    Separate,
    Fused,
    FiveAxes,
    OneSquashed,
    BothSquashed,
    /// Two heads of keys and values, each for two of queries.
    SharedByExpand,
    SharedByTile,
}
impl Attention {
    pub(crate) const ALL: [Attention; 7] = {
        use Attention::*;
        [Separate, Fused, FiveAxes, OneSquashed, BothSquashed, SharedByExpand, SharedByTile]
    };
}
