//! The changes, as scripts: Redis runs each as one, so that comparing and writing cannot be torn apart.
//!
//! `KEYS` are those that a script needs of [`layout::keys`](super::layout::keys), never more than two: in a cluster,
//! each further one may hold a call up. There, the second one may come as a last argument instead, see
//! [`Call::by_first_key`].
//! The first write of a script is the only one that Redis can refuse (out of memory, read only): a refusal changes
//! nothing. Numbers that a script answers are outcomes, a string is the record that stood in the way.

use std::sync::LazyLock;

use redis::{Cmd, Script, Value};

/// A script, addressed by its hash once Redis knows it.
pub(super) struct Lua {
    source: &'static str,
    script: LazyLock<Script>,
}

/// A script with its keys and arguments.
pub(super) struct Call<'a> {
    script: &'a Lua,
    keys: &'a [Vec<u8>],
    args: &'a [&'a [u8]],
}

impl Lua {
    /// This script for these keys, of which there is one at least.
    pub(super) fn on<'a>(&'a self, keys: &'a [Vec<u8>], args: &'a [&'a [u8]]) -> Call<'a> {
        Call {
            script: self,
            keys,
            args,
        }
    }
}

impl Call<'_> {
    /// The call of the script by its hash.
    pub(super) fn by_hash(&self) -> Cmd {
        call("EVALSHA", self.script.script.get_hash(), self.keys, &[], self.args)
    }

    /// The call that carries the script itself, which Redis then remembers.
    pub(super) fn in_full(&self) -> Cmd {
        call("EVAL", self.script.source, self.keys, &[], self.args)
    }

    /// The same, with the second key told as the last argument.
    pub(super) fn by_first_key(&self) -> Cmd {
        let (first, others) = self.keys.split_at_checked(1).unwrap_or_default();
        call("EVAL", self.script.source, first, others, self.args)
    }

    /// The keys.
    pub(super) fn keys(&self) -> &[Vec<u8>] {
        self.keys
    }

    /// The first key.
    pub(super) fn first_key(&self) -> &[u8] {
        self.keys.first().map(Vec::as_slice).unwrap_or_default()
    }
}

