//! Reading protobuf's wire format in place: nothing is copied, nothing is allocated from a declared size.
//!
//! A message is a list of records, each a field number, a wire type and a payload. The readers in
//! [`import`](super::import) take from a message the fields that the IR models and leave every other record, known or
//! not, in a [`Residue`], whose bytes go back into the message when it is written.

use crate::{
    error::{Error, Result},
    ir::{Carried, Data, MappedFile},
};
use bytes::Bytes;
use std::{ops::Range, sync::Arc};

/// The bytes that messages are read from, and the mapped file they lie in, if they lie in one.
pub(super) struct Source {
    bytes: Bytes,
    file: Option<Arc<MappedFile>>,
}

/// Lets [`Bytes`] keep a mapped file alive.
struct MapOwner(Arc<MappedFile>);

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Source {
    /// Bytes in memory.
    pub(super) fn new(bytes: Bytes) -> Self {
        Source { bytes, file: None }
    }
    /// A mapped file.
    pub(super) fn mapped(file: Arc<MappedFile>) -> Self {
        Source { bytes: Bytes::from_owner(MapOwner(file.clone())), file: Some(file) }
    }
    /// The message that all the bytes make up.
    pub(super) fn message(&self) -> Message<'_> {
        Message { source: self, range: 0..self.bytes.len() }
    }
    fn data(&self, range: Range<usize>) -> Data {
        match &self.file {
            Some(file) => Data::Mapped { file: file.clone(), range },
            None => Data::Owned(self.bytes.slice(range)),
        }
    }
}

/// One encoded message.
#[derive(Clone)]
pub(super) struct Message<'a> {
    source: &'a Source,
    range: Range<usize>,
}

impl<'a> Message<'a> {
    /// Its records in the order they were written.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields { source: self.source, at: self.range.start, end: self.range.end }
    }
    /// Its bytes.
    pub(super) fn bytes(&self) -> &'a [u8] {
        &self.source.bytes[self.range.clone()]
    }
    /// An empty collection of this message's records.
    pub(super) fn residue(&self) -> Residue<'a> {
        Residue { source: self.source, kept: Vec::new() }
    }
}

/// A payload by wire type. Ranges are in the source's bytes.
enum Payload {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Delimited(Range<usize>),
    /// A group, which ONNX does not use: only ever carried along.
    Group,
}

/// One record of a message.
pub(super) struct Field<'a> {
    /// The field number.
    pub(super) number: u32,
    payload: Payload,
    record: Range<usize>,
    source: &'a Source,
}

impl<'a> Field<'a> {
    fn wrong_type(&self) -> Error {
        let why = format!(
            "byte {}: field {} is not encoded as ONNX defines it; the file is damaged or no ONNX model",
            self.record.start, self.number
        );
        Error::malformed((), why)
    }
    fn delimited(&self) -> Result<Range<usize>> {
        match &self.payload {
            Payload::Delimited(range) => Ok(range.clone()),
            _ => Err(self.wrong_type()),
        }
    }
    /// A nested message.
    pub(super) fn message(&self) -> Result<Message<'a>> {
        Ok(Message { source: self.source, range: self.delimited()? })
    }
    /// Bytes, shared with the source.
    pub(super) fn bytes(&self) -> Result<Bytes> {
        Ok(self.source.bytes.slice(self.delimited()?))
    }
    /// Bytes, as a range of the mapped file where there is one.
    pub(super) fn data(&self) -> Result<Data> {
        Ok(self.source.data(self.delimited()?))
    }
    /// The same, where this record is a whole packed list of fixed-size numbers: their bytes are as in `raw_data`.
    pub(super) fn packed(&self) -> Option<Data> {
        self.data().ok()
    }
    /// Text.
    pub(super) fn text(&self) -> Result<String> {
        let bytes = &self.source.bytes[self.delimited()?];
        let text = std::str::from_utf8(bytes).map_err(|_| {
            let why = format!("byte {}: field {} is not UTF-8 text", self.record.start, self.number);
            Error::malformed((), why)
        })?;
        Ok(text.to_owned())
    }
    /// An integer.
    pub(super) fn int(&self) -> Result<i64> {
        match self.payload {
            Payload::Varint(value) => Ok(value as i64),
            _ => Err(self.wrong_type()),
        }
    }
    /// A 32-bit float.
    pub(super) fn float(&self) -> Result<f32> {
        match self.payload {
            Payload::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.wrong_type()),
        }
    }
    /// Calls `each` with every integer of this record, packed or single.
    pub(super) fn each_int(&self, mut each: impl FnMut(i64)) -> Result<()> {
        match &self.payload {
            Payload::Varint(value) => each(*value as i64),
            Payload::Delimited(range) => {
                let mut rest = Fields { source: self.source, at: range.start, end: range.end };
                while rest.at < rest.end {
                    each(rest.varint()? as i64);
                }
            }
            _ => return Err(self.wrong_type()),
        }
        Ok(())
    }
    /// Appends the little-endian bytes of every fixed-size number of this record, packed or single.
    pub(super) fn extend_fixed(&self, out: &mut Vec<u8>) -> Result<()> {
        match &self.payload {
            Payload::Fixed32(bytes) => out.extend(bytes),
            Payload::Fixed64(bytes) => out.extend(bytes),
            Payload::Delimited(range) => out.extend(&self.source.bytes[range.clone()]),
            _ => return Err(self.wrong_type()),
        }
        Ok(())
    }
}

