//! FITS header cards (FITS standard 4.0, section 4): our own parser, because what follows them here is random groups.

use std::collections::HashMap;

/// Length of one card.
pub(crate) const CARD: usize = 80;
/// Length of one FITS block.
pub(crate) const BLOCK: usize = 2880;

/// The value of one card.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Logical(bool),
    Integer(i64),
    Real(f64),
    Text(String),
}

/// The cards of one HDU by keyword; of a keyword that is repeated the first counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    values: HashMap<String, Value>,
}

impl Header {
    /// Takes one card; true when it is END.
    pub(crate) fn push_card(&mut self, card: &[u8]) -> bool {
        let keyword = latin1(&card[..8]);
        if keyword == "END" && card[8..].iter().all(|b| *b == b' ' || *b == 0) {
            return true;
        }
        if card.get(8..10) == Some(b"= ")
            && let Some(value) = parse_value(&card[10..])
        {
            self.values.entry(keyword).or_insert(value);
        }
        false
    }

    /// A whole number; a real without a fraction counts as one.
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        match self.values.get(key)? {
            Value::Integer(i) => Some(*i),
            Value::Real(r) if r.fract() == 0.0 && r.abs() < 9e15 => Some(*r as i64),
            _ => None,
        }
    }

    /// A finite number.
    pub(crate) fn real(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Value::Integer(i) => Some(*i as f64),
            Value::Real(r) if r.is_finite() => Some(*r),
            _ => None,
        }
    }

    /// A string without trailing blanks.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }

    /// Whether the keyword is the logical T.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.values.get(key) == Some(&Value::Logical(true))
    }

    /// What the card holds, in words for an error message.
    pub(crate) fn describe(&self, key: &str) -> String {
        match self.values.get(key) {
            None => format!("no readable {key}"),
            Some(Value::Logical(b)) => format!("{key} = {}", if *b { 'T' } else { 'F' }),
            Some(Value::Integer(i)) => format!("{key} = {i}"),
            Some(Value::Real(r)) => format!("{key} = {r}"),
            Some(Value::Text(t)) => format!("{key} = '{t}'"),
        }
    }
}

/// Bytes as text: ASCII as it is, higher bytes as Latin-1 (CASA exports hold such names), control characters as blanks; trimmed.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    // A NUL ends a string in a binary table (FITS 4.0, 7.3.3.1).
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text: String = bytes[..end].iter().map(|b| if (*b as char).is_control() { ' ' } else { *b as char }).collect();
    text.trim().to_string()
}

fn parse_value(field: &[u8]) -> Option<Value> {
    let start = field.iter().position(|b| *b != b' ')?;
    let field = &field[start..];
    if field[0] == b'\'' {
        let mut text = Vec::new();
        let mut i = 1;
        while i < field.len() {
            if field[i] == b'\'' {
                // A quote inside a string is doubled.
                if field.get(i + 1) != Some(&b'\'') {
                    return Some(Value::Text(latin1(&text)));
                }
                i += 1;
            }
            text.push(field[i]);
            i += 1;
        }
        return None;
    }
    let end = field.iter().position(|b| *b == b'/').unwrap_or(field.len());
    let text = latin1(&field[..end]);
    match text.as_str() {
        "T" => return Some(Value::Logical(true)),
        "F" => return Some(Value::Logical(false)),
        _ => {}
    }
    if let Ok(i) = text.parse::<i64>() {
        return Some(Value::Integer(i));
    }
    // FORTRAN writes double precision with D; words such as "inf" are no FITS numbers.
    if text.bytes().all(|b| b.is_ascii_digit() || b"+-.EeDd".contains(&b)) {
        return text.replace(['D', 'd'], "E").parse::<f64>().ok().map(Value::Real);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cards: &[&str]) -> Header {
        let mut h = Header::default();
        for card in cards {
            h.push_card(format!("{card:<80}").as_bytes());
        }
        h
    }

    #[test]
    fn cards_of_every_type() {
        let h = header(&[
            "SIMPLE  =                    T / standard",
            "BITPIX  =                  -32",
            "CRVAL4  =   2.270707031250D+11 / Hz",
            "OBJECT  = 'O''Brien''s  '      / the source",
            "OBJECT  = 'second  '",
            "HISTORY = not a value",
            "PSCAL1  = 4.4039146672722E-12",
            "EMPTY   =",
            "BROKEN  = 'no end",
        ]);
        assert!(h.is_true("SIMPLE"));
        assert_eq!(h.integer("BITPIX"), Some(-32));
        assert_eq!(h.real("CRVAL4"), Some(227_070_703_125.0));
        assert_eq!(h.text("OBJECT"), Some("O'Brien's"));
        assert_eq!(h.real("PSCAL1"), Some(4.4039146672722e-12));
        assert_eq!(h.real("EMPTY"), None);
        assert_eq!(h.text("BROKEN"), None);
        assert_eq!(h.describe("BITPIX"), "BITPIX = -32");
        assert_eq!(h.describe("NOTHERE"), "no readable NOTHERE");
    }

    #[test]
    fn end_card_and_foreign_bytes() {
        let mut h = Header::default();
        assert!(h.push_card(format!("{:<80}", "END").as_bytes()));
        let mut card = format!("{:<80}", "OBSERVER= 'J?rg'").into_bytes();
        card[12] = 0xf6;
        assert!(!h.push_card(&card));
        assert_eq!(h.text("OBSERVER"), Some("J\u{f6}rg"));
        assert_eq!(latin1(b"AB\0garbage"), "AB");
    }
}
