//! The attackers: who, what they try, and how. Data; `attack` carries it out.

/// One attack.
#[derive(Debug)]
pub(crate) struct Attack {
    /// Stable name, for programs.
    pub(crate) name: &'static str,
    /// Who tries it.
    pub(crate) who: &'static str,
    /// What, for people; at most 27 characters.
    pub(crate) tried: &'static str,
    pub(crate) how: How,
}

/// The way in. Each ends with the request that is also sent to the copy without Testudo.
#[derive(Debug)]
pub(crate) enum How {
    /// Through the gateway.
    Edge(Request),
    /// Through the gateway, with another `Host` than the TLS server name.
    EdgeHost(&'static str, Request),
    /// Through the gateway, so often within a second.
    Burst(u32, Request),
    /// Through the gateway, framed as `Content-Length` and `Transfer-Encoding` at once.
    Smuggle(Request),
    /// Straight to the mTLS port of the service's sidecar.
    Sidecar(Certificate, Request),
    /// Through the outbound side of another service's sidecar.
    Outbound(Outbound, Request),
    /// Straight to the application, around its sidecar.
    Application(Request),
    /// Many requests, each of them permitted; `{n}` in the target is one number after the other.
    Patient(Patience, Request),
}

/// What makes many permitted requests an attack.
#[derive(Debug)]
pub(crate) enum Patience {
    /// They walk through the numbers.
    Numbers,
    /// They come from one address after the other, with one token.
    Addresses,
    /// They fetch all that there is, through another service's outbound side.
    Outbound(Outbound),
}

/// A request to `service`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    /// Path and query, sent as they are.
    pub(crate) target: &'static str,
    pub(crate) credential: Credential,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: Body,
}

