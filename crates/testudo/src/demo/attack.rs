//! Carrying attacks out, against the mesh (HERE) and against the copies without it (BARE).

mod patient;
mod stolen;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::api::query_value;
use crate::demo::attacks::{
    Attack, Body, Certificate, Credential, Destination, How, Outbound, Patience, Request,
};
use crate::demo::bare::Bare;
use crate::demo::people::People;
use crate::demo::wire::{self, Answer, Reply};
use crate::failure::{Failure, OrFail as _};
use crate::mesh::Mesh;

/// Decisions reach the control plane within this.
const DECISION_WAIT: Duration = Duration::from_millis(1500);
/// A burst goes on a little longer than planned where the machine is too slow to be over the limit by then.
const BURST_FACTOR: u32 = 6;

/// What an attacker can see of the mesh and of the copies.
pub(crate) struct Scene<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) bare: &'a Bare,
    pub(crate) people: &'a People,
    pub(crate) edge: Edge,
}

/// The gateway, as clients reach it.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) name: ServerName<'static>,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Edge {
    pub(crate) fn of(mesh: &Mesh) -> Result<Edge, Failure> {
        let ready = mesh.proxy("gateway-1").and_then(|ready| ready.listen);
        let listen = ready.ok_or_else(|| Failure::new("the gateway is not ready"))?;
        let port = wire::socket(&listen)?.port();
        let root = mesh.paths.root_certificate();
        let root = std::fs::read(&root).or_fail(|| format!("cannot read {}", root.display()))?;
        Ok(Edge {
            address: format!("127.0.0.1:{port}"),
            host: format!("localhost:{port}"),
            name: ServerName::try_from("localhost").or_fail(|| "localhost is no name")?,
            tls: wire::client_config(&root)?,
        })
    }
}

/// How an attack ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) bare_status: Option<u16>,
    pub(crate) status: Option<u16>,
    pub(crate) reason: Option<String>,
    /// `edge`, or the service whose sidecar stopped it.
    pub(crate) stopped_at: Option<String>,
    /// What people read instead of a reason where there is none.
    pub(crate) detail: String,
    pub(crate) request_id: Option<String>,
    /// Testudo stopped it, and without Testudo it would have worked.
    pub(crate) ok: bool,
}

