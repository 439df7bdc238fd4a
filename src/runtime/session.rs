//! A model ready to run.

use super::{
    Runtime,
    convert::{self, Memory},
    failed,
    weights::Apart,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Data, Model, Tensor},
    lower,
    measure::Batch,
};
use ort::{
    ep,
    session::{Session as OrtSession, builder::GraphOptimizationLevel},
    value::ValueType,
};
use serde::{Deserialize, Serialize};
use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What executes a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU. Where it is not usable that is an error, never a silent fallback.
    Cuda,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
        })
    }
}

/// How far ONNX Runtime rewrites the graph before running it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Optimize {
    /// Not at all: every node runs as written.
    Off,
    /// Rewrites that keep the meaning of each node.
    Basic,
    /// Fused kernels too, but nothing in layouts of this processor, for which it holds the weights of convolutions twice.
    Fused,
    /// Everything, as in deployment: fused and provider-specific kernels.
    #[default]
    All,
}

/// How a [`Session`] runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// What executes the model.
    pub provider: Provider,
    /// Threads within an operator; `None` leaves the choice to ONNX Runtime (one per physical core).
    pub threads: Option<usize>,
    /// How far the graph is rewritten.
    pub optimize: Optimize,
    /// Keeps activations in float where a weight alone is quantized. Without it ONNX Runtime may also quantize the
    /// activations of such a MatMul on the fly, which is faster and costs about 0.6 % of accuracy in its result.
    pub exact_qdq: bool,
    /// Lets threads sleep while they wait for work, where they else keep a processor busy: for runs between which others
    /// work. With two processors, looks at models side by side took half of the time so. Memory is not planned for many runs, and
    /// outputs are computed as early as they can be: values that are only reduced are not held.
    pub yielding: bool,
    /// Writes the rewritten graph there, to see which kernels were chosen.
    pub optimized_model: Option<PathBuf>,
}

/// A model loaded into ONNX Runtime.
pub struct Session {
    session: Mutex<OrtSession>,
    memory: Arc<Memory>,
    inputs: Vec<String>,
    /// The element types of the inputs that are tensors, in the order of their names.
    types: Vec<Option<DType>>,
    outputs: Vec<String>,
    /// Where the weights lie while the session may still read them.
    folder: Option<tempfile::TempDir>,
}

/// Protobuf refuses messages of 2 GiB; the graph itself takes some room too.
const LARGEST_MESSAGE: usize = 1_900 << 20;
const REFUSED: &str = "the model was refused";

