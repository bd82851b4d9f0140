//! libFuzzer's way into [`postern_fuzz::stun`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::stun::check(data));
