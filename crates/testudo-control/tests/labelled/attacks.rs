//! The attacks: what they send in a second, at three strengths, and what should be said of them.

use testudo_model::{Event, Hop, Reason};
use testudo_watch::detect::Detector;

use crate::mesh::{Call, Mesh, service};

/// How hard an attacker tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    Weak,
    Medium,
    Strong,
}

impl Strength {
    pub const ALL: [Strength; 3] = [Strength::Weak, Strength::Medium, Strength::Strong];

    fn times(self, weak: u64, medium: u64, strong: u64) -> u64 {
        match self {
            Strength::Weak => weak,
            Strength::Medium => medium,
            Strength::Strong => strong,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Walk,
    RefusedWalk,
    UserScan,
    AddressScan,
    Stuffing,
    FailedLogins,
    Spraying,
    CopiedToken,
    UserExport,
    ServiceExport,
    DroppedUser,
    NewEdge,
    Undocumented,
    Probing,
    Refusals,
    Failures,
}

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::Walk,
        Kind::RefusedWalk,
        Kind::UserScan,
        Kind::AddressScan,
        Kind::Stuffing,
        Kind::FailedLogins,
        Kind::Spraying,
        Kind::CopiedToken,
        Kind::UserExport,
        Kind::ServiceExport,
        Kind::DroppedUser,
        Kind::NewEdge,
        Kind::Undocumented,
        Kind::Probing,
        Kind::Refusals,
        Kind::Failures,
    ];

    pub fn detector(self) -> Detector {
        match self {
            Kind::Walk | Kind::RefusedWalk => Detector::Enumeration,
            Kind::UserScan | Kind::AddressScan => Detector::Scan,
            Kind::Stuffing | Kind::FailedLogins | Kind::Spraying => Detector::Stuffing,
            Kind::CopiedToken => Detector::TokenSharing,
            Kind::UserExport | Kind::ServiceExport => Detector::Volume,
            Kind::DroppedUser => Detector::DroppedUser,
            Kind::NewEdge => Detector::NewEdge,
            Kind::Undocumented => Detector::Undocumented,
            Kind::Probing => Detector::Probing,
            Kind::Refusals => Detector::Denials,
            Kind::Failures => Detector::Errors,
        }
    }
}

/// One attack: `number` makes its principals its own.
#[derive(Clone, Debug)]
pub struct Attack {
    pub kind: Kind,
    pub strength: Strength,
    pub number: u64,
    pub start: u64,
    pub seconds: u64,
}

impl Attack {
    fn user(&self) -> String {
        format!("shop:evil{}", self.number)
    }

    /// Its services: the caller (or the target of users), and the called one.
    fn places(&self) -> (String, String) {
        if self.kind == Kind::NewEdge {
            return (service(8 + self.number), service(self.number + 13));
        }
        let caller = (self.number / 16 + self.number) % 8;
        (service(caller), service(8 + (caller + 1) % 12))
    }

    /// Whether a symptom on this edge is of this attack: what it does to others shows there, too.
    pub fn touches(&self, caller: Option<&str>, service: Option<&str>) -> bool {
        let (one, other) = self.places();
        service.is_some_and(|name| name == one || name == other) || caller == Some(&one)
    }

    /// Who should be named.
    pub fn who(&self) -> String {
        let (one, other) = self.places();
        match self.kind {
            Kind::AddressScan | Kind::Stuffing | Kind::FailedLogins => {
                crate::mesh::address(500_000 + self.number).to_string()
            }
            Kind::Spraying | Kind::Undocumented => format!("clients → {one}"),
            Kind::ServiceExport | Kind::DroppedUser | Kind::NewEdge => one,
            Kind::Failures => format!("{one} → {other}"),
            _ => self.user(),
        }
    }

    /// Whether it should be contained by itself.
    pub fn is_containable(&self) -> bool {
        self.kind.detector().is_containable() && self.kind != Kind::AddressScan
    }

    /// Requests a second.
    fn rate(&self) -> u64 {
        let strength = self.strength;
        match self.kind {
            Kind::Walk | Kind::RefusedWalk => strength.times(1, 5, 30),
            Kind::UserScan | Kind::AddressScan => strength.times(1, 3, 20),
            Kind::Stuffing | Kind::FailedLogins => strength.times(1, 3, 50),
            Kind::Spraying => strength.times(1, 4, 30),
            Kind::CopiedToken | Kind::NewEdge | Kind::DroppedUser | Kind::Undocumented => {
                strength.times(1, 2, 10)
            }
            Kind::UserExport | Kind::ServiceExport => strength.times(1, 4, 10),
            Kind::Probing => strength.times(2, 6, 40),
            Kind::Refusals | Kind::Failures => strength.times(1, 4, 20),
        }
    }

