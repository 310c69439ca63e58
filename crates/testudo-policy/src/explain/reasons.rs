//! Texts for the reasons of denials.

use super::Explanation;

macro_rules! reasons {
    ($($code:literal, $title:literal, $meaning:literal, [$($cause:literal),* $(,)?], $action:literal;)+) => {
        pub(super) static ALL: &[Explanation] = &[$(Explanation {
            code: $code,
            title: $title,
            meaning: $meaning,
            causes: &[$($cause),*],
            action: $action,
        },)+];
    };
}

reasons! {
    "request.malformed",
    "400: two readers could understand the request differently",
    "The request breaks HTTP or can be read in more than one way. It is refused before anything else looks at it, because the check and the service might read it differently.",
    ["Request smuggling and path tricks: dot segments, encoded slashes, `;`, double encoding.", "Duplicate parameters, headers or JSON fields that a policy or the specification reads.", "A client or an intermediary that does not keep to the standard."],
    "`testudo why ID` names the rule. Repair the client; there is no switch to let such requests pass.";

    "request.too_large",
    "413, 414 or 431: body, URI or headers are over their limit",
    "The request is larger than allowed. 413 is the body, 414 the URI, 431 the headers.",
    ["An upload to an operation with the usual `max_body` of 1 MiB.", "Cookies that have grown.", "An attempt to use up memory."],
    "Raise `api.max_body` of the service if the size is honest. Limits of URI and headers are fixed.";

    "request.timeout",
    "408: the request took too long to arrive",
    "The client did not send its head or body in time.",
    ["A very slow client.", "Slow-request attacks that hold connections open."],
    "Nothing, if it is rare. See which addresses it comes from: `testudo observe --reason request.timeout`.";

    "request.misdirected",
    "421: the request came to the wrong server",
    "The TLS server name and the Host disagree, or the host is not served here.",
    ["A client reuses a connection for another host: it will open a new one.", "A `.mesh` name at the edge.", "DNS leads a foreign name to this gateway."],
    "Add a route for the host if it should be served.";

    "route.none",
    "404: no route, or no such service",
    "Nothing in the bundle serves this host and path.",
    ["A route is missing.", "A service calls `NAME.mesh` and there is no service of that name.", "Scanners."],
    "Compare host and path with `gateway.routes`; routes match whole path segments.";

    "route.undocumented",
    "404: the specification has no such operation",
    "The route leads to a service, but its API specification does not have this path.",
    ["The specification is behind the service.", "Probing for hidden endpoints.", "`strip_prefix` is missing or too much."],
    "Add the operation to the specification. `api.undocumented: report` shows what is missing without denying.";

    "route.method",
    "405: the path exists, the method does not",
    "The API specification has this path with other methods; `Allow` lists them.",
    ["The specification is behind the service.", "A wrong method in the client."],
    "Add the method to the specification or correct the client.";

    "authn.missing",
    "401: nobody said who the user is",
    "The operation needs a user, and no credential came along. Inside the mesh: the caller did not pass the user on.",
    ["The client sent no token.", "A service made a call without the `Txn-Token` that it received, so the user was dropped.", "A job calls without a user and has no `acts_alone`."],
    "At the edge: send a token. In the mesh: let the service pass `Txn-Token` on, or list the operation in `acts_alone` of the caller if it has no user by nature. `testudo why ID` shows where the user was lost.";

    "authn.invalid",
    "401: the credential is not valid",
    "A credential came and is worth nothing: it is not treated as anonymous.",
    ["A wrong signature, issuer, audience or algorithm.", "A forged or altered token.", "Two credentials at once.", "In the mesh: a token that this workload's inbound side never verified."],
    "`testudo why ID` says which check failed. Compare `users.jwt` with what the identity provider really issues.";

    "authn.expired",
    "401: the credential has expired",
    "The token was good once. A minute of leeway is given.",
    ["The client does not refresh its tokens.", "A clock is wrong.", "A stolen old token."],
    "Refresh the token; check the clocks.";

    "authn.unavailable",
    "503: the keys to verify credentials cannot be had",
    "The issuer's keys were never fetched successfully, so nothing can be said about the credential. Requests are not let in meanwhile.",
    ["The issuer's key URL cannot be reached from the gateway.", "The key set is broken or empty."],
    "Look at the gateway's log for the fetch that fails; put a key file into the bundle (`jwks: keys/jwks.json`) to be independent of it.";

    "authz.user",
    "403: the user may not do this",
    "The user is known, and no policy permits the operation, or one forbids it.",
    ["A role is missing.", "A condition does not hold: somebody else's order.", "An attempt to do what is not allowed."],
    "`testudo why ID` shows the policy, or that there was none; `testudo can USER OPERATION` tries it out.";

    "authz.caller",
    "403: the calling service may not do this",
    "mTLS proves who calls, and no policy permits that service to call this operation. Also: a process that is not the sidecar's own application, or a host that `egress` does not list.",
    ["A new call between services that no policy permits yet.", "A service that was taken over and looks around."],
    "If the call is meant, permit it: `permit (principal == Service::\"A\", action == Action::\"b:op\", resource);`. If nobody knows of it, look into it.";

    "authz.error",
    "403: a policy could not be evaluated",
    "A policy failed while it was evaluated, so its answer is unknown: that denies.",
    ["An optional value is read without `has`.", "Numbers that overflow."],
    "`testudo why ID` names the policy and the error; `testudo check` finds most such policies before.";

    "schema.params",
    "400: a parameter breaks the API specification",
    "A path, query, header or cookie parameter is missing, of the wrong type, out of range, or not declared.",
    ["A client that is behind the specification.", "Injection into parameters."],
    "`testudo why ID` names the parameter and the line of the specification.";

    "schema.body",
    "400: the body breaks the API specification",
    "The JSON body does not fit its schema: a missing or undeclared field, a wrong type, a value out of range.",
    ["Mass assignment: fields that the client must not set.", "A client that is behind the specification."],
    "`testudo why ID` names the field and the line of the specification. `api.requests: report` shows without denying.";

    "schema.content_type",
    "415: the operation does not take this content type",
    "The specification does not list the request's content type, or the body's coding is not supported.",
    ["A missing `Content-Type`.", "A form where JSON is expected."],
    "Send what the specification lists, or add the type to it.";

    "schema.response",
    "502: the service's answer breaks its own specification",
    "With `api.responses: enforce`, answers that do not fit their schema are not passed on.",
    ["The specification is behind the service.", "A mistake, or a leak of fields that nobody declared."],
    "Correct the specification or the service; `api.responses: report` shows without denying.";

    "upstream.invalid",
    "502: the service did not answer with proper HTTP",
    "The connection gave something that is not an HTTP response, or broke in the middle of one.",
    ["The application crashed while it answered.", "Something else listens on the application's address.", "`protocol:` does not fit."],
    "Look at the application's log; check `app:` and `protocol:`.";

    "graphql.limit",
    "400: a GraphQL query is over a limit",
    "Depth, cost, aliases or size of the query are over what is allowed.",
    ["An expensive query, by mistake or on purpose."],
    "Make the query smaller.";

    "graphql.invalid",
    "400: a GraphQL query is not valid",
    "The query does not fit the schema.",
    ["A client that is behind the schema.", "Introspection where it is off."],
    "Correct the query.";

    "limit.exceeded",
    "429: too many requests",
    "A rate limit of the bundle is used up. `Retry-After` says when the next request is possible.",
    ["A client that retries without pause.", "A burst over `burst`.", "Password guessing or scraping."],
    "Honest clients wait as `Retry-After` says. `testudo why ID` names the limit; raise `rate` or `burst` if they are too tight.";

    "waf.blocked",
    "403: the payload was judged malicious",
    "Payload inspection found an attack in the request.",
    ["Injection attempts.", "Text that looks like one."],
    "`testudo why ID` names the rules.";

    "contained",
    "403: access is suspended for now",
    "A verified user or calling service is narrowed in this place for a while: throttled (then `Retry-After` says when to come back) or denied. A detector asked for it, or an administrator.",
    ["A stolen credential or a service that was taken over.", "Unusual but honest use."],
    "`testudo why ID` names the containment and its reason; `testudo watch contained` lists all, `testudo watch release ID` takes one back. It ends by itself. docs/containment.md has the rules.";

    "upstream.unavailable",
    "503: the service cannot be reached",
    "No workload of the service accepts connections.",
    ["The application is not running, or not listening where `app:` says.", "All workloads were set aside after failures.", "No sidecar of the service has registered yet."],
    "`testudo proxy list` and `testudo doctor` show what is missing.";

    "overloaded",
    "503: the proxy has no room for more",
    "A limit of connections, requests or memory is reached.",
    ["A flood.", "A service that answers so slowly that requests pile up."],
    "Look at `http_server_active_requests`; add gateways or find what is slow.";

    "not_ready",
    "503: the proxy has no policy yet",
    "A proxy without a valid snapshot denies everything: it never guesses.",
    ["It has just started and control cannot be reached.", "The control plane has no revision yet."],
    "Wait a moment, then look at the proxy's log and at `testudo proxy list`.";

    "upstream.timeout",
    "504: the service took too long",
    "The response's head did not come within `timeout`.",
    ["A slow service or database.", "An operation that takes longer by nature."],
    "Raise `timeout` of the service or of the route if it is honest.";
}
