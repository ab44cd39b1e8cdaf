//! Reads the server name (SNI) of a TLS ClientHello, without answering it.
//!
//! In: the first bytes of a connection, from anyone. Out: a name, a no, or that more is needed. Every length is checked against the
//! bytes there are; nothing is copied but the name, and that only where it is one: it goes into logs, metrics and tables.

/// The first byte of a TLS record that holds a handshake.
pub(super) const RECORD_TYPE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// The longest DNS name, in its text form (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Parsed {
    /// In lower case, which is how names compare.
    Hello {
        sni: Option<String>,
    },
    /// Not TLS, or no ClientHello that fits one record.
    No,
    Unfinished,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    // Type, major version 3, minor 1 (as RFC 8446 asks for) or 3.
    match bytes {
        [RECORD_TYPE] | [RECORD_TYPE, 3] | [RECORD_TYPE, 3, 1 | 3] | [RECORD_TYPE, 3, 1 | 3, _] => {
            return Parsed::Unfinished;
        }
        [RECORD_TYPE, 3, 1 | 3, _, _, ..] => {}
        _ => return Parsed::No,
    }
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let record = &bytes[5..];
    // What the record must begin with can be refused before all of it is there: not every text that begins so is patient.
    match record {
        [] => return Parsed::Unfinished,
        [CLIENT_HELLO] | [CLIENT_HELLO, 0, ..] => {}
        _ => return Parsed::No,
    }
    match record.get(..length) {
        Some(record) => hello(record).map_or(Parsed::No, |sni| Parsed::Hello { sni }),
        None => Parsed::Unfinished,
    }
}

/// None where it is malformed; else the name, if there is one.
fn hello(record: &[u8]) -> Option<Option<String>> {
    let mut record = Reader(record);
    let [CLIENT_HELLO, 0] = *record.take(2)? else { return None };
    let mut hello = record.block16()?;
    let [3, 3] = *hello.take(2)? else { return None };
    let _random = hello.take(32)?;
    let _session = hello.block8()?;
    let _ciphers = hello.block16()?;
    let _compression = hello.block8()?;
    if hello.is_empty() {
        return Some(None);
    }
    let mut extensions = hello.block16()?;
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let mut extension = extensions.block16()?;
        if kind == SERVER_NAME {
            return server_name(&mut extension);
        }
    }
    Some(None)
}

fn server_name(extension: &mut Reader<'_>) -> Option<Option<String>> {
    let mut names = extension.block16()?;
    let kind = names.u8()?;
    let name = names.block16()?;
    if kind != HOST_NAME {
        return Some(None);
    }
    let is_name = (1..=NAME_MAX).contains(&name.0.len()) && name.0.iter().all(is_of_a_name);
    let name = std::str::from_utf8(name.0).ok().filter(|_| is_name);
    Some(name.map(str::to_ascii_lowercase))
}

fn is_of_a_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(byte)
}

/// Takes from the front of a slice, or nothing.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn block8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    fn block16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }
}
