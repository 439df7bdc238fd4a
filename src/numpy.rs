//! NumPy's `.npy` and `.npz` files as tensors.

use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};
use npyz::{Endianness, NpyFile, Order, TypeChar, npz::NpzArchive};
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
    let too_large = || Error::usage(format!("{at} claims more bytes than there can be"), "save it again");
    let shape: Vec<usize> = shape.collect::<Result<_, _>>().map_err(|_| too_large())?;
    if array.order() == Order::Fortran && shape.len() > 1 {
        let help = "save it as numpy.ascontiguousarray(x)";
        return Err(Error::usage(format!("{at} is stored column by column"), help));
    }
    let npyz::DType::Plain(ty) = array.dtype() else {
        return Err(Error::usage(format!("{at} is a record array"), "save plain arrays of numbers"));
    };
    let dtype = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Bool, _) => DType::Bool,
        _ => {
            let what = format!("{at} has the element type {}", array.dtype().descr());
            return Err(Error::usage(what, "floats, integers and bool are read"));
        }
    };
    let size = ty.size_field();
    let needed = array.shape().iter().try_fold(size, |bytes, dim| bytes.checked_mul(*dim));
    let needed = needed.ok_or_else(too_large)?;
    // All at once: a file of samples is large, and an element at a time would take ten times as long.
    let mut bytes = Vec::new();
    array.into_inner().take(needed).read_to_end(&mut bytes).map_err(unreadable(path))?;
    if (bytes.len() as u64) < needed {
        let help = "save it again";
        return Err(Error::usage(format!("{at} ends after {} of {needed} bytes", bytes.len()), help));
    }
    if ty.endianness() == Endianness::Big {
        bytes.chunks_exact_mut(size as usize).for_each(<[u8]>::reverse);
    }
    Tensor::new(dtype, shape, bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;

    /// The numbers 0 to 5 as a 2 x 3 array of this type.
    fn file<T: npyz::Serialize + From<u8>>(dtype: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().dtype(npyz::DType::Plain(dtype.parse().unwrap()));
        let mut writer = options.shape(&[2, 3]).writer(&mut bytes).begin_nd().unwrap();
        (0..6u8).for_each(|k| writer.push(&T::from(k)).unwrap());
        writer.finish().unwrap();
        bytes
    }
    fn read(bytes: &[u8]) -> Result<Tensor> {
        read_array(NpyFile::new(bytes).unwrap(), Path::new("x.npy"), "")
    }

    #[test]
    fn either_order_of_bytes_is_read() {
        for dtype in ["<f4", ">f4"] {
            let tensor = read(&file::<f32>(dtype)).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::F32, &[2, 3][..]));
            assert_eq!(tensor.to_f32().unwrap()[..], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{dtype}");
        }
        for dtype in ["<i8", ">i8"] {
            assert_eq!(
                read(&file::<i64>(dtype)).unwrap().to_i64().unwrap()[..],
                [0, 1, 2, 3, 4, 5],
                "{dtype}"
            );
        }
        assert_eq!(read(&file::<u8>("|u1")).unwrap().bytes(), [0, 1, 2, 3, 4, 5]);
    }
    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let bytes = file::<f32>("<f4");
        let why = read(&bytes[..bytes.len() - 1]).unwrap_err().to_string();
        assert!(why.contains("x.npy ends after 23 of 24 bytes"), "{why}");
    }
}
