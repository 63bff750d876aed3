//! The connections to one database: some that write, some that read, all driven by one thread of their own.
//!
//! Calls come from threads that may themselves be a part of some async runtime, where driving a future is not allowed.
//! So every exchange with the server runs on a thread of this module, and the caller waits for a plain channel.
//!
//! # Sessions that were given up
//!
//! When a connection is lost, or the server does not answer in time, nobody knows what became of the last transaction: the
//! server may yet carry it out, after the next one has written something newer. So the sessions that wrote are remembered, and
//! nothing is written before the server says that they are gone; those that are not are ended (`pg_terminate_backend`).

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tokio::{runtime::Runtime, task::AbortHandle, time::timeout};
use tokio_postgres::{
    Client, Config, NoTls, Socket, Statement,
    tls::{MakeTlsConnect, TlsConnect},
    types::{ToSql, Type},
};

use super::{
    cells::Array,
    error::{Trouble, closed},
};
use crate::backend::{
    pool::{Permit, Pool},
    sql::{SqlRef, SqlType},
};

/// How much longer than a statement may take its answer is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// How often the server is asked in one call whether a session that was given up is gone.
const LOOKS: u32 = 20;

/// How connections are set up.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    /// Zero: none.
    pub(super) statement_timeout: Duration,
    /// Zero: none.
    pub(super) lock_timeout: Duration,
    pub(super) readers: usize,
    pub(super) writers: usize,
    pub(super) connector: Connector,
}

type Connecting = Pin<Box<dyn Future<Output = Result<(Client, Driving), tokio_postgres::Error>> + Send>>;
type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a connection is made: plain, or with TLS of the user's choice.
#[derive(Clone)]
pub(super) struct Connector(Arc<dyn Fn(Config) -> Connecting + Send + Sync>);

impl Connector {
    pub(super) fn plain() -> Self {
        Self::with(NoTls)
    }

    pub(super) fn with<T>(tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Connector(Arc::new(move |config| {
            let tls = tls.clone();
            Box::pin(async move {
                let (client, connection) = config.connect(tls).await?;
                // How it ended is told to whoever waits for an answer.
                let driving: Driving = Box::pin(async move { drop(connection.await) });
                Ok((client, driving))
            })
        }))
    }
}

/// The connections to one database.
pub(super) struct Connections {
    config: Config,
    settings: Settings,
    /// Taken on drop.
    runtime: Option<Runtime>,
    readers: Pool<Session>,
    writers: Pool<Session>,
    /// Sessions that wrote and were given up. Invariant: no transaction begins while one of them may be alive.
    lost: Mutex<Vec<Identity>>,
}

impl Connections {
    pub(super) fn new(mut config: Config, settings: Settings) -> io::Result<Self> {
        // A thread of its own also for timers: a caller may be blocked for as long as it likes.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("writeback-postgres")
            .enable_all()
            .build()?;
        config.connect_timeout(settings.connect_timeout);
        if config.get_application_name().is_none() {
            config.application_name("writeback");
        }
        let (readers, writers) = (Pool::of(settings.readers), Pool::of(settings.writers));
        Ok(Self { config, settings, runtime: Some(runtime), readers, writers, lost: Mutex::default() })
    }

