//! The command as its users meet it: the built binary, its output by the byte, its exit codes.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use seawal::{ConfState, HardState, Options, Snapshot, Streams, Wal};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A few thousand lines fill several segments.
const SMALL: &[&str] = &["--segment-size", "16Ki", "--group-bytes-max", "4Ki"];

/// A directory of its own for a test, and the log in it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Runs `seawal COMMAND LOG ARGS`.
    fn run(&self, command: &str, args: &[&str], input: &[u8]) -> Output {
        run(command, &self.log(), args, input)
    }

    /// Appends and expects that to work.
    fn append(&self, args: &[&str], input: &[u8]) -> Output {
        expect(self.run("append", args, input), 0)
    }

    fn spawn(&self, command: &str, args: &[&str]) -> Child {
        command_on(command, &self.log(), args).spawn().unwrap()
    }

    /// The lines of `dump --format json`.
    fn dump(&self, args: &[&str]) -> Vec<Value> {
        let args = [&["--format", "json"], args].concat();
        json_lines(&expect(self.run("dump", &args, b""), 0).stdout)
    }

    /// The segment files, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.log()).unwrap().map(|entry| entry.unwrap().path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "wal");
        let mut segments: Vec<PathBuf> = entries.filter(is_segment).collect();
        segments.sort();
        segments
    }
}

fn command_on(command: &str, log: &Path, args: &[&str]) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_seawal"));
    process.arg(command).arg(log).args(args).env_remove("RUST_LOG");
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process
}

