//! Which boot of the machine this is, and which directory on which medium: what tells a process that was killed
//! from a power cut.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{IoError, errno};

/// Where a directory lives, and since when: equal twice means that nothing came between which could have lost what was
/// written. Zero is "not known", and has to be taken for a power cut, as two different values have.
///
/// `boot` is the kernel's boot id. A container that was given a boot id of its own has a new one with each start.
///
/// `place` stands for the mount, the device below it and the directory. What it tells apart:
///
/// | what happened since | 6.8 and newer | 5.15 to 6.7 | 5.10 to 5.14 |
/// |---|---|---|---|
/// | a card was pulled and put back, an image attached anew | yes | yes | ext4, XFS, F2FS |
/// | unmounted and mounted again (and changed in between) | yes | ext4, XFS, F2FS | ext4, XFS, F2FS |
/// | the directory was copied, restored or made anew | yes | yes | yes |
/// | a snapshot took the place of a btrfs subvolume | yes (before 6.10 not known) | not known | not known |
/// | which file systems are known at all | ext2 to ext4, XFS, F2FS, btrfs, UBIFS, FAT, exFAT, tmpfs | ext2 to ext4, XFS, F2FS, FAT, exFAT | ext4, XFS, F2FS |
///
/// Of network file systems, FUSE, overlays and ZFS nothing is known: a server that restarts, or a data set that is
/// rolled back, leaves the mount as it is. Not told apart by anybody: older files written over newer ones in the same
/// directory, and a drive that loses its own power, and its cache, without being noticed by the kernel.
///
/// In a container without `/sys`, read as on a kernel from 6.8 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The boot of the machine; zero if it is not known.
    pub boot: u128,
    /// The mount, the device and the directory; zero if what is known of them cannot be relied on.
    pub place: u128,
}

impl Identity {
    /// What can be known of a directory here and now, as [`Op::Identify`](crate::Op) says it: for a program that only
    /// looks, and has no `Io`.
    ///
    /// # Errors
    /// The directory cannot be opened, or something needed to ask is lacking.
    pub fn of(dir: &Path) -> Result<Identity, IoError> {
        let dir = File::open(dir).map_err(|error| IoError::from_errno(errno::number(&error)))?;
        identify(&dir).map_err(IoError::from_errno)
    }

    /// Whether it can be the same as another.
    pub fn is_known(&self) -> bool {
        self.boot != 0 && self.place != 0
    }

    /// Whether nothing can have been lost between these two but by a flush that failed: both are known, and the same.
    pub fn is_same(&self, other: &Identity) -> bool {
        self.is_known() && self == other
    }
}

/// How a file system is to be told from what takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// Its folder in `/sys/fs`, which has an entry for each mounted device.
    folder: Option<&'static str>,
    /// Parts of it can be replaced while it stays mounted.
    subvolumes: bool,
}

/// Local file systems whose mount means one and the same medium. Others are not relied on.
fn kind(magic: u32) -> Option<Kind> {
    let (folder, subvolumes) = match magic {
        0xef53 => (Some("ext4"), false),
        0x5846_5342 => (Some("xfs"), false),
        0xf2f5_2010 => (Some("f2fs"), false),
        0x9123_683e => (None, true),
        // UBIFS, FAT, exFAT, tmpfs.
        0x2405_1905 | 0x4d44 | 0x2011_bab0 | 0x0102_1994 => (None, false),
        _ => return None,
    };
    Some(Kind { folder, subvolumes })
}

/// What is known of the mount and the device: each, where it is known, differs after what it tells apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Evidence {
    /// The mount's number, never given twice within a boot (6.8).
    mount: Option<u64>,
    /// The inode that sysfs gave the mounted file system: it counts up.
    instance: Option<u64>,
    /// The sequence number of the disk (5.15).
    disk: Option<u64>,
    /// The subvolume's number, never given twice (6.10).
    subvolume: Option<u64>,
    /// What may be given again: the numbers of device and mount, the directory's inode; and when that was made.
    directory: [u64; 5],
    /// The directory as the file system knows it for good: inode and generation. Zeros where it does not say.
    handle: [u64; HANDLE_WORDS],
}

impl Evidence {
    /// One value for all of it; zero if that leaves a change of medium unnoticed.
    fn place(&self, kind: Kind) -> u128 {
        let medium = self.mount.or(self.instance).or(self.disk).is_some();
        if !medium || (kind.subvolumes && self.subvolume.is_none()) {
            return 0;
        }
        let optional = [self.mount, self.instance, self.disk, self.subvolume];
        let words = optional.iter().flat_map(|word| [u64::from(word.is_some()), word.unwrap_or(0)]);
        fold(words.chain(self.directory).chain(self.handle)).max(1)
    }
}

