//! Attacks on JWTs, and what must pass.
