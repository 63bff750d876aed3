use std::{sync::Arc, time::Duration};
use writeback::{Cache, backend::Memory, Ack};

#[test]
fn smoke() {
    let rows = Arc::new(Memory::new());
    let cache = Cache::builder().capacity(1000).backend(rows.clone()).open::<u64, u64>().unwrap();
    for i in 0..100 { cache.put(7, i).unwrap(); }
    assert_eq!(cache.get(&7).unwrap(), Some(99));
    cache.flush().unwrap();
    assert_eq!(rows.get(&7), Some(99));
    assert_eq!(rows.ops_applied(), 1);
    cache.remove(&7).unwrap();
    assert_eq!(cache.get(&7).unwrap(), None);
    cache.flush().unwrap();
    assert_eq!(rows.get(&7), None);
    rows.insert(9, 9);
    assert_eq!(cache.get(&9).unwrap(), Some(9));
    cache.update(9, |old| old.unwrap() + 1).unwrap();
    cache.update(10, |old| old.copied().unwrap_or(0) + 1).unwrap();
    cache.put_acked(11, 11, Ack::Backend).unwrap();
    assert_eq!(rows.get(&11), Some(11));
    assert!(cache.close(Duration::from_secs(5)).is_drained());
    assert_eq!(rows.get(&9), Some(10));
    assert_eq!(rows.get(&10), Some(1));
    println!("{:#?}", cache.stats());
}

#[test]
fn storm() {
    let rows = Arc::new(Memory::unrecorded());
    let cache = Cache::builder().capacity(1000).max_delay(Duration::from_millis(20)).backend(rows.clone()).open::<u64, String>().unwrap();
    let start = std::time::Instant::now();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let cache = cache.clone();
            s.spawn(move || {
                let mut x = t + 1;
                for i in 0..100_000u64 {
                    x ^= x << 13; x ^= x >> 7; x ^= x << 17;
                    let key = x % 5000;
                    match x >> 60 {
                        0..=7 => { cache.put(key, format!("{key}:{i}")).unwrap(); }
                        8..=9 => { cache.remove(&key).unwrap(); }
                        10..=11 => { cache.update(key, |o| o.cloned().unwrap_or(format!("{key}:"))).unwrap(); }
                        _ => { if let Some(v) = cache.get(&key).unwrap() { assert!(v.starts_with(&format!("{key}:"))); } }
                    }
                    assert!(cache.len() <= 1004);
                }
            });
        }
    });
    println!("{:?} {:#?}", start.elapsed(), cache.stats());
    assert!(cache.close(Duration::from_secs(5)).is_drained());
    assert_eq!(cache.stats().dirty, 0);
}