    /// A connection to write with, outside any transaction, while no session that was given up can still write. Waits
    /// while all are in use.
    pub(super) fn writer(&self) -> Result<Lease<'_>, Trouble> {
        let mut lease = self.lease(&self.writers, true)?;
        let lost = self.lost().clone();
        if !lost.is_empty() {
            lease.end_sessions(&lost)?;
            self.lost().retain(|session| !lost.contains(session));
        }
        Ok(lease)
    }

    /// A connection to read with. Waits while all are in use, never for one that writes.
    pub(super) fn reader(&self) -> Result<Lease<'_>, Trouble> {
        self.lease(&self.readers, false)
    }

    fn lease<'a>(&'a self, pool: &'a Pool<Session>, writes: bool) -> Result<Lease<'a>, Trouble> {
        let permit = pool.permit();
        // One that was lost while nobody used it has nothing under way.
        let idle = std::iter::from_fn(|| pool.take()).find(|session| !session.client.is_closed());
        let session = match idle {
            Some(session) => session,
            None => self.connect()?,
        };
        Ok(Lease { connections: self, session: Some(session), writes, sound: true, _permit: permit })
    }

    fn connect(&self) -> Result<Session, Trouble> {
        let Settings { connect_timeout, statement_timeout, lock_timeout, connector, .. } =
            self.settings.clone();
        let config = self.config.clone();
        let all = connect_timeout + GRACE;
        self.run(async move {
            let connecting = async move {
                let (client, driving) = (connector.0)(config).await?;
                let task = tokio::spawn(driving).abort_handle();
                let millis = |time: Duration| time.as_millis().min(i32::MAX.unsigned_abs().into()).to_string();
                let (statement, lock) = (millis(statement_timeout), millis(lock_timeout));
                let idle = millis(statement_timeout.max(GRACE) * 4);
                // Locks of a client that is gone without a word are let go of.
                let set = "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false), \
                           set_config('idle_in_transaction_session_timeout', $3, false), a.pid, \
                           (extract(epoch from a.backend_start) * 1000000)::int8 \
                           FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid()";
                let texts = [statement, lock, idle].map(|text| (text, Type::TEXT));
                let parameters: Vec<_> =
                    texts.iter().map(|(text, of)| (text as &(dyn ToSql + Sync), of.clone())).collect();
                let row = client.query_typed_one(set, &parameters).await?;
                let identity = Identity { pid: row.try_get(3)?, started: row.try_get(4)? };
                Ok(Session { client, task, identity, prepared: HashMap::new() })
            };
            match timeout(all, connecting).await {
                Ok(connected) => connected.map_err(Trouble::Sql),
                Err(_) => Err(Trouble::NoAnswer(all)),
            }
        })
    }

    /// Waits until the thread of this module has done a job.
    fn run<R: Send + 'static>(
        &self,
        job: impl Future<Output = Result<R, Trouble>> + Send + 'static,
    ) -> Result<R, Trouble> {
        let Some(runtime) = &self.runtime else { return Err(closed()) };
        let (done, is_done) = mpsc::sync_channel(1);
        runtime.spawn(async move { drop(done.send(job.await)) });
        // An error: the job has panicked.
        is_done.recv().unwrap_or_else(|_| Err(closed()))
    }

    fn lost(&self) -> MutexGuard<'_, Vec<Identity>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not the ordinary drop, which waits, and panics where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// Which session of the server a connection is: process numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    pid: i32,
    /// Microseconds since 1970.
    started: i64,
}

struct Session {
    client: Client,
    task: AbortHandle,
    identity: Identity,
    /// Tables of one name can have had other columns.
    prepared: HashMap<(Arc<str>, Arc<[Type]>), Statement>,
}

impl Session {
    async fn prepare(&mut self, query: &Query) -> Result<Statement, tokio_postgres::Error> {
        let which = (query.sql.clone(), query.types.clone());
        if let Some(statement) = self.prepared.get(&which) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare_typed(&query.sql, &query.types).await?;
        self.prepared.insert(which, statement.clone());
        Ok(statement)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It would otherwise wait for answers that may never come.
        self.task.abort();
    }
}

/// A statement, to be prepared once for each connection.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) sql: Arc<str>,
    pub(super) types: Arc<[Type]>,
}

/// The parameters of a statement.
pub(super) type Parameters = Vec<Parameter>;

/// Statements and their parameters, in order.
pub(super) type Work = Vec<(Query, Parameters)>;

/// A parameter of a statement.
#[derive(Debug)]
pub(super) enum Parameter {
    Array(Array),
    Number(i64),
    Text(String),
}

impl Parameter {
    fn to_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Parameter::Array(array) => array,
            Parameter::Number(number) => number,
            Parameter::Text(text) => text,
        }
    }
}

/// A connection in use, given back on drop if it is still good for anything.
pub(super) struct Lease<'a> {
    connections: &'a Connections,
    session: Option<Session>,
    writes: bool,
    /// It has answered the last question, and is outside any transaction.
    sound: bool,
    _permit: Permit<'a, Session>,
}

