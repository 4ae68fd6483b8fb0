//! What an append waits for: the kernel, or the disk; and the queue in front of both.

use super::window::at_once;
use super::*;
use crate::io::sim::TraceEntry;
use futures_util::future::join_all;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const INTERVAL: Duration = Duration::from_millis(50);

/// No idle marks, which make durable what is before them.
fn quiet_modes() -> [Options; 5] {
    modes().map(|options| {
        options.segment_bytes(96 << 10).idle_mark_after(None).sync_interval(INTERVAL)
    })
}

async fn sleep(sim: &Sim, time: Duration) {
    sim.disk(Options::new().disk_config()).sleep(time).await;
}

/// Opens, and waits until the next segment is prepared: operations from then on are those of appends.
async fn open(sim: &Sim, options: &Options, known: &Shared<Known>) -> (Wal, Wal) {
    let (wal, _) = start_on(sim, options.clone(), How::OpenOrCreate).await.unwrap();
    known.borrow_mut().created = true;
    sleep(sim, Duration::from_millis(50)).await;
    sim.clear_trace();
    let quick = wal.with_durability(Durability::Written);
    (wal, quick)
}

/// Notes an append that is not reported durable.
fn unacked(known: &Shared<Known>, tag: u64, bytes: usize) -> Bytes {
    let data = payload(tag, bytes);
    known.borrow_mut().calls.push(Call::Append(vec![data.clone()]));
    data
}

fn all_acked(known: &Shared<Known>) {
    let mut known = known.borrow_mut();
    known.acked = known.calls.len();
}

fn operations(sim: &Sim) -> Vec<OpKind> {
    sim.trace().iter().map(|TraceEntry { op, .. }| *op).collect()
}

fn now_or_never<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// *Written* is reported after one write and no sync. It survives the process; the power takes it, and leaves a prefix.
#[test]
fn written_survives_the_process_only() {
    for options in quiet_modes() {
        for (tag, crash) in
            [None, Some(Crash::LoseUnsynced), Some(Crash::Random)].into_iter().enumerate()
        {
            let story = format!("{}, {crash:?}", mode(&options));
            let sim = machine(tag as u64);
            let known = Shared::<Known>::default();
            sim.block_on(async {
                let (wal, quick) = open(&sim, &options, &known).await;
                for n in 1..=5 {
                    let index = quick.append(unacked(&known, n, 1500)).await.unwrap();
                    assert_eq!(index, n);
                }
                assert_eq!(operations(&sim), [OpKind::Write; 5], "{story}");
                assert_eq!((wal.durable_index(), wal.last_index()), (0, 5), "{story}");
                let read = collect(wal.read(..)).await.unwrap();
                assert_eq!(read.len(), 0, "only what is durable is read: {story}");
            });
            match crash {
                None => {
                    all_acked(&known);
                    sim.kill();
                }
                Some(crash) => drop(sim.power_loss(crash)),
            }
            check(&sim, options.clone(), &known, &story);
            if crash == Some(Crash::LoseUnsynced) {
                assert_eq!(known.borrow().calls, [], "the test loses what it means to: {story}");
            }
        }
    }
}

/// P1: a durable append makes durable what was only written before it, also where its own write is durable by itself,
/// also when it comes back first.
#[test]
fn durable_covers_what_was_written_before() {
    for options in quiet_modes() {
        for options in [options.clone(), at_once(options)] {
            for late in 0..4 {
                for together in [false, true] {
                    let story = format!("{}, {late} is late, together {together}", mode(&options));
                    let sim = machine(1);
                    let known = Shared::<Known>::default();
                    sim.block_on(async {
                        let (wal, quick) = open(&sim, &options, &known).await;
                        if late > 0 {
                            let latency = Duration::from_millis(5);
                            sim.slow_nth_of(OpKind::Write, late, latency);
                        }
                        let mut tickets = Vec::new();
                        for n in 1..=3 {
                            let ticket = quick.submit(unacked(&known, n, 700)).await.unwrap();
                            if !together {
                                ticket.written().await.unwrap();
                            }
                            tickets.push(ticket);
                        }
                        let durable = wal.append(unacked(&known, 4, 700));
                        assert_eq!(durable.await.unwrap(), 4);
                        all_acked(&known);
                        if !together {
                            // The sync that the others need is enough for all.
                            let trace = sim.trace();
                            let now = trace.iter().filter(|entry| entry.detail.ends_with(" now"));
                            assert_eq!(now.count(), 0, "one flush, not two: {story}");
                        }
                        assert_eq!(wal.durable_index(), 4, "{story}");
                        for mut ticket in tickets {
                            let told = now_or_never(std::pin::Pin::new(&mut ticket));
                            assert!(told.is_some_and(|told| told.is_ok()), "told before: {story}");
                        }
                    });
                    sim.power_loss(Crash::LoseUnsynced);
                    check(&sim, options.clone(), &known, &story);
                }
            }
        }
    }
}

