//! A bundle compiled into the snapshot of one proxy.
