//! `seawal dump`: every record as it lies on disk, sound or not.
//!
//! Where recovery stops, this goes on. It follows the frames of each segment by itself; after a checksum that does
//! not fit it takes the chain from the record and says so once; after a frame that cannot be followed it goes to the
//! next segment. Each line is built once, as JSON, and printed as that or as `key=value`.

use super::args::Format;
use super::disk;
use super::exit::Code;
use super::output::file_name;
use super::output::{self, Stdout};
use crate::error::{Error, Result};
use crate::format::crc::Chain;
use crate::format::decode::{self, BadPayload, RawRecord};
use crate::format::frame::{FrameLength, LENGTH_FIELD_BYTES};
use crate::format::mark::NotAMark;
use crate::format::note;
use crate::format::{LogId, Mark, MarkKind, RecordType};
use crate::io::{Access, Disk, DiskFile, Lane, OnDisk};
use crate::recovery::frames::{Found, PIECE_BYTES, Pieces};
use crate::segment::dir::{self, SegmentFile};
use crate::types::{ConfState, Entry, EntryKind, Position};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::PathBuf;

/// Payload bytes that are shown without --data.
const PREVIEW_BYTES: usize = 48;

/// Print every record of every segment, also of damaged logs
///
/// A line each: file, offset, type, length of the frame, padding, checksum, and what the type carries. Where
/// something is wrong a line says so (`mismatch`, `broken`, `missing`), and the last line of each file says why it
/// ends there. Takes no locks, changes nothing.
#[derive(Args, Debug)]
pub(super) struct Dump {
    /// The directory of the log
    dir: PathBuf,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Only these types of records
    #[arg(long = "type", value_enum, value_delimiter = ',', value_name = "TYPES")]
    types: Vec<TypeName>,
    /// Only entries of these types; other records are not affected
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TYPES")]
    entry_type: Vec<EntryTypeName>,
    /// Only entries from this index on; other records are not affected
    #[arg(long, value_name = "INDEX")]
    start_index: Option<u64>,
    /// Only entries below this index; other records are not affected
    #[arg(long, value_name = "INDEX")]
    end_index: Option<u64>,
    /// Print payloads whole (in JSON: as base64)
    #[arg(long)]
    data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TypeName {
    Metadata,
    Entry,
    State,
    Crc,
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EntryTypeName {
    Normal,
    ConfChange,
    ConfChangeV2,
}

impl Dump {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let mut out = output::stdout()?;
        let job = Job { args: self, lines: Lines { format: self.format, out: &mut out } };
        let outcome = disk::run(job)?;
        out.flush()?;
        outcome?;
        Ok(Code::Success)
    }

    /// Whether records of this type are wanted. What has no type we know is always shown.
    fn wants(&self, record_type: Option<RecordType>) -> bool {
        let name = match record_type {
            None => return true,
            Some(RecordType::Metadata) => TypeName::Metadata,
            Some(RecordType::Entry) => TypeName::Entry,
            Some(RecordType::State) => TypeName::State,
            Some(RecordType::Crc) => TypeName::Crc,
            Some(RecordType::Snapshot) => TypeName::Snapshot,
        };
        self.types.is_empty() || self.types.contains(&name)
    }

    fn wants_entry(&self, entry: &Entry) -> bool {
        let name = match entry.kind {
            EntryKind::Normal => EntryTypeName::Normal,
            EntryKind::ConfChange => EntryTypeName::ConfChange,
            EntryKind::ConfChangeV2 => EntryTypeName::ConfChangeV2,
        };
        self.start_index.is_none_or(|start| entry.index >= start)
            && self.end_index.is_none_or(|end| entry.index < end)
            && (self.entry_type.is_empty() || self.entry_type.contains(&name))
    }
}

/// One line: the keys in the order in which they are printed.
type Line = Map<String, Value>;

fn line(fields: Value) -> Line {
    match fields {
        Value::Object(line) => line,
        _ => unreachable!("lines are written as objects"),
    }
}

struct Lines<'a> {
    format: Format,
    out: &'a mut Stdout,
}

impl Lines<'_> {
    fn print(&mut self, line: &Line) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer(&mut *self.out, line)?;
            return self.out.write_all(b"\n");
        }
        for (at, (key, value)) in line.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match (key.as_str(), value) {
                ("file" | "type", Value::String(text)) => write!(self.out, "{space}{text}")?,
                ("offset", offset) => write!(self.out, "{space}{offset}")?,
                // Escaped already.
                ("preview", Value::String(text)) => write!(self.out, "{space}{key}=\"{text}\"")?,
                // Free text may hold spaces; names and numbers do not.
                ("reason" | "next" | "error", text) => {
                    write!(self.out, "{space}{key}={text}")?;
                }
                (_, Value::String(text)) => write!(self.out, "{space}{key}={text}")?,
                (_, Value::Null) => {}
                (_, other) => write!(self.out, "{space}{key}={other}")?,
            }
        }
        self.out.write_all(b"\n")
    }
}

struct Job<'a> {
    args: &'a Dump,
    lines: Lines<'a>,
}

