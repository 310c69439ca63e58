//! One core's verified credentials.

/// Verified credentials of one core, bounded, until they expire or keys or revocations change.
#[derive(Default)]
pub struct TokenCache {}
