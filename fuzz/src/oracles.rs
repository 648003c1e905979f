//! One module a target: `check` takes any bytes at all and panics when a promise is broken; `seeds` is what the fuzzer
//! begins with.

pub mod install_id;
pub mod merge;
pub mod request;
pub mod set_cookie;

/// Puts what a target begins with where the fuzzer looks for it.
///
/// # Panics
/// When it cannot be written.
pub fn sow(target: &str, seeds: &[Vec<u8>]) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&corpus).expect("a directory for the corpus");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{number:03}")), seed).expect("a seed");
    }
}

/// Bytes that choose among a few things, at the front of an input.
fn choose<'a, T>(data: &mut &[u8], among: &'a [T]) -> &'a T {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    *data = rest;
    &among[usize::from(*first) % among.len()]
}

/// Cuts `data` into pieces of sizes that seem to be drawn by lot, but are always the same for the same data.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut state = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (mut rest, mut pieces) = (data, Vec::new());
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let size = usize::try_from(state >> 60).unwrap_or(0) * usize::try_from(state >> 56 & 15).unwrap_or(0);
        let (piece, behind) = rest.split_at((size + 1).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
