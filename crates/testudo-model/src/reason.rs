//! The stable codes that say why a request was denied, and what each looks like on the wire.

use http::StatusCode;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $http:literal, $grpc:literal, $title:literal;)+) => {
        /// Why a request was denied. The codes are a contract: clients, logs and alerts match on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the table in the reference.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            /// The stable code, for example `authz.user`.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)+ }
            }

            /// The HTTP status that a denial has unless it carries a more exact one (414, 431).
            pub const fn status(self) -> StatusCode {
                match self { $(Reason::$variant => match StatusCode::from_u16($http) {
                    Ok(status) => status,
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                },)+ }
            }

            /// The gRPC status code (google.rpc.Code) of a denial.
            pub const fn grpc_status(self) -> u8 {
                match self { $(Reason::$variant => $grpc,)+ }
            }

            /// A short title for people; says nothing that a client should not know.
            pub const fn title(self) -> &'static str {
                match self { $(Reason::$variant => $title,)+ }
            }

            /// The reason with this code.
            pub fn from_code(code: &str) -> Option<Reason> {
                match code { $($code => Some(Reason::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// The request breaks HTTP or cannot be read unambiguously (DESIGN §9).
    RequestMalformed = "request.malformed", 400, 3, "The request is malformed";
    /// Head, URI or body is over its limit (413, or 414 and 431).
    RequestTooLarge = "request.too_large", 413, 8, "The request is too large";
    /// The client took too long to send the request.
    RequestTimeout = "request.timeout", 408, 4, "The request took too long to arrive";
    /// TLS server name and Host disagree, or the host is not served here.
    RequestMisdirected = "request.misdirected", 421, 14, "The request was sent to the wrong server";
    /// No route or no such service.
    RouteNone = "route.none", 404, 12, "There is no such route";
    /// The service's specification has no such operation.
    RouteUndocumented = "route.undocumented", 404, 12, "There is no such operation";
    /// The path exists, the method does not.
    RouteMethod = "route.method", 405, 12, "The method is not allowed here";
    /// A user is needed and no credential came.
    AuthnMissing = "authn.missing", 401, 16, "Authentication is required";
    /// The credential is not valid.
    AuthnInvalid = "authn.invalid", 401, 16, "The credential is not valid";
    /// The credential has expired.
    AuthnExpired = "authn.expired", 401, 16, "The credential has expired";
    /// The keys to verify the credential cannot be had.
    AuthnUnavailable = "authn.unavailable", 503, 14, "Credentials cannot be verified at the moment";
    /// The user may not call this operation.
    AuthzUser = "authz.user", 403, 7, "The user is not permitted to do this";
    /// The calling service may not call this operation.
    AuthzCaller = "authz.caller", 403, 7, "The calling service is not permitted to do this";
    /// A policy could not be evaluated.
    AuthzError = "authz.error", 403, 7, "The policy could not be evaluated";
    /// A path, query, header or cookie parameter breaks the specification.
    SchemaParams = "schema.params", 400, 3, "A parameter does not match the API specification";
    /// The body breaks the specification.
    SchemaBody = "schema.body", 400, 3, "The body does not match the API specification";
    /// The specification has no such content type here.
    SchemaContentType = "schema.content_type", 415, 3, "The content type is not supported";
    /// The service's response breaks the specification.
    SchemaResponse = "schema.response", 502, 14, "The response does not match the API specification";
    /// The service answered with something that is not HTTP as it should be.
    UpstreamInvalid = "upstream.invalid", 502, 14, "The service sent an invalid response";
    /// A GraphQL query is over a limit.
    GraphqlLimit = "graphql.limit", 400, 3, "The query is over a limit";
    /// A GraphQL query is not valid.
    GraphqlInvalid = "graphql.invalid", 400, 3, "The query is not valid";
    /// A rate limit is used up.
    LimitExceeded = "limit.exceeded", 429, 8, "Too many requests";
    /// The payload was judged malicious.
    WafBlocked = "waf.blocked", 403, 7, "The request was blocked";
    /// The principal is contained for now.
    Contained = "contained", 403, 7, "Access is suspended for now";
    /// The service cannot be reached.
    UpstreamUnavailable = "upstream.unavailable", 503, 14, "The service is unavailable";
    /// The proxy is overloaded.
    Overloaded = "overloaded", 503, 14, "The server is overloaded";
    /// The proxy has no policy yet.
    NotReady = "not_ready", 503, 14, "The proxy is not ready";
    /// The service took too long.
    UpstreamTimeout = "upstream.timeout", 504, 4, "The service took too long to answer";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
            assert!(reason.status().is_client_error() || reason.status().is_server_error());
        }
    }
}
