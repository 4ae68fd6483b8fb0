//! What a seed stands for: a machine, a way of writing, a load, and what goes wrong.
//!
//! Each run has a few of the things that can happen, often, instead of all of them, rarely ("swarm testing", Groce et
//! al., ISSTA 2012): some failures need a machine on which little else happens.

use crate::coverage::Met;
use fastrand::Rng;
use seawal::testing::{OpKind, Sim};
use seawal::{Durability, Options, Packing, Prealloc, SyncMethod, WhenFull};
use std::time::Duration;

/// Between syncs of a log that syncs at intervals.
const SYNC_INTERVAL: Duration = Duration::from_millis(2);
/// What a slow operation takes.
const SLOW: Duration = Duration::from_millis(30);

/// Of a log of fixed size: five of them have half a segment.
pub(crate) const FIXED_RECORD_BYTES_MAX: usize = 3000;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

const MODES: [Met; 9] = [
    Met::Dense,
    Met::Blocks,
    Met::Window,
    Met::WindowZeroed,
    Met::OneInFlight,
    Met::EverySec,
    Met::NoDirectIo,
    Met::CopyOnWrite,
    Met::DeviceZeroes,
];

/// Something that chance makes fail, once in so many times.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Fails { op: OpKind, errno: i32, once_in: u32 },
    ShortWrites { once_in: u32 },
    Slow { op: OpKind, once_in: u32 },
}

impl Fault {
    pub(crate) fn inject(self, sim: &Sim) {
        match self {
            Fault::Fails { op, errno, once_in } => sim.fail_once_in(op, once_in, errno),
            Fault::ShortWrites { once_in } => sim.short_write_once_in(once_in),
            Fault::Slow { op, once_in } => {
                sim.slow_once_in(op, once_in, SLOW);
            }
        }
    }

    /// Whether released files may stay by it.
    fn is_of_removal(self) -> bool {
        let ops = [OpKind::Remove, OpKind::Rename, OpKind::SyncDir];
        matches!(self, Fault::Fails { op, .. } if ops.contains(&op))
    }

    /// Whether the log may take it for a lack of space.
    fn is_of_space(self) -> bool {
        matches!(
            self,
            Fault::Fails { op: OpKind::Allocate, .. } | Fault::Fails { errno: ENOSPC, .. }
        )
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub mode: Met,
    /// Each life of the log is in a mode of its own.
    pub modes_change: bool,
    pub faults: Vec<Fault>,
    /// Callers at the same time.
    pub callers: usize,
    pub record_bytes_max: usize,
    /// Nothing is written but entries of ever new indexes.
    pub indexes_are_unique: bool,
    pub cancels: bool,
    pub full_disk: bool,
    /// Calls may be refused for want of space.
    pub space_is_short: bool,
    pub small_queue: bool,
    pub rot: bool,
    /// Operations of a life, at most, before it is ended.
    pub operations_max: u64,
    pub idles: bool,
    pub small_blocks: bool,
    /// Entries are released now and then.
    pub releases: bool,
    /// Entries are taken back now and then.
    pub truncations: bool,
    pub retention: Option<Retention>,
    /// The log has so many segments at most, and when it has them, this happens.
    pub fixed: Option<(u64, WhenFull)>,
    pub recycles: bool,
}

/// What is let go of without being asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Retention {
    Segments(usize),
    Bytes(u64),
    Age(Duration),
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Plan {
        let full_disk = rng.u8(..6) == 0;
        let small_queue = rng.u8(..4) == 0;
        let faulty = !full_disk && rng.u8(..5) < 2;
        let faults: Vec<Fault> =
            if faulty { (0..rng.u8(1..=3)).map(|_| fault(rng)).collect() } else { vec![] };
        let releases = rng.u8(..2) == 0;
        let retention = (rng.u8(..6) == 0).then(|| retention(rng));
        let when_full = [WhenFull::Wait, WhenFull::Fail][rng.usize(..2)];
        let fixed = (releases && rng.u8(..3) == 0).then(|| (rng.u64(4..=6), when_full));
        // A file that cannot be removed, or whose going cannot be made durable, counts until the next opening: a log of fixed
        // size may wait for it until then.
        let faults: Vec<Fault> =
            faults.into_iter().filter(|fault| fixed.is_none() || !fault.is_of_removal()).collect();
        let may_be_refused = fixed.is_some_and(|(_, when_full)| when_full == WhenFull::Fail);
        let of_space = faults.iter().any(|fault| fault.is_of_space());
        let space_is_short = full_disk || may_be_refused || of_space;
        // A caller cannot know whether a call that he gave up was refused for want of space, nor when a call without an
        // index got through a full queue.
        // In a full log, what replaces entries waits for a release, and that is refused because they are about to be replaced.
        let indexes_are_unique = space_is_short || small_queue || fixed.is_some() || rng.bool();
        Plan {
            releases,
            truncations: !indexes_are_unique && rng.bool(),
            retention,
            fixed,
            recycles: rng.u8(..4) > 0,
            mode: MODES[rng.usize(..MODES.len())],
            modes_change: rng.u8(..5) == 0,
            faults,
            callers: rng.usize(1..=6),
            record_bytes_max: match fixed {
                None => [60, 600, 3000, 9000][rng.usize(..4)],
                Some(_) => [600, 1500, 3000][rng.usize(..3)],
            },
            indexes_are_unique,
            cancels: !space_is_short && rng.u8(..3) == 0,
            full_disk,
            space_is_short,
            small_queue,
            rot: rng.u8(..4) == 0,
            operations_max: [20, 60, 200][rng.usize(..3)],
            idles: rng.u8(..3) == 0,
            small_blocks: rng.u8(..5) == 0,
        }
    }

