//! What the fuzz targets do with their input. The targets themselves are one line each, so that the same code runs
//! under libFuzzer and in a plain program.
//!
//! - [`decode`]: any bytes, through the decoder of frames, records and marks.
//! - [`encode_differential`]: any records, encoded by seawal and by prost.
//! - [`open_directory`]: any files in a directory, opened as a log on the simulated machine.
//! - [`repair`]: a sound log, damaged, opened and opened again.

pub mod allocation;
pub mod decode;
pub mod encode_differential;
pub mod files;
pub mod input;
pub mod machine;
pub mod open_directory;
pub mod repair;

/// The messages, as prost makes them from `proto/`.
#[allow(missing_docs, reason = "generated")]
#[path = "../../src/format/pb/mod.rs"]
pub mod pb;
