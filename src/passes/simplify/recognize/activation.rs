//! Activations:
//!
//! ```text
//! Gelu(x)        = x·(1 + erf(x/√2))/2                     from operator set 20
//! Gelu tanh (x)  = x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2                20
//! HardSigmoid(x) = max(0, min(1, a·x + b))
//! HardSwish(x)   = x·HardSigmoid(x), a = 1/6, b = 1/2                      14
//! Softplus(x)    = log(1 + eˣ)
//! Mish(x)        = x·tanh(Softplus(x))                                     18
//! ```
//!
//! Softplus and Mish also are right where eˣ overflows. Swish (24) is left apart: ONNX Runtime cannot run it.

use super::narrow;
use crate::passes::rules::{Bindings, Match, Miss, Rule};

fn gelu(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 20 { Err("Gelu needs operator set 20") } else { narrow(m) }
}
fn gelu_tanh(m: &Match<'_>) -> Result<Bindings, Miss> {
    Ok(gelu(m)?.attr("approximate", "tanh"))
}
fn mish(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 18 { Err("Mish needs operator set 18") } else { narrow(m) }
}
fn hard_swish(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 14 { Err("HardSwish needs operator set 14") } else { narrow(m) }
}

fn sixth(m: &Match<'_>) -> Result<Bindings, Miss> {
    Ok(narrow(m)?.attr("alpha", 1f32 / 6.0).attr("beta", 0.5f32))
}
/// One number each for slope and offset, which add no dimensions.
fn sloped(m: &Match<'_>) -> Result<Bindings, Miss> {
    let rank = m.ty("x").and_then(|t| t.rank());
    let number = |name| {
        let t = m.tensor(name).filter(|t| t.rank() == 0 || rank.is_some_and(|rank| t.rank() <= rank));
        t.and_then(|t| t.scalar_f32()).ok_or("slope and offset are not one number each")
    };
    Ok(narrow(m)?.attr("alpha", number("a")?).attr("beta", number("b")?))
}
fn times_own_gate(m: &Match<'_>) -> Result<Bindings, Miss> {
    let gate = m.op("h").ok_or("")?;
    let near = |name, default, wanted: f32| (gate.float(name).unwrap_or(default) - wanted).abs() < 1e-6;
    if near("alpha", 0.2, 1.0 / 6.0) && near("beta", 0.5, 0.5) { hard_swish(m) } else { Err("") }
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "gelu",
        lhs: "s = Div(x, 1.41421356) | Mul(x, 0.70710678)  e = Erf(s)  p = Add(e, 1)
              q = Mul(e, 0.5) | Div(e, 2)  c = Mul(p, 0.5) | Div(p, 2) | Add(q, 0.5)
              a = Mul(x, p)  b = Mul(x, 0.5) | Div(x, 2)
              y = Mul(a, 0.5) | Div(a, 2) | Mul(b, p) | Mul(x, c)",
        rhs: "y = Gelu(x)",
        bind: gelu,
    },
    Rule {
        name: "gelu-tanh",
        lhs: "xx = Mul(x, x) | Pow(x, 2)  cube = Mul(x, xx) | Pow(x, 3)  part = Mul(cube, 0.044715)
              sum = Add(x, part)  k = Mul(xx, 0.044715)  l = Add(k, 1)  sx = Mul(x, 0.79788456)
              s = Mul(sum, 0.79788456) | Mul(sx, l)  e = Tanh(s)  p = Add(e, 1)
              q = Mul(e, 0.5) | Div(e, 2)  c = Mul(p, 0.5) | Div(p, 2) | Add(q, 0.5)
              a = Mul(x, p)  b = Mul(x, 0.5) | Div(x, 2)
              y = Mul(a, 0.5) | Div(a, 2) | Mul(b, p) | Mul(x, c)",
        rhs: "y = Gelu(x)",
        bind: gelu_tanh,
    },
    Rule {
        name: "hard-sigmoid",
        lhs: "a = Add(x, 3)  c = Clip(a, 0, 6)  y = Div(c, 6) | Mul(c, 0.16666667)",
        rhs: "y = HardSigmoid(x)",
        bind: sixth,
    },
    Rule {
        name: "hard-sigmoid",
        lhs: "m = Mul(x, $a)  s = Add(m, $b)  y = Clip(s, 0, 1)",
        rhs: "y = HardSigmoid(x)",
        bind: sloped,
    },
    Rule {
        name: "hard-swish",
        lhs: "a = Add(x, 3)  c = Clip(a, 0, 6)  h = Mul(x, c)  y = Div(h, 6) | Mul(h, 0.16666667)",
        rhs: "y = HardSwish(x)",
        bind: hard_swish,
    },
    Rule {
        name: "hard-swish",
        lhs: "h = HardSigmoid(x)  y = Mul(x, h)",
        rhs: "y = HardSwish(x)",
        bind: times_own_gate,
    },
    Rule {
        name: "softplus",
        lhs: "e = Exp(x)  s = Add(e, 1)  y = Log(s)",
        rhs: "y = Softplus(x)",
        bind: narrow,
    },
    Rule { name: "mish", lhs: "s = Softplus(x)  t = Tanh(s)  y = Mul(x, t)", rhs: "y = Mish(x)", bind: mish },
];