impl Lease<'_> {
    /// Does `job`, which makes `statements` exchanges, with the session. If the server does not answer, the session is given
    /// up.
    fn with<R: Send + 'static>(
        &mut self,
        statements: usize,
        job: impl AsyncFnOnceSend<R>,
    ) -> Result<R, Trouble> {
        let Some(mut session) = self.session.take() else { return Err(closed()) };
        let identity = session.identity;
        let limit = self.connections.settings.statement_timeout;
        let limit = (!limit.is_zero())
            .then(|| limit.saturating_mul(statements.try_into().unwrap_or(u32::MAX)).saturating_add(GRACE));
        let done = self.connections.run(async move {
            let answer = match limit {
                None => job.call(&mut session).await,
                Some(limit) => match timeout(limit, job.call(&mut session)).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Trouble::NoAnswer(limit)),
                },
            };
            Ok((session, answer))
        });
        match done {
            Ok((session, answer)) if !session.client.is_closed() => {
                self.session = Some(session);
                let stale = |trouble: &Trouble| trouble.is_stale();
                if answer.as_ref().is_err_and(stale) {
                    self.sound = false;
                }
                answer
            }
            Ok((_, answer)) => {
                self.give_up(identity);
                answer
            }
            Err(trouble) => {
                self.give_up(identity);
                Err(trouble)
            }
        }
    }

    fn give_up(&mut self, identity: Identity) {
        if self.writes {
            self.connections.lost().push(identity);
        }
    }

    /// Carries out statements that answer nothing.
    pub(super) fn control(&mut self, sql: &'static str) -> Result<(), Trouble> {
        self.with(1, Control(sql))
    }

    /// Carries out statements one after the other, between `begin` and `end`, until one fails. If one writes fewer rows than
    /// it should, `end` is left to the caller.
    pub(super) fn execute(
        &mut self,
        begin: &'static str,
        work: Work,
        least: Vec<u64>,
        end: &'static str,
    ) -> Result<Done, Trouble> {
        self.with(work.len() + 2, Execute { begin, work, least, end })
    }

    /// The rows of an answer.
    pub(super) fn query(
        &mut self,
        query: Query,
        parameters: Parameters,
    ) -> Result<Vec<tokio_postgres::Row>, Trouble> {
        self.with(1, Ask { query, parameters })
    }

    /// The connection is not to be used again: what it is in the middle of ends with it.
    pub(super) fn discard(&mut self) {
        self.sound = false;
    }

    fn end_sessions(&mut self, sessions: &[Identity]) -> Result<(), Trouble> {
        let sql = "SELECT pg_terminate_backend(a.pid), pg_sleep(0.005) FROM pg_stat_activity AS a \
                   JOIN unnest($1, $2) AS l (pid, started) ON a.pid = l.pid \
                   AND (extract(epoch from a.backend_start) * 1000000)::int8 = l.started";
        let query = Query { sql: sql.into(), types: [Type::INT8_ARRAY, Type::INT8_ARRAY].into() };
        for _ in 0..LOOKS {
            let (mut pids, mut starts) = (Array::of(SqlType::Integer), Array::of(SqlType::Integer));
            for session in sessions {
                let pushed = pids.push(SqlRef::Integer(session.pid.into()));
                pushed.and_then(|()| starts.push(SqlRef::Integer(session.started))).map_err(|_| closed())?;
            }
            let parameters = vec![Parameter::Array(pids), Parameter::Array(starts)];
            if self.query(query.clone(), parameters)?.is_empty() {
                return Ok(());
            }
        }
        Err(Trouble::OldSession)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let pool = if self.writes { &self.connections.writers } else { &self.connections.readers };
        if self.sound {
            pool.put(session);
        } else {
            self.give_up(session.identity);
        }
    }
}

/// A job for the thread of this module.
trait AsyncFnOnceSend<R>: Send + 'static {
    fn call(self, session: &mut Session) -> impl Future<Output = Result<R, Trouble>> + Send;
}

struct Control(&'static str);

impl AsyncFnOnceSend<()> for Control {
    async fn call(self, session: &mut Session) -> Result<(), Trouble> {
        Ok(session.client.batch_execute(self.0).await?)
    }
}

struct Ask {
    query: Query,
    parameters: Parameters,
}

impl AsyncFnOnceSend<Vec<tokio_postgres::Row>> for Ask {
    async fn call(self, session: &mut Session) -> Result<Vec<tokio_postgres::Row>, Trouble> {
        let statement = session.prepare(&self.query).await?;
        Ok(session.client.query(&statement, &borrowed(&self.parameters)).await?)
    }
}

struct Execute {
    begin: &'static str,
    work: Work,
    /// How many rows each statement should write.
    least: Vec<u64>,
    end: &'static str,
}

/// Statements that were carried out.
pub(super) struct Done {
    /// Those that wrote fewer rows than they should; none: all is ended.
    pub(super) short: Work,
}

impl AsyncFnOnceSend<Done> for Execute {
    async fn call(self, session: &mut Session) -> Result<Done, Trouble> {
        let mut short = Work::new();
        let mut begin = Some(self.begin);
        for ((query, parameters), least) in self.work.into_iter().zip(self.least) {
            let statement = session.prepare(&query).await?;
            let borrowed = borrowed(&parameters);
            let execute = session.client.execute(&statement, &borrowed);
            let count = match begin.take() {
                // Sent together, answered together: one exchange less.
                Some(begin) => {
                    let (begun, count) = tokio::join!(biased; session.client.batch_execute(begin), execute);
                    begun?;
                    count?
                }
                None => execute.await?,
            };
            if count < least {
                short.push((query, parameters));
            }
        }
        if let Some(begin) = begin {
            session.client.batch_execute(begin).await?;
        }
        // Never sent before all else is answered: a server that is left alone in the middle of a transaction undoes it.
        if short.is_empty() {
            session.client.batch_execute(self.end).await?;
        }
        Ok(Done { short })
    }
}

fn borrowed(parameters: &Parameters) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(Parameter::to_sql).collect()
}
