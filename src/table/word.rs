//! The two kinds of 64-bit words in a bucket, bit by bit.

use std::fmt;

/// The name of a slot in the slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(pub(crate) u32);

/// What a word says of its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: free for any key whose probe range covers this place.
    Empty,
    /// Somebody loads this key from the backend; the slot holds the key and belongs to the loader.
    Placeholder,
    /// A value.
    Value,
    /// The key is known to be absent: removed, or (clean) not in the backend.
    Tombstone,
}

/// One entry of the table. All that has to change together changes in one compare-and-swap.
///
/// ```text
///  63      57 56      52  51      50        49     48 47 46     32 31      0
/// +----------+----------+--------+-----------+-------+-----+---------+---------+
/// |  unused  | distance | LISTED | TENTATIVE | DIRTY | kind|   tag   |  slot   |
/// +----------+----------+--------+-----------+-------+-----+---------+---------+
/// ```
///
/// - *slot*: where key, value and version are.
/// - *tag*: 15 bits of the key's hash, to avoid most comparisons of keys.
/// - *kind*: see [`Kind`].
/// - *DIRTY*: newer than the backend. Set by writers, cleared by the flusher only.
/// - *TENTATIVE*: an insert that has not been decided; for everyone but other inserters the place holds nothing.
/// - *LISTED*: this place is in exactly one queue of the eviction policy. Belongs to the place, not to the entry: it
///   outlives the entry until the queue's consumer meets it.
/// - *distance*: how many buckets away from its home the entry lives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

const TAG_SHIFT: u32 = 32;
const TAG_MASK: u64 = 0x7fff << TAG_SHIFT;
const KIND_SHIFT: u32 = 47;
const KIND_MASK: u64 = 0b11 << KIND_SHIFT;
const DIRTY: u64 = 1 << 49;
const TENTATIVE: u64 = 1 << 50;
const LISTED: u64 = 1 << 51;
const DISTANCE_SHIFT: u32 = 52;
const DISTANCE_MASK: u64 = 0b1_1111 << DISTANCE_SHIFT;

impl Word {
    pub(crate) const EMPTY: Word = Word(0);

    /// A word of the given kind, clean, at its home.
    pub(crate) fn new(kind: Kind, tag: u16, slot: SlotId) -> Self {
        Word(u64::from(slot.0) | (u64::from(tag) << TAG_SHIFT) & TAG_MASK).with_kind(kind)
    }

    pub(crate) fn slot(self) -> SlotId {
        SlotId(self.0 as u32)
    }

    pub(crate) fn tag(self) -> u16 {
        ((self.0 & TAG_MASK) >> TAG_SHIFT) as u16
    }

    pub(crate) fn kind(self) -> Kind {
        match (self.0 & KIND_MASK) >> KIND_SHIFT {
            0 => Kind::Empty,
            1 => Kind::Placeholder,
            2 => Kind::Value,
            _ => Kind::Tombstone,
        }
    }

    pub(crate) fn distance(self) -> usize {
        ((self.0 & DISTANCE_MASK) >> DISTANCE_SHIFT) as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 & KIND_MASK == 0
    }

    pub(crate) fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    pub(crate) fn is_tentative(self) -> bool {
        self.0 & TENTATIVE != 0
    }

    pub(crate) fn is_listed(self) -> bool {
        self.0 & LISTED != 0
    }

    /// A value or a tombstone that was decided.
    pub(crate) fn is_entry(self) -> bool {
        !self.is_tentative() && matches!(self.kind(), Kind::Value | Kind::Tombstone)
    }

    /// The decided placeholder of a load.
    pub(crate) fn is_placeholder(self) -> bool {
        !self.is_tentative() && self.kind() == Kind::Placeholder
    }

    /// What the words of keys with this tag have in common, at this distance; for [`may_be`](Word::may_be).
    pub(super) fn sought(tag: u16, distance: usize) -> u64 {
        (u64::from(tag) << TAG_SHIFT) & TAG_MASK | (distance as u64) << DISTANCE_SHIFT
    }

