//! Never slower: which kinds of layers are worth integers is timed on the machine at hand.
//!
//! Starting from what is usually fastest, the kinds are decided one after the other: the whole model is timed with every
//! way its layers of that kind can compute, all else as decided so far, side by side with the float model. The fastest
//! placement of all that were timed is kept, unless float is faster on one sample or on a batch.

use super::{
    Quant,
    activations::Schemes,
    placement::{How, Kind, Placement},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Graph, Model, OpId},
    passes::{Context, RemarkKind, targets},
};

/// Times closer than this are alike.
const NOISE: f64 = 0.02;

/// A placement and its time as a multiple of the float model's, on each batch.
struct Timed {
    placement: Placement,
    ratios: Vec<f64>,
}

impl Timed {
    fn mean(&self) -> f64 {
        let logs: f64 = self.ratios.iter().map(|ratio| ratio.ln()).sum();
        (logs / self.ratios.len().max(1) as f64).exp()
    }
    fn is_slower(&self) -> bool {
        self.ratios.iter().any(|ratio| *ratio > 1.0 + NOISE)
    }
    fn text(&self) -> String {
        self.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" and ")
    }
}

/// The fastest placement of those that were timed.
pub(super) struct Fastest {
    pub(super) placement: Placement,
    tried: Vec<Timed>,
    /// Those that were timed with more layers.
    earlier: Vec<Timed>,
    /// The samples in each batch that was timed.
    batches: Vec<usize>,
}

/// What is timed.
pub(super) struct Candidates<'a> {
    pub(super) pass: &'a Quant,
    pub(super) model: &'a Model,
    pub(super) layers: &'a Layers,
    pub(super) schemes: &'a Schemes,
}

impl Candidates<'_> {
    /// The fastest placement; `None` where there is no clock.
    pub(super) fn fastest(&self, usual: Placement, cx: &Context<'_>) -> Result<Option<Fastest>> {
        self.among(|kind| self.pass.ways(kind, cx.has_samples()), usual, cx)
    }
    /// The fastest now that there are fewer layers, kinds of which may be float; what else they might be, nobody has looked at what
    /// it does to the outputs.
    pub(super) fn again(&self, timed: Fastest, cx: &Context<'_>) -> Result<Fastest> {
        let ways = |kind| vec![How::Float, timed.placement.of_kind(kind)];
        Ok(match self.among(ways, timed.placement, cx)? {
            Some(again) => Fastest { earlier: timed.tried, ..again },
            None => timed,
        })
    }
    /// The fastest placement in which layers of each kind compute in one of these ways.
    fn among(
        &self,
        ways: impl Fn(Kind) -> Vec<How>,
        usual: Placement,
        cx: &Context<'_>,
    ) -> Result<Option<Fastest>> {
        let placed = |placement: Placement| {
            let mut model = self.model.clone();
            self.pass.place(&mut model, self.layers, &placement, self.schemes);
            model
        };
        let float = placed(Placement::FLOAT);
        let mut tried: Vec<Timed> = Vec::new();
        let (mut best, mut batches) = (usual, Vec::new());
        for kind in Kind::ALL {
            cx.check_cancelled()?;
            let mut candidates = vec![(best, placed(best))];
            for how in ways(kind) {
                let other = best.with(kind, how);
                let model = placed(other);
                if candidates.iter().all(|(_, known)| known.graph != model.graph) {
                    candidates.push((other, model));
                }
            }
            if candidates.len() == 1 && tried.iter().any(|timed| timed.placement == best) {
                continue;
            }
            let models: Vec<&Model> = candidates.iter().map(|c| &c.1).collect();
            let Some(timed) = targets::shares_of_time(&float, &models, cx)? else { return Ok(None) };
            batches = timed.samples;
            for ((placement, _), ratios) in candidates.iter().zip(timed.shares) {
                tried.push(Timed { placement: *placement, ratios });
            }
            let these = &tried[tried.len() - candidates.len()..];
            // What is usually fastest stays unless another is faster beyond noise.
            let other = these[1..].iter().min_by(|a, b| a.mean().total_cmp(&b.mean()));
            best = other.filter(|t| t.mean() < these[0].mean() * (1.0 - NOISE)).map_or(best, |t| t.placement);
        }
        let decided = tried.iter().rev().find(|timed| timed.placement == best);
        if decided.is_none_or(Timed::is_slower) {
            let faster = tried.iter().filter(|timed| !timed.is_slower() && timed.mean() < 1.0 - NOISE);
            best =
                faster.min_by(|a, b| a.mean().total_cmp(&b.mean())).map_or(Placement::FLOAT, |t| t.placement);
        }
        Ok(Some(Fastest { placement: best, tried, earlier: Vec::new(), batches }))
    }
}

