//! Sparsity: single weights of convolutions, products and recurrent layers become zero, anywhere or in N:M patterns.
//!
//! With calibration samples the weights that stay make up for those that go; see `eliminate`.

mod eliminate;
mod learned;
mod mask;
mod options;
mod store;
mod weights;

pub use options::{Criterion, Pattern, SparsifyOptions, Store};

use super::{Changed, Context, Named, Needs, Options, Pass, RemarkKind, globs, pass::changed_options};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, Origin, Tensor, ValueId},
    numpy::read_npz,
    ops::infer_types,
};
use globset::GlobSet;
use learned::Fate;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use std::collections::{BTreeMap, HashMap};
use weights::Candidate;

const DENSE: &str = "ONNX Runtime computes zeros like other numbers: they make files smaller where those are compressed \
                     (gzip, zip), and models faster on runtimes with sparse kernels";

/// The version of the file format that first had sparse initializers.
const SPARSE_SINCE: i64 = 5;

/// The pass.
pub struct Sparsify {
    options: SparsifyOptions,
    share: f64,
    exclude: GlobSet,
    masks: Option<BTreeMap<String, Tensor>>,
}

impl Named for Sparsify {
    const NAME: &'static str = "sparsify";
    const ABOUT: &'static str = "Set the weights that matter least to zero, anywhere or in N:M patterns";
    type Options = SparsifyOptions;
    fn new(options: SparsifyOptions) -> Result<Self> {
        let (share, exclude) = (options.share()?, globs::excluded(&options.exclude)?);
        let masks = match &options.mask {
            Some(path) => Some(read_npz(path)?.into_iter().collect()),
            None => None,
        };
        Ok(Sparsify { options, share, exclude, masks })
    }
}

impl Pass for Sparsify {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        Needs { simplified: true, ..Needs::default() }
    }
    fn least_sqnr(&self) -> Option<f64> {
        None
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&SparsifyOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        infer_types(model)?;
        let criterion = self.criterion(cx)?;
        let run = self.options.pattern.inputs().filter(|_| self.masks.is_none());
        let (g, opset) = (&model.graph, model.opset());
        let mut candidates = weights::find(g, opset, &self.exclude, run, cx);
        let given = self.given(g, &mut candidates, cx)?;
        if candidates.is_empty() {
            return Err(Error::BelowBar("no weights can be made sparse".into()));
        }
        let masks = match given {
            Some(given) => given.into_iter().map(Made::Mask).collect(),
            None => self.made(model, &candidates, criterion, run, cx)?,
        };
        let learned = criterion == Criterion::Sparsegpt;
        let pairs = || candidates.iter().zip(&masks);
        let layers = pairs().filter(|(c, _)| learned && c.layer.is_some());
        let open: HashMap<_, _> = layers.map(|(c, made)| (c.value, made.fate())).collect();
        let mut plain: HashMap<ValueId, Option<String>> =
            candidates.iter().map(|c| (c.value, None)).collect();
        if learned {
            open.keys().for_each(|v| drop(plain.remove(v)));
            let left = learned::run(model, open, cx)?;
            plain.extend(left.into_iter().map(|(v, why)| (v, Some(why))));
        }
        for (candidate, made) in pairs() {
            let Some(why) = plain.remove(&candidate.value) else { continue };
            let g = &mut model.graph;
            let tensor = masked(g, candidate.value, &made.mask(candidate));
            let tensor = tensor.ok_or_else(|| Error::invalid((), "a candidate holds no numbers"))?;
            let place = g.place(candidate.op);
            let mut text =
                format!("{:.1} % of `{}` are zero", 100.0 * zeros(&tensor), g.name_of(candidate.value));
            if let Some(why) = why {
                text += &format!(", chosen by size: {why}");
            }
            g.value_mut(candidate.value).origin = Origin::Initializer(tensor);
            cx.applied(place, text);
        }
        self.summarize(&model.graph, &candidates, cx);
        if self.options.store == Store::Sparse {
            let stored = store::sparse(&mut model.graph, &candidates);
            cx.count("stored by non-zero elements", stored as u64);
            if stored > 0 {
                model.ir_version = model.ir_version.max(SPARSE_SINCE);
            }
        }
        Ok(Changed::Yes)
    }
}

/// What becomes of a candidate; with scores by which elements are chosen where nothing better is known.
enum Made {
    Mask(Vec<bool>),
    Count(usize, Vec<f32>),
    Run(usize, Vec<f32>),
}

impl Made {
    fn fate(&self) -> Fate<'_> {
        match self {
            Made::Mask(mask) => Fate::Mask(mask),
            Made::Count(count, _) => Fate::Count(*count),
            Made::Run(m, _) => Fate::Run(*m),
        }
    }
    fn mask(&self, candidate: &Candidate) -> Vec<bool> {
        match self {
            Made::Mask(mask) => mask.clone(),
            Made::Count(count, scores) => mask::without(scores, *count),
            Made::Run(m, scores) => mask::by_runs(scores, candidate.lay, *m),
        }
    }
}