/// P1: `sync` returns when all that was accepted before is durable, in flight or waiting; it takes no index, and does
/// nothing where there is nothing to do.
#[test]
fn sync_is_a_barrier() {
    for options in quiet_modes() {
        for options in [options.clone(), at_once(options)] {
            for (durable, late) in
                (0..3).flat_map(|durable| (0..4).map(move |late| (durable, late)))
            {
                let story = format!("{}, {durable} durable, {late} late", mode(&options));
                let sim = machine(1);
                let known = Shared::<Known>::default();
                sim.block_on(async {
                    let (wal, quick) = open(&sim, &options, &known).await;
                    wal.sync().await.unwrap();
                    assert_eq!(operations(&sim), [], "nothing to do: {story}");
                    if late > 0 {
                        sim.slow_nth_of(OpKind::Write, late, Duration::from_millis(5));
                    }
                    let mut tickets = Vec::new();
                    for n in 1..=4 {
                        let handle = if n == durable { &wal } else { &quick };
                        tickets.push(handle.submit(unacked(&known, n, 700)).await.unwrap());
                    }
                    let (one, two) = futures_util::future::join(wal.sync(), quick.sync()).await;
                    one.and(two).unwrap();
                    assert_eq!(wal.durable_index(), 4, "{story}");
                    all_acked(&known);
                    assert_eq!(wal.last_index(), 4);
                    join_all(tickets).await.into_iter().for_each(|told| assert!(told.is_ok()));
                });
                sim.power_loss(Crash::LoseUnsynced);
                check(&sim, options.clone(), &known, &story);
            }
        }
    }
}

