//! Which port each part listens on, whether it is free, and who holds it when it is not.
//!
//! Next: `part.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A port on 127.0.0.1 and the option that changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// Port number.
    pub port: u16,
    /// Key under `[ports]` in `stack.toml`; the flag is the same with dashes and `-port` behind it.
    pub key: String,
}

impl PortUse {
    pub(crate) fn new(port: u16, key: &str) -> Self {
        Self { port, key: key.to_owned() }
    }
}

macro_rules! ports {
    ($($(#[$doc:meta])* $name:ident = $default:literal,)+) => {
        /// The ports of one stack, all on 127.0.0.1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Ports { $($(#[$doc])* pub $name: u16,)+ }

        impl Default for Ports {
            fn default() -> Self { Self { $($name: $default,)+ } }
        }

        impl Ports {
            /// Free ports for a stack that must not meet another one: tests, the demo.
            ///
            /// # Errors
            /// When the machine has none left.
            pub fn free() -> io::Result<Self> {
                let mut taken = BTreeSet::new();
                Ok(Self { $($name: free_port(&mut taken)?,)+ })
            }

            /// Every port with its key, in the order of `stack.toml`.
            #[must_use]
            pub fn all(&self) -> Vec<PortUse> {
                vec![$(PortUse::new(self.$name, stringify!($name)),)+]
            }
        }
    };
}

ports! {
    /// Kafka clients.
    kafka = 9092,
    /// Kafka's own controller.
    kafka_controller = 9093,
    /// Schema registry over HTTP.
    registry = 8081,
    /// ClickHouse over HTTP.
    clickhouse = 8123,
    /// Admin and metrics of clickhouse-local-server.
    clickhouse_admin = 9106,
    /// Simulator, the exchanges' wire formats.
    simulator = 8090,
    /// Simulator, faults and virtual time.
    simulator_admin = 8091,
    /// Admin and metrics of tick-producer.
    tick_producer = 9101,
    /// Admin and metrics of candle-producer.
    candle_producer = 9102,
    /// Admin and metrics of flow-producer.
    flow_producer = 9103,
    /// Admin and metrics of the processor.
    processor = 9104,
    /// Admin and metrics of the sink.
    sink = 9105,
    /// Admin and metrics of the archiver.
    archiver = 9107,
}

impl Ports {
    /// The default ports where all of them are free now, else free ones.
    ///
    /// # Errors
    /// When the machine has none left.
    pub fn default_or_free() -> io::Result<Self> {
        let ports = Self::default();
        if ports.all().iter().all(|port| is_free(port.port)) { Ok(ports) } else { Self::free() }
    }
}

/// Whether somebody could listen on 127.0.0.1:`port` now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The error that names port, owner and option, when `port` is taken.
pub(crate) fn check_free(part: &str, port: &PortUse) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port.port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::PortTaken { part: part.to_owned(), port: port.port, key: port.key.clone(), owner: owner(port.port) })
        }
        Err(source) => Err(Error::Io { doing: format!("listen on 127.0.0.1:{}", port.port), source }),
    }
}

/// Process number and name of whoever listens on `port`, where we may know: another user's processes stay hidden.
#[must_use]
pub fn owner(port: u16) -> Option<String> {
    let inodes = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|table| fs::read_to_string(table).ok());
    let sockets: Vec<String> =
        inodes.flat_map(|table| listening_inodes(&table, port)).map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in processes {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
        if holds {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Inodes of the sockets in state LISTEN (0A) on `port`, from the text of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == "0A").map(|row| row[9].to_owned()).collect()
}

/// A port nobody listens on, below the range from which outgoing connections get theirs, so that a part killed and started again finds
/// it still free.
fn free_port(taken: &mut BTreeSet<u16>) -> io::Result<u16> {
    let mut seed = [0; 2];
    for _ in 0..1000 {
        random_bytes(&mut seed)?;
        let port = 15_000 + u16::from_le_bytes(seed) % 15_000;
        if !taken.contains(&port) && is_free(port) {
            taken.insert(port);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port between 15000 and 30000"))
}

pub(crate) fn random_bytes(buffer: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_of_a_listening_port_is_this_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        assert!(owner(port).unwrap().ends_with(&format!("(pid {})", std::process::id())));
    }

    #[test]
    fn taken_port_is_an_error_that_names_port_owner_and_key() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_free("registry", &PortUse::new(port, "registry")).unwrap_err().to_string();
        for word in [&format!("{port}"), "registry-port", "pid"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn free_ports_differ_from_each_other() {
        let ports = Ports::free().unwrap().all();
        let distinct: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
        assert_eq!(distinct.len(), ports.len());
    }
}