fn run(command: &str, log: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = command_on(command, log, args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The command may fail before it has read all.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

#[track_caller]
fn expect(output: Output, code: i32) -> Output {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

/// Expects a failure with one line on stderr that holds `words`.
#[track_caller]
fn expect_error(output: Output, code: i32, words: &[&str]) -> String {
    let stderr = text(&expect(output, code).stderr);
    assert!(stderr.starts_with("seawal: ") && stderr.lines().count() == 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word} is not in: {stderr}");
    }
    stderr
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", text(bytes)))
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    bytes.lines().map(|line| json(line.unwrap().as_bytes())).collect()
}

fn crc(payload: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(payload))
}

/// Waits for a process, but not for ever.
#[track_caller]
fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lines of many lengths and all bytes but the newline, the same each time.
fn lines(count: usize) -> Vec<u8> {
    let mut seed = 1u64;
    let mut out = Vec::new();
    for number in 0..count {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = seed.to_le_bytes();
        out.extend_from_slice(number.to_string().as_bytes());
        out.extend(
            bytes.iter().cycle().take((seed >> 32) as usize % 60).filter(|&&byte| byte != b'\n'),
        );
        out.push(b'\n');
    }
    out
}

fn numbers(count: u64) -> Vec<u8> {
    (1..=count).map(|number| format!("record {number}\n")).collect::<String>().into_bytes()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

fn offset_of(line: &Value) -> u64 {
    line["offset"].as_u64().unwrap()
}

/// Cuts the log at the sector border inside the last group of entries that has one, as a crash would.
fn tear(place: &Place) {
    let border = |line: &Value| (offset_of(line) / 512 + 1) * 512;
    let is_group = |line: &&Value| {
        line["mark"] == "entries"
            && border(line) < offset_of(line) + line["group_bytes"].as_u64().unwrap()
    };
    let lines = place.dump(&[]);
    let group = lines.iter().rfind(is_group).unwrap();
    let path = place.segments().pop().unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(border(group)).unwrap();
    file.set_len(bytes).unwrap();
}

/// Flips a bit in the payload of this entry.
fn damage(place: &Place, index: u64) {
    let lines = place.dump(&["--type", "entry"]);
    let entry = lines.iter().find(|line| line["index"] == index).unwrap();
    let path = place.log().join(entry["file"].as_str().unwrap());
    let end =
        offset_of(entry) + entry["bytes"].as_u64().unwrap() - entry["padding"].as_u64().unwrap();
    flip(&path, end - 1);
}

#[test]
fn lines_come_back_byte_for_byte() {
    let place = Place::new();
    let mut input = lines(100_000);
    input.extend_from_slice(b"\n\n\0\n\0\0\r\n\r\n");
    input.extend(std::iter::repeat_n(b'x', 10 << 20));
    input.extend_from_slice(b"\nno newline at the end");
    place.append(&["--segment-size", "8Mi"], &input);
    let output = expect(place.run("cat", &[], b""), 0);
    input.push(b'\n');
    assert!(output.stdout == input, "{} bytes instead of {}", output.stdout.len(), input.len());
    assert!(place.segments().len() > 1);

    let ranged = expect(place.run("cat", &["--from", "2", "--to", "3"], b""), 0);
    let expected: Vec<&[u8]> =
        input.split_inclusive(|&byte| byte == b'\n').skip(1).take(2).collect();
    assert_eq!(ranged.stdout, expected.concat());
}

#[test]
fn frames_come_back_byte_for_byte() {
    let place = Place::new();
    let mut input = Vec::new();
    for payload in [&b"a\nb"[..], b"", b"\n", b"\r\n", &[0; 70_000], b"last"] {
        input.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        input.extend_from_slice(payload);
    }
    place.append(&["--frame", "len32", "--packing", "block"], &input);
    let output = expect(place.run("cat", &["--frame", "len32"], b""), 0);
    assert!(output.stdout == input);
    let raw = expect(place.run("cat", &["--format", "raw", "--to", "4"], b""), 0);
    assert_eq!(raw.stdout, b"a\nb\n\r\n");
}

#[test]
fn both_backends_write_the_same_log() {
    for backend in ["auto", "threads"] {
        let place = Place::new();
        place.append(&["--backend", backend], b"a\nb\n");
        assert_eq!(expect(place.run("cat", &[], b""), 0).stdout, b"a\nb\n", "{backend}");
    }
}

/// Every engine option works on a real directory, and the log is the same to a reader.
#[test]
fn engine_options_are_flags() {
    let input = lines(500);
    for args in [
        &["--sync", "auto"][..],
        &["--sync", "fdatasync"],
        &["--sync", "fdatasync", "--packing", "block"],
        &["--prealloc", "fallocate"],
        &["--prealloc", "zero-fill"],
        &["--in-flight", "1"],
        &["--in-flight", "32"],
        &["--group-delay", "200us"],
        &["--group-delay", "2ms", "--group-records-max", "100"],
        &["--durability", "durable"],
        &["--durability", "written"],
        &["--durability", "written", "--sync-interval", "5ms"],
    ] {
        let place = Place::new();
        let args = [SMALL, args].concat();
        place.append(&args, &input);
        place.append(&args, b"again\n");
        let expected = [&input[..], b"again\n"].concat();
        assert!(expect(place.run("cat", &[], b""), 0).stdout == expected, "{args:?}");
        expect(place.run("verify", &[], b""), 0);
    }
}

/// What was chosen is told; what was asked for by name is never replaced by something else.
#[test]
fn sync_method_is_as_asked_for() {
    let append = |method: &str| Place::new().run("append", &["--json", "--sync", method], b"a\n");
    let used = |output: Output| json(&expect(output, 0).stdout)["sync_method"].clone();
    assert_eq!(used(append("fdatasync")), "fdatasync");
    let auto = used(append("auto"));
    assert!(auto == "fdatasync" || auto == "dsync", "{auto}");
    let dsync = append("dsync");
    match dsync.status.code() {
        Some(0) => assert_eq!(used(dsync), "dsync"),
        // A file system without direct I/O.
        _ => drop(expect_error(dsync, 1, &["SyncMethod::Dsync needs", "SyncMethod::Auto"])),
    }
}

/// The blocks of direct writes are in the marks: their groups start at multiples of 4096.
#[test]
fn blocks_are_whole_with_dsync() {
    let place = Place::new();
    if place.run("append", &["--sync", "dsync"], b"a\nb\n").status.code() != Some(0) {
        println!("skipped: no direct I/O here");
        return;
    }
    let starts: Vec<u64> =
        place.dump(&[]).iter().filter(|line| line["mark"] == "entries").map(offset_of).collect();
    assert!(!starts.is_empty() && starts.iter().all(|at| at % 4096 == 0), "{starts:?}");
}

/// Acks of what is only written do not wait for the sync.
#[test]
fn written_records_are_acked_before_the_sync() {
    let place = Place::new();
    let args = ["--ack", "--durability", "written", "--sync-interval", "3600s"];
    let mut child = place.spawn("append", &args);
    let (mut stdin, mut out) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    for index in 1..=3 {
        stdin.write_all(b"x\n").unwrap();
        line.clear();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("ACK {index} {}\n", crc(b"x")));
    }
    // What the kernel has outlives the process.
    child.kill().unwrap();
    wait(&mut child);
    assert_eq!(expect(place.run("append", &["--ack"], b""), 0).stdout, b"READY 3\n");
}

#[test]
fn acks_come_in_order_and_say_what_is_durable() {
    let place = Place::new();
    let input = lines(2_000);
    let expected = |first: usize| {
        let payloads = input.split(|&byte| byte == b'\n').take(2_000);
        let acks =
            payloads.zip(first..).map(|(payload, index)| format!("ACK {index} {}\n", crc(payload)));
        format!("READY {}\n{}", first - 1, acks.collect::<String>())
    };
    assert_eq!(text(&place.append(&["--ack"], &input).stdout), expected(1));
    assert_eq!(text(&place.append(&["--ack"], &input).stdout), expected(2_001));
    let nothing = place.append(&["--ack", "--no-create"], b"");
    assert_eq!(text(&nothing.stdout), "READY 4000\n");
}

/// A caller that waits for its ack before it sends more must get it.
#[test]
fn ack_comes_while_the_input_is_open() {
    let place = Place::new();
    let mut child = place.spawn("append", &["--ack"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(acks.next().unwrap().unwrap(), "READY 0");
    for index in 1..=20 {
        stdin.write_all(b"ping\n").unwrap();
        assert_eq!(acks.next().unwrap().unwrap(), format!("ACK {index} {}", crc(b"ping")));
    }
    drop(stdin);
    assert!(acks.next().is_none());
    assert_eq!(wait(&mut child), Some(0));
}

/// The log fails (its segment would grow beyond the limit for files) while stdin stays open: the process must end
/// at once, and ack nothing that failed.
#[test]
fn failed_write_ends_the_process_while_the_input_is_open() {
    let place = Place::new();
    place.append(&["--segment-size", "16Ki"], b"");
    // A kibibyte or half a one each, by the shell.
    let script = r#"trap "" XFSZ; ulimit -f 2048; exec "$0" append "$1" --ack --segment-size 16Ki"#;
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_seawal")])
        .arg(place.log())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdin.write_all(b"small\n").unwrap();
    acks.read_line(&mut line).unwrap();
    acks.read_line(&mut line).unwrap();
    assert_eq!(line, format!("READY 0\nACK 1 {}\n", crc(b"small")));
    let mut large = vec![b'x'; 4 << 20];
    large.push(b'\n');
    let _ = stdin.write_all(&large);
    assert_eq!(wait(&mut child), Some(4));
    let mut rest = String::new();
    acks.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("File too large") && stderr.contains("seawal: "), "{stderr}");
    drop(stdin);
    let output = expect(place.run("cat", &[], b""), 0);
    assert!(output.stdout.starts_with(b"small\n"));
}

#[test]
fn verify_tells_clean_torn_damaged_and_no_log() {
    let place = Place::new();
    let verdict = |code: i32| {
        let object = json(&expect(place.run("verify", &["--json"], b""), code).stdout);
        let plain = text(&expect(place.run("verify", &[], b""), code).stdout);
        (object["verdict"].as_str().unwrap().to_owned(), object, plain)
    };
    assert_eq!(verdict(3).0, "not-a-log");

    place.append(&[], &numbers(100));
    place.append(&[], &numbers(100));
    let (word, object, plain) = verdict(0);
    assert_eq!((word.as_str(), &object["last_index"]), ("clean", &Value::from(200)));
    assert!(plain.starts_with("clean: ") && plain.contains("1 to 200"), "{plain}");

    tear(&place);
    let (word, object, plain) = verdict(1);
    assert_eq!(word, "torn");
    assert!(object["torn_bytes"].as_u64().unwrap() > 0);
    assert!(plain.contains("torn tail: ") && plain.contains("seawal append"), "{plain}");
    let cat = expect(place.run("cat", &[], b""), 0);
    assert!(cat.stdout.starts_with(b"record 1\n"));
    assert!(text(&cat.stderr).contains("warning: "), "{}", text(&cat.stderr));
    // Appending cuts it, and says so.
    let append = place.append(&[], b"after\n");
    assert!(text(&append.stderr).contains("cut a torn tail"), "{}", text(&append.stderr));
    assert!(expect(place.run("cat", &[], b""), 0).stdout.ends_with(b"\nafter\n"));
    assert_eq!(verdict(0).0, "clean");

    damage(&place, 3);
    let (word, object, plain) = verdict(2);
    assert_eq!((word.as_str(), &object["offset"].is_u64()), ("damaged", &true));
    assert!(plain.starts_with("damaged: ") && plain.contains("checksum mismatch"), "{plain}");
    for command in ["cat", "append"] {
        expect_error(place.run(command, &[], b"x\n"), 2, &["checksum mismatch", "seawal dump"]);
    }
}

#[test]
fn closed_pipe_is_no_failure() {
    let place = Place::new();
    place.append(&[], &lines(50_000));
    for (command, args) in [("cat", &[][..]), ("cat", &["--format", "json"]), ("dump", &[])] {
        let mut child = place.spawn(command, args);
        let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap());
        stdout.read_until(b'\n', &mut Vec::new()).unwrap();
        drop(stdout);
        assert_eq!(wait(&mut child), Some(0), "{command}");
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(stderr, "", "{command}");
    }
    // Acks that nobody gets are one.
    let mut child = place.spawn("append", &["--ack"]);
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"x\n");
    assert_eq!(wait(&mut child), Some(1));
}

