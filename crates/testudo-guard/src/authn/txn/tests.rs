//! Transaction tokens.