    /// Whether this is a decided word like the one that is sought: its key has to be compared.
    pub(super) fn may_be(self, sought: u64) -> bool {
        // Not an empty one: its tag is zero, and that of a key is not.
        self.0 & (TAG_MASK | DISTANCE_MASK | TENTATIVE) == sought
    }

    fn with_kind(self, kind: Kind) -> Self {
        let bits = match kind {
            Kind::Empty => 0,
            Kind::Placeholder => 1,
            Kind::Value => 2,
            Kind::Tombstone => 3,
        };
        Word(self.0 & !KIND_MASK | bits << KIND_SHIFT)
    }

    fn with(self, bit: u64, set: bool) -> Self {
        Word(if set { self.0 | bit } else { self.0 & !bit })
    }

    pub(crate) fn with_dirty(self, dirty: bool) -> Self {
        self.with(DIRTY, dirty)
    }

    pub(crate) fn with_listed(self, listed: bool) -> Self {
        self.with(LISTED, listed)
    }

    pub(super) fn with_tentative(self, tentative: bool) -> Self {
        self.with(TENTATIVE, tentative)
    }

    pub(super) fn with_distance(self, distance: usize) -> Self {
        Word(self.0 & !DISTANCE_MASK | (distance as u64) << DISTANCE_SHIFT)
    }

    /// The word that follows this one when the same key gets another slot: same place, same tag, same listing.
    pub(crate) fn succeeded_by(self, kind: Kind, slot: SlotId, dirty: bool) -> Self {
        Word(self.0 & !u64::from(u32::MAX) | u64::from(slot.0)).with_kind(kind).with_dirty(dirty)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}(slot {}, tag {:#x}, distance {}{}{}{})",
            self.kind(),
            self.slot().0,
            self.tag(),
            self.distance(),
            if self.is_dirty() { ", dirty" } else { "" },
            if self.is_tentative() { ", tentative" } else { "" },
            if self.is_listed() { ", listed" } else { "" },
        )
    }
}

/// The eighth word of a bucket.
///
/// ```text
///  63   54    53     52      43 42      29   28    27           0
/// +-------+---------+----------+----------+--------+--------------+
/// | place | PENDING | far away |   heat   | BEYOND |   inserts    |
/// +-------+---------+----------+----------+--------+--------------+
/// ```
///
/// - *inserts*: how many inserts of keys *whose home is this bucket* were decided. An insert is decided by the
///   compare-and-swap that raises it, so two inserts of one key cannot both win.
/// - *heat*: two bits for each of the seven places *in this bucket*: how often it was read, up to 3.
/// - *BEYOND*: an entry whose home is this bucket lives beyond the near buckets of its range, or has since one lived far
///   away.
/// - *far away*: how many entries whose home is this bucket live in another one. Zero: a miss ends here.
/// - *PENDING*, *place*: the last decided insert may still have to be made visible at this place (stride, distance,
///   index).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta(pub(super) u64);

const INSERTS_MASK: u64 = (1 << 28) - 1;
const BEYOND: u64 = 1 << 28;
const HEAT_SHIFT: u32 = 29;
const FAR_SHIFT: u32 = 43;
/// Four ranges of 31 buckets of seven places are 868 entries away from home at most, and a few whose removal has not been
/// counted yet.
const FAR_MASK: u64 = 0x3ff << FAR_SHIFT;
const PENDING: u64 = 1 << 53;
const PLACE_SHIFT: u32 = 54;
const PLACE_MASK: u64 = 0x3ff << PLACE_SHIFT;

/// How many strides there are.
pub(super) const STRIDES: usize = 4;

/// The stride of the range of a key with this tag.
pub(super) fn stride_index(tag: u16) -> usize {
    usize::from(tag) % STRIDES
}

impl Meta {
    pub(super) const MAX_HEAT: u8 = 3;
    const ONE_FAR: u64 = 1 << FAR_SHIFT;

    pub(super) fn inserts(self) -> u32 {
        (self.0 & INSERTS_MASK) as u32
    }

    /// The count after `inserts`.
    pub(super) fn next_inserts(inserts: u32) -> u32 {
        inserts.wrapping_add(1) & INSERTS_MASK as u32
    }

