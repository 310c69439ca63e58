//! Logs of the long-running commands: lines on standard error, JSON where `--log-format json` asks for it.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How much is logged, and how.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Levels, for example info or testudo_proxy=debug
    #[arg(
        long = "log",
        value_name = "FILTER",
        env = "TESTUDO_LOG",
        default_value = "info"
    )]
    filter: String,
    /// Lines for people, or JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogArgs {
    /// Begins to log. An unreadable filter is an error of usage.
    pub(crate) fn start(&self) -> Result<(), crate::failure::Failure> {
        let filter = EnvFilter::try_new(&self.filter).map_err(|error| {
            crate::failure::Failure::usage(format!("{} is no log filter: {error}", self.filter))
                .hint("for example --log info,testudo_proxy=debug")
        })?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        // Fails only where a logger was set before: then that one goes on.
        let _ = match self.log_format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        Ok(())
    }
}
