//! The one error type of the library. Every message says what is wrong, where, and what to do about it.

use crate::ir::Where;
use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: "cannot read".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The model file breaks the ONNX format or its own declarations.
    #[error("malformed model{}: {why}", at.suffix())]
    Malformed {
        /// The node, tensor or value concerned.
        at: Where,
        /// What is wrong with it.
        why: String,
    },
    /// A graph broke an invariant of [`Graph::verify`](crate::ir::Graph::verify): a defect of the pass that ran last.
    #[error("invalid graph{}: {why}", at.suffix())]
    Invalid {
        /// The op or value concerned.
        at: Where,
        /// The invariant that fails.
        why: String,
    },
    /// A pass failed.
    #[error("pass `{pass}`: {source}")]
    Pass {
        /// The pass's name.
        pass: String,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// The user asked for something that does not exist or does not fit: exit code 2.
    #[error("{what}{}", help.as_deref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Usage {
        /// What was wrong with the request.
        what: String,
        /// What to do instead, if there is something to say.
        help: Option<String>,
    },
    /// The result is below the bar, or nothing of what was asked could be done: exit code 3.
    #[error("{0}")]
    BelowBar(String),
    /// The model is fine, but this operation does not cover it.
    #[error("unsupported{}: {why}", at.suffix())]
    Unsupported {
        /// The op or value concerned.
        at: Where,
        /// What is not covered, and the alternative.
        why: String,
    },
    /// ONNX Runtime is missing or refused something.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An I/O error with its file.
    pub fn io(what: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { what, path: path.as_ref().to_owned(), source }
    }
    /// A defect of the input file.
    pub fn malformed(at: impl Into<Where>, why: impl Into<String>) -> Self {
        Error::Malformed { at: at.into(), why: why.into() }
    }
    /// A broken graph invariant.
    pub fn invalid(at: impl Into<Where>, why: impl Into<String>) -> Self {
        Error::Invalid { at: at.into(), why: why.into() }
    }
    /// Something this library does not cover.
    pub fn unsupported(at: impl Into<Where>, why: impl Into<String>) -> Self {
        Error::Unsupported { at: at.into(), why: why.into() }
    }
    /// A wrong request, with advice.
    pub fn usage(what: impl Into<String>, help: impl Into<String>) -> Self {
        Error::Usage { what: what.into(), help: Some(help.into()) }
    }
    /// The process exit code that stands for this error: 1 failed, 2 usage, 3 below the bar.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::BelowBar(_) => 3,
            Error::Pass { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}