    /// The mode of the next life.
    pub(crate) fn next_mode(&self, rng: &mut Rng) -> Met {
        if self.modes_change { MODES[rng.usize(..MODES.len())] } else { self.mode }
    }

    pub(crate) fn options(&self, mode: Met, rng: &mut Rng) -> Options {
        let kib = |kib: u64| kib << 10;
        let options = Options::new()
            .group_bytes_max((4 << 10) << rng.u8(..3))
            .segment_bytes(kib([32, 48, 64][rng.usize(..3)]))
            .in_flight_max(rng.usize(2..=6))
            .recent_bytes_max([0, 2 << 10, 16 << 10, 8 << 20][rng.usize(..4)])
            .idle_mark_after(self.idles.then_some(Duration::from_millis(2)));
        let options = match mode {
            Met::Dense => options
                .sync_method(SyncMethod::Fdatasync)
                .prealloc(Prealloc::Fallocate)
                .segment_bytes(kib(16)),
            Met::Blocks => options.sync_method(SyncMethod::Fdatasync).packing(Packing::Block),
            Met::Window => options.sync_method(SyncMethod::Dsync).prealloc(Prealloc::Fallocate),
            Met::WindowZeroed | Met::DeviceZeroes => options.sync_method(SyncMethod::Dsync),
            Met::OneInFlight => options
                .sync_method(SyncMethod::Dsync)
                .in_flight_max(1)
                .group_delay(Duration::from_micros(300)),
            Met::EverySec => options
                .sync_method([SyncMethod::Fdatasync, SyncMethod::Dsync][rng.usize(..2)])
                .durability(Durability::Written)
                .sync_interval(SYNC_INTERVAL),
            _ => options,
        };
        let options = options.recycle(self.recycles);
        let options = match self.retention {
            None => options,
            Some(Retention::Segments(segments)) => options.retain_segments(segments),
            Some(Retention::Bytes(bytes)) => options.retain_bytes(bytes),
            Some(Retention::Age(age)) => options.retain_age(age),
        };
        let options = match self.fixed {
            None => options,
            // The largest batch is to have half a segment.
            Some((segments, when_full)) => options
                .segment_bytes(kib(32))
                .log_bytes_max(segments * kib(32 + 8))
                .when_full(when_full),
        };
        if self.small_queue {
            return options.queue_bytes_max(4 << 10).queue_records_max(rng.usize(1..=4));
        }
        options
    }

    /// So large are the records of a log that has had so many lives: small ones alone would never fill a segment.
    pub(crate) fn grown(&self, lives: usize) -> Plan {
        let more = lives.saturating_sub(5).min(20) * 500;
        let most = if self.fixed.is_some() { FIXED_RECORD_BYTES_MAX } else { usize::MAX };
        let record_bytes_max = (self.record_bytes_max + more).min(most);
        Plan { record_bytes_max, ..self.clone() }
    }

    /// What a power loss may take of a log that syncs at intervals: an interval, and the time of a sync, of the one
    /// before it, and of the writes that they wait for.
    pub(crate) fn loss_window(&self) -> Duration {
        let slow = self.faults.iter().any(|fault| matches!(fault, Fault::Slow { .. }));
        SYNC_INTERVAL + if slow { SLOW * 2 } else { Duration::ZERO } + Duration::from_millis(1)
    }

    /// Makes the machine what it is to be in this mode.
    pub(crate) fn prepare(mode: Met, sim: &Sim) {
        sim.set_direct_io(mode != Met::NoDirectIo);
        sim.set_copy_on_write(mode == Met::CopyOnWrite);
        sim.set_zeroes_ranges(mode == Met::DeviceZeroes);
    }
}

fn retention(rng: &mut Rng) -> Retention {
    match rng.u8(..3) {
        0 => Retention::Segments(rng.usize(2..=4)),
        1 => Retention::Bytes(rng.u64(60..200) << 10),
        _ => Retention::Age(Duration::from_millis(rng.u64(1..10))),
    }
}

fn fault(rng: &mut Rng) -> Fault {
    // Rare enough that a log gets somewhere, often enough that a run meets it.
    let once_in = [8, 30, 100][rng.usize(..3)];
    let fails = |op, errno| Fault::Fails { op, errno, once_in };
    match rng.u8(..13) {
        0 | 1 => fails(OpKind::Write, EIO),
        2 => fails(OpKind::Write, ENOSPC),
        3 | 4 => fails(OpKind::Sync, EIO),
        5 => Fault::Fails { op: OpKind::SyncDir, errno: EIO, once_in: 3 },
        6 => Fault::Fails { op: OpKind::Rename, errno: EIO, once_in: 3 },
        7 => Fault::Fails { op: OpKind::Allocate, errno: EIO, once_in: 3 },
        8 => fails(OpKind::Read, EIO),
        9 => fails(OpKind::WriteZeros, EIO),
        10 => Fault::ShortWrites { once_in },
        11 => Fault::Fails { op: OpKind::Remove, errno: EIO, once_in: 3 },
        _ => Fault::Slow { op: OpKind::Sync, once_in: 8 },
    }
}
