//! Memory that was needed once, by thousands of clients perhaps, and is given back when they have left.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash},
};

use dashmap::DashMap;
use slab::Slab;

/// Collections with room for no more than this keep it.
const SMALL: usize = 256;

/// A collection that can give back memory.
pub trait Trim {
    /// Gives back what it has room for and by far does not need; one that is an eighth full keeps it.
    fn trim(self);
}

fn is_oversized(len: usize, capacity: usize) -> bool {
    capacity > SMALL && len < capacity / 8
}

macro_rules! trim {
    ($(<$($parameter:ident $(: $bound:ident $(+ $more:ident)*)?),*> $collection:ty;)+) => {
        $(impl<$($parameter $(: $bound $(+ $more)*)?),*> Trim for $collection {
            fn trim(self) {
                if is_oversized(self.len(), self.capacity()) {
                    self.shrink_to_fit();
                }
            }
        })+
    };
}

trim! {
    <T> &mut Slab<T>;
    <T> &mut VecDeque<T>;
    <K: Eq + Hash, V, S: BuildHasher> &mut HashMap<K, V, S>;
    <K: Eq + Hash, V, S: BuildHasher + Clone> &DashMap<K, V, S>;
}

/// Has the allocator give back what this thread has freed, what others have of what this one has allocated, and what all have
/// a while ago.
///
/// It does so by itself, but only while it takes or frees pages: a pooler that has become idle would keep what starting it
/// took, or thousands of clients that have left, for as long as it stays idle.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: it may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_gives_back_its_room_when_most_of_what_was_in_it_has_left() {
        let mut slab = Slab::new();
        let map = DashMap::new();
        for number in 0..10_000 {
            slab.insert(number);
            map.insert(number, number);
        }
        let (many, most) = (slab.capacity(), map.capacity());
        (&mut slab).trim();
        (&map).trim();
        assert_eq!(
            (slab.capacity(), map.capacity()),
            (many, most),
            "still needed"
        );
        for number in 10..10_000 {
            slab.remove(number);
            map.remove(&number);
        }
        (&mut slab).trim();
        (&map).trim();
        assert!(slab.capacity() < 100 && map.capacity() < most / 8);
        assert!((0..10).all(|number| slab[number] == number && map.contains_key(&number)));
    }
}
