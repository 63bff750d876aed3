//! What can go wrong, and which errors are worth another try.

use std::{error::Error, fmt, io, time::Duration};

use crate::backend::{BackendError, CellError, ErrorClass};

type Source = Box<dyn Error + Send + Sync>;

/// Why a database or a table of it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresOpenError {
    /// The address of the database makes no sense.
    #[error(
        "the address of the database makes no sense: {reason}; write postgres://user:password@host:port/name"
    )]
    Address {
        /// What is wrong with it.
        reason: String,
    },

    /// The server cannot be reached, or does not let this process in.
    #[error(
        "cannot connect to Postgres at {place}: {source}; check that the server runs, and the user, the password and \
         the name of the database"
    )]
    CannotConnect {
        /// Host, port and name of the database.
        place: String,
        /// What the server or the network says.
        source: Source,
    },

    /// The thread that talks to the server could not be started.
    #[error("the thread that talks to Postgres could not be started: {0}")]
    Spawn(#[source] io::Error),

    /// The name of a table or of a column is not a plain identifier.
    #[error(
        "`{name}` cannot name a {what}; use letters, digits and `_`, at most {most}, not beginning with a digit"
    )]
    Name {
        /// What the name is for: a table or a column.
        what: &'static str,
        /// The name.
        name: String,
        /// The longest name that there may be, in bytes.
        most: usize,
    },

    /// The columns of the key and of the value make no table together.
    #[error("the columns of the table `{table}` make no sense: {reason}")]
    Columns {
        /// The table.
        table: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// There is a table of that name, and it is not the one that the cache needs.
    #[error(
        "the table `{table}` does not fit: {difference}; found {found}, expected {expected}. Choose another table, \
         name its columns with `table_with`, or migrate it; nothing was changed"
    )]
    Shape {
        /// The table.
        table: String,
        /// The first difference.
        difference: String,
        /// The table as it is.
        found: String,
        /// The table as the types of key and value need it.
        expected: String,
    },

    /// Postgres refused to look at the table or to create it.
    #[error("cannot prepare the table `{table}`: {source}")]
    Table {
        /// The table.
        table: String,
        /// What Postgres says.
        source: Source,
    },
}

/// Why a row could not be stored or read: the source of the [`BackendError`]s of this backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// Postgres refused, or the connection to it was lost.
    #[error("table `{table}`: {}{}", told(source), advice(source))]
    Sql {
        /// The table.
        table: String,
        /// What Postgres says.
        source: tokio_postgres::Error,
    },

    /// The server did not answer. Whether the batch was stored is not known; it is written again.
    #[error(
        "table `{table}`: no answer from Postgres within {waited:?}; check the server and the network to it"
    )]
    NoAnswer {
        /// The table.
        table: String,
        /// How long was waited.
        waited: Duration,
    },

    /// An earlier connection of this backend was lost, and its session does not end although it was told to. Until it is gone, it
    /// could still write something older over something newer.
    #[error(
        "table `{table}`: an earlier session of this backend that was given up does not end; if this lasts, end it \
         with pg_terminate_backend"
    )]
    OldSession {
        /// The table.
        table: String,
    },

    /// The backend was dropped in the middle of a call, or its thread has ended.
    #[error("table `{table}`: the connections of this backend are closed; open it anew")]
    Closed {
        /// The table.
        table: String,
    },

    /// A key or a value does not go with its column.
    #[error("table `{table}`: {source}")]
    Cell {
        /// The table.
        table: String,
        /// What does not fit, and in which column.
        source: CellError,
    },

    /// A trigger or a rule kept the row from being stored.
    #[error(
        "table `{table}`: a trigger left the row out; change the trigger, or remove the key from the cache"
    )]
    LeftOut {
        /// The table.
        table: String,
    },

    /// The version guard found a row that was written by a cache which was opened later than this one.
    #[error(
        "table `{table}`: the row was written by a cache that was opened later than this one; only one cache may \
         write a table at a time"
    )]
    Overtaken {
        /// The table.
        table: String,
    },
}

