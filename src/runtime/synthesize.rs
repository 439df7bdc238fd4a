//! Inputs made up from a model's input types, for models without data.
//!
//! Floats are drawn from the normal distribution, integers from a small range chosen by what the input's name says it
//! is (a mask, token ids, a sampling rate). Free dimensions are set by the caller or guessed: a leading one is a batch of
//! 1, the two of an image are tried in common sizes, sound is at least a frame long, others are tried in common lengths.
//! A guess counts once ONNX Runtime has run the model with it.

use super::{
    Optimize, Runtime, Samples, Session, SessionOptions,
    samples::{Input, inputs_of},
};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, Element, Model, Tensor},
    measure::Batch,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct Synthesis {
    /// Extents of named dimensions.
    pub dims: Vec<(String, usize)>,
    /// The seed of the random values.
    pub seed: u64,
    /// How many batches; at least one is made.
    pub batches: usize,
}

/// The least length of sound: to a shorter piece a model of speech answers next to nothing.
const FRAME: usize = 576;
/// Guesses for free dimensions: height and width of an image, the length of anything else, the largest token id.
type Guess = ([usize; 2], usize, i64);
const GUESSES: &[Guess] = &[
    ([64, 64], 16, 100),
    ([32, 32], 32, 1),
    ([224, 224], 512, 1),
    ([48, 320], 576, 1),
    ([32, 100], 1024, 0),
    ([128, 128], 16_000, 0),
    ([640, 640], 1, 0),
];

impl Samples {
    /// Makes up inputs that ONNX Runtime accepts for this model.
    pub fn synthesize(runtime: &Runtime, model: &Model, what: &Synthesis) -> Result<Samples> {
        let inputs = inputs_of(model);
        check_dims(&inputs, &what.dims)?;
        // Whether it runs does not depend on rewrites, which take longer than a run.
        let as_written = SessionOptions { optimize: Optimize::Off, ..SessionOptions::default() };
        let session = Session::new(runtime, model, &as_written)?;
        let mut first_failure = None;
        for guess in GUESSES {
            let batch = |n: u64| make(&inputs, &what.dims, guess, what.seed.wrapping_add(n));
            let first = batch(0)?;
            match session.run(&first) {
                Ok(_) => {
                    let rest = (1..what.batches.max(1) as u64).map(batch).collect::<Result<Vec<_>>>()?;
                    let mut samples = Samples::from_batches(std::iter::once(first).chain(rest));
                    samples.synthetic = true;
                    return Ok(samples);
                }
                Err(why) => first_failure = first_failure.or(Some(why)),
            }
        }
        let why = first_failure.map_or_else(String::new, |why| format!(": {why}"));
        Err(Error::usage(
            format!("no inputs could be made up that this model runs with{why}"),
            "set its free dimensions, or give samples",
        ))
    }
}

