//! The demo: the sample shop behind Testudo and beside it, honest shoppers, and attackers who try both.

pub(crate) mod attack;
pub(crate) mod attacks;
pub(crate) mod bare;
pub(crate) mod board;
pub(crate) mod bundle;
pub(crate) mod people;
pub(crate) mod screen;
pub(crate) mod shield;
pub(crate) mod traffic;
pub(crate) mod why;
pub(crate) mod wire;
