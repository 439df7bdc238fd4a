//! Operator knowledge: the one place where facts about operators live.

pub mod axes;
