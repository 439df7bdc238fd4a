//! Where encoded bytes go: memory, or a file that takes ranges of other files without passing them through memory.

use crate::ir::Data;
use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
};

/// Takes bytes and tensor data in order.
pub(super) trait Sink {
    /// Bytes at hand.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The bytes of a tensor.
    fn data(&mut self, data: &Data) -> io::Result<()> {
        self.bytes(data.as_slice())
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A file being written.
pub(super) struct FileSink<'a>(BufWriter<&'a File>);

/// Below this many bytes the buffer is faster than a copy by the kernel.
const SMALL: usize = 64 << 10;

impl<'a> FileSink<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        FileSink(BufWriter::with_capacity(1 << 20, file))
    }
    /// Pads with zeros up to a multiple of `alignment`, and says where that is.
    pub(super) fn align(&mut self, at: u64, alignment: u64) -> io::Result<u64> {
        let aligned = at.next_multiple_of(alignment);
        io::copy(&mut io::repeat(0).take(aligned - at), &mut self.0)?;
        Ok(aligned)
    }
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for FileSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn data(&mut self, data: &Data) -> io::Result<()> {
        match data {
            Data::Mapped { file, range } if range.len() > SMALL => {
                self.0.flush()?;
                let mut source = file.file();
                source.seek(SeekFrom::Start(range.start as u64))?;
                let copied = io::copy(&mut source.take(range.len() as u64), self.0.get_mut())?;
                match copied == range.len() as u64 {
                    true => Ok(()),
                    false => Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the input file shrank while it was read",
                    )),
                }
            }
            data => self.0.write_all(data.as_slice()),
        }
    }
}
