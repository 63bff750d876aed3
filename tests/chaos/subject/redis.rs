//! A Redis server, behind a proxy.

use std::{
    net::ToSocketAddrs,
    thread,
    time::{Duration, Instant},
};

use redis::{Client, Commands, Connection, cmd};
use writeback::backend::Redis;

use super::{Misfortune, SHORTEST, Subject, Trouble, can_restart, postgres::cut, restart, unique};
use crate::harness::{
    gate::Table,
    model::Rows,
    proxy::{Proxy, split},
    random::Random,
};

/// Shorter than many hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

pub(crate) struct Server {
    client: Client,
    prefix: String,
    proxy: Proxy,
    proxied: String,
    /// It keeps on disk what it has answered, so that it may be killed.
    is_durable: bool,
}

impl Server {
    pub(crate) fn at(address: &str) -> Result<Self, Trouble> {
        let (host, proxied) = split(address, 6379).ok_or("not an address like redis://host:port/")?;
        let place = host.to_socket_addrs()?.next().ok_or("the host has no address")?;
        let proxy = Proxy::to(place)?;
        let proxied = proxied(proxy.port());
        let client = Client::open(address)?;
        let is_durable = can_restart();
        if is_durable {
            keep(&mut client.get_connection()?)?;
        }
        Ok(Server { client, prefix: format!("{}:", unique()), proxy, proxied, is_durable })
    }

    /// Past the proxy.
    fn connect(&self) -> Result<Connection, Trouble> {
        Ok(self.client.get_connection()?)
    }
}

/// Lets the server write all into its file before it answers, and waits until what it has is in there.
fn keep(connection: &mut Connection) -> Result<(), Trouble> {
    let set = |connection: &mut Connection, name: &str, value: &str| {
        cmd("CONFIG").arg("SET").arg(name).arg(value).exec(connection)
    };
    // Written before each answer. `everysec` would put that off while a sync is running.
    set(connection, "appendfsync", "no")?;
    set(connection, "appendonly", "yes")?;
    let begun = Instant::now();
    loop {
        let about: String = cmd("INFO").arg("persistence").query(connection)?;
        let says = |line: &str| about.lines().any(|other| other.trim() == line);
        if says("aof_enabled:1") && says("aof_rewrite_in_progress:0") && says("aof_rewrite_scheduled:0") {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(10) {
            return Err("Redis does not begin its append-only file".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

impl Subject for Server {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn table(&self) -> Result<Box<Table>, Trouble> {
        let server = Redis::options()
            .connect_timeout(Duration::from_secs(1))
            .answer_timeout(ANSWER_TIMEOUT)
            .connect(&self.proxied)?;
        Ok(Box::new(server.map(&self.prefix)?))
    }

    fn misfortunes(&self) -> Vec<Misfortune> {
        let possible = |what: &Misfortune| match what {
            Misfortune::Restart => self.is_durable,
            // Redis locks nothing.
            Misfortune::Deadlock => false,
            _ => true,
        };
        Misfortune::ALL.into_iter().filter(possible).collect()
    }

    fn strike(&self, what: Misfortune, random: &mut Random, longest: Duration) -> Result<u64, Trouble> {
        let time = random.time(SHORTEST, longest);
        match what {
            Misfortune::Restart => restart("redis"),
            Misfortune::Outage => {
                self.proxy.refuse();
                thread::sleep(time);
                self.proxy.open();
                Ok(1)
            }
            Misfortune::Kick => {
                let (mut connection, mut ended) = (self.connect()?, 0);
                for address in self.proxy.addresses() {
                    let kick = cmd("CLIENT").arg("KILL").arg("ADDR").arg(address.to_string()).to_owned();
                    // One that has just gone is none.
                    ended += kick.query::<redis::Value>(&mut connection).map_or(0, |_| 1);
                }
                Ok(ended)
            }
            Misfortune::Hang => {
                self.proxy.hold();
                thread::sleep(time);
                self.proxy.open();
                Ok(1)
            }
            Misfortune::Stall => {
                let millis = time.as_millis() as u64;
                cmd("CLIENT").arg("PAUSE").arg(millis).arg("ALL").exec(&mut self.connect()?)?;
                thread::sleep(time);
                Ok(1)
            }
            Misfortune::Reset => Ok(cut(&self.proxy, random)),
            Misfortune::Deadlock => Err("Redis knows no deadlocks".into()),
        }
    }

    fn rows(&self) -> Result<Rows, Trouble> {
        let mut connection = self.connect()?;
        let keys: Vec<String> =
            connection.scan_match(format!("{}*", self.prefix))?.collect::<Result<_, _>>()?;
        let mut rows = Rows::new();
        for key in keys {
            let number = key.strip_prefix(&self.prefix).unwrap_or(&key).parse()?;
            // All of it: a field that nobody knows is a difference.
            let mut fields: std::collections::BTreeMap<String, String> = connection.hgetall(&key)?;
            let (first, second) = (fields.remove("value_1"), fields.remove("value_2"));
            let (Some(first), Some(second), true) = (first, second, fields.is_empty()) else {
                return Err(format!("the hash {key} has other fields than it should").into());
            };
            rows.insert(number, (first.parse()?, second));
        }
        Ok(rows)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.proxy.open();
        let Ok(mut connection) = self.connect() else { return };
        let keys: Result<Vec<String>, _> =
            connection.scan_match(format!("{}*", self.prefix)).and_then(Iterator::collect);
        for key in keys.unwrap_or_default() {
            let _: Result<(), _> = connection.del(key);
        }
        if self.is_durable {
            let _ = cmd("CONFIG").arg("SET").arg("appendonly").arg("no").exec(&mut connection);
        }
    }
}
