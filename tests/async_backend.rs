//! Async backends on a tokio runtime, called from threads of their own and from tasks of the same runtime.

#![cfg(feature = "tokio")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use writeback::{
    Answers, Backend, BackendError, Batch, Cache, Change, ErrorClass, Op,
    backend::{AsyncBackend, OnRuntime, OnRuntimeError},
};

/// A map whose calls take a while, each as long as it is told.
#[derive(Default)]
struct Slow {
    rows: Mutex<HashMap<u64, u64>>,
    millis: AtomicU64,
    panics: std::sync::atomic::AtomicBool,
}

impl Slow {
    async fn wait(&self) {
        let millis = self.millis.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
    }
}

struct Client(Arc<Slow>);

impl AsyncBackend<u64, u64> for Client {
    async fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        self.0.wait().await;
        let rows = self.0.rows.lock().unwrap();
        Ok(keys.iter().map(|key| rows.get(key).copied()).collect())
    }

    async fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.0.wait().await;
        let mut rows = self.0.rows.lock().unwrap();
        batch.answer_each(|op| {
            match op.change() {
                Change::Upsert(value) => drop(rows.insert(*op.key(), *value)),
                Change::Delete => drop(rows.remove(op.key())),
            }
            Ok(())
        })
    }

    fn identity(&self) -> String {
        "slow".to_owned()
    }
}

fn put(key: u64, value: u64) -> Batch<u64, u64> {
    Batch::new(vec![Op::new(key, Change::Upsert(value), 1, 1)])
}

fn set_up(threads: usize) -> (Runtime, Arc<Slow>, OnRuntime<Client>) {
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_time().build().unwrap();
    let slow = Arc::new(Slow::default());
    let backend = OnRuntime::on(runtime.handle().clone(), Client(slow.clone())).unwrap();
    (runtime, slow, backend)
}

fn class(answers: &Answers) -> Option<ErrorClass> {
    answers.as_slice()[0].as_ref().err().map(BackendError::class)
}

#[test]
fn a_cache_writes_and_reads_through() {
    let (_runtime, slow, backend) = set_up(1);
    assert_eq!(backend.identity(), "slow");
    slow.rows.lock().unwrap().insert(7, 70);
    let cache = Cache::builder().capacity(100).backend(backend).open::<u64, u64>().unwrap();
    assert_eq!(cache.get(&7).unwrap(), Some(70));
    cache.put(8, 80).unwrap();
    cache.remove(&7).unwrap();
    cache.flush().unwrap();
    assert_eq!(*slow.rows.lock().unwrap(), HashMap::from([(8, 80)]));
}

#[test]
fn loads_from_every_thread_of_the_same_runtime_do_not_wait_for_themselves() {
    let (runtime, slow, backend) = set_up(2);
    in_tasks(&runtime, &slow, backend, false);
}

#[test]
fn with_a_runtime_of_its_own_everything_may_be_called_from_tasks() {
    let (runtime, slow, _) = set_up(2);
    let backend = OnRuntime::own(|_| Client(slow.clone())).unwrap();
    in_tasks(&runtime, &slow, backend, true);
}

fn in_tasks(runtime: &Runtime, slow: &Slow, backend: OnRuntime<Client>, flush: bool) {
    slow.millis.store(5, Ordering::Relaxed);
    let cache = Arc::new(Cache::builder().capacity(1_000).backend(backend).open::<u64, u64>().unwrap());
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let cache = cache.clone();
            runtime.spawn(async move {
                for key in 0..5 {
                    assert_eq!(cache.get(&(task * 10 + key)).unwrap(), None);
                    cache.put(task * 10 + key, 1).unwrap();
                    tokio::task::yield_now().await;
                }
                if flush {
                    cache.flush().unwrap();
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(20), task)
                .await
                .expect("no deadlock")
                .expect("no panic");
        }
        // And from the future that the runtime is blocked on, and one in a set of local tasks.
        assert_eq!(cache.get(&999).unwrap(), None);
        let local = tokio::task::LocalSet::new();
        local.run_until(async { assert_eq!(cache.get(&998).unwrap(), None) }).await;
    });
    cache.flush().unwrap();
    assert_eq!(slow.rows.lock().unwrap().len(), 80);
}

#[test]
fn f13_nothing_overtakes_a_batch_that_takes_too_long() {
    let (_runtime, slow, backend) = set_up(1);
    let backend = backend.timeout(Duration::from_millis(100));
    slow.millis.store(450, Ordering::Relaxed);
    assert_eq!(class(&backend.apply(&put(1, 1))), Some(ErrorClass::Transient));
    slow.millis.store(0, Ordering::Relaxed);
    let second = backend.apply(&put(1, 2));
    assert!(second.as_slice()[0].as_ref().unwrap_err().to_string().contains("still goes on"), "{second:?}");
    // Loads do not wait for it.
    assert_eq!(backend.load(&[1]).unwrap(), [None]);
    let end = Instant::now() + Duration::from_secs(5);
    while class(&backend.apply(&put(1, 3))).is_some() {
        assert!(Instant::now() < end);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(backend.load(&[1]).unwrap(), [Some(3)]);
}

#[test]
fn panics_timeouts_and_the_end_of_the_runtime_are_transient() {
    let (runtime, slow, backend) = set_up(1);
    let backend = backend.timeout(Duration::from_millis(200));
    slow.panics.store(true, Ordering::Relaxed);
    assert_eq!(class(&backend.apply(&put(1, 1))), Some(ErrorClass::Transient));
    assert_eq!(backend.load(&[1]).unwrap_err().class(), ErrorClass::Transient);
    slow.panics.store(false, Ordering::Relaxed);
    slow.millis.store(100_000, Ordering::Relaxed);
    assert!(backend.load(&[1]).unwrap_err().to_string().contains("no answer"));
    slow.millis.store(0, Ordering::Relaxed);
    assert_eq!(class(&backend.apply(&put(1, 1))), None);
    drop(runtime);
    assert_eq!(class(&backend.apply(&put(1, 1))), Some(ErrorClass::Transient));
    assert_eq!(backend.load(&[1]).unwrap_err().class(), ErrorClass::Transient);
}

#[test]
fn a_runtime_without_threads_is_refused() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let refused = OnRuntime::on(runtime.handle().clone(), Client(Arc::default()));
    assert!(matches!(refused, Err(OnRuntimeError::CurrentThread)));
}
