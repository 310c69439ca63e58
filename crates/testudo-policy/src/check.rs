//! Everything that is wrong with a bundle, or would silently do nothing.
