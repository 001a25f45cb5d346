//! States of a split device (`io/xenbus.h`).

/// Where one end of a split device stands (`enum xenbus_state`); written in decimal to its `state` node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum XenbusState {
    /// No state node, or not a state (`XenbusStateUnknown`).
    Unknown = 0,
    /// Starting (`XenbusStateInitialising`).
    Initialising = 1,
    /// Waits for the peer's details or for scripts (`XenbusStateInitWait`).
    InitWait = 2,
    /// Its own details are published (`XenbusStateInitialised`).
    Initialised = 3,
    /// In use (`XenbusStateConnected`).
    Connected = 4,
    /// Going away, by an error or an unplug (`XenbusStateClosing`).
    Closing = 5,
    /// Gone (`XenbusStateClosed`).
    Closed = 6,
    /// Being changed (`XenbusStateReconfiguring`).
    Reconfiguring = 7,
    /// Changed (`XenbusStateReconfigured`).
    Reconfigured = 8,
}

impl XenbusState {
    /// Every state, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// The state with this number, [`Self::Unknown`] for a number that is none.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        Self::ALL.into_iter().find(|state| u32::from(state.raw()) == raw).unwrap_or(Self::Unknown)
    }

    /// The state that the text of a node names; anything unreadable is [`Self::Unknown`].
    #[must_use]
    pub fn from_text(text: &[u8]) -> Self {
        let digits = text.strip_suffix(b"\0").unwrap_or(text);
        match digits {
            [digit @ b'0'..=b'8'] => Self::from_raw(u32::from(digit - b'0')),
            _ => Self::Unknown,
        }
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The text of a state node.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_agree() {
        for (number, state) in XenbusState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.raw()), number);
            assert_eq!(XenbusState::from_text(state.as_str().as_bytes()), state);
        }
        for text in [&b""[..], b"9", b"-1", b"44", b"x"] {
            assert_eq!(XenbusState::from_text(text), XenbusState::Unknown);
        }
    }
}
