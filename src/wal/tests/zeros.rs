//! Segments that are zero-filled: power loss at any time of it, cuts that hurry it, and late zeros.

use super::window::at_once;
use super::*;
use crate::io::Geometry;
use crate::io::sim::TraceEntry;
use crate::segment::name::PREPARED;

fn zero_filled() -> [Options; 2] {
    [modes()[1].clone(), modes()[3].clone()]
}

async fn sleep(sim: &Sim, time: Duration) {
    sim.disk(Options::new().disk_config()).sleep(time).await;
}

/// The lives that the tests of power loss go through hold all that they are about: cuts to segments that are zeros to
/// their end, and to others, that the filler was hurried for.
#[test]
fn lives_have_all_kinds_of_cuts() {
    for options in modes() {
        let sim = machine(0);
        let stats = sim
            .block_on(life(sim.clone(), options.clone(), Shared::<Known>::default(), 1))
            .unwrap();
        let story = format!("{}: {stats:?}", mode(&options));
        assert!(stats.cuts >= 2, "{story}");
        let by_itself = options.sync_method == SyncMethod::Dsync;
        assert_eq!(stats.syncs == 0, by_itself, "{story}");
        let zeros = sim.trace().iter().filter(|entry| entry.op == OpKind::WriteZeros).count();
        if options.prealloc == Prealloc::ZeroFill {
            assert!(stats.cuts_unready > 0 && stats.cuts_unready < stats.cuts, "{story}");
            assert!(zeros > 3, "{zeros} {story}");
        } else {
            assert_eq!(zeros, 0, "{story}");
        }
    }
}

/// P1, P2: power is lost before any operation of opening a log with zero-fill, with a torn tail too; and again.
#[test]
fn power_loss_while_opening_with_zeros() {
    for options in zero_filled() {
        for (torn, crash) in
            [false, true].into_iter().flat_map(|t| [(t, Crash::LoseUnsynced), (t, Crash::Random)])
        {
            for at in 1.. {
                let story = format!("{}, torn {torn}, {crash:?} at {at}", mode(&options));
                let sim = machine(at);
                let known = Shared::<Known>::default();
                sim.block_on(async {
                    let open = start_on(&sim, options.clone(), How::OpenOrCreate);
                    let (wal, _) = open.await.unwrap();
                    known.borrow_mut().created = true;
                    for n in 0..3 {
                        call(&wal, &known, Call::Append(vec![payload(n, 1500)])).await.unwrap();
                    }
                    if torn {
                        let _ticket = wal.submit(payload(7, 3000)).await.unwrap();
                        known.borrow_mut().calls.push(Call::Append(vec![payload(7, 3000)]));
                        sleep(&sim, Duration::from_micros(10)).await;
                        std::mem::forget(wal);
                    } else {
                        wal.close().await.unwrap();
                    }
                });
                sim.power_loss(Crash::Random);
                let open = async {
                    let open = start_on(&sim, options.clone(), How::Open);
                    let (wal, recovery) = open.await.unwrap();
                    // The torn one may have survived.
                    known.borrow_mut().calls.truncate(recovery.last_index.unwrap() as usize);
                    call(&wal, &known, Call::Append(vec![payload(8, 100)])).await.unwrap();
                };
                let before = sim.operations();
                let finished = sim.block_on_until(before + at, open).is_some();
                sim.power_loss(crash);
                check(&sim, options.clone(), &known, &story);
                if finished {
                    assert!(at > 8, "{story}");
                    break;
                }
            }
        }
    }
}

/// When a write to the file of the next segment was asked for, by what it is.
struct Fill {
    zeros: Vec<Duration>,
    zero_bytes: u64,
    head: Duration,
}

