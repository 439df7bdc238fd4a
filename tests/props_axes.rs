//! The oracle of the axis algebra on random architectures: with any positions of the exact groups cut out, a model
//! gives the outputs that the original gives with those positions zero in all its initializers.

mod support;

use onnx_compress::{
    ir::{Model, Op, OpsetImport},
    lower,
    ops::{
        axes::{Flow, Keep},
        infer_types,
    },
    passes::prune::Branch,
};
use proptest::prelude::*;
use support::{
    blocks::{Attention, Block, Builder, Recurrent},
    oracle::{Oracle, halves_or_fewer},
};

#[derive(Clone, Copy, Debug)]
enum Head {
    Flatten,
    Pooled,
    Tokens(Attention),
    Steps(Recurrent, usize),
}

const RECURRENT: [Head; 4] = [
    Head::Steps(Recurrent::Rnn, 1),
    Head::Steps(Recurrent::Gru, 2),
    Head::Steps(Recurrent::Lstm, 1),
    Head::Steps(Recurrent::Lstm, 2),
];

/// Every block but convolutions by their number of channels.
const PLAIN: [Block; 15] = {
    use Block::*;
    [
        Norm, Residual, Depthwise, Grouped, Concat, Split, Slice, Squeeze, Transposed, Shuffle, GroupNorm,
        Fold, Pool, Picked, Reversed,
    ]
};

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![(4usize..20).prop_map(Block::Conv), proptest::sample::select(PLAIN.to_vec())]
}
fn head() -> impl Strategy<Value = Head> {
    let attention = Attention::ALL.map(Head::Tokens);
    proptest::sample::select([&[Head::Flatten, Head::Pooled][..], &attention, &RECURRENT].concat())
}

fn build(blocks: &[Block], head: Head, seed: u64) -> Model {
    let (mut b, x) = Builder::row(blocks, seed);
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
            let tokens = b.tokens(&x);
            let y = b.attention(&tokens, kind);
            b.linear(&y, 5)
        }
        Head::Steps(kind, directions) => {
            let tokens = b.tokens(&x);
            let y = b.recurrent(&tokens, kind, directions);
            let y = b.recurrent(&y, kind, 1);
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

/// Without its branches a model gives what it gives with their last layers at zero; how many there were.
fn without_branches(model: &Model) -> usize {
    let mut model = model.clone();
    infer_types(&mut model).unwrap();
    let branches = Branch::all(&model);
    let (mut dropped, mut zeroed) = (model.clone(), model.clone());
    for branch in &branches {
        branch.drop_from(&mut dropped.graph);
        branch.zero(&mut zeroed.graph);
    }
    dropped.verify().unwrap();
    let fewer = dropped.graph.ops().count() < model.graph.ops().count();
    assert_eq!(fewer, !branches.is_empty(), "what serves a branch alone goes with it");
    let difference = Oracle::new().difference(&dropped, &zeroed);
    assert!(difference <= 1e-4, "the outputs differ by {difference} of their size");
    branches.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn dropping_branches_equals_zeroing_them(
        blocks in proptest::collection::vec(block(), 0..6),
        head in head(),
        seed in any::<u64>(),
    ) {
        let residual = blocks.iter().any(|b| matches!(b, Block::Residual));
        let found = without_branches(&build(&blocks, head, seed));
        prop_assert!(found > 0 || !residual);
    }
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
    for kind in PLAIN {
        check(&build(&[kind], Head::Flatten, 1), 1);
    }
    for kind in Attention::ALL {
        check(&build(&[], Head::Tokens(kind), 2), 2);
    }
    for head in RECURRENT {
        check(&build(&[], head, 3), 3);
    }
}

/// Units of a layer are one group whatever its gates and directions; what it reads is another.
#[test]
fn recurrent_layers_fall_apart_into_units() {
    for head in RECURRENT {
        let model = build(&[], head, 3);
        let groups = Flow::of(&model).groups();
        let sizes: Vec<usize> = groups.iter().filter(|g| g.exact).map(|g| g.size).collect();
        assert_eq!(sizes, [8, 6, 6], "{head:?}");
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
    for shared in [Attention::SharedByExpand, Attention::SharedByTile] {
        assert_eq!(sizes(shared), [2, 2, 3, 3], "heads of keys, and the heads of queries that each serves");
    }
    assert_eq!(sizes(Attention::OneSquashed), [3, 3, 4]);
    assert_eq!(
        sizes(Attention::BothSquashed),
        [3, 4],
        "removed queries and keys would leave something behind"
    );
}

/// Of grouped convolutions whole groups can go, or as many channels of each.
#[test]
fn grouped_convolutions_fall_apart_into_groups_and_channels() {
    let sizes = |kind| {
        let mut sizes: Vec<usize> =
            Flow::of(&build(&[kind], Head::Flatten, 5)).groups().iter().map(|g| g.size).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(Block::Grouped), [4, 4, 6, 8, 8], "four groups of 4 channels in and 6 out");
    assert_eq!(sizes(Block::Shuffle), [2, 4, 8, 8]);
    assert_eq!(sizes(Block::GroupNorm), [3, 4, 8], "a statistic runs over the three");
}

/// What several Gathers pick of the same channels falls apart by which of them pick it, and what a Slice turns is one.
#[test]
fn picked_channels_fall_apart_by_who_picks_them() {
    let sizes = |kind| {
        let groups = Flow::of(&build(&[kind], Head::Flatten, 5)).groups();
        let mut sizes: Vec<usize> = groups.iter().filter(|g| g.exact).map(|g| g.size).collect();
        sizes.sort_unstable();
        sizes
    };
    // Of twelve, four none picks, three one and two both; those that are alone in what picks them cannot go.
    assert_eq!(sizes(Block::Picked), [2, 3, 4, 8, 8, 8, 8]);
    // Pairs of what one Slice takes and the other does or does not.
    assert_eq!(sizes(Block::Reversed), [2, 3, 8, 8, 8]);
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
