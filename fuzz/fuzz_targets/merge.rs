#![no_main]

use libfuzzer_sys::fuzz_target;
use session_bridge_fuzz::oracles::{merge, sow};

fuzz_target!(
    init: sow("merge", &merge::seeds()),
    |data: &[u8]| merge::check(data)
);
