#![no_main]

use libfuzzer_sys::fuzz_target;
use session_bridge_fuzz::oracles::{request, sow};

fuzz_target!(
    init: sow("request", &request::seeds()),
    |data: &[u8]| request::check(data)
);
