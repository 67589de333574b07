//! What a report measures: groups of cells, each cell one run of the engine and, where there is such a thing, one of
//! the floor.

use clap::ValueEnum;
use serde::Serialize;

use super::Extent;
use crate::bench::load::Load;
use crate::bench::{Apply, Setup};

/// A group of cells that answer one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// Entry sizes by proposals in flight, one caller
    Grid,
    /// Where the state machine runs
    Apply,
    /// Threads that propose, 1 to 64
    Callers,
    /// Replicas, 1 to 9
    Replicas,
    /// Entry sizes, 16 B to 1 MiB
    Sizes,
    /// Clients from outside, over TCP
    Clients,
    /// Fixed rates, from inside and outside
    Open,
    /// Opening a log again, against reading it
    Recovery,
}

impl Group {
    /// Its title.
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Grid => "Entry sizes and proposals in flight",
            Group::Apply => "Where the state machine runs",
            Group::Callers => "Callers",
            Group::Replicas => "Replicas",
            Group::Sizes => "Entry sizes",
            Group::Clients => "Clients from outside",
            Group::Open => "Fixed rates",
            Group::Recovery => "Recovery",
        }
    }

    /// What its cells have in common, in a sentence or two.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Group::Grid => "Three replicas, one caller in the leader's process, the state machine on the reactor's thread.",
            Group::Apply => {
                "`thread`: the state machine on a thread of its own. `inline`: on the reactor's thread. `driven`: the caller turns the node itself."
            }
            Group::Callers => "The proposals in flight are shared out among so many threads in the leader's process.",
            Group::Replicas => "All on one machine: more replicas share its processors and its disk, which they would not elsewhere.",
            Group::Sizes => "16 in flight: from latency to bandwidth.",
            Group::Clients => {
                "Processes with a connection each share what is in flight; batched and pipelined as the system calls find it."
            }
            Group::Open => {
                "Entries are due at a fixed rate, whatever is answered, and latency is from when an entry was due. The rates are parts of \
                 what the closed loop of the same kind reached in this report."
            }
            Group::Recovery => {
                "A log of so many bytes is opened as after a crash, and beside that the same bytes are only read, past the page cache, with a checksum over them."
            }
        }
    }

    /// Its cells. Of the groups that depend on what was measured before: none.
    pub(super) fn cells(self, extent: &Extent) -> Vec<Cell> {
        let quick = extent.quick;
        let pick = |all: &'static [u32], few: &'static [u32]| if quick { few } else { all };
        let cell = |name: String, entry_bytes: u32, in_flight: u32| Cell::new(name, extent.setup(entry_bytes, in_flight));
        let mut cells = Vec::new();
        match self {
            Group::Grid => {
                for &entry_bytes in pick(&[16, 128, 1024], &[16, 1024]) {
                    for &in_flight in pick(&[1, 16, 256, 4096], &[1, 256]) {
                        cells.push(cell(format!("{entry_bytes} B x {in_flight}"), entry_bytes, in_flight));
                    }
                }
            }
            Group::Apply => {
                for apply in [Apply::Thread, Apply::Inline, Apply::Driven] {
                    for &in_flight in pick(&[1, 256, 4096], &[256]) {
                        let mut cell = cell(format!("{}, 128 B x {in_flight}", name_of(apply)), 128, in_flight);
                        cell.setup.apply = apply;
                        cells.push(cell);
                    }
                }
            }
            Group::Callers => {
                for &callers in pick(&[1, 4, 16, 64], &[4]) {
                    for &in_flight in pick(&[64, 256, 4096], &[256]) {
                        let mut cell =
                            cell(format!("{callers} caller{}, 128 B x {in_flight}", if callers == 1 { "" } else { "s" }), 128, in_flight);
                        cell.setup.load.callers = callers;
                        cells.push(cell);
                    }
                }
            }
            Group::Replicas => {
                for &replicas in pick(&[1, 3, 5, 7, 9], &[1, 5]) {
                    for &in_flight in pick(&[1, 256], &[256]) {
                        let mut cell = cell(
                            format!("{replicas} replica{}, 128 B x {in_flight}", if replicas == 1 { "" } else { "s" }),
                            128,
                            in_flight,
                        );
                        cell.setup.replicas = replicas as u16;
                        cells.push(cell);
                    }
                }
            }
            Group::Sizes => {
                for &entry_bytes in pick(&[16, 256, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20], &[64 << 10]) {
                    cells.push(cell(format!("{} x 16", crate::table::bytes(entry_bytes.into())), entry_bytes, 16));
                }
            }
            Group::Clients => {
                for &clients in pick(&[1, 4, 16], &[2]) {
                    for &in_flight in pick(&[16, 256, 1024], &[256]) {
                        let mut cell =
                            cell(format!("{clients} client{}, 128 B x {in_flight}", if clients == 1 { "" } else { "s" }), 128, in_flight);
                        cell.setup.clients = clients;
                        cells.push(cell.without_floor());
                    }
                }
            }
            Group::Open | Group::Recovery => {}
        }
        cells
    }

    /// Cells at fixed rates: parts of what the fastest closed loops of this report reached, inside and outside.
    pub(super) fn paced(extent: &Extent, inside_per_s: f64, outside: Option<(u32, f64)>) -> Vec<Cell> {
        let mut cells = Vec::new();
        for percent in [10u32, 50, 80] {
            let rate = |per_s: f64| (per_s * f64::from(percent) / 100.0) as u64;
            let mut one = |name: String, clients: u32, rate: u64| {
                let mut cell = Cell::new(format!("{name}, {}/s ({percent} %)", crate::table::count(rate)), extent.setup(128, 8192));
                (cell.setup.load.rate, cell.setup.clients) = (Some(rate.max(1)), clients);
                cells.push(cell.without_floor());
            };
            one("inside".into(), 0, rate(inside_per_s));
            if let Some((clients, per_s)) = outside {
                one(format!("{clients} clients"), clients, rate(per_s));
            }
        }
        cells
    }
}

