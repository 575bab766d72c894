//! The directory of a zip archive whose entries are stored as they are, as PyTorch writes it (PKWARE APPNOTE 6.3, sections 4.3 and 4.5).

use std::collections::BTreeMap;
use std::ops::Range;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let part = bytes.get(at..at.checked_add(N)?)?;
    let value = part.iter().rev().fold(0u64, |sum, b| sum << 8 | *b as u64);
    usize::try_from(value).ok()
}

fn starts(bytes: &[u8], at: usize, signature: &[u8]) -> Option<()> {
    bytes.get(at..)?.starts_with(signature).then_some(())
}

/// Where the content of each entry lies, by name.
///
/// # Errors
/// Says what the archive lacks: its directory, an entry's bytes, or an entry that is stored without compression.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let truncated =
        || "not a whole zip archive: its directory is missing or points beyond its end; fetch the file again".to_string();
    // The end record has a comment of at most 65535 bytes after its 22.
    let from = bytes.len().saturating_sub(22 + 65535);
    let end = bytes[from..].windows(4).rposition(|w| w == END).map(|at| from + at).ok_or_else(truncated)?;
    let (count, start) = directory(bytes, end).ok_or_else(truncated)?;
    let mut found = BTreeMap::new();
    let mut at = start;
    for _ in 0..count {
        let entry = entry(bytes, at).ok_or_else(truncated)?;
        if entry.method != 0 {
            return Err(format!(
                "entry {} is compressed, expected plain entries as torch.save writes them; pack the archive again without compression",
                entry.name
            ));
        }
        at = entry.next;
        found.insert(entry.name, entry.content);
    }
    Ok(found)
}

/// Number of entries and where their list begins.
fn directory(bytes: &[u8], end: usize) -> Option<(usize, usize)> {
    let (count, start, comment) = (number::<2>(bytes, end + 10)?, number::<4>(bytes, end + 16)?, number::<2>(bytes, end + 20)?);
    (end + 22 + comment <= bytes.len()).then_some(())?;
    if count != 0xffff && start != 0xffff_ffff {
        return Some((count, start));
    }
    // Larger than 4 GiB: a locator of 20 bytes before the end record says where the larger end record is.
    let end = number::<8>(bytes, end.checked_sub(20)? + 8)?;
    starts(bytes, end, END_64)?;
    Some((number::<8>(bytes, end.checked_add(32)?)?, number::<8>(bytes, end.checked_add(48)?)?))
}

struct Entry {
    name: String,
    method: usize,
    content: Range<usize>,
    next: usize,
}

fn entry(bytes: &[u8], at: usize) -> Option<Entry> {
    starts(bytes, at, ENTRY)?;
    let (name_len, extra_len, comment_len) =
        (number::<2>(bytes, at + 28)?, number::<2>(bytes, at + 30)?, number::<2>(bytes, at + 32)?);
    let name = String::from_utf8_lossy(bytes.get(at + 46..at + 46 + name_len)?).into_owned();
    let extra = bytes.get(at + 46 + name_len..at + 46 + name_len + extra_len)?;
    let [size, stored, local] =
        wide([number::<4>(bytes, at + 24)?, number::<4>(bytes, at + 20)?, number::<4>(bytes, at + 42)?], extra)?;
    starts(bytes, local, LOCAL)?;
    let method = number::<2>(bytes, at + 10)?;
    let begin = local + 30 + number::<2>(bytes, local + 26)? + number::<2>(bytes, local + 28)?;
    let content = begin..begin.checked_add(stored)?;
    (size == stored || method != 0).then_some(())?;
    bytes.get(content.clone())?;
    let next = at + 46 + name_len + extra_len + comment_len;
    Some(Entry { name, method, content, next })
}

/// Size, stored size and place, where those of four bytes are all ones replaced by those of eight in the extra field 1.
fn wide(mut values: [usize; 3], extra: &[u8]) -> Option<[usize; 3]> {
    let mut at = 0;
    while values.contains(&0xffff_ffff) {
        let (id, len) = (number::<2>(extra, at)?, number::<2>(extra, at + 2)?);
        if id == 1 {
            let mut field = at + 4;
            for value in values.iter_mut().filter(|v| **v == 0xffff_ffff) {
                *value = number::<8>(extra, field)?;
                field += 8;
            }
            break;
        }
        at += 4 + len;
    }
    Some(values)
}
