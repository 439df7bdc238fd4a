//! BatchNormalization at inference is `y = x·s + t` per channel, with `s = scale/√(var+ε)` and `t = bias - mean·s`.
//! After a convolution it is a convolution: `(w∗x + b)·s + t = (w·s)∗x + (b·s + t)`, where `s` runs over the first
//! axis of `w`, in every group alike.

use crate::ir::{DType, Tensor};
use crate::passes::rules::{Bindings, Match, Miss, Rule};

fn into_conv(m: &Match<'_>) -> Result<Bindings, Miss> {
    let bn = m.op("y").ok_or("")?;
    if bn.int("training_mode").unwrap_or(0) != 0 || (m.opset < 7 && bn.int("is_test").unwrap_or(0) == 0) {
        return Err("BatchNormalization in training mode");
    }
    let f32s = |name| m.tensor(name).and_then(Tensor::to_f32);
    let w = m.tensor("w").ok_or("")?;
    if w.dtype() == DType::F64 {
        return Err("double precision weights would lose digits");
    }
    let weights = w.to_f32().ok_or("the weights are not floating point")?;
    let unreadable = "the statistics are not floating point";
    let (scale, bias) = (f32s("scale").ok_or(unreadable)?, f32s("bias").ok_or(unreadable)?);
    let (mean, var) = (f32s("mean").ok_or(unreadable)?, f32s("var").ok_or(unreadable)?);
    let channels = w.shape().first().copied().unwrap_or(0);
    if channels == 0 || [&scale, &bias, &mean, &var].iter().any(|t| t.len() != channels) {
        return Err("the statistics are not one per output channel");
    }
    let old = match m.value("b") {
        Some(_) => {
            f32s("b").filter(|b| b.len() == channels).ok_or("the bias is not one per output channel")?
        }
        None => vec![0.0; channels].into(),
    };
    // In f64: the quotient is applied to every weight, so its rounding must not add to theirs.
    let epsilon = f64::from(bn.float("epsilon").unwrap_or(1e-5));
    let s: Vec<f64> =
        scale.iter().zip(&*var).map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt()).collect();
    if s.iter().any(|s| !s.is_finite()) {
        return Err("a variance is not positive");
    }
    let per = weights.len() / channels;
    let new_w: Vec<f32> =
        weights.iter().enumerate().map(|(i, x)| (f64::from(*x) * s[i / per]) as f32).collect();
    let new_b: Vec<f32> = (0..channels)
        .map(|c| ((f64::from(old[c]) - f64::from(mean[c])) * s[c] + f64::from(bias[c])) as f32)
        .collect();
    let made = |shape: &[usize], v| Tensor::from_f32(w.dtype(), shape, v).ok_or("");
    Ok(Bindings::default()
        .tensor("weight", made(w.shape(), new_w)?)
        .tensor("bias_folded", made(&[channels], new_b)?))
}

pub(super) const RULES: &[Rule] = &[Rule {
    name: "batch-norm-into-conv",
    lhs: "h = Conv(x, $w, $b?)  y = BatchNormalization(h, $scale, $bias, $mean, $var)",
    rhs: "y = Conv(x, weight, bias_folded)",
    bind: into_conv,
}];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
        passes::{Changed, Context, Pass, simplify::Simplify},
    };

    #[test]
    fn scale_and_shift_move_into_weight_and_bias() {
        let ty = Type::tensor(DType::F32, [1, 1, 2, 2].map(Into::into));
        let mut g = Graph::new("g");
        let x = g.add_input("x", ty.clone());
        let w = g.add_initializer("w", Tensor::from_vec([1, 1, 1, 1], vec![3f32]));
        let h = g.add_node(Op::new("Conv", "c").with("group", 1), &[x, w], "h", None);
        let one = |g: &mut Graph, n: &str, v: f32| g.add_initializer(n, Tensor::from_vec([1], vec![v]));
        let s = [("s", 2.0), ("t", 5.0), ("m", 4.0), ("v", 4.0)].map(|(n, v)| one(&mut g, n, v));
        let bn = Op::new("BatchNormalization", "bn").with("epsilon", 0f32);
        let y = g.add_node(bn, &[h, s[0], s[1], s[2], s[3]], "y", Some(ty));
        g.outputs.push(y);
        let opset = OpsetImport { version: 17, ..OpsetImport::default() };
        let mut model = Model { graph: g, ir_version: 8, opsets: vec![opset], ..Model::default() };
        assert_eq!(Simplify.run(&mut model, &mut Context::new()).unwrap(), Changed::Yes);
        model.verify().unwrap();
        let g = &model.graph;
        let (conv, _) = g.producer(g.outputs[0]).unwrap();
        assert!(g.op(conv).is("Conv") && g.ops().count() == 1 && g.op(conv).int("group") == Some(1));
        let constant =
            |slot| g.constant(g.input(conv, slot).unwrap()).unwrap().to_f32().unwrap().into_owned();
        assert_eq!((constant(1), constant(2)), (vec![3.0], vec![1.0]), "2/√4 = 1; 5 - 4·1 = 1");
    }
}