/// What is presented as a user's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    None,
    /// A valid token of this customer.
    Customer(&'static str),
    /// A valid token of this administrator.
    Administrator(&'static str),
    /// A customer's, but of yesterday.
    Expired,
    /// An administrator's claims, signed with a key of the attacker's own.
    Forged,
    /// The same, unsigned: `alg: none`.
    Unsigned,
    /// The same, signed with the issuer's public key as an HMAC secret.
    KeyConfused,
    /// Signed by the issuer, for another shop.
    OtherAudience,
    /// Signed with the attacker's key, which `jku` in the header points to.
    OwnKeySet,
}

/// A request's body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    None,
    Json(&'static str),
    /// JSON that calls itself something that browsers send across origins without asking.
    Text(&'static str),
    /// An order with a note of so many bytes.
    Large(usize),
}

/// What is presented to a sidecar's mTLS port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    None,
    /// For this service, by a certificate authority of the attacker's own.
    OtherAuthority(&'static str),
    /// The real one of this service, with its key, and with a real transaction token.
    Stolen(&'static str),
}

/// A call through a sidecar's outbound side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbound {
    /// Whose.
    pub(crate) of: &'static str,
    /// Whether the secret that its own application has is sent.
    pub(crate) with_secret: bool,
    /// Whether a real transaction token, taken from storefront, is sent.
    pub(crate) stolen_token: bool,
    pub(crate) to: Destination,
}

/// Where such a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `http://SERVICE.mesh`.
    Mesh,
    /// A host outside the mesh that no policy names.
    Outside,
}

const ORDER: &str = r#"{"product": 3, "quantity": 1}"#;
const CHARGE: &str = r#"{"order": 17, "customer": "alice", "amount": 1}"#;
const MALLORY: Credential = Credential::Customer("mallory");
const BOB: Credential = Credential::Customer("bob");

const fn get(service: &'static str, target: &'static str, credential: Credential) -> Request {
    Request {
        service,
        method: "GET",
        target,
        credential,
        headers: &[],
        body: Body::None,
    }
}

const fn post(
    service: &'static str,
    target: &'static str,
    credential: Credential,
    body: Body,
) -> Request {
    Request {
        service,
        method: "POST",
        target,
        credential,
        headers: &[],
        body,
    }
}

const fn with(request: Request, headers: &'static [(&'static str, &'static str)]) -> Request {
    Request { headers, ..request }
}

const fn attack(name: &'static str, who: &'static str, tried: &'static str, how: How) -> Attack {
    Attack {
        name,
        who,
        tried,
        how,
    }
}

const fn outbound(of: &'static str) -> Outbound {
    Outbound {
        of,
        with_secret: true,
        stolen_token: false,
        to: Destination::Mesh,
    }
}

/// In the order in which they are tried.
pub(crate) const ATTACKS: &[Attack] = &[
    attack(
        "no-token",
        "nobody",
        "alice's order, no token",
        How::Edge(get("orders", "/orders/alice/17", Credential::None)),
    ),
    attack(
        "alg-none",
        "mallory",
        "admin token, alg: none",
        How::Edge(post(
            "orders",
            "/orders/alice/17/refund",
            Credential::Unsigned,
            Body::None,
        )),
    ),
    attack(
        "others-order",
        "bob",
        "alice's: GET /orders/…/17",
        How::Edge(get("orders", "/orders/alice/17", BOB)),
    ),
    attack(
        "undeclared-field",
        "bob",
        "POST /orders, paid: true",
        How::Edge(post(
            "orders",
            "/orders",
            BOB,
            Body::Json(r#"{"product": 3, "quantity": 1, "paid": true}"#),
        )),
    ),
    attack(
        "path-parameter",
        "bob",
        "GET /orders/..;/admin",
        How::Edge(get("orders", "/orders/..;/admin", BOB)),
    ),
    attack(
        "expired-token",
        "mallory",
        "yesterday's token",
        How::Edge(get(
            "orders",
            "/orders?customerId=alice",
            Credential::Expired,
        )),
    ),
    attack(
        "forged-token",
        "mallory",
        "admin token, own key",
        How::Edge(get("orders", "/orders/alice/17", Credential::Forged)),
    ),
    attack(
        "key-confusion",
        "mallory",
        "public key as HMAC secret",
        How::Edge(get("orders", "/orders/alice/17", Credential::KeyConfused)),
    ),
    attack(
        "own-key-set",
        "mallory",
        "jku: mallory's own keys",
        How::Edge(get("orders", "/orders/alice/17", Credential::OwnKeySet)),
    ),
    attack(
        "other-audience",
        "mallory",
        "a token for another shop",
        How::Edge(get(
            "orders",
            "/orders?customerId=mallory",
            Credential::OtherAudience,
        )),
    ),
    attack(
        "admin-operation",
        "bob",
        "PUT /products/1, price: 1",
        How::Edge(Request {
            method: "PUT",
            ..post("catalog", "/products/1", BOB, Body::Json(r#"{"price": 1}"#))
        }),
    ),
    attack(
        "wrong-type",
        "bob",
        "POST /orders, quantity: -5",
        How::Edge(post(
            "orders",
            "/orders",
            BOB,
            Body::Json(r#"{"product": 3, "quantity": -5}"#),
        )),
    ),
    attack(
        "oversized-body",
        "bob",
        "POST /orders, 1 MiB note",
        How::Edge(post("orders", "/orders", BOB, Body::Large(1 << 20))),
    ),
    attack(
        "simple-request",
        "bob",
        "POST /orders as text/plain",
        How::Edge(post("orders", "/orders", BOB, Body::Text(ORDER))),
    ),
    attack(
        "wrong-parameter",
        "nobody",
        "GET /products?limit=-1 or 1",
        How::Edge(get(
            "catalog",
            "/products?limit=-1%20or%201",
            Credential::None,
        )),
    ),
    attack(
        "duplicate-parameter",
        "bob",
        "?customerId=bob&…=alice",
        How::Edge(get(
            "orders",
            "/orders?customerId=bob&customerId=alice",
            BOB,
        )),
    ),
    attack(
        "undocumented-path",
        "mallory",
        "GET /orders/export",
        How::Edge(get("orders", "/orders/export", MALLORY)),
    ),
    attack(
        "undocumented-method",
        "mallory",
        "DELETE /products/1",
        How::Edge(Request {
            method: "DELETE",
            ..get("catalog", "/products/1", MALLORY)
        }),
    ),
    attack(
        "double-encoding",
        "mallory",
        "GET /orders/%252e%252e/admin",
        How::Edge(get("orders", "/orders/%252e%252e/admin", MALLORY)),
    ),
    attack(
        "encoded-slash",
        "mallory",
        "GET /orders/..%2fadmin",
        How::Edge(get("orders", "/orders/..%2fadmin", MALLORY)),
    ),
    attack(
        "smuggling",
        "mallory",
        "two lengths, GET /admin inside",
        How::Smuggle(post("orders", "/orders", MALLORY, Body::Json(ORDER))),
    ),
    attack(
        "host-confusion",
        "mallory",
        "Host: payments.mesh",
        How::EdgeHost("payments.mesh", get("payments", "/charges", MALLORY)),
    ),
    attack(
        "other-host",
        "mallory",
        "localhost's TLS, another Host",
        How::EdgeHost("admin.shop.test", get("orders", "/admin", MALLORY)),
    ),
    attack(
        "forged-user",
        "nobody",
        "x-testudo-user: alice",
        How::Edge(with(
            post("orders", "/orders", Credential::None, Body::Json(ORDER)),
            &[("x-testudo-user", "shop:alice")],
        )),
    ),
    attack(
        "forged-user-underscore",
        "bob",
        "x_testudo_user: alice",
        How::Edge(with(
            get("orders", "/orders?customerId=alice", BOB),
            &[("x_testudo_user", "shop:alice")],
        )),
    ),
    attack(
        "forged-mesh-token",
        "nobody",
        "a Txn-Token from outside",
        How::Edge(with(
            get("orders", "/orders/alice/17", Credential::None),
            &[("txn-token", FORGED_TXN_TOKEN)],
        )),
    ),
    attack(
        "burst",
        "mallory",
        "300 requests in 1 s",
        How::Burst(300, get("orders", "/orders?customerId=mallory", MALLORY)),
    ),
    attack(
        "no-certificate",
        "thief",
        "payments, no certificate",
        How::Sidecar(
            Certificate::None,
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "other-authority",
        "thief",
        "payments, another CA",
        How::Sidecar(
            Certificate::OtherAuthority("orders"),
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "stolen-certificate",
        "thief",
        "payments, storefront's key",
        How::Sidecar(
            Certificate::Stolen("storefront"),
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "around-orders",
        "storefront",
        "payments, around orders",
        How::Outbound(
            // A customer may charge; storefront may not, whomever it does it for.
            Outbound {
                stolen_token: true,
                ..outbound("storefront")
            },
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "dropped-user",
        "orders",
        "payments, user dropped",
        How::Outbound(
            outbound("orders"),
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "swapped-token",
        "orders",
        "payments, storefront's token",
        How::Outbound(
            Outbound {
                stolen_token: true,
                ..outbound("orders")
            },
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "foreign-process",
        "thief",
        "orders' outbound port",
        How::Outbound(
            Outbound {
                with_secret: false,
                ..outbound("orders")
            },
            post("payments", "/charges", Credential::None, Body::Json(CHARGE)),
        ),
    ),
    attack(
        "exfiltration",
        "orders",
        "customers' data, elsewhere",
        How::Outbound(
            Outbound {
                to: Destination::Outside,
                ..outbound("orders")
            },
            post(
                "catalog",
                "/healthz",
                Credential::None,
                Body::Json(r#"{"stolen": "everything"}"#),
            ),
        ),
    ),
    attack(
        "application-port",
        "thief",
        "payments' port, no proxy",
        How::Application(get("payments", "/charges", Credential::None)),
    ),
];

/// Tried beside the others, at the same time: what gives them away takes a few seconds to see.
pub(crate) const PATIENT: &[Attack] = &[
    attack(
        "order-walk",
        "frank",
        "admin's token, order by order",
        How::Patient(
            Patience::Numbers,
            get(
                "orders",
                "/orders/alice/{n}",
                Credential::Administrator("frank"),
            ),
        ),
    ),
    attack(
        "copied-token",
        "gina",
        "one token, 40 addresses",
        How::Patient(
            Patience::Addresses,
            get(
                "orders",
                "/orders?customerId=gina",
                Credential::Customer("gina"),
            ),
        ),
    ),
    attack(
        "bulk-export",
        "storefront",
        "catalog, page by page",
        How::Patient(
            Patience::Outbound(outbound("storefront")),
            get("catalog", "/products/export?page={n}", Credential::None),
        ),
    ),
];

/// Of both kinds.
pub(crate) const fn attack_count() -> usize {
    ATTACKS.len() + PATIENT.len()
}

/// Claims to be alice; nobody signed it.
const FORGED_TXN_TOKEN: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6InR4bnRva2VuK2p3dCIsImtpZCI6IngifQ.\
eyJhdWQiOiJzaG9wLnRlc3QiLCJzdWIiOiJzaG9wOmFsaWNlIn0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl How {
    /// The request that is also sent to the copy without Testudo.
    pub(crate) fn request(&self) -> &Request {
        match self {
            How::Edge(request)
            | How::EdgeHost(_, request)
            | How::Burst(_, request)
            | How::Smuggle(request)
            | How::Sidecar(_, request)
            | How::Outbound(_, request)
            | How::Application(request)
            | How::Patient(_, request) => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_texts_fit_the_screen() {
        let all = || ATTACKS.iter().chain(PATIENT);
        let names: BTreeSet<&str> = all().map(|attack| attack.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(ATTACKS.len() >= 22);
        for attack in all() {
            assert!(attack.tried.chars().count() <= 30, "{}", attack.name);
            assert!(attack.who.len() <= 10, "{}", attack.name);
        }
    }
}
