//! The HDUs of a FITS file: where they lie, checked against the file's length, and the columns of binary tables.

use super::header::{BLOCK, CARD, Header, latin1};
use crate::Result;
use halation_io::Error as IoError;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// More header blocks than this are taken for a header without END.
const MAX_HEADER_BLOCKS: usize = 10_000;

/// One HDU: its header and the place of its data.
#[derive(Debug)]
pub(crate) struct Hdu {
    pub(crate) header: Header,
    pub(crate) data_offset: u64,
    pub(crate) data_bytes: u64,
    /// Name for messages: `primary HDU` or `HDU 2 'AIPS AN'`.
    pub(crate) place: String,
}

impl Hdu {
    /// EXTNAME, empty for the primary HDU.
    pub(crate) fn name(&self) -> &str {
        self.header.text("EXTNAME").unwrap_or("")
    }
}

/// Finds all HDUs; each must lie within the file.
pub(crate) fn scan<R: Read + Seek>(reader: &mut R, path: &Path) -> Result<Vec<Hdu>> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| IoError::os(path, e))?;
    let mut hdus = Vec::new();
    let mut offset = 0u64;
    let mut block = [0u8; BLOCK];
    while offset + BLOCK as u64 <= length || hdus.is_empty() {
        let index = hdus.len();
        let place = if index == 0 { "primary HDU".to_string() } else { format!("HDU {index}") };
        reader.seek(SeekFrom::Start(offset)).map_err(|e| IoError::os(path, e))?;
        let mut header = Header::default();
        let mut blocks = 0;
        'header: loop {
            if offset + ((blocks + 1) * BLOCK) as u64 > length || blocks >= MAX_HEADER_BLOCKS {
                let problem = if index == 0 && blocks == 0 {
                    format!(
                        "the file holds {length} bytes, expected at least one header block of {BLOCK}: this is not a FITS file or it is cut off"
                    )
                } else {
                    "the header has no END card before the file ends: the file is damaged or cut off, fetch it again".to_string()
                };
                return Err(IoError::content(path, place, problem).into());
            }
            reader.read_exact(&mut block).map_err(|e| IoError::os(path, e))?;
            if blocks == 0 {
                if index == 0 && &block[..9] != b"SIMPLE  =" {
                    let found = latin1(&block[..16]);
                    return Err(IoError::content(
                        path,
                        place,
                        format!("found \"{found}\" where a FITS file starts with \"SIMPLE  =\": this is not a FITS file"),
                    )
                    .into());
                }
                // What follows the last HDU without the name of an extension is padding or special records.
                if index > 0 && &block[..8] != b"XTENSION" {
                    return Ok(hdus);
                }
            }
            blocks += 1;
            for card in block.chunks_exact(CARD) {
                if header.push_card(card) {
                    break 'header;
                }
            }
        }
        let place = match header.text("EXTNAME") {
            Some(name) if index > 0 => format!("HDU {index} '{name}'"),
            _ => place,
        };
        let data_offset = offset + (blocks * BLOCK) as u64;
        let data_bytes = data_bytes(&header).ok_or_else(|| {
            let sizes = ["BITPIX", "NAXIS", "PCOUNT", "GCOUNT"].map(|k| header.describe(k)).join(", ");
            IoError::content(path, place.clone(), format!("found {sizes}, which is no possible size: the header is damaged"))
        })?;
        if data_bytes > length - data_offset {
            let problem = format!(
                "the header promises {data_bytes} bytes of data ({}), the file holds {} there: the file is cut off or the header is damaged, fetch it again",
                header.describe("GCOUNT"),
                length - data_offset
            );
            return Err(IoError::content(path, place, problem).into());
        }
        offset = data_offset + data_bytes.div_ceil(BLOCK as u64) * BLOCK as u64;
        hdus.push(Hdu { header, data_offset, data_bytes, place });
    }
    Ok(hdus)
}

/// Bytes of data by FITS 4.0, equations 1, 2 and 4; none when the keywords make no sense.
fn data_bytes(header: &Header) -> Option<u64> {
    let bitpix = header.integer("BITPIX").filter(|b| [8, 16, 32, 64, -32, -64].contains(b))?;
    let axes = u64::try_from(header.integer("NAXIS")?).ok().filter(|n| *n <= 999)?;
    if axes == 0 {
        return Some(0);
    }
    let groups = header.is_true("GROUPS") && header.integer("NAXIS1") == Some(0);
    let mut elements = 1u64;
    for axis in if groups { 2 } else { 1 }..=axes {
        elements = elements.checked_mul(u64::try_from(header.integer(&format!("NAXIS{axis}"))?).ok()?)?;
    }
    let pcount = u64::try_from(header.integer("PCOUNT").unwrap_or(0)).ok()?;
    let gcount = u64::try_from(header.integer("GCOUNT").unwrap_or(1)).ok()?;
    elements.checked_add(pcount)?.checked_mul(gcount)?.checked_mul(bitpix.unsigned_abs() / 8)
}

/// One column of a binary table.
#[derive(Debug)]
struct Column {
    name: String,
    kind: u8,
    repeat: usize,
    offset: usize,
}

/// A binary table in memory.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    row_bytes: usize,
    rows: usize,
    data: Vec<u8>,
    place: String,
}