/// What went wrong in the exchange with the server, before it is known whose fault it is.
#[derive(Debug)]
pub(super) enum Trouble {
    Sql(tokio_postgres::Error),
    NoAnswer(Duration),
    OldSession,
    Closed,
    LeftOut,
    Overtaken,
}

pub(super) fn closed() -> Trouble {
    Trouble::Closed
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl Trouble {
    /// Whether rows are to blame, and not what lies between here and the table.
    pub(super) fn class(&self) -> ErrorClass {
        match self {
            Trouble::Sql(error) => class(error),
            Trouble::LeftOut => ErrorClass::Permanent,
            Trouble::Overtaken => ErrorClass::Conflict,
            Trouble::NoAnswer(_) | Trouble::OldSession | Trouble::Closed => ErrorClass::Transient,
        }
    }

    /// Whether a prepared statement no longer goes with the table: a new connection has none.
    pub(super) fn is_stale(&self) -> bool {
        let Trouble::Sql(error) = self else { return false };
        matches!(error.code().map(|code| code.code()), Some("0A000" | "26000"))
    }

    /// What the engine is told.
    pub(super) fn about(self, table: &str) -> BackendError {
        let class = self.class();
        let table = table.to_owned();
        BackendError::new(
            class,
            match self {
                Trouble::Sql(source) => PostgresError::Sql { table, source },
                Trouble::NoAnswer(waited) => PostgresError::NoAnswer { table, waited },
                Trouble::OldSession => PostgresError::OldSession { table },
                Trouble::Closed => PostgresError::Closed { table },
                Trouble::LeftOut => PostgresError::LeftOut { table },
                Trouble::Overtaken => PostgresError::Overtaken { table },
            },
        )
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Sql(error) => f.write_str(&told(error)),
            Trouble::NoAnswer(waited) => write!(f, "no answer within {waited:?}"),
            Trouble::OldSession => f.write_str("an earlier session does not end"),
            Trouble::Closed => f.write_str("the connections are closed"),
            Trouble::LeftOut => f.write_str("a trigger left the row out"),
            Trouble::Overtaken => f.write_str("the row was written by another cache"),
        }
    }
}

impl Error for Trouble {}

/// The error of a key or a value that does not go with its column.
pub(super) fn unfit(table: &str, source: CellError) -> BackendError {
    BackendError::permanent(PostgresError::Cell { table: table.to_owned(), source })
}

/// What Postgres says, and about what.
fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => {
            let detail = told.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
            format!("{}{detail} [{}]", told.message(), told.code().code())
        }
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// Everything is worth another try but what the row itself is to blame for: a table that is gone or a right that was taken
/// away comes back, and costs no row.
fn class(error: &tokio_postgres::Error) -> ErrorClass {
    let Some(code) = error.code().map(|code| code.code()) else { return ErrorClass::Transient };
    match code.get(..2) {
        // A value that cannot be; a constraint; a check of a view; an exception of a trigger; two rows that are one; a row that
        // is too large for its index.
        Some("22" | "23" | "44" | "P0" | "21" | "54") => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    }
}

fn advice(error: &tokio_postgres::Error) -> &'static str {
    match error.code().map(|code| code.code()) {
        None => "; check the server and the network to it",
        Some("57014") => "; raise `statement_timeout` if this is no passing load",
        Some("55P03") => "; another session holds the row",
        Some("53300") => "; raise max_connections of the server, or lower `readers` and `writers`",
        Some("53100") => "; make room on the server's disk",
        Some("42P01" | "42703") => "; create it again, or open the backend anew",
        Some("42501") => "; grant the right to the user",
        Some("25006") => "; connect to the primary server",
        Some(code) if code.starts_with("23") => "; change the value, or the constraint",
        Some(_) => "",
    }
}