impl Sparsify {
    /// The pass with masks of one's own: for each weight, by name, a tensor of its shape whose zeros (or `false`s) say which
    /// elements become zero. Other weights stay as they are; `ratio`, `pattern` and `scope` say nothing then, and
    /// `criterion` only whether the weights that stay make up for the others.
    #[must_use]
    pub fn with_masks(mut self, masks: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        self.masks = Some(masks.into_iter().collect());
        self
    }
    fn criterion(&self, cx: &Context<'_>) -> Result<Criterion> {
        match self.options.criterion {
            Criterion::Auto if cx.has_samples() => Ok(Criterion::Sparsegpt),
            Criterion::Auto => Ok(Criterion::L1),
            Criterion::Wanda | Criterion::Sparsegpt if !cx.has_samples() => {
                Err(Error::usage("this `criterion` needs samples", "give some with `--calib`, or use `l1`"))
            }
            other => Ok(other),
        }
    }
    /// The user's masks, and the candidates that have one.
    fn given(
        &self,
        g: &Graph,
        candidates: &mut Vec<Candidate>,
        cx: &mut Context<'_>,
    ) -> Result<Option<Vec<Vec<bool>>>> {
        let Some(masks) = &self.masks else { return Ok(None) };
        let known = |name: &String| candidates.iter().any(|c| g.name_of(c.value) == name);
        if let Some(name) = masks.keys().find(|name| !known(name)) {
            let help =
                "masks are named as the weights that simplify leaves: `onnx-compress print` shows them";
            return Err(Error::usage(format!("`{name}` is no weight that can be made sparse"), help));
        }
        candidates.retain(|c| masks.contains_key(g.name_of(c.value)));
        let mut found = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let name = g.name_of(candidate.value);
            let (mask, weight) = (&masks[name], g.initializer(candidate.value));
            let shape = weight.map(Tensor::shape).unwrap_or_default();
            if mask.shape() != shape {
                let what = format!("the mask of `{name}` is {:?} and the weight {shape:?}", mask.shape());
                return Err(Error::usage(what, "give one of the weight's shape"));
            }
            let stays = mask.to_i64().map(|n| n.iter().map(|n| *n != 0).collect());
            let stays = stays.or_else(|| Some(mask.to_f32()?.iter().map(|x| *x != 0.0).collect()));
            let stays = stays
                .ok_or_else(|| Error::usage(format!("the mask of `{name}` is no numbers"), "use 0 and 1"))?;
            found.push(stays);
        }
        cx.count("masks", found.len() as u64);
        Ok(Some(found))
    }
    /// What becomes of each candidate by the options.
    fn made(
        &self,
        model: &Model,
        candidates: &[Candidate],
        criterion: Criterion,
        run: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Made>> {
        let mut random = ChaCha8Rng::seed_from_u64(cx.seed);
        let mut scores: Vec<Vec<f32>> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let numbers =
                model.graph.initializer(candidate.value).and_then(Tensor::to_f32).unwrap_or_default();
            let mut score = |x: &f32| if criterion == Criterion::Random { random.random() } else { x.abs() };
            scores.push(numbers.iter().map(&mut score).collect());
        }
        // Whether scores of a tensor compare with those of others.
        let mut comparable = vec![true; candidates.len()];
        let by_data = matches!(criterion, Criterion::Wanda | Criterion::Sparsegpt);
        if by_data && (criterion == Criterion::Wanda || run.is_none()) {
            let found = learned::scores(model, candidates, criterion, cx)?;
            for ((scores, comparable), found) in scores.iter_mut().zip(&mut comparable).zip(found) {
                *comparable = found.is_some();
                *scores = found.unwrap_or_else(|| std::mem::take(scores));
            }
        }
        if let Some(m) = run {
            return Ok(scores.into_iter().map(|scores| Made::Run(m, scores)).collect());
        }
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for (scores, comparable) in scores.iter().zip(&comparable) {
            if *comparable { together.push(scores.clone()) } else { alone.push(scores.clone()) }
        }
        let mut together = mask::counts(&together, self.share, self.options.scope).into_iter();
        let mut alone = mask::counts(&alone, self.share, self.options.scope).into_iter();
        let count = |comparable: bool| if comparable { together.next() } else { alone.next() };
        let counts: Vec<_> = comparable.into_iter().map(count).collect();
        let made = |(scores, count): (Vec<f32>, Option<usize>)| Made::Count(count.unwrap_or(0), scores);
        Ok(scores.into_iter().zip(counts).map(made).collect())
    }
    fn summarize(&self, g: &Graph, candidates: &[Candidate], cx: &mut Context<'_>) {
        let (mut zero, mut all) = (0.0, 0.0);
        for tensor in candidates.iter().filter_map(|c| g.initializer(c.value)) {
            zero += zeros(tensor) * tensor.len() as f64;
            all += tensor.len() as f64;
        }
        cx.count("weights", candidates.len() as u64);
        let text = format!("{:.1} % of the weights are zero", 100.0 * zero / f64::max(all, 1.0));
        cx.remark(RemarkKind::Note, (), text);
        cx.remark(RemarkKind::Note, (), DENSE);
    }
}

/// The share of elements that are zero.
fn zeros(tensor: &Tensor) -> f64 {
    let numbers = tensor.to_f32().unwrap_or_default();
    numbers.iter().filter(|x| **x == 0.0).count() as f64 / numbers.len().max(1) as f64
}

/// A weight with zeros where the mask says so.
fn masked(g: &Graph, v: ValueId, mask: &[bool]) -> Option<Tensor> {
    let tensor = g.initializer(v)?;
    let numbers = tensor.to_f32()?;
    let numbers = numbers.iter().zip(mask).map(|(x, stays)| if *stays { *x } else { 0.0 }).collect();
    Tensor::from_f32(tensor.dtype(), tensor.shape(), numbers)
}