fn check_dims(inputs: &[Input], dims: &[(String, usize)]) -> Result<()> {
    let free: Vec<&str> = inputs
        .iter()
        .flat_map(|input| input.ty.shape.iter().flatten())
        .filter_map(|dim| match dim {
            Dim::Symbol(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    match dims.iter().find(|(name, _)| !free.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) if free.is_empty() => Err(Error::usage(
            format!("no input has a dimension `{name}`"),
            "this model has no free dimensions",
        )),
        Some((name, _)) => {
            let help = format!("the free dimensions are {}", free.join(", "));
            Err(Error::usage(format!("no input has a dimension `{name}`"), help))
        }
    }
}

/// The shape to try: given dimensions first, then what a dimension of this place and name usually is.
fn shape(input: &Input, leading: &[&str], dims: &[(String, usize)], guess: &Guess) -> Vec<usize> {
    let Some(declared) = &input.ty.shape else { return vec![1] };
    let image = declared.len() == 4;
    let channels_last = image && matches!(declared[3], Dim::Known(1 | 3 | 4));
    // Floats of one dimension besides the batch are samples of sound; text is integers, features have two.
    let sound = declared.len() == 2 && matches!(input.ty.dtype, Some(DType::F32 | DType::F16));
    let pixels = if channels_last { [1, 2] } else { [2, 3] };
    let extent = |(at, dim): (usize, &Dim)| match dim {
        Dim::Known(n) => *n,
        Dim::Symbol(name) if dims.iter().any(|(given, _)| given == name) => {
            dims.iter().find(|(given, _)| given == name).map_or(1, |(_, n)| *n)
        }
        _ if at == 0 => 1,
        Dim::Symbol(name) if leading.contains(&name.as_str()) || name.contains("batch") => 1,
        _ if image && at == pixels[0] => guess.0[0],
        _ if image && at == pixels[1] => guess.0[1],
        _ if image => 3,
        // An unnamed dimension between known ones is the batch of a recurrent state.
        Dim::Unknown if at + 1 < declared.len() && declared[0].known().is_some() => 1,
        _ if sound => guess.1.max(FRAME),
        _ => guess.1,
    };
    declared.iter().enumerate().map(extent).collect()
}

fn make(inputs: &[Input], dims: &[(String, usize)], guess: &Guess, seed: u64) -> Result<Batch> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let leading: Vec<&str> = inputs
        .iter()
        .filter(|input| input.ty.rank() != Some(1))
        .filter_map(|input| match input.ty.shape.as_ref()?.first()? {
            Dim::Symbol(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let one = |input: &Input| {
        let shape = shape(input, &leading, dims, guess);
        Ok((input.name.clone(), values(input, shape, guess.2, &mut random)?))
    };
    inputs.iter().map(one).collect()
}

/// A standard normal number, by the method of Box and Muller.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

fn values(input: &Input, shape: Vec<usize>, largest_id: i64, random: &mut ChaCha8Rng) -> Result<Tensor> {
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 31);
    let Some(count) = count else {
        let help = "set its free dimensions, or give samples";
        return Err(Error::usage(
            format!("input `{}` of shape {shape:?} is too large to make up", input.name),
            help,
        ));
    };
    let dtype = input.ty.dtype.unwrap_or(DType::F32);
    if matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        let drawn = (0..count).map(|_| normal(random)).collect();
        return Ok(Tensor::from_f32(dtype, shape, drawn).expect("these are the types it makes"));
    }
    let range = integers(&input.name.to_lowercase(), dtype, &shape, largest_id);
    let mut draw = || random.random_range(range.clone());
    fn whole<T: Element + TryFrom<i64> + Default>(
        shape: Vec<usize>,
        count: usize,
        mut draw: impl FnMut() -> i64,
    ) -> Tensor {
        let values = (0..count).map(|_| T::try_from(draw()).unwrap_or_default()).collect();
        Tensor::from_vec(shape, values)
    }
    Ok(match dtype {
        DType::I64 => whole::<i64>(shape, count, draw),
        DType::I32 => whole::<i32>(shape, count, draw),
        DType::I16 => whole::<i16>(shape, count, draw),
        DType::I8 => whole::<i8>(shape, count, draw),
        DType::U64 => whole::<u64>(shape, count, draw),
        DType::U32 => whole::<u32>(shape, count, draw),
        DType::U16 => whole::<u16>(shape, count, draw),
        DType::U8 => whole::<u8>(shape, count, draw),
        DType::Bool => {
            Tensor::new(DType::Bool, shape, (0..count).map(|_| draw() as u8 & 1).collect::<Vec<_>>())?
        }
        DType::String => Tensor::strings(shape, vec![bytes::Bytes::from_static(b"a"); count])?,
        other => {
            let what = format!("values of type {other} cannot be made up for input `{}`", input.name);
            return Err(Error::usage(what, "give samples"));
        }
    })
}

/// The range of an integer input, by what its name says it is.
fn integers(name: &str, dtype: DType, shape: &[usize], largest_id: i64) -> std::ops::RangeInclusive<i64> {
    let says = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match dtype {
        DType::Bool => 0..=1,
        _ if says(&["mask"]) => 1..=1,
        _ if says(&["type", "segment"]) => 0..=0,
        _ if shape.is_empty() && (name == "sr" || says(&["rate"])) => 16_000..=16_000,
        _ if shape.is_empty() => 0..=0,
        _ if says(&["len"]) => 1..=1,
        DType::U8 if shape.len() == 4 => 0..=255,
        _ => 0..=largest_id,
    }
}
