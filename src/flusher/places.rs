//! Maps from places of the table.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::table::Position;

pub(super) type PlaceMap<T> = HashMap<Position, T, BuildHasherDefault<PositionHasher>>;

/// Positions are small and distinct; one multiplication spreads them.
#[derive(Default)]
pub(super) struct PositionHasher(u64);

impl Hasher for PositionHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        let product = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
