//! What the subjects are asked to do, made before anything is timed.

/// Numbers that are the same in each run (xorshift, after Marsaglia).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(scramble(seed.wrapping_add(1)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, (self.next() % (end as u64 + 1)) as usize);
        }
    }
}

/// A bijection that leaves no trace of the order (the finalizer of splitmix64).
pub(crate) fn scramble(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The key of a rank: hot keys are no neighbours, neither as numbers nor in any table. Below 2^63, see [`Op`].
pub(crate) fn key(rank: u64) -> u64 {
    scramble(rank) >> 1
}

/// One operation: a key, and in the lowest bit whether it is written. One word, so that reading the list costs each subject the
/// same one sequential load.
#[derive(Clone, Copy)]
pub(crate) struct Op(u64);

impl Op {
    fn new(key: u64, writes: bool) -> Self {
        Op(key << 1 | u64::from(writes))
    }

    #[inline]
    pub(crate) fn key(self) -> u64 {
        self.0 >> 1
    }

    #[inline]
    pub(crate) fn writes(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Ranks that follow a Zipf distribution with exponent 0.99, by inversion.
pub(crate) struct Zipf {
    upto: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(keys: u64) -> Self {
        let mut sum = 0.0;
        let upto = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        });
        Zipf { upto: upto.collect() }
    }

    pub(crate) fn keys(&self, count: usize, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        let sum = self.upto.last().copied().unwrap_or(0.0);
        let rank = |point: f64| self.upto.partition_point(|upto| *upto < point) as u64;
        (0..count).map(|_| key(rank(random.unit() * sum).min(self.upto.len() as u64 - 1))).collect()
    }
}

/// Reads and writes of these keys, the writes at random places, so that no predictor of branches learns them.
pub(crate) fn mixed(keys: &[u64], writes_percent: u32, seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let share = f64::from(writes_percent) / 100.0;
    keys.iter().map(|key| Op::new(*key, random.unit() < share)).collect()
}

/// A list of operations that is gone through again and again; every subject of a round gets the same part of it.
pub(crate) struct Stream<'a> {
    ops: &'a [Op],
    next: usize,
}

/// So many operations are done between two looks at the clock.
pub(crate) const CHUNK: usize = 256;

impl<'a> Stream<'a> {
    /// From this place on, rounded down to whole chunks.
    pub(crate) fn from(ops: &'a [Op], place: usize) -> Self {
        Stream { ops, next: place / CHUNK * CHUNK % ops.len() }
    }

    #[inline]
    pub(crate) fn chunk(&mut self) -> &'a [Op] {
        let chunk = &self.ops[self.next..self.next + CHUNK];
        self.next += CHUNK;
        if self.next + CHUNK > self.ops.len() {
            self.next = 0;
        }
        chunk
    }
}
