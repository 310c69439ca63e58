//! Attacks that no single request gives away: each is permitted, until somebody notices what they are together.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::Scene;
use crate::demo::attacks::{Credential, Patience, Request};
use crate::demo::wire::{self, Answer, Reply};
use crate::failure::Failure;

/// How long such an attack goes on unnoticed before it counts as passed.
const AT_MOST: Duration = Duration::from_secs(14);
/// Between two of its requests: patient, and slow enough for every limit.
const BETWEEN: Duration = Duration::from_millis(60);
/// Places that a copied token is used from.
const PLACES: u32 = 40;

impl Scene<'_> {
    /// Goes on until contained, or until it got away with it.
    pub(super) async fn patient(
        &self,
        patience: &Patience,
        request: &Request,
    ) -> Result<Reply, Failure> {
        let begun = Instant::now();
        // One token for all of it: that is what gives a copied one away.
        let token = self.people.credential(request.credential)?;
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut number = 0;
        loop {
            number += 1;
            let reply = self
                .one_of_many(patience, request, authorization.as_deref(), number)
                .await?;
            let contained = matches!(
                &reply,
                Reply::Answer(Answer { reason: Some(reason), .. }) if reason == "contained"
            );
            if contained || begun.elapsed() > AT_MOST {
                return Ok(reply);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    async fn one_of_many(
        &self,
        patience: &Patience,
        request: &Request,
        authorization: Option<&str>,
        number: u32,
    ) -> Result<Reply, Failure> {
        let target = nth(request.target, number);
        let edge = &self.edge;
        let request = &Request {
            credential: Credential::None,
            ..*request
        };
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(authorization.map(|value| ("Authorization", value)));
        match patience {
            Patience::Numbers => {
                let bytes = self.bytes(request, &edge.host, &target, &headers)?;
                Ok(wire::tls(&edge.address, &edge.name, edge.tls.clone(), &bytes).await)
            }
            Patience::Addresses => {
                let place = number % PLACES + 10;
                let agent = format!("browser/{place}");
                headers.push(("User-Agent", &agent));
                let bytes = self.bytes(request, &edge.host, &target, &headers)?;
                let last = u8::try_from(place).unwrap_or(u8::MAX);
                let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
                Ok(wire::tls_from(from, edge, &bytes).await)
            }
            Patience::Outbound(outbound) => self.send_outbound(outbound, request, &target).await,
        }
    }
}

/// The target with `{n}` filled in.
pub(super) fn nth(target: &str, number: u32) -> String {
    target.replace("{n}", &number.to_string())
}
