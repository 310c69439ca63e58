//! Sockets that listen, and how many connections they may bring.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

use crate::options::{Caps, ListenAddress};

/// Connections that wait to be accepted, for each core.
const BACKLOG: i32 = 1024;

/// One bound socket for one core.
pub(crate) enum Bound {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

/// Binds one socket for each core to the same address and says which it got (port 0: any free one).
///
/// # Errors
/// Another process listens there, or it is not ours to bind.
pub(crate) fn bind(address: &ListenAddress, cores: usize) -> io::Result<(Vec<Bound>, String)> {
    match address {
        ListenAddress::Tcp(address) => bind_tcp(*address, cores),
        ListenAddress::Unix(path) => bind_unix(path, cores),
    }
}

fn bind_tcp(address: SocketAddr, cores: usize) -> io::Result<(Vec<Bound>, String)> {
    // A socket without SO_REUSEPORT finds another process on this port even if that one shares its
    // port with anybody: two proxies on one port would each take half of the connections.
    drop(tcp_socket(address, false)?);
    let first = tcp_socket(address, true)?;
    let got = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..cores {
        sockets.push(tcp_socket(got, true)?);
    }
    Ok((
        sockets.into_iter().map(Bound::Tcp).collect(),
        got.to_string(),
    ))
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, cores: usize) -> io::Result<(Vec<Bound>, String)> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::from(io::ErrorKind::AddrInUse));
    }
    // Nobody answers: what lies there is left over from a process that was killed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let first = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    first.set_nonblocking(true)?;
    let mut sockets = Vec::with_capacity(cores);
    for _ in 1..cores {
        sockets.push(Bound::Unix(first.try_clone()?));
    }
    sockets.push(Bound::Unix(first));
    Ok((sockets, format!("unix:{}", path.display())))
}

/// Counts connections, over all cores. Touched once when a connection comes and once when it goes.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    limit_per_address: usize,
    open: Arc<AtomicUsize>,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Connections {
    pub(crate) fn new(caps: &Caps) -> Self {
        Connections {
            limit: caps.connections,
            limit_per_address: caps.connections_per_address,
            open: Arc::default(),
            addresses: Arc::default(),
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place for a connection from this address (`None`: a Unix socket); `None`: there is none left.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Option<Admitted> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut admitted = Admitted {
            open: self.open.clone(),
            addresses: self.addresses.clone(),
            address: None,
        };
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return Some(admitted);
        };
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(address).or_insert(0);
        if *count >= self.limit_per_address {
            return None;
        }
        *count += 1;
        drop(addresses);
        admitted.address = Some(address);
        Some(admitted)
    }
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Admitted {
    open: Arc<AtomicUsize>,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut addresses = lock(&self.addresses);
            if let Some(count) = addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&address);
                }
            }
        }
    }
}

fn lock(
    addresses: &Mutex<HashMap<IpAddr, usize>>,
) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let connections = Connections::new(&Caps {
            connections: 3,
            connections_per_address: 2,
            ..Caps::default()
        });
        let a = IpAddr::from([127, 0, 0, 1]);
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let first = connections.admit(Some(a)).unwrap();
        let second = connections.admit(Some(mapped)).unwrap();
        assert!(connections.admit(Some(a)).is_none(), "per address");
        assert_eq!(connections.open(), 2);
        let third = connections.admit(None).unwrap();
        assert!(
            connections
                .admit(Some(IpAddr::from([127, 0, 0, 2])))
                .is_none(),
            "all"
        );
        drop((first, second, third));
        assert_eq!(connections.open(), 0);
        assert!(lock(&connections.addresses).is_empty());
    }

    #[test]
    fn a_used_port_is_found_even_if_it_is_shared() {
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (sockets, got) = bind(&any, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let again = ListenAddress::Tcp(got.parse().unwrap());
        let error = bind(&again, 1).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_left_over_unix_socket_is_replaced_and_a_used_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(dir.path().join("out.sock"));
        drop(bind(&address, 1).unwrap());
        let (sockets, name) = bind(&address, 2).unwrap();
        assert_eq!(sockets.len(), 2);
        assert!(name.starts_with("unix:/"));
        assert_eq!(
            bind(&address, 1).err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
