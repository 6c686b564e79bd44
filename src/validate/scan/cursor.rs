//! A place in a JSON text, and what moves it: punctuation, literals, strings.
//!
//! Whatever is not JSON is [`Malformed`], without words. Strings are searched eight bytes at a time for what ends or
//! interrupts them, and borrowed unless they hold escapes; only those that are not ASCII are checked to be UTF-8. Outside
//! of strings nothing but ASCII is JSON, so a text that was scanned to its end is UTF-8 as a whole.

/// A place in a text, which may not be UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// Not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

// === impl Cursor: punctuation ===

impl<'b> Cursor<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The number that lies between an earlier position and this one.
    pub fn since(&self, start: usize) -> &'b str {
        let bytes = self.bytes.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The next byte; 0, which is nowhere JSON, at the end.
    #[inline]
    pub fn peek(&self) -> u8 {
        self.byte(self.at)
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }

    #[inline]
    fn eight_at(&self, at: usize) -> Option<u64> {
        let rest = self.bytes.get(at..)?;
        rest.first_chunk().map(|eight| u64::from_le_bytes(*eight))
    }

    #[inline]
    pub fn rest(&self) -> &'b [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Over bytes that were looked at.
    #[inline]
    pub fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// Over the byte that was peeked.
    #[inline]
    pub fn step(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub fn skip_whitespace(&mut self) {
        while let b' ' | b'\n' | b'\t' | b'\r' = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    #[inline]
    pub fn eat_all(&mut self, bytes: &[u8]) -> bool {
        let end = self.at + bytes.len();
        let found = self.bytes.get(self.at..end).is_some_and(|next| equal(next, bytes));
        if found {
            self.at = end;
        }
        found
    }

    pub fn literal(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if self.eat_all(word) { Ok(()) } else { Err(Malformed) }
    }

    /// After an item or entry: whether `closing` ends the array or object, or a comma announces another.
    #[inline]
    pub fn ends(&mut self, closing: u8) -> Result<bool, Malformed> {
        self.skip_whitespace();
        let next = self.peek();
        self.at += 1;
        if next == b',' {
            Ok(false)
        } else if next == closing {
            Ok(true)
        } else {
            Err(Malformed)
        }
    }

    #[inline]
    pub fn colon(&mut self) -> Result<(), Malformed> {
        self.skip_whitespace();
        if self.eat(b':') { Ok(()) } else { Err(Malformed) }
    }
}

// === impl Cursor: strings ===

impl<'b> Cursor<'b> {
    pub fn key<'t>(&mut self, unescaped: &'t mut String) -> Result<&'t [u8], Malformed>
    where
        'b: 't,
    {
        if self.peek() == b'"' {
            self.text(unescaped)
        } else {
            Err(Malformed)
        }
    }

    /// A string, whose opening quotation mark was peeked; in `unescaped` if it has escapes. It is UTF-8.
    #[inline]
    pub fn text<'t>(&mut self, unescaped: &'t mut String) -> Result<&'t [u8], Malformed>
    where
        'b: 't,
    {
        let start = self.at + 1;
        let (end, is_ascii) = self.plain_until(start);
        match self.byte(end) {
            b'"' => {
                self.at = end + 1;
                let text = self.bytes.get(start..end).ok_or(Malformed)?;
                if is_ascii || std::str::from_utf8(text).is_ok() {
                    Ok(text)
                } else {
                    Err(Malformed)
                }
            }
            b'\\' => {
                self.at = start;
                self.escaped(unescaped)
            }
            _ => Err(Malformed),
        }
    }

    /// The first place from `at` on of a quotation mark, a backslash or a control character, or the end; and whether all
    /// before it is ASCII.
    #[inline]
    fn plain_until(&self, mut at: usize) -> (usize, bool) {
        let mut seen = 0;
        while let Some(eight) = self.eight_at(at) {
            let found = special(eight);
            if found != 0 {
                let bits = found.trailing_zeros() & !7;
                seen |= eight & ((1 << bits) - 1);
                return (at + (bits / 8) as usize, seen & HIGHEST == 0);
            }
            seen |= eight;
            at += 8;
        }
        while let byte @ (0x20..=b'!' | b'#'..=b'[' | b']'..) = self.byte(at) {
            seen |= u64::from(byte);
            at += 1;
        }
        (at, seen & HIGHEST == 0)
    }

    #[cold]
    fn escaped<'t>(&mut self, unescaped: &'t mut String) -> Result<&'t [u8], Malformed> {
        unescaped.clear();
        loop {
            let (end, _) = self.plain_until(self.at);
            let piece = self.bytes.get(self.at..end).ok_or(Malformed)?;
            unescaped.push_str(std::str::from_utf8(piece).map_err(|_| Malformed)?);
            self.at = end + 1;
            match self.byte(end) {
                b'"' => return Ok(unescaped.as_bytes()),
                b'\\' => unescaped.push(self.escape()?),
                _ => return Err(Malformed),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(Malformed),
        })
    }

    /// Four hexadecimal digits, or eight in two escapes (RFC 8259 §7); half of such a pair is no character.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let mut code = self.hexadecimal()?;
        if (0xd800..0xdc00).contains(&code) && self.eat_all(b"\\u") {
            let low = self.hexadecimal()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(Malformed);
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or(Malformed)
    }

    fn hexadecimal(&mut self) -> Result<u32, Malformed> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = char::from(self.peek()).to_digit(16).ok_or(Malformed)?;
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
/// The bits that ASCII leaves free.
const HIGHEST: u64 = ONES << 7;

/// Whether two pieces of the same length are equal. They are short: a call of `memcmp` costs more than this.
#[inline]
fn equal(one: &[u8], other: &[u8]) -> bool {
    let (Some(one_last), Some(other_last)) = (one.last_chunk::<8>(), other.last_chunk::<8>()) else {
        return one.iter().zip(other).all(|(one, other)| one == other);
    };
    let (ones, others) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    // Without a branch for each eight bytes: nearly always all of them are equal.
    let mut differing = u64::from_ne_bytes(*one_last) ^ u64::from_ne_bytes(*other_last);
    for (one, other) in ones.iter().zip(others) {
        differing |= u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other);
    }
    differing == 0
}

/// Marks, in the highest bit of its byte, the first quotation mark, backslash or control character; what lies behind it may
/// be marked wrongly.
#[inline]
fn special(eight: u64) -> u64 {
    let zero_in = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero_in(eight ^ (ONES * b'"' as u64));
    let backslash = zero_in(eight ^ (ONES * b'\\' as u64));
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (quote | backslash | control) & HIGHEST
}