impl Fastest {
    /// Says how long the placement takes, and of the layers that stay float how long they would make it.
    pub(super) fn tell(&self, graph: &Graph, layers: &Layers, cx: &mut Context<'_>) {
        let Fastest { placement: best, tried, earlier, batches } = self;
        let batches = batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let taken = tried.iter().rev().find(|timed| timed.placement == *best);
        let taken = taken.map_or_else(|| "1.00".to_owned(), Timed::text);
        let text = format!("timed here: {taken} of the time of float, for {batches} samples");
        cx.remark(RemarkKind::Note, (), text);
        for kind in Kind::ALL.into_iter().filter(|kind| best.of_kind(*kind) == How::Float) {
            let nearest = |tried: &[Timed]| {
                let integers = tried.iter().filter(|timed| timed.placement.of_kind(kind) != How::Float);
                integers.min_by(|a, b| a.mean().total_cmp(&b.mean())).map(Timed::text)
            };
            let Some(nearest) = nearest(tried).or_else(|| nearest(earlier)) else { continue };
            let why = format!(
                "stays float: with integers in such layers too the model takes {nearest} of the time of float, as it is {taken}"
            );
            let of_kind = |op: &&OpId| Kind::of(graph, **op) == Some(kind);
            let places = layers.ops.iter().filter(of_kind).map(|op| graph.place(*op));
            places.for_each(|at| cx.missed(at, why.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ir::{Graph, Model, QuantForm, text},
        passes::{
            Context, Named, Pass,
            quant::{Quant, QuantOptions, tests::ranges},
        },
    };

    fn integer(g: &Graph, name: &str) -> bool {
        g.find(name).is_some_and(|v| g.value(v).quant.is_some())
    }
    /// Whether the op of this name reads an integer activation.
    fn reads(g: &Graph, name: &str) -> bool {
        let op = g.ops().find(|op| g.op(*op).name == name);
        op.and_then(|op| g.input(op, 0)).is_some_and(|x| g.value(x).quant.is_some())
    }
    fn form(g: &Graph, name: &str) -> Option<QuantForm> {
        Some(g.value(g.find(name)?).quant.as_ref()?.form)
    }

    /// What the pass leaves where runs take so long on one sample and on a batch, and what it says.
    fn guarded(seconds: fn(&Graph) -> [f64; 2]) -> (Graph, Vec<String>) {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 3, 8, 8] x) => (float[N, 40] y)
            <float[32, 3, 3, 3] first, float[32, 32, 3, 3] second, float[32, 40] head>
            {
              [c1] a = Conv <pads = [1, 1, 1, 1]> (x, first)
              [c2] b = Conv <pads = [1, 1, 1, 1]> (a, second)
              [join] s = Add (a, b)
              [pool] p = GlobalAveragePool (s)
              [flat] f = Flatten (p)
              [product] y = MatMul (f, head)
            }"#;
        let mut model = text::parse(text).unwrap();
        let of = |k: usize| move |model: &Model| seconds(&model.graph)[k];
        let clock = ranges().with_times(1, of(0)).with_times(32, of(1));
        let mut cx = Context::new().with_measure(&clock);
        let _ = Quant::new(QuantOptions::default()).unwrap().run(&mut model, &mut cx).unwrap();
        model.verify().unwrap();
        let said = cx.remarks.iter().map(|r| format!("{}{}", r.text, r.at.suffix())).collect();
        (model.graph, said)
    }

    #[test]
    fn each_kind_computes_as_is_fastest() {
        let (g, said) = guarded(|g| {
            let mut seconds = 1.0;
            seconds += if reads(g, "c1") { 0.5 } else { 0.0 };
            seconds -= if reads(g, "c2") { 0.3 } else { 0.0 };
            seconds += if integer(g, "s") { 0.1 } else { 0.0 };
            seconds -= match form(g, "head") {
                Some(QuantForm::Dynamic) => 0.3,
                Some(QuantForm::Qdq) => 0.1,
                _ => 0.0,
            };
            [seconds, seconds]
        });
        assert_eq!(form(&g, "second"), Some(QuantForm::Qdq));
        assert_eq!(form(&g, "head"), Some(QuantForm::Dynamic));
        assert!(!integer(&g, "x") && !integer(&g, "s"), "slower in integers");
        assert_eq!(form(&g, "first"), Some(QuantForm::Folded), "its weights are small all the same");
        assert!(
            said.iter().any(|s| s.starts_with("timed here: 0.40 and 0.40 of the time of float")),
            "{said:?}"
        );
        let first = said.iter().find(|s| s.contains("c1") && s.starts_with("stays float")).unwrap();
        assert!(
            first.contains("takes 1.20 and 1.20 of the time of float, as it is 0.40 and 0.40"),
            "{first}"
        );
    }
    #[test]
    fn what_is_slower_on_one_sample_stays_float() {
        let (g, said) = guarded(|g| if integer(g, "a") || integer(g, "f") { [1.2, 0.5] } else { [1.0, 1.0] });
        assert!(!integer(&g, "a") && !integer(&g, "f"));
        assert_eq!(form(&g, "second"), Some(QuantForm::Folded), "weights are small all the same");
        assert!(said.iter().any(|s| s.starts_with("stays float") && s.contains("1.20 and 0.50")), "{said:?}");
    }
}
