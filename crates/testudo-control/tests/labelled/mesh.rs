//! Honest traffic of a mesh of 20 services, as events: a day's rhythm, noise, mistakes, jobs, a robot,
//! bursts and deployments. Seeded, so that a run can be repeated.

use std::net::{IpAddr, Ipv4Addr};

use testudo_model::{Event, Hop, Mode, Reason, Verdict};

pub const DAY: u64 = 86_400;
pub const SERVICES: u64 = 20;
const CUSTOMERS: u64 = 400;

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// From 0 to 1.
    pub fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// So many in a second, on average.
    pub fn count(&mut self, mean: f64) -> u64 {
        let (mut left, mut count) = ((-mean).exp(), 0);
        let mut product = self.share();
        while product > left && count < 10_000 {
            product *= self.share();
            count += 1;
            left = left.max(1e-300);
        }
        count
    }
}

pub fn service(n: u64) -> String {
    format!("s{:02}", n % SERVICES)
}

pub fn address(n: u64) -> IpAddr {
    let [_, _, _, _, _, b, c, d] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, b, c, d))
}

/// What an event is made from; the rest is filled in.
pub struct Call<'a> {
    pub at: u64,
    pub hop: Hop,
    pub caller: Option<&'a str>,
    pub user: Option<&'a str>,
    pub from: u64,
    pub credential: u64,
    pub agent: u64,
    pub service: &'a str,
    pub operation: Option<&'a str>,
    pub path: String,
    pub denied: Option<Reason>,
    pub status: u16,
    pub bytes: u64,
    pub micros: u64,
}

pub struct Mesh {
    pub random: Random,
    pub revision: u64,
    /// When the last deployment was.
    pub deployed: u64,
    number: u64,
    /// Callees of each service: fixed, so that there are no new edges.
    edges: Vec<(u64, u64)>,
}

impl Mesh {
    pub fn new(seed: u64) -> Mesh {
        let mut edges = Vec::new();
        for n in 0..8 {
            for step in [1, 3] {
                edges.push((n, 8 + (n * step + step) % 12));
            }
        }
        Mesh {
            random: Random(seed),
            revision: 1,
            deployed: 0,
            number: 0,
            edges,
        }
    }

    pub fn event(&mut self, call: &Call<'_>) -> Event {
        self.number += 1;
        let micro = i64::try_from(call.at * 1_000_000 + self.number % 1_000_000).unwrap();
        let edge = call.hop == Hop::Edge;
        Event {
            time: jiff::Timestamp::from_microsecond(micro).unwrap(),
            request_id: format!("r{}", self.number),
            trace_id: String::new(),
            trace_guessed: false,
            proxy: if edge {
                "gateway-1".to_owned()
            } else {
                format!("{}-1", call.service)
            },
            hop: call.hop,
            revision: self.revision,
            caller: call.caller.map(str::to_owned),
            user: call.user.map(str::to_owned),
            roles: vec!["customer".to_owned()],
            source_ip: Some(address(call.from)),
            credential: (edge && call.credential > 0).then(|| format!("{:016x}", call.credential)),
            agent: edge.then(|| format!("agent/{}", call.agent)),
            service: Some(call.service.to_owned()),
            operation: call
                .operation
                .map(|name| format!("{}:{name}", call.service)),
            method: "GET".to_owned(),
            host: "shop.test".to_owned(),
            path: call.path.clone(),
            status: Some(
                call.denied
                    .map_or(call.status, |reason| reason.status().as_u16()),
            ),
            inside: None,
            verdict: if call.denied.is_some() {
                Verdict::Deny
            } else {
                Verdict::Permit
            },
            reason: call.denied,
            mode: Mode::Enforce,
            policy: None,
            findings: Vec::new(),
            bytes_in: 100,
            bytes_out: call.bytes,
            duration_us: call.micros,
            guard_us: 50,
            checks: Vec::new(),
        }
    }

