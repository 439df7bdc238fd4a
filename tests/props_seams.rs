//! Scales moved across values on random architectures: the outputs stay, on ONNX Runtime.

mod support;

use onnx_compress::{
    ir::{Model, Op, OpsetImport},
    ops::infer_types,
    passes::quant::move_scales,
};
use proptest::prelude::*;
use support::{
    blocks::{Attention, Block, Builder},
    oracle::Oracle,
};

fn block() -> impl Strategy<Value = Block> {
    use Block::*;
    let plain = [Norm, Residual, Depthwise, Grouped, Concat, Split, Slice, Squeeze, Transposed, Pool];
    prop_oneof![(4usize..20).prop_map(Conv), proptest::sample::select(plain.to_vec())]
}

fn build(blocks: &[Block], head: Option<Attention>, seed: u64) -> Model {
    let (mut b, x) = Builder::row(blocks, seed);
    let hidden = match head {
        None => b.op(Op::new("Flatten", ""), &[x.value], &[x.shape[0] * 16]),
        Some(kind) => {
            let tokens = b.tokens(&x);
            b.attention(&tokens, kind)
        }
    };
    let hidden = b.linear(&hidden, 12);
    let hidden = b.like("Relu", &hidden);
    let y = b.linear(&hidden, 5);
    b.graph.outputs.push(y.value);
    let opsets = vec![OpsetImport { version: 18, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph: b.graph, ..Model::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn moved_scales_cancel_out(
        blocks in proptest::collection::vec(block(), 0..6),
        head in proptest::option::of(proptest::sample::select(Attention::ALL.to_vec())),
        seed in any::<u64>(),
    ) {
        let mut original = build(&blocks, head, seed);
        let _ = infer_types(&mut original);
        let mut model = original.clone();
        let mut state = seed | 1;
        let mut scale = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            2f32.powi((state >> 60) as i32 % 7 - 3)
        };
        let moved = move_scales(&mut model, |channels| (0..channels).map(|_| scale()).collect());
        prop_assert!(moved >= 1, "the hidden layer of the head leaves its scales free");
        let difference = Oracle::new().difference(&original, &model);
        prop_assert!(difference <= 1e-4, "{moved} values: the outputs differ by {difference} of their size");
    }
}
