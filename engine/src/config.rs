//! What a replica is told at start: a plain struct, also readable from TOML, checked before anything runs.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use kontiki_net::Address;
use kontiki_wal::limits as log;

use crate::limits;
use crate::tag::Tag;

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id, unique in the cluster for ever, not zero.
    pub id: u64,
    /// Where it listens for peers and clients: an address, or a host's name with a port, which is looked up whenever it
    /// is connected to.
    #[serde(with = "text")]
    pub addr: Address,
    /// A word of the product's own on it, empty by default: where its clients find this member, say. Given with every
    /// hint at who leads.
    #[serde(with = "text", default, skip_serializing_if = "Tag::is_empty")]
    pub tag: Tag,
}

impl Member {
    /// A member without a tag.
    pub fn new(id: u64, addr: Address) -> Member {
        Member { id, addr, tag: Tag::default() }
    }
}

/// What may happen to data at the end of the log on this medium when the power fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// What was flushed stays: drives with power-loss protection, or flash that keeps its promises.
    /// An unreadable last frame was a torn write, and is dropped.
    Safe,
    /// What was flushed may be damaged by a later power cut: SD cards, cheap flash. An unreadable
    /// last frame may have been acknowledged: the replica recovers it from its peers before it votes again. Zeros are
    /// written behind the log's end, so that this is in doubt only where a write was in flight: while frames are
    /// small, as many bytes as the frames themselves; under load with large ones next to none.
    #[default]
    Lossy,
}

/// Which backend does the input and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// io_uring where the kernel has it and permits it, else the portable one; the choice is logged.
    #[default]
    Auto,
    /// io_uring, or fail to start.
    Uring,
    /// epoll and a thread for files.
    Portable,
}

/// Where the state machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplyOn {
    /// On the reactor's thread: no hand-over, the lowest latency. For state machines that take
    /// microseconds; a slow one delays heartbeats.
    Reactor,
    /// On a thread of its own, behind a bounded queue: a slow one delays only its own replies.
    #[default]
    Thread,
}

/// From where administrative requests are taken: to have a snapshot made, to copy one ([`client`](crate::client),
/// `kontiki snapshot`, `kontiki backup`). Nothing proves yet who asks, so that it is the machine that counts.
///
/// ```
/// # use kontiki::{Admin, Config, Member};
/// # let member = Member::new(1, ([127, 0, 0, 1], 7000).into());
/// let config = Config { admin: Admin::Any, ..Config::new(0x6b6f6e74696b69, 1, vec![member], "/var/lib/product/log") };
/// config.check()?;
/// # Ok::<(), kontiki::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// From programs on this replica's own machine alone: over a loopback address.
    #[default]
    Loopback,
    /// From whoever reaches the port. A copy of a snapshot is all that the state machine knows: only for networks where
    /// everybody may have that.
    Any,
}

