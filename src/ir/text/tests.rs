//! Printing and reading are each other's inverse, and errors say where.

use super::{parse, print};
use crate::ir::{Attr, DType, Origin};

/// Everything the syntax has, as it is printed.
const ALL: &str = r#"<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
"g 1/x" (float[N, 3, "a*b", ?] "x.1/0", float[] s, bool c, seq(float[1]) q, optional(seq(float)) o, map(int64, float) m, int64[2] d) => (float[M] z, w, u)
<
  int64[2] d = {1, -1},
  float half = {0.5},
  float16[2] h = {15360, 16384},
  string[1] "float" = {"a \"b\" \\"},
  int4[4] packed = {33, 67},
  int32[0] none = {}
>
{
  [node1] z, "", "o/1" = Conv <a = 1, b = 1.5, c = "str", d = [1, 2], e = [1.0, 1e-5, inf, NaN, -inf], f: ints = [], g = ["a", "b"], t = float[2] {1.0, 2.0}, tp = float[N, 2], o = opaque()> ("x.1/0", "", half)
  ["a/b c"] w = com.microsoft.Foo:other (d, h, "float", packed, none)
  u = If <then_branch = g1 () => (float[1] p)
    <
      float[1] inner = {2.0}
    >
    {
      p = Loop <body = _float (int64 i, bool go) => (bool go, k)
        {
          k = Add (z, inner)
        }> (c)
    }, else_branch = g2 () => (r)
    {
      r = Identity (z)
    }> (c)
}
<domain: "local", opset_import: ["" : 18]>
f <a, b = 1> (x, "y/1") => (z)
{
  z = Add <alpha: int = @a, beta: float = @c> (x, "y/1")
}
"#;

#[test]
fn prints_what_it_reads() {
    let model = parse(ALL).unwrap();
    assert_eq!(print(&model), ALL);
    assert_eq!(parse(&print(&model)).unwrap().graph.order().len(), 3);
}

#[test]
fn captures_reach_through_two_bodies() {
    let model = parse(ALL).unwrap();
    let g = &model.graph;
    let choose = g.ops().find(|o| g.op(*o).is("If")).unwrap();
    assert_eq!(g.captures_of(choose), [g.find("c").unwrap(), g.find("z").unwrap()]);
    let Some(Attr::Graph(then)) = g.op(choose).attr("then_branch") else { panic!("a body") };
    assert_eq!(then.value(then.find("z").unwrap()).origin, Origin::Captured);
}

#[test]
fn weights_are_seeded_and_large_ones_are_not_shown() {
    let text = |seed: u32| {
        format!(
            "# weights: seed {seed}\n<ir_version: 9, opset_import: [\"\" : 17]>\nm (float[N, 64] x) => (y)\n\
             <float[64, 32] w,\n float16[99] v # positive\n>\n\
             {{ a = MatMul (x, w)  k = Constant <value = float[10] {{}}> () y = Foo (a, v, k) }}"
        )
    };
    let (one, same, other) = (parse(&text(1)).unwrap(), parse(&text(1)).unwrap(), parse(&text(2)).unwrap());
    assert_eq!(one, same);
    assert_ne!(one, other);
    let w = one.graph.initializer(one.graph.find("w").unwrap()).unwrap().to_f32().unwrap().into_owned();
    let variance = w.iter().map(|x| x * x).sum::<f32>() / w.len() as f32;
    assert!((variance * 64.0 / 2.0 - 1.0).abs() < 0.2, "2/fan-in, not {variance}");
    let v = one.graph.initializer(one.graph.find("v").unwrap()).unwrap();
    assert_eq!(v.dtype(), DType::F16);
    assert!(v.to_f32().unwrap().iter().all(|x| *x >= 0.5));
    let printed = print(&one);
    assert!(printed.contains("float[64, 32] w, # "), "{printed}");
    assert!(printed.contains("k = Constant <value = float[10] {}> () # "), "{printed}");
    let again = print(&parse(&printed).unwrap());
    assert_eq!(print(&parse(&again).unwrap()), again);
}

#[test]
fn attributes_follow_inputs_and_inner_types_are_read() {
    let model = parse(
        "<ir_version: 9, opset_import: [\"\" : 17]> m (float[2] x) => (float[2] y) <float[2] t> \
         { t = Elu (x) <alpha: float = 2> y = Neg (t) }",
    )
    .unwrap();
    let g = &model.graph;
    let t = g.find("t").unwrap();
    assert!(g.value(t).ty.is_some() && g.initializer(t).is_none());
    assert_eq!(g.op(g.producer(t).unwrap().0).float("alpha"), Some(2.0));
}

#[test]
fn errors_name_line_and_column() {
    let body = |ops: &str| format!("<ir_version: 9>\nm (float[2] x) => (y)\n{{\n  {ops}\n}}");
    let cases = [
        ("y = Neg (z)", "line 4, column 12: `z` is not defined"),
        ("y = Neg (x) y = Neg (x)", "line 4, column 15: `y` is defined already"),
        ("y = Neg x", "line 4, column 11: expected `(`, found `x`"),
        ("y = Elu <alpha = [1, 2.0]> (x)", "must be of one kind"),
        ("y = Elu <alpha : int = 1.0> (x)", "not of kind `int`"),
        ("y = C <value = int8[2] {1, 300}> ()", "300 is no element of a int8 tensor"),
        ("y = C <value = int8[2] {1}> ()", "has 2 elements, not the 1 given"),
        ("y = C <value = float[99999999999] {}> ()", "too much random content"),
        ("y = C <value = \"a", "has no end"),
        ("y = Neg (x)", ""),
    ];
    for (ops, expected) in cases {
        match parse(&body(ops)) {
            Ok(_) => assert_eq!(expected, "", "{ops} was read"),
            Err(e) => assert!(!expected.is_empty() && e.to_string().contains(expected), "{ops}: {e}"),
        }
    }
    let deep = format!("<ir_version: 9> m ({}float{} x) => () {{}}", "seq(".repeat(9999), ")".repeat(9999));
    assert!(parse(&deep).unwrap_err().to_string().contains("nested deeper"));
}

#[test]
fn any_prefix_of_a_text_is_an_error_and_no_panic() {
    let end = ALL.find("<domain").unwrap();
    for (k, _) in ALL[..end - 2].char_indices() {
        assert!(parse(&ALL[..k]).is_err(), "{}", &ALL[..k]);
    }
}