impl Scene<'_> {
    /// Carries one attack out on both sides. One that could not be carried out counts as passed: nothing stopped it.
    pub(crate) async fn attack(&self, attack: &Attack) -> Outcome {
        match self.both(attack).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome {
                detail: failure.to_string(),
                ..Outcome::default()
            },
        }
    }

    async fn both(&self, attack: &Attack) -> Result<Outcome, Failure> {
        let bare_status = self.bare(attack).await?;
        let reply = self.here(attack).await?;
        let worked = bare_status.is_some_and(|status| (200..300).contains(&status));
        let mut outcome = self.judge(attack, reply).await;
        outcome.bare_status = bare_status;
        outcome.ok &= worked;
        Ok(outcome)
    }

    /// The same request to the copy without Testudo, over plain TCP, with whatever it carries.
    async fn bare(&self, attack: &Attack) -> Result<Option<u16>, Failure> {
        let request = attack.how.request();
        let address = self.bare.address(request.service);
        let bytes = match attack.how {
            How::Smuggle(_) => self.smuggled(request, address)?,
            How::EdgeHost(host, _) => self.bytes(request, host, request.target, &[])?,
            How::Patient(..) => {
                self.bytes(request, address, &patient::nth(request.target, 1), &[])?
            }
            _ => self.bytes(request, address, request.target, &[])?,
        };
        let repeat = if let How::Burst(count, _) = attack.how {
            count
        } else {
            1
        };
        let mut status = None;
        for _ in 0..repeat {
            status = match wire::plain(address, &bytes).await {
                Reply::Answer(answer) => Some(answer.status),
                Reply::TlsRefused(_) | Reply::Nothing(_) => None,
            };
        }
        Ok(status)
    }

    async fn here(&self, attack: &Attack) -> Result<Reply, Failure> {
        let edge = &self.edge;
        let send = async |bytes: Vec<u8>| {
            wire::tls(&edge.address, &edge.name, edge.tls.clone(), &bytes).await
        };
        Ok(match &attack.how {
            How::Edge(request) => send(self.bytes(request, &edge.host, request.target, &[])?).await,
            How::EdgeHost(host, request) => {
                send(self.bytes(request, host, request.target, &[])?).await
            }
            How::Smuggle(request) => send(self.smuggled(request, &edge.host)?).await,
            How::Burst(count, request) => self.burst(*count, request).await?,
            How::Sidecar(certificate, request) => self.sidecar(*certificate, request).await?,
            How::Outbound(outbound, request) => self.outbound(outbound, request).await?,
            How::Application(request) => self.application(request).await?,
            How::Patient(patience, request) => self.patient(patience, request).await?,
        })
    }

    /// An honest request of a customer through the gateway.
    async fn visit(&self, target: &'static str, customer: &'static str) -> Result<(), Failure> {
        let request = Request {
            service: "storefront",
            method: "GET",
            target,
            credential: Credential::Customer(customer),
            headers: &[],
            body: Body::None,
        };
        let edge = &self.edge;
        let bytes = self.bytes(&request, &edge.host, target, &[])?;
        wire::tls(&edge.address, &edge.name, edge.tls.clone(), &bytes).await;
        Ok(())
    }

    /// Whether Testudo stopped it, and where: as the control plane recorded it.
    async fn judge(&self, attack: &Attack, reply: Reply) -> Outcome {
        let mut outcome = Outcome::default();
        let service = attack.how.request().service;
        match reply {
            Reply::Answer(Answer {
                status,
                reason,
                request_id,
                ..
            }) => {
                outcome.status = Some(status);
                // Only a denial of ours counts: an application's own error stopped nothing.
                outcome.ok = reason.is_some() && status >= 400;
                if outcome.ok {
                    let recorded = self.recorded(request_id.as_deref()).await;
                    outcome.stopped_at =
                        Some(recorded.unwrap_or_else(|| attack.how.expected_place().to_owned()));
                } else {
                    outcome.detail = "passed".to_owned();
                }
                outcome.reason = reason;
                outcome.request_id = request_id;
            }
            Reply::TlsRefused(alert) => {
                outcome.ok = matches!(attack.how, How::Sidecar(..));
                outcome.stopped_at = Some(service.to_owned());
                outcome.detail = format!("TLS refused: {alert}");
            }
            Reply::Nothing(why) => {
                outcome.ok = matches!(attack.how, How::Application(_)) && why == stolen::UNIX_ONLY;
                outcome.stopped_at = outcome.ok.then(|| service.to_owned());
                outcome.detail = why;
            }
        }
        outcome
    }

    /// The place of the denial with this id: `edge`, or the service of the sidecar that denied.
    async fn recorded(&self, request_id: Option<&str>) -> Option<String> {
        let api = self.mesh.api.as_ref()?;
        let path = format!(
            "decisions?verdict=deny&request_id={}",
            query_value(request_id?)
        );
        let deadline = Instant::now() + DECISION_WAIT;
        loop {
            let decisions = api.get(&path).await.ok()?;
            if let Some(decision) = decisions.as_array().and_then(|list| list.last()) {
                let proxy = decision.get("proxy").and_then(Value::as_str)?;
                return Some(match proxy.rsplit_once('-') {
                    Some(("gateway", _)) => "edge".to_owned(),
                    Some((service, _)) => service.to_owned(),
                    None => proxy.to_owned(),
                });
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The request as bytes, for one exchange.
    fn bytes(
        &self,
        request: &Request,
        host: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> Result<Vec<u8>, Failure> {
        let body = body(request.body);
        let mut head = format!(
            "{} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
            request.method
        );
        if let Some(token) = self.people.credential(request.credential)? {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in request.headers.iter().chain(more) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match request.body {
            Body::None if request.method == "GET" => {}
            Body::Text(_) => head.push_str("Content-Type: text/plain\r\n"),
            _ => head.push_str("Content-Type: application/json\r\n"),
        }
        if request.method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        Ok([head.as_bytes(), &body].concat())
    }

    /// One request for those who believe `Content-Length`, two for those who believe the chunks.
    fn smuggled(&self, request: &Request, host: &str) -> Result<Vec<u8>, Failure> {
        let body = String::from_utf8_lossy(&body(request.body)).into_owned();
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let inside = format!("GET /admin HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let token = self
            .people
            .credential(request.credential)?
            .unwrap_or_default();
        Ok(format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nTransfer-Encoding: identity, chunked\r\n\r\n{chunks}{inside}",
            request.method,
            request.target,
            chunks.len() + inside.len(),
        )
        .into_bytes())
    }

    /// As fast as one connection after the other allows, several at once, until refused.
    async fn burst(&self, count: u32, request: &Request) -> Result<Reply, Failure> {
        let edge = &self.edge;
        let token = self
            .people
            .credential(request.credential)?
            .unwrap_or_default();
        let bytes = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
            request.method, request.target, edge.host
        );
        let mut workers = Vec::new();
        for _ in 0..8 {
            let (edge, bytes) = (edge.clone(), bytes.clone());
            let share = count.saturating_mul(BURST_FACTOR) / 8;
            workers.push(tokio::task::spawn_local(async move {
                wire::until_refused(&edge, bytes.as_bytes(), share).await
            }));
        }
        let mut last = Reply::Nothing("nothing was sent".to_owned());
        for worker in workers {
            let reply = worker.await.or_fail(|| "an attacker failed")?;
            let refused = matches!(&last, Reply::Answer(answer) if answer.status == 429);
            if !refused {
                last = reply;
            }
        }
        Ok(last)
    }

    async fn sidecar(&self, certificate: Certificate, request: &Request) -> Result<Reply, Failure> {
        let name = format!("{}-1", request.service);
        let ready = self.mesh.proxy(&name).and_then(|ready| ready.inbound);
        let inbound = ready.ok_or_else(|| Failure::new(format!("{name} is not ready")))?;
        let identity = match certificate {
            Certificate::None => None,
            Certificate::OtherAuthority(service) => Some(stolen::forged_identity(
                &self.mesh.plan.trust_domain,
                service,
            )?),
            Certificate::Stolen(service) => {
                Some(stolen::stolen_identity(&self.mesh.paths, service)?)
            }
        };
        let host = format!("{}.mesh", request.service);
        let token = match certificate {
            Certificate::Stolen(_) => Some(stolen::stolen_token(self).await?),
            Certificate::None | Certificate::OtherAuthority(_) => None,
        };
        let more: Vec<(&str, &str)> = token
            .iter()
            .map(|token| ("Txn-Token", token.as_str()))
            .collect();
        let bytes = self.bytes(request, &host, request.target, &more)?;
        let address = format!("127.0.0.1:{}", wire::socket(&inbound)?.port());
        Ok(wire::tls(
            &address,
            &self.edge.name,
            wire::thief_config(identity)?,
            &bytes,
        )
        .await)
    }

    async fn outbound(&self, outbound: &Outbound, request: &Request) -> Result<Reply, Failure> {
        self.send_outbound(outbound, request, request.target).await
    }

    async fn send_outbound(
        &self,
        outbound: &Outbound,
        request: &Request,
        target: &str,
    ) -> Result<Reply, Failure> {
        let name = format!("{}-1", outbound.of);
        let ready = self.mesh.proxy(&name).and_then(|ready| ready.outbound);
        let address = ready.ok_or_else(|| Failure::new(format!("{name} is not ready")))?;
        let host = match outbound.to {
            Destination::Mesh => format!("{}.mesh", request.service),
            Destination::Outside => self.bare.address(request.service).to_owned(),
        };
        let mut more = Vec::new();
        if outbound.with_secret {
            let path = self.mesh.paths.proxy(&name).join("outbound.secret");
            let secret = std::fs::read_to_string(&path)
                .or_fail(|| format!("cannot read {}", path.display()))?;
            let encoded = base64::engine::general_purpose::STANDARD
                .encode(format!("testudo:{}", secret.trim()));
            more.push(("Proxy-Authorization", format!("Basic {encoded}")));
        }
        if outbound.stolen_token {
            more.push(("Txn-Token", stolen::stolen_token(self).await?));
        }
        let more: Vec<(&str, &str)> = more
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let bytes = self.bytes(request, &host, &format!("http://{host}{target}"), &more)?;
        Ok(wire::plain(&address, &bytes).await)
    }

    /// Every TCP port that the application listens on; with `unix:` there is none.
    async fn application(&self, request: &Request) -> Result<Reply, Failure> {
        let ports = stolen::application_ports(self.mesh, request.service)?;
        let Some(port) = ports.first() else {
            return Ok(Reply::Nothing(stolen::UNIX_ONLY.to_owned()));
        };
        let address = format!("127.0.0.1:{port}");
        let bytes = self.bytes(request, &address, request.target, &[])?;
        Ok(wire::plain(&address, &bytes).await)
    }
}

impl How {
    /// Where it should be stopped, for people, where no decision tells.
    fn expected_place(&self) -> &'static str {
        match self {
            How::Edge(_)
            | How::EdgeHost(..)
            | How::Burst(..)
            | How::Smuggle(_)
            | How::Patient(Patience::Numbers | Patience::Addresses, _) => "edge",
            How::Patient(Patience::Outbound(outbound), _) => outbound.of,
            How::Sidecar(_, request) | How::Application(request) => request.service,
            How::Outbound(outbound, request) => {
                let own_token = !outbound.stolen_token || outbound.of == "storefront";
                let passes_out =
                    outbound.with_secret && own_token && outbound.to == Destination::Mesh;
                if passes_out {
                    request.service
                } else {
                    outbound.of
                }
            }
        }
    }
}

fn body(body: Body) -> Vec<u8> {
    match body {
        Body::None => Vec::new(),
        Body::Json(text) | Body::Text(text) => text.as_bytes().to_vec(),
        Body::Large(bytes) => format!(
            r#"{{"product": 3, "quantity": 1, "note": "{}"}}"#,
            "x".repeat(bytes)
        )
        .into_bytes(),
    }
}

/// The credential of an attack, for `why`.
pub(crate) fn presented(credential: Credential) -> &'static str {
    match credential {
        Credential::None => "no token",
        Credential::Customer(_) => "a valid customer's token",
        Credential::Administrator(_) => "a valid administrator's token",
        Credential::Expired => "a token of yesterday",
        Credential::Forged => "a token signed with the attacker's key",
        Credential::Unsigned => "an unsigned token",
        Credential::KeyConfused => "a token signed with the public key as a secret",
        Credential::OtherAudience => "a token for another audience",
        Credential::OwnKeySet => "a token that brings its own keys",
    }
}
