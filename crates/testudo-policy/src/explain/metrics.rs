//! Texts for the metrics that proxies export.

use super::Explanation;

pub(super) static ALL: &[Explanation] = &[
    Explanation {
        code: "testudo_decisions_total",
        title: "Requests judged, by service, hop, verdict and reason",
        meaning: "A counter. `hop` is `edge` or `mesh`, `verdict` is `permit` or `deny`, `reason` is empty for requests that nothing was wrong with. A permit with a reason is one that report mode let pass.",
        causes: &[
            "A rise of one reason after a change: a policy, a specification or a client does not fit.",
            "A rise of `authn.*` from few addresses: guessing.",
        ],
        action: "Alert on the share of denials for each service; `testudo observe --verdict deny` shows the requests behind it.",
    },
    Explanation {
        code: "http_server_request_duration_seconds",
        title: "Time from the first byte judged to the last byte sent",
        meaning: "A histogram after the OpenTelemetry semantic conventions. It includes the service's own time.",
        causes: &[
            "A slow service: compare with `testudo_guard_duration_seconds`, which is the proxy's own part.",
        ],
        action: "Alert on the quantile that your users feel.",
    },
    Explanation {
        code: "http_server_active_requests",
        title: "Requests that are being served at this moment",
        meaning: "A gauge. It grows where a service answers more slowly than requests come.",
        causes: &[
            "A slow or stuck service.",
            "Long-lived streams, which count for as long as they last.",
        ],
        action: "Compare with its usual height; near the limit requests get `overloaded`.",
    },
    Explanation {
        code: "testudo_guard_duration_seconds",
        title: "Time that the checks of a request took, by stage",
        meaning: "A histogram of the proxy's own work. `stage` is one of the checks, as a decision's `checks` names them, or `total` for all of them.",
        causes: &[
            "Tokens that are verified for the first time: signatures cost most.",
            "Policies that apply to many operations.",
            "Large bodies.",
        ],
        action: "Usually a few microseconds. If it is more, see which stage, and `testudo why ID` for the share of each check.",
    },
    Explanation {
        code: "testudo_events_dropped_total",
        title: "Events that were not kept because a queue was full",
        meaning: "A counter. Requests are never delayed for their events; if evidence cannot be written quickly enough, some of it is dropped and counted here.",
        causes: &[
            "A slow or full disk.",
            "More traffic than one writer keeps up with.",
        ],
        action: "Anything but zero means that the decision log has gaps. Check the disk first.",
    },
    Explanation {
        code: "testudo_revision",
        title: "The revision that a proxy enforces",
        meaning: "A gauge with the revision's number; 0 means that the proxy has none and denies everything.",
        causes: &[
            "A proxy behind the others: it cannot reach control, or could not compile the revision and keeps its last good one.",
        ],
        action: "Alert where proxies differ for longer than a minute; `testudo proxy list` says why.",
    },
    Explanation {
        code: "testudo_svid_expiry_seconds",
        title: "Seconds until the proxy's certificate expires",
        meaning: "A gauge. Certificates are renewed at half of their life; an expired one is never accepted.",
        causes: &["Control cannot be reached, or refuses: the workload was revoked."],
        action: "Alert below a quarter of `identity.ttl`; `testudo doctor` names the proxies.",
    },
    Explanation {
        code: "testudo_connections",
        title: "Open connections",
        meaning: "A gauge by `side`: those that others opened, and those that the proxy opened.",
        causes: &[
            "Clients that do not reuse connections.",
            "Slow-request attacks.",
        ],
        action: "Compare with its usual height; limits close what is idle for too long.",
    },
];
