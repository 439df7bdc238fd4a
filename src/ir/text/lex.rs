//! Text to tokens.

use crate::error::{Error, Result};

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A bare word.
    Word,
    /// A quoted text, unescaped.
    Quoted(String),
    /// Digits, with a sign perhaps.
    Int,
    /// A number with a point or an exponent, or a signed `inf` or `nan`.
    Float,
    /// Any other single character.
    Punct(char),
    /// The end of the text.
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Byte offsets of its first character and of what follows it.
    pub(super) span: (usize, usize),
    /// Its line, from 1.
    pub(super) line: usize,
}

/// The tokens of a text, the last being [`Kind::End`], and its comments with their lines.
pub(super) struct Lexed<'a> {
    pub(super) tokens: Vec<Token>,
    pub(super) comments: Vec<(usize, &'a str)>,
}

/// An error at a byte offset of the text.
pub(super) fn error_at(text: &str, offset: usize, why: impl std::fmt::Display) -> Error {
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::malformed((), format!("line {line}, column {column}: {why}"))
}

/// Splits a text into tokens.
pub(super) fn lex(text: &str) -> Result<Lexed<'_>> {
    let bytes = text.as_bytes();
    let (mut tokens, mut comments) = (Vec::new(), Vec::new());
    let (mut at, mut line) = (0, 1);
    let run = |from: usize, f: &dyn Fn(u8) -> bool| {
        from + bytes[from..].iter().position(|b| !f(*b)).unwrap_or(bytes.len() - from)
    };
    while let Some(&b) = bytes.get(at) {
        let first_line = line;
        let digit_after_sign = || bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let letter_after_sign = || bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic);
        let (kind, end) = match b {
            b'\n' => {
                (at, line) = (at + 1, line + 1);
                continue;
            }
            _ if b.is_ascii_whitespace() || b == 0x0b => {
                at += 1;
                continue;
            }
            b'#' => {
                let end = run(at, &|c| c != b'\n');
                comments.push((line, text[at + 1..end].trim()));
                at = end;
                continue;
            }
            b'"' => {
                let (content, end) = quoted(text, at)?;
                line += text[at..end].matches('\n').count();
                (Kind::Quoted(content), end)
            }
            b'-' if letter_after_sign() => (Kind::Float, run(at + 1, &|c| c.is_ascii_alphabetic())),
            b'0'..=b'9' => number(bytes, at),
            b'-' if digit_after_sign() => number(bytes, at),
            _ if b.is_ascii_alphabetic() || b == b'_' => {
                (Kind::Word, run(at, &|c| c.is_ascii_alphanumeric() || c == b'_'))
            }
            _ => {
                let c = text[at..].chars().next().unwrap_or_default();
                (Kind::Punct(c), at + c.len_utf8())
            }
        };
        tokens.push(Token { kind, span: (at, end), line: first_line });
        at = end;
    }
    tokens.push(Token { kind: Kind::End, span: (at, at), line });
    Ok(Lexed { tokens, comments })
}

/// The quoted text that begins at `start`, and where it ends. A backslash stands before a character meant literally.
fn quoted(text: &str, start: usize) -> Result<(String, usize)> {
    let mut content = String::new();
    let mut rest = text[start + 1..].char_indices();
    while let Some((k, c)) = rest.next() {
        match c {
            '"' => return Ok((content, start + 1 + k + 1)),
            '\\' => content.extend(rest.next().map(|(_, c)| c)),
            _ => content.push(c),
        }
    }
    Err(error_at(text, start, "this quoted text has no end"))
}

fn number(bytes: &[u8], start: usize) -> (Kind, usize) {
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let (mut end, mut kind) = (digits(start + 1), Kind::Int);
    if bytes.get(end) == Some(&b'.') {
        (end, kind) = (digits(end + 1), Kind::Float);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        (end, kind) = (digits(end + 1 + sign), Kind::Float);
    }
    (kind, end)
}
