//! Writing protobuf's wire format without copying weights: small parts are gathered in one buffer, large ones are
//! references to where the bytes lie, put in place when the message is written out.

use crate::ir::{Carried, Data, MappedFile};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
};

/// Smaller data is copied: a reference would cost more than it saves.
const LARGE: usize = 1024;

/// An encoded message, or the part of it written so far.
#[derive(Default)]
pub(super) struct Rope {
    buffer: Vec<u8>,
    /// Data that stands before the given place in the buffer, in order.
    large: Vec<(usize, Data)>,
    large_len: usize,
}

impl Rope {
    /// The number of bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() + self.large_len
    }
    /// Appends records as they were read.
    pub(super) fn carried(&mut self, carried: &Carried) {
        self.append(Data::Owned(carried.0.clone()));
    }
    /// A field with a number in it.
    pub(super) fn int(&mut self, field: u32, value: i64) {
        encode_key(field, WireType::Varint, &mut self.buffer);
        encode_varint(value as u64, &mut self.buffer);
    }
    /// A field with a 32-bit float in it.
    pub(super) fn float(&mut self, field: u32, value: f32) {
        encode_key(field, WireType::ThirtyTwoBit, &mut self.buffer);
        self.buffer.extend(value.to_le_bytes());
    }
    /// A field with bytes in it.
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.delimited(field, bytes.len());
        self.buffer.extend(bytes);
    }
    /// A field with text in it, left out where the text is empty.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }
    /// A field with a tensor's bytes in it.
    pub(super) fn data(&mut self, field: u32, data: Data) {
        self.delimited(field, data.len());
        self.append(data);
    }
    /// A field with a packed list of integers in it.
    pub(super) fn packed(&mut self, field: u32, values: impl Iterator<Item = i64> + Clone) {
        self.delimited(field, values.clone().map(|value| encoded_len_varint(value as u64)).sum());
        values.for_each(|value| encode_varint(value as u64, &mut self.buffer));
    }
    /// A field with a message in it.
    pub(super) fn message(&mut self, field: u32, message: Rope) {
        self.delimited(field, message.len());
        let start = self.buffer.len();
        self.buffer.extend(message.buffer);
        self.large_len += message.large_len;
        self.large.extend(message.large.into_iter().map(|(at, data)| (start + at, data)));
    }
    fn delimited(&mut self, field: u32, len: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.buffer);
        encode_varint(len as u64, &mut self.buffer);
    }
    fn append(&mut self, data: Data) {
        if data.len() < LARGE {
            self.buffer.extend(data.as_slice());
        } else {
            self.large_len += data.len();
            self.large.push((self.buffer.len(), data));
        }
    }
    /// Gives back what passes read of the files that the data lies in: writing does not go through memory.
    fn release(&self) {
        let mut last: Option<&Arc<MappedFile>> = None;
        for (_, data) in &self.large {
            if let Data::Mapped { file, .. } = data
                && !last.is_some_and(|last| Arc::ptr_eq(last, file))
            {
                file.release_all();
                last = Some(file);
            }
        }
    }
    /// Everything in one buffer.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        let mut done = 0;
        for (at, data) in &self.large {
            out.extend(&self.buffer[done..*at]);
            out.extend(&*data.part(0..data.len()));
            done = *at;
        }
        out.extend(&self.buffer[done..]);
        out
    }
    /// Writes everything at the file's current position.
    pub(super) fn write_to(&self, file: &mut File) -> io::Result<()> {
        self.release();
        if self.large.iter().any(|(_, data)| matches!(data, Data::Deferred(_))) {
            // Blocks are computed by rayon's threads; one of them need not be woken for each.
            return rayon::scope(|_| self.write_in_order(file));
        }
        self.write_in_order(file)
    }
    fn write_in_order(&self, file: &mut File) -> io::Result<()> {
        let mut done = 0;
        for (at, data) in &self.large {
            file.write_all(&self.buffer[done..*at])?;
            write_data(data, file)?;
            done = *at;
        }
        file.write_all(&self.buffer[done..])
    }
}

/// Writes a tensor's bytes at the file's current position, from file to file where they lie in one.
pub(super) fn write_data(data: &Data, file: &mut File) -> io::Result<()> {
    match data {
        Data::Owned(bytes) => file.write_all(bytes),
        Data::Mapped { file: from, range } => from.copy_to(range.clone(), file),
        Data::Deferred(deferred) => deferred.write_to(file),
    }
}
