//! From a bundle of files to diagnostics and to the compiled snapshot that guard runs.
//!
//! `bundle` reads files, `yaml` keeps the place of every value, `config` makes `testudo.yaml`
//! valid by construction, `openapi` and `cedar` read what it names, `check` finds everything that
//! is wrong or would silently do nothing, and `compile` builds a [`testudo_guard::Snapshot`].

pub mod access;
pub mod api;
pub mod bundle;
pub mod cedar;
pub mod certificate;
pub mod check;
pub mod compile;
pub mod config;
pub mod diagnostic;
pub mod explain;
pub mod fix;
pub mod init;
pub mod json_schema;
pub mod learn;
pub mod openapi;
pub mod reference;
pub mod render;
pub mod yaml;
