//! What the runs met: a simulation that never loses power during a cut says nothing about cuts.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! met {
    ($($name:ident: $words:literal,)*) => {
        /// Something that a run can meet. Counted once for each run that met it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Met {
            $($name,)*
        }

        impl Met {
            const ALL: &'static [(Met, &'static str)] = &[$((Met::$name, $words),)*];
        }
    };
}

met! {
    Dense: "mode: fdatasync, dense",
    Blocks: "mode: fdatasync, blocks, zero-filled",
    Window: "mode: dsync, several in flight, reserved",
    WindowZeroed: "mode: dsync, several in flight, zero-filled",
    OneInFlight: "mode: dsync, one in flight, delayed",
    EverySec: "mode: written, synced at intervals",
    NoDirectIo: "mode: no direct I/O",
    CopyOnWrite: "mode: copy on write",
    DeviceZeroes: "mode: zeroed by the device",
    ModeChanged: "opened in another mode than before",
    Rotation: "a segment was cut",
    PowerLoss: "power loss",
    Kill: "death of the process",
    Close: "closed",
    HandlesDropped: "last handle dropped, not closed",
    CrashInCreate: "crash while the log was created",
    CrashInRecovery: "crash during recovery",
    CrashInRepair: "crash after recovery cleared a torn tail",
    CrashInRecoveryTwice: "crash during the recovery from that",
    CrashInCut: "crash during a cut",
    CrashInZeroFill: "crash during zero-filling",
    CrashInSync: "crash with a sync in flight",
    CrashAfterFailure: "crash of a log that had failed",
    Hole: "hole in the unsynced writes",
    HoleInWindow: "hole in the window",
    SmallBlocks: "blocks of 512 bytes",
    TornWrite: "torn write",
    LostName: "lost name",
    LostLength: "lost length",
    TornTailCut: "torn tail cut",
    UnackedSurvived: "unacked call survived",
    WrittenLost: "written, not durable, call lost",
    LateWrites: "opened while a dead process's writes landed",
    FailedWrite: "failed write",
    FailedSync: "failed sync",
    FailedSyncDir: "failed directory sync",
    FailedRename: "failed rename",
    FailedAllocate: "failed allocation",
    FailedRead: "failed read",
    FailedOpen: "failed to open the log",
    ShortWrite: "short writes",
    SlowSync: "slow syncs",
    FullDisk: "full disk",
    RoomAgain: "room again, without reopening",
    QueueFull: "full queue",
    Cancelled: "cancelled append",
    Conflict: "conflict: the index went back",
    StateOnly: "hard state alone",
    Snapshot: "snapshot record",
    ReadFromSnapshot: "read from a snapshot",
    Replayed: "entries handed out by opening",
    WrittenLevel: "appended as written",
    Barrier: "sync",
    ReadWhileWriting: "read while writing",
    Get: "get",
    Tail: "tail hands out",
    TailFromFiles: "tail falls back to files",
    ReaderAgrees: "reader and writer agreed",
    Released: "released",
    FilesRemoved: "files of released segments removed",
    Recycled: "a segment used again",
    CrashInRemoval: "crash while files were removed",
    CrashInClear: "crash while a used segment was cleared",
    Truncated: "truncated",
    TruncatedToNothing: "truncated to nothing",
    CrashInTruncation: "crash in a truncation",
    FullLogWaited: "full log: waited",
    FullLogRefused: "full log: refused",
    RetentionReleased: "released by retention",
    ReadOn: "a range read on after its release",
    TailReleased: "a tail told that it was released",
    RotRefused: "rot: refused",
    RotHarmless: "rot: harmless",
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    pub runs: u64,
    pub calls: u64,
    pub operations: u64,
    pub crashes: u64,
    met: BTreeMap<Met, u64>,
}

impl Coverage {
    pub(crate) fn meet(&mut self, met: Met) {
        self.met.insert(met, 1);
    }

    pub(crate) fn meet_if(&mut self, met: Met, is_met: bool) {
        if is_met {
            self.meet(met);
        }
    }

    pub(crate) fn has_met(&self, met: Met) -> bool {
        self.met.contains_key(&met)
    }

    pub(crate) fn add(&mut self, other: &Coverage) {
        self.runs += other.runs;
        self.calls += other.calls;
        self.operations += other.operations;
        self.crashes += other.crashes;
        for (met, count) in &other.met {
            *self.met.entry(*met).or_default() += count;
        }
    }

    /// What fewer than so many runs met.
    pub(crate) fn below(&self, least: u64) -> Vec<String> {
        let count = |met: &Met| self.met.get(met).copied().unwrap_or_default();
        Met::ALL
            .iter()
            .filter(|(met, _)| count(met) < least)
            .map(|(met, words)| format!("{words}: {}", count(met)))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs, {} crashes, {} calls, {} operations of the disk; runs that met:",
            self.runs, self.crashes, self.calls, self.operations
        )?;
        for (met, words) in Met::ALL {
            let count = self.met.get(met).copied().unwrap_or_default();
            writeln!(f, "  {count:>9}  {words}")?;
        }
        Ok(())
    }
}
