//! Making the ring: what this kernel offers, best first, and what is done without.

use io_uring::{IoUring, Probe, opcode};

use super::table::Table;
use crate::limits::{MAX_CQES_PER_OP, MAX_REGISTERED, MAX_SQ_ENTRIES, OWN_CQES};
use crate::select::Region;
use crate::{Options, errno};

/// Features to do without, though the kernel has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Completions are not deferred to the reactor's own enters (6.1).
    pub deferred: bool,
    /// Waiting ends by a timeout operation instead of an argument of the enter (5.11).
    pub timed_enter: bool,
    /// Memory is pinned with every operation.
    pub registered_memory: bool,
    /// Files are looked up with every operation.
    pub registered_files: bool,
    /// A flush follows each durable write, linked to it.
    pub dsync: bool,
    /// Files are opened through the page cache.
    pub direct: bool,
    /// Opening, allocating, renaming and unlinking run on the file worker.
    pub metadata: bool,
}

impl Without {
    /// Everything that can be done without: what the oldest kernels (5.10) lack, and more.
    pub const ALL: Without = Without {
        deferred: true,
        timed_enter: true,
        registered_memory: true,
        registered_files: true,
        dsync: true,
        direct: true,
        metadata: true,
    };
}

/// What the ring can do.
#[derive(Clone, Debug)]
pub(super) struct Features {
    /// Completions are posted only by the reactor's own enters.
    pub(super) deferred: bool,
    /// The ring starts disabled, and the first thread that turns it owns it.
    pub(super) owned: bool,
    /// The kernel says in the ring when it has work that needs an enter.
    pub(super) flags_work: bool,
    pub(super) timed_enter: bool,
    pub(super) files: bool,
    /// Why memory is not registered; empty if it is, or if none was offered.
    pub(super) memory: String,
    pub(super) registered_bytes: usize,
    pub(super) dsync: bool,
    pub(super) direct: bool,
    pub(super) open: bool,
    pub(super) allocate: bool,
    pub(super) rename: bool,
    pub(super) unlink: bool,
}

/// Base addresses, lengths: by the index they are registered under.
pub(super) type Regions = heapless::Vec<(usize, usize), MAX_REGISTERED>;

/// Makes the ring, with everything this kernel has to offer. The error says what it lacks, for the operator.
pub(super) fn make(options: &Options, memory: &[Region<'_>]) -> Result<(IoUring, Table, Features, Regions), String> {
    let without = options.without;
    let (ring, deferred, flags_work) = build(options)?;
    let params = ring.params();
    if !params.is_feature_fast_poll() || !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
        return Err("this kernel's io_uring is older than 5.7".into());
    }
    let timed_enter = params.is_feature_ext_arg() && !without.timed_enter;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| format!("its opcodes cannot be probed: {error}"))?;
    const NEEDED: [(u8, &str); 11] = [
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::ReadFixed::CODE, "read_fixed"),
        (opcode::WriteFixed::CODE, "write_fixed"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::AsyncCancel::CODE, "async_cancel"),
    ];
    if let Some((_, name)) = NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(format!("it lacks the operation {name}"));
    }
    if !timed_enter && !probe.is_supported(opcode::Timeout::CODE) {
        return Err("it lacks the operation timeout".into());
    }
    let files = !without.registered_files;
    let table = Table::register(&ring, options.handles, files)
        .map_err(|errno| format!("it takes no table of files (errno {errno}), without which a lock does not outlive a killed process"))?;
    let mut features = Features {
        deferred,
        owned: deferred,
        flags_work,
        timed_enter,
        files,
        memory: String::new(),
        registered_bytes: 0,
        dsync: !without.dsync,
        direct: !without.direct,
        open: !without.metadata && probe.is_supported(opcode::OpenAt::CODE),
        allocate: !without.metadata && probe.is_supported(opcode::Fallocate::CODE),
        rename: !without.metadata && probe.is_supported(opcode::RenameAt::CODE),
        unlink: !without.metadata && probe.is_supported(opcode::UnlinkAt::CODE),
    };
    let regions = register_memory(&ring, memory, without.registered_memory, &mut features);
    Ok((ring, table, features, regions))
}

