//! Small pieces of HTML.

/// The page's look; printing it gives a readable paper too.
pub(super) const STYLE: &str = "
body{margin:0;background:#f6f7f9;color:#1c1e24;font:16px/1.55 system-ui,'DejaVu Sans',sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 40px 64px;background:#fff}
h1{font-size:30px;margin:0 0 4px}h2{font-size:20px;margin:40px 0 10px;border-bottom:1px solid #d9dce2;padding-bottom:4px}
.label{color:#686e7a;margin:0 0 20px}figure{margin:0}figcaption{color:#686e7a;font-size:14px}
img.summary{width:100%;height:auto;border:1px solid #e4e7ec}
table{border-collapse:collapse;margin:8px 0}th,td{text-align:left;vertical-align:top;padding:5px 18px 5px 0;border-bottom:1px solid #eceef2;overflow-wrap:anywhere}
th{font-weight:600;color:#686e7a;font-size:14px}td:first-child{white-space:nowrap}
pre{background:#f2f4f7;padding:12px 14px;overflow:auto;font-size:13.5px;line-height:1.4}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
.gallery img{width:100%;image-rendering:pixelated;display:block}.gallery figcaption{font-size:12.5px;line-height:1.35;margin-top:4px}
details{margin-top:12px}li{margin:4px 0}
@media print{body{background:#fff}main{padding:0}}";

/// Text with the signs that HTML reads as markup replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// Four significant digits, and a word for what is no number.
pub(super) fn number(v: f64) -> String {
    if !v.is_finite() {
        return if v.is_nan() { "undefined".into() } else { v.to_string() };
    }
    let magnitude = if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
    if !(-4..7).contains(&magnitude) {
        return format!("{v:.3e}");
    }
    let text = format!("{v:.*}", (3 - magnitude).max(0) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.replace('-', "\u{2212}")
}

/// A table; without head cells the first column is the head.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<table>");
    if !head.is_empty() {
        out += "<tr>";
        head.iter().for_each(|h| out += &format!("<th>{}</th>", escape(h)));
        out += "</tr>";
    }
    for row in rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let tag = if head.is_empty() && i == 0 { "th" } else { "td" };
            out += &format!("<{tag}>{}</{tag}>", escape(cell));
        }
        out += "</tr>";
    }
    out + "</table>\n"
}

/// Any JSON as nested tables; long lists are cut with a count.
pub(super) fn json_table(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let rows: String = map
                .iter()
                .map(|(k, v)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(&k.replace('_', " ")), json_table(v)))
                .collect();
            format!("<table>{rows}</table>")
        }
        Value::Array(list) => {
            let mut parts: Vec<String> = list.iter().take(24).map(json_table).collect();
            if list.len() > 24 {
                parts.push(format!("\u{2026} ({} values)", list.len()));
            }
            parts.join(", ")
        }
        Value::Number(n) if n.is_f64() => escape(&number(n.as_f64().unwrap_or(f64::NAN))),
        Value::String(s) => escape(s),
        Value::Null => "undefined".into(),
        other => escape(&other.to_string()),
    }
}

/// Base64 (RFC 4648) with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |w, (i, b)| w | (*b as u32) << (16 - 8 * i));
        for i in 0..4 {
            out.push(if i <= chunk.len() { SIGNS[(word >> (18 - 6 * i) & 63) as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64_known_answers() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn numbers_and_escapes() {
        assert_eq!(
            [number(1.08765), number(42.5), number(-0.001), number(0.0), number(f64::NAN)],
            ["1.088", "42.5", "\u{2212}0.001", "0", "undefined"]
        );
        assert_eq!(number(1.5e-9), "1.500e-9");
        assert_eq!(number(123456.0), "123456");
        assert_eq!(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
        let json = serde_json::json!({"chi2": {"closure_phase": 1.0875}, "draws": vec![1; 30], "x": null, "s": "<b>"});
        let html = json_table(&json);
        assert!(
            html.contains("closure phase") && html.contains("1.087") && html.contains("(30 values)") && html.contains("&lt;b&gt;"),
            "{html}"
        );
    }
}
