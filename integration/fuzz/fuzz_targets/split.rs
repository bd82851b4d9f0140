//! libFuzzer's way into [`postern_fuzz::split`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::split::check(data));
