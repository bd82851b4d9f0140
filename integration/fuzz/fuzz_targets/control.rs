//! libFuzzer's way into [`postern_fuzz::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::control::check(data));
