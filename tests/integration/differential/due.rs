//! What a client may wait for: a small model of the protocol, kept apart from the product's.
//!
//! It only has to know when the server has nothing more to say, so that a client that waits neither waits in vain
//! nor leaves a reply unread.

use std::collections::VecDeque;

use super::step::Step;

#[derive(Debug, Default)]
pub(super) struct Due {
    owed: VecDeque<Owed>,
    /// How many of those the server will answer without being sent more.
    flushed: usize,
    /// An error was reported: the server ignores everything up to a Sync.
    skipping: bool,
    copying: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Owed {
    /// One answer: Parse, Bind, Describe, Execute, Close.
    Extended,
    /// Everything up to ReadyForQuery.
    Simple,
    Sync,
    /// Nothing, but it may end a COPY that has not begun yet.
    CopyEnd,
}

impl Due {
    /// The client sends `step`.
    pub(super) fn send(&mut self, step: &Step) {
        if self.copying && !step.fits_copy() {
            // The server ends the connection.
            self.copying = false;
        }
        match step {
            Step::Sync if self.copying => {}
            Step::Sync => {
                self.skipping = false;
                self.owe(Owed::Sync);
                self.flushed = self.owed.len();
            }
            Step::CopyDone | Step::CopyFail if self.copying => {
                self.copying = false;
                self.flushed = self.owed.len();
            }
            Step::CopyDone | Step::CopyFail if !self.owed.is_empty() => self.owe(Owed::CopyEnd),
            Step::Flush => self.flushed = self.owed.len(),
            Step::Wait | Step::CopyData(_) | Step::CopyDone | Step::CopyFail => {}
            _ if self.skipping => {}
            // The answer to an unknown message is the end of the connection.
            Step::Query(_) | Step::FunctionCall(_) | Step::Unknown => {
                self.owe(Owed::Simple);
                self.flushed = self.owed.len();
            }
            _ => self.owe(Owed::Extended),
        }
    }

    fn owe(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    /// The server has sent a message with this tag.
    pub(super) fn receive(&mut self, tag: u8) {
        match tag {
            b'1' | b'2' | b'3' | b'T' | b'n' | b'C' | b'I' | b's' => {
                self.drop_copy_ends();
                if self.owed.front() == Some(&Owed::Extended) {
                    self.pop();
                }
            }
            b'G' => self.begin_copy(),
            b'E' => {
                self.copying = false;
                self.drop_copy_ends();
                if self.owed.front() == Some(&Owed::Extended) {
                    while self.owed.front().is_some_and(|owed| *owed != Owed::Sync) {
                        self.pop();
                    }
                    self.skipping = self.owed.is_empty();
                }
            }
            b'Z' => {
                self.copying = false;
                self.drop_copy_ends();
                self.pop();
                self.drop_copy_ends();
            }
            _ => {}
        }
    }

    /// Whether there is more to read before the client must say something.
    pub(super) fn is_due(&self) -> bool {
        !self.copying && self.flushed > 0
    }

    fn pop(&mut self) {
        self.owed.pop_front();
        self.flushed = self.flushed.saturating_sub(1);
    }

    fn drop_copy_ends(&mut self) {
        while self.owed.front() == Some(&Owed::CopyEnd) {
            self.pop();
        }
    }

    /// The data is what the client has sent behind; a Sync among it is ignored.
    fn begin_copy(&mut self) {
        let end = self.owed.iter().position(|owed| *owed == Owed::CopyEnd);
        let mut ahead = end.unwrap_or(self.owed.len());
        let mut index = 1;
        while index < ahead {
            if self.owed[index] == Owed::Sync {
                self.owed.remove(index);
                self.flushed = self.flushed.saturating_sub(1);
                ahead -= 1;
            } else {
                index += 1;
            }
        }
        match end {
            Some(_) => {
                self.owed.remove(ahead);
                self.flushed = self.owed.len();
            }
            // Any other message behind it ends the connection.
            None => self.copying = self.owed.len() == 1,
        }
    }
}
