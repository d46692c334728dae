//! Memory that thousands of clients needed once, given back when they have left.

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
    /// Gives back what it has room for and by far does not need. One that is filled and emptied over and over keeps its room.
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
