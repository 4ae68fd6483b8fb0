//! Short sleeps, by a timeout in the ring: tokio's clock ticks in milliseconds (a sleep of nothing takes 1.3 ms), which
//! is ten commits on a fast device.
//!
//! A timeout in the ring is not cancelled when its future is dropped; it stays in the ring's slab until its time has
//! come. So only short sleeps are made this way, and the longer ones, of which many may be abandoned, are tokio's.

use std::time::Duration;

use io_uring::types::Timespec;
use io_uring::{cqueue, opcode};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::in_flight::{InFlight, Token};

/// Sleeps from here on are tokio's.
const RING_SLEEP_MAX: Duration = Duration::from_millis(5);

/// Sleeps at least so long. A sleep of nothing lets the thread go to sleep, and so submits what was started.
pub(super) async fn sleep(duration: Duration, in_flight: &InFlight) {
    if duration >= RING_SLEEP_MAX {
        return tokio::time::sleep(duration).await;
    }
    // Boxed, for an address that stays when the operation moves into the ring's slab.
    let time = Box::new(Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    // `new` is a safe function, although it cannot check the entry's pointer. It is right: the box is the operation's
    // data, kept until the completion was seen even if the future is dropped, and the token makes the runtime's end
    // wait for that.
    let timeout = opcode::Timeout::new(&raw const *time).build();
    UnsubmittedOneshot::new((time, in_flight.enter()), Ended, timeout).submit().await;
}

struct Ended;

impl OneshotOutputTransform for Ended {
    type Output = ();
    type StoredData = (Box<Timespec>, Token);

    /// The result is `ETIME`, which is how a timeout succeeds.
    fn transform_oneshot_output(self, _: Self::StoredData, _: cqueue::Entry) {}
}