    /// One second of honest traffic.
    pub fn second(&mut self, at: u64, out: &mut Vec<Event>) {
        let hour = f64::from(u32::try_from(at % DAY).unwrap()) / 3600.0;
        let day = 1.0 + 0.6 * ((hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
        // A sale that nobody announced: fifteen seconds, now and then.
        let burst = if at % 5400 < 15 { 2.5 } else { 1.0 };
        if at % 7200 == 3600 {
            self.revision += 1;
            self.deployed = at;
        }
        for _ in 0..self.random.count(4.0 * day * burst) {
            self.customer(at, out);
        }
        self.robot_and_jobs(at, out);
    }

    fn customer(&mut self, at: u64, out: &mut Vec<Event>) {
        let n = self.random.below(CUSTOMERS);
        let user = format!("shop:c{n}");
        // Offices share an address; phones change theirs.
        let from = if n < 40 {
            900
        } else {
            1000 + n * 4 + (at / 3600 + n) % 3
        };
        let front = self.random.below(8);
        let name = service(front);
        let object = n * 100 + self.random.below(6);
        let luck = self.random.below(1000);
        let slow = if at.saturating_sub(self.deployed) < 60 && self.deployed > 0 {
            2
        } else {
            1
        };
        let micros = slow * (4_000 + self.random.below(8_000) * self.random.below(3));
        let mut call = Call {
            at,
            hop: Hop::Edge,
            caller: None,
            user: Some(&user),
            from,
            credential: 1 + n * 10 + at / 7200 % 10,
            agent: n % 7,
            service: &name,
            operation: Some("getThing"),
            path: format!("/things/{object}"),
            denied: None,
            status: 200,
            bytes: 1_500 + self.random.below(4_000),
            micros,
        };
        match luck {
            // A token that has just expired: nobody's, as far as is known.
            0..3 => {
                call.user = None;
                call.denied = Some(Reason::AuthnExpired);
            }
            3..8 => call.denied = Some(Reason::AuthzUser),
            8..14 => call.status = 404,
            14..16 => call.status = 500,
            16..19 => {
                call.operation = None;
                call.path = format!("/typo/{object}");
                call.denied = Some(Reason::RouteUndocumented);
            }
            _ => {}
        }
        out.push(self.event(&call));
        if call.denied.is_some() {
            return;
        }
        call.hop = Hop::Mesh;
        call.caller = Some("gateway");
        out.push(self.event(&call));
        let (_, callee) = self.edges[usize::try_from(front * 2 + luck % 2).unwrap()];
        let callee = service(callee);
        let caller = name.clone();
        call.caller = Some(&caller);
        call.service = &callee;
        call.operation = Some("part");
        call.path = format!("/parts/{}", object % 50);
        call.status = 200;
        out.push(self.event(&call));
    }

    /// A partner copies forty things a minute; every hour a job reads a lot, for nobody.
    fn robot_and_jobs(&mut self, at: u64, out: &mut Vec<Event>) {
        let name = service(2);
        if !at.is_multiple_of(3) {
            let call = Call {
                at,
                hop: Hop::Edge,
                caller: None,
                user: Some("key:partner"),
                from: 700,
                credential: 77,
                agent: 1,
                service: &name,
                operation: Some("getThing"),
                path: format!("/things/{}", at % 40),
                denied: None,
                status: 200,
                bytes: 2_000,
                micros: 5_000,
            };
            out.push(self.event(&call));
        }
        if (900..960).contains(&(at % 3600)) {
            let (caller, callee) = (service(4), service(16));
            let call = Call {
                at,
                hop: Hop::Mesh,
                caller: Some(&caller),
                user: None,
                from: 4,
                credential: 0,
                agent: 0,
                service: &callee,
                operation: Some("report"),
                path: format!("/report/{}", at % 60),
                denied: None,
                status: 200,
                bytes: 400_000,
                micros: 20_000,
            };
            out.push(self.event(&call));
        }
    }
}