fn name_of(apply: Apply) -> &'static str {
    match apply {
        Apply::Thread => "thread",
        Apply::Inline => "inline",
        Apply::Driven => "driven",
    }
}

/// One cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Its name in tables.
    pub(super) name: String,
    /// The engine's run.
    pub(super) setup: Setup,
    /// Whether there is a floor to hold it against.
    has_floor: bool,
}

impl Cell {
    fn new(name: String, setup: Setup) -> Cell {
        Cell { name, setup, has_floor: true }
    }

    fn without_floor(self) -> Cell {
        Cell { has_floor: false, ..self }
    }

    /// The floor of the same shape: one leader that makes its entries itself.
    pub(super) fn floor(&self) -> Option<Setup> {
        self.has_floor.then(|| {
            let load = Load { callers: 1, rate: None, ..self.setup.load.clone() };
            Setup { load, floor: true, apply: Apply::Inline, clients: 0, set: Vec::new(), replicas: self.setup.replicas }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_cells_and_names_are_unique() {
        for quick in [false, true] {
            let extent = Extent { quick, ..Extent::default() };
            for group in [Group::Grid, Group::Apply, Group::Callers, Group::Replicas, Group::Sizes, Group::Clients] {
                let cells = group.cells(&extent);
                assert!(!cells.is_empty());
                let mut names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), cells.len(), "{group:?}");
                for floor in cells.iter().filter_map(Cell::floor) {
                    assert!(floor.floor && floor.load.callers == 1 && floor.clients == 0 && floor.load.rate.is_none());
                }
            }
            let paced = Group::paced(&extent, 1e6, Some((4, 1e5)));
            assert_eq!(paced.len(), 6);
            assert!(paced.iter().all(|cell| cell.setup.load.rate.is_some() && cell.floor().is_none()));
        }
    }
}
