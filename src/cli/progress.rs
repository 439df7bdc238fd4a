//! Progress bars on a terminal; nothing where standard error is a file or a pipe.

use crate::passes::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;

/// A bar on standard error for the step at hand.
pub(crate) struct Bars {
    current: Mutex<Option<ProgressBar>>,
    quiet: bool,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        Bars { current: Mutex::new(None), quiet }
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: u64) {
        if self.quiet {
            return;
        }
        let style = ProgressStyle::with_template("{msg:30} [{bar:30}] {pos}/{len}");
        let bar = ProgressBar::new(total).with_message(what.to_owned());
        if let Ok(style) = style {
            bar.set_style(style);
        }
        *self.current.lock().expect("no panic while held") = Some(bar);
    }
    fn advance(&self, units: u64) {
        if let Some(bar) = &*self.current.lock().expect("no panic while held") {
            bar.inc(units);
        }
    }
    fn end(&self) {
        if let Some(bar) = self.current.lock().expect("no panic while held").take() {
            bar.finish_and_clear();
        }
    }
}
