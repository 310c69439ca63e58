//! A small mesh: gateway and sidecars, users with API keys, a few operations and their policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use cedar_policy_core::parser::parse_policyset;
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Value as Json, json};
use testudo_model::PolicyRef;

use super::super::*;
use crate::authn::{
    ApiKeyEntry, ApiKeys, Authenticators, IssuerRule, JwksSource, TxnKeyEntry, TxnKeys, TxnRequest,
    TxnSigner, User,
};
use crate::authz::{ActionNames, Directory, OperationPolicies, Rule};
use crate::limit::{LimitKey, LimitMatch, LimitRule, LimitScope};
use crate::route::{Cors, Route, RouteTable, RouteTarget};
use crate::schema::*;
use crate::snapshot::*;

pub(super) const POLICIES: &str = r#"
permit (principal in Role::"customer", action == Action::"orders:listOrders", resource);
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource) when { context.params.owner == principal.id };
permit (principal in Role::"customer", action == Action::"orders:createOrder", resource);
forbid (principal, action == Action::"orders:createOrder", resource) when { context.body.item == "forbidden" };
permit (principal, action == Action::"orders:health", resource);
permit (principal in Role::"customer", action == Action::"orders:fragile", resource) when { context.params.limit > 0 };
permit (principal in Role::"customer", action == Action::"orders:watch", resource);
permit (principal == Service::"storefront", action in Action::"orders:*", resource);
forbid (principal == Service::"jobs", action == Action::"orders:getOrder", resource);
permit (principal == Service::"jobs", action in Action::"orders:*", resource);
forbid (principal == Service::"gateway", action == Action::"orders:fragile", resource);
"#;

pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn now() -> Now {
    Now {
        wall: Duration::from_secs(NOW),
        monotonic: Duration::from_secs(1_000),
    }
}

pub(super) fn line(file: &'static str, line: u32) -> PolicyRef {
    PolicyRef {
        file: file.into(),
        line,
    }
}

/// What differs from test to test.
pub(super) struct Setup {
    pub(super) role: Role,
    pub(super) mode: Mode,
    pub(super) user: UserRule,
    pub(super) users: bool,
    pub(super) forward: bool,
    pub(super) requests: Strictness,
    pub(super) responses: Strictness,
    pub(super) undocumented: Undocumented,
    pub(super) limits: Vec<LimitRule>,
    pub(super) cors: Option<Cors>,
    pub(super) acts_alone: ActsAlone,
    pub(super) routed: bool,
    pub(super) mode_until: Option<u64>,
}

impl Setup {
    pub(super) fn gateway() -> Setup {
        Setup {
            role: Role::Gateway,
            mode: Mode::Enforce,
            user: UserRule::Authorize,
            users: true,
            forward: false,
            requests: Strictness::Enforce,
            responses: Strictness::Enforce,
            undocumented: Undocumented::Deny,
            limits: Vec::new(),
            cors: None,
            acts_alone: ActsAlone::Never,
            routed: true,
            mode_until: None,
        }
    }

    pub(super) fn sidecar() -> Setup {
        Setup {
            role: Role::Sidecar(Arc::from("orders")),
            ..Setup::gateway()
        }
    }

    pub(super) fn mesh(self) -> Mesh {
        Mesh::new(self)
    }
}

pub(super) fn limit(name: &str, per: LimitKey, burst: u32) -> LimitRule {
    LimitRule {
        name: Arc::from(name),
        source: line("testudo.yaml", 40),
        matches: LimitMatch::default(),
        per,
        interval: Duration::from_millis(1_500),
        burst,
        scope: LimitScope::Proxy,
    }
}

/// A compiled mesh with everything that lives beside it.
pub(super) struct Mesh {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) live: Live,
    pub(super) local: Local,
    pub(super) signer: TxnSigner,
    keys: HashMap<&'static str, String>,
    pub(super) record: Record,
}