fn call(name: &str, script: &str, keys: &[Vec<u8>], others: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
    let size = keys
        .iter()
        .chain(others)
        .map(Vec::len)
        .chain(args.iter().map(|arg| arg.len()))
        .sum::<usize>();
    let mut cmd = Cmd::with_capacity(3 + keys.len() + others.len() + args.len(), size + script.len() + 16);
    cmd.arg(name)
        .arg(script)
        .arg(keys.len())
        .arg(keys)
        .arg(args)
        .arg(others);
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
    /// Record, and the lease if there is a fence; `value, ttl in ms, fence or ""` → done, fenced, or what is there, be it
    /// a record or not.
    CREATE,
    "local lease = KEYS[2] or ARGV[4]\n",
    "if ARGV[3] ~= '' and redis.call('GET', lease) ~= ARGV[3] then return -2 end\n",
    "local there = redis.call('GET', KEYS[1])\n",
    "if there then return there end\n",
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n",
    "return -1"
);
lua!(
    /// Record, and the lease if there is a fence; `expected format and version, value, ttl in ms, fence or ""` → done,
    /// fenced, the record that is there, or nothing.
    REPLACE,
    "local lease = KEYS[2] or ARGV[5]\n",
    "if ARGV[4] ~= '' and redis.call('GET', lease) ~= ARGV[4] then return -2 end\n",
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return redis.call('GET', KEYS[1]) end\n",
    "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n",
    "return -1"
);
lua!(
    /// Record; `expected format and version` → done, the record that is there, or nothing.
    REMOVE,
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return redis.call('GET', KEYS[1]) end\n",
    "redis.call('DEL', KEYS[1])\n",
    "return -1"
);
lua!(
    /// Record → done when there was a value and it was no record, or nothing.
    DISCARD,
    "local there = redis.pcall('GET', KEYS[1])\n",
    "if not there then return false end\n",
    "if type(there) == 'string' and #there >= 21 and string.byte(there) == 1 then return false end\n",
    "redis.call('DEL', KEYS[1])\n",
    "return -1"
);
lua!(
    /// Record; `expected format and version, the eight bytes of the new expiry, ttl in ms` → done, or nothing.
    TOUCH,
    "if redis.call('GETRANGE', KEYS[1], 0, 12) ~= ARGV[1] then return false end\n",
    "redis.call('SETRANGE', KEYS[1], 13, ARGV[2])\n",
    "redis.call('PEXPIRE', KEYS[1], ARGV[3])\n",
    "return -1"
);
lua!(
    /// Lease, count of barren leaders; `token, ttl in ms` → done, or the number of barren leaders.
    ACQUIRE,
    "local holder = redis.call('GET', KEYS[1])\n",
    "if holder and holder ~= ARGV[1] then return tonumber(redis.call('GET', KEYS[2] or ARGV[3]) or 0) end\n",
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n",
    "return -1"
);
lua!(
    /// Lease; `token, ttl in ms` → done, or nothing.
    RENEW,
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end\n",
    "redis.call('PEXPIRE', KEYS[1], ARGV[2])\n",
    "return -1"
);
lua!(
    /// Lease, and the count of barren leaders if there is one more; `token, ms for which to remember a barren end, or
    /// ""` → done, or nothing.
    RELEASE,
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end\n",
    "if ARGV[2] ~= '' then\n",
    "  local barren = KEYS[2] or ARGV[3]\n",
    "  redis.call('INCR', barren)\n",
    "  redis.call('PEXPIRE', barren, ARGV[2])\n",
    "end\n",
    "redis.call('DEL', KEYS[1])\n",
    "return -1"
);
lua!(
    /// Tally; `how many at most, ms of a slice, how many slices count, ttl in ms` → twice the slice in which a place was
    /// taken, or one more than twice the ms after which there may be one. By the clock of the server.
    TAKE_PLACE,
    "local time = redis.call('TIME')\n",
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n",
    "local length, count = tonumber(ARGV[2]), tonumber(ARGV[3])\n",
    "local this = math.floor(now / length)\n",
    "local there, pairs, taken = redis.call('GET', KEYS[1]) or '', {}, 0\n",
    "for slice, number in string.gmatch(there, '(%d+):(%d+) ') do\n",
    "  pairs[#pairs + 1] = {tonumber(slice), tonumber(number)}\n",
    "  this = math.max(this, tonumber(slice))\n",
    "end\n",
    "local kept, oldest, last = 'T', this, 0\n",
    "for _, pair in ipairs(pairs) do\n",
    "  if pair[1] + count > this then\n",
    "    taken = taken + pair[2]\n",
    "    oldest = math.min(oldest, pair[1])\n",
    "    if pair[1] == this then last = pair[2]\n",
    "    else kept = kept .. string.format('%.0f:%.0f ', pair[1], pair[2]) end\n",
    "  end\n",
    "end\n",
    "if taken >= tonumber(ARGV[1]) then\n",
    "  return math.max((oldest + count) * length - math.max(now, this * length), 1) * 2 + 1\n",
    "end\n",
    "redis.call('SET', KEYS[1], kept .. string.format('%.0f:%.0f ', this, last + 1), 'PX', ARGV[4])\n",
    "return this * 2"
);
lua!(
    /// Tally; `slice, ttl in ms` → done.
    GIVE_BACK,
    "local there, kept = redis.call('GET', KEYS[1]) or '', 'T'\n",
    "for slice, number in string.gmatch(there, '(%d+):(%d+) ') do\n",
    "  number = tonumber(number)\n",
    "  if slice == ARGV[1] then number = number - 1 end\n",
    "  if number > 0 then kept = kept .. slice .. ':' .. string.format('%.0f ', number) end\n",
    "end\n",
    "if there ~= '' then redis.call('SET', KEYS[1], kept, 'PX', ARGV[2]) end\n",
    "return -1"
);
