//! libFuzzer's way into [`postern_fuzz::parse`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::parse::check(data));
