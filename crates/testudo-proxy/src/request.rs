//! A request's whole way through a proxy, top to bottom.
