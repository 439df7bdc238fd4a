//! Tensor bytes: owned, a range of a memory-mapped file, or still to compute. Cloning never copies them.

use super::Deferred;
use bytes::Bytes;
use memmap2::Mmap;
use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How much of a file is copied at a time (128 KiB): enough to make the calls cheap, and small enough for a CPU's cache.
const COPY_BLOCK: usize = 1 << 17;

/// How much the system maps at a time around what is touched (64 KiB).
const WINDOW: usize = 1 << 16;
/// Ranges smaller than that which are given back together: each by itself would be a call of the system.
const TOGETHER: usize = 8;

/// A file mapped into memory, kept open so that its ranges can also be copied file to file.
pub struct MappedFile {
    path: PathBuf,
    /// With a block to copy through.
    file: Mutex<(File, Vec<u8>)>,
    map: Mmap,
    /// Small ranges that were to be given back so far.
    small: AtomicUsize,
}

impl MappedFile {
    /// Maps a whole file; nothing is read until it is touched.
    #[allow(unsafe_code, reason = "memory mapping, audited below")]
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process. Another process that truncates the file
        // while it is mapped can raise SIGBUS; like every tool that maps its inputs, we require inputs to stay
        // unchanged while they are read. Results are written to a new file and renamed, never in place.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Arc::new(MappedFile {
            path: path.to_owned(),
            file: Mutex::new((file, Vec::new())),
            map,
            small: AtomicUsize::new(0),
        }))
    }
    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Copies a range of the file to another file's current position, a block at a time: the map is not touched, so
    /// memory does not grow with the range. Blocks through memory are faster than `copy_file_range`, which moves
    /// page by page where the two positions are not aligned alike.
    pub fn copy_to(&self, range: Range<usize>, out: &mut File) -> io::Result<()> {
        // The lock is held for the file's position only, which each copy sets anew: a panic elsewhere spoils nothing.
        let mut locked = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, block) = &mut *locked;
        file.seek(io::SeekFrom::Start(range.start as u64))?;
        if block.len() < range.len().min(COPY_BLOCK) {
            block.resize(range.len().min(COPY_BLOCK), 0);
        }
        let mut left = range.len();
        while left > 0 {
            let part = left.min(block.len());
            file.read_exact(&mut block[..part]).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "the file became shorter while it was in use")
                }
                _ => error,
            })?;
            out.write_all(&block[..part])?;
            left -= part;
        }
        Ok(())
    }
    /// Gives back the memory that a range and what was mapped around it takes up; it is read from the file again when
    /// it is next touched.
    fn release(&self, range: Range<usize>) {
        if range.len() >= WINDOW {
            self.give_back(range);
        } else if self.small.fetch_add(1, Ordering::Relaxed) % TOGETHER == TOGETHER - 1 {
            self.release_all();
        }
    }
    #[allow(unsafe_code, reason = "advice on memory that is mapped read-only from a file")]
    fn give_back(&self, range: Range<usize>) {
        let start = range.start / WINDOW * WINDOW;
        let end = range.end.next_multiple_of(WINDOW).min(self.map.len());
        #[cfg(unix)]
        // SAFETY: the pages of a read-only file mapping hold the file's bytes again on the next touch.
        // Advice is no more than that: where the system refuses it, nothing is lost but memory.
        unsafe {
            let _ = self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start);
        }
    }
    /// Gives back what all that was read takes up.
    pub fn release_all(&self) {
        self.give_back(0..self.map.len());
    }
    /// The whole contents.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.map.len())
    }
}

/// The bytes of a tensor.
#[derive(Clone)]
pub enum Data {
    /// Bytes in memory.
    Owned(Bytes),
    /// A range of a mapped file, shared by every tensor of that file.
    Mapped {
        /// The file.
        file: Arc<MappedFile>,
        /// The bytes of the file that are the tensor's.
        range: Range<usize>,
    },
    /// Bytes that are computed when they are needed.
    Deferred(Arc<Deferred>),
}

impl Data {
    /// A checked range of a mapped file; `None` where it reaches past the end.
    pub fn mapped(file: &Arc<MappedFile>, range: Range<usize>) -> Option<Data> {
        file.bytes().get(range.clone())?;
        Some(Data::Mapped { file: file.clone(), range })
    }
    /// The bytes, mapped in on first touch.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Data::Owned(bytes) => bytes,
            Data::Mapped { file, range } => &file.bytes()[range.clone()],
            Data::Deferred(deferred) => deferred.as_slice(),
        }
    }
    /// Some of the bytes, computed where they are still to compute, but not kept. They are whole elements.
    pub fn part(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        match self {
            Data::Deferred(deferred) => {
                let mut part = vec![0; range.len()];
                deferred.read(range.start, &mut part);
                part.into()
            }
            data => data.as_slice()[range].into(),
        }
    }
    /// Whether both are the same bytes at the same place; equal bytes elsewhere do not count.
    pub fn is_same(&self, other: &Data) -> bool {
        match (self, other) {
            (Data::Deferred(a), Data::Deferred(b)) => Arc::ptr_eq(a, b),
            (Data::Deferred(_), _) | (_, Data::Deferred(_)) => false,
            (a, b) => std::ptr::eq(a.as_slice(), b.as_slice()),
        }
    }
    /// Their number; free to ask.
    pub fn len(&self) -> usize {
        match self {
            Data::Owned(bytes) => bytes.len(),
            Data::Mapped { range, .. } => range.len(),
            Data::Deferred(deferred) => deferred.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Gives back the memory of bytes that have been read from a mapped file and are not needed soon.
    pub fn release(&self) {
        self.release_part(0..self.len());
    }
    /// The same for some of the bytes.
    pub fn release_part(&self, part: Range<usize>) {
        if let Data::Mapped { file, range } = self {
            file.release(range.start + part.start..range.start + part.end);
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data::Owned(bytes.into())
    }
}
impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        Data::Owned(bytes)
    }
}
impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Data::Owned(_) => "owned",
            Data::Mapped { .. } => "mapped",
            Data::Deferred(_) => "deferred",
        };
        write!(f, "{} bytes {kind}", self.len())
    }
}
