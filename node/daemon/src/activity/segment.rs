//! One file of the spool: entries with consecutive numbers, each a line: the beginning of the SHA-256 of the entry, a space,
//! the entry as JSON. What does not read as the next entry, and all after it, is not there: a crash tore it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use postern_model::activity::FlowEntry;
use sha2::{Digest as _, Sha256};

/// Digits of the checksum.
const CHECKSUM: usize = 16;
/// No line is shorter than this.
pub(super) const SHORTEST: u64 = 128;
/// How much is read at once: far more than an entry has, and, sent as CBOR, which is shorter, no more than a message may
/// have.
const CHUNK: u64 = 56 << 10;
const ENDING: &str = ".jsonl";

/// An entry as a line, line feed included.
pub(super) fn line(entry: &FlowEntry) -> io::Result<String> {
    let text = serde_json::to_string(entry)?;
    Ok(format!("{} {text}\n", checksum(text.as_bytes())))
}

fn checksum(text: &[u8]) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(CHECKSUM / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// The entry of a line without its line feed, if it is whole.
fn entry(line: &[u8]) -> Option<FlowEntry> {
    let (sum, text) = line.split_at_checked(CHECKSUM)?;
    let text = text.strip_prefix(b" ")?;
    (checksum(text).as_bytes() == sum).then(|| serde_json::from_slice(text).ok())?
}

/// What is read in one go.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) entries: Vec<FlowEntry>,
    /// How many bytes of the file they are.
    pub(super) bytes: u64,
    /// Whether what follows is damaged.
    pub(super) is_torn: bool,
}

/// One file, as far as it is whole.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    /// The number of its first entry.
    pub(super) first: u64,
    /// How many entries it has.
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Segment {
    /// A new one, empty, and the file to write to; on the disk when this returns.
    pub(super) fn create(dir: &Path, first: u64) -> io::Result<(Self, File)> {
        let path = dir.join(format!("{first:020}{ENDING}"));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        File::open(dir)?.sync_all()?;
        Ok((Self { path, first, count: 0, bytes: 0 }, file))
    }

    /// One that is there, as far as it is whole, and how many bytes follow.
    pub(super) fn open(path: PathBuf, first: u64) -> io::Result<(Self, u64)> {
        let len = std::fs::metadata(&path)?.len();
        let mut segment = Self { path, first, count: 0, bytes: len };
        let (mut at, mut count) = (0, 0);
        loop {
            let lines = segment.read(at, first + count, usize::MAX)?;
            at += lines.bytes;
            count += lines.entries.len() as u64;
            if lines.is_torn || lines.entries.is_empty() {
                break;
            }
        }
        (segment.count, segment.bytes) = (count, at);
        Ok((segment, len - at))
    }

    /// The number of the first entry of a segment with this file name.
    pub(super) fn first_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(ENDING)?;
        (digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The number after its last.
    pub(super) fn next(&self) -> u64 {
        self.first + self.count
    }

    /// How many of its entries come after `number`.
    pub(super) fn count_after(&self, number: u64) -> u64 {
        self.next().saturating_sub(self.first.max(number + 1))
    }

    /// The file, to write on.
    pub(super) fn append(&self) -> io::Result<File> {
        OpenOptions::new().append(true).open(&self.path)
    }

    /// Writes lines of so many entries at the end; they are on the disk when this returns. When it can't, the file is as
    /// it was, if that can be.
    pub(super) fn write(&mut self, file: &mut File, text: &[u8], count: u64) -> io::Result<()> {
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _ = file.set_len(self.bytes);
            return Err(error);
        }
        self.count += count;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// The entries from an offset on, of which the first has this number: as many as fit into the bytes that are read at
    /// once, and not more than `most`.
    pub(super) fn read(&self, at: u64, number: u64, most: usize) -> io::Result<Lines> {
        let mut lines = Lines::default();
        let left = self.bytes.saturating_sub(at);
        if left == 0 {
            return Ok(lines);
        }
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody has removed it: what it had is lost, and what follows is not to wait for it.
                lines.is_torn = true;
                return Ok(lines);
            }
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(at))?;
        let mut chunk = Vec::new();
        file.take(left.min(CHUNK)).read_to_end(&mut chunk)?;
        for line in chunk.split_inclusive(|byte| *byte == b'\n') {
            let Some(whole) = line.strip_suffix(b"\n") else {
                // Cut by the end of the chunk, unless it is the first.
                lines.is_torn = lines.entries.is_empty() || chunk.len() as u64 == left;
                break;
            };
            let expected = number + lines.entries.len() as u64;
            let Some(entry) = entry(whole).filter(|entry| entry.number == expected) else {
                lines.is_torn = true;
                break;
            };
            if lines.entries.len() == most {
                break;
            }
            lines.entries.push(entry);
            lines.bytes += line.len() as u64;
        }
        // Shorter than it was.
        lines.is_torn |= chunk.is_empty();
        Ok(lines)
    }

    /// Ends with this entry's predecessor: the rest is damaged.
    pub(super) fn cut_at(&mut self, number: u64, at: u64) {
        (self.count, self.bytes) = (number - self.first, at);
    }

    /// Removes the file.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}