#[test]
fn every_mistake_has_its_own_message() {
    let place = Place::new();
    let base = place.dir.path();
    let (empty, file, nowhere) = (base.join("empty"), base.join("file"), base.join("no/where"));
    fs::create_dir(&empty).unwrap();
    File::create(&file).unwrap();
    let mut messages = Vec::new();
    for command in ["cat", "dump", "verify", "stat"] {
        let found = [
            expect_error(run(command, &empty, &[], b""), 3, &["no segment"]),
            expect_error(run(command, &file, &[], b""), 3, &["not a file"]),
            expect_error(run(command, &nowhere, &[], b""), 3, &["No such file", "check the path"]),
        ];
        if command == "cat" {
            messages.extend(found);
        }
    }
    expect_error(run("append", &empty, &["--no-create"], b""), 3, &["no segment"]);
    expect_error(run("append", &file, &[], b""), 3, &["not a file"]);
    messages.push(expect_error(run("append", &nowhere, &[], b""), 3, &["the directory above it"]));

    place.append(SMALL, &lines(2_000));
    let mut holder = place.spawn("append", &["--ack"]);
    let mut ready = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    messages.push(expect_error(place.run("append", &[], b""), 1, &["another process", "close it"]));
    // Those that only read do not mind.
    assert_eq!(expect(place.run("verify", &[], b""), 0).stderr, b"");
    drop(holder.stdin.take());
    assert_eq!(wait(&mut holder), Some(0));

    let words = ["line 2", "--record-bytes-max", "after 1 record,"];
    let long = b"ok\nthis line is too long\nok\n";
    messages.push(expect_error(place.run("append", &["--record-bytes-max", "9"], long), 1, &words));
    assert!(expect(place.run("cat", &[], b""), 0).stdout.ends_with(b"\nok\n"));
    let framed = place.run("append", &["--frame", "len32"], b"\x09\0\0\0abc");
    messages.push(expect_error(framed, 1, &["3 bytes into record 1"]));
    messages.push(expect_error(
        place.run("append", &["--segment-size", "1k"], b""),
        1,
        &["segment_bytes"],
    ));
    messages.push(expect_error(
        place.run("append", &["--group-delay", "61s"], b""),
        1,
        &["group_delay is longer than a minute"],
    ));
    messages.push(expect_error(place.run("cat", &["--from", "0"], b""), 1, &["1 to 2001"]));
    messages.push(expect_error(place.run("cat", &["--start", "7/1"], b""), 1, &["seawal stat"]));

    fs::remove_file(&place.segments()[1]).unwrap();
    expect_error(place.run("cat", &[], b""), 2, &["segment 1 is missing"]);
    messages.push(expect_error(place.run("append", &[], b""), 2, &["segment 1 is missing"]));
    expect(place.run("verify", &[], b""), 2);
    assert!(place.dump(&[]).iter().any(|line| line["type"] == "missing"));
    fs::remove_file(&place.segments()[0]).unwrap();
    expect_error(place.run("cat", &[], b""), 1, &["--start latest"]);
    messages.push(expect_error(place.run("verify", &[], b""), 4, &["--start latest"]));

    let all = messages.len();
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), all, "{messages:#?}");
}