    /// What it sends in one second.
    pub fn second(&self, at: u64, mesh: &mut Mesh, out: &mut Vec<Event>) {
        let user = self.user();
        let (one, other) = self.places();
        let rate = self.rate();
        for step in 0..rate {
            let number = (at - self.start) * rate + step;
            let base = Call {
                at,
                hop: Hop::Edge,
                caller: None,
                user: Some(&user),
                from: 500_000 + self.number,
                credential: 1_000_000 + self.number,
                agent: 1,
                service: &one,
                operation: Some("getThing"),
                path: format!("/things/{}", 50_000 + number),
                denied: None,
                status: 200,
                bytes: 2_000,
                micros: 5_000,
            };
            let call = match self.kind {
                Kind::ServiceExport | Kind::DroppedUser | Kind::NewEdge | Kind::Failures => {
                    self.inside(number, &one, &other, base)
                }
                _ => self.at_the_edge(number, base),
            };
            out.push(mesh.event(&call));
            if self.kind == Kind::DroppedUser && step == 0 {
                // A user does arrive at the caller.
                let arrival = Call {
                    caller: Some("gateway"),
                    user: Some("shop:c7"),
                    service: &one,
                    operation: Some("getThing"),
                    denied: None,
                    ..call
                };
                out.push(mesh.event(&arrival));
            }
        }
    }

    fn inside<'a>(&self, number: u64, one: &'a str, other: &'a str, base: Call<'a>) -> Call<'a> {
        let inside = Call {
            hop: Hop::Mesh,
            caller: Some(one),
            user: None,
            service: other,
            operation: Some("part"),
            path: format!("/parts/{}", number % 50),
            ..base
        };
        match self.kind {
            Kind::ServiceExport => Call {
                bytes: 3 << 20,
                ..inside
            },
            Kind::DroppedUser => Call {
                denied: Some(Reason::AuthnMissing),
                ..inside
            },
            Kind::Failures => Call {
                user: Some("shop:c7"),
                status: 503,
                ..inside
            },
            _ => inside,
        }
    }

    fn at_the_edge<'a>(&self, number: u64, base: Call<'a>) -> Call<'a> {
        let guess = |base: Call<'a>| Call {
            operation: None,
            path: format!("/guess/{number}"),
            denied: Some(Reason::RouteUndocumented),
            ..base
        };
        let wrong = |base: Call<'a>| Call {
            user: None,
            credential: 5_000_000 + self.number * 100_000 + number,
            denied: Some(Reason::AuthnInvalid),
            path: "/things/1".to_owned(),
            ..base
        };
        match self.kind {
            Kind::RefusedWalk => Call {
                denied: Some(Reason::AuthzUser),
                ..base
            },
            Kind::UserScan => guess(base),
            Kind::AddressScan => Call {
                user: None,
                credential: 0,
                ..guess(base)
            },
            Kind::Stuffing => wrong(base),
            Kind::Spraying => Call {
                from: 2_000_000 + self.number * 10_000 + number,
                ..wrong(base)
            },
            Kind::FailedLogins => Call {
                user: Some("anonymous"),
                credential: 0,
                operation: Some("login"),
                path: "/login".to_owned(),
                status: 401,
                ..base
            },
            Kind::CopiedToken => Call {
                from: 3_000_000 + self.number * 1000 + number % 200,
                agent: number,
                path: format!("/things/{}", number % 5),
                ..base
            },
            Kind::UserExport => Call {
                operation: Some("export"),
                path: "/export".to_owned(),
                bytes: 3 << 20,
                ..base
            },
            Kind::Undocumented => Call {
                operation: Some("undocumented"),
                path: "/old".to_owned(),
                ..base
            },
            Kind::Probing => Call {
                denied: (!number.is_multiple_of(3)).then_some(Reason::LimitExceeded),
                path: format!("/things/{}", number % 3),
                ..base
            },
            Kind::Refusals => Call {
                operation: Some("adminThing"),
                path: "/admin".to_owned(),
                denied: Some(Reason::AuthzUser),
                ..base
            },
            _ => base,
        }
    }
}
