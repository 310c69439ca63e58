//! The page that everybody sees; asks the catalog.

use std::cell::RefCell;
use std::pin::Pin;

use http::{Method, StatusCode};
use serde_json::json;

use crate::http::{Answer, Call, answer, not_found, ok};
use crate::peers::Peers;
use crate::server::Handle;

pub(crate) struct Storefront {
    peers: Peers,
    /// What debugging left behind: the headers of the last request, tokens included.
    last_headers: RefCell<Vec<(String, String)>>,
}

impl Storefront {
    pub(crate) fn new(peers: Peers) -> Storefront {
        Storefront {
            peers,
            last_headers: RefCell::default(),
        }
    }

    async fn route(&self, call: Call) -> Answer {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match (&call.method, path.as_slice()) {
            (&Method::GET, []) => self.products(&call, "/products?limit=3", "welcome").await,
            (&Method::GET, ["offers"]) => {
                let limit = call.query("limit").unwrap_or("5");
                self.products(&call, &format!("/products?limit={limit}"), "offers")
                    .await
            }
            (&Method::GET, ["debug", "headers"]) => ok(&json!(*self.last_headers.borrow())),
            _ => not_found(),
        }
    }

    async fn products(&self, call: &Call, path: &str, title: &str) -> Answer {
        let headers = call
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        *self.last_headers.borrow_mut() = headers.collect();
        match self
            .peers
            .call("catalog", Method::GET, path, None, &call.headers)
            .await
        {
            Ok((StatusCode::OK, products)) => ok(&json!({
                "title": title,
                "user": call.user(),
                "products": products.get("products"),
            })),
            Ok((status, _)) => answer(
                StatusCode::BAD_GATEWAY,
                &json!({"error": "the catalog refused", "status": status.as_u16()}),
            ),
            Err(error) => answer(
                StatusCode::BAD_GATEWAY,
                &json!({"error": "the catalog did not answer", "detail": error.to_string()}),
            ),
        }
    }
}

impl Handle for Storefront {
    fn handle<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Answer> + 'a>> {
        Box::pin(self.route(call))
    }
}
