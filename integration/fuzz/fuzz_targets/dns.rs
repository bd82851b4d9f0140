//! libFuzzer's way into [`postern_fuzz::dns`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::dns::check(data));