#[test]
fn wrong_command_lines_exit_64() {
    let place = Place::new();
    for (command, args) in [
        ("append", &["--no-such-flag"][..]),
        ("append", &["--segment-size", "4Q"]),
        ("append", &["--backend", "spdk"]),
        ("append", &["--sync", "O_DSYNC"]),
        ("append", &["--prealloc", "zeros"]),
        ("append", &["--packing", "loose"]),
        ("append", &["--in-flight", "0"]),
        ("append", &["--in-flight", "33"]),
        ("append", &["--group-delay", "5"]),
        ("append", &["--group-delay", "soon"]),
        ("append", &["--group-records-max", "0"]),
        ("append", &["--durability", "maybe"]),
        ("append", &["--sync-interval", "2days"]),
        ("append", &["--ack", "--json"]),
        ("cat", &["--start", "yesterday"]),
        ("cat", &["--format", "json", "--frame", "len32"]),
        ("dump", &["--type", "entry,hole"]),
        ("no-such-command", &[]),
    ] {
        let output = expect(place.run(command, args, b""), 64);
        assert!(text(&output.stderr).contains("error: "), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !place.log().exists());
    }
    for command in ["append", "cat", "dump", "verify", "stat"] {
        let help = expect(place.run(command, &["--help"], b""), 0);
        assert!(text(&help.stdout).contains("Usage: seawal"), "{command}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_seawal")).arg("--help").output().unwrap();
    assert!(text(&help.stdout).contains("  64  the command line is wrong"));
}

