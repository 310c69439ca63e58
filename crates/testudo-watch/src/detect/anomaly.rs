//! What a detector says: who does what, beside what is usual, with requests to look at.

use serde::{Deserialize, Serialize};

use crate::window::{Name, Principal};

/// The detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// A service calls what it never called before.
    NewEdge,
    /// Many more or fewer requests than usual.
    Rate,
    /// Answers with 5xx.
    Errors,
    /// Refusals.
    Denials,
    /// Slow answers.
    Latency,
    /// Bytes out to one principal.
    Volume,
    /// One user walks through objects.
    Enumeration,
    /// Paths that lead nowhere.
    Scan,
    /// Credentials are tried.
    Stuffing,
    /// One credential from many places.
    TokenSharing,
    /// Operations that no specification has.
    Undocumented,
    /// A service does not pass its user on.
    DroppedUser,
    /// Running into rate limits.
    Probing,
}

impl Detector {
    /// All of them.
    pub const ALL: [Detector; 13] = [
        Detector::NewEdge,
        Detector::Rate,
        Detector::Errors,
        Detector::Denials,
        Detector::Latency,
        Detector::Volume,
        Detector::Enumeration,
        Detector::Scan,
        Detector::Stuffing,
        Detector::TokenSharing,
        Detector::Undocumented,
        Detector::DroppedUser,
        Detector::Probing,
    ];

    /// As in the bundle and in incidents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Detector::NewEdge => "new_edge",
            Detector::Rate => "rate",
            Detector::Errors => "errors",
            Detector::Denials => "denials",
            Detector::Latency => "latency",
            Detector::Volume => "volume",
            Detector::Enumeration => "enumeration",
            Detector::Scan => "scan",
            Detector::Stuffing => "stuffing",
            Detector::TokenSharing => "token_sharing",
            Detector::Undocumented => "undocumented",
            Detector::DroppedUser => "dropped_user",
            Detector::Probing => "probing",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Detector> {
        Detector::ALL.into_iter().find(|d| d.as_str() == name)
    }

    /// A symptom that a more specific detector may explain: where one does, for the same principal or
    /// edge, it makes no incident of its own.
    pub const fn is_symptom(self) -> bool {
        matches!(
            self,
            Detector::Denials
                | Detector::Errors
                | Detector::Latency
                | Detector::Rate
                | Detector::Probing
        )
    }

    /// Whether narrowing its principal helps: not where requests are stopped anyway, or where an
    /// operator's mistake is as likely as an attack.
    pub const fn is_containable(self) -> bool {
        matches!(
            self,
            Detector::Enumeration | Detector::Scan | Detector::Volume | Detector::TokenSharing
        )
    }
}

impl std::fmt::Display for Detector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it would be, if it is what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth looking at today.
    Medium,
    /// Worth looking at now.
    High,
}

/// The kind of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// A verified user.
    User,
    /// A service, proven by mTLS.
    Service,
    /// A source address.
    Address,
    /// Nobody in particular: what goes over an edge.
    Edge,
}

/// Whom an anomaly is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// `ISSUER:ID`, a service's name, an address, or `CALLER → SERVICE`.
    pub name: String,
}

impl Subject {
    /// Of a principal.
    pub fn of(principal: &Principal) -> Subject {
        let kind = match principal {
            Principal::User(_) => SubjectKind::User,
            Principal::Service(_) => SubjectKind::Service,
            Principal::Address(_) => SubjectKind::Address,
        };
        Subject {
            kind,
            name: principal.to_string(),
        }
    }

    /// A service.
    pub fn service(name: &str) -> Subject {
        Subject {
            kind: SubjectKind::Service,
            name: name.to_owned(),
        }
    }

    /// An edge; no caller: clients.
    pub fn edge(caller: Option<&str>, service: &str) -> Subject {
        Subject {
            kind: SubjectKind::Edge,
            name: format!("{} → {service}", caller.unwrap_or("clients")),
        }
    }

    /// Whether it stands for somebody who proved who they are.
    pub fn is_verified(&self) -> bool {
        matches!(self.kind, SubjectKind::User | SubjectKind::Service)
    }
}

/// What an anomaly is about. Parts that are not known, or not one thing, are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The calling service.
    pub caller: Option<String>,
    /// The called service.
    pub service: Option<String>,
    /// `SERVICE:OPERATION`.
    pub operation: Option<String>,
}

impl Target {
    /// From the parts of a key.
    pub fn new(caller: Option<&Name>, service: Option<&Name>, operation: Option<&Name>) -> Target {
        let text = |name: Option<&Name>| name.map(|name| name.to_string());
        Target {
            caller: text(caller),
            service: text(service),
            operation: text(operation),
        }
    }
}

/// The baseline beside the observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was measured: `distinct paths a minute`.
    pub what: String,
    /// What is usual; `None`: not known yet, or nothing of the kind is.
    pub usual: Option<f64>,
    /// What was seen.
    pub seen: f64,
    /// Its unit.
    pub unit: String,
}

/// One finding in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// Who says so.
    pub detector: Detector,
    /// The end of the window, in seconds since the epoch.
    pub at: u64,
    /// Whom it is about.
    pub who: Subject,
    /// What it is about.
    pub what: Target,
    /// One line for people.
    pub title: String,
    /// How bad it would be.
    pub severity: Severity,
    /// What is usual and what was seen.
    pub comparison: Comparison,
    /// Request ids to look at.
    pub samples: Vec<String>,
}