/// Everything a replica is told. Field by field with defaults, see [`Config::new`].
///
/// ```
/// use kontiki::{Config, Medium, Member};
///
/// let member = |id: u64| Member::new(id, ([10, 0, 0, id as u8], 7000).into());
/// let mut config = Config::new(0x6b6f6e74696b69, 1, (1..=3).map(member).collect(), "/var/lib/product/log");
/// config.medium = Medium::Safe; // a drive with power-loss protection
/// config.max_entry_bytes = 16 << 10;
/// config.check()?;
///
/// // The same from a file: unknown keys and values out of range are refused by name.
/// let wrong = Config::from_toml("heartbeat_ms = 0").unwrap_err();
/// assert!(wrong.to_string().contains("cluster"), "the first thing that is missing: {wrong}");
/// # Ok::<(), kontiki::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The cluster, drawn once and the same on every member: 32 hexadecimal digits.
    #[serde(with = "hex128")]
    pub cluster: u128,
    /// This replica: the id of one of `members`.
    pub id: u64,
    /// All members, this one included: 1 to 9.
    pub members: Vec<Member>,
    /// Where to listen, if not at this member's own address (behind a translation of addresses, say). Needed where that
    /// is a name.
    pub listen: Option<SocketAddr>,
    /// The data directory; made if missing. One process at a time.
    pub dir: PathBuf,

    /// Shortest election timeout, in milliseconds.
    pub election_min_ms: u64,
    /// Longest election timeout, in milliseconds; more than `election_min_ms`.
    pub election_max_ms: u64,
    /// Where this replica's disk is too slow for these two, an election waits longer, for what was measured: a vote
    /// counts once it is durable. In no case longer than this, in milliseconds, or `election_max_ms` if that is
    /// more.
    pub election_limit_ms: u64,
    /// Heartbeat interval, in milliseconds; at most a third of `election_min_ms`.
    pub heartbeat_ms: u64,

    /// Longest payload of an entry, in bytes.
    pub max_entry_bytes: usize,
    /// Longest frame (one batch), in bytes: a multiple of 4096 that holds at least one longest entry.
    pub max_frame_bytes: usize,
    /// Proposals in flight on this node before callers get `Busy`.
    pub max_in_flight: usize,
    /// Longest reply of the state machine, in bytes.
    pub reply_bytes: usize,
    /// Memory for frames in flight, in bytes: a power of two, at least sixteen frames: with fewer, those being written
    /// leave no room for what followers are still to be sent.
    pub ring_bytes: usize,
    /// Sent to one follower and not acknowledged, in bytes.
    pub window_bytes: u64,
    /// Sent to one follower and not acknowledged, in frames.
    pub window_frames: u32,
    /// How long a follower that makes no progress may hold the leader back, in milliseconds; zero: it never does. One
    /// that is slower than the load but goes on is waited for once memory is full, so that it does not fall behind
    /// what the log retains.
    pub hold_back_ms: u64,
    /// Connections of clients at once; zero, the default: none. The port is the peers' and not encrypted: whoever
    /// reaches it and is served as a client can propose, and read what the state machine replies. With zero it
    /// still answers who asks for the node's status, and no more.
    pub max_clients: usize,
    /// From where administrative requests are taken.
    pub admin: Admin,

    /// Size of a log segment, in bytes: a multiple of 4096, more than four frames.
    pub segment_bytes: u64,
    /// Log kept behind what is not needed here any more, for followers that were away, in bytes.
    pub retention_bytes: u64,
    /// Log since the last snapshot, in bytes, after which the next is made: of a state machine in memory
    /// ([`StateMachine::snapshot`](crate::StateMachine::snapshot)), or a small one, where the machine is durable by
    /// itself. The log forgets what two of them hold. Zero, the default: a quarter of `retention_bytes`, or a segment where that is more.
    pub snapshot_log_bytes: u64,
    /// How fast a snapshot is written, or fetched, at most, in bytes per second, at least 262144; zero, the default: as fast
    /// as the log leaves the disk to it. Where a snapshot takes longer than the log needs to grow by what is retained, the log
    /// grows beyond that: the replica says so.
    pub snapshot_bytes_per_s: u64,
    /// How long the log of this replica, once it has no room left, is kept for a peer that takes a snapshot of it, in
    /// seconds: as long as the rest of the snapshot comes within this time at the pace so far. One that is slower begins
    /// anew with a newer snapshot ([`Event::SnapshotTooSlow`](crate::Event::SnapshotTooSlow)). Zero: it is kept for nobody
    /// then.
    pub hold_max_s: u64,
    /// Writes to the log in flight at once.
    pub writes_in_flight: usize,
    /// What the medium may do in a power cut.
    pub medium: Medium,

    /// Which backend does input and output.
    pub backend: Backend,
    /// Where the state machine runs.
    pub apply_on: ApplyOn,
    /// Seed of the election jitter; zero draws one from the clock, the id and the boot number.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cluster: 0,
            id: 0,
            members: Vec::new(),
            listen: None,
            dir: PathBuf::new(),
            election_min_ms: 150,
            election_max_ms: 300,
            election_limit_ms: 10_000,
            heartbeat_ms: 40,
            max_entry_bytes: 64 << 10,
            max_frame_bytes: 256 << 10,
            max_in_flight: 8192,
            reply_bytes: 64,
            ring_bytes: 16 << 20,
            window_bytes: 4 << 20,
            window_frames: 64,
            hold_back_ms: 100,
            max_clients: 0,
            admin: Admin::default(),
            segment_bytes: 16 << 20,
            retention_bytes: 256 << 20,
            snapshot_log_bytes: 0,
            snapshot_bytes_per_s: 0,
            hold_max_s: limits::DEFAULT_HOLD_S,
            writes_in_flight: 2,
            medium: Medium::default(),
            backend: Backend::default(),
            apply_on: ApplyOn::default(),
            seed: 0,
        }
    }
}