/// What was only written is synced by itself within the interval, once, and its ticket resolves. Once, the committer
/// asked over and over, at full speed, whether the sync was due while it was under way.
#[test]
fn interval_syncs_by_itself() {
    for options in quiet_modes() {
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            let begun = sim.now();
            let ticket = quick.submit(unacked(&known, 1, 700)).await.unwrap();
            ticket.written().await.unwrap();
            assert!(sim.now() - begun < Duration::from_millis(1), "{story}");
            assert_eq!(wal.durable_index(), 0, "{story}");
            ticket.await.unwrap();
            let took = sim.now() - begun;
            let slack = Duration::from_millis(1);
            assert!((INTERVAL - slack..=INTERVAL + slack).contains(&took), "{took:?}: {story}");
            sleep(&sim, 4 * INTERVAL).await;
            assert_eq!(operations(&sim), [OpKind::Write, OpKind::Sync], "{story}");
            all_acked(&known);
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// A loss of power takes nothing that is older than the interval and the time of one sync, however busy the log is.
#[test]
fn loss_window_is_the_interval() {
    for options in quiet_modes() {
        for end in [30, 70, 120, 173, 260] {
            let story = format!("{}, power lost after {end} ms", mode(&options));
            let sim = machine(end);
            let known = Shared::<Known>::default();
            let mut lost_before = 0;
            sim.block_on(async {
                let (_wal, quick) = open(&sim, &options, &known).await;
                let begun = sim.now();
                let mut n = 0;
                while sim.now() - begun < Duration::from_millis(end) {
                    n += 1;
                    quick.append(unacked(&known, n, 100)).await.unwrap();
                    if sim.now() - begun + INTERVAL + Duration::from_millis(2)
                        < Duration::from_millis(end)
                    {
                        lost_before = n as usize;
                    }
                    sleep(&sim, Duration::from_micros(700)).await;
                }
                std::mem::forget((_wal, quick));
            });
            known.borrow_mut().acked = lost_before;
            sim.power_loss(Crash::LoseUnsynced);
            check(&sim, options.clone(), &known, &story);
        }
    }
}

/// A group that gathers for longer than the interval does not hold up the sync of what was written before it. Once, it
/// did.
#[test]
fn gathering_does_not_hold_up_the_interval() {
    for options in quiet_modes() {
        let options = options.group_delay(10 * INTERVAL);
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            quick.append(unacked(&known, 1, 700)).await.unwrap();
            let ticket = quick.submit(payload(2, 700)).await.unwrap();
            sleep(&sim, INTERVAL + Duration::from_millis(1)).await;
            assert_eq!(wal.durable_index(), 1, "{story}");
            all_acked(&known);
            drop(ticket);
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// P3: the sync of the interval fails. Nobody asked for it, and yet the log is poisoned; whoever still holds a ticket of
/// what was only written is told.
#[test]
fn failed_interval_sync_poisons() {
    for options in quiet_modes() {
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            call(&wal, &known, Call::Append(vec![payload(1, 100)])).await.unwrap();
            sim.fail_next(OpKind::Sync, EIO);
            let first = quick.submit(unacked(&known, 2, 700)).await.unwrap();
            first.written().await.unwrap();
            sleep(&sim, INTERVAL / 2).await;
            let second = quick.submit(unacked(&known, 3, 700)).await.unwrap();
            second.written().await.unwrap();
            for ticket in [first, second] {
                assert!(ticket.await.unwrap_err().is_poisoned(), "{story}");
            }
            assert!(quick.append("later").await.unwrap_err().is_poisoned(), "{story}");
            assert_eq!(wal.durable_index(), 1, "{story}");
            sim.clear_trace();
            sleep(&sim, 4 * INTERVAL).await;
            assert_eq!(operations(&sim), [], "nothing is retried: {story}");
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// A close makes durable what was only written, though nobody asked for a sync. Once, it waited for ever.
#[test]
fn close_makes_durable_what_was_written() {
    for options in quiet_modes() {
        let options = options.sync_interval(Duration::from_secs(60));
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            for n in 1..=3 {
                quick.append(unacked(&known, n, 700)).await.unwrap();
            }
            assert_eq!(wal.close().await.unwrap(), 3, "{story}");
            assert!(sim.now() < Duration::from_secs(1), "it waits for no interval: {story}");
            all_acked(&known);
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// Written appends across cuts: a segment is left only when all of it is durable. Once, a cut with nothing but written
/// groups before it waited for ever for a sync that nobody began.
#[test]
fn cut_makes_durable_what_was_written() {
    for options in modes() {
        let options = options.idle_mark_after(None).sync_interval(Duration::from_secs(60));
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            let mut durable = 0;
            for n in 1..=60 {
                quick.append(unacked(&known, n, 1500)).await.unwrap();
                durable = wal.durable_index();
            }
            assert!(wal.stats().cuts > 2, "{story}: {:?}", wal.stats());
            assert!(durable > 20, "{durable}: {story}");
            assert!(sim.now() < Duration::from_secs(1), "it waits for no interval: {story}");
            known.borrow_mut().acked = durable as usize;
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// A group that holds as many records as it may does not wait for the rest of `group_delay`.
#[test]
fn full_group_does_not_wait() {
    for options in modes() {
        let options = options.group_delay(Duration::from_millis(50)).group_records_max(4);
        let story = mode(&options);
        let sim = machine(1);
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
            let begun = sim.now();
            join_all((1..=4).map(|n| wal.append(payload(n, 50)))).await;
            assert!(sim.now() - begun < Duration::from_millis(5), "{story}");
            wal.append("alone").await.unwrap();
            assert!(sim.now() - begun > Duration::from_millis(50), "{story}");
            wal.close().await.unwrap();
        });
    }
}

/// `sync` where the segment has no room for another group: a barrier needs none. Once it was put back for ever, and the
/// submission thread turned round and round.
#[test]
fn barrier_needs_no_space() {
    for options in modes() {
        let options = options.idle_mark_after(None);
        let story = mode(&options);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, quick) = open(&sim, &options, &known).await;
            for n in 1..=60 {
                quick.append(unacked(&known, n, 500)).await.unwrap();
                wal.sync().await.unwrap();
                assert_eq!(wal.durable_index(), n, "{story}");
            }
            assert!(wal.stats().cuts > 0, "{story}");
            all_acked(&known);
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// A full queue refuses `try_append`, which takes no index and no room; other appends wait, first come first served, and
/// one that is given up lets the next pass.
#[test]
fn full_queue_refuses_or_lets_wait() {
    for options in modes() {
        let story = mode(&options);
        let options = options.queue_records_max(4);
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, _) = open(&sim, &options, &known).await;
            // The committer gets no turn before this task waits.
            let mut tickets: Vec<_> =
                (1..=4).map(|n| wal.try_append(unacked(&known, n, 700)).unwrap()).collect();
            for _ in 0..3 {
                let error = wal.try_append("no room").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Full, "{story}: {error}");
                assert!(!error.is_poisoned());
            }
            assert_eq!(wal.last_index(), 4, "{story}");
            // Three wait; the batch, that needs most room, is first and gives up.
            let mut batch = Box::pin(wal.submit_batch((0..4).map(|n| payload(n, 10))));
            let mut second = pin!(wal.submit(payload(5, 700)));
            let mut third = pin!(wal.append(payload(6, 700)));
            assert!(now_or_never(batch.as_mut()).is_none(), "{story}");
            assert!(now_or_never(second.as_mut()).is_none(), "{story}");
            assert!(now_or_never(third.as_mut()).is_none(), "{story}");
            tickets.remove(0).await.unwrap();
            assert_eq!(
                wal.last_index(),
                4,
                "the batch does not fit yet, nobody overtakes: {story}"
            );
            let error = wal.try_append("no room for whoever comes later").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Full, "{story}: {error}");
            drop(batch);
            known.borrow_mut().calls.push(Call::Append(vec![payload(5, 700)]));
            known.borrow_mut().calls.push(Call::Append(vec![payload(6, 700)]));
            let ticket = second.await.unwrap();
            assert_eq!(ticket.indexes(), 5..6, "{story}");
            assert_eq!(third.await.unwrap(), 6, "{story}");
            ticket.await.unwrap();
            join_all(tickets).await.into_iter().for_each(|told| assert!(told.is_ok()));
            let ticket = wal.try_append(unacked(&known, 7, 10)).unwrap();
            assert_eq!(ticket.await.unwrap(), 7..8, "room is given back: {story}");
            all_acked(&known);
            wal.close().await.unwrap();
        });
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}

/// P5: the disk is full while groups are in flight and many appends wait. What is in flight is acked, what waits is
/// refused, and its indexes are given out again.
#[test]
fn full_disk_refuses_only_what_waits() {
    for options in modes() {
        let options = options.segment_bytes(64 << 10);
        for options in [options.clone(), at_once(options)] {
            let story = mode(&options);
            let sim = machine(1);
            let known = Shared::<Known>::default();
            sim.block_on(async {
                let (wal, _) = open(&sim, &options, &known).await;
                sim.set_free_bytes(Some(0));
                let burst = join_all((1..=200).map(|n| wal.append(payload(n, 1500)))).await;
                let acked = burst.iter().take_while(|outcome| outcome.is_ok()).count();
                assert!(acked > 5 && acked < 150, "{acked}: {story}");
                for (n, outcome) in (1..).zip(&burst) {
                    match outcome {
                        Ok(index) => assert_eq!(*index, n, "{story}"),
                        Err(error) => assert!(error.is_no_space(), "{story}: {error}"),
                    }
                }
                assert!(burst[acked..].iter().all(Result::is_err), "one end: {story}");
                assert_eq!(wal.last_index(), acked as u64, "{story}");
                for n in 1..=acked as u64 {
                    unacked(&known, n, 1500);
                }
                sim.set_free_bytes(None);
                let again = (0..20).map(|n| wal.append(unacked(&known, 1000 + n, 1500)));
                let again = join_all(again.collect::<Vec<_>>()).await;
                for (index, outcome) in (acked as u64 + 1..).zip(again) {
                    assert_eq!(outcome.unwrap(), index, "{story}");
                }
                all_acked(&known);
            });
            sim.power_loss(Crash::LoseUnsynced);
            check(&sim, options, &known, &story);
        }
    }
}
