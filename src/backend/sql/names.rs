//! Names of tables and columns, as SQL takes them.

/// Whether a name is a plain identifier: what a table is called is never a way to say something else in SQL.
pub(in crate::backend) fn is_plain(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

/// The name as SQL takes it, keyword or not.
pub(in crate::backend) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The names as SQL takes them, with commas between.
pub(in crate::backend) fn list(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(", ")
}
