//! How entries are let go of.
//!
//! What was released is not read any more from the moment on that the committer has seen the request. Files go only as
//! whole segments, and only then it is written down what the log begins with: a group with a snapshot record, by which
//! etcd's reader opens what is left. Who releases one entry after another costs commits nothing until a segment can go.
//! What was released since is written down when the log is closed; a crash brings it back.

use super::committer::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{MarkKind, Record};
use crate::io::Disk;
use crate::types::{Durability, Snapshot};
use crate::watermark::unharmed;

impl<D: Disk> Committer<D> {
    /// Releases what is asked for, and tells who waits. What fails here poisons the log.
    pub(super) async fn release(&mut self) -> Result<()> {
        let (index, replies) = self.queue.take_release();
        let outcome = self.release_up_to(index).await;
        let answer = match &outcome {
            Ok(()) => Ok(()),
            // Nothing was written: the log is as it was.
            Err(error) => Err(error.clone()),
        };
        for reply in replies {
            unharmed(|| drop(reply.send(answer.clone())));
        }
        match outcome {
            Err(error) if !is_harmless(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn release_up_to(&mut self, index: u64) -> Result<()> {
        let mark = self.mover.watermark();
        let written_down = self.tail.released.as_ref().map_or(0, |released| released.index);
        if index <= mark.released().0 && (index <= written_down || !mark.frees(index)) {
            return Ok(());
        }
        let durable = mark.with_live(Durability::Durable, |live| match live.base_and_term() {
            (base, term) if base == index => Some(term),
            _ => live.term_of(index),
        });
        let Some(term) = durable else {
            // It was there when it was asked for: a snapshot has replaced the log since, or a conflict its end.
            let what = format!("there is no durable entry {index} any more");
            return Err(Error::new(ErrorKind::InvalidInput, what).next("nothing was released"));
        };
        let state = self.tail.state;
        if !state.is_empty() && index > state.commit {
            let commit = state.commit;
            let what = format!("index {index} is not committed: the last hard state says {commit}");
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .next("nothing was released: save the hard state that commits it first"));
        }
        self.queue.accept_release(index, term)?;
        self.staged.release(index, term);
        if mark.frees(index) {
            self.write_down(index, term).await?;
        }
        self.mover.release(index, term);
        Ok(())
    }

    /// Writes down what was released, if that was not.
    pub(super) async fn write_release(&mut self) -> Result<()> {
        let (index, term) = self.mover.watermark().released();
        let written_down = self.tail.released.as_ref().map_or(0, |released| released.index);
        if index <= written_down {
            return Ok(());
        }
        match self.write_down(index, term).await {
            Err(error) if error.is_no_space() => Ok(()),
            outcome => outcome,
        }
    }

    async fn write_down(&mut self, index: u64, term: u64) -> Result<()> {
        // The members of the group, if that is the snapshot's index.
        let known =
            self.tail.snapshot.clone().filter(|known| (known.index, known.term) == (index, term));
        let released = known.unwrap_or(Snapshot { index, term, conf_state: None });
        let record = Record::Release(released);
        self.write_group(MarkKind::Release, std::slice::from_ref(&record), 0).await?;
        self.tail.take_in((&record).into());
        Ok(())
    }
}

/// Whether the log is as it was.
fn is_harmless(error: &Error) -> bool {
    error.kind() == ErrorKind::InvalidInput || error.is_no_space()
}
