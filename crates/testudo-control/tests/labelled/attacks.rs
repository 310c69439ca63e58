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

    /// What it sends in one second.
    pub fn second(&self, at: u64, mesh: &mut Mesh, out: &mut Vec<Event>) {
        let n = at - self.start;
        let user = self.user();
        let (one, other) = self.places();
        let from = 500_000 + self.number;
        let base = |number: u64| Call {
            at,
            hop: Hop::Edge,
            caller: None,
            user: Some(&user),
            from,
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
        let inside = |number: u64| Call {
            hop: Hop::Mesh,
            caller: Some(&one),
            user: None,
            service: &other,
            operation: Some("part"),
            ..base(number)
        };
        let strength = self.strength;
        let rate = match self.kind {
            Kind::Walk | Kind::RefusedWalk => strength.times(1, 5, 30),
            Kind::UserScan | Kind::AddressScan => strength.times(1, 3, 20),
            Kind::Stuffing | Kind::FailedLogins => strength.times(1, 3, 50),
            Kind::Spraying => strength.times(1, 4, 30),
            Kind::CopiedToken | Kind::NewEdge | Kind::DroppedUser => strength.times(1, 2, 10),
            Kind::UserExport | Kind::ServiceExport => strength.times(1, 4, 10),
            Kind::Undocumented => strength.times(1, 2, 10),
            Kind::Probing => strength.times(2, 6, 40),
            Kind::Refusals => strength.times(1, 4, 20),
            Kind::Failures => strength.times(1, 4, 20),
        };
        for step in 0..rate {
            let number = n * rate + step;
            let call = match self.kind {
                Kind::Walk => base(number),
                Kind::RefusedWalk => Call {
                    denied: Some(Reason::AuthzUser),
                    ..base(number)
                },
                Kind::UserScan => Call {
                    operation: None,
                    path: format!("/guess/{number}"),
                    denied: Some(Reason::RouteUndocumented),
                    ..base(number)
                },
                Kind::AddressScan => Call {
                    user: None,
                    credential: 0,
                    operation: None,
                    path: format!("/guess/{number}"),
                    denied: Some(Reason::RouteUndocumented),
                    ..base(number)
                },
                Kind::Stuffing => Call {
                    user: None,
                    credential: 5_000_000 + self.number * 100_000 + number,
                    denied: Some(Reason::AuthnInvalid),
                    ..base(0)
                },
                Kind::FailedLogins => Call {
                    user: Some("anonymous"),
                    credential: 0,
                    operation: Some("login"),
                    path: "/login".to_owned(),
                    status: 401,
                    ..base(0)
                },
                Kind::Spraying => Call {
                    user: None,
                    from: 2_000_000 + self.number * 10_000 + number,
                    credential: 7_000_000 + self.number * 100_000 + number,
                    denied: Some(Reason::AuthnInvalid),
                    ..base(0)
                },
                Kind::CopiedToken => Call {
                    from: 3_000_000 + self.number * 1000 + number % 200,
                    agent: number,
                    ..base(number % 5)
                },
                Kind::UserExport => Call {
                    operation: Some("export"),
                    path: "/export".to_owned(),
                    bytes: 3 << 20,
                    ..base(0)
                },
                Kind::ServiceExport => Call {
                    path: format!("/parts/{}", number % 50),
                    bytes: 3 << 20,
                    ..inside(0)
                },
                Kind::DroppedUser => Call {
                    denied: Some(Reason::AuthnMissing),
                    path: format!("/parts/{}", number % 50),
                    ..inside(0)
                },
                Kind::NewEdge => inside(number % 5),
                Kind::Undocumented => Call {
                    operation: Some("undocumented"),
                    path: "/old".to_owned(),
                    ..base(0)
                },
                Kind::Probing => Call {
                    denied: (number % 3 != 0).then_some(Reason::LimitExceeded),
                    ..base(number % 3)
                },
                Kind::Refusals => Call {
                    operation: Some("adminThing"),
                    path: "/admin".to_owned(),
                    denied: Some(Reason::AuthzUser),
                    ..base(0)
                },
                Kind::Failures => Call {
                    user: Some("shop:c7"),
                    status: 503,
                    path: format!("/parts/{}", number % 50),
                    ..inside(0)
                },
            };
            out.push(mesh.event(&call));
            if self.kind == Kind::DroppedUser && step == 0 {
                // A user does arrive at the caller.
                let arrival = Call {
                    hop: Hop::Mesh,
                    caller: Some("gateway"),
                    user: Some("shop:c7"),
                    ..base(number % 5)
                };
                out.push(mesh.event(&arrival));
            }
        }
    }
}
