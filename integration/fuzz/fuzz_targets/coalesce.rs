//! libFuzzer's way into [`postern_fuzz::coalesce`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::coalesce::check(data));
