#![no_main]

use libfuzzer_sys::fuzz_target;
use session_bridge_fuzz::oracles::{set_cookie, sow};

fuzz_target!(
    init: sow("set_cookie", &set_cookie::seeds()),
    |data: &[u8]| set_cookie::check(data)
);
