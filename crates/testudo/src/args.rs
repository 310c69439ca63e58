//! The command line as typed. Each command's own file says what its arguments mean.

use clap::{Parser, Subcommand};

use crate::commands::{
    audit, can, check, completions, control, demo, doctor, explain, identity, init, launch, man,
    mode, observe, policy, proxy, run, schema, top, up, watch, why,
};

/// One policy at every hop: API gateway and service mesh security in one binary.
#[derive(Parser)]
#[command(
    name = "testudo",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// A whole sample mesh, its users and its attackers, on this machine
    Demo(demo::Args),
    /// Write a report-mode bundle for services that already run
    Init(init::Args),
    /// Run the mesh that a bundle describes on this machine
    Up(up::Args),
    /// Run the control plane alone
    Control(control::Args),
    /// Run one proxy alone, or look at those that run (list, show, diff)
    Proxy(Box<proxy::Args>),
    /// Run a service with its sidecar attached
    Run(run::Args),
    /// Is this bundle right? Every error at once
    Check(check::Args),
    /// What a diagnostic, a reason or a metric means and what to do
    Explain(explain::Args),
    /// Would this be permitted, and by which line?
    Can(can::Args),
    /// Learn policies from traffic; change what the mesh enforces
    Policy(policy::Args),
    /// Why was this request permitted or denied? Every hop, each check, the line that decided
    Why(why::Args),
    /// A service's mode for a while: report, enforce or observe; ends by itself
    Mode(mode::Args),
    /// What is unusual, and who is contained
    Watch(watch::Args),
    /// Live decisions as lines
    Observe(observe::Args),
    /// The mesh live in a terminal: rates, denials, the slowest operations, proxies, incidents
    Top(top::Args),
    /// Who is who: show, issue join tokens, verify SVIDs
    Identity(identity::Args),
    /// Is the running mesh healthy?
    Doctor(doctor::Args),
    /// Who changed what; verify: is the record whole?
    Audit(audit::Args),
    /// Print the JSON Schema of testudo.yaml, for editors
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual pages
    Man(man::Args),
    /// Start a command that ends when its parent does
    #[command(hide = true)]
    Launch(launch::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_proxy_is_started_or_looked_at() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ());
        parse("testudo proxy orders --state s --control 127.0.0.1:1").unwrap();
        parse("testudo proxy list -o json").unwrap();
        parse("testudo run orders -- sh -c true").unwrap();
        assert!(parse("testudo proxy").is_err());
        assert!(parse("testudo proxy orders").is_err());
        assert!(parse("testudo run orders").is_err());
    }
}
