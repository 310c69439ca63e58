//! Honest shoppers: steady requests through the gateway, and what became of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::demo::attack::Edge;
use crate::demo::people::{ADMINISTRATOR, CUSTOMERS, People, TOKEN_SECONDS};
use crate::demo::wire::{Answer, connect_tls, read_answer};
use crate::failure::Failure;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Latencies that percentiles are taken from.
const KEPT: usize = 4096;

/// What became of honest requests.
#[derive(Debug, Default)]
pub(crate) struct Honest {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Refused by Testudo.
    pub(crate) denied: u64,
    /// Broken connections, timeouts and errors of services.
    pub(crate) failed: u64,
    /// The first thing that went wrong, for people.
    pub(crate) trouble: Option<String>,
    latencies_us: VecDeque<u64>,
}

impl Honest {
    /// 99th percentile of the latest latencies.
    pub(crate) fn p99(&self) -> Duration {
        let mut sorted: Vec<u64> = self.latencies_us.iter().copied().collect();
        sorted.sort_unstable();
        let index = sorted.len().saturating_sub(1) * 99 / 100;
        Duration::from_micros(sorted.get(index).copied().unwrap_or(0))
    }

    fn note(&mut self, request: &str, took: Duration, result: &std::io::Result<Answer>) {
        self.sent += 1;
        let trouble = match result {
            Ok(Answer {
                status: 200..300, ..
            }) => {
                self.answered += 1;
                None
            }
            Ok(Answer {
                status,
                reason: Some(reason),
                ..
            }) => {
                self.denied += 1;
                Some(format!("{request}: {status} {reason}"))
            }
            Ok(Answer { status, .. }) => {
                self.failed += 1;
                Some(format!("{request}: {status}"))
            }
            Err(error) => {
                self.failed += 1;
                Some(format!("{request}: {error}"))
            }
        };
        if self.trouble.is_none() {
            self.trouble = trouble;
        }
        if self.latencies_us.len() == KEPT {
            self.latencies_us.pop_front();
        }
        self.latencies_us
            .push_back(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Shoppers at work.
pub(crate) struct Traffic {
    pub(crate) honest: Rc<RefCell<Honest>>,
    stop: Rc<Cell<bool>>,
    shoppers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins, with about so many requests a second altogether. Must be called within a `LocalSet`.
    pub(crate) fn start(edge: &Edge, people: &Rc<People>, rate: u32) -> Traffic {
        let mut traffic = Traffic {
            honest: Rc::default(),
            stop: Rc::default(),
            shoppers: Vec::new(),
        };
        let mut users: Vec<Option<&'static str>> = CUSTOMERS.iter().copied().map(Some).collect();
        users.extend([None, Some(ADMINISTRATOR)]);
        let each = Duration::from_secs(1) * u32::try_from(users.len()).unwrap_or(1) / rate.max(1);
        for (place, user) in users.into_iter().enumerate() {
            let shopper = Shopper {
                edge: edge.clone(),
                user,
                people: people.clone(),
                honest: traffic.honest.clone(),
                stop: traffic.stop.clone(),
                token: String::new(),
                token_made: None,
                connection: None,
                // People do not walk in step.
                number: u64::try_from(place).unwrap_or(0) * 3,
            };
            traffic
                .shoppers
                .push(tokio::task::spawn_local(shopper.shop(each)));
        }
        traffic
    }

    /// Ends after the requests that are under way.
    pub(crate) async fn stop(self) {
        self.stop.set(true);
        for shopper in self.shoppers {
            if let Err(error) = shopper.await {
                tracing::error!(%error, "a shopper failed");
            }
        }
    }
}

struct Shopper {
    edge: Edge,
    user: Option<&'static str>,
    people: Rc<People>,
    honest: Rc<RefCell<Honest>>,
    stop: Rc<Cell<bool>>,
    token: String,
    token_made: Option<Instant>,
    connection: Option<TlsStream<TcpStream>>,
    /// Of the next step.
    number: u64,
}

/// What a shopper does next: method, target and body.
struct Step {
    method: &'static str,
    target: String,
    body: &'static str,
}

fn step(user: Option<&str>, number: u64) -> Step {
    let get = |target: &str| Step {
        method: "GET",
        target: target.to_owned(),
        body: "",
    };
    match (user, number % 8) {
        (_, 0) => get("/"),
        (_, 1) => get("/products?limit=5"),
        (_, 2) => get("/products/3"),
        (None, _) => get("/offers?limit=2"),
        (Some(ADMINISTRATOR), 3) => Step {
            method: "PUT",
            target: "/products/2".to_owned(),
            body: r#"{"price": 3200}"#,
        },
        (Some(ADMINISTRATOR), _) => get("/orders/alice/17"),
        (Some(user), 3 | 6) => get(&format!("/orders?customerId={user}")),
        (Some("alice"), 4) => get("/orders/alice/17"),
        (Some(_), 4 | 5) => Step {
            method: "POST",
            target: "/orders".to_owned(),
            body: r#"{"product": 3, "quantity": 1}"#,
        },
        (Some(_), _) => get("/products?q=lamp"),
    }
}

impl Shopper {
    async fn shop(mut self, each: Duration) {
        let mut timer = tokio::time::interval(each);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            if self.stop.get() {
                return;
            }
            let step = step(self.user, self.number);
            self.number += 1;
            let begun = Instant::now();
            let result = match tokio::time::timeout(TIMEOUT, self.send(&step)).await {
                Ok(result) => result,
                Err(_) => Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "no answer in time",
                )),
            };
            if result.is_err() {
                self.connection = None;
            }
            let request = format!(
                "{} {} {}",
                self.user.unwrap_or("anonymous"),
                step.method,
                step.target
            );
            self.honest
                .borrow_mut()
                .note(&request, begun.elapsed(), &result);
        }
    }

