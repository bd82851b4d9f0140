//! libFuzzer's way into [`postern_fuzz::rewrite`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::rewrite::check(data));
