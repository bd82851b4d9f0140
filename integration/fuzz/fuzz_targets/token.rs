//! libFuzzer's way into [`postern_fuzz::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::token::check(data));
