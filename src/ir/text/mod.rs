//! Models as text, in ONNX's own textual syntax (what `onnx.parser` of the Python package reads).
//!
//! ```text
//! # weights: seed 7
//! <ir_version: 10, opset_import: ["" : 18]>
//! main (float[N, 8] x) => (float[N, 4] y)
//! <
//!   float[8, 4] w, # 5d3c11a0
//!   int64[2] s = {1, -1}
//! >
//! {
//!   [dense] y = MatMul (x, w)
//! }
//! ```
//!
//! Weights are shown as type, shape and a digest in a comment, never as numbers; constants small enough to matter to a
//! reader are shown in full. A listed tensor without numbers that no op computes is an initializer: reading gives it
//! seeded random contents, positive ones where its comment contains the word `positive`. The comment
//! `# weights: seed N` sets the seed, 0 where it is missing. In an attribute such a tensor has empty braces.
//!
//! What the syntax has no place for is not shown: types of inner values, doc strings, metadata, annotations. Where the
//! syntax is narrower than the format (names of bodies and sparse tensors in attributes), ours is the
//! nearest readable form. A string that is not UTF-8 is shown with replacement characters.

mod attribute;
mod cursor;
mod lex;
mod literal;
mod parse;
mod print;
mod weights;

pub use parse::parse;
pub use print::print;

/// Words that begin a type, besides the element types.
const TYPE_WORDS: [&str; 5] = ["seq", "map", "optional", "sparse_tensor", "opaque"];

/// Whether a word begins a type, so that a name equal to it must be quoted.
fn is_type_word(word: &str) -> bool {
    TYPE_WORDS.contains(&word) || super::DType::from_name(word).is_some()
}

/// Whether a text can stand as a name without quotes.
fn is_identifier(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
mod tests;
