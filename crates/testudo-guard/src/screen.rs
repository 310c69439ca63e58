//! HTTP/1 framing on the raw bytes, before any parser that forgives (RFC 9112).
//!
//! Where two readers could find different messages in one stream of bytes, requests are smuggled. So
//! each head is read strictly here before it is given to the HTTP library, and bodies are followed to
//! their end, where the next head begins. [`Screen`] knows bytes only: no sockets, no time. What it
//! refuses, the proxy answers like any other denial, with a reason, an id and an event.

mod body;
mod head;
#[cfg(test)]
mod tests;

use http::StatusCode;
use testudo_model::Reason;

use crate::record::Denial;
use body::Body;
use head::{Ended, Head, Line};

/// What passes for the head that was refused, so that the refusal is answered like any other.
pub const STAND_IN: &[u8] =
    b"REFUSED / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";
/// The method of [`STAND_IN`].
pub const STAND_IN_METHOD: &str = "REFUSED";

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The request target, in bytes.
    pub target_bytes: usize,
    /// Everything up to the empty line, in bytes.
    pub head_bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// Why a head was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    status: StatusCode,
    detail: &'static str,
    /// The method, as far as it could be read.
    pub method: String,
    /// The target, as far as it could be read.
    pub target: String,
}

impl Refusal {
    /// The denial that answers it.
    #[must_use]
    pub fn denial(&self) -> Denial {
        Denial::new(self.reason, self.detail).with_status(self.status)
    }
}

/// What is to be done with the bytes that [`Screen::feed`] was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Pass on what passed, keep the rest, and show it again with what comes.
    More,
    /// Pass on what passed, and [`STAND_IN`] in place of everything else: now and for good.
    Refuse(Box<Refusal>),
    /// The body of a request that is being answered already is not framed as it should be: break off.
    Break(&'static str),
    /// A request that may end HTTP on this connection has passed: show nothing more until it is decided.
    Wait,
}

/// One connection's bytes from the client, message by message.
#[derive(Debug)]
pub struct Screen {
    limits: HeadLimits,
    state: State,
    /// The message that is passing asks for another protocol.
    switches: bool,
    /// Heads that passed.
    heads: u64,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Body(Body),
    Waiting,
    Tunnel,
    Over,
}

impl Screen {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Screen {
            limits,
            state: State::Head(Head::default()),
            switches: false,
            heads: 0,
        }
    }

    /// How many heads have passed.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether [`Next::Wait`] was said and nothing decided since.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// The request that may have ended HTTP was answered: with a tunnel, or with a response after which
    /// HTTP goes on.
    pub fn decide(&mut self, tunnel: bool) {
        self.state = if tunnel {
            State::Tunnel
        } else {
            State::Head(Head::default())
        };
    }

    /// Looks at the bytes that have not passed yet, in the order in which they came: those kept from
    /// before, then new ones. Returns how many of them pass, and what then. Each byte is looked at once.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Next) {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            match &mut self.state {
                State::Tunnel => return (bytes.len(), Next::More),
                State::Over => return (passed, Next::More),
                State::Waiting => return (passed, Next::Wait),
                State::Head(head) => match head.read(rest, &self.limits) {
                    Ok(Line::Incomplete) => return (passed, Next::More),
                    Ok(Line::Ended(Ended {
                        length,
                        body,
                        switches,
                    })) => {
                        passed += length;
                        self.heads += 1;
                        self.switches = switches;
                        self.state = State::Body(body);
                    }
                    Err(why) => {
                        self.state = State::Over;
                        return (passed, Next::Refuse(Box::new(why.refusal(rest))));
                    }
                },
                State::Body(body) => match body.follow(rest) {
                    Ok((length, ended)) => {
                        passed += length;
                        if !ended {
                            return (passed, Next::More);
                        }
                        if self.switches {
                            self.state = State::Waiting;
                            return (passed, Next::Wait);
                        }
                        self.state = State::Head(Head::default());
                    }
                    Err(why) => {
                        self.state = State::Over;
                        return (passed, Next::Break(why));
                    }
                },
            }
        }
    }
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wrong {
    reason: Reason,
    status: StatusCode,
    detail: &'static str,
}

impl Wrong {
    const fn malformed(detail: &'static str) -> Self {
        Wrong {
            reason: Reason::RequestMalformed,
            status: StatusCode::BAD_REQUEST,
            detail,
        }
    }

    const fn too_large(status: StatusCode, detail: &'static str) -> Self {
        Wrong {
            reason: Reason::RequestTooLarge,
            status,
            detail,
        }
    }

    fn refusal(self, head: &[u8]) -> Refusal {
        let line = head
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let text = |word: Option<&[u8]>| {
            let word = word.unwrap_or_default();
            String::from_utf8_lossy(word.get(..word.len().min(1024)).unwrap_or_default())
                .into_owned()
        };
        Refusal {
            reason: self.reason,
            status: self.status,
            detail: self.detail,
            method: text(words.next()),
            target: text(words.next()),
        }
    }
}
