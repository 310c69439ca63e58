//! The sample shop's bundle, carried in this binary and written out for the demo.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::failure::{Failure, OrFail as _};

/// Path in the bundle and content.
const FILES: &[(&str, &str)] = &[
    (
        "testudo.yaml",
        include_str!("../../../../examples/shop/testudo.yaml"),
    ),
    (
        "apis/storefront.yaml",
        include_str!("../../../../examples/shop/apis/storefront.yaml"),
    ),
    (
        "apis/catalog.yaml",
        include_str!("../../../../examples/shop/apis/catalog.yaml"),
    ),
    (
        "apis/orders.yaml",
        include_str!("../../../../examples/shop/apis/orders.yaml"),
    ),
    (
        "apis/payments.yaml",
        include_str!("../../../../examples/shop/apis/payments.yaml"),
    ),
    (
        "policies/public.cedar",
        include_str!("../../../../examples/shop/policies/public.cedar"),
    ),
    (
        "policies/customers.cedar",
        include_str!("../../../../examples/shop/policies/customers.cedar"),
    ),
    (
        "policies/admins.cedar",
        include_str!("../../../../examples/shop/policies/admins.cedar"),
    ),
    (
        "policies/mesh.cedar",
        include_str!("../../../../examples/shop/policies/mesh.cedar"),
    ),
];

const GATEWAY_PORT: u16 = 8443;
const API_PORT: u16 = 7100;
const MESH_PORT: u16 = 7101;

/// Writes the bundle. What is in the folder already stays as the user left it, but for the issuer's keys.
pub(crate) fn write(dir: &Path, jwks: &str) -> Result<(), Failure> {
    for (path, content) in FILES {
        let target = dir.join(path);
        if target.exists() {
            continue;
        }
        let content = if *path == "testudo.yaml" {
            with_free_ports(content)?
        } else {
            (*content).to_owned()
        };
        write_file(&target, &content)?;
    }
    write_file(&dir.join("keys/jwks.json"), jwks)
}

fn write_file(path: &Path, content: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).or_fail(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(path, content).or_fail(|| format!("cannot write {}", path.display()))
}

/// The usual ports, or others where something listens there already.
fn with_free_ports(yaml: &str) -> Result<String, Failure> {
    let mut text = yaml.to_owned();
    let gateway = free_or_other(GATEWAY_PORT)?;
    text = text.replace(
        &format!("listen: 127.0.0.1:{GATEWAY_PORT}"),
        &format!("listen: 127.0.0.1:{gateway}"),
    );
    let (api, mesh) = (free_or_other(API_PORT)?, free_or_other(MESH_PORT)?);
    if (api, mesh) != (API_PORT, MESH_PORT) {
        let control =
            format!("control: {{api: 127.0.0.1:{api}, mesh: 127.0.0.1:{mesh}}}\n\ngateway:\n");
        text = text.replacen("gateway:\n", &control, 1);
    }
    Ok(text)
}

fn free_or_other(port: u16) -> Result<u16, Failure> {
    if is_free(port) { Ok(port) } else { free_port() }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that nobody listens on, never the same one twice. Not one that the system would choose:
/// that could be given to another of the demo's processes before it is used.
pub(crate) fn free_port() -> Result<u16, Failure> {
    static NEXT: AtomicU16 = AtomicU16::new(18_000);
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .take(2_000)
        .find(|port| is_free(*port))
        .ok_or_else(|| Failure::new("there is no free port on loopback between 18000 and 20000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_stay_and_keys_are_new() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one").unwrap();
        let yaml = dir.path().join("testudo.yaml");
        std::fs::write(&yaml, "mine").unwrap();
        write(dir.path(), "two").unwrap();
        assert_eq!(std::fs::read_to_string(&yaml).unwrap(), "mine");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("keys/jwks.json")).unwrap(),
            "two"
        );
    }

    #[test]
    fn every_file_of_the_example_is_carried() {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        for folder in ["apis", "policies"] {
            for entry in std::fs::read_dir(shop.join(folder)).unwrap() {
                let name = format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy());
                assert!(FILES.iter().any(|(path, _)| *path == name), "{name}");
            }
        }
    }

    #[test]
    fn taken_ports_are_left_alone() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_or_other(port).unwrap(), port);
    }
}
