//! Tests that need something of the machine skip without it, unless it is named in `SEAWAL_REQUIRE`.
#![allow(dead_code)] // every test binary uses a part of this

/// Says why a test does not run; fails if `SEAWAL_REQUIRE` (a comma list) names `what`.
pub(crate) fn skip(what: &str, why: &str) {
    let required = std::env::var("SEAWAL_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == what);
    assert!(!required, "SEAWAL_REQUIRE names {what}, but {why}");
    eprintln!("skipped ({what}): {why}");
}