/// Iterates over a message's records; stops after an error.
pub(super) struct Fields<'a> {
    source: &'a Source,
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn damaged(&self, why: &str) -> Error {
        let why = format!("byte {}: {why}; the file is cut short, damaged or no ONNX model", self.at);
        Error::malformed((), why)
    }
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for (k, byte) in self.source.bytes[self.at..self.end].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * k);
            if byte & 0x80 == 0 {
                self.at += k + 1;
                return Ok(value);
            }
        }
        Err(self.damaged("a number does not end"))
    }
    fn take(&mut self, len: u64) -> Result<Range<usize>> {
        let left = self.end - self.at;
        match usize::try_from(len).ok().filter(|len| *len <= left) {
            Some(len) => {
                self.at += len;
                Ok(self.at - len..self.at)
            }
            None => Err(self.damaged(&format!("{len} bytes should follow, but only {left} do"))),
        }
    }
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let range = self.take(N as u64)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.source.bytes[range]);
        Ok(bytes)
    }
    fn key(&mut self) -> Result<(u32, u64)> {
        let key = self.varint()?;
        match u32::try_from(key >> 3) {
            Ok(number) if (1..1 << 29).contains(&number) => Ok((number, key & 7)),
            _ => Err(self.damaged("a field has an impossible number")),
        }
    }
    fn payload(&mut self, number: u32, wire_type: u64) -> Result<Payload> {
        Ok(match wire_type {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(self.fixed()?),
            2 => {
                let len = self.varint()?;
                Payload::Delimited(self.take(len)?)
            }
            3 => {
                self.skip_group(number)?;
                Payload::Group
            }
            5 => Payload::Fixed32(self.fixed()?),
            _ => return Err(self.damaged("a field has an impossible wire type")),
        })
    }
    /// Moves behind the end of a group just begun. Groups within it are tracked on the heap, a byte or more of
    /// input each.
    fn skip_group(&mut self, number: u32) -> Result<()> {
        let mut open = vec![number];
        while let Some(innermost) = open.last() {
            match self.key()? {
                (number, 3) => open.push(number),
                (number, 4) if number == *innermost => {
                    open.pop();
                }
                (number, wire_type) => {
                    self.payload(number, wire_type)?;
                }
            }
        }
        Ok(())
    }
    fn record(&mut self) -> Result<Field<'a>> {
        let start = self.at;
        let (number, wire_type) = self.key()?;
        let payload = self.payload(number, wire_type)?;
        Ok(Field { number, payload, record: start..self.at, source: self.source })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let field = self.record();
        if field.is_err() {
            self.at = self.end;
        }
        Some(field)
    }
}

/// The records of a message that its reader did not take.
pub(super) struct Residue<'a> {
    source: &'a Source,
    kept: Vec<Range<usize>>,
}

impl Residue<'_> {
    /// Keeps a record.
    pub(super) fn keep(&mut self, field: &Field<'_>) {
        match self.kept.last_mut() {
            Some(last) if last.end == field.record.start => last.end = field.record.end,
            _ => self.kept.push(field.record.clone()),
        }
    }
    /// Reads text into `slot`. Text that is there but empty is kept as well: the IR does not tell it from absent.
    pub(super) fn text(&mut self, field: &Field<'_>, slot: &mut String) -> Result<()> {
        *slot = field.text()?;
        if slot.is_empty() {
            self.keep(field);
        }
        Ok(())
    }
    /// Reads a number into `slot`. A zero that is there is kept as well: the IR does not tell it from absent.
    pub(super) fn int(&mut self, field: &Field<'_>, slot: &mut i64) -> Result<()> {
        *slot = field.int()?;
        if *slot == 0 {
            self.keep(field);
        }
        Ok(())
    }
    /// What was kept: a slice of the source where it is in one piece.
    pub(super) fn finish(self) -> Carried {
        let bytes = &self.source.bytes;
        Carried(match &self.kept[..] {
            [] => Bytes::new(),
            [one] => bytes.slice(one.clone()),
            many => many.iter().flat_map(|range| &bytes[range.clone()]).copied().collect(),
        })
    }
}

/// The records of carried bytes.
pub(super) fn carried(carried: &Carried) -> Source {
    Source::new(carried.0.clone())
}

/// Carried bytes without the records of some fields.
pub(super) fn without(bytes: &Carried, numbers: &[u32]) -> Carried {
    let source = carried(bytes);
    let message = source.message();
    let mut kept = message.residue();
    // Carried bytes were records when they were read; bytes that are not (set by a library user) cannot be written.
    for field in message.fields().map_while(Result::ok).filter(|field| !numbers.contains(&field.number)) {
        kept.keep(&field);
    }
    kept.finish()
}
