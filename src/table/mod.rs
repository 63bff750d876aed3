//! The lock-free table: a fixed array of 64-byte buckets, seven entries and one word of bookkeeping in each.
//!
//! The table knows nothing of keys and values. A [`Word`] names a slot, and whoever calls says whether a slot holds
//! the wanted key. A key's entry lives in its *home* bucket or in one of a few others ([`REACH`] in all); it never
//! moves while it lives, so a [`Position`] names it until it is evicted.
//!
//! # Insert
//!
//! Changing an existing entry is one compare-and-swap on its word. Inserting is harder: two threads that insert one
//! key may choose different places, and both compare-and-swaps would win. So an insert is *decided* in one word that
//! all inserts of that key share, the home bucket's [`Meta`]:
//!
//! 1. read the home's `Meta` (and first finish the insert that it calls pending), then look at the whole range: the
//!    key is not there, and this place is empty;
//! 2. put the word there, marked `TENTATIVE`: the place is taken, but it holds nothing yet;
//! 3. compare-and-swap `Meta`: one more insert, pending, at this place. If any insert of this home was decided since
//!    step 1, this fails: take the tentative word back, start again. If it succeeds, the insert is decided;
//! 4. take the mark off, and `PENDING` away. Anyone who wants to insert here may do both for us.
//!
//! # Why nobody makes a wrong word visible
//!
//! A helper takes the mark off a word W at place p only if it read W, and *then* read in `Meta` that the insert n at p
//! is pending. The words that follow the n-th decision at p are: its tentative word, its entry, the entry's
//! successors, empty, and only then another insert's tentative word. [`Table::vacate`] makes p empty only after
//! `PENDING` of n is gone (it finishes whatever is pending at p first), and it never comes back, since counts grow. So while n is pending, p has not been empty,
//! and W is n's word. The helper is pinned, so W's slot is not in use again under the same name.

mod word;

use crate::{
    grace::Guard,
    memory::{Zeroable, ZeroedArray, prefetch},
    sync::{AtomicU64, Ordering},
};

pub(crate) use word::{Kind, SlotId, Word};
use word::{Meta, STRIDES, stride_index};

/// Entries in a bucket: eight words of eight bytes, one of them for bookkeeping.
pub(crate) const PLACES: usize = if cfg!(crossbeam_loom) { 2 } else { 7 };

/// How many buckets a key's entry may live in. So many that a range is never full before the table is: entries that are
/// all dirty cannot make room for each other, and a cache of so many entries is promised to hold them.
pub(crate) const REACH: usize = if cfg!(crossbeam_loom) { 2 } else { 32 };

/// How many of them are looked into unless the home says that an entry lives beyond.
const NEAR: usize = if cfg!(crossbeam_loom) { 1 } else { 8 };

/// How full the table is at most, in entries per bucket: at 5.6 of 7, four of five entries live at home, and one in five
/// thousand beyond the near buckets.
const FILL: f64 = 5.6;

/// A bucket and an index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position(u32);

impl Position {
    pub(crate) fn from_index(index: usize) -> Self {
        Position(index as u32)
    }

    /// A number below [`Table::positions`].
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    fn new(bucket: usize, index: usize) -> Self {
        Position((bucket << 3 | index) as u32)
    }

    fn bucket(self) -> usize {
        self.0 as usize >> 3
    }

    fn place(self) -> usize {
        self.0 as usize & 0b111
    }
}

#[repr(C, align(64))]
struct Bucket {
    places: [AtomicU64; PLACES],
    meta: AtomicU64,
}

// SAFETY: a bucket is eight atomic integers; zero is an empty bucket. Nothing to drop.
unsafe impl Zeroable for Bucket {
    #[cfg(crossbeam_loom)]
    fn zero() -> Self {
        Bucket { places: std::array::from_fn(|_| AtomicU64::new(0)), meta: AtomicU64::new(0) }
    }
}

impl Bucket {
    fn meta(&self, order: Ordering) -> Meta {
        Meta(self.meta.load(order))
    }
}

pub(crate) struct Table {
    buckets: ZeroedArray<Bucket>,
    /// The smaller of [`REACH`] and the number of buckets, so that a range never meets itself.
    reach: usize,
    /// How far apart the buckets of a key's range are: one of these, chosen by the tag, so that a crowded bucket does not
    /// crowd the same others for all its keys. Each has no divisor in common with the number of buckets, so that a range
    /// never meets itself.
    strides: [usize; STRIDES],
}

