//! What patterns match and what they leave alone.

use super::*;
use crate::{
    ir::{DType, Type},
    passes::RemarkKind,
};

fn nothing(_: &Match<'_>) -> Result<Bindings, Miss> {
    Ok(Bindings::default())
}
fn refused(_: &Match<'_>) -> Result<Bindings, Miss> {
    Err("for a reason")
}

/// x -> `first` -> h -> `second`(c, h) -> y, with a constant c.
fn two(first: Op, second: Op) -> Graph {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
    let c = g.add_initializer("c", Tensor::from_vec([2], vec![1f32, 2.0]));
    let h = g.add_node(first, &[x], "h", None);
    let y = g.add_node(second, &[c, h], "y", None);
    g.outputs.push(y);
    g
}
fn apply(rule: &'static Rule, g: &mut Graph) -> usize {
    let applied = RuleSet::new([rule]).apply(g, 17, &mut Context::new(), &mut Misses::new());
    g.verify().unwrap();
    applied
}

static NEG_ADD: Rule =
    Rule { name: "r", lhs: "h = Neg(x)  y = Add(h, $c)", rhs: "y = Sub(c, x)", bind: nothing };
static NEG_SUB: Rule =
    Rule { name: "r", lhs: "h = Neg(x)  y = Sub(h, $c)", rhs: "y = Sub(c, x)", bind: nothing };

#[test]
fn commutative_inputs_match_in_either_order_and_others_do_not() {
    let mut g = two(Op::new("Neg", "n"), Op::new("Add", "a"));
    assert_eq!(apply(&NEG_ADD, &mut g), 1);
    let (op, _) = g.producer(g.outputs[0]).unwrap();
    assert!(g.op(op).is("Sub") && g.op(op).name == "a", "the root's name stays");
    assert_eq!(g.name_of(g.outputs[0]), "y");
    assert_eq!(g.ops().count(), 1, "what was matched goes");
    assert_eq!(apply(&NEG_SUB, &mut two(Op::new("Neg", "n"), Op::new("Sub", "s"))), 0);
}
#[test]
fn an_inner_value_with_another_reader_is_no_match() {
    let mut g = two(Op::new("Neg", "n"), Op::new("Add", "a"));
    let h = g.find("h").unwrap();
    let z = g.add_node(Op::new("Abs", "b"), &[h], "z", None);
    g.outputs.push(z);
    assert_eq!(apply(&NEG_ADD, &mut g), 0);
    let mut g = two(Op::new("Neg", "n"), Op::new("Add", "a"));
    g.outputs.push(g.find("h").unwrap());
    assert_eq!(apply(&NEG_ADD, &mut g), 0, "a graph output is read, too");
}
#[test]
fn attributes_must_equal_and_domains_must_be_onnx() {
    static RULE: Rule = Rule { name: "r", lhs: "y = Softmax<axis=1>(x)", rhs: "x", bind: nothing };
    for (op, applied) in [
        (Op::new("Softmax", "s").with("axis", 1), 1),
        (Op::new("Softmax", "s").with("axis", 2), 0),
        (Op::new("Softmax", "s").with("axis", 1).in_domain("com.other"), 0),
    ] {
        assert_eq!(apply(&RULE, &mut two(op, Op::new("Add", "a"))), applied);
    }
}
#[test]
fn an_optional_input_may_be_there_or_not() {
    static RULE: Rule =
        Rule { name: "r", lhs: "y = Clip(x, lo?, hi?)", rhs: "y = Clip(x, lo, hi)", bind: refused };
    for slots in 1..=3 {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
        let y = g.add_node(Op::new("Clip", "c"), &vec![x; slots], "y", None);
        g.outputs.push(y);
        let (mut misses, mut cx) = (Misses::new(), Context::new());
        assert_eq!(RuleSet::new([&RULE]).apply(&mut g, 17, &mut cx, &mut misses), 0);
        let expected = ("c".to_owned(), "r: for a reason".to_owned());
        assert_eq!(misses.into_iter().collect::<Vec<_>>(), [expected]);
        assert!(cx.remarks.iter().all(|r| r.kind != RemarkKind::Applied));
    }
}
#[test]
fn rules_reach_into_bodies_and_keep_captures() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
    let condition = g.add_input("on", Type::tensor(DType::Bool, []));
    let a = g.add_node(Op::new("Abs", "a"), &[x], "a", None);
    let mut body = g.new_body("then");
    let captured = body.named_value("a");
    body.value_mut(captured).origin = Origin::Captured;
    let i = body.add_node(Op::new("Identity", "i"), &[captured], "i", None);
    let r = body.add_node(Op::new("Relu", "r"), &[i], "r", None);
    body.outputs.push(r);
    let branch = Op::new("If", "if").with("then_branch", body);
    let y = g.add_node(branch, &[condition], "y", None);
    g.outputs.push(y);
    static RULE: Rule = Rule { name: "r", lhs: "y = Identity(x)", rhs: "x", bind: nothing };
    assert_eq!(apply(&RULE, &mut g), 1);
    assert_eq!(g.captures_of(g.producer(y).unwrap().0), [a]);
}
#[test]
fn a_value_that_is_input_and_output_keeps_its_identity() {
    static RULE: Rule = Rule { name: "r", lhs: "y = Identity(x)", rhs: "x", bind: nothing };
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
    let y = g.add_node(Op::new("Identity", "i"), &[x], "y", None);
    g.outputs.push(y);
    assert_eq!(apply(&RULE, &mut g), 0);
}
