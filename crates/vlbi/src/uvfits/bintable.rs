//! Binary tables of a FITS file (FITS standard 4.0, section 7.3): columns of fixed width, which is all that AIPS tables use.

use crate::Result;
use halation_io::{Error as IoError, FitsFile, FitsHeader, FitsValue};

/// The HDUs of a name, in the order of the file.
pub(crate) fn extensions(file: &FitsFile, name: &str) -> Vec<usize> {
    file.hdus()
        .iter()
        .filter(|h| h.header.text("EXTNAME").is_some_and(|t| t.eq_ignore_ascii_case(name)))
        .map(|h| h.number)
        .collect()
}

/// A finite number.
pub(crate) fn real(header: &FitsHeader, key: &str) -> Option<f64> {
    header.number(key).filter(|v| v.is_finite())
}

/// A whole number.
pub(crate) fn integer(header: &FitsHeader, key: &str) -> Option<i64> {
    real(header, key).filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64)
}

/// What a card holds, in words for an error message.
pub(crate) fn describe(header: &FitsHeader, key: &str) -> String {
    match header.get(key) {
        None => format!("no readable {key}"),
        Some(FitsValue::Logical(b)) => format!("{key} = {}", if *b { 'T' } else { 'F' }),
        Some(FitsValue::Number(v)) => format!("{key} = {v}"),
        Some(FitsValue::Text(t)) => format!("{key} = '{t}'"),
    }
}

/// Bytes as text: ASCII as it is, higher bytes as Latin-1 (CASA exports hold such names), control characters as blanks; trimmed.
fn latin1(bytes: &[u8]) -> String {
    // A NUL ends a string in a binary table (FITS 4.0, 7.3.3.1).
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text: String = bytes[..end].iter().map(|b| if (*b as char).is_control() { ' ' } else { *b as char }).collect();
    text.trim().to_string()
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
    /// Reads HDU `number`.
    pub(crate) fn read(file: &mut FitsFile, number: usize) -> Result<Self> {
        let path = file.path().to_path_buf();
        let hdu = file.hdus().get(number).cloned();
        let hdu = hdu.ok_or_else(|| IoError::content(&path, format!("HDU {number}"), "is not in the file"))?;
        let (h, place) = (&hdu.header, hdu.place());
        let fail = |problem: String| IoError::content(&path, place.clone(), problem);
        if h.text("XTENSION") != Some("BINTABLE") {
            return Err(fail(format!("found {}, expected a BINTABLE", describe(h, "XTENSION"))).into());
        }
        let size = |key: &str| {
            integer(h, key).and_then(|v| usize::try_from(v).ok()).ok_or_else(|| fail(format!("found {}", describe(h, key))))
        };
        let (row_bytes, rows, fields) = (size("NAXIS1")?, size("NAXIS2")?, size("TFIELDS")?);
        if fields > 999 {
            return Err(fail(format!("found TFIELDS = {fields}, expected at most 999")).into());
        }
        let table_bytes = row_bytes.checked_mul(rows).filter(|b| *b as u64 <= hdu.data_len);
        let Some(table_bytes) = table_bytes.filter(|_| hdu.bitpix == 8) else {
            return Err(fail(format!(
                "found BITPIX = {}, NAXIS1 = {row_bytes}, NAXIS2 = {rows}, which do not fit the data",
                hdu.bitpix
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
        let mut data = file.data(number)?;
        data.truncate(table_bytes);
        Ok(Self { columns, row_bytes, rows, data, place })
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
    fn foreign_bytes() {
        assert_eq!(latin1(b"AB\0garbage"), "AB");
        assert_eq!(latin1(b"M\xfcn\x07 "), "M\u{fc}n");
    }

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
