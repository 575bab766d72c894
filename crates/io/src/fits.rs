//! The structure of a FITS file (FITS standard 4.0, Pence et al. 2010, A&A 524, A42): header cards and where the data of each HDU lie.
//!
//! Every size is checked against the length of the file before anything is allocated.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Length of a FITS block in bytes.
pub const BLOCK: u64 = 2880;
const CARD: usize = 80;
/// Headers beyond this are no headers: AIPS histories stay below a tenth of it.
const MAX_HEADER_BLOCKS: usize = 4096;

/// The value of a header card.
#[derive(Clone, Debug, PartialEq)]
pub enum FitsValue {
    /// A quoted string without its trailing blanks.
    Text(String),
    /// An integer or real number.
    Number(f64),
    /// T or F.
    Logical(bool),
}

/// The cards of one header in their order; HISTORY, COMMENT and blank cards are left out.
#[derive(Clone, Debug, Default)]
pub struct FitsHeader {
    cards: Vec<(String, FitsValue)>,
}

impl FitsHeader {
    /// All cards that have a value.
    pub fn cards(&self) -> &[(String, FitsValue)] {
        &self.cards
    }

    /// The value of `key`, the first where it is repeated.
    pub fn get(&self, key: &str) -> Option<&FitsValue> {
        self.cards.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The number under `key`.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(FitsValue::Number(v)) => Some(*v),
            _ => None,
        }
    }

    /// The string under `key`, trimmed.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(FitsValue::Text(v)) => Some(v.trim()),
            _ => None,
        }
    }

    /// Whether `key` is T.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key) == Some(&FitsValue::Logical(true))
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.number(key).filter(|v| *v >= 0.0 && v.fract() == 0.0 && *v <= 9e15).map(|v| v as u64)
    }
}

/// One header-data unit.
#[derive(Clone, Debug)]
pub struct Hdu {
    /// 0 is the primary HDU.
    pub number: usize,
    /// The cards.
    pub header: FitsHeader,
    /// BITPIX: 8, 16, 32, 64, -32 or -64.
    pub bitpix: i64,
    /// NAXIS1, NAXIS2, ...
    pub axes: Vec<u64>,
    /// First byte of the data.
    pub data_start: u64,
    /// Bytes of data, without padding.
    pub data_len: u64,
}

impl Hdu {
    /// "primary HDU" or "HDU 2 (name)", for messages.
    pub fn place(&self) -> String {
        match (self.number, self.header.text("EXTNAME")) {
            (0, _) => "primary HDU".into(),
            (n, Some(name)) => format!("HDU {n} ({name})"),
            (n, None) => format!("HDU {n}"),
        }
    }
}

/// An open FITS file and the list of its HDUs.
#[derive(Debug)]
pub struct FitsFile {
    path: PathBuf,
    file: File,
    hdus: Vec<Hdu>,
}

impl FitsFile {
    /// Opens `path` and reads every header. Characters of the name have no special meaning.
    ///
    /// # Errors
    /// Not a FITS file, a header without END, keywords that the standard demands missing or absurd, or data cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::os(path, e))?;
        let meta = file.metadata().map_err(|e| Error::os(path, e))?;
        if !meta.is_file() {
            return Err(Error::content(path, "file", "is not a regular file, expected a FITS file"));
        }
        let len = meta.len();
        check_magic(path, &mut file)?;
        let mut hdus = Vec::new();
        let mut start = 0;
        while start < len {
            if !hdus.is_empty() && !starts_extension(path, &mut file, start)? {
                break; // the standard allows special records after the last HDU
            }
            let hdu = read_hdu(path, &mut file, start, len, hdus.len())?;
            let end = hdu.data_start + hdu.data_len;
            if end > len {
                let (place, expected) = (hdu.place(), hdu.data_len);
                let found = len - hdu.data_start;
                return Err(Error::content(
                    path,
                    place,
                    format!("the file is truncated: {found} bytes of data, expected {expected}; fetch it again"),
                ));
            }
            start = end.div_ceil(BLOCK) * BLOCK;
            hdus.push(hdu);
        }
        Ok(Self { path: path.to_path_buf(), file, hdus })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All HDUs in the order of the file.
    pub fn hdus(&self) -> &[Hdu] {
        &self.hdus
    }

    /// The bytes of the data of HDU `number`, big-endian as in the file.
    ///
    /// # Errors
    /// There is no such HDU, or reading fails.
    pub fn data(&mut self, number: usize) -> Result<Vec<u8>> {
        let hdu = self.hdus.get(number).ok_or_else(|| Error::content(&self.path, format!("HDU {number}"), "is not in the file"))?;
        self.file.seek(SeekFrom::Start(hdu.data_start)).map_err(|e| Error::os(&self.path, e))?;
        let mut bytes = vec![0; hdu.data_len as usize];
        self.file.read_exact(&mut bytes).map_err(|e| Error::os(&self.path, e))?;
        Ok(bytes)
    }
}