impl Mesh {
    fn new(setup: Setup) -> Mesh {
        let mut keys = HashMap::new();
        let entries = [
            ("alice", "customer", None),
            ("bob", "guest", None),
            ("late", "customer", Some(NOW - 10)),
        ]
        .into_iter()
        .map(|(name, role, expires)| {
            let key = ApiKeys::generate(name).unwrap();
            keys.insert(name, key.text.to_string());
            ApiKeyEntry {
                id: Arc::from(name),
                hash: unhex(&key.hash),
                user: Arc::from(name),
                roles: vec![Arc::from(role)],
                expires,
            }
        })
        .collect();
        let issuer = IssuerRule {
            name: Arc::from("shop"),
            issuer: Arc::from("https://id.shop.test"),
            audiences: vec![Arc::from("shop")],
            jwks: JwksSource::Url(Arc::from("https://id.shop.test/keys")),
            id: "/sub".parse().unwrap(),
            roles: None,
            claims: BTreeMap::new(),
        };
        let users = setup.users.then(|| {
            let api_keys = ApiKeys::new(entries).unwrap();
            Authenticators::new(vec![issuer], Some(api_keys), setup.forward).unwrap()
        });
        let signer = TxnSigner::generate().unwrap();
        let (txn_keys, refused) = TxnKeys::new([TxnKeyEntry {
            kid: Arc::from(signer.kid()),
            public_key: signer.public_key().to_vec(),
            gateway: Arc::from("gateway-1"),
            not_after: NOW + 86_400,
        }]);
        assert!(refused.is_empty(), "{refused:?}");
        let live = Live::default();
        live.txn_keys.store(Arc::new(txn_keys));
        Mesh {
            snapshot: Arc::new(snapshot(setup, users)),
            live,
            local: Local::default(),
            signer,
            keys,
            record: Record::default(),
        }
    }

    /// The text of a user's API key.
    pub(super) fn key(&self, user: &str) -> String {
        self.keys[user].clone()
    }

    /// A transaction token as the gateway would mint it.
    pub(super) fn token(&self, user: &str) -> String {
        let user = match user {
            "anonymous" => User::anonymous(),
            name => Arc::new(User {
                id: format!("key:{name}").into(),
                issuer: Arc::from("key"),
                roles: Arc::from([Arc::from("customer")]),
                claims: Arc::default(),
                expires: None,
                credential: [7; 32],
                source_ip: None,
                key: Arc::from("k"),
            }),
        };
        let request = TxnRequest {
            user: &user,
            operation: &Arc::from("orders:getOrder"),
            source_ip: Some(IpAddr::from([192, 0, 2, 9])),
            gateway: "gateway-1",
            trust_domain: "shop.test",
        };
        self.signer.mint(&request, now()).unwrap().to_string()
    }

    /// Judges a head as it comes from this peer.
    pub(super) fn head(&mut self, peer: &Peer, request: &mut Parts, has_body: bool) -> HeadOutcome {
        self.record = Record::default();
        let incoming = Incoming {
            peer,
            head: request,
            has_body,
        };
        check_head(
            &self.snapshot,
            &self.live,
            &mut self.local,
            incoming,
            &mut self.record,
            now(),
        )
    }

    /// The same for the whole request.
    pub(super) fn request(
        &mut self,
        peer: &Peer,
        request: &mut Parts,
        body: &str,
    ) -> Result<Permit, Denial> {
        match self.head(peer, request, !body.is_empty()) {
            HeadOutcome::Deny(denial) => Err(denial),
            HeadOutcome::Answer { status, .. } => panic!("answered {status}"),
            HeadOutcome::Continue(check) => match check.plan() {
                BodyPlan::Buffer(_) => {
                    let body = Bytes::copy_from_slice(body.as_bytes());
                    check.finish(&body, &mut self.record, now())
                }
                BodyPlan::Stream(_) => check.stream(&mut self.record),
            },
        }
    }

    /// The reason of a denial at the edge.
    pub(super) fn edge(&mut self, request: &mut Parts, body: &str) -> Result<Permit, Denial> {
        self.request(&client(), request, body)
    }

    /// How the checks ended, as `name+`, `name-` or `name?`.
    pub(super) fn checks(&self) -> Vec<String> {
        let sign = |result| match result {
            testudo_model::CheckResult::Pass => '+',
            testudo_model::CheckResult::Fail => '-',
            testudo_model::CheckResult::Skip => '?',
        };
        self.record
            .checks
            .iter()
            .map(|check| format!("{}{}", check.name, sign(check.result)))
            .collect()
    }
}

