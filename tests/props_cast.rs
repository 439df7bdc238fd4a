//! Half precision on random architectures: outputs stay near, on ONNX Runtime, and no cast is there twice or for nothing.

mod support;

use onnx_compress::{
    ir::{DType, Model, Op, OpsetImport, Origin, Tensor, Use},
    passes::{Context, Pipeline},
};
use proptest::prelude::*;
use std::collections::HashSet;
use support::{
    blocks::{Attention, Block, Builder, Recurrent},
    oracle::Oracle,
};

#[derive(Clone, Copy, Debug)]
enum Head {
    Flatten,
    Tokens(Attention),
    Steps(Recurrent),
}

fn block() -> impl Strategy<Value = Block> {
    use Block::*;
    let plain = [Norm, Residual, Depthwise, Grouped, Concat, Split, Slice, Squeeze, Transposed, Pool];
    prop_oneof![(4usize..20).prop_map(Conv), proptest::sample::select(plain.to_vec())]
}
fn head() -> impl Strategy<Value = Head> {
    let recurrent = [Recurrent::Rnn, Recurrent::Gru, Recurrent::Lstm].map(Head::Steps);
    proptest::sample::select([&[Head::Flatten][..], &Attention::ALL.map(Head::Tokens), &recurrent].concat())
}

fn build(blocks: &[Block], head: Head, seed: u64) -> Model {
    let (mut b, x) = Builder::row(blocks, seed);
    let y = match head {
        Head::Flatten => {
            let flat = b.op(Op::new("Flatten", ""), &[x.value], &[x.shape[0] * 16]);
            b.linear(&flat, 5)
        }
        Head::Tokens(kind) => {
            let tokens = b.tokens(&x);
            let y = b.attention(&tokens, kind);
            b.linear(&y, 5)
        }
        Head::Steps(kind) => {
            let tokens = b.tokens(&x);
            let y = b.recurrent(&tokens, kind, 1);
            b.linear(&y, 5)
        }
    };
    b.graph.outputs.extend([y.value, x.value]);
    let opsets = vec![OpsetImport { version: 18, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph: b.graph, ..Model::default() }
}

/// The model with each weight rounded to a type, computing in float: what rounding alone makes of the outputs, which
/// random layers and softmax may amplify.
fn rounded(model: &Model, dtype: DType) -> Model {
    let mut model = model.clone();
    let weights: Vec<_> = model.graph.initializers().map(|(v, tensor)| (v, tensor.clone())).collect();
    for (v, tensor) in weights.into_iter().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
        let numbers = tensor.to_f32().unwrap().into_owned();
        let half = Tensor::from_f32(dtype, tensor.shape(), numbers).unwrap();
        let float = Tensor::from_vec(tensor.shape().to_vec(), half.to_f32().unwrap().into_owned());
        model.graph.value_mut(v).origin = Origin::Initializer(float);
    }
    model
}

/// No value is cast twice to one type, and nothing is cast back.
fn casts_are_few(model: &Model) -> bool {
    let g = &model.graph;
    let casts: Vec<_> = g.ops().filter(|op| g.op(*op).is("Cast")).collect();
    let seen: HashSet<_> = casts.iter().map(|op| (g.input(*op, 0), g.op(*op).int("to"))).collect();
    let back = |op| {
        g.output(op, 0).is_some_and(|v| g.uses(v).into_iter().map(Use::op).any(|user| g.op(user).is("Cast")))
    };
    seen.len() == casts.len() && !casts.iter().any(|op| back(*op))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn outputs_stay_near(
        blocks in proptest::collection::vec(block(), 0..6),
        head in head(),
        kept in proptest::sample::select(vec!["", "Add", "Conv", "Relu", "MatMul", "Softmax"]),
        seed in any::<u64>(),
    ) {
        let original = build(&blocks, head, seed);
        let oracle = Oracle::new();
        for (precision, dtype) in [("fp16", DType::F16), ("bf16", DType::BF16)] {
            let mut model = original.clone();
            let text = format!("cast(precision={precision},exclude_ops=[\"{kept}\"])");
            let pipeline: Pipeline = text.parse().unwrap();
            let _ = pipeline.run(&mut model, &mut Context::new()).unwrap();
            let difference = oracle.difference(&original, &model);
            let own = oracle.difference(&original, &rounded(&original, dtype));
            // Activations are rounded too, behind every op. Where a softmax chooses among numbers of thousands that moves more than
            // weights do, 14 times as much in the worst network seen. What is wrong is of the size of the outputs. In few networks
            // rounding the weights alone takes a tenth of that.
            let most = f32::max(2e-3, 30.0 * own).min((2.0 * own).clamp(0.1, 0.5));
            prop_assert!(
                difference <= most,
                "{text}: the outputs differ by {difference} of their size, by {own} with rounded weights alone"
            );
            prop_assert!(casts_are_few(&model), "{text}: casts that are not needed");
            let g = &model.graph;
            let half = g.initializers().any(|(_, tensor)| tensor.dtype() == dtype);
            prop_assert!(half || precision == "bf16", "{text}: weights are stored in half precision");
        }
    }
}
