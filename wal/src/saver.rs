//! Making the hard state durable: one update at a time, first copy, then second, then the answer.

use std::collections::VecDeque;

use kontiki_core::WriteId;
use kontiki_io::{Handle, Io, IoData, Op};
use kontiki_mem::Pool;

use crate::HardState;
use crate::hard_state::{Copy, Record, SegmentSpan};
use crate::limits::MAX_HARD_STATE_WAITERS;
use crate::segment_header::Identity;
use crate::token::Purpose;

#[derive(Debug)]
pub(crate) struct Saver {
    file: Handle,
    identity: Identity,
    blocks: Pool,
    /// Durable, or being written.
    record: Record,
    step: Option<Copy>,
    /// The system lacked something for it: nothing is outstanding, and it is to be tried again.
    waits: bool,
    /// The segments that the next update names, and those that the last durable one did.
    span: SegmentSpan,
    durable_span: SegmentSpan,
    /// An update is due though nobody waits for it.
    due: bool,
    /// Newest state asked for since the update under way began; the ones before it are covered by it.
    waiting: Option<HardState>,
    /// Writes not answered yet, oldest first, and how many of them the update under way covers.
    waiters: VecDeque<WriteId>,
    covered: usize,
    /// A write failed: nothing more is written or answered.
    given_up: bool,
}

impl Saver {
    pub(crate) fn new(file: Handle, identity: Identity, record: Record, blocks: Pool) -> Saver {
        let waiters = VecDeque::with_capacity(MAX_HARD_STATE_WAITERS);
        Saver {
            file,
            identity,
            blocks,
            span: record.span,
            durable_span: record.span,
            due: false,
            record,
            step: None,
            waits: false,
            waiting: None,
            waiters,
            covered: 0,
            given_up: false,
        }
    }

    pub(crate) fn file(&self) -> Handle {
        self.file
    }

    /// Whether the hard state, as far as it is or becomes durable, says that the node may have lost what it
    /// acknowledged.
    pub(crate) fn recovering(&self) -> bool {
        self.record.state.recovering || self.waiting.is_some_and(|state| state.recovering)
    }

    pub(crate) fn idle(&self) -> bool {
        !self.busy() && self.waiting.is_none() && !self.due
    }

    /// Whether an update is under way.
    pub(crate) fn busy(&self) -> bool {
        self.step.is_some()
    }

    /// Nothing more becomes durable.
    pub(crate) fn give_up(&mut self) {
        self.waiting = None;
        self.due = false;
        self.given_up = true;
        if std::mem::take(&mut self.waits) {
            self.step = None;
        }
    }

    /// The write under way found too little of something: it waits to be tried again.
    pub(crate) fn lacked(&mut self) {
        assert!(self.busy() && !self.waits, "a completion for an update that is not under way");
        self.waits = true;
    }

    /// Whether a write waits to be tried again.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Tries again what waits for that.
    pub(crate) fn again(&mut self, io: &mut dyn Io) {
        if std::mem::take(&mut self.waits)
            && let Some(copy) = self.step
        {
            self.write(copy, io);
        }
    }

    /// Names these segments with the next update, which is due now.
    pub(crate) fn note(&mut self, span: SegmentSpan) {
        assert!(span.oldest >= self.span.oldest && span.newest >= self.span.newest, "what is named only moves on");
        self.span = span;
        self.due = true;
    }

    /// How far the log was durable when the newest update began.
    pub(crate) fn watermark(&self) -> u64 {
        self.record.watermark
    }

    /// The segments named last, durably or not yet.
    pub(crate) fn span(&self) -> SegmentSpan {
        self.span
    }

    /// Whether the segments named last are so durably.
    pub(crate) fn noted(&self) -> bool {
        self.span == self.durable_span && !self.due
    }

    /// The segments that the hard state names durably.
    pub(crate) fn named(&self) -> SegmentSpan {
        self.durable_span
    }

    /// Writes not answered yet.
    pub(crate) fn waiters(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn save(&mut self, write: WriteId, state: HardState) {
        assert!(state.term >= self.waiting.unwrap_or(self.record.state).term, "terms never fall");
        self.waiters.push_back(write);
        self.waiting = Some(state);
    }

    /// Begins an update if one is due. The log is `durable` up to this position.
    pub(crate) fn pump(&mut self, durable: u64, io: &mut dyn Io) {
        if self.step.is_some() || self.waiting.is_none() && !self.due {
            return;
        }
        let state = self.waiting.take().unwrap_or(self.record.state);
        self.update(state, 0, durable);
        self.covered = self.waiters.len();
        self.write(Copy::First, io);
    }

    /// Notes where the log ends, as the last update before it is closed.
    pub(crate) fn close(&mut self, end: u64, durable: u64, io: &mut dyn Io) {
        assert!(self.idle(), "nothing is saved after this");
        self.update(self.record.state, end, durable);
        self.write(Copy::First, io);
    }

    fn update(&mut self, state: HardState, clean_end: u64, watermark: u64) {
        self.due = false;
        let Record { sequence, .. } = self.record;
        self.record = Record { sequence: sequence + 1, state, clean_end, span: self.span, watermark, ..self.record };
    }

    fn write(&mut self, copy: Copy, io: &mut dyn Io) {
        io.submit(Purpose::HardState.token(), write(&self.record, &self.identity, self.file, copy, &self.blocks));
        self.step = Some(copy);
    }

    /// A write has completed. Once both copies are durable, the writes that this answers.
    pub(crate) fn written(&mut self, io: &mut dyn Io) -> impl Iterator<Item = WriteId> {
        let answered = match self.step {
            Some(_) if self.given_up => {
                self.step = None;
                0
            }
            Some(Copy::First) => {
                self.write(Copy::Second, io);
                0
            }
            Some(Copy::Second) => {
                self.step = None;
                self.durable_span = self.record.span;
                std::mem::take(&mut self.covered)
            }
            None => panic!("a completion for an update that is not under way"),
        };
        self.waiters.drain(..answered)
    }
}

/// The operation that makes one copy of a record durable.
pub(crate) fn write(record: &Record, identity: &Identity, file: Handle, copy: Copy, blocks: &Pool) -> Op {
    let Some(mut block) = blocks.take() else { panic!("a completed write has given its buffer back") };
    record.encode(identity, block.bytes_mut());
    let length = block.len();
    Op::Write { file, offset: copy.offset(), data: IoData::Pool(block, length), durable: true }
}
