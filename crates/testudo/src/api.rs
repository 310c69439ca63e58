//! A client of the control plane's HTTP API (DESIGN §12).

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::failure::{Failure, OrFail as _};
use crate::site::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than any answer of the API; what is longer is no answer of ours.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Asks the API.
#[derive(Clone)]
pub(crate) struct Api {
    endpoint: Endpoint,
    client: reqwest::Client,
}

/// A refusal by the API, with its problem document (RFC 9457).
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) problem: Value,
}

/// Why a request to the API came to nothing.
pub(crate) enum ApiError {
    /// It answered with an error.
    Refused(Refusal),
    /// It did not answer.
    Failed(Failure),
}

impl Api {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Api, Failure> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("testudo/", env!("CARGO_PKG_VERSION")))
            .build()
            .or_fail(|| "cannot prepare the API client")?;
        Ok(Api { endpoint, client })
    }

    /// `GET /api/v1/…`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.request(Method::GET, path).timeout(TIMEOUT))
            .await
            .map_err(ApiError::into_failure)
    }

    /// The same, for those who make something of a refusal.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Value, ApiError> {
        self.json(self.request(Method::GET, path).timeout(TIMEOUT))
            .await
    }

    /// `POST /api/v1/…`.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.json(self.request(Method::POST, path).timeout(TIMEOUT).json(body))
            .await
    }

    /// `DELETE /api/v1/…`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.json(self.request(Method::DELETE, path).timeout(TIMEOUT))
            .await
    }

    /// A stream of server-sent events: chunks as they come, without a deadline.
    pub(crate) async fn stream(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + use<>, Failure> {
        let request = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream");
        let response = self.send(request).await.map_err(ApiError::into_failure)?;
        Ok(response.bytes_stream())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}/api/v1/{path}", self.endpoint.api))
            .bearer_auth(&self.endpoint.token)
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value, ApiError> {
        let response = self.send(request).await?;
        let body = read(response).await.map_err(ApiError::Failed)?;
        serde_json::from_slice(&body)
            .or_fail(|| {
                format!(
                    "{} answered with something that is not JSON",
                    self.endpoint.api
                )
            })
            .map_err(ApiError::Failed)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ApiError> {
        let response = request
            .send()
            .await
            .map_err(|error| ApiError::Failed(self.unreachable(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read(response).await.map_err(ApiError::Failed)?;
        let problem = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Err(ApiError::Refused(Refusal { status, problem }))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let failure =
            Failure::because("the control plane does not answer", error).at(&self.endpoint.api);
        if error.is_connect() {
            failure.hint("is it running? `testudo up` starts a mesh, `testudo control` a control plane alone")
        } else {
            failure
        }
    }
}

impl ApiError {
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            ApiError::Failed(failure) => failure,
            ApiError::Refused(refusal) => refusal.into_failure(),
        }
    }
}

impl Refusal {
    fn into_failure(self) -> Failure {
        let member = |name| self.problem.get(name).and_then(Value::as_str);
        let detail = member("detail")
            .or(member("title"))
            .unwrap_or("no reason given");
        let failure = Failure::new(format!(
            "the control plane refused ({}): {detail}",
            self.status.as_u16()
        ));
        match self.status {
            StatusCode::UNAUTHORIZED => failure
                .hint("the token is wrong; it stands in admin.token in control's state folder (--token-file, TESTUDO_TOKEN)"),
            _ => failure,
        }
    }
}

/// A body of bounded size.
async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .or_fail(|| "the control plane's answer broke off")?
    {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::new("the control plane's answer is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Percent-encodes a query value.
pub(crate) fn query_value(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
