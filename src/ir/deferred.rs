//! Bytes that are computed where they are needed, a block at a time: what is only written to a file never is in memory
//! as a whole.

use bytes::Bytes;
use rayon::prelude::*;
use std::{
    fs::File,
    io::{self, Write as _},
    sync::OnceLock,
};

/// How much is written at a time (128 KiB), and how much of that one thread computes (64 KiB).
const BLOCK: usize = 1 << 17;
const SHARE: usize = 1 << 16;

/// How to compute bytes.
pub trait Recipe: Send + Sync {
    /// The number of bytes.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `out` with the bytes from `at` on; both are of whole elements.
    fn fill(&self, at: usize, out: &mut [u8]);
}

/// Bytes not computed yet, or kept once something wanted them all.
pub struct Deferred {
    recipe: Box<dyn Recipe>,
    made: OnceLock<Bytes>,
}

impl Deferred {
    /// Bytes by a recipe.
    pub fn new(recipe: impl Recipe + 'static) -> Deferred {
        Deferred { recipe: Box::new(recipe), made: OnceLock::new() }
    }
    /// Their number.
    pub fn len(&self) -> usize {
        self.recipe.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.recipe.is_empty()
    }
    /// All of them, kept from now on.
    pub fn as_slice(&self) -> &[u8] {
        // On this thread alone: one that waits for others could be given work that waits for these bytes.
        self.made.get_or_init(|| {
            let mut all = vec![0; self.len()];
            for (k, part) in all.chunks_mut(SHARE).enumerate() {
                self.recipe.fill(k * SHARE, part);
            }
            all.into()
        })
    }
    /// Fills `out` with the bytes from `at` on, as [`Recipe::fill`].
    pub fn read(&self, at: usize, out: &mut [u8]) {
        match self.made.get() {
            Some(made) => out.copy_from_slice(&made[at..at + out.len()]),
            None => self.recipe.fill(at, out),
        }
    }
    /// Writes them at the file's current position.
    pub fn write_to(&self, file: &mut File) -> io::Result<()> {
        if let Some(made) = self.made.get() {
            return file.write_all(made);
        }
        let mut block = vec![0; self.len().min(BLOCK)];
        for at in (0..self.len()).step_by(BLOCK) {
            let part = &mut block[..(self.len() - at).min(BLOCK)];
            let shares = part.par_chunks_mut(SHARE).enumerate();
            shares.for_each(|(k, share)| self.recipe.fill(at + k * SHARE, share));
            file.write_all(part)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Data, Tensor};
    use std::sync::Arc;

    /// The low byte of each place's number over 64.
    struct Places(usize);
    impl Recipe for Places {
        fn len(&self) -> usize {
            self.0
        }
        fn fill(&self, at: usize, out: &mut [u8]) {
            out.iter_mut().enumerate().for_each(|(k, byte)| *byte = ((at + k) / 64) as u8);
        }
    }
    #[test]
    fn written_and_read_alike() {
        let n = 2 * BLOCK + 100;
        let data = Data::Deferred(Arc::new(Deferred::new(Places(n))));
        let mut file = tempfile::tempfile().unwrap();
        let Data::Deferred(deferred) = &data else { unreachable!() };
        deferred.write_to(&mut file).unwrap();
        let mut written = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_end(&mut file, &mut written).unwrap();
        assert_eq!(data.part(64..128)[..], written[64..128]);
        let tensor = Tensor::new(DType::U8, [n], data.clone()).unwrap();
        assert!(tensor.is_same(&tensor.clone()) && deferred.made.get().is_none(), "nothing wanted them all");
        assert_eq!(data.as_slice(), written);
        assert_eq!(data.part(n - 10..n)[..], written[n - 10..]);
    }
}
