//! The changes, as scripts: Redis runs each as one, so that comparing and writing cannot be torn apart.
//!
//! `KEYS` are always those of [`layout::keys`](super::layout::keys): record, lease, count of barren leaders.
//! The first write of a script is the only one that Redis can refuse (out of memory, read only): a refusal changes
//! nothing. Numbers that a script answers are outcomes, a string is the record that stood in the way.

use std::sync::LazyLock;

use redis::{Cmd, Script, Value};

/// A script, addressed by its hash once Redis knows it.
pub(super) struct Lua {
    source: &'static str,
    script: LazyLock<Script>,
}

impl Lua {
    /// The call of this script by its hash.
    pub(super) fn by_hash(&self, keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
        call("EVALSHA", self.script.get_hash(), keys, args)
    }

    /// The call that carries the script itself, which Redis then remembers.
    pub(super) fn in_full(&self, keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
        call("EVAL", self.source, keys, args)
    }
}

fn call(name: &str, script: &str, keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
    let size = keys
        .iter()
        .map(Vec::len)
        .chain(args.iter().map(|arg| arg.len()))
        .sum::<usize>();
    let mut cmd = Cmd::with_capacity(3 + keys.len() + args.len(), size + script.len() + 16);
    cmd.arg(name).arg(script).arg(keys.len()).arg(keys).arg(args);
    cmd
}

/// What a script answered.
pub(super) enum Answer {
    /// It did what it was asked.
    Done,
    /// The lease that was shown is not held by that token.
    Fenced,
    /// Another number.
    Number(i64),
    /// The record that stood in the way.
    Found(Vec<u8>),
    /// There is no such record.
    Nothing,
    /// Nothing that these scripts answer.
    Unknown,
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        match value {
            Value::Int(DONE) => Self::Done,
            Value::Int(FENCED) => Self::Fenced,
            Value::Int(number) => Self::Number(number),
            Value::BulkString(found) => Self::Found(found),
            Value::Nil => Self::Nothing,
            _ => Self::Unknown,
        }
    }
}

const DONE: i64 = -1;
const FENCED: i64 = -2;

macro_rules! lua {
    ($(#[$doc:meta])* $name:ident, $($source:expr),+) => {
        $(#[$doc])*
        pub(super) static $name: Lua =
            Lua { source: concat!($($source),+), script: LazyLock::new(|| Script::new(concat!($($source),+))) };
    };
}

lua!(
    /// `value, ttl in ms, fence or ""` → done, fenced, or what is there, be it a record or not.
    CREATE,
    "if ARGV[3] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[3] then return -2 end\n",
    "local there = redis.call('GET', KEYS[1])\n",
    "if there then return there end\n",
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n",
    "return -1"
);
lua!(
    /// `expected format and version, value, ttl in ms, fence or ""` → done, fenced, the record that is there, or nothing.
    REPLACE,
    "if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return -2 end\n",
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return redis.call('GET', KEYS[1]) end\n",
    "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n",
    "return -1"
);
lua!(
    /// `expected format and version` → done, the record that is there, or nothing.
    REMOVE,
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return redis.call('GET', KEYS[1]) end\n",
    "redis.call('DEL', KEYS[1])\n",
    "return -1"
);
lua!(
    /// → done when there was a value and it was no record, or nothing.
    DISCARD,
    "local there = redis.pcall('GET', KEYS[1])\n",
    "if not there then return false end\n",
    "if type(there) == 'string' and #there >= 21 and string.byte(there) == 1 then return false end\n",
    "redis.call('DEL', KEYS[1])\n",
    "return -1"
);
lua!(
    /// `expected format and version, the eight bytes of the new expiry, ttl in ms` → done, or nothing.
    TOUCH,
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return false end\n",
    "redis.call('SETRANGE', KEYS[1], 13, ARGV[2])\n",
    "redis.call('PEXPIRE', KEYS[1], ARGV[3])\n",
    "return -1"
);
lua!(
    /// `token, ttl in ms` → done, or the number of barren leaders.
    ACQUIRE,
    "local holder = redis.call('GET', KEYS[2])\n",
    "if holder and holder ~= ARGV[1] then return tonumber(redis.call('GET', KEYS[3]) or 0) end\n",
    "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])\n",
    "return -1"
);
lua!(
    /// `token, ttl in ms` → done, or nothing.
    RENEW,
    "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return false end\n",
    "redis.call('PEXPIRE', KEYS[2], ARGV[2])\n",
    "return -1"
);
lua!(
    /// `token, ms for which to remember a barren end, or ""` → done, or nothing.
    RELEASE,
    "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return false end\n",
    "if ARGV[2] ~= '' then\n",
    "  redis.call('INCR', KEYS[3])\n",
    "  redis.call('PEXPIRE', KEYS[3], ARGV[2])\n",
    "end\n",
    "redis.call('DEL', KEYS[2])\n",
    "return -1"
);