fn check_magic(path: &Path, file: &mut File) -> Result<()> {
    let mut magic = Vec::new();
    file.by_ref().take(10).read_to_end(&mut magic).map_err(|e| Error::os(path, e))?;
    if magic.starts_with(b"SIMPLE  = ") {
        return Ok(());
    }
    let what = match magic.as_slice() {
        [] => "is empty".to_string(),
        [0x1f, 0x8b, ..] => "is gzip-compressed; decompress it first (gunzip)".to_string(),
        [0x89, b'H', b'D', b'F', ..] => "is an HDF5 file".to_string(),
        other => format!("starts with \"{}\"", String::from_utf8_lossy(other).escape_debug()),
    };
    Err(Error::content(path, "byte 0", format!("not a FITS file: it {what}, expected \"SIMPLE  = \"")))
}

fn starts_extension(path: &Path, file: &mut File, start: u64) -> Result<bool> {
    file.seek(SeekFrom::Start(start)).map_err(|e| Error::os(path, e))?;
    let mut magic = Vec::new();
    file.by_ref().take(8).read_to_end(&mut magic).map_err(|e| Error::os(path, e))?;
    Ok(magic == b"XTENSION")
}

fn read_hdu(path: &Path, file: &mut File, start: u64, len: u64, number: usize) -> Result<Hdu> {
    let place = format!("header of HDU {number}");
    file.seek(SeekFrom::Start(start)).map_err(|e| Error::os(path, e))?;
    let mut header = FitsHeader::default();
    let mut block = [0; BLOCK as usize];
    let mut blocks = 0;
    'header: loop {
        let at = start + blocks as u64 * BLOCK;
        if at + BLOCK > len || blocks == MAX_HEADER_BLOCKS {
            return Err(Error::content(
                path,
                place,
                format!(
                    "found no END card in the {} bytes that follow, expected one within whole blocks of {BLOCK} bytes; the file is cut off or no FITS file: fetch it again",
                    (len - start).min(MAX_HEADER_BLOCKS as u64 * BLOCK)
                ),
            ));
        }
        file.read_exact(&mut block).map_err(|e| Error::os(path, e))?;
        blocks += 1;
        for card in block.chunks_exact(CARD) {
            if card.starts_with(b"END") && card[3..].iter().all(|c| *c == b' ') {
                break 'header;
            }
            if let Some(card) = parse_card(card) {
                header.cards.push(card);
            }
        }
    }
    let missing = |key: &str| Error::content(path, place.clone(), format!("{key} is missing or no count; not a valid FITS header"));
    let bitpix = header.number("BITPIX").unwrap_or(0.0) as i64;
    if ![8, 16, 32, 64, -32, -64].contains(&bitpix) {
        return Err(Error::content(path, place, format!("BITPIX = {bitpix}, expected 8, 16, 32, 64, -32 or -64")));
    }
    let naxis = header.count("NAXIS").filter(|n| *n <= 999).ok_or_else(|| missing("NAXIS"))?;
    let axes = (1..=naxis)
        .map(|i| header.count(&format!("NAXIS{i}")).ok_or_else(|| missing(&format!("NAXIS{i}"))))
        .collect::<Result<Vec<_>>>()?;
    let groups = header.is_true("GROUPS") && axes.first() == Some(&0);
    let counted = if groups { &axes[1..] } else { &axes[..] };
    let elements = if axes.is_empty() { Some(0) } else { counted.iter().try_fold(1u64, |n, a| n.checked_mul(*a)) };
    let data_len = elements
        .and_then(|n| n.checked_add(header.count("PCOUNT").unwrap_or(0)))
        .and_then(|n| n.checked_mul(header.count("GCOUNT").unwrap_or(1)))
        .and_then(|n| n.checked_mul(bitpix.unsigned_abs() / 8))
        .filter(|n| *n < 1 << 60)
        .ok_or_else(|| Error::content(path, place, format!("axes {axes:?} make data beyond any file; the header is corrupt")))?;
    Ok(Hdu { number, header, bitpix, axes, data_start: start + blocks as u64 * BLOCK, data_len })
}

