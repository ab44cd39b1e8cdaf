//! Sets of ports as people write them: `25,587,3000-3010`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A set of TCP ports, kept as the ranges it was written as.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

/// Why a text is no set of ports.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither a port nor a range of ports such as 3000-3010")]
pub struct InvalidPorts(String);

impl PortSet {
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    pub fn ranges(&self) -> impl Iterator<Item = &RangeInclusive<u16>> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for PortSet {
    type Err = InvalidPorts;

    /// Empty items are skipped, so that a trailing comma and the empty text are fine.
    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl<'a> FromIterator<&'a Self> for PortSet {
    fn from_iter<I: IntoIterator<Item = &'a Self>>(sets: I) -> Self {
        Self(sets.into_iter().flat_map(|set| set.0.iter().cloned()).collect())
    }
}

fn range(item: &str) -> Result<RangeInclusive<u16>, InvalidPorts> {
    let invalid = || InvalidPorts(item.into());
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let first: u16 = first.trim().parse().map_err(|_| invalid())?;
    let last: u16 = last.trim().parse().map_err(|_| invalid())?;
    if first == 0 || first > last {
        return Err(invalid());
    }
    Ok(first..=last)
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_ports_and_ranges() {
        let ports: PortSet = "25, 3000-3010,".parse().unwrap();
        assert!(ports.contains(25) && ports.contains(3000) && ports.contains(3010));
        assert!(!ports.contains(26) && !ports.contains(3011));
        assert_eq!(ports.to_string(), "25,3000-3010");
    }

    #[test]
    fn refuses_what_is_no_port() {
        for text in ["0", "70000", "9-1", "http", "1-"] {
            assert!(text.parse::<PortSet>().is_err(), "{text}");
        }
    }
}
