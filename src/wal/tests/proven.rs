//! A record that was acked and whose sector is lost later: what a mark proves is refused, in every mode.

use super::*;

/// The machine was well, and now reads zeros where a sector was.
fn zero_sector(sim: &Sim, path: &Path, at: usize) {
    let mut bytes = sim.read_file(path).unwrap();
    let end = bytes.len().min(at + 512);
    assert!(bytes[at..end].iter().any(|&byte| byte != 0), "there is nothing to lose");
    bytes[at..end].fill(0);
    sim.write_file(path, bytes);
}

/// Sectors in which there is nothing but the payload of record `tag`.
fn sectors_of(bytes: &[u8], tag: u8) -> Vec<usize> {
    let inside = |at: &usize| bytes[*at..*at + 512].iter().all(|&byte| byte == tag);
    (0..bytes.len() - 511).step_by(512).filter(inside).collect()
}

/// What the mark behind the records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    NextGroup,
    IdleMark,
    CloseMark,
    RecoveryMark,
    /// None: power was lost at once.
    Nothing,
}

/// P4: four records are acked one after another, and a sector of one of them is zeros when the log is opened again. If
/// a later mark proves the record, the log is refused with file and offset, and left as it was. Only the last one, with
/// nothing behind it, looks like a torn write, and is cut.
#[test]
fn lost_sector_of_a_proven_record_is_damage() {
    let proofs =
        [Proof::NextGroup, Proof::IdleMark, Proof::CloseMark, Proof::RecoveryMark, Proof::Nothing];
    for options in modes() {
        let options = options.segment_bytes(128 << 10);
        for proof in proofs {
            let build = || {
                let sim = machine(1);
                sim.block_on(async {
                    let open = start_on(&sim, options.clone(), How::OpenOrCreate);
                    let (wal, _) = open.await.unwrap();
                    for tag in 1..=4 {
                        wal.append(payload(tag, 3000)).await.unwrap();
                    }
                    match proof {
                        Proof::NextGroup => drop(wal.append(payload(5, 3000)).await.unwrap()),
                        Proof::IdleMark => {
                            let disk = sim.disk(options.disk_config());
                            disk.sleep(Duration::from_millis(500)).await;
                        }
                        Proof::CloseMark => drop(wal.close().await.unwrap()),
                        Proof::RecoveryMark | Proof::Nothing => {}
                    }
                });
                sim.power_loss(Crash::LoseUnsynced);
                if proof == Proof::RecoveryMark {
                    sim.block_on(start_on(&sim, options.clone(), How::Open)).unwrap();
                    sim.power_loss(Crash::LoseUnsynced);
                }
                sim
            };
            let path = PathBuf::from(format!("{DIR}/0000000000000000-0000000000000000.wal"));
            let sound = build().read_file(&path).unwrap();
            for tag in 1..=4 {
                let sectors = sectors_of(&sound, tag);
                assert!(sectors.len() > 3, "{sectors:?}");
                for at in sectors {
                    let story = format!("{}, {proof:?}, sector {at} of {tag}", mode(&options));
                    let sim = build();
                    zero_sector(&sim, &path, at);
                    let before = sim.read_file(&path).unwrap();
                    let outcome = sim.block_on(start_on(&sim, options.clone(), How::Open));
                    if proof == Proof::Nothing && tag == 4 {
                        let (_, recovery) = outcome.expect(&story);
                        assert_eq!(recovery.verdict, Verdict::Torn, "{story}");
                        assert_eq!(recovery.last_index, Some(3), "{story}");
                        continue;
                    }
                    let error = outcome.map(drop).expect_err(&story);
                    assert!(error.is_damaged(), "{story}: {error}");
                    assert_eq!(error.path(), Some(path.as_path()), "{story}: {error}");
                    // The group begins before the sector that was lost, by a mark and a frame at least.
                    let offset = error.offset().expect(&story) as usize;
                    assert!(offset <= at && at - offset < 3400, "{offset}: {story}: {error}");
                    let left = sim.read_file(&path).unwrap();
                    assert!(left == before, "left as it was: {story}");
                }
            }
        }
    }
}

/// The same for groups that were in flight together: the mark of each says what was durable when it was staged, so the
/// groups of one window prove nothing of each other, and the first group that was staged after they were acked proves
/// them all.
#[test]
fn groups_of_one_window_prove_nothing_of_each_other() {
    let options = super::window::at_once(direct().segment_bytes(256 << 10).in_flight_max(4));
    for (lost, after) in (1..=4).flat_map(|lost| [(lost, false), (lost, true)]) {
        let story = format!("{lost} is lost, one after {after}");
        let sim = machine(1);
        sim.block_on(async {
            let open = start_on(&sim, options.clone(), How::OpenOrCreate);
            let (wal, _) = open.await.unwrap();
            let window = (1..=4).map(|tag| wal.append(payload(tag, 3000)));
            let window = futures_util::future::join_all(window.collect::<Vec<_>>()).await;
            assert!(window.iter().all(Result::is_ok), "{story}");
            if after {
                wal.append(payload(5, 3000)).await.unwrap();
            }
        });
        sim.power_loss(Crash::LoseUnsynced);
        let path = PathBuf::from(format!("{DIR}/0000000000000000-0000000000000000.wal"));
        let at = sectors_of(&sim.read_file(&path).unwrap(), lost)[1];
        zero_sector(&sim, &path, at);
        match sim.block_on(start_on(&sim, options.clone(), How::Open)) {
            Err(error) => {
                assert!(after && error.is_damaged(), "{story}: {error}");
            }
            Ok((_, recovery)) => {
                assert!(!after, "{story}");
                assert_eq!(recovery.last_index.unwrap_or(0), u64::from(lost) - 1, "{story}");
            }
        }
    }
}