#[test]
fn json_has_the_promised_fields() {
    let place = Place::new();
    let summary = json(&place.append(&["--json"], b"hello\n\n").stdout);
    assert_eq!((summary["records"].as_u64(), summary["bytes"].as_u64()), (Some(2), Some(5)));
    for field in ["seconds", "appends_per_second", "commit_us_p50", "commit_us_p99", "last_index"] {
        assert!(summary[field].is_number(), "{field}: {summary}");
    }
    assert!(summary["backend"].is_string() && summary["sync_method"].is_string());

    let entries = json_lines(&expect(place.run("cat", &["--format", "json"], b""), 0).stdout);
    let expected = format!(
        r#"{{"index":1,"term":1,"type":"normal","len":5,"crc32c":"{}","data":"aGVsbG8="}}"#,
        crc(b"hello")
    );
    assert_eq!(entries[0].to_string(), expected);
    let bare = expect(place.run("cat", &["--format", "json", "--no-data"], b""), 0).stdout;
    let bare = json_lines(&bare);
    assert!(bare.len() == 2 && bare[0].get("data").is_none() && bare[0]["crc32c"].is_string());

    let stat = json(&expect(place.run("stat", &["--json"], b""), 0).stdout);
    assert_eq!((stat["verdict"].as_str(), stat["last_index"].as_u64()), (Some("clean"), Some(2)));
    for field in [
        "first_index",
        "hard_state",
        "metadata_bytes",
        "log_id",
        "epoch",
        "end",
        "snapshots",
        "bytes",
    ] {
        assert!(stat.get(field).is_some(), "{field}: {stat}");
    }
    assert_eq!(stat["segments"][0]["state"], "active");
    assert_eq!(
        stat["end"]["offset"],
        json(&expect(place.run("verify", &["--json"], b""), 0).stdout)["offset"]
    );
}

