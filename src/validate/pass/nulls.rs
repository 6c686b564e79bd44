//! Nulls that were sent for fields of the outermost record which cannot be null.
//!
//! Their defaults are written, and look like values that a device sent: `any_of` asks here which are none. What is kept is
//! at most one position per null that was sent.

/// Fields of the outermost record that were sent as null and got their default: no device sent it, so it is no value.
#[derive(Debug, Default)]
pub(super) struct Nulls {
    /// How many fields the open records had, when they came: the fewest, so that those of records inside are forgotten.
    open: usize,
    /// Where in `out` their values begin.
    starts: Vec<usize>,
}

// === impl Nulls ===

impl Nulls {
    #[cold]
    pub(super) fn add(&mut self, open: usize, start: usize) {
        if self.starts.is_empty() || open < self.open {
            self.starts.clear();
            self.open = open;
        }
        if open == self.open {
            self.starts.push(start);
        }
    }

    pub(super) fn clear(&mut self) {
        self.starts.clear();
    }

    /// Of a record of so many fields, which is the only open one.
    pub(super) fn has(&self, open: usize, start: usize) -> bool {
        !self.starts.is_empty() && open == self.open && self.starts.contains(&start)
    }
}
