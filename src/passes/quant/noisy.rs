//! Layers whose integer activations cost the outputs more than their share: those stay float.
//!
//! Where all layers together leave the outputs less than [`LEAST_SQNR`] dB above the noise, each is looked at alone, all
//! else in float. A layer that makes several times what it would if all made alike is left float, the worst first, until
//! the others together are quiet enough: an outlier among a hundred thousand elements, or a sum that cancels, spoils few
//! layers but may spoil the outputs. Where all layers are alike, none is to blame.

use super::{
    Quant,
    activations::Schemes,
    placement::{How, Placement},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Model, OpId},
    passes::{Context, RemarkKind, linear::effect},
};

/// With less noise than this nothing is left float.
const LEAST_SQNR: f64 = 30.0;
/// How many equal shares of the noise a layer may make.
const SHARES: f64 = 4.0;

/// Where layers cannot be looked at with so many samples in reasonable time, none is.
const LEAST_SAMPLES: usize = 64;

/// The layers without those that make too much noise, which are named.
pub(super) fn left_out(
    pass: &Quant,
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    schemes: &Schemes,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    let placed = |ops: Vec<OpId>, placement: &Placement| {
        let mut model = model.clone();
        pass.place(&mut model, &Layers { ops, ..layers.clone() }, placement, schemes);
        Ok(cx.written(&model)?.0)
    };
    let float = placed(Vec::new(), &Placement::FLOAT)?;
    let (rounded, others): (Vec<OpId>, Vec<OpId>) =
        layers.ops.iter().partition(|op| placement.of(&model.graph, **op) == How::Static);
    let all =
        effect::errors(&float, std::slice::from_ref(&rounded), |ops| placed(ops.clone(), placement), cx)?;
    let most = 10f64.powf(-LEAST_SQNR / 10.0);
    if all.iter().sum::<f64>() <= most || rounded.len() < 2 {
        return Ok(layers.clone());
    }
    if effect::affordable(&float, rounded.len(), cx)? < LEAST_SAMPLES {
        let why = "not looked into which layers' integer activations cost most: each would take a run of this large model";
        cx.remark(RemarkKind::Note, (), why);
        return Ok(layers.clone());
    }
    let noise = effect::errors(&float, &rounded, |op| placed(vec![*op], placement), cx)?;
    let loud = too_loud(&noise, most);
    let share = noise.iter().sum::<f64>() / noise.len() as f64;
    for k in &loud {
        let why = format!(
            "stays float: rounding what it reads and writes alone costs the outputs {:.1} %, {:.0} times its share",
            100.0 * noise[*k].sqrt(),
            noise[*k] / share
        );
        cx.missed(model.graph.place(rounded[*k]), why);
    }
    let quiet = rounded.iter().enumerate().filter(|(k, _)| !loud.contains(k)).map(|(_, op)| *op);
    let mut ops: Vec<OpId> = quiet.chain(others).collect();
    ops.sort_unstable();
    Ok(Layers { ops, ..layers.clone() })
}

/// Which of these powers are to go, the largest first, so that those that are left sum up to at most `most`.
fn too_loud(noise: &[f64], most: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..noise.len()).collect();
    order.sort_by(|a, b| noise[*b].total_cmp(&noise[*a]));
    let all: f64 = noise.iter().sum();
    let (mut left, bound) = (all, SHARES * all / noise.len() as f64);
    let goes = |k: &usize| {
        let goes = left > most && noise[*k] > bound;
        left -= noise[*k];
        goes
    };
    order.into_iter().take_while(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_go_until_the_rest_is_quiet() {
        assert!(too_loud(&[0.01; 8], 0.001).is_empty(), "all are alike");
        let mut noise = vec![1e-5; 20];
        (noise[3], noise[7]) = (0.02, 0.01);
        assert_eq!(too_loud(&noise, 0.001), [3, 7]);
        assert_eq!(too_loud(&noise, 0.011), [3]);
        assert!(too_loud(&noise, 0.1).is_empty());
    }
}