/// A Raft log whose head was released: only its snapshot says where to start.
#[test]
fn released_head_is_read_from_the_snapshot() {
    let place = Place::new();
    let wal = Wal::create_blocking(
        place.log(),
        Options::new().segment_bytes(16 << 10).group_bytes_max(4 << 10),
    )
    .unwrap();
    for _ in 0..400 {
        drop(wal.submit_blocking(vec![b'x'; 100]).unwrap());
    }
    let state = HardState { term: 1, vote: 7, commit: 400 };
    pollster::block_on(wal.save(state, Vec::new())).unwrap();
    let conf_state = Some(ConfState { voters: vec![7], ..ConfState::default() });
    pollster::block_on(wal.save_snapshot(Snapshot { index: 400, term: 1, conf_state })).unwrap();
    let records = std::iter::repeat_n(vec![b'y'; 100], 100);
    pollster::block_on(wal.append_batch(records)).unwrap();
    wal.close_blocking().unwrap();
    fs::remove_file(&place.segments()[0]).unwrap();

    expect_error(place.run("cat", &[], b""), 1, &["--start latest"]);
    let cat = expect(place.run("cat", &["--start", "latest"], b""), 0);
    assert_eq!(cat.stdout.split(|&byte| byte == b'\n').count(), 101);
    expect(place.run("verify", &["--start", "400/1"], b""), 0);
    let stat = json(&expect(place.run("stat", &["--json"], b""), 0).stdout);
    assert_eq!(stat["start"]["head_released"], true);
    assert_eq!((stat["first_index"].as_u64(), stat["last_index"].as_u64()), (Some(401), Some(500)));
    assert!(text(&expect(place.run("stat", &[], b""), 0).stdout).contains("was released"));
    let append = place.append(&["--start", "latest", "--ack"], b"more\n");
    assert_eq!(text(&append.stdout), format!("READY 500\nACK 501 {}\n", crc(b"more")));

    let lines = place.dump(&["--type", "snapshot,state"]);
    assert!(
        lines.iter().any(|line| line["type"] == "snapshot" && line["conf_state"]["voters"][0] == 7)
    );
    assert!(lines.iter().any(|line| line["type"] == "state" && line["commit"] == 400));
}

