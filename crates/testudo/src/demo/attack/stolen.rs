//! What a thief in the network, or a service gone bad, gets hold of.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use serde_json::Value;
use testudo_guard::snapshot::AppAddress;
use testudo_identity::Identity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Scene;
use crate::demo::wire::provider;
use crate::failure::{Failure, OrFail as _};
use crate::mesh::{Kind, Mesh, Paths};

/// Until some customer's token is seen.
const TOKEN_WAIT: Duration = Duration::from_secs(4);
/// Why nothing answers at an application's own port.
pub(super) const UNIX_ONLY: &str = "unix socket only";

/// The real key and SVID of a service, from its sidecar's private folder.
pub(super) fn stolen_identity(paths: &Paths, service: &str) -> Result<CertifiedKey, Failure> {
    let folder = paths.proxy(&format!("{service}-1"));
    let identity =
        Identity::load(&folder).or_fail(|| format!("cannot read {}", folder.display()))?;
    let identity = identity.ok_or_else(|| Failure::new(format!("{service} has no SVID yet")))?;
    identity
        .certified_key(&provider())
        .or_fail(|| "the SVID cannot be used")
}

/// An SVID that says all the right things, by a certificate authority that nobody trusts.
pub(super) fn forged_identity(trust_domain: &str, service: &str) -> Result<CertifiedKey, Failure> {
    let forge = || -> Result<_, rcgen::Error> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut leaf = CertificateParams::default();
        let id = format!("spiffe://{trust_domain}/service/{service}");
        leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &authority)?;
        Ok((certificate.der().clone(), key.serialize_der()))
    };
    let (certificate, key) = forge().or_fail(|| "cannot forge a certificate")?;
    let key = PrivatePkcs8KeyDer::from(key);
    CertifiedKey::from_der(vec![certificate], key.into(), &provider())
        .or_fail(|| "cannot use a forged certificate")
}

/// A customer's real transaction token that storefront received: its debug page shows the last request's headers.
pub(super) async fn stolen_token(scene: &Scene<'_>) -> Result<String, Failure> {
    let workloads = &scene.mesh.plan.workloads;
    let storefront = workloads
        .iter()
        .find(|workload| workload.service == "storefront");
    let Some(AppAddress::Unix(path)) = storefront.map(|workload| &workload.app) else {
        return Err(Failure::new("storefront is not where the demo put it"));
    };
    let path = scene.mesh.paths.dir.join(path);
    let deadline = Instant::now() + TOKEN_WAIT;
    loop {
        // A customer passes by; others may pass between that and the look at the page.
        scene.visit("/offers", "carol").await?;
        let read = last_token(&path).await;
        let token = read.or_fail(|| format!("cannot talk to {}", path.display()))?;
        if let Some(token) = token.filter(|token| is_customers(token)) {
            return Ok(token);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                "storefront has received no customer's transaction token",
            ));
        }
    }
}

async fn last_token(path: &Path) -> std::io::Result<Option<String>> {
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    stream
        .write_all(b"GET /debug/headers HTTP/1.1\r\nHost: storefront\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.take(64 << 10).read_to_string(&mut text).await?;
    let headers = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let headers: Vec<(String, Value)> = serde_json::from_str(headers).unwrap_or_default();
    let token = headers.iter().find(|(name, _)| name == "txn-token");
    Ok(token.and_then(|(_, value)| value.as_str().map(str::to_owned)))
}

/// Whether a customer is along; what is anonymous is worth nothing to a thief.
fn is_customers(token: &str) -> bool {
    let claims = token.split('.').nth(1).unwrap_or_default();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    String::from_utf8_lossy(&claims).contains("\"customer\"")
}

/// TCP ports that the application's process listens on.
pub(super) fn application_ports(mesh: &Mesh, service: &str) -> Result<Vec<u16>, Failure> {
    let name = format!("{service}-1.app");
    let process = mesh
        .processes()
        .find(|(part, kind, _)| *kind == Kind::Application && *part == name);
    let (_, _, pid) = process.ok_or_else(|| Failure::new(format!("{service} does not run")))?;
    let open = open_sockets(pid).or_fail(|| format!("cannot look at process {pid}"))?;
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        ports.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| listening(line, &open)),
        );
    }
    Ok(ports)
}

fn open_sockets(pid: u32) -> std::io::Result<BTreeSet<String>> {
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        if let Some(inode) = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inodes.insert(inode.to_owned());
        }
    }
    Ok(inodes)
}

/// The port of a line of `/proc/net/tcp` that is one of these sockets and listens (proc(5)).
fn listening(line: &str, open: &BTreeSet<String>) -> Option<u16> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != "0A" || !open.contains(*inode) {
        return None;
    }
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_listeners_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = open_sockets(std::process::id()).unwrap();
        let text = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let ports: Vec<u16> = text
            .lines()
            .filter_map(|line| listening(line, &open))
            .collect();
        assert!(ports.contains(&port), "{ports:?}");
        assert!(
            !text
                .lines()
                .any(|line| listening(line, &BTreeSet::new()).is_some())
        );
    }

    #[test]
    fn a_forged_svid_looks_real() {
        let key = forged_identity("shop.test", "orders").unwrap();
        let svid = testudo_identity::svid::read_svid(&key.cert[0]).unwrap();
        assert_eq!(svid.spiffe_id.as_str(), "spiffe://shop.test/service/orders");
    }
}