/// What happened to the files that became segments, one after another.
fn fills(sim: &Sim) -> Vec<Fill> {
    let (mut fills, mut zeros, mut zero_bytes) = (Vec::new(), Vec::new(), 0);
    let prepared = Path::new(DIR).join(PREPARED);
    for entry in sim.trace().into_iter().filter(|entry| entry.path == prepared) {
        let number = |name: &str| -> u64 {
            let at = entry.detail.find(name).unwrap() + name.len();
            entry.detail[at..].split(' ').next().unwrap().parse().unwrap()
        };
        match entry.op {
            OpKind::WriteZeros => {
                zeros.push(entry.at);
                zero_bytes += number("len=");
            }
            // The file keeps the name here under which it was opened: its head is at its beginning.
            OpKind::Write if number("offset=") == 0 => {
                let zeros = std::mem::take(&mut zeros);
                fills.push(Fill { zeros, zero_bytes, head: entry.at });
                zero_bytes = 0;
            }
            _ => {}
        }
    }
    fills
}

/// P1: a zero write that came back after the head of its segment would erase groups that were acked. So the last one has
/// come back before, also when a cut needs the file at once.
#[test]
fn zeros_have_come_back_before_the_head_is_written() {
    let zeros_take = Duration::from_millis(3);
    for options in zero_filled() {
        // Large enough for many pieces of zeros.
        let options = at_once(options.segment_bytes(512 << 10).group_bytes_max(32 << 10));
        let (mut hurried, mut whole) = (0, 0);
        for seed in 0..12 {
            let story = format!("{}, seed {seed}", mode(&options));
            let sim = machine(seed);
            sim.set_latency(OpKind::WriteZeros, zeros_take);
            let known = Shared::<Known>::default();
            sim.block_on(async {
                let (wal, _) = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap();
                known.borrow_mut().created = true;
                for n in 0..60 {
                    let pause = [0, 300, 2000][seed as usize % 3];
                    sleep(&sim, Duration::from_micros(pause + seed * 7)).await;
                    let data = payload(n, 30_000);
                    call(&wal, &known, Call::Append(vec![data])).await.unwrap();
                }
                // Whatever is late is there now.
                sleep(&sim, Duration::from_millis(20)).await;
                let entries = collect(wal.read(..)).await;
                assert_eq!(entries.expect(&story).len(), 60, "{story}");
            });
            for Fill { zeros, zero_bytes, head } in fills(&sim) {
                if let Some(last) = zeros.last() {
                    assert!(
                        *last + zeros_take <= head,
                        "{story}: zeros at {last:?}, head at {head:?}"
                    );
                    hurried += usize::from(zero_bytes < 512 << 10);
                    whole += usize::from(zero_bytes == 512 << 10);
                }
            }
            sim.power_loss(Crash::LoseUnsynced);
            check(&sim, options.clone(), &known, &story);
        }
        assert!(hurried > 5 && whole > 2, "{}: {hurried} hurried, {whole} whole", mode(&options));
    }
}

/// A slow segment, as an opened log has, is left early for one that is zeros to its end; a crash at any operation on the
/// way harms nothing.
#[test]
fn early_cut_survives_power_loss() {
    let zeros_take = Duration::from_millis(5);
    for options in zero_filled() {
        let options = options.segment_bytes(512 << 10).group_bytes_max(32 << 10);
        let early_life = async |sim: &Sim, known: &Shared<Known>| -> Result<Stats> {
            let (wal, _) = start_on(sim, options.clone(), How::OpenOrCreate).await?;
            known.borrow_mut().created = true;
            // So quick that the cut finds a file which has few zeros.
            for n in 0..20 {
                call(&wal, known, Call::Append(vec![payload(n, 30_000)])).await?;
            }
            // Then the filler gets ahead.
            for n in 20..26 {
                sleep(sim, 2 * zeros_take).await;
                call(&wal, known, Call::Append(vec![payload(n, 1000)])).await?;
            }
            Ok(wal.stats())
        };
        let sim = machine(1);
        sim.set_latency(OpKind::WriteZeros, zeros_take);
        let stats = sim.block_on(early_life(&sim, &Shared::default())).unwrap();
        assert!(stats.cuts_unready > 0 && stats.cuts > stats.cuts_unready, "{stats:?}");
        let len = |entry: &TraceEntry| entry.detail.strip_prefix("len=")?.parse::<u64>().ok();
        let trace = sim.trace();
        let cut = trace.iter().filter(|entry| entry.op == OpKind::Truncate).filter_map(len);
        assert!(cut.min() < Some(128 << 10), "a segment was left early: {stats:?}");
        let total = sim.operations();
        for (at, crash) in
            (1..=total + 1).flat_map(|at| [(at, Crash::LoseUnsynced), (at, Crash::Random)])
        {
            let sim = machine(at);
            sim.set_latency(OpKind::WriteZeros, zeros_take);
            let known = Shared::<Known>::default();
            let _ = sim.block_on_until(at, early_life(&sim, &known));
            sim.power_loss(crash);
            check(&sim, options.clone(), &known, &format!("{}, {crash:?} at {at}", mode(&options)));
        }
    }
}

