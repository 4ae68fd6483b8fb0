//! The committed code in `src/format/pb` is what `proto/` generates, so that nobody needs `protoc`.
//!
//! After a change of `proto/`: `SEAWAL_REGENERATE=1 cargo test --test proto`.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors =
        protox::compile(["walpb.proto", "raftpb.proto", "streampb.proto"], [root.join("proto")])
            .unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out.path())
        .include_file("mod.rs")
        .compile_fds(descriptors)
        .unwrap();

    let committed = root.join("src/format/pb");
    for name in ["mod.rs", "walpb.rs", "raftpb.rs", "streampb.rs"] {
        let generated = fs::read_to_string(out.path().join(name)).unwrap();
        // The include file is written for `OUT_DIR`; ours lies beside the modules.
        let generated = generated.replace("concat!(env!(\"OUT_DIR\"), \"/", "concat!(\"");
        if std::env::var_os("SEAWAL_REGENERATE").is_some() {
            fs::write(committed.join(name), &generated).unwrap();
        }
        let current = fs::read_to_string(committed.join(name)).unwrap();
        assert!(
            current == generated,
            "src/format/pb/{name} is not what proto/ generates: run SEAWAL_REGENERATE=1 cargo test --test proto"
        );
    }
}
