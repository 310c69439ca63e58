//! What protects each service: which checks stop requests, which only report, which there are none of.

use testudo_guard::schema::Strictness;
use testudo_guard::snapshot::UserRule;
use testudo_model::Mode;

use crate::config::{Config, Service, Sidecar};

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cover {
    /// There is nothing to check against.
    None,
    /// It is switched off.
    Off,
    /// It is logged and let pass.
    Report,
    /// It stops requests.
    Enforce,
}

impl Cover {
    /// `none`, `off`, `report` or `enforce`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cover::None => "none",
            Cover::Off => "off",
            Cover::Report => "report",
            Cover::Enforce => "enforce",
        }
    }

    const fn of_mode(mode: Mode) -> Cover {
        match mode {
            Mode::Enforce => Cover::Enforce,
            Mode::Report => Cover::Report,
            // Nothing is decided.
            Mode::Observe => Cover::Off,
        }
    }

    const fn of(strictness: Strictness) -> Cover {
        match strictness {
            Strictness::Enforce => Cover::Enforce,
            Strictness::Report => Cover::Report,
            Strictness::Off => Cover::Off,
        }
    }
}

/// What protects one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The proof of who calls. In every mode where there is a sidecar.
    pub mtls: Cover,
    /// Bad credentials are refused.
    pub authn: Cover,
    /// Users are asked about.
    pub authz: Cover,
    /// Callers are asked about.
    pub callers: Cover,
    /// Requests are held against the specification.
    pub schema: Cover,
    /// So are responses.
    pub responses: Cover,
    /// Some limit counts its requests.
    pub limit: Cover,
    /// Payloads are inspected.
    pub waf: Cover,
    /// The names of its limits.
    pub limits: Vec<String>,
}

/// What protects `service` while `mode` holds.
pub fn coverage(config: &Config, service: &Service, mode: Mode) -> Coverage {
    let mode = Cover::of_mode(mode);
    let sidecar = !matches!(service.sidecar, Sidecar::None(_));
    let users = config.users.is_some();
    let specified = service.api.openapi.is_some();
    let asked = |cover: Cover, there: bool| if there { cover.min(mode) } else { Cover::None };
    let limits: Vec<String> = config
        .limits
        .iter()
        .filter(|limit| {
            let matches = &limit.rule.matches;
            let owner = matches
                .operation
                .as_deref()
                .and_then(|operation| operation.split(':').next());
            matches
                .service
                .as_deref()
                .or(owner)
                .is_none_or(|name| *name == *service.name)
        })
        .map(|limit| limit.rule.name.to_string())
        .collect();
    let judged = match service.user {
        UserRule::Authorize | UserRule::Optional => Cover::Enforce,
        UserRule::Require | UserRule::Ignore => Cover::Off,
    };
    let authenticated = match service.user {
        UserRule::Ignore => Cover::Off,
        UserRule::Authorize | UserRule::Optional | UserRule::Require => Cover::Enforce,
    };
    Coverage {
        mtls: if sidecar { Cover::Enforce } else { Cover::None },
        authn: asked(authenticated, users),
        authz: asked(judged, users),
        callers: asked(Cover::Enforce, sidecar),
        schema: asked(Cover::of(service.api.requests), specified),
        responses: asked(Cover::of(service.api.responses), specified),
        limit: asked(Cover::Enforce, !limits.is_empty()),
        waf: Cover::None,
        limits,
    }
}
