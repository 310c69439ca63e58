//! A sidecar's outbound side, used as its own application uses it.

use std::net::SocketAddr;

use base64::Engine as _;

use crate::http::{Response, Target};
use crate::mesh::Mesh;

/// An outbound port with the secret that `up` gave to the application alone.
pub struct Outbound {
    pub target: Target,
    secret: String,
}

impl Mesh {
    /// The outbound side of a proxy, for example `orders-1`.
    pub fn own_outbound(&self, proxy: &str) -> Outbound {
        let outbound: SocketAddr = self.proxies()[proxy]["outbound"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let secret = self.path(&format!(".testudo/proxies/{proxy}/outbound.secret"));
        Outbound {
            target: Target::plain(outbound),
            secret: std::fs::read_to_string(secret).unwrap().trim().to_string(),
        }
    }
}

impl Outbound {
    /// `Proxy-Authorization` of a client with `HTTP_PROXY=http://testudo:SECRET@…`.
    pub fn authorization(&self) -> String {
        let basic = base64::prelude::BASE64_STANDARD.encode(format!("testudo:{}", self.secret));
        format!("Basic {basic}")
    }

    /// As such a client sends it.
    pub fn send(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let authorization = self.authorization();
        let mut all = vec![("proxy-authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        self.target
            .send(method, host, &format!("http://{host}{path}"), &all, body)
    }
}
