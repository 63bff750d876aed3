//! The dead-letter area of one journal: its file, and the same letters in memory.
//!
//! A record is appended and synced before anything is done that relies on it. After a failed append or sync nobody knows
//! what the file holds, so it is not written any further: the next record goes into a new file with all letters, which takes
//! the old one's place whole or not at all.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    Damage, DeadLetterError, State,
    format::{self, Identity, Record},
    record::Letter,
};
use crate::journal::file::{sync_folder, write_at};

/// Where the dead letters of a journal are.
pub(crate) fn beside(journal: &Path) -> PathBuf {
    with_suffix(journal, ".dead")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Why a letter was not written.
#[derive(Debug)]
pub(crate) enum Unkept {
    /// There is no room for it.
    Full,
    Io(io::Error),
}

/// How the letters of an earlier life are opened.
pub(crate) struct Wanted {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// The most bytes that the file may have.
    pub(crate) limit: u64,
    /// Open them although they are another backend's.
    pub(crate) adopt: bool,
    /// Open them although some are missing in the middle.
    pub(crate) salvage: bool,
}

pub(crate) struct Area {
    path: PathBuf,
    identity: Identity,
    limit: u64,
    /// `None`: there is no file yet.
    file: Option<File>,
    /// The byte behind the last record.
    end: u64,
    /// The file may hold something else than we think, or another identity: the next record makes a new one.
    must_rewrite: bool,
    next_id: u64,
    /// All letters of which something is to be said.
    letters: BTreeMap<u64, Letter>,
    /// The letters of each key.
    by_key: HashMap<Box<[u8]>, Vec<u64>>,
}

impl Area {
    /// Reads the letters of an earlier life, if there are any; changes nothing unless they are salvaged.
    pub(crate) fn open(wanted: Wanted) -> Result<(Self, Vec<Damage>), DeadLetterError> {
        let Wanted { path, identity, limit, adopt, salvage } = wanted;
        let Some((mut area, found, damage)) = Self::read(&path)? else {
            return Ok((Self::empty(path, identity, limit), Vec::new()));
        };
        let open = area.open_letters().count();
        let is_ours = (&found.key, &found.value) == (&identity.key, &identity.value)
            && (adopt || found.backend == identity.backend);
        if !is_ours && open > 0 {
            let named = |of: &Identity| format!("{:?} ({}, {})", of.backend, of.key, of.value);
            return Err(DeadLetterError::Others {
                path,
                open,
                letters: named(&found),
                cache: named(&identity),
            });
        }
        if damage.iter().any(|damage| !damage.is_tail) {
            if !salvage {
                return Err(DeadLetterError::Damaged { path, saved: open, damage });
            }
            fs::copy(&path, with_suffix(&path, ".damaged"))
                .map_err(DeadLetterError::io(&path, "keeping a copy of"))?;
        }
        area.must_rewrite = !damage.is_empty() || found != identity;
        area.limit = limit;
        if !is_ours {
            // Nobody waits for any of them, and their bytes are of other types.
            area.letters.clear();
            area.by_key.clear();
        }
        area.identity = identity;
        Ok((area, damage))
    }

    /// What is in the file of a journal that no cache has open.
    pub(super) fn read(path: &Path) -> Result<Option<(Self, Identity, Vec<Damage>)>, DeadLetterError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DeadLetterError::io(path, "reading")(error)),
        };
        let scan =
            format::scan(&bytes).map_err(|unreadable| DeadLetterError::unreadable(path, unreadable))?;
        let file = OpenOptions::new().read(true).write(true).open(path);
        let mut area = Self::empty(path.to_owned(), scan.identity.clone(), u64::MAX);
        area.file = Some(file.map_err(DeadLetterError::io(path, "opening"))?);
        area.end = scan.end;
        area.next_id = scan.next_id;
        area.must_rewrite = !scan.damage.is_empty();
        scan.records.into_iter().for_each(|record| area.take_note(record));
        Ok(Some((area, scan.identity, scan.damage)))
    }

    fn empty(path: PathBuf, identity: Identity, limit: u64) -> Self {
        Area {
            path,
            identity,
            limit,
            file: None,
            end: 0,
            must_rewrite: false,
            next_id: 1,
            letters: BTreeMap::new(),
            by_key: HashMap::new(),
        }
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    pub(crate) fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.letters.values()
    }

    pub(crate) fn open_letters(&self) -> impl Iterator<Item = &Letter> {
        self.letters().filter(|letter| letter.is_open())
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Letter> {
        self.letters.get(&id)
    }

    /// The newest version of any letter.
    pub(crate) fn newest_version(&self) -> u64 {
        self.letters().map(|letter| letter.version).max().unwrap_or(0)
    }

    fn of_key<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = &'a Letter> + use<'a> {
        let ids = self.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.letters.get(id))
    }

    /// The newest open letter of a key: what readers of the key are to see.
    pub(crate) fn newest_open(&self, key: &[u8]) -> Option<&Letter> {
        self.of_key(key).filter(|letter| letter.is_open()).max_by_key(|letter| letter.version)
    }

    /// Whether this version of a key, or a newer one, has been a letter, whatever has become of it.
    pub(crate) fn covers(&self, key: &[u8], version: u64) -> bool {
        self.of_key(key).any(|letter| letter.version >= version)
    }

    /// Writes letters, durably, as many as there is room for, and says of each which one it is.
    ///
    /// A write that says the same as the newest open letter of its key is that letter once more: a retry that was refused.
    pub(crate) fn add(
        &mut self,
        letters: Vec<Letter>,
        may_forget: impl Fn(u64) -> bool,
    ) -> Vec<Result<u64, Unkept>> {
        let mut ids = Vec::with_capacity(letters.len());
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut next_id = self.next_id;
        let mut may_compact = true;
        for mut letter in letters {
            letter.error = format::kept_error(&letter.error);
            match self.newest_open(&letter.key).filter(|open| open.says(letter.value.as_deref())) {
                Some(open) => {
                    letter.id = open.id;
                    letter.attempts = letter.attempts.saturating_add(open.attempts);
                    letter.first_dirty = letter.first_dirty.min(open.first_dirty);
                    letter.version = letter.version.max(open.version);
                }
                None => letter.id = next_id,
            }
            let record = Record::Letter(letter);
            let size = format::size(&record);
            if !self.has_room(bytes + size) && may_compact {
                may_compact = false;
                self.drop_settled(&may_forget);
            }
            if self.has_room(bytes + size) {
                bytes += size;
                if let Record::Letter(letter) = &record {
                    next_id = next_id.max(letter.id + 1);
                    ids.push(Ok(letter.id));
                }
                records.push(record);
            } else {
                ids.push(Err(Unkept::Full));
            }
        }
        if let Err(error) = self.append(records) {
            let kind = error.kind();
            for id in ids.iter_mut().filter(|id| id.is_ok()) {
                *id = Err(Unkept::Io(kind.into()));
            }
        }
        ids
    }

    /// The backend has this of a key: whatever is older is not open any more, durably when this returns.
    pub(crate) fn resolve(&mut self, stored: &[Stored<'_>], when: u64) -> io::Result<usize> {
        let mut verdicts = Vec::new();
        for Stored { key, value, version } in stored {
            let is_older = |letter: &&Letter| letter.is_open() && letter.version <= *version;
            let newest = self.of_key(key).filter(is_older).map(|letter| letter.version).max();
            for letter in self.of_key(key).filter(is_older) {
                let is_it = Some(letter.version) == newest && letter.says(*value);
                let state = match is_it {
                    true => State::Stored { version: *version, when },
                    false => State::Superseded { version: *version, when },
                };
                verdicts.push(Record::Verdict { id: letter.id, state });
            }
        }
        let count = verdicts.len();
        self.append(verdicts)?;
        Ok(count)
    }

    /// Nobody wants this letter any more. `false`: there is no such letter.
    pub(crate) fn discard(&mut self, id: u64, when: u64) -> io::Result<bool> {
        let is_there =
            self.get(id).is_some_and(|letter| matches!(letter.state, State::Open | State::Superseded { .. }));
        if is_there {
            self.append(vec![Record::Verdict { id, state: State::Discarded { when } }])?;
        }
        Ok(is_there)
    }

    fn has_room(&self, more: u64) -> bool {
        let beginning = match self.file {
            Some(_) => self.end,
            None => format::header(&self.identity, self.next_id).len() as u64,
        };
        beginning.saturating_add(more) <= self.limit
    }

    /// Forgets what nobody can ask for any more, to make room: letters of which something newer, or a decision, is
    /// known, and whose journal record is dead. With that record still there, recovery would take them for unflushed writes.
    fn drop_settled(&mut self, may_forget: impl Fn(u64) -> bool) {
        let settled: Vec<u64> = self
            .letters()
            .filter(|letter| !letter.is_open() && may_forget(letter.version))
            .map(|letter| letter.id)
            .collect();
        // Letters that were written twice, and verdicts, take room too.
        let whole = self.image(&[]).len() as u64;
        if settled.is_empty() && whole >= self.end {
            return;
        }
        let mut dropped = Vec::new();
        for id in settled {
            dropped.extend(self.letters.remove(&id));
        }
        if self.rewrite(&[]).is_err() {
            // As before: the old file still has them.
            self.must_rewrite = true;
            self.letters.extend(dropped.into_iter().map(|letter| (letter.id, letter)));
            return;
        }
        for letter in dropped {
            if let Some(ids) = self.by_key.get_mut(&letter.key) {
                ids.retain(|id| *id != letter.id);
                if ids.is_empty() {
                    self.by_key.remove(&letter.key);
                }
            }
        }
    }

    /// Appends records, durably when this returns, and takes note of them; all of them or none.
    fn append(&mut self, records: Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        match &self.file {
            Some(file) if !self.must_rewrite => {
                let mut bytes = Vec::new();
                for record in &records {
                    format::put_record(record, self.end + bytes.len() as u64, &mut bytes);
                }
                let written = write_at(file, &bytes, self.end).and_then(|()| file.sync_data());
                if let Err(error) = written {
                    self.must_rewrite = true;
                    return Err(error);
                }
                self.end += bytes.len() as u64;
            }
            _ => self.rewrite(&records)?,
        }
        records.into_iter().for_each(|record| self.take_note(record));
        Ok(())
    }

    /// A file with all that is known, and these records.
    fn image(&self, more: &[Record]) -> Vec<u8> {
        let mut bytes = format::header(&self.identity, self.next_id);
        for letter in self.letters.values() {
            let at = bytes.len() as u64;
            format::put_record(&Record::Letter(letter.clone()), at, &mut bytes);
            if !letter.is_open() {
                let at = bytes.len() as u64;
                format::put_record(&Record::Verdict { id: letter.id, state: letter.state }, at, &mut bytes);
            }
        }
        for record in more {
            let at = bytes.len() as u64;
            format::put_record(record, at, &mut bytes);
        }
        bytes
    }

    /// Puts a new file into the place of the old one, durable when this returns.
    fn rewrite(&mut self, more: &[Record]) -> io::Result<()> {
        let bytes = self.image(more);
        let fresh = with_suffix(&self.path, ".new");
        let make = || {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            Ok(file)
        };
        let file = make().inspect_err(|_: &io::Error| drop(fs::remove_file(&fresh)))?;
        (self.file, self.end, self.must_rewrite) = (Some(file), bytes.len() as u64, true);
        // Until the name is durable too, the old file may come back.
        sync_folder(&self.path)?;
        self.must_rewrite = false;
        Ok(())
    }

    fn take_note(&mut self, record: Record) {
        match record {
            Record::Letter(letter) => {
                self.next_id = self.next_id.max(letter.id.saturating_add(1));
                if !self.letters.contains_key(&letter.id) {
                    self.by_key.entry(letter.key.clone()).or_default().push(letter.id);
                }
                self.letters.insert(letter.id, letter);
            }
            // One without its letter, which was damaged, says nothing.
            Record::Verdict { id, state } => {
                if let Some(letter) = self.letters.get_mut(&id) {
                    letter.state = state;
                }
            }
        }
    }
}

/// What the backend has of a key.
pub(crate) struct Stored<'a> {
    pub(crate) key: &'a [u8],
    /// `None`: it has no row.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) version: u64,
}