/// A configuration value that cannot be: its name, what it is, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is out of range.
    #[error("configuration: `{name}` is {value}: {must}")]
    Value {
        /// The key.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        must: String,
    },
    /// The text is not TOML, a key is unknown, or a value has the wrong type.
    #[error("configuration: {0}")]
    Parse(String),
    /// The file could not be read.
    #[error("configuration file {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl Config {
    /// A configuration with the defaults, for replica `id` of `members` in `dir`.
    pub fn new(cluster: u128, id: u64, members: Vec<Member>, dir: impl Into<PathBuf>) -> Config {
        Config { cluster, id, members, dir: dir.into(), ..Config::default() }
    }

    /// A configuration for a board with little memory: a replica stays below 16 MiB, where the defaults take up to 32.
    /// Batches are smaller, and so is throughput under full load: entries of at most 16 KiB, 2,048 proposals in
    /// flight.
    pub fn small(cluster: u128, id: u64, members: Vec<Member>, dir: impl Into<PathBuf>) -> Config {
        Config {
            max_entry_bytes: 16 << 10,
            max_frame_bytes: 64 << 10,
            max_in_flight: 2048,
            ring_bytes: 4 << 20,
            window_bytes: 1 << 20,
            segment_bytes: 4 << 20,
            retention_bytes: 64 << 20,
            ..Config::new(cluster, id, members, dir)
        }
    }

    /// Reads TOML. Unknown keys are refused.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] with the place in the text, [`ConfigError::Value`] for a value out of range.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|e| ConfigError::Parse(e.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// This member's entry.
    pub(crate) fn me(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.id == self.id)
    }

    /// Where this replica listens.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.listen.or_else(|| self.me().and_then(|m| m.addr.socket()))
    }

    /// Longest frame that this replica takes from a leader, in bytes, whatever it seals itself: half of the memory for
    /// frames can be made free for one, and one must fit into a segment. Peers are told.
    pub(crate) fn takes_frame_bytes(&self) -> usize {
        let segment = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX) - kontiki_mem::BLOCK_BYTES;
        limits::MAX_FRAME_BYTES.min(self.ring_bytes / 2).min(segment)
    }

    /// Log since the last snapshot, in bytes, after which there is to be another.
    pub(crate) fn snapshot_bytes_of_log(&self) -> u64 {
        match self.snapshot_log_bytes {
            0 => (self.retention_bytes / limits::SNAPSHOT_SHARE).max(self.segment_bytes),
            bytes => bytes,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first value that cannot be, by name.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |name, value: String, must: &str| Err(ConfigError::Value { name, value, must: must.to_owned() });
        if self.cluster == 0 {
            return bad(
                "cluster",
                "missing, or 0".into(),
                "must be 32 hexadecimal digits, drawn once per cluster, the same on each member",
            );
        }
        if self.members.is_empty() || self.members.len() > limits::MAX_VOTERS {
            return bad("members", format!("{} members", self.members.len()), "must be 1 to 9 members");
        }
        for (i, m) in self.members.iter().enumerate() {
            if m.id == 0 {
                return bad("members", "a member with id 0".into(), "ids start at 1");
            }
            if self.members.iter().skip(i + 1).any(|n| n.id == m.id) {
                return bad("members", format!("id {} twice", m.id), "each id may stand once");
            }
            if self.members.iter().skip(i + 1).any(|n| n.addr == m.addr && m.addr.port() != 0) {
                return bad("members", format!("address {} twice", m.addr), "each address may stand once");
            }
        }
        if self.me().is_none() {
            return bad("id", self.id.to_string(), "must be the id of one of `members`");
        }
        if let (None, Some(own)) = (self.listen_addr(), self.me()) {
            let must = "must be given, since this member's own address is a name: the address to listen at, like 0.0.0.0:7001";
            return bad("listen", format!("missing (own address {})", own.addr), must);
        }
        if self.dir.as_os_str().is_empty() {
            return bad("dir", "missing, or empty".into(), "must name the data directory");
        }
        if self.dir.as_os_str().as_encoded_bytes().contains(&0) {
            return bad("dir", format!("{:?}", self.dir), "must hold no NUL byte");
        }
        let range = |name, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::Value { name, value: value.to_string(), must: format!("must be {low} to {high}") })
            }
        };
        range("heartbeat_ms", self.heartbeat_ms, 1, 60_000)?;
        let least = 3 * self.heartbeat_ms;
        if !(least..=600_000).contains(&self.election_min_ms) {
            let must = format!("must be {least} (three times heartbeat_ms) to 600000");
            return Err(ConfigError::Value { name: "election_min_ms", value: self.election_min_ms.to_string(), must });
        }
        range("election_max_ms", self.election_max_ms, self.election_min_ms + 1, 1_200_000)?;
        range("election_limit_ms", self.election_limit_ms, 1, 1_200_000)?;
        let block = kontiki_mem::BLOCK_BYTES;
        range("max_frame_bytes", self.max_frame_bytes as u64, limits::MIN_FRAME_BYTES as u64, limits::MAX_FRAME_BYTES as u64)?;
        if !self.max_frame_bytes.is_multiple_of(block) {
            return bad("max_frame_bytes", self.max_frame_bytes.to_string(), "must be a multiple of 4096");
        }
        let room =
            self.max_frame_bytes - kontiki_frame::BODY_OFFSET - kontiki_frame::ENTRY_LENGTH_BYTES - kontiki_frame::SESSION_PREFIX_BYTES;
        range("max_entry_bytes", self.max_entry_bytes as u64, 1, room as u64)?;
        range("max_in_flight", self.max_in_flight as u64, 1, 1 << 20)?;
        range("reply_bytes", self.reply_bytes as u64, 0, limits::MAX_REPLY_BYTES as u64)?;
        if !self.ring_bytes.is_power_of_two() || self.ring_bytes < 16 * self.max_frame_bytes || self.ring_bytes > 1 << 30 {
            return bad(
                "ring_bytes",
                self.ring_bytes.to_string(),
                "must be a power of two, at least sixteen times max_frame_bytes, at most 1 GiB",
            );
        }
        range("window_bytes", self.window_bytes, self.max_frame_bytes as u64, self.ring_bytes as u64)?;
        range("window_frames", self.window_frames.into(), 1, 256)?;
        range("hold_back_ms", self.hold_back_ms, 0, 60_000)?;
        range("max_clients", self.max_clients as u64, 0, limits::MAX_CLIENTS as u64)?;
        let least = 4 * self.max_frame_bytes as u64 + block as u64;
        if !(least..=log::MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            let must = format!(
                "must be {least} to {}: four longest frames and 4096. A log that exists keeps the size it was made with: for that, lower max_frame_bytes",
                log::MAX_SEGMENT_BYTES
            );
            return Err(ConfigError::Value { name: "segment_bytes", value: self.segment_bytes.to_string(), must });
        }
        if !self.segment_bytes.is_multiple_of(block as u64) {
            return bad("segment_bytes", self.segment_bytes.to_string(), "must be a multiple of 4096");
        }
        // The log keeps track of so many segments: were all of them kept, it would be full for good.
        let most = (log::MAX_SEGMENTS as u64 - limits::MIN_FREE_SEGMENTS) * self.segment_bytes;
        range("retention_bytes", self.retention_bytes, 0, most)?;
        range("snapshot_log_bytes", self.snapshot_log_bytes, 0, most / limits::SNAPSHOT_SHARE)?;
        range("hold_max_s", self.hold_max_s, 0, limits::MAX_HOLD_S)?;
        let least = limits::MIN_SNAPSHOT_BYTES_PER_S;
        if (1..least).contains(&self.snapshot_bytes_per_s) {
            let must = format!("must be 0, for no cap, or at least {least}: the log would grow faster than a snapshot is written");
            return Err(ConfigError::Value { name: "snapshot_bytes_per_s", value: self.snapshot_bytes_per_s.to_string(), must });
        }
        range("writes_in_flight", self.writes_in_flight as u64, 1, 16)?;
        self.check_memory()
    }

    /// What is set aside at start must be memory that a machine can have.
    fn check_memory(&self) -> Result<(), ConfigError> {
        let product = |a: usize, b: usize| (a as u64).saturating_mul(b as u64);
        let responses = product(2 * self.max_clients, self.reply_bytes.max(limits::STATUS_BYTES)).saturating_mul(limits::CLIENT_REQUESTS);
        for (name, bytes, what) in [
            ("reply_bytes", product(self.max_in_flight, self.reply_bytes), "times max_in_flight"),
            ("max_clients", product(self.max_clients, self.max_entry_bytes), "times max_entry_bytes"),
            ("max_clients", responses, "times the responses that each may have waiting, 128 of reply_bytes or 8 KiB,"),
        ] {
            if bytes > limits::MAX_TABLE_BYTES {
                let must = format!("{what} must not take more than 2 GiB of memory");
                return Err(ConfigError::Value { name, value: format!("too much ({bytes} bytes)"), must });
            }
        }
        Ok(())
    }
}