    async fn send(&mut self, step: &Step) -> std::io::Result<Answer> {
        let bytes = self.bytes(step).map_err(std::io::Error::other)?;
        if let Some(mut connection) = self.connection.take()
            && let Ok(answer) = exchange(&mut connection, &bytes).await
        {
            self.connection = Some(connection);
            return Ok(answer);
        }
        // An idle connection may have been closed just now, as HTTP allows (RFC 9112 §9.3.1): once more on a new one.
        let mut connection =
            connect_tls(&self.edge.address, &self.edge.name, self.edge.tls.clone()).await?;
        let answer = exchange(&mut connection, &bytes).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn bytes(&mut self, step: &Step) -> Result<Vec<u8>, Failure> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            step.method, step.target, self.edge.host
        );
        if let Some(user) = self.user {
            let half = Duration::from_secs(TOKEN_SECONDS.unsigned_abs() / 2);
            if self.token_made.is_none_or(|made| made.elapsed() > half) {
                self.token = self.people.issuer.token(user, TOKEN_SECONDS)?;
                self.token_made = Some(Instant::now());
            }
            head.push_str(&format!("Authorization: Bearer {}\r\n", self.token));
        }
        if step.method != "GET" {
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                step.body.len()
            ));
        }
        Ok(format!("{head}\r\n{}", step.body).into_bytes())
    }
}

async fn exchange(connection: &mut TlsStream<TcpStream>, bytes: &[u8]) -> std::io::Result<Answer> {
    connection.write_all(bytes).await?;
    connection.flush().await?;
    read_answer(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_requests_is_counted() {
        let mut honest = Honest::default();
        let took = Duration::from_millis(2);
        honest.note(
            "a",
            took,
            &Ok(Answer {
                status: 201,
                ..Answer::default()
            }),
        );
        honest.note(
            "b",
            took,
            &Ok(Answer {
                status: 403,
                reason: Some("authz.user".to_owned()),
                ..Answer::default()
            }),
        );
        honest.note(
            "c",
            took,
            &Ok(Answer {
                status: 502,
                ..Answer::default()
            }),
        );
        honest.note("d", took, &Err(std::io::ErrorKind::UnexpectedEof.into()));
        assert_eq!(
            (honest.sent, honest.answered, honest.denied, honest.failed),
            (4, 1, 1, 2)
        );
        assert_eq!(honest.trouble.as_deref(), Some("b: 403 authz.user"));
        assert_eq!(honest.p99(), took);
    }
}