/// Keyword and value of a card; none for comments and for values that cannot be read.
fn parse_card(card: &[u8]) -> Option<(String, FitsValue)> {
    if &card[8..10] != b"= " {
        return None;
    }
    let key = std::str::from_utf8(&card[..8]).ok()?.trim_end().to_string();
    let text = String::from_utf8_lossy(&card[10..]);
    let text = text.trim_start();
    let value = if let Some(rest) = text.strip_prefix('\'') {
        let mut value = String::new();
        let mut chars = rest.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '\'' {
                value.push(c);
            } else if chars.peek() == Some(&'\'') {
                chars.next();
                value.push('\'');
            } else {
                break;
            }
        }
        FitsValue::Text(value.trim_end().to_string())
    } else {
        match text.split('/').next().unwrap_or("").trim() {
            "T" => FitsValue::Logical(true),
            "F" => FitsValue::Logical(false),
            // FORTRAN writes double precision exponents with D.
            number => FitsValue::Number(number.replace(['D', 'd'], "E").parse().ok()?),
        }
    };
    Some((key, value))
}

/// Header cards as bytes, for writing.
#[derive(Debug, Default)]
pub(crate) struct CardWriter {
    bytes: Vec<u8>,
}

impl CardWriter {
    fn push(&mut self, text: &str) {
        let ascii: Vec<u8> = text.chars().map(|c| if (' '..='~').contains(&c) { c as u8 } else { b'?' }).take(CARD).collect();
        self.bytes.extend_from_slice(&ascii);
        self.bytes.resize(self.bytes.len() + CARD - ascii.len(), b' ');
    }

    pub(crate) fn logical(&mut self, key: &str, value: bool, comment: &str) {
        self.push(&format!("{key:<8}= {:>20} / {comment}", if value { "T" } else { "F" }));
    }

    pub(crate) fn integer(&mut self, key: &str, value: i64, comment: &str) {
        self.push(&format!("{key:<8}= {value:>20} / {comment}"));
    }

    /// The shortest decimal that reads back to the same bits.
    pub(crate) fn real(&mut self, key: &str, value: f64, comment: &str) {
        let mut number = format!("{value:E}");
        if !number.contains('.') {
            number = number.replacen('E', ".0E", 1);
        }
        self.push(&format!("{key:<8}= {number:>20} / {comment}"));
    }

    pub(crate) fn text(&mut self, key: &str, value: &str, comment: &str) {
        // 80 characters hold 68 between the quotes; a quote inside takes two.
        let quotes = value.matches('\'').count();
        let kept: String = value.chars().take(68usize.saturating_sub(quotes)).collect();
        self.push(&format!("{key:<8}= {:<20} / {comment}", format!("'{:<8}'", kept.replace('\'', "''"))));
    }

    /// A line of any length, broken into HISTORY cards.
    pub(crate) fn history(&mut self, line: &str) {
        let characters: Vec<char> = line.chars().collect();
        for part in characters.chunks(CARD - 8) {
            self.push(&format!("HISTORY {}", part.iter().collect::<String>()));
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.push("END");
        self.bytes.resize(self.bytes.len().div_ceil(BLOCK as usize) * BLOCK as usize, b' ');
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        let parse = |text: &str| parse_card(format!("{text:<80}").as_bytes());
        assert_eq!(parse("CDELT1  = -5.5555555555555D-10 / deg"), Some(("CDELT1".into(), FitsValue::Number(-5.5555555555555e-10))));
        assert_eq!(parse("OBJECT  = 'O''Neill / x  '  / name"), Some(("OBJECT".into(), FitsValue::Text("O'Neill / x".into()))));
        assert_eq!(parse("GROUPS  =                    T"), Some(("GROUPS".into(), FitsValue::Logical(true))));
        assert_eq!(parse("HISTORY = is no value here"), None);
        assert_eq!(parse("COMMENT   something"), None);
        assert_eq!(parse("KEY     ="), None);
    }

    #[test]
    fn written_cards_read_back() {
        let mut w = CardWriter::default();
        for value in [5.555555555555556e-10, -1.0, 2.3e11, 0.1 + 0.2, f64::MIN_POSITIVE] {
            w.real("VALUE", value, "a comment that is long enough to be cut at the end of the card, surely");
            let card = &w.bytes[w.bytes.len() - CARD..];
            assert_eq!(parse_card(card), Some(("VALUE".into(), FitsValue::Number(value))));
        }
        w.text("OBJECT", "Sgr A' \u{2a}\u{fc}", "");
        assert_eq!(parse_card(&w.bytes[w.bytes.len() - CARD..]), Some(("OBJECT".into(), FitsValue::Text("Sgr A' *?".into()))));
        w.history(&"x".repeat(200));
        assert_eq!(w.finish().len(), BLOCK as usize);
    }
}