/// What goes from record to record.
#[derive(Default)]
struct Context {
    /// `None` where it is not known: it is taken from the next record.
    chain: Option<Chain>,
    /// Of the first mark that counts.
    log_id: Option<LogId>,
    /// Where the group ends that the last mark began.
    group_end: u64,
}

/// A frame that can be followed.
struct Frame<'a> {
    file: &'a str,
    at: Position,
    bytes: u64,
    padding: u8,
    record: RawRecord,
}

impl OnDisk for Job<'_> {
    type Output = anyhow::Result<()>;

    async fn run<D: Disk>(mut self, disk: D) -> anyhow::Result<()> {
        let segments = dir::list_log(&disk, &self.args.dir).await?;
        let mut context = Context::default();
        let mut unreadable = None;
        for (at, segment) in segments.iter().enumerate() {
            if let Some(before) = at.checked_sub(1).map(|at| &segments[at])
                && segment.name.seq != before.name.seq.next()
            {
                self.lines.print(&line(json!({
                    "file": file_name(&segment.path),
                    "type": "missing",
                    "reason": format!("segment {} follows segment {}", segment.name.seq, before.name.seq),
                })))?;
                context.chain = None;
            }
            if let Err(error) = self.segment(&disk, segment, &mut context).await? {
                self.lines.print(&line(json!({
                    "file": file_name(&segment.path),
                    "offset": error.offset(),
                    "type": "broken",
                    "reason": error.to_string(),
                })))?;
                context.chain = None;
                unreadable.get_or_insert(error);
            }
        }
        unreadable.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Job<'_> {
    /// Prints a segment. The outer error is of the output, the inner one of the disk.
    async fn segment<D: Disk>(
        &mut self,
        disk: &D,
        segment: &SegmentFile,
        context: &mut Context,
    ) -> io::Result<Result<()>> {
        let path = &segment.path;
        let file = match disk.open(path, Access::Read, Lane::Background).await {
            Ok(file) => file,
            Err(error) => return Ok(Err(Error::io("opening", path, error))),
        };
        let mut pieces = match Pieces::new(&file, path) {
            Ok(pieces) => pieces,
            Err(error) => return Ok(Err(error)),
        };
        let name = file_name(path);
        let mut at = Position::new(segment.name.seq, 0);
        context.group_end = 0;
        loop {
            let (field, found) = match look(&mut pieces, at.offset).await {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            match found {
                Found::Record { record, bytes } => {
                    let padding = field.map_or(0, |field| field.padding);
                    let frame = Frame { file: &name, at, bytes, padding, record };
                    self.record(&frame, context)?;
                    at.offset += bytes;
                }
                Found::End => {
                    let reason = if field.is_some() { "zero length field" } else { "end of file" };
                    let data = match first_data(&mut pieces, at.offset).await {
                        Ok(data) => data,
                        Err(error) => return Ok(Err(error)),
                    };
                    self.end(&name, at, reason, data)?;
                    return Ok(Ok(()));
                }
                Found::Broken(broken) => {
                    self.lines.print(&line(json!({
                        "file": name,
                        "offset": at.offset,
                        "type": "broken",
                        "reason": broken.to_string(),
                    })))?;
                    context.chain = None;
                    self.end(&name, at, "broken", None)?;
                    return Ok(Ok(()));
                }
            }
        }
    }

    fn end(&mut self, file: &str, at: Position, reason: &str, data: Option<u64>) -> io::Result<()> {
        self.lines.print(&line(json!({
            "file": file,
            "offset": at.offset,
            "type": "end",
            "reason": reason,
            "data_behind_at": data,
        })))
    }

    fn record(&mut self, frame: &Frame<'_>, context: &mut Context) -> io::Result<()> {
        let record = &frame.record;
        let record_type = RecordType::from_number(record.record_type);
        self.check(frame, context)?;
        // Marks are followed also where they are not shown.
        let mark = (record_type == Some(RecordType::Crc)).then(|| crc_details(frame, context));
        if !self.args.wants(record_type) {
            return Ok(());
        }
        let data = record.data.clone();
        let details = match record_type {
            Some(RecordType::Entry) => match decode::entry(data) {
                Ok(entry) if !self.args.wants_entry(&entry) => return Ok(()),
                entry => entry.map(|entry| self.entry(&entry)),
            },
            Some(RecordType::State) => decode::state(&data.unwrap_or_default()).map(
                |state| json!({"term": state.term, "vote": state.vote, "commit": state.commit}),
            ),
            Some(RecordType::Snapshot) => decode::snapshot(&data.unwrap_or_default()).map(|snapshot| {
                let conf_state = snapshot.conf_state.as_ref().map(conf_state);
                json!({"index": snapshot.index, "term": snapshot.term, "conf_state": conf_state})
            }),
            Some(RecordType::Metadata) => {
                Ok(data.map_or_else(|| json!({"len": null}), |data| self.payload(&data)))
            }
            Some(RecordType::Crc) => Ok(mark.unwrap_or_default()),
            None => Ok(json!({"number": record.record_type, "len": data.map(|data| data.len())})),
        };
        let mut out = line(json!({
            "file": frame.file,
            "offset": frame.at.offset,
            "type": record_type.map_or("unknown", RecordType::name),
            "bytes": frame.bytes,
            "padding": frame.padding,
            "crc": format!("{:08x}", record.crc),
        }));
        out.extend(line(details.unwrap_or_else(|error| unparsed(&error))));
        self.lines.print(&out)
    }

    /// Follows the chain, and says where it breaks.
    fn check(&mut self, frame: &Frame<'_>, context: &mut Context) -> io::Result<()> {
        let record = &frame.record;
        let is_crc = record.record_type == RecordType::Crc as i64;
        let computed = context.chain.map(|chain| match &record.data {
            Some(data) if !is_crc => chain.after(data),
            _ => chain,
        });
        // As etcd has it, a crc record after nothing begins the chain.
        let begins = context.chain.is_none() || is_crc && context.chain == Some(Chain(0));
        context.chain = Some(Chain(record.crc));
        match computed {
            Some(computed) if !begins && computed.0 != record.crc => {
                self.lines.print(&line(json!({
                    "file": frame.file,
                    "offset": frame.at.offset,
                    "type": "mismatch",
                    "stored": format!("{:08x}", record.crc),
                    "computed": format!("{:08x}", computed.0),
                    "next": "the chain goes on from the stored value",
                })))
            }
            _ => Ok(()),
        }
    }

    fn entry(&self, entry: &Entry) -> Value {
        let mut out = line(json!({
            "index": entry.index,
            "term": entry.term,
            "entry_type": entry.kind.name(),
        }));
        out.extend(line(self.payload(&entry.data)));
        out.into()
    }

    fn payload(&self, data: &Bytes) -> Value {
        if self.args.data && self.args.format == Format::Json {
            return json!({"len": data.len(), "data": STANDARD.encode(data)});
        }
        let shown = if self.args.data { data.len() } else { data.len().min(PREVIEW_BYTES) };
        let more = if shown < data.len() { "…" } else { "" };
        json!({"len": data.len(), "preview": format!("{}{more}", data[..shown].escape_ascii())})
    }
}

/// The length field at `offset`, if the file has one there, and what it leads to.
async fn look<F: DiskFile>(
    pieces: &mut Pieces<'_, F>,
    offset: u64,
) -> Result<(Option<FrameLength>, Found)> {
    let field = pieces.bytes(offset, LENGTH_FIELD_BYTES as u64).await?;
    let field = field[..].try_into().ok().map(FrameLength::from_bytes);
    Ok((field, pieces.frame(offset).await?))
}

/// Where the first byte is that is not zero.
async fn first_data<F: DiskFile>(pieces: &mut Pieces<'_, F>, from: u64) -> Result<Option<u64>> {
    let mut offset = from;
    loop {
        let piece = pieces.bytes(offset, PIECE_BYTES).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        if let Some(at) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(offset + at as u64));
        }
        offset += piece.len() as u64;
    }
}

