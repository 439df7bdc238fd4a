//! Calibration and test data: tensors for a model's inputs, in batches.
//!
//! - `.npz`: a key for each input; the first axis runs over samples. An input whose array has one axis more than the
//!   model declares is given sample by sample.
//! - a folder of `.npy` files named after the inputs (as one `.npz`), or of `.npz` files (one after the other), or, for a
//!   model with one input, of `.npy` files under any name;
//! - ONNX test data: a folder with `input_0.pb`..., or one with several such folders `test_data_set_*`; each is one batch.

use super::rows::{rows_of, take_rows};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, Model, Tensor, TensorType},
    lower,
    measure::Batch,
    numpy::{read_npy, read_npz},
};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// Inputs for a model, in batches.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    batches: Vec<Batch>,
    count: usize,
    /// Which rows of the data the samples are, and of how many; unknown for whole batches.
    rows: Option<(Vec<usize>, usize)>,
    pub(super) synthetic: bool,
}

/// One input as the model declares it.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) ty: TensorType,
}

/// The inputs that a run must give: those without a default.
pub(super) fn inputs_of(model: &Model) -> Vec<Input> {
    let graph = &model.graph;
    let needed = graph.inputs.iter().filter(|v| graph.initializer(**v).is_none());
    needed
        .map(|v| Input { name: graph.name_of(*v).to_owned(), ty: graph.tensor_type(*v).unwrap_or_default() })
        .collect()
}

impl Samples {
    /// Reads data for a model's inputs. `batch` is the wanted number of samples in a batch; a model with a fixed batch
    /// size gets its own. With a `limit`, that many samples are taken evenly over the whole data.
    pub fn load(path: &Path, model: &Model, batch: usize, limit: Option<usize>) -> Result<Samples> {
        let inputs = inputs_of(model);
        if !path.exists() {
            let help = "a .npz file, a folder of .npy or .npz files, or ONNX test data";
            return Err(Error::usage(format!("there is no {}", path.display()), help));
        }
        let mut samples = Samples::default();
        let sets = test_sets(path)?;
        if !sets.is_empty() {
            for set in sets.iter().take(limit.unwrap_or(usize::MAX)) {
                samples.push(read_set(set, &inputs)?);
            }
            return Ok(samples);
        }
        let sources = sources(path, &inputs)?;
        let total: usize = sources.iter().map(|s| s.count).sum();
        let keep = limit.unwrap_or(total).min(total);
        let (mut taken, mut used) = (0, Vec::with_capacity(keep));
        for source in &sources {
            // Sample k of `keep` is row k * total / keep of the whole.
            let rows: Vec<usize> = (0..keep)
                .map(|k| k * total / keep)
                .filter(|row| (taken..taken + source.count).contains(row))
                .map(|row| row - taken)
                .collect();
            let emitted = source.emit(&rows, batch.max(1), &mut samples)?;
            used.extend(rows[..emitted].iter().map(|row| row + taken));
            taken += source.count;
        }
        samples.rows = Some((used, total));
        if samples.batches.is_empty() {
            return Err(Error::usage(format!("{} holds no samples", path.display()), "give at least one"));
        }
        Ok(samples)
    }
    /// Samples that are whole batches already.
    pub fn from_batches(batches: impl IntoIterator<Item = Batch>) -> Samples {
        let mut samples = Samples::default();
        batches.into_iter().for_each(|batch| samples.push(batch));
        samples
    }
    fn push(&mut self, batch: Batch) {
        self.count += rows_of(&batch);
        self.batches.push(batch);
    }
    /// The batches.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }
    /// The batches that hold these samples, without those that hold samples before them; of the first ones at least one.
    pub fn holding(&self, samples: Range<usize>) -> &[Batch] {
        let end = self.first(samples.end.max(1));
        &self.batches[self.first(samples.start).min(end)..end]
    }
    /// How many batches hold the first `most` samples.
    fn first(&self, most: usize) -> usize {
        let mut held = 0;
        let enough = self.batches.iter().take_while(|batch| {
            let open = held < most;
            held += rows_of(batch);
            open
        });
        enough.count()
    }
    /// The number of samples in all batches, by the first axis of the first input that has one.
    pub fn len(&self) -> usize {
        self.count
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
    /// The labels of these samples, from those of the whole data that they were taken from.
    pub fn labels_of(&self, all: &[i64]) -> Result<Vec<i64>> {
        let total = self.rows.as_ref().map_or(self.count, |(_, total)| *total);
        if all.len() != total {
            let what = format!("there are {} labels for {total} samples", all.len());
            return Err(Error::usage(what, "give one label for each sample"));
        }
        Ok(match &self.rows {
            Some((rows, _)) => rows.iter().map(|row| all[*row]).collect(),
            None => all.to_vec(),
        })
    }
    /// Whether they were made up from the model's input types.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }
}

/// Arrays of one file or folder whose rows belong together.
struct Source {
    columns: Vec<Column>,
    count: usize,
    /// The batch size that the model prescribes.
    fixed: Option<usize>,
}

struct Column {
    name: String,
    data: Tensor,
    form: Form,
}

/// How the rows of an array become an input.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// The same for every sample.
    Shared,
    /// The first axis is the input's own: rows are batched.
    Stacked,
    /// One axis more than the input: one row at a time.
    Single,
}