    pub(super) fn heat(self, index: usize) -> u8 {
        ((self.0 >> (HEAT_SHIFT + 2 * index as u32)) & 0b11) as u8
    }

    pub(super) fn with_heat(self, index: usize, heat: u8) -> Self {
        let shift = HEAT_SHIFT + 2 * index as u32;
        Meta(self.0 & !(0b11 << shift) | u64::from(heat.min(Self::MAX_HEAT)) << shift)
    }

    pub(super) fn far(self) -> usize {
        ((self.0 & FAR_MASK) >> FAR_SHIFT) as usize
    }

    pub(super) fn is_beyond(self) -> bool {
        self.0 & BEYOND != 0
    }

    /// An entry that lived far away is gone.
    pub(super) fn without_one_far(self) -> Self {
        let fewer = Meta(self.0 - Self::ONE_FAR);
        if fewer.far() == 0 { Meta(fewer.0 & !BEYOND) } else { fewer }
    }

    pub(super) fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// Distance and index of the pending place, and which stride leads to it.
    pub(super) fn place(self) -> (usize, usize, usize) {
        let place = ((self.0 & PLACE_MASK) >> PLACE_SHIFT) as usize;
        (place >> 3 & 0b1_1111, place & 0b111, place >> 8)
    }

    /// The next insert is decided, at this place.
    pub(super) fn decided(self, distance: usize, index: usize, tag: u16, is_beyond: bool) -> Self {
        let inserts = u64::from(Self::next_inserts(self.inserts()));
        let place = (stride_index(tag) << 8 | distance << 3 | index) as u64;
        let far = if distance > 0 { Self::ONE_FAR } else { 0 };
        let next =
            Meta((self.0 & !(PLACE_MASK | INSERTS_MASK) | inserts | place << PLACE_SHIFT | PENDING) + far);
        let next = if is_beyond { Meta(next.0 | BEYOND) } else { next };
        if distance == 0 { next.with_heat(index, 0) } else { next }
    }

    pub(super) fn settled(self) -> Self {
        Meta(self.0 & !PENDING)
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn word_fields_do_not_touch_each_other() {
        let word = Word::new(Kind::Value, 0x7fff, SlotId(u32::MAX));
        for word in [word, word.with_dirty(true).with_listed(true).with_tentative(true).with_distance(31)] {
            assert_eq!((word.kind(), word.tag(), word.slot()), (Kind::Value, 0x7fff, SlotId(u32::MAX)));
        }
        let next = word.with_distance(29).with_listed(true).succeeded_by(Kind::Tombstone, SlotId(3), true);
        assert_eq!((next.kind(), next.slot(), next.distance()), (Kind::Tombstone, SlotId(3), 29));
        assert!(next.is_dirty() && next.is_listed() && next.is_entry() && !next.is_tentative());
        let looks_like = |word: Word, tag, distance| word.may_be(Word::sought(tag, distance));
        assert!(
            looks_like(next, 0x7fff, 29) && !looks_like(next, 0x7fff, 28) && !looks_like(next, 0x7ffe, 29)
        );
        assert!(!looks_like(next.with_tentative(true), 0x7fff, 29));
    }

    #[test]
    fn meta_fields_do_not_touch_each_other() {
        let mut meta = Meta(INSERTS_MASK).with_heat(6, 3).with_heat(0, 9);
        assert_eq!((meta.heat(0), meta.heat(5), meta.heat(6)), (3, 0, 3));
        meta = meta.decided(31, 6, 0x7ffb, true);
        assert_eq!((meta.inserts(), meta.far(), meta.place(), meta.is_pending()), (0, 1, (31, 6, 3), true));
        assert_eq!((meta.heat(6), meta.settled().is_pending(), meta.settled().far()), (3, false, 1));
        meta = meta.decided(0, 6, 0, false);
        assert_eq!((meta.inserts(), meta.far(), meta.place(), meta.heat(6)), (1, 1, (0, 6, 0), 0));
        assert!(meta.is_beyond() && !meta.without_one_far().is_beyond());
        assert_eq!(meta.without_one_far().far(), 0);
    }
}