impl Table {
    /// Reads the table of `hdu`; its size was checked against the file by `scan`.
    pub(crate) fn read<R: Read + Seek>(reader: &mut R, hdu: &Hdu, path: &Path) -> Result<Self> {
        let h = &hdu.header;
        let fail = |problem: String| IoError::content(path, hdu.place.clone(), problem);
        if h.text("XTENSION") != Some("BINTABLE") {
            return Err(fail(format!("found {}, expected a BINTABLE", h.describe("XTENSION"))).into());
        }
        let size = |key: &str| {
            h.integer(key).and_then(|v| usize::try_from(v).ok()).ok_or_else(|| fail(format!("found {}", h.describe(key))))
        };
        let (row_bytes, rows) = (size("NAXIS1")?, size("NAXIS2")?);
        let fields = size("TFIELDS")?;
        if fields > 999 {
            return Err(fail(format!("found TFIELDS = {fields}, expected at most 999")).into());
        }
        let table_bytes = row_bytes.checked_mul(rows).filter(|b| *b as u64 <= hdu.data_bytes);
        let Some(table_bytes) = table_bytes.filter(|_| h.integer("BITPIX") == Some(8)) else {
            return Err(fail(format!(
                "found {}, NAXIS1 = {row_bytes}, NAXIS2 = {rows}, which do not fit the data",
                h.describe("BITPIX")
            ))
            .into());
        };
        let mut columns = Vec::with_capacity(fields);
        let mut offset = 0usize;
        for i in 1..=fields {
            let form = h.text(&format!("TFORM{i}")).unwrap_or("");
            let (kind, repeat, width) =
                parse_form(form).ok_or_else(|| fail(format!("column {i}: found TFORM '{form}', which is not understood")))?;
            let name = h.text(&format!("TTYPE{i}")).unwrap_or("").to_ascii_uppercase();
            columns.push(Column { name, kind, repeat, offset });
            offset = offset.checked_add(width).filter(|o| *o <= row_bytes).ok_or_else(|| {
                fail(format!("column {i} ('{form}') ends beyond the row of {row_bytes} bytes: the header is damaged"))
            })?;
        }
        let mut data = vec![0u8; table_bytes];
        reader.seek(SeekFrom::Start(hdu.data_offset)).map_err(|e| IoError::os(path, e))?;
        reader.read_exact(&mut data).map_err(|e| IoError::os(path, e))?;
        Ok(Self { columns, row_bytes, rows, data, place: hdu.place.clone() })
    }

    /// Number of rows; none when a row has no bytes.
    pub(crate) fn rows(&self) -> usize {
        if self.row_bytes == 0 { 0 } else { self.rows }
    }

    /// Name for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The index of a column, by name without regard to case.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    fn cell(&self, row: usize, column: usize) -> (&Column, &[u8]) {
        let c = &self.columns[column];
        (c, &self.data[row * self.row_bytes + c.offset..(row + 1) * self.row_bytes])
    }

    /// The numbers of a cell; empty for a column that holds no numbers.
    pub(crate) fn numbers(&self, row: usize, column: usize) -> Vec<f64> {
        let (c, bytes) = self.cell(row, column);
        let width = match c.kind {
            b'B' => 1,
            b'I' => 2,
            b'J' | b'E' => 4,
            b'K' | b'D' => 8,
            _ => return Vec::new(),
        };
        bytes.chunks_exact(width).take(c.repeat).map(|b| number(c.kind, b)).collect()
    }

    /// The first number of a cell.
    pub(crate) fn number(&self, row: usize, column: usize) -> Option<f64> {
        self.numbers(row, column).first().copied()
    }

    /// The text of a cell.
    pub(crate) fn text(&self, row: usize, column: usize) -> String {
        let (c, bytes) = self.cell(row, column);
        if c.kind == b'A' { latin1(&bytes[..c.repeat.min(bytes.len())]) } else { String::new() }
    }
}

fn number(kind: u8, b: &[u8]) -> f64 {
    match kind {
        b'B' => b[0] as f64,
        b'I' => i16::from_be_bytes([b[0], b[1]]) as f64,
        b'J' => i32::from_be_bytes([b[0], b[1], b[2], b[3]]) as f64,
        b'E' => f32::from_be_bytes([b[0], b[1], b[2], b[3]]) as f64,
        b'K' => i64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f64,
        _ => f64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
    }
}

/// TFORM: (type, repeat, bytes).
fn parse_form(form: &str) -> Option<(u8, usize, usize)> {
    let digits = form.bytes().take_while(u8::is_ascii_digit).count();
    let repeat = if digits == 0 { 1 } else { form[..digits].parse::<usize>().ok()? };
    let kind = *form.as_bytes().get(digits)?;
    let bytes = match kind {
        b'X' => repeat.div_ceil(8),
        b'L' | b'B' | b'A' => repeat,
        b'I' => repeat.checked_mul(2)?,
        b'J' | b'E' => repeat.checked_mul(4)?,
        b'K' | b'D' | b'C' | b'P' => repeat.checked_mul(8)?,
        b'M' | b'Q' => repeat.checked_mul(16)?,
        _ => return None,
    };
    Some((kind, repeat, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse_form("8A"), Some((b'A', 8, 8)));
        assert_eq!(parse_form("3D"), Some((b'D', 3, 24)));
        assert_eq!(parse_form("0D"), Some((b'D', 0, 0)));
        assert_eq!(parse_form("J"), Some((b'J', 1, 4)));
        assert_eq!(parse_form("1PE(12)"), Some((b'P', 1, 8)));
        assert_eq!(parse_form("12X"), Some((b'X', 12, 2)));
        assert_eq!(parse_form("99999999999999999999J"), None);
        assert_eq!(parse_form("9999999999999999999D"), None);
        assert_eq!(parse_form("3Z"), None);
        assert_eq!(parse_form(""), None);
    }
}