fn sources(path: &Path, inputs: &[Input]) -> Result<Vec<Source>> {
    let has_extension = |path: &Path, wanted: &str| path.extension().is_some_and(|e| e == wanted);
    if path.is_file() {
        let arrays = match has_extension(path, "npy") {
            true => name_single(path, inputs)?,
            false => read_npz(path)?,
        };
        return Ok(vec![Source::new(path, arrays, inputs)?]);
    }
    let files = entries(path)?;
    let (mut named, mut all) = (Vec::new(), Vec::new());
    for file in &files {
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if has_extension(file, "npz") {
            all.push(Source::new(file, read_npz(file)?, inputs)?);
        } else if has_extension(file, "npy") && inputs.iter().any(|i| i.name == stem) {
            named.push((stem.to_owned(), read_npy(file)?));
        } else if has_extension(file, "npy") {
            all.push(Source::new(file, name_single(file, inputs)?, inputs)?);
        }
    }
    if !named.is_empty() {
        all.push(Source::new(path, named, inputs)?);
    }
    if all.is_empty() {
        let help = "expected .npy or .npz files, input_*.pb, or test_data_set_* folders";
        return Err(Error::usage(format!("{} holds no data", path.display()), help));
    }
    Ok(all)
}

/// A `.npy` file that is the only input's; one sample without its leading axis gets one.
fn name_single(path: &Path, inputs: &[Input]) -> Result<Vec<(String, Tensor)>> {
    let [input] = inputs else {
        let help = "name each file after its input, or use a .npz file with a key for each";
        let names: Vec<_> = inputs.iter().map(|i| i.name.as_str()).collect();
        let what =
            format!("{} does not say which of the inputs {} it is for", path.display(), names.join(", "));
        return Err(Error::usage(what, help));
    };
    let mut data = read_npy(path)?;
    if input.ty.rank() == Some(data.rank() + 1) {
        let shape: Vec<usize> = std::iter::once(1).chain(data.shape().iter().copied()).collect();
        data = data.reshaped(shape);
    }
    Ok(vec![(input.name.clone(), data)])
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |why| Error::io("cannot read", folder, why);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

impl Source {
    fn new(path: &Path, arrays: Vec<(String, Tensor)>, inputs: &[Input]) -> Result<Source> {
        let declared = || inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(input) = inputs.iter().find(|i| !arrays.iter().any(|(key, _)| *key == i.name)) {
            let keys: Vec<_> = arrays.iter().map(|(key, _)| key.as_str()).collect();
            let what = format!("{} has no data for input `{}`", path.display(), input.name);
            return Err(Error::usage(what, format!("its keys are {}", keys.join(", "))));
        }
        let (mut columns, mut count, mut fixed) = (Vec::new(), None, None);
        for (key, data) in arrays {
            let Some(input) = inputs.iter().find(|i| i.name == key) else {
                // Labels travel with the data they belong to.
                if key == "labels" {
                    continue;
                }
                let what = format!("{} has the key `{key}`, which is no input", path.display());
                return Err(Error::usage(what, format!("the inputs are {}", declared())));
            };
            let data = as_declared(&data, input)?;
            let form = match input.ty.rank() {
                _ if data.rank() == 0 => Form::Shared,
                Some(rank) if data.rank() == rank + 1 => Form::Single,
                _ => Form::Stacked,
            };
            check_shape(&data, input, form)?;
            let rows = (form != Form::Shared).then(|| data.shape()[0]);
            if let (Some(rows), Some((first, other))) = (rows, &count)
                && rows != *first
            {
                let what = format!("`{key}` has {rows} samples and `{other}` has {first}");
                return Err(Error::usage(what, "the first axis of every key runs over the same samples"));
            }
            if form == Form::Stacked {
                let first = input.ty.shape.as_ref().and_then(|s| s.first()?.known());
                fixed = fixed.or(first.filter(|n| *n > 0));
            }
            count = count.or(rows.map(|rows| (rows, key.clone())));
            columns.push(Column { name: key, data, form });
        }
        if columns.iter().any(|c| c.form == Form::Single) {
            fixed = Some(1);
        }
        Ok(Source { columns, count: count.map_or(1, |(rows, _)| rows), fixed })
    }
    /// Adds the given rows in batches and returns how many. Where the model fixes its batch size, rows that do not fill
    /// one are left out.
    fn emit(&self, rows: &[usize], batch: usize, into: &mut Samples) -> Result<usize> {
        let size = self.fixed.unwrap_or(batch);
        let mut emitted = 0;
        for rows in rows.chunks(size) {
            if self.fixed.is_some_and(|n| rows.len() < n) {
                break;
            }
            let mut one = Batch::with_capacity(self.columns.len());
            for column in &self.columns {
                let tensor = match column.form {
                    Form::Shared => column.data.clone(),
                    Form::Stacked => take_rows(&column.data, rows)?,
                    Form::Single => {
                        let row = take_rows(&column.data, &rows[..1])?;
                        row.reshaped(&row.shape()[1..])
                    }
                };
                one.push((column.name.clone(), tensor));
            }
            emitted += rows.len();
            into.batches.push(one);
        }
        into.count += emitted;
        Ok(emitted)
    }
}

/// The data in the type the model declares: floats convert to floats, integers to integers that hold them.
fn as_declared(data: &Tensor, input: &Input) -> Result<Tensor> {
    let Some(wanted) = input.ty.dtype.filter(|wanted| *wanted != data.dtype()) else {
        return Ok(data.clone());
    };
    let shape = data.shape();
    let mismatch = || {
        let what = format!("the data for input `{}` is {}", input.name, data.dtype());
        Error::usage(what, format!("the model takes {wanted}"))
    };
    if let Some(values) = data.to_f32() {
        return Tensor::from_f32(wanted, shape, values.into_owned()).ok_or_else(mismatch);
    }
    fn narrowed<T: crate::ir::Element + TryFrom<i64>>(shape: &[usize], values: &[i64]) -> Option<Tensor> {
        let fitting: Option<Vec<T>> = values.iter().map(|x| T::try_from(*x).ok()).collect();
        Some(Tensor::from_vec(shape, fitting?))
    }
    let values = data.to_i64().ok_or_else(mismatch)?;
    match wanted {
        DType::I64 => narrowed::<i64>(shape, &values),
        DType::I32 => narrowed::<i32>(shape, &values),
        DType::I16 => narrowed::<i16>(shape, &values),
        DType::I8 => narrowed::<i8>(shape, &values),
        DType::U64 => narrowed::<u64>(shape, &values),
        DType::U32 => narrowed::<u32>(shape, &values),
        DType::U16 => narrowed::<u16>(shape, &values),
        DType::U8 => narrowed::<u8>(shape, &values),
        _ => None,
    }
    .ok_or_else(mismatch)
}

/// Compares an array with the declared shape; the first axis of a stacked array is the samples'.
fn check_shape(data: &Tensor, input: &Input, form: Form) -> Result<()> {
    let Some(declared) = &input.ty.shape else { return Ok(()) };
    let (given, wanted): (&[usize], &[Dim]) = match form {
        Form::Shared => (data.shape(), declared),
        Form::Stacked => (&data.shape()[1..], declared.get(1..).unwrap_or_default()),
        Form::Single => (&data.shape()[1..], declared),
    };
    let fits = given.len() == wanted.len()
        && given.iter().zip(wanted).all(|(n, dim)| dim.known().is_none_or(|known| known == *n));
    if fits {
        return Ok(());
    }
    let dims: Vec<_> = declared.iter().map(ToString::to_string).collect();
    let what = format!("the data for input `{}` has shape {:?}", input.name, data.shape());
    Err(Error::usage(
        what,
        format!("the model takes [{}], the first axis running over samples", dims.join(", ")),
    ))
}

/// The folders of ONNX test data at a path: itself, or those in it.
fn test_sets(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    if path.join("input_0.pb").is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut sets = entries(path)?;
    sets.retain(|folder| folder.join("input_0.pb").is_file());
    Ok(sets)
}

/// The tensors `input_0.pb`, `input_1.pb`... of a folder, for the inputs in order.
fn read_set(folder: &Path, inputs: &[Input]) -> Result<Batch> {
    let mut batch = Batch::new();
    for (k, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("input_{k}.pb"));
        let bytes = fs::read(&path).map_err(|why| Error::io("cannot read", &path, why))?;
        let unread = |why: Error| Error::malformed((), format!("{}: {why}", path.display()));
        let (_, tensor) = lower::tensor_from_proto(bytes.into()).map_err(unread)?;
        batch.push((input.name.clone(), tensor));
    }
    Ok(batch)
}