/// P3, P5: the filler fails, with any of its operations. The cut makes do without it: the log goes on.
#[test]
fn failed_zeros_do_not_stop_the_log() {
    for options in zero_filled() {
        for (op, n) in [OpKind::WriteZeros, OpKind::Sync, OpKind::Allocate]
            .into_iter()
            .flat_map(|op| (1..6).map(move |n| (op, n)))
        {
            let story = format!("{}, {op} {n} fails", mode(&options));
            let sim = machine(n);
            let known = Shared::<Known>::default();
            let outcome = sim.block_on(async {
                let (wal, _) = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap();
                known.borrow_mut().created = true;
                sleep(&sim, Duration::from_millis(10)).await;
                // From here on operations of this kind are the filler's, where writes are durable by themselves.
                sim.fail_nth_of(op, n, EIO);
                for n in 0..60 {
                    call(&wal, &known, Call::Append(vec![payload(n, 1500)])).await?;
                    sleep(&sim, Duration::from_millis(1)).await;
                }
                Ok::<_, Error>(())
            });
            let of_groups = op == OpKind::Sync && options.sync_method == SyncMethod::Fdatasync;
            if !of_groups {
                outcome.unwrap_or_else(|error| panic!("{story}: {error}"));
            }
            sim.clear_faults();
            sim.power_loss(Crash::Random);
            check(&sim, options.clone(), &known, &story);
        }
    }
}

/// File systems without direct I/O, or with larger units than ours, or that copy on write: zeros go another way or are
/// left out, and the log works. Once, with the default options, it did not open where there is no direct I/O.
#[test]
fn zeros_do_without_direct_writes() {
    for (direct_align, copy_on_write) in
        [(None, false), (Some(64 << 10), false), (Some(512), true), (None, true)]
    {
        let story = format!("aligned to {direct_align:?}, copies: {copy_on_write}");
        let sim = machine(1);
        sim.set_geometry(Geometry { direct_align, block_bytes: 4096, copy_on_write });
        let options = Options::new().segment_bytes(64 << 10);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            for round in 0..2 {
                let open = start_on(&sim, options.clone(), How::OpenOrCreate);
                let (wal, _) = open.await.unwrap_or_else(|error| panic!("{story}: {error}"));
                known.borrow_mut().created = true;
                assert_eq!(wal.sync_method(), SyncMethod::Fdatasync, "{story}");
                for n in 0..100 {
                    call(&wal, &known, Call::Append(vec![payload(round * 100 + n, 1500)]))
                        .await
                        .unwrap();
                    sleep(&sim, Duration::from_micros(500)).await;
                }
                let Stats { cuts, cuts_unready, .. } = wal.stats();
                assert!(cuts > 1 && cuts_unready < cuts, "{cuts_unready} of {cuts}: {story}");
                wal.close().await.unwrap();
            }
        });
        let zeros = sim.trace().iter().filter(|entry| entry.op == OpKind::WriteZeros).count();
        assert_eq!(zeros == 0, copy_on_write, "{story}");
        sim.power_loss(Crash::LoseUnsynced);
        check(&sim, options, &known, &story);
    }
}
