//! The scan: every segment is opened, its header read, and recovery fed with what is in them.

use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Io, Op};

use super::{Opening, Step, Then};
use crate::layout::whole_blocks;
use crate::recovery::{Flow, Recovery};
use crate::stream::{Next, Stream};
use crate::{WalError, names};

impl Opening {
    pub(super) fn open_segment(&mut self, at: usize) -> Result<Then, WalError> {
        if let Some(&number) = self.listed.get(at) {
            return Ok(Then::Op(Step::OpenSegment(at), Op::Open { dir: self.dir, name: names::segment(number), create: false }));
        }
        let files = std::mem::take(&mut self.files);
        let recovery = Recovery::new(self.identity, self.options.segment_bytes, files, &self.record);
        let mut scan = Box::new((recovery, Stream::new()));
        self.seek(&mut scan);
        self.scan = Some(scan);
        Ok(Then::Recover)
    }

    /// Points the reads at what recovery wants next.
    pub(super) fn seek(&self, scan: &mut (Recovery, Stream)) {
        let (recovery, stream) = scan;
        let Some(want) = recovery.want() else { return };
        let (Some(file), Some(&handle)) = (recovery.files().get(want.file), self.segment_handles.get(want.file)) else { return };
        stream.seek(handle, want.offset, whole_blocks(file.bytes.min(self.options.segment_bytes)));
    }

    /// Feeds recovery with what was read, and reads on.
    pub(super) fn recover(&mut self, io: &mut dyn Io) -> Result<Then, WalError> {
        let Some(mut scan) = self.scan.take() else { panic!("recovery is under way") };
        while scan.0.want().is_some() && !self.stopping && self.unread.is_none() {
            let next = scan.1.next();
            scan.1.pump(io);
            let flow = match next {
                Next::Bytes(buf, bytes) => scan.0.feed(buf.bytes().get(..bytes).unwrap_or_default(), &mut |_| ()),
                Next::Unreadable => scan.0.feed(&[0xff; BLOCK_BYTES], &mut |_| ()),
                Next::Short(source) => {
                    let file = scan.0.want().and_then(|want| scan.0.files().get(want.file));
                    self.unread = Some(WalError::of("read", names::segment(file.map_or(0, |file| file.number)), source));
                    break;
                }
                Next::End => scan.0.end_of_file(),
                Next::Wait => break,
            };
            if flow == Flow::Moved {
                self.seek(&mut scan);
            }
        }
        // Reads that nobody waits for any more have to come back all the same.
        if scan.1.outstanding() > 0 || self.unread.is_none() && (self.stopping || scan.0.want().is_some()) {
            self.scan = Some(scan);
            return Ok(Then::Recover);
        }
        if let Some(error) = self.unread.take() {
            return Err(error);
        }
        self.judge_log(scan.0.finish(&self.record, self.options.applied, &self.bases))
    }
}
