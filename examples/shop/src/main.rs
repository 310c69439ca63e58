//! The sample shop: four small HTTP services with in-memory state.
//!
//! They are deliberately naive: they believe `x-testudo-user` and unverified tokens, accept
//! fields that nobody declared, resolve paths generously and keep a debug page. That is the point:
//! behind Testudo the same code is safe to run, and `testudo demo` shows the difference.

mod catalog;
mod http;
mod orders;
mod payments;
mod peers;
mod server;
mod storefront;

use std::process::ExitCode;

use peers::Peers;
use server::Listen;

const USAGE: &str = "usage: testudo-shop storefront|orders|catalog|payments \
--listen HOST:PORT|unix:PATH [--bare-peer NAME=URL]...

Peers are called as http://NAME.mesh/ through HTTP_PROXY; with --bare-peer directly at URL.";

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("testudo-shop: {error}");
    ExitCode::FAILURE
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let proxy = std::env::var("HTTP_PROXY").or_else(|_| std::env::var("http_proxy"));
    let peers = Peers::new(options.peers, proxy.ok().as_deref())?;
    let service: server::Service = match options.service.as_str() {
        "storefront" => Box::new(storefront::Storefront::new(peers)),
        "catalog" => Box::new(catalog::Catalog::default()),
        "orders" => Box::new(orders::Orders::new(peers)),
        "payments" => Box::new(payments::Payments::default()),
        other => return Err(format!("no service is called {other}\n{USAGE}").into()),
    };
    server::serve(options.listen, service).await
}

struct Options {
    service: String,
    listen: Listen,
    peers: Vec<(String, String)>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
        let service = arguments.next()?;
        let mut listen = None;
        let mut peers = Vec::new();
        while let Some(argument) = arguments.next() {
            let value = arguments.next()?;
            match argument.as_str() {
                "--listen" => listen = Some(Listen::parse(&value)?),
                "--bare-peer" => {
                    let (name, url) = value.split_once('=')?;
                    peers.push((name.to_owned(), url.to_owned()));
                }
                _ => return None,
            }
        }
        Some(Options {
            service,
            listen: listen?,
            peers,
        })
    }
}