/// An address as people write it.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// The cluster id as people write it.
mod hex128 {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{value:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = if digits { u128::from_str_radix(&text, 16).ok() } else { None };
        value.ok_or_else(|| D::Error::custom("`cluster` must be 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"
        cluster = "00000000000000000000000000000a11"
        id = 1
        dir = "/tmp/x"
        members = [{ id = 1, addr = "127.0.0.1:7001" }, { id = 2, addr = "127.0.0.1:7002" }, { id = 3, addr = "127.0.0.1:7003" }]
    "#;

    #[test]
    fn good_text_gives_the_defaults() {
        let config = Config::from_toml(GOOD).unwrap();
        assert_eq!(config.cluster, 0xa11);
        assert_eq!(config.election_min_ms, 150);
        assert_eq!(config.listen_addr().unwrap().port(), 7001);
    }

    /// Whoever writes something else is told what may stand there.
    #[test]
    fn administrative_requests_are_taken_from_loopback_unless_any_is_written() {
        let admin = |line: &str| Config::from_toml(&format!("{line}\n{GOOD}")).map(|config| config.admin);
        assert_eq!(admin(""), Ok(Admin::Loopback));
        assert_eq!(admin("admin = 'loopback'"), Ok(Admin::Loopback));
        assert_eq!(admin("admin = 'any'"), Ok(Admin::Any));
        for wrong in ["'Any'", "'all'", "''", "'0.0.0.0'", "true", "1", "['any']"] {
            let error = admin(&format!("admin = {wrong}")).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ConfigError::Parse(_)) && text.contains("admin"), "{text}");
            assert!(!wrong.starts_with('\'') || text.contains("`loopback` or `any`"), "{text}");
        }
    }