pub(super) fn client() -> Peer {
    Peer::Client {
        address: IpAddr::from([203, 0, 113, 7]),
        tls: false,
        server_name: None,
    }
}

pub(super) fn workload(id: &str) -> Peer {
    Peer::Workload {
        spiffe_id: format!("spiffe://shop.test/{id}").into(),
        serial: Arc::from("0a1b"),
        not_after: NOW + 3_600,
        address: IpAddr::from([127, 0, 0, 1]),
    }
}

pub(super) fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = uri.parse().unwrap();
    let host = ("host", "api.shop.test");
    for (name, value) in std::iter::once(&host).chain(headers) {
        request.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    request.into_parts().0
}

fn snapshot(setup: Setup, users: Option<Authenticators>) -> Snapshot {
    let policies = Policies::new();
    let orders = Arc::from("orders");
    let service = |name: &str| Service {
        name: Arc::from(name),
        source: line("testudo.yaml", 20),
        route: setup.routed.then(|| line("testudo.yaml", 10)),
        spiffe_id: format!("spiffe://shop.test/service/{name}").into(),
        mode: setup.mode,
        mode_until: setup.mode_until,
        app: Vec::new(),
        plain: false,
        roles: Vec::new(),
        labels: BTreeMap::new(),
        protocol: Protocol::Auto,
        api: Api {
            kind: ApiKind::None,
            requests: setup.requests,
            responses: setup.responses,
            undocumented: setup.undocumented,
            max_body: 64,
            operations: Vec::new(),
            undocumented_operation: None,
            matcher: OperationMatcher::default(),
        },
        user: setup.user,
        acts_alone: setup.acts_alone.clone(),
        probes: vec![Arc::from("/healthz")],
        egress: BTreeSet::from([Arc::from("api.example.com:443")]),
        timeout: Duration::from_secs(15),
        limits: Vec::new(),
    };
    let mut api = service("orders");
    api.api.kind = ApiKind::OpenApi;
    api.api.operations = operations(&policies, &orders);
    api.api.matcher = OperationMatcher::new(&api.api.operations);
    api.api.undocumented_operation = Some(Arc::new(Operation {
        id: Arc::from("orders:undocumented"),
        source: None,
        method: Method::GET,
        template: Arc::from("*"),
        websocket: false,
        schema: OperationSchema::default(),
        policies: policies.slice(&ActionNames::undocumented(&orders)),
    }));
    api.limits = setup.limits.into_iter().map(Arc::new).collect();
    let mut services: HashMap<Arc<str>, Arc<Service>> = ["storefront", "jobs", "payments"]
        .into_iter()
        .map(|name| (Arc::from(name), Arc::new(service(name))))
        .collect();
    services.insert(orders, Arc::new(api));
    let routes = vec![
        route("/shop", true, setup.cors.clone()),
        route("/", false, setup.cors),
        Arc::new(Route {
            source: line("testudo.yaml", 12),
            host: Some(Arc::from("old.shop.test")),
            path: Arc::from("/"),
            target: RouteTarget::Redirect {
                status: 308,
                location: Arc::from("https://api.shop.test/"),
            },
            cors: None,
        }),
    ];
    let edge = (setup.role == Role::Gateway).then(|| Edge {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: EdgeTls::Plain,
        trusted_proxies: Vec::new(),
        routes: RouteTable::new(routes),
    });
    Snapshot {
        revision: 1,
        digest: Arc::from("0"),
        trust_domain: Arc::from("shop.test"),
        role: setup.role,
        edge,
        services,
        users,
        identity_ttl: Duration::from_secs(3_600),
    }
}

fn route(path: &str, strip_prefix: bool, cors: Option<Cors>) -> Arc<Route> {
    Arc::new(Route {
        source: line("testudo.yaml", 10),
        host: Some(Arc::from("api.shop.test")),
        path: Arc::from(path),
        target: RouteTarget::Service {
            service: Arc::from("orders"),
            strip_prefix,
            timeout: strip_prefix.then(|| Duration::from_secs(3)),
        },
        cors,
    })
}

