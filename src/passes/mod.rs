//! Compression as rewrite passes over a [`Model`](crate::ir::Model).
//!
//! A pass has typed options and one line in [`PASSES`]; everything else (pipeline text, `--explain`, completions,
//! documentation of defaults) follows from that. Library users push passes of their own into a [`Pipeline`].

mod branches;
pub mod cast;
mod choices;
mod context;
mod functions;
mod globs;
pub mod interface;
mod lift;
mod linear;
mod pass;
mod pipeline;
pub mod prune;
pub mod quant;
pub mod rules;
pub mod simplify;
pub mod sparsify;
pub mod svd;
mod targets;
mod timetable;
mod trade;

pub use choices::{Guard, Repair, Scope};
pub use context::{Context, Progress, Remark, RemarkKind};
pub use functions::inline_functions;
pub use pass::{Changed, Named, Needs, NoOptions, Options, Pass, PassInfo};
pub use pipeline::Pipeline;
pub(crate) use pipeline::run_pass;

/// Every pass that pipeline text can name, sorted.
pub const PASSES: &[PassInfo] = &[
    PassInfo::of::<cast::Cast>(),
    PassInfo::of::<prune::Prune>(),
    PassInfo::of::<quant::Quant>(),
    PassInfo::of::<simplify::Simplify>(),
    PassInfo::of::<sparsify::Sparsify>(),
    PassInfo::of::<svd::Svd>(),
];