/// What a probe for an insert found.
pub(crate) enum Probe {
    /// The key has this word at this position.
    Found(Position, Word),
    /// The key is in no place of its range, and here it could go.
    Vacant(Vacancy),
    /// The key is in no place of its range, and none is empty.
    Full,
}

/// An empty place for a key, valid until another insert with the same home is decided.
pub(crate) struct Vacancy {
    home: usize,
    distance: usize,
    at: Position,
    empty: Word,
    inserts: u32,
}

impl Vacancy {
    /// Whether the place is still in a queue of the eviction policy from an earlier use.
    pub(crate) fn is_listed(&self) -> bool {
        self.empty.is_listed()
    }

    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// As [`Table::fingerprint`].
    pub(crate) fn fingerprint(&self, tag: u16) -> u64 {
        fingerprint(self.home, tag)
    }
}

/// The first number from `wish` on that has no divisor in common with `buckets`.
fn stride_near(wish: usize, buckets: usize) -> usize {
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (wish.max(1)..).find(|stride| divisor(*stride, buckets) == 1).unwrap_or(1)
}

fn fingerprint(home: usize, tag: u16) -> u64 {
    (home as u64) << 15 | u64::from(tag)
}

impl Table {
    /// The most entries for which a position fits into 32 bits.
    /// Half of what would fit into the bits, so that there is room for the slots of all lanes.
    pub(crate) const MAX_ENTRIES: usize = (u32::MAX as usize >> 3) / 2 * 5;

    /// A table for at most `entries` entries.
    pub(crate) fn new(entries: usize) -> std::io::Result<Self> {
        let buckets = ((entries as f64 / FILL).ceil() as usize).max(1);
        let strides =
            [0.618, 0.414, 0.267, 0.155].map(|part| stride_near((buckets as f64 * part) as usize, buckets));
        Ok(Table { buckets: ZeroedArray::new(buckets)?, reach: REACH.min(buckets), strides })
    }

    /// How much memory a table for `entries` entries takes, in bytes.
    pub(crate) fn bytes(entries: usize) -> usize {
        ((entries as f64 / FILL).ceil() as usize).max(1) * size_of::<Bucket>()
    }

    /// An upper bound of [`Position::index`].
    pub(crate) fn positions(&self) -> usize {
        self.buckets.len() << 3
    }

    /// Every position that an entry can have among these numbers below [`positions`](Table::positions); the others are bookkeeping.
    pub(crate) fn places(&self, numbers: std::ops::Range<usize>) -> impl Iterator<Item = Position> + use<> {
        let end = numbers.end.min(self.positions());
        (numbers.start..end).map(Position::from_index).filter(|at| at.index() & 7 < PLACES)
    }

