//! The files that an input of `open_directory` describes, written into a directory: `seawal dump` says more of them.
//!
//! ```sh
//! cargo run --manifest-path fuzz/Cargo.toml --example show -- INPUT DIRECTORY
//! ```

use seawal_fuzz::{files, input::Input, open_directory};
use std::{env, fs, path::Path};

fn main() {
    let [input, to] = env::args().skip(1).collect::<Vec<_>>().try_into().expect("two arguments");
    let bytes = fs::read(input).expect("an input");
    let mut input = Input::new(&bytes);
    println!("{:?}", open_directory::options(&mut input));
    println!("direct I/O off: {}", input.u8() & 1);
    for file in files::files(&mut input) {
        let path = Path::new(&to).join(&file.name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, file.bytes).expect("a file");
    }
}
