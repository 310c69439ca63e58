//! Whose process is at the other end of a TCP connection on this host: the kernel is asked (Linux `sock_diag`), once
//! for each connection. Knows nothing of requests; what cannot be found out is nobody's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Why `--app-uid` cannot be held to.
#[derive(Debug, thiserror::Error)]
pub enum AppUidError {
    /// Root's processes are many.
    #[error(
        "--app-uid 0 is root, as which other programs run too\nhint: run the application as a user of its own"
    )]
    Root,
    /// What runs as the proxy does could read its key anyway, but is not the application.
    #[error(
        "--app-uid {0} is this proxy's own user\nhint: run the application as a user of its own, or let it use the secret (`testudo run`)"
    )]
    Own(u32),
    /// The kernel does not tell.
    #[error(
        "--app-uid cannot be held to on this host: it does not say whose process a connection is of\nhint: let the application use a Unix socket (--outbound unix:PATH) or the secret (`testudo run`)"
    )]
    Unsupported(#[source] io::Error),
}

/// Whether an application may be told by this uid here: one that runs nothing else, on a host that says whose a
/// connection is. The latter is tried with a connection of our own.
///
/// # Errors
/// See [`AppUidError`].
pub(crate) fn check(uid: u32) -> Result<(), AppUidError> {
    let own = rustix::process::geteuid().as_raw();
    if uid == 0 {
        return Err(AppUidError::Root);
    }
    if uid == own {
        return Err(AppUidError::Own(uid));
    }
    let found = (|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        of(client.local_addr()?, client.peer_addr()?)
    })();
    match found {
        Ok(Some(found)) if found == own => Ok(()),
        Ok(_) => Err(AppUidError::Unsupported(io::Error::other(
            "the answer for a connection of its own was wrong",
        ))),
        Err(error) => Err(AppUidError::Unsupported(error)),
    }
}

/// The user whose process holds `client`, the other end of our connection; `None`: no process on this host does.
///
/// # Errors
/// The kernel cannot be asked.
#[cfg(target_os = "linux")]
pub(crate) fn of(client: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    diag::ask(client, ours)
}

/// See the other one.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(crate) fn of(_client: SocketAddr, _ours: SocketAddr) -> io::Result<Option<u32>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Linux has sock_diag",
    ))
}

/// sock_diag(7): one request for one socket, by its four numbers.
#[cfg(target_os = "linux")]
mod diag {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
    };

    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    const TCP_ESTABLISHED: u8 = 1;
    const ENOENT: i32 = -2;
    /// `nlmsghdr`.
    const HEADER: usize = 16;
    /// In `inet_diag_msg`, after `nlmsghdr`.
    const UID: usize = HEADER + 64;
    const INODE: usize = HEADER + 68;

    pub(super) fn ask(client: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
        let Some(request) = request(client, ours) else {
            return Ok(None);
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(SOCK_DIAG),
        )?;
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&socket, &request, SendFlags::empty(), &kernel)?;
        let mut answer = [0_u8; 512];
        // The kernel answers before `sendto` returns: nothing is waited for.
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        read(answer.get(..length).unwrap_or_default())
    }

    /// `nlmsghdr` and `inet_diag_req_v2`.
    fn request(client: SocketAddr, ours: SocketAddr) -> Option<Vec<u8>> {
        // An IPv4 connection to a socket of IPv6 is one of IPv4 to the kernel.
        let (source, target) = (client.ip().to_canonical(), ours.ip().to_canonical());
        let family = match (source, target) {
            (IpAddr::V4(_), IpAddr::V4(_)) => AddressFamily::INET,
            (IpAddr::V6(_), IpAddr::V6(_)) => AddressFamily::INET6,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let mut message = Vec::with_capacity(HEADER + 56);
        message.extend(72_u32.to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(NLM_F_REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([u8::try_from(family.as_raw()).ok()?, IPPROTO_TCP, 0, 0]);
        message.extend((1_u32 << TCP_ESTABLISHED).to_ne_bytes());
        message.extend(client.port().to_be_bytes());
        message.extend(ours.port().to_be_bytes());
        for address in [source, target] {
            let mut bytes = [0; 16];
            let octets = match &address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            bytes.get_mut(..octets.len())?.copy_from_slice(&octets);
            message.extend(bytes);
        }
        message.extend([0; 4]);
        // No cookie: the four numbers name it.
        message.extend([0xff; 8]);
        Some(message)
    }

    /// Only an established socket that a process holds: of others the kernel says uid 0, whoever had them.
    fn read(answer: &[u8]) -> io::Result<Option<u32>> {
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "a short answer of sock_diag");
        let number = |at: usize| -> io::Result<u32> {
            let bytes = answer.get(at..at + 4).ok_or_else(short)?;
            Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| short())?))
        };
        let kind = answer.get(4..6).ok_or_else(short)?;
        let kind = u16::from_ne_bytes(kind.try_into().map_err(|_| short())?);
        if kind == NLMSG_ERROR {
            let code = number(HEADER)?.cast_signed();
            return match code {
                ENOENT => Ok(None),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            };
        }
        let state = answer.get(HEADER + 1).copied();
        if kind != SOCK_DIAG_BY_FAMILY || state != Some(TCP_ESTABLISHED) || number(INODE)? == 0 {
            return Ok(None);
        }
        number(UID).map(Some)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn pair(address: &str) -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    }

    #[test]
    fn the_kernel_says_whose_a_connection_is() {
        let own = rustix::process::geteuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (_listener, client) = pair(address);
            let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert_eq!(of(from, to).unwrap(), Some(own), "{address}");
            assert_eq!(
                of(SocketAddr::new(from.ip(), 1), to).unwrap(),
                None,
                "no such connection"
            );
        }
        // IPv4 to a listener of both.
        let (_listener, client) = pair("[::]:0");
        let port = client.peer_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mapped = |address: SocketAddr| {
            let std::net::IpAddr::V4(ip) = address.ip() else {
                panic!("{address}")
            };
            SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())
        };
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(of(mapped(from), mapped(to)).unwrap(), Some(own));
    }

    #[test]
    fn a_closed_end_is_nobodys() {
        let (listener, client) = pair("127.0.0.1:0");
        let (accepted, _) = listener.accept().unwrap();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        drop(client);
        assert_eq!(of(from, to).unwrap(), None, "ended, whatever uid is told");
        drop(accepted);
        assert_eq!(of(from, to).unwrap(), None);
    }

    #[test]
    fn an_application_has_a_user_of_its_own() {
        let own = rustix::process::geteuid().as_raw();
        assert!(matches!(check(0), Err(AppUidError::Root)));
        assert!(matches!(
            check(own),
            Err(AppUidError::Root | AppUidError::Own(_))
        ));
        assert!(check(own + 54_321).is_ok());
    }
}