impl Session {
    /// Loads a model. One too large for a single message goes through a temporary file with external data.
    pub fn new(runtime: &Runtime, model: &Model, options: &SessionOptions) -> Result<Session> {
        // A rewritten graph that is written down needs its weights.
        if options.optimized_model.is_none() {
            return Session::sharing(runtime, model, options);
        }
        if model.graph.initializer_bytes() < LARGEST_MESSAGE {
            return Session::from_bytes(runtime, &lower::to_bytes(model)?, options);
        }
        let folder = tempfile::tempdir().map_err(|why| Error::io("cannot create", env::temp_dir(), why))?;
        let path = folder.path().join("model.onnx");
        let how = lower::SaveOptions { external_data: lower::ExternalData::Always };
        lower::save(model, &path, &how)?;
        let mut session = Session::from_file(runtime, &path, options)?;
        session.folder = Some(folder);
        Ok(session)
    }
    /// Loads a model whose large weights it reads where other sessions do.
    fn sharing(runtime: &Runtime, model: &Model, options: &SessionOptions) -> Result<Session> {
        let weights = Apart::of(model);
        let bytes = lower::to_bytes_without(model, &weights.numbers, options.yielding)?;
        let (mut builder, weights) = weights.give_to(prepare(runtime, options)?)?;
        let session = builder.commit_from_memory(&bytes).map_err(|why| failed(REFUSED, &why))?;
        Ok(Session::over(session, weights))
    }
    /// Loads a serialized model that holds all its data.
    pub fn from_bytes(runtime: &Runtime, model: &[u8], options: &SessionOptions) -> Result<Session> {
        let session = prepare(runtime, options)?.commit_from_memory(model);
        Ok(Session::over(session.map_err(|why| failed(REFUSED, &why))?, Vec::new()))
    }
    /// Loads a model file, with its external data beside it.
    pub fn from_file(runtime: &Runtime, path: &Path, options: &SessionOptions) -> Result<Session> {
        let session = prepare(runtime, options)?.commit_from_file(path);
        Ok(Session::over(session.map_err(|why| failed(REFUSED, &why))?, Vec::new()))
    }
    fn over(session: OrtSession, weights: Vec<Arc<Data>>) -> Session {
        let names = |outlets: &[ort::value::Outlet]| outlets.iter().map(|o| o.name().to_owned()).collect();
        let dtype = |outlet: &ort::value::Outlet| match outlet.dtype() {
            ValueType::Tensor { ty, .. } => convert::dtype_of(*ty),
            _ => None,
        };
        Session {
            inputs: names(session.inputs()),
            types: session.inputs().iter().map(dtype).collect(),
            outputs: names(session.outputs()),
            memory: Arc::new(Memory { _session: session.inner(), _weights: weights }),
            session: Mutex::new(session),
            folder: None,
        }
    }
    /// The names of the inputs that a batch must give, in the model's order.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }
    /// What of a batch the model takes; reals of another precision than it takes become those.
    pub fn take(&self, batch: &Batch) -> Batch {
        let taken = batch.iter().filter_map(|(name, tensor)| {
            let at = self.inputs.iter().position(|input| input == name)?;
            let other = self.types[at].filter(|dtype| dtype.is_float() && *dtype != tensor.dtype());
            let other = other
                .and_then(|dtype| Tensor::from_f32(dtype, tensor.shape(), tensor.to_f32()?.into_owned()));
            Some((name.clone(), other.unwrap_or_else(|| tensor.clone())))
        });
        taken.collect()
    }
    /// The names of the outputs, in the model's order.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }
    /// Runs the model. The batch must name every input (those with defaults may be left out); returns every output in
    /// the model's order. Values that are no tensors (sequences, maps) are an error.
    pub fn run(&self, batch: &Batch) -> Result<Batch> {
        let given = batch.iter().map(|(name, tensor)| Ok((name.as_str(), convert::input(name, tensor)?)));
        let given = given.collect::<Result<Vec<_>>>()?;
        let mut session = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut results = session.run(given).map_err(|why| failed("running the model", &why))?;
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let missing = || Error::Runtime(format!("output `{name}` was not computed"));
            let value = results.remove(name).ok_or_else(missing)?;
            outputs.push((name.clone(), convert::output(name, value, &self.memory)?));
        }
        Ok(outputs)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("inputs", &self.inputs).field("outputs", &self.outputs).finish()
    }
}

fn prepare(runtime: &Runtime, options: &SessionOptions) -> Result<ort::session::builder::SessionBuilder> {
    let level = match options.optimize {
        Optimize::Off => GraphOptimizationLevel::Disable,
        Optimize::Basic => GraphOptimizationLevel::Level1,
        Optimize::Fused => GraphOptimizationLevel::Level2,
        Optimize::All => GraphOptimizationLevel::All,
    };
    let refused = "session options";
    // What ONNX Runtime logs as an error it also returns as one, and we tell it there.
    let mut builder = OrtSession::builder(&runtime.environment()?)
        .map_err(|why| failed(refused, &why))?
        .with_log_level(ort::logging::LogLevel::Fatal)
        .map_err(|why| failed(refused, &why))?
        .with_optimization_level(level)
        .map_err(|why| failed(refused, &why))?;
    if let Some(threads) = options.threads {
        builder = builder.with_intra_threads(threads).map_err(|why| failed(refused, &why))?;
    }
    if options.yielding {
        builder = builder.with_intra_op_spinning(false).map_err(|why| failed(refused, &why))?;
        // One block planned for all values of a run holds more than they take, and pays only over many runs.
        builder = builder.with_memory_pattern(false).map_err(|why| failed(refused, &why))?;
    }
    if options.exact_qdq {
        let key = "session.qdq_matmulnbits_accuracy_level";
        builder = builder.with_config_entry(key, "0").map_err(|why| failed(refused, &why))?;
    }
    if let Some(path) = &options.optimized_model {
        builder = builder.with_optimized_model_path(path).map_err(|why| failed(refused, &why))?;
    }
    if options.provider == Provider::Cuda {
        let cuda = ep::CUDA::default().build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(|why| {
            Error::Runtime(format!(
                "CUDA is not usable with {} ({why}). It takes an NVIDIA GPU with its driver, the package \
                 onnxruntime-gpu (`python3 -m pip install onnxruntime-gpu`, then --ort or ORT_DYLIB_PATH to its \
                 library), and CUDA and cuDNN on the library path; or run with --provider cpu.",
                runtime.path().display()
            ))
        })?;
    }
    Ok(builder)
}
