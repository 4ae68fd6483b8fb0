//! Short sleeps, by a timeout in the ring: tokio's clock ticks in milliseconds (a sleep of nothing takes 1.3 ms), which
//! is ten commits on a fast device.
//!
//! A timeout in the ring is not cancelled when its future is dropped; it stays in the ring's slab until its time has
//! come. So only short sleeps are made this way, and the longer ones, of which many may be abandoned, are tokio's.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use io_uring::types::Timespec;
use io_uring::{cqueue, opcode};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::in_flight::{InFlight, Token};

/// Sleeps from here on are tokio's.
const RING_SLEEP_MAX: Duration = Duration::from_millis(5);

/// Memory of timeouts, to be used again: there are many, and at most a few at a time.
#[derive(Clone, Default)]
#[allow(clippy::vec_box)] // each keeps its address
pub(super) struct Timers(Rc<RefCell<Vec<Box<Timespec>>>>);

impl Timers {
    /// Boxed, for an address that stays when the operation moves into the ring's slab.
    fn lend(&self, duration: Duration) -> Lent {
        let mut time = self.0.borrow_mut().pop().unwrap_or_default();
        *time = Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos());
        Lent { time: Some(time), home: self.clone() }
    }
}

/// Comes home when it is dropped.
struct Lent {
    /// `None` only inside `drop`.
    time: Option<Box<Timespec>>,
    home: Timers,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.0.borrow_mut().extend(self.time.take());
    }
}

/// Sleeps at least so long. A sleep of nothing lets the thread go to sleep, and so submits what was started.
pub(super) async fn sleep(duration: Duration, timers: &Timers, in_flight: &InFlight) {
    if duration >= RING_SLEEP_MAX {
        return tokio::time::sleep(duration).await;
    }
    let lent = timers.lend(duration);
    let time = lent.time.as_deref().expect("just lent");
    // `new` is a safe function, although it cannot check the entry's pointer. It is right: the box is the operation's
    // data, kept until the completion was seen even if the future is dropped, and the token makes the runtime's end
    // wait for that.
    let timeout = opcode::Timeout::new(&raw const *time).build();
    UnsubmittedOneshot::new((lent, in_flight.enter()), Ended, timeout).submit().await;
}

struct Ended;

impl OneshotOutputTransform for Ended {
    type Output = ();
    type StoredData = (Lent, Token);

    /// The result is `ETIME`, which is how a timeout succeeds.
    fn transform_oneshot_output(self, _: Self::StoredData, _: cqueue::Entry) {}
}