/// The policies of [`POLICIES`], ready to be sliced.
struct Policies {
    rules: Vec<Arc<Rule>>,
    directory: Arc<Directory>,
}

impl Policies {
    fn new() -> Policies {
        let set = parse_policyset(POLICIES).unwrap();
        let rules = set
            .policies()
            .map(|policy| {
                let start = policy.loc().unwrap().start();
                let number = POLICIES[..start].matches('\n').count() + 1;
                let source = line("policies/all.cedar", u32::try_from(number).unwrap());
                Arc::new(Rule::new(policy.clone(), source, None).unwrap())
            })
            .collect();
        let labels = BTreeMap::new();
        let names = ["orders", "storefront", "jobs", "payments"].map(Arc::<str>::from);
        let services = names.each_ref().map(|name| (name, Vec::new(), &labels));
        Policies {
            rules,
            directory: Arc::new(Directory::new(services).unwrap()),
        }
    }

    fn slice(&self, names: &ActionNames) -> OperationPolicies {
        OperationPolicies::new(names, &self.rules, &self.directory).unwrap()
    }
}

fn operations(policies: &Policies, service: &Arc<str>) -> Vec<Arc<Operation>> {
    let integer = json!({"type": "integer", "minimum": 1});
    let string = json!({"type": "string"});
    let item = json!({
        "type": "object", "required": ["item"], "additionalProperties": false,
        "properties": {"item": {"type": "string"}, "count": {"type": "integer"}}
    });
    let mut list = Vec::new();
    let mut add = |name: &str, method: Method, template: &str, parts: OperationParts| {
        list.push(Arc::new(Operation {
            id: format!("orders:{name}").into(),
            source: Some(line("apis/orders.yaml", 7)),
            websocket: name == "watch",
            template: Arc::from(template),
            schema: OperationSchema::new(parts),
            policies: policies.slice(&ActionNames::new(service, name, &method)),
            method,
        }));
    };
    let limit = || {
        vec![parameter(
            "limit",
            Location::Query,
            ValueKind::Long,
            &integer,
        )]
    };
    let owner = vec![
        parameter("id", Location::Path, ValueKind::Long, &integer),
        parameter("owner", Location::Query, ValueKind::String, &string),
    ];
    let order = Responses {
        list: vec![ResponseRule {
            status: StatusRange::Exact(200),
            content: vec![media(&item)],
            source: line("apis/orders.yaml", 9),
        }],
    };
    add("listOrders", Method::GET, "/orders", parts(limit(), None));
    let mut get_order = parts(owner, None);
    get_order.responses = order;
    add("getOrder", Method::GET, "/orders/{id}", get_order);
    let body = RequestBody {
        required: true,
        content: vec![media(&item)],
        fields: vec![(Arc::from("item"), ValueKind::String)],
        source: line("apis/orders.yaml", 8),
    };
    add(
        "createOrder",
        Method::POST,
        "/orders",
        parts(Vec::new(), Some(body)),
    );
    add("health", Method::GET, "/health", parts(Vec::new(), None));
    add("fragile", Method::GET, "/fragile", parts(limit(), None));
    add("watch", Method::GET, "/watch", parts(Vec::new(), None));
    list
}

fn parts(parameters: Vec<Parameter>, body: Option<RequestBody>) -> OperationParts {
    OperationParts {
        parameters,
        ignored_query: Vec::new(),
        additional_query: false,
        body,
        responses: Responses::default(),
        source: line("apis/orders.yaml", 7),
    }
}

fn parameter(name: &str, location: Location, kind: ValueKind, schema: &Json) -> Parameter {
    let in_path = location == Location::Path;
    Parameter {
        name: Arc::from(name),
        location,
        required: in_path,
        style: if in_path { Style::Simple } else { Style::Form },
        explode: !in_path,
        allow_empty: false,
        schema: Arc::new(Schema::compile(schema).unwrap()),
        kind: Some(kind),
        source: line("apis/orders.yaml", 8),
    }
}

fn media(schema: &Json) -> MediaType {
    MediaType {
        range: MediaRange::parse("application/json").unwrap(),
        schema: Some(Arc::new(Schema::compile(schema).unwrap())),
        source: line("apis/orders.yaml", 9),
    }
}

fn unhex(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    bytes
}
