//! The buffers that the kernel picks from when something has come for a socket that has none of its own.

#![allow(unsafe_code)] // Memory is shared with the kernel.

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

/// How many, and how large.
pub(super) const COUNT: u16 = 128;
pub(super) const BYTES: usize = 4096;

/// Their group's number; there is one.
pub(super) const GROUP: u16 = 0;

/// The buffers of one ring, and the list that says which are free: written by us, read by the kernel.
pub(super) struct Lent {
    list: NonNull<List>,
    memory: NonNull<u8>,
    tail: u16,
}

#[repr(C, align(4096))]
struct List([BufRingEntry; COUNT as usize]);

impl Lent {
    /// Never freed: the kernel may hold it for a while after the ring has been closed, and a thread has one.
    pub(super) fn new(uring: &IoUring) -> io::Result<Self> {
        // SAFETY: a BufRingEntry is four numbers.
        let list = unsafe { Box::<List>::new_zeroed().assume_init() };
        let list = NonNull::from(Box::leak(list));
        let memory = vec![0; usize::from(COUNT) * BYTES].leak();
        let memory = NonNull::from(memory).cast();
        let address = list.as_ptr() as u64;
        // SAFETY: the list has so many entries and is never freed.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, COUNT, GROUP, 0)
        }?;
        let mut lent = Self {
            list,
            memory,
            tail: 0,
        };
        (0..COUNT).for_each(|id| lent.give(id));
        Ok(lent)
    }

    fn at(&self, id: u16) -> *mut u8 {
        assert!(id < COUNT);
        // SAFETY: there are so many.
        unsafe { self.memory.as_ptr().add(usize::from(id) * BYTES) }
    }

    /// What the kernel has put into a buffer that it has picked.
    pub(super) fn bytes(&self, id: u16, count: usize) -> &[u8] {
        // SAFETY: initialised from the start, and ours until it is given again.
        unsafe { std::slice::from_raw_parts(self.at(id), count.min(BYTES)) }
    }

    pub(super) fn give(&mut self, id: u16) {
        let address = self.at(id) as u64;
        let first = self.list.as_ptr().cast::<BufRingEntry>();
        // SAFETY: within the list, in an entry that the kernel does not read before the tail says so. The tail is a field
        // of the first that no entry uses.
        unsafe {
            let entry = &mut *first.add(usize::from(self.tail % COUNT));
            entry.set_addr(address);
            entry.set_len(BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(first).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

const _: () = assert!(COUNT.is_power_of_two());
