//! libFuzzer's way into [`postern_fuzz::wireguard`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_fuzz::wireguard::check(data));