    /// A tag comes as it was written; one that is none names what is wrong, and where.
    #[test]
    fn a_member_may_have_a_tag() {
        let tagged = |tag: &str| GOOD.replace("id = 2, ", &format!("id = 2, tag = {tag}, "));
        let config = Config::from_toml(&tagged("'https://board-2.local:8080'")).unwrap();
        let tags: Vec<&str> = config.members.iter().map(|member| member.tag.as_str()).collect();
        assert_eq!(tags, ["", "https://board-2.local:8080", ""]);
        let long = "x".repeat(limits::MAX_TAG_BYTES + 1);
        for (tag, what) in [(format!("'{long}'"), "65 bytes"), ("\"\\u001b[2J\"".into(), "control"), ("7".into(), "string")] {
            let error = Config::from_toml(&tagged(&tag)).unwrap_err().to_string();
            assert!(error.contains("tag") && error.contains(what), "{tag}: {error}");
        }
    }

    #[test]
    fn a_member_may_have_a_name_and_says_where_to_listen() {
        let named = GOOD.replace("127.0.0.1:7002", "board-2.local:7002");
        let config = Config::from_toml(&named).unwrap();
        assert_eq!((config.members[1].addr.to_string().as_str(), config.members[1].addr.socket()), ("board-2.local:7002", None));
        let own = named.replace("id = 1\n", "id = 2\n");
        let error = Config::from_toml(&own).unwrap_err().to_string();
        assert!(error.contains("`listen`") && error.contains("board-2.local:7002"), "{error}");
        let told = format!("listen = \"0.0.0.0:7002\"\n{own}");
        assert_eq!(Config::from_toml(&told).unwrap().listen_addr().unwrap().port(), 7002);
        for bad in ["board-2.local", "board-2:0", "::1:7002"] {
            let error = Config::from_toml(&GOOD.replace("127.0.0.1:7002", bad)).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn the_small_one_is_good_too() {
        let members = Config::from_toml(GOOD).unwrap().members;
        let small = Config::small(0xa11, 1, members, "/tmp/x");
        small.check().unwrap();
        assert!(small.ring_bytes < Config::default().ring_bytes);
    }

    /// No cap, or one at which a snapshot comes to an end.
    #[test]
    fn snapshots_may_be_capped_but_not_to_a_trickle() {
        for bytes_per_s in [0, limits::MIN_SNAPSHOT_BYTES_PER_S, u64::MAX >> 1] {
            Config::from_toml(&format!("snapshot_bytes_per_s = {bytes_per_s}\n{GOOD}")).unwrap();
        }
    }

    #[test]
    fn every_bad_value_is_named() {
        for (line, name) in [
            ("heartbeat_ms = 0", "heartbeat_ms"),
            ("election_min_ms = 10", "election_min_ms"),
            ("election_max_ms = 100", "election_max_ms"),
            ("election_limit_ms = 0", "election_limit_ms"),
            ("max_entry_bytes = 0", "max_entry_bytes"),
            ("max_entry_bytes = 999999999", "max_entry_bytes"),
            ("max_frame_bytes = 17000", "max_frame_bytes"),
            ("ring_bytes = 1000000", "ring_bytes"),
            ("segment_bytes = 4294967296", "segment_bytes"),
            ("max_frame_bytes = 16384\nmax_entry_bytes = 1024\nsegment_bytes = 262144", "retention_bytes"),
            ("max_in_flight = 1048576\nreply_bytes = 65536", "reply_bytes"),
            ("max_clients = 1024\nreply_bytes = 65536", "max_clients"),
            ("segment_bytes = 4096", "segment_bytes"),
            ("snapshot_bytes_per_s = 1", "snapshot_bytes_per_s"),
            ("snapshot_bytes_per_s = 262143", "snapshot_bytes_per_s"),
            ("writes_in_flight = 0", "writes_in_flight"),
            ("max_in_flight = 0", "max_in_flight"),
            ("window_frames = 0", "window_frames"),
            ("hold_back_ms = 60001", "hold_back_ms"),
            ("hold_max_s = 86401", "hold_max_s"),
            ("hold_max_s = -1", "hold_max_s"),
            ("hold_max_s = 'long'", "hold_max_s"),
            ("medium = 'wet'", "medium"),
            ("admin = 'all'", "admin"),
            ("admin = true", "admin"),
            ("colour = 1", "colour"),
        ] {
            let error = Config::from_toml(&format!("{line}\n{GOOD}")).unwrap_err().to_string();
            assert!(error.contains(name), "{line}: {error}");
        }
        for (from, to, name) in [
            ("id = 1\n", "id = 9\n", "`id`"),
            ("id = 2, addr", "id = 1, addr", "members"),
            ("127.0.0.1:7002", "127.0.0.1:7001", "members"),
            ("\"/tmp/x\"", "\"/tmp/\\u0000x\"", "`dir`"),
            ("00000000000000000000000000000a11", "a11", "cluster"),
            ("id = 2, addr", "id = 2, port = 3, addr", "port"),
        ] {
            let error = Config::from_toml(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(name), "{from} -> {to}: {error}");
        }
    }
}
