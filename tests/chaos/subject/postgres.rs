//! A Postgres server, behind a proxy.

use std::{
    error::Error,
    net::ToSocketAddrs,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use postgres::{Client, NoTls, error::SqlState};
use writeback::{
    BackendError,
    backend::{Postgres, PostgresError},
};

use super::{Misfortune, SHORTEST, Subject, Trouble, can_restart, restart, unique};
use crate::harness::{
    gate::Table,
    model::{COUNTERS, Rows},
    proxy::{Proxy, split},
    random::Random,
};

/// How long a session of the cache waits for a lock, and when it looks whether it waits in a circle.
const LOCK_TIMEOUT: Duration = Duration::from_millis(400);
const DEADLOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// How often somebody else tries to meet the cache in a circle.
const TRIES: usize = 4;

/// How long it waits for the cache to come to the row that it has locked.
const AMBUSH: Duration = Duration::from_secs(2);

/// The connection that is to be cut is cut when enough has passed; if nothing passes, it is not.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    address: String,
    /// Of the schema, and of the sessions.
    name: String,
    proxy: Proxy,
    proxied: String,
    is_superuser: bool,
    rivals_ended: AtomicU64,
}

impl Server {
    pub(crate) fn at(address: &str) -> Result<Self, Trouble> {
        let (host, proxied) =
            split(address, 5432).ok_or("not an address like postgres://user@host:port/name")?;
        let place = host.to_socket_addrs()?.next().ok_or("the host has no address")?;
        let (proxy, name) = (Proxy::to(place)?, unique());
        let mut client = Client::connect(address, NoTls)?;
        let is_superuser = client.query_one("SHOW is_superuser", &[])?.get::<_, String>(0) == "on";
        client.batch_execute(&format!("CREATE SCHEMA {name}"))?;
        let mut proxied = proxied(proxy.port());
        proxied.push(if proxied.contains('?') { '&' } else { '?' });
        proxied.push_str(&format!("application_name={name}"));
        if is_superuser {
            let millis = DEADLOCK_TIMEOUT.as_millis();
            proxied.push_str(&format!("&options=-c%20deadlock_timeout%3D{millis}"));
        }
        let rivals_ended = AtomicU64::new(0);
        Ok(Server { address: address.to_owned(), name, proxy, proxied, is_superuser, rivals_ended })
    }

    /// Past the proxy.
    fn client(&self) -> Result<Client, Trouble> {
        let mut client = Client::connect(&self.address, NoTls)?;
        client.batch_execute(&format!("SET search_path = {}", self.name))?;
        Ok(client)
    }

    /// Locks the row that the cache will come to last, waits until it is there and waits for it, and then wants a row that the
    /// cache has locked on its way.
    fn deadlock(&self, random: &mut Random) -> Result<u64, Trouble> {
        let mut met = 0;
        for _ in 0..TRIES {
            // Who looks first is the one whom the server ends.
            let patience = if random.one_in(2) { "10ms" } else { "5s" };
            let (mut rival, mut scout) = (self.client()?, self.client()?);
            rival.batch_execute(&format!("SET deadlock_timeout = '{patience}'; SET lock_timeout = '2s'"))?;
            let lock = rival.prepare("SELECT key FROM entries WHERE key = $1 FOR UPDATE")?;
            let first = random.below(COUNTERS / 2) as i64;
            let last = (COUNTERS - 1 - random.below(COUNTERS / 4)) as i64;
            let mut transaction = rival.transaction()?;
            transaction.execute(&lock, &[&last])?;
            let waits = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                         WHERE NOT l.granted AND a.application_name = $1";
            let waits = scout.prepare(waits)?;
            let begun = Instant::now();
            while scout.query_one(&waits, &[&self.name])?.get::<_, i64>(0) == 0 {
                if begun.elapsed() > AMBUSH {
                    return Ok(met);
                }
                thread::sleep(Duration::from_millis(2));
            }
            match transaction.execute(&lock, &[&first]) {
                Ok(_) => {}
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                    self.rivals_ended.fetch_add(1, Ordering::Relaxed);
                }
                // The cache has waited long enough, and came back to wait for this one.
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
                Err(error) => return Err(error.into()),
            }
            met += 1;
        }
        Ok(met)
    }
}

impl Subject for Server {
    fn name(&self) -> &'static str {
        "Postgres"
    }

    fn table(&self) -> Result<Box<Table>, Trouble> {
        let server = Postgres::options()
            .connect_timeout(Duration::from_secs(1))
            .statement_timeout(Duration::from_secs(1))
            .lock_timeout(LOCK_TIMEOUT)
            .connect(&self.proxied)?;
        Ok(Box::new(server.table(&format!("{}.entries", self.name))?))
    }

    fn misfortunes(&self) -> Vec<Misfortune> {
        let possible = |what: &Misfortune| match what {
            Misfortune::Restart => can_restart(),
            Misfortune::Deadlock => self.is_superuser,
            _ => true,
        };
        Misfortune::ALL.into_iter().filter(possible).collect()
    }

    fn strike(&self, what: Misfortune, random: &mut Random, longest: Duration) -> Result<u64, Trouble> {
        let time = random.time(SHORTEST, longest);
        match what {
            Misfortune::Restart => restart("postgres"),
            Misfortune::Outage => {
                self.proxy.refuse();
                thread::sleep(time);
                self.proxy.open();
                Ok(1)
            }
            Misfortune::Kick => {
                let kick = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
                Ok(self.client()?.query_one(kick, &[&self.name])?.get::<_, i64>(0) as u64)
            }
            Misfortune::Hang => {
                self.proxy.hold();
                thread::sleep(time);
                self.proxy.open();
                Ok(1)
            }
            Misfortune::Stall => {
                let mut client = self.client()?;
                let mut transaction = client.transaction()?;
                transaction.batch_execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")?;
                thread::sleep(time);
                transaction.commit()?;
                Ok(1)
            }
            Misfortune::Deadlock => self.deadlock(random),
            Misfortune::Reset => Ok(cut(&self.proxy, random)),
        }
    }

    fn is_deadlock(&self) -> fn(&BackendError) -> bool {
        |error| match error.source().and_then(|source| source.downcast_ref()) {
            Some(PostgresError::Sql { source, .. }) => {
                source.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
            }
            _ => false,
        }
    }

    fn rivals_ended(&self) -> u64 {
        self.rivals_ended.load(Ordering::Relaxed)
    }

    fn rows(&self) -> Result<Rows, Trouble> {
        let rows = self.client()?.query("SELECT key, value_1, value_2 FROM entries", &[])?;
        let row = |row: &postgres::Row| {
            let (key, number): (i64, i64) = (row.get(0), row.get(1));
            (key as u64, (number as u64, row.get(2)))
        };
        Ok(rows.iter().map(row).collect())
    }
}

/// Cuts the connections in the middle of what passes through them next: how many.
pub(super) fn cut(proxy: &Proxy, random: &mut Random) -> u64 {
    let before = proxy.cut();
    proxy.light_fuses(|| random.below(3_000));
    let begun = Instant::now();
    while proxy.cut() == before && begun.elapsed() < CUT_PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    proxy.cut() - before
}

impl Drop for Server {
    fn drop(&mut self) {
        self.proxy.open();
        let sql = format!("SET lock_timeout = '5s'; DROP SCHEMA {} CASCADE", self.name);
        let dropped = Client::connect(&self.address, NoTls).and_then(|mut client| client.batch_execute(&sql));
        if let Err(error) = dropped {
            eprintln!("the schema {} is left: {error}", self.name);
        }
    }
}