/// The ring with the best set of flags that this kernel takes; whether completions are deferred, and whether the
/// ring says when it needs an enter.
fn build(options: &Options) -> Result<(IoUring, bool, bool), String> {
    let sq = options.capacity.next_power_of_two().clamp(MAX_CQES_PER_OP, MAX_SQ_ENTRIES) as u32;
    // Never overflows: every operation outstanding has room for all its completions.
    let cq = (options.capacity * MAX_CQES_PER_OP + OWN_CQES).next_power_of_two() as u32;
    let mut refused = None;
    for level in 0..4 {
        if level == 0 && options.without.deferred {
            continue;
        }
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(cq);
        match level {
            // 6.1: one thread owns the ring and its completions.
            0 => {
                builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_r_disabled();
            }
            // 5.19: completions do not interrupt the thread.
            1 => {
                builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
            }
            // 5.18.
            2 => {
                builder.setup_submit_all();
            }
            _ => {}
        }
        match builder.build(sq) {
            Ok(ring) => return Ok((ring, level == 0, level <= 1)),
            // Flags it does not know: fewer, then.
            Err(error) if errno::number(&error) == libc::EINVAL => refused = Some(error),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let errno = refused.as_ref().map_or(0, errno::number);
    Err(match errno {
        libc::ENOSYS => "this kernel has no io_uring".into(),
        libc::EPERM | libc::EACCES => "io_uring is forbidden here (kernel.io_uring_disabled, or a seccomp filter)".into(),
        libc::ENOMEM => "the ring's memory may not be locked (RLIMIT_MEMLOCK)".into(),
        _ => format!("the ring cannot be made (errno {errno})"),
    })
}

fn register_memory(ring: &IoUring, memory: &[Region<'_>], without: bool, features: &mut Features) -> Regions {
    let mut regions = Regions::new();
    if memory.is_empty() {
        return regions;
    }
    if without {
        features.memory = "not wanted".into();
        return regions;
    }
    let mut vectors = heapless::Vec::<libc::iovec, MAX_REGISTERED>::new();
    for region in memory.iter().take(MAX_REGISTERED) {
        // Both have the same capacity, and `take` keeps to it.
        let _ = vectors.push(libc::iovec { iov_base: region.base.cast(), iov_len: region.len });
        let _ = regions.push((region.base as usize, region.len));
    }
    // SAFETY: a region borrows the ring or pool that owns its memory, so it is mapped now; the kernel keeps the
    // pages themselves from here on, whatever becomes of the mapping.
    match unsafe { ring.submitter().register_buffers(&vectors) } {
        Ok(()) => features.registered_bytes = regions.iter().map(|(_, len)| len).sum(),
        Err(error) => {
            regions.clear();
            features.memory = match errno::number(&error) {
                libc::ENOMEM => "RLIMIT_MEMLOCK is too low".into(),
                errno => format!("errno {errno}"),
            };
        }
    }
    regions
}

impl Features {
    /// One line for the operator: what is used, and what is done without and why.
    pub(super) fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut used = String::new();
        let mut missing = String::new();
        let mut note = |have: bool, name: &str| {
            let to = if have { &mut used } else { &mut missing };
            let _ = write!(to, "{}{name}", if to.is_empty() { "" } else { ", " });
        };
        note(self.deferred, "deferred completions");
        note(self.timed_enter, "timed enter");
        note(self.files, "registered files");
        note(self.direct, "direct files");
        note(self.dsync, "dsync writes");
        note(self.open && self.allocate && self.rename && self.unlink, "file metadata in the ring");
        match (self.registered_bytes, self.memory.as_str()) {
            (0, "") => {}
            (0, reason) => note(false, &format!("registered memory ({reason})")),
            (bytes, _) => note(true, &format!("{} KiB of registered memory", bytes >> 10)),
        }
        match (used.is_empty(), missing.is_empty()) {
            (true, _) => format!("without {missing}"),
            (false, true) => used,
            (false, false) => format!("{used}; without {missing}"),
        }
    }
}
