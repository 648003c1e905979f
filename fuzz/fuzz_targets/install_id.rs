#![no_main]

use libfuzzer_sys::fuzz_target;
use session_bridge_fuzz::oracles::{install_id, sow};

fuzz_target!(
    init: sow("install_id", &install_id::seeds()),
    |data: &[u8]| install_id::check(data)
);