#[test]
fn dump_goes_on_behind_damage() {
    let place = Place::new();
    place.append(SMALL, &numbers(2_000));
    let segments = place.segments();
    assert!(segments.len() > 2);
    let sound = place.dump(&[]);
    let entries = |lines: &[Value]| lines.iter().filter(|line| line["type"] == "entry").count();
    let of_type = |lines: &[Value], name: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["type"] == name).cloned().collect()
    };
    assert_eq!(entries(&sound), 2_000);
    assert_eq!(of_type(&sound, "end").len(), segments.len());
    let is_mark = |line: &Value| line["mark"] != "filler";
    let marks: Vec<Value> = of_type(&sound, "crc").into_iter().filter(is_mark).collect();
    assert!(!marks.is_empty() && marks.iter().all(|line| line["counts"] == true));
    for line in &sound {
        assert!(line["file"].is_string() && line["offset"].is_u64() && line["type"].is_string());
    }

    // A flipped bit: said once, and all entries are still there.
    damage(&place, 10);
    let lines = place.dump(&[]);
    assert_eq!((of_type(&lines, "mismatch").len(), entries(&lines)), (1, 2_000));

    // A length that leads nowhere: the rest of this segment is lost, the others are not.
    let frame = of_type(&sound, "entry")[20].clone();
    let path = place.log().join(frame["file"].as_str().unwrap());
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 6], offset_of(&frame)).unwrap();
    let lines = place.dump(&[]);
    let broken = of_type(&lines, "broken");
    assert_eq!((broken.len(), &broken[0]["offset"]), (1, &frame["offset"]));
    let reasons = of_type(&lines, "end");
    assert!(reasons.iter().any(|end| end["file"] == frame["file"] && end["reason"] == "broken"));
    assert_eq!(
        (of_type(&lines, "end").len(), of_type(&lines, "mismatch").len()),
        (segments.len(), 1)
    );
    assert!(lines.iter().any(|line| line["index"] == 2_000));

    let range = place.dump(&["--type", "entry", "--start-index", "1990", "--end-index", "1995"]);
    assert_eq!(entries(&range), 5);
    assert_eq!(entries(&place.dump(&["--entry-type", "conf-change"])), 0);
    let plain = text(&expect(place.run("dump", &[], b""), 0).stdout);
    assert!(
        plain.contains(" broken reason=") && plain.contains(r#"preview="record 2000""#),
        "{plain}"
    );
    // stat tells what is left to tell.
    let stat = json(&expect(place.run("stat", &["--json"], b""), 2).stdout);
    assert_eq!(stat["verdict"], "damaged");
    assert_eq!(stat["segments"].as_array().unwrap().len(), segments.len());
}

/// Random bytes in a log: whatever the commands say of it, they say it without a panic.
#[test]
fn hostile_bytes_panic_no_command() {
    let place = Place::new();
    place.append(&[], &numbers(50));
    let path = place.segments().pop().unwrap();
    let sound = fs::read(&path).unwrap();
    let mut seed = 7u64;
    for round in 0..12 {
        let mut bytes = sound[..8 << 10].to_vec();
        for _ in 0..1 + round {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % 4_000;
            bytes[at] = (seed >> 20) as u8;
        }
        fs::write(&path, &bytes).unwrap();
        for command in ["cat", "dump", "verify", "stat"] {
            let output = place.run(command, &[], b"");
            let stderr = text(&output.stderr);
            assert!(!stderr.contains("panicked"), "round {round}, {command}: {stderr}");
            assert!(output.status.code().is_some_and(|code| code <= 4), "{:?}", output.status);
        }
    }
}

