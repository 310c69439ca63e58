//! `testudo identity verify`: an SVID judged as a proxy would judge it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use testudo_identity::svid::{Usage, read_svid, verify_svid};
use testudo_identity::{SpiffeId, TrustBundle, TrustDomain, VerifiedPeer, pem};

use crate::api::Api;
use crate::commands::{block_on, exit_code};
use crate::failure::{Failure, OrFail as _};
use crate::site::Remote;
use crate::terminal::{self, Format, Style};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// PEM file with the SVID first, then intermediates; a private key in it is not looked at
    file: PathBuf,
    /// PEM file with the roots to trust; left out: those of the running mesh
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Trust domain; left out: that of the running mesh, or with --roots that of the SVID
    #[arg(long)]
    trust_domain: Option<String>,
    /// The SPIFFE id that it must be for
    #[arg(long, value_name = "SPIFFE ID", value_parser = |text: &str| SpiffeId::parse(text).map_err(|error| error.to_string()))]
    id: Option<SpiffeId>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let judged = judge(args)?;
    let data = match &judged {
        Ok(peer) => json!({
            "ok": true, "spiffe_id": peer.spiffe_id.as_str(), "serial": peer.serial,
            "not_before": timestamp(peer.not_before), "not_after": timestamp(peer.not_after),
        }),
        Err(reason) => json!({"ok": false, "reason": reason}),
    };
    if let Some(printed) = terminal::print_data(args.output, &data) {
        printed?;
        return Ok(exit_code(judged.is_ok()));
    }
    let style = Style::for_stdout();
    terminal::line(&match &judged {
        Ok(peer) => format!(
            "{} {}   serial {}   valid until {}",
            style.green("✓"),
            peer.spiffe_id,
            peer.serial,
            timestamp(peer.not_after)
        ),
        Err(reason) => format!("{} {}", style.red("✗"), terminal::escape(reason)),
    })?;
    Ok(exit_code(judged.is_ok()))
}

/// The outer result: whether it could be judged at all.
fn judge(args: &Args) -> Result<Result<VerifiedPeer, String>, Failure> {
    let chain = certificates(&args.file)?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Failure::new("there is no certificate in it").at(args.file.display()));
    };
    let (roots, domain) = trust(args, leaf)?;
    let domain = TrustDomain::new(&domain).or_fail(|| format!("{domain} is no trust domain"))?;
    let trust = TrustBundle::new(domain, roots).or_fail(|| "the roots cannot be used")?;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let judged = verify_svid(
        leaf,
        intermediates,
        &trust,
        Usage::Client,
        Duration::from_secs(now),
        Duration::ZERO,
    );
    Ok(match judged {
        Err(error) => Err(Failure::because("not to be believed", &error).to_string()),
        Ok(peer) => match &args.id {
            Some(wanted) if *wanted != peer.spiffe_id => {
                Err(format!("it is for {} and not for {wanted}", peer.spiffe_id))
            }
            _ => Ok(peer),
        },
    })
}

fn timestamp(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "the end of time".to_owned(), |time| time.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let text =
        std::fs::read_to_string(path).or_fail(|| format!("cannot read {}", path.display()))?;
    pem::decode_certificates(only_certificates(&text).as_bytes())
        .or_fail(|| format!("{} is not PEM with certificates", path.display()))
}

/// The certificates of a PEM file; keys beside them are none of our business.
fn only_certificates(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = text.split(BEGIN).skip(1);
    let blocks = blocks.filter_map(|block| Some(block.split_once(END)?.0));
    blocks
        .map(|block| format!("{BEGIN}{block}{END}\n"))
        .collect()
}

type Roots = (Vec<CertificateDer<'static>>, String);

fn trust(args: &Args, leaf: &CertificateDer<'_>) -> Result<Roots, Failure> {
    if let Some(path) = &args.roots {
        let domain = match &args.trust_domain {
            Some(domain) => domain.clone(),
            None => read_svid(leaf)
                .or_fail(|| "this is no SVID")?
                .spiffe_id
                .trust_domain()
                .to_owned(),
        };
        return Ok((certificates(path)?, domain));
    }
    let api = Api::new(args.remote.resolve()?)?;
    let answer = block_on(api.get("trust"))?;
    let pem = answer
        .get("roots_pem")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let roots = pem::decode_certificates(pem.as_bytes())
        .or_fail(|| "the control plane's roots cannot be read")?;
    let domain = answer
        .get("trust_domain")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Ok((
        roots,
        args.trust_domain
            .clone()
            .unwrap_or_else(|| domain.to_owned()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_looked_at() {
        let certificate = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let text = format!("{key}{certificate}{certificate}");
        assert_eq!(
            only_certificates(&text),
            format!("{certificate}{certificate}")
        );
        assert_eq!(only_certificates(key), "");
    }
}
