//! NumPy's `.npy` and `.npz` files as tensors.

use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};
use half::f16;
use npyz::{NpyFile, Order, TypeChar, npz::NpzArchive};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

fn unreadable(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |why| Error::io("cannot read", path, why)
}

/// Every array of a `.npz` file, by key in the file's order.
pub(crate) fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut archive = NpzArchive::open(path).map_err(unreadable(path))?;
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut arrays = Vec::with_capacity(names.len());
    for name in names {
        let Some(array) = archive.by_name(&name).map_err(unreadable(path))? else { continue };
        let tensor = read_array(array, path, &name)?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// The array of a `.npy` file.
pub(crate) fn read_npy(path: &Path) -> Result<Tensor> {
    let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
    read_array(NpyFile::new(file).map_err(unreadable(path))?, path, "")
}

fn read_array<R: Read>(array: NpyFile<R>, path: &Path, key: &str) -> Result<Tensor> {
    let at =
        if key.is_empty() { path.display().to_string() } else { format!("`{key}` in {}", path.display()) };
    let shape = array.shape().iter().map(|d| usize::try_from(*d));
    let shape: Vec<usize> =
        shape.collect::<Result<_, _>>().map_err(|_| Error::malformed((), format!("{at}: too large")))?;
    if array.order() == Order::Fortran && shape.len() > 1 {
        let help = "save it as numpy.ascontiguousarray(x)";
        return Err(Error::usage(format!("{at} is stored column by column"), help));
    }
    let npyz::DType::Plain(ty) = array.dtype() else {
        return Err(Error::usage(format!("{at} is a record array"), "save plain arrays of numbers"));
    };
    macro_rules! read {
        ($t:ty) => {{
            let values: Vec<$t> = array.into_vec().map_err(unreadable(path))?;
            Tensor::from_vec(shape, values)
        }};
    }
    Ok(match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 2) => read!(f16),
        (TypeChar::Float, 4) => read!(f32),
        (TypeChar::Float, 8) => read!(f64),
        (TypeChar::Int, 1) => read!(i8),
        (TypeChar::Int, 2) => read!(i16),
        (TypeChar::Int, 4) => read!(i32),
        (TypeChar::Int, 8) => read!(i64),
        (TypeChar::Uint, 1) => read!(u8),
        (TypeChar::Uint, 2) => read!(u16),
        (TypeChar::Uint, 4) => read!(u32),
        (TypeChar::Uint, 8) => read!(u64),
        (TypeChar::Bool, _) => {
            let flags: Vec<bool> = array.into_vec().map_err(unreadable(path))?;
            Tensor::new(DType::Bool, shape, flags.into_iter().map(u8::from).collect::<Vec<_>>())?
        }
        _ => {
            let what = format!("{at} has the element type {}", array.dtype().descr());
            return Err(Error::usage(what, "floats, integers and bool are read"));
        }
    })
}

/// Class labels: the key `labels` of a `.npz` file (or its only array), or a `.npy` file; whole numbers, one a sample.
pub fn read_labels(path: &Path) -> Result<Vec<i64>> {
    let labels = match path.extension().is_some_and(|e| e == "npz") {
        false => read_npy(path)?,
        true => {
            let mut arrays = read_npz(path)?;
            let at = arrays.iter().position(|(key, _)| key == "labels").or((arrays.len() == 1).then_some(0));
            let absent = || {
                Error::usage(format!("{} has no labels", path.display()), "give them under the key `labels`")
            };
            arrays.swap_remove(at.ok_or_else(absent)?).1
        }
    };
    let what =
        || format!("the labels in {} are {} of shape {:?}", path.display(), labels.dtype(), labels.shape());
    let whole = labels.to_i64().filter(|_| labels.rank() == 1);
    whole.ok_or_else(|| Error::usage(what(), "give one whole number for each sample"))
}
