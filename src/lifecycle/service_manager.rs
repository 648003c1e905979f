//! What a service manager such as systemd is told: `sd_notify(3)`, the part of it that a proxy needs.
//!
//! The protocol is one datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names, by its path or, after
//! `@`, as a name in the abstract namespace of Linux. Without that variable nothing is told.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often a message is tried again that the service manager has no room for, and the pause before.
const TRIES: (u32, Duration) = (20, Duration::from_millis(50));

/// The service manager that has started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, where there is one. `variable`: the value of a variable of the environment.
    ///
    /// # Errors
    /// When it is named in a way that cannot be used.
    pub fn named_by(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Option<Self>> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let Some(socket) = variable("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Self::at(&socket, watchdog).map(Some)
    }

    /// The one at `socket`, as `NOTIFY_SOCKET` names it. `watchdog`: see [`Self::watchdog`].
    ///
    /// # Errors
    /// When it is no path and no abstract name.
    pub fn at(socket: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = address(socket)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            watchdog,
        })
    }

    /// It restarts this process when it hears no `WATCHDOG=1` for that long.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends these lines, each `NAME=value`.
    ///
    /// # Errors
    /// When it does not take them: it is gone, or had no room for a whole second.
    pub async fn tell(&self, lines: &[String]) -> io::Result<()> {
        let message = lines.join("\n");
        let (mut tries, pause) = TRIES;
        loop {
            match self.socket.send_to_addr(message.as_bytes(), &self.address) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => tries -= 1,
                sent => return sent.map(drop),
            }
            tokio::time::sleep(pause).await;
        }
    }
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(socket),
        [b'@', name @ ..] if !name.is_empty() => abstract_address(name),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "NOTIFY_SOCKET is neither an absolute path nor an abstract name",
        )),
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "NOTIFY_SOCKET: only Linux has abstract names",
    ))
}

/// What `WATCHDOG_USEC` says, where `WATCHDOG_PID` does not mean another process.
fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>, own: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    if pid.is_some_and(|pid| number(pid) != Some(u64::from(own))) {
        return None;
    }
    usec.and_then(number)
        .filter(|usec| *usec > 0)
        .map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_the_one_of_this_process() {
        let text = |text: &'static str| Some(OsStr::new(text));
        let second = Some(Duration::from_secs(1));
        for (usec, pid, expected) in [
            (text("1000000"), None, second),
            (text("1000000"), text("7"), second),
            (text("1000000"), text("8"), None),
            (text("1000000"), text("x"), None),
            (text("0"), None, None),
            (text("soon"), None, None),
            (None, text("7"), None),
        ] {
            assert_eq!(watchdog(usec, pid, 7), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn without_the_variable_there_is_none() {
        for value in [None, Some(OsString::new())] {
            let manager = ServiceManager::named_by(|name| {
                if name == "NOTIFY_SOCKET" {
                    value.clone()
                } else {
                    Some("1".into())
                }
            });
            assert!(manager.unwrap().is_none());
        }
    }

    #[test]
    fn a_socket_that_is_neither_a_path_nor_an_abstract_name_is_refused() {
        for wrong in ["vsock:2:1234", "relative", "@", " /run/x"] {
            assert!(ServiceManager::at(OsStr::new(wrong), None).is_err(), "{wrong}");
        }
        assert!(ServiceManager::at(OsStr::new("/run/x"), None).is_ok());
    }

    #[tokio::test]
    async fn a_manager_that_is_gone_or_full_is_an_error_and_no_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = ServiceManager::at(path.as_os_str(), None).unwrap();
        let line = ["READY=1".to_owned()];
        assert!(manager.tell(&line).await.is_err());
        let receiver = UnixDatagram::bind(&path).unwrap();
        tokio::time::pause();
        while manager.tell(&line).await.is_ok() {}
        let mut piece = [0; 64];
        assert_eq!(receiver.recv(&mut piece).unwrap(), line[0].len());
        assert!(manager.tell(&line).await.is_ok(), "there is room again");
    }
}
