//! What counting costs for each event, and what closing a window costs.
//! `cargo bench -p testudo-watch --bench window`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};

use divan::Bencher;
use testudo_model::{Event, Hop, Mode, Reason, Verdict};
use testudo_watch::window::{Aggregator, MergedWindow, Window};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const NOW: u64 = 1_800_000_000;

/// A mesh's mixed traffic: 20 services of 25 operations, 200 users, 1,000 objects, some denials.
fn events(hop: Hop) -> Vec<Event> {
    (0..4_096_u32)
        .map(|number| {
            let is_denied = number % 50 == 0;
            let service = format!("service-{}", number % 20);
            Event {
                time: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
                request_id: uuid::Uuid::from_u128(u128::from(number)).to_string(),
                trace_id: format!("{number:032x}"),
                trace_guessed: false,
                proxy: String::from("gateway-1"),
                hop,
                revision: 4,
                caller: (hop == Hop::Mesh).then(|| format!("service-{}", number % 7)),
                user: Some(format!("shop:user-{}", number * 7 % 200)),
                roles: vec![String::from("customer")],
                source_ip: Some(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number * 7 % 200))),
                credential: (hop == Hop::Edge).then(|| format!("{:016x}", number * 7 % 200)),
                agent: (hop == Hop::Edge).then(|| String::from("Mozilla/5.0 (X11; Linux x86_64)")),
                operation: Some(format!("{service}:operation{}", number % 500)),
                service: Some(service),
                method: String::from("GET"),
                host: String::from("api.shop.test"),
                path: format!("/api/v1/orders/{}", number * 31 % 1000),
                status: Some(200),
                inside: None,
                verdict: if is_denied {
                    Verdict::Deny
                } else {
                    Verdict::Permit
                },
                reason: is_denied.then_some(Reason::AuthzUser),
                mode: Mode::Enforce,
                policy: None,
                findings: Vec::new(),
                bytes_in: 120,
                bytes_out: 2_048,
                duration_us: 900 + u64::from(number % 3_000),
                guard_us: 8,
                checks: Vec::new(),
            }
        })
        .collect()
}

fn filled(hop: Hop) -> Window {
    let mut aggregator = Aggregator::new(None, NOW);
    for event in events(hop) {
        aggregator.count(&event, NOW);
    }
    aggregator.finish().unwrap()
}

/// 4,096 events into one window: divide by that.
#[divan::bench(args = [Hop::Edge, Hop::Mesh])]
fn count_4096_events(bencher: Bencher<'_, '_>, hop: Hop) {
    let events = events(hop);
    bencher
        .with_inputs(|| Aggregator::new(None, NOW))
        .bench_local_refs(|aggregator| {
            for event in &events {
                aggregator.count(event, NOW);
            }
        });
}

/// A million events a minute, as control sees them: 33,333 in one window, half at two gateways and half at
/// 20 sidecars. What this takes of two seconds is the load of one core.
#[divan::bench(sample_count = 20)]
fn control_merges_a_million_a_minute(bencher: Bencher<'_, '_>) {
    let (edge, mesh) = (events(Hop::Edge), events(Hop::Mesh));
    let mut parts = Vec::new();
    for proxy in 0..22_usize {
        let (events, count) = if proxy < 2 {
            (&edge, 8_333)
        } else {
            (&mesh, 833)
        };
        let mut aggregator = Aggregator::new(None, NOW);
        for event in events.iter().cycle().skip(proxy * 997).take(count) {
            let proxy = format!("proxy-{proxy}");
            aggregator.count(
                &Event {
                    proxy,
                    ..event.clone()
                },
                NOW,
            );
        }
        parts.extend(aggregator.finish().unwrap().encode());
    }
    bencher.bench_local(|| {
        let mut merged = MergedWindow::new(NOW);
        for part in &parts {
            merged.merge(&Window::decode(part).unwrap(), None);
        }
        merged
    });
}

#[divan::bench]
fn encode_a_window(bencher: Bencher<'_, '_>) {
    let window = filled(Hop::Edge);
    bencher.bench_local(|| window.encode());
}

#[divan::bench]
fn decode_and_merge_a_window(bencher: Bencher<'_, '_>) {
    let parts = filled(Hop::Edge).encode();
    bencher.bench_local(|| {
        let mut merged = MergedWindow::new(NOW);
        for part in &parts {
            merged.merge(&Window::decode(part).unwrap(), None);
        }
        merged
    });
}
