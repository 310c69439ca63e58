//! The same services without Testudo, on loopback: what every attack would do to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::demo::bundle::free_port;
use crate::failure::Failure;
use crate::mesh::{Paths, own_program};
use crate::supervise::{Launch, Part, Supervisor};

const SERVICES: [&str; 4] = ["storefront", "catalog", "orders", "payments"];
const DEADLINE: Duration = Duration::from_secs(10);

/// Running copies.
pub(crate) struct Bare {
    supervisor: Supervisor,
    addresses: BTreeMap<&'static str, String>,
}

impl Bare {
    /// Starts them. Must be called within a `LocalSet`.
    pub(crate) async fn start(paths: &Paths) -> Result<Bare, Failure> {
        let shop = shop_program()?;
        let mut addresses = BTreeMap::new();
        for service in SERVICES {
            addresses.insert(service, format!("127.0.0.1:{}", free_port()?));
        }
        let (mut supervisor, _) = Supervisor::new();
        for (service, address) in &addresses {
            let mut arguments = vec![
                (*service).to_owned(),
                "--listen".to_owned(),
                address.clone(),
            ];
            for (peer, address) in &addresses {
                arguments.extend(["--bare-peer".to_owned(), format!("{peer}=http://{address}")]);
            }
            let shop = shop.clone();
            supervisor.start(Part {
                name: format!("bare-{service}"),
                log: paths.log(&format!("bare-{service}")),
                patience: Duration::from_secs(2),
                prepare: Box::new(move || {
                    let launch = launch(&shop, &arguments);
                    Box::pin(async move { launch })
                }),
            });
        }
        let bare = Bare {
            supervisor,
            addresses,
        };
        bare.wait().await?;
        Ok(bare)
    }

    async fn wait(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + DEADLINE;
        for (service, address) in &self.addresses {
            while TcpStream::connect(address).await.is_err() {
                if Instant::now() > deadline {
                    return Err(Failure::new(format!(
                        "the copy of {service} without Testudo does not start"
                    )));
                }
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        Ok(())
    }

    /// `HOST:PORT` of a copy.
    pub(crate) fn address(&self, service: &str) -> &str {
        self.addresses.get(service).map_or("", String::as_str)
    }

    pub(crate) async fn stop(mut self) {
        self.supervisor.stop(|_| true).await;
    }
}

fn launch(shop: &std::path::Path, arguments: &[String]) -> Result<Launch, Failure> {
    let mut command = Command::new(own_program()?);
    command
        .args([
            "launch",
            "--parent-pid",
            &std::process::id().to_string(),
            "--",
        ])
        .arg(shop)
        .args(arguments);
    command.env_remove("HTTP_PROXY").env_remove("http_proxy");
    Ok(Launch { command })
}

/// The sample services' program, beside this one.
pub(crate) fn shop_program() -> Result<PathBuf, Failure> {
    let own = own_program()?;
    let shop = own.with_file_name("testudo-shop");
    if shop.is_file() {
        return Ok(shop);
    }
    Err(
        Failure::new("the sample services (testudo-shop) are not beside this program")
            .at(shop.display())
            .hint("build them: cargo build -p testudo-shop (`make demo` does)"),
    )
}