    fn home(&self, hash: u64) -> usize {
        // The high half of the hash chooses the bucket, the low bits the tag and the stride.
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    /// Fetches the bucket in which a key with this hash is looked for first.
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// Never zero, so that no empty word looks like a key's.
    pub(crate) fn tag(hash: u64) -> u16 {
        (hash as u16 & 0x7fff).max(1)
    }

    fn bucket_at(&self, home: usize, distance: usize, stride: usize) -> usize {
        (home + distance * self.strides[stride]) % self.buckets.len()
    }

    fn home_of(&self, at: Position, word: Word) -> usize {
        let (bucket, distance, buckets) = (at.bucket(), word.distance(), self.buckets.len());
        if distance == 0 {
            return bucket;
        }
        let way = distance * self.strides[stride_index(word.tag())] % buckets;
        (bucket + buckets - way) % buckets
    }

    fn place(&self, at: Position) -> &AtomicU64 {
        &self.buckets[at.bucket()].places[at.place()]
    }

    /// The word at a position.
    pub(crate) fn word(&self, at: Position, _: &Guard) -> Word {
        // Acquire: pairs with the Release half of every compare-and-swap on a place, so the slot's content is there.
        Word(self.place(at).load(Ordering::Acquire))
    }

    /// Home bucket and tag of the entry: what an eviction policy may remember of a key.
    pub(crate) fn fingerprint(&self, at: Position, word: Word) -> u64 {
        fingerprint(self.home_of(at, word), word.tag())
    }

    /// How many buckets of their ranges the keys of this home live in.
    fn reach_of(&self, meta: Meta) -> usize {
        match (meta.far(), meta.is_beyond()) {
            (0, _) => 1,
            (_, false) => NEAR.min(self.reach),
            (_, true) => self.reach,
        }
    }

    #[inline(always)]
    fn scan(
        &self,
        bucket: usize,
        tag: u16,
        distance: usize,
        is_key: &mut impl FnMut(SlotId) -> bool,
    ) -> Option<(Position, Word)> {
        let places = &self.buckets[bucket].places;
        // All words first, without a branch: which place a key is in cannot be predicted, and a processor that has guessed wrong
        // begins nothing else until this line has come. Acquire: as in `word`.
        let words: [Word; PLACES] = std::array::from_fn(|index| Word(places[index].load(Ordering::Acquire)));
        let looks_like = Word::sought(tag, distance);
        let bit = |index: usize| u32::from(words[index].may_be(looks_like)) << index;
        let mut candidates = (0..PLACES).fold(0, |bits, index| bits | bit(index));
        while candidates != 0 {
            let index = candidates.trailing_zeros() as usize;
            if is_key(words[index].slot()) {
                return Some((Position::new(bucket, index), words[index]));
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// Looks a key up. Reads one cache line of the table, and more only if entries of this home live elsewhere.
    pub(crate) fn find(
        &self,
        hash: u64,
        _: &Guard,
        mut is_key: impl FnMut(SlotId) -> bool,
    ) -> Option<(Position, Word)> {
        let (home, tag) = (self.home(hash), Self::tag(hash));
        self.scan(home, tag, 0, &mut is_key).or_else(|| self.find_elsewhere(home, tag, is_key))
    }

    /// Looks a key up where nearly all are: at home. `None`: it may still be elsewhere.
    #[inline(always)]
    pub(crate) fn find_at_home(
        &self,
        hash: u64,
        _: &Guard,
        mut is_key: impl FnMut(SlotId) -> bool,
    ) -> Option<(Position, Word)> {
        self.scan(self.home(hash), Self::tag(hash), 0, &mut is_key)
    }

    /// Looks a key up in the buckets of its range that are not its home.
    #[inline(never)]
    fn find_elsewhere(
        &self,
        home: usize,
        tag: u16,
        mut is_key: impl FnMut(SlotId) -> bool,
    ) -> Option<(Position, Word)> {
        // Relaxed: an insert that happened before this call has raised `far` before it was acknowledged, and it is
        // lowered only after the entry is gone. So with BEYOND.
        let reach = self.reach_of(self.buckets[home].meta(Ordering::Relaxed));
        (1..reach).find_map(|distance| {
            self.scan(self.bucket_at(home, distance, stride_index(tag)), tag, distance, &mut is_key)
        })
    }

    /// Looks a key up, and a place for it if it is absent.
    pub(crate) fn probe(&self, hash: u64, guard: &Guard, mut is_key: impl FnMut(SlotId) -> bool) -> Probe {
        let (home, tag) = (self.home(hash), Self::tag(hash));
        let meta = loop {
            // Acquire: pairs with the compare-and-swap that decided or settled the last insert of this home; with
            // `PENDING` gone, every decided insert is visible in its place.
            let meta = self.buckets[home].meta(Ordering::Acquire);
            if !meta.is_pending() {
                break meta;
            }
            self.finish(home, meta, guard);
        };
        let mut vacant = None;
        let inhabited = self.reach_of(meta);
        for distance in 0..self.reach {
            let bucket = self.bucket_at(home, distance, stride_index(tag));
            if distance < inhabited
                && let Some((at, word)) = self.scan(bucket, tag, distance, &mut is_key)
            {
                return Probe::Found(at, word);
            }
            if vacant.is_none() {
                vacant = self
                    .empty_place(bucket)
                    .map(|(index, empty)| (distance, Position::new(bucket, index), empty));
            }
            if vacant.is_some() && distance + 1 >= inhabited {
                break;
            }
        }
        match vacant {
            Some((distance, at, empty)) => {
                Probe::Vacant(Vacancy { home, distance, at, empty, inserts: meta.inserts() })
            }
            None => Probe::Full,
        }
    }

    fn empty_place(&self, bucket: usize) -> Option<(usize, Word)> {
        // Relaxed: the place is claimed by a compare-and-swap.
        let words = self.buckets[bucket].places.iter().map(|place| Word(place.load(Ordering::Relaxed)));
        words.enumerate().find(|(_, word)| word.is_empty())
    }

    /// Inserts `word` into the vacancy. `Err`: somebody took the place, or inserted a key of the same home: probe again.
    ///
    /// If `word` is listed and the place was not before, the caller has to put it into a queue of the eviction policy.
    pub(crate) fn insert(&self, vacancy: &Vacancy, word: Word, guard: &Guard) -> Result<Position, ()> {
        let Vacancy { home, distance, at, empty, inserts } = *vacancy;
        let visible = word.with_distance(distance).with_listed(word.is_listed() || empty.is_listed());
        let tentative = visible.with_tentative(true);
        let place = self.place(at);
        // Release: the slot's content, for those who see the word once it is visible. Acquire is not needed: an empty
        // word names no slot.
        if place.compare_exchange(empty.0, tentative.0, Ordering::Release, Ordering::Relaxed).is_err() {
            return Err(());
        }
        let meta_word = &self.buckets[home].meta;
        let mut meta = Meta(meta_word.load(Ordering::Relaxed));
        loop {
            if meta.inserts() != inserts && !cfg!(mutant = "insert_undecided") {
                // Only its owner writes an undecided tentative word, so this takes it back. Relaxed: nobody has
                // looked into the slot. But a swap and not a store: as a read-modify-write it lets the release
                // sequence that `vacate` began go on, so that whoever takes the place next still hands on what
                // `vacate` did before.
                if cfg!(mutant = "withdraw_store") {
                    place.store(empty.0, Ordering::Relaxed);
                } else {
                    place.swap(empty.0, Ordering::Relaxed);
                }
                return Err(());
            }
            let decided = meta.decided(distance, at.place(), word.tag(), distance >= NEAR);
            // AcqRel: Release publishes the tentative word to helpers, who read `Meta` with Acquire; Acquire orders
            // this decision after what the previous inserter did.
            match meta_word.compare_exchange_weak(meta.0, decided.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    if distance > 0 {
                        self.set_heat(at, 0);
                    }
                    // Release: as in the first step. A failure means that a helper did it.
                    let _ =
                        place.compare_exchange(tentative.0, visible.0, Ordering::Release, Ordering::Relaxed);
                    self.settle(home, Meta::next_inserts(inserts), guard);
                    return Ok(at);
                }
                Err(now) => meta = Meta(now),
            }
        }
    }

    /// Makes the pending insert of this home visible, for an inserter that has not got to it.
    fn finish(&self, home: usize, pending: Meta, guard: &Guard) {
        let (distance, index, stride) = pending.place();
        let place = &self.buckets[self.bucket_at(home, distance, stride)].places[index];
        // Acquire: the second look at `Meta` must come after this one, and the slot's content passes through us.
        let word = Word(place.load(Ordering::Acquire));
        if word.is_tentative() {
            let meta = self.buckets[home].meta(Ordering::Acquire);
            let is_the_same = meta.is_pending() && meta.inserts() == pending.inserts();
            if !is_the_same && !cfg!(mutant = "finish_unchecked") {
                return;
            }
            // AcqRel: hands on what the tentative word published. A failure means that somebody else did it.
            let visible = word.with_tentative(false);
            let _ = place.compare_exchange(word.0, visible.0, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.settle(home, pending.inserts(), guard);
    }

    /// Takes `PENDING` away from the insert with this count.
    fn settle(&self, home: usize, inserts: u32, _: &Guard) {
        let meta_word = &self.buckets[home].meta;
        let mut meta = Meta(meta_word.load(Ordering::Relaxed));
        while meta.is_pending() && meta.inserts() == inserts {
            // Release: whoever sees the insert settled sees its entry. Pairs with the Acquire in `probe`.
            match meta_word.compare_exchange_weak(
                meta.0,
                meta.settled().0,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => meta = Meta(now),
            }
        }
    }

    /// Replaces exactly the word `old`; `Err` carries what is there instead.
    pub(crate) fn replace(&self, at: Position, old: Word, new: Word, _: &Guard) -> Result<(), Word> {
        debug_assert!(!old.is_tentative() && !old.is_empty() && !new.is_empty());
        // AcqRel: Release publishes the new slot, pairs with the Acquire in `word` and `scan`; Acquire because the
        // caller goes on with the old slot. Acquire on failure: the caller may look into what it found.
        let publish = if cfg!(mutant = "replace_relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        match self.place(at).compare_exchange(old.0, new.0, publish, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Makes the place of exactly the word `old` empty; `listed` says what becomes of the place's listing.
    ///
    /// On success the slot of `old` belongs to the caller, who has to retire it.
    pub(crate) fn vacate(&self, at: Position, old: Word, listed: bool, guard: &Guard) -> Result<(), Word> {
        debug_assert!(!old.is_tentative() && !old.is_empty());
        let home = self.home_of(at, old);
        // Acquire: as in `probe`. If `old` is still there, the decision of its insert happened before it became visible, so
        // this load sees it. If not, it may be somebody else's insert that is pending here: that one has to become visible
        // before its PENDING goes, which `finish` sees to.
        let meta = self.buckets[home].meta(Ordering::Acquire);
        if meta.is_pending()
            && meta.place() == (old.distance(), at.place(), stride_index(old.tag()))
            && !cfg!(mutant = "vacate_pending")
        {
            if cfg!(mutant = "vacate_settle") {
                self.settle(home, meta.inserts(), guard);
            } else {
                self.finish(home, meta, guard);
            }
        }
        let empty = Word::EMPTY.with_listed(listed);
        // AcqRel: Release orders the settling above before the place can be taken again (see the module's argument);
        // Acquire because the caller goes on with the old slot.
        match self.place(at).compare_exchange(old.0, empty.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                if old.distance() > 0 {
                    self.one_less_far(home);
                }
                Ok(())
            }
            Err(now) => Err(Word(now)),
        }
    }

    /// An entry of this home that lived far away is gone.
    fn one_less_far(&self, home: usize) {
        let meta_word = &self.buckets[home].meta;
        let mut meta = Meta(meta_word.load(Ordering::Relaxed));
        loop {
            // Release: who finds no entry far away, and does not look, has seen all that its evictor saw. Pairs with the
            // Acquire in `probe`.
            let fewer = meta.without_one_far();
            match meta_word.compare_exchange_weak(meta.0, fewer.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => meta = Meta(now),
            }
        }
    }

    /// Marks or unmarks an empty place as listed.
    pub(crate) fn set_empty_listed(&self, at: Position, old: Word, listed: bool) -> Result<(), Word> {
        debug_assert!(old.is_empty());
        let new = old.with_listed(listed);
        // Relaxed: an empty word carries nothing.
        match self.place(at).compare_exchange(old.0, new.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Every empty or taken position of the key's range, nearest first: where room must be made when the range is full.
    pub(crate) fn range(&self, hash: u64) -> impl Iterator<Item = Position> + '_ {
        let (home, tag) = (self.home(hash), Self::tag(hash));
        (0..self.reach).flat_map(move |distance| {
            let bucket = self.bucket_at(home, distance, stride_index(tag));
            (0..PLACES).map(move |index| Position::new(bucket, index))
        })
    }

    /// How often the entry at this position was read lately, 0 to 3.
    pub(crate) fn heat(&self, at: Position) -> u8 {
        // Relaxed: a hint.
        self.buckets[at.bucket()].meta(Ordering::Relaxed).heat(at.place())
    }

    /// The entry at this position was read. Writes only if that changes its heat.
    pub(crate) fn touch(&self, at: Position) {
        let meta_word = &self.buckets[at.bucket()].meta;
        let meta = Meta(meta_word.load(Ordering::Relaxed));
        let heat = meta.heat(at.place());
        if heat < Meta::MAX_HEAT {
            let warmer = meta.with_heat(at.place(), heat + 1);
            // Relaxed, and one try: a lost count of a read is no loss.
            let _ = meta_word.compare_exchange_weak(meta.0, warmer.0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Sets the heat of a position.
    pub(crate) fn set_heat(&self, at: Position, heat: u8) {
        let meta_word = &self.buckets[at.bucket()].meta;
        let mut meta = Meta(meta_word.load(Ordering::Relaxed));
        while meta.heat(at.place()) != heat {
            let set = meta.with_heat(at.place(), heat);
            // Relaxed: a hint; but the word's other fields must survive, hence the loop.
            match meta_word.compare_exchange_weak(meta.0, set.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => meta = Meta(now),
            }
        }
    }
}

/// What a model looks at when all is done, or to see that an insert was decided.
#[cfg(all(test, crossbeam_loom))]
impl Table {
    /// How many inserts of this hash's home were decided.
    pub(crate) fn inserts(&self, hash: u64) -> u32 {
        self.buckets[self.home(hash)].meta(Ordering::Acquire).inserts()
    }

    /// All visible words; asserts that nothing is left half done.
    pub(crate) fn audit(&self) -> Vec<(Position, Word)> {
        let mut words = Vec::new();
        let mut far = vec![0; self.buckets.len()];
        for (bucket, content) in self.buckets.iter().enumerate() {
            for (index, place) in content.places.iter().enumerate() {
                let (at, word) = (Position::new(bucket, index), Word(place.load(Ordering::Acquire)));
                assert!(!word.is_tentative(), "{word:?} was left tentative");
                if !word.is_empty() {
                    far[self.home_of(at, word)] += usize::from(word.distance() > 0);
                    words.push((at, word));
                }
            }
        }
        for (bucket, far) in self.buckets.iter().zip(far) {
            let meta = bucket.meta(Ordering::Acquire);
            assert!(!meta.is_pending(), "an insert was left pending");
            assert_eq!(meta.far(), far, "miscounted far entries");
        }
        words
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests;