fn unparsed(error: &BadPayload) -> Value {
    json!({"error": format!("the data does not parse: {error}")})
}

fn conf_state(conf: &ConfState) -> Value {
    json!({
        "voters": conf.voters,
        "learners": conf.learners,
        "voters_outgoing": conf.voters_outgoing,
        "learners_next": conf.learners_next,
        "auto_leave": conf.auto_leave,
    })
}

/// A crc record: bare, a mark, or the filler at the end of a group.
fn crc_details(frame: &Frame<'_>, context: &mut Context) -> Value {
    let Some(data) = &frame.record.data else {
        return json!({});
    };
    match Mark::from_bytes(data) {
        Ok(mark) => {
            let in_group = frame.at.offset < context.group_end;
            let counts = !in_group && mark.counts(context.log_id, frame.at);
            if counts {
                context.log_id = Some(mark.log_id);
                context.group_end = frame.at.offset.saturating_add(mark.group_bytes);
            }
            json!({
                "mark": kind_name(mark.kind),
                "counts": counts,
                "group": mark.group,
                "group_bytes": mark.group_bytes,
                "records": mark.records,
                "first_index": mark.first_index,
                "epoch": mark.epoch,
                "durable_segment": mark.durable.seq.0,
                "durable_offset": mark.durable.offset,
                "log_id": output::hex(&mark.log_id.0),
            })
        }
        Err(NotAMark::Newer { version, incompatible }) => {
            json!({"mark": "newer", "version": version, "features": incompatible})
        }
        Err(NotAMark::Other) if data.iter().all(|&byte| byte == 0) => {
            json!({"mark": "filler", "len": data.len()})
        }
        Err(NotAMark::Other) => match note::Seen::in_record(data) {
            note::Seen::Note { index, data, .. } => {
                json!({"mark": "note", "index": index, "len": data.len()})
            }
            _ => json!({"mark": "none", "len": data.len()}),
        },
    }
}

fn kind_name(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Head => "head",
        MarkKind::Entries => "entries",
        MarkKind::Idle => "idle",
        MarkKind::Close => "close",
        MarkKind::Recovery => "recovery",
        MarkKind::Release => "release",
        MarkKind::Truncation => "truncation",
    }
}