#[test]
fn what_is_released_is_gone_and_the_rest_is_there() {
    let place = Place::new();
    place.append(SMALL, &numbers(9000));
    let before = place.segments().len();
    let said = expect(place.run("release", &["8000"], b""), 0);
    assert!(text(&said.stdout).starts_with("the first index is 8001; removed "), "{said:?}");
    let left = place.segments();
    assert!(left.len() < before / 2, "{left:?}");
    let lines = expect(place.run("cat", &[], b""), 0);
    let all = numbers(9000);
    let expected = all.split_inclusive(|&byte| byte == b'\n').skip(8000).collect::<Vec<_>>();
    assert_eq!(lines.stdout, expected.concat());
    expect(place.run("verify", &[], b""), 0);
    let stat = json(&expect(place.run("stat", &["--json"], b""), 0).stdout);
    assert_eq!((&stat["first_index"], &stat["last_index"]), (&8001.into(), &9000.into()));
    let marks = place.dump(&[]);
    assert!(marks.iter().any(|line| line["mark"] == "release"), "no release");

    expect_error(place.run("release", &["9001"], b""), 1, &["9001", "the last is 9000"]);
    expect_error(place.run("release", &["7000"], b""), 1, &["7000", "the first is 8001"]);
    let said = json(&expect(place.run("release", &["9000", "--json"], b""), 0).stdout);
    assert_eq!((&said["first_index"], place.segments().len()), (&9001.into(), 1), "{said}");
    assert!(said["bytes_freed"].as_u64().is_some() && said["segments_removed"].is_u64(), "{said}");
    place.append(SMALL, b"after\n");
    assert_eq!(expect(place.run("cat", &[], b""), 0).stdout, b"after\n");
}

#[test]
fn a_log_of_limited_size_forgets_by_itself() {
    let place = Place::new();
    place.append(&[SMALL, &["--retain-segments", "3"]].concat(), &numbers(9000));
    assert!(place.segments().len() <= 4, "{:?}", place.segments());
    let other = Place::new();
    let full = ["--log-bytes-max", "128Ki", "--when-full", "fail"];
    let refused = other.run("append", &[SMALL, &full].concat(), &numbers(90_000));
    expect_error(refused, 1, &["as many segments as it may have", "release entries"]);
    let kept = Place::new();
    kept.append(&[SMALL, &full, &["--retain-segments", "3"]].concat(), &numbers(9000));
}

#[test]
fn named_streams_are_listed_and_printed() {
    let place = Place::new();
    let log = place.log();
    let names = ["orders", "audit\n2"];
    let written = pollster::block_on(async {
        let (streams, _) =
            Streams::open_or_create(&log, Options::new().segment_bytes(16 << 10)).await?;
        for n in 1..=600 {
            for name in names {
                streams.stream(name).await?.append(format!("{n} {name}")).await?;
            }
        }
        streams.get("orders").unwrap().release(400).await?;
        streams.get(names[1]).unwrap().release(590).await?;
        streams.close().await
    });
    written.unwrap();

    let listed = expect(place.run("streams", &[], b""), 0);
    assert_eq!(text(&listed.stdout), "591 600 audit\\n2\n401 600 orders\n");
    let listed = json_lines(&expect(place.run("streams", &["--json"], b""), 0).stdout);
    assert_eq!(listed[0]["name"], names[1]);
    assert_eq!((&listed[1]["first_index"], &listed[1]["last_index"]), (&401.into(), &600.into()));

    let orders = ["--stream", "orders"];
    let range = ["--from", "498", "--to", "500"];
    let printed = expect(place.run("cat", &[&orders[..], &range].concat(), b""), 0);
    assert_eq!(text(&printed.stdout), "498 orders\n499 orders\n500 orders\n");
    let all = expect(place.run("cat", &orders, b""), 0);
    assert_eq!(text(&all.stdout).lines().count(), 200);
    let printed = place.run("cat", &["--stream", "orders", "--from", "400"], b"");
    expect_error(printed, 1, &["index 400 is not in the stream, which holds 401 to 600"]);
    let printed = place.run("cat", &["--stream", "none"], b"");
    expect_error(printed, 1, &["there is no stream \"none\"", "seawal streams"]);

    let plain = Place::new();
    plain.append(&[], b"a line\n");
    for (command, args) in [("streams", &[][..]), ("cat", &orders[..])] {
        expect_error(plain.run(command, args, b""), 3, &["not one of streams"]);
    }
}