/// Words of a file handle: its length, its type, and as many bytes as it can have.
const HANDLE_WORDS: usize = 1 + MOST_HANDLE_BYTES / 8;

/// The kernel's `MAX_HANDLE_SZ`.
const MOST_HANDLE_BYTES: usize = 128;

/// FNV-1a with 128 bits. Not the standard library's: it must stay the same from one build to the next.
fn fold(words: impl Iterator<Item = u64>) -> u128 {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in words.flat_map(u64::to_le_bytes) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash
}

/// What can be known of a directory. The error is the system's number: not that something is unknown, but that it could
/// not be asked.
pub(crate) fn identify(dir: &File) -> Result<Identity, i32> {
    let boot = text("/proc/sys/kernel/random/boot_id")?.and_then(|text| parse_boot(&text)).unwrap_or(0);
    let Some(kind) = kind(file_system(dir)?) else { return Ok(Identity { boot, place: 0 }) };
    Ok(Identity { boot, place: evidence(dir, kind)?.place(kind) })
}

/// The boot id, as the kernel writes it: a UUID.
fn parse_boot(text: &str) -> Option<u128> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    if digits.len() == 32 { u128::from_str_radix(&digits, 16).ok() } else { None }
}

fn file_system(dir: &File) -> Result<u32, i32> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` has room for the answer.
    if unsafe { libc::fstatfs(dir.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(errno::last());
    }
    // SAFETY: all zeros is a valid statfs, and so is what the call wrote.
    let stat = unsafe { stat.assume_init() };
    // The type of `f_type` differs between targets; every magic number has 32 bits.
    Ok(stat.f_type as u32)
}

fn evidence(dir: &File, kind: Kind) -> Result<Evidence, i32> {
    // An older kernel says in the mask what it does not know. The two numbers of a mount share a field.
    let stat = statx(dir, libc::STATX_MNT_ID_UNIQUE | libc::STATX_SUBVOL)?;
    let reused_mount = statx(dir, libc::STATX_MNT_ID)?.stx_mnt_id;
    let known = |mask: u32, value: u64| (stat.stx_mask & mask != 0).then_some(value);
    let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    // A partition has no number of its own: that of the folder above it, its disk's.
    let disk = match number(&format!("/sys/dev/block/{device}/diskseq"))? {
        None => number(&format!("/sys/dev/block/{device}/../diskseq"))?,
        found => found,
    };
    Ok(Evidence {
        mount: known(libc::STATX_MNT_ID_UNIQUE, stat.stx_mnt_id),
        instance: kind.folder.and_then(|folder| instance(folder, &device)),
        disk,
        subvolume: known(libc::STATX_SUBVOL, stat.stx_subvol),
        directory: [
            u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            reused_mount,
            stat.stx_ino,
            known(libc::STATX_BTIME, stat.stx_btime.tv_sec as u64).unwrap_or(0),
            known(libc::STATX_BTIME, u64::from(stat.stx_btime.tv_nsec)).unwrap_or(0),
        ],
        handle: handle(dir),
    })
}

/// The file system's own name for a directory, for as long as that exists.
fn handle(dir: &File) -> [u64; HANDLE_WORDS] {
    /// The kernel's `file_handle`.
    #[repr(C)]
    struct FileHandle {
        bytes: u32,
        kind: i32,
        data: [u8; MOST_HANDLE_BYTES],
    }
    let mut handle = FileHandle { bytes: MOST_HANDLE_BYTES as u32, kind: 0, data: [0; MOST_HANDLE_BYTES] };
    let mut mount: i32 = 0;
    // SAFETY: the path is NUL-terminated, the handle has room for as many bytes as it says, and both outlive the call.
    let failed = unsafe {
        let (handle, mount) = (&raw mut handle, &raw mut mount);
        libc::syscall(libc::SYS_name_to_handle_at, dir.as_raw_fd(), c"".as_ptr(), handle, mount, libc::AT_EMPTY_PATH)
    } != 0;
    let mut words = [0; HANDLE_WORDS];
    if !failed {
        words[0] = u64::from(handle.bytes) << 32 | u64::from(handle.kind as u32);
        let (data, _) = handle.data.as_chunks::<8>();
        for (word, bytes) in words.iter_mut().skip(1).zip(data) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    words
}

fn statx(dir: &File, mask: u32) -> Result<libc::statx, i32> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let mask = mask | libc::STATX_INO | libc::STATX_BTIME;
    loop {
        // SAFETY: the path is NUL-terminated, the descriptor open, and `stat` has room for the answer.
        let failed = unsafe { libc::statx(dir.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, stat.as_mut_ptr()) } != 0;
        if !failed {
            // SAFETY: all zeros is a valid statx, and so is what the call wrote.
            return Ok(unsafe { stat.assume_init() });
        }
        match errno::last() {
            libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}

/// The inode of a mounted file system's folder in sysfs. Such inodes are given in turn, so another mount has another.
fn instance(folder: &str, device: &str) -> Option<u64> {
    let device = std::fs::read_link(format!("/sys/dev/block/{device}")).ok()?;
    let mut path = OsString::from(format!("/sys/fs/{folder}/"));
    path.push(device.file_name()?);
    Some(std::fs::metadata(path).ok()?.ino())
}

fn number(path: &str) -> Result<Option<u64>, i32> {
    Ok(text(path)?.and_then(|text| text.trim().parse().ok()))
}

/// A short file of the kernel's; none if there is none, or it is kept from us.
fn text(path: &str) -> Result<Option<String>, i32> {
    /// Longer than anything that is read here.
    const MOST: u64 = 128;
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) => match errno::number(&error) {
            shortage if errno::is_shortage(shortage) => Err(shortage),
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLAIN: Kind = Kind { folder: None, subvolumes: false };

    fn known() -> Evidence {
        Evidence {
            mount: Some(1),
            instance: Some(2),
            disk: Some(3),
            subvolume: Some(4),
            directory: [5, 6, 7, 8, 9],
            handle: [0; HANDLE_WORDS],
        }
    }

    #[test]
    fn whatever_differs_is_another_place() {
        let place = known().place(PLAIN);
        assert_ne!(place, 0);
        assert_eq!(known().place(PLAIN), place);
        let mut others = vec![
            Evidence { mount: Some(2), ..known() },
            Evidence { mount: None, ..known() },
            Evidence { instance: Some(3), ..known() },
            Evidence { disk: Some(4), ..known() },
            Evidence { disk: Some(0), ..known() },
            Evidence { disk: None, ..known() },
            Evidence { subvolume: Some(5), ..known() },
        ];
        for at in 0..5 {
            let mut other = known();
            other.directory[at] += 1;
            others.push(other);
        }
        for at in 0..HANDLE_WORDS {
            let mut other = known();
            other.handle[at] += 1;
            others.push(other);
        }
        let mut places: Vec<u128> = others.iter().map(|other| other.place(PLAIN)).chain([place]).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), others.len() + 1);
    }

    #[test]
    fn what_would_miss_a_change_of_medium_is_not_known() {
        let nothing = Evidence { directory: [5, 6, 7, 8, 9], ..Evidence::default() };
        assert_eq!(nothing.place(PLAIN), 0);
        for enough in [
            Evidence { mount: Some(1), ..nothing.clone() },
            Evidence { instance: Some(1), ..nothing.clone() },
            Evidence { disk: Some(1), ..nothing.clone() },
        ] {
            assert_ne!(enough.place(PLAIN), 0);
            assert_eq!(enough.place(Kind { subvolumes: true, ..PLAIN }), 0, "the subvolume may have been replaced");
        }
    }

    #[test]
    fn not_known_is_never_the_same() {
        let known = Identity { boot: 1, place: 2 };
        assert!(known.is_same(&known));
        for other in [Identity { boot: 2, ..known }, Identity { place: 3, ..known }] {
            assert!(!known.is_same(&other));
        }
        for unknown in [Identity { boot: 0, ..known }, Identity { place: 0, ..known }, Identity::default()] {
            assert!(!unknown.is_same(&unknown));
        }
    }

    #[test]
    fn a_boot_id_is_a_uuid() {
        assert_eq!(parse_boot("3f2504e0-4f89-11d3-9a0c-0305e82c3301\n"), Some(0x3f25_04e0_4f89_11d3_9a0c_0305_e82c_3301));
        for bad in ["", "\n", "3f2504e0", "3f2504e0-4f89-11d3-9a0c-0305e82c330x"] {
            assert_eq!(parse_boot(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_directory_made_again_is_another() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::create_dir(&path).unwrap();
        let first = identify(&File::open(&path).unwrap()).unwrap();
        assert_eq!(identify(&File::open(&path).unwrap()).unwrap(), first);
        assert_ne!(first.boot, 0, "this kernel says which boot it is");
        // In the same place, and mostly with the same inode.
        std::fs::remove_dir(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let second = identify(&File::open(&path).unwrap()).unwrap();
        assert!(!second.is_same(&first));
        assert_eq!(second.boot, first.boot);
    }

    #[test]
    fn a_file_system_that_is_not_local_is_not_relied_on() {
        // procfs stands for the others: it has a mount, but is not in the list.
        let found = identify(&File::open("/proc").unwrap()).unwrap();
        assert_eq!(found.place, 0);
    }
}
