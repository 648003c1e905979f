//! Requests that must be served, and requests that must be refused: for the tests of the checker and of the server.

/// Requests that are good, one each.
pub(crate) const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET /a?b=c&d[]=e|f{g}^h\\i`j HTTP/1.1\r\nHost:shop.example:8080 \t\r\n\r\n",
    "GET http://Shop.example/x HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    "GET https://shop.example?x HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "BREW /pot HTTP/1.1\r\nHost: a_b-c.d~\r\nX-Empty:\r\nX:\t \u{e9} \r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\ncontent-length:  5\t\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\n\r\0\r",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00a\r\n0123456789\r\n000\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a;b=c;d=\"e \\\" f\"\r\nx\r\n0;z\r\nX-Sum: 1\r\nY:\r\n\r\n",
];

/// Requests that are not, each with what is wrong with it.
pub(crate) const MALFORMED: &[(&str, &str)] = &[
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CL and TE",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "TE and CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CL 0 and TE",
    ),
    ("GET / HTTP/1.1\nHost: a\n\n", "bare LF throughout"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", "bare LF behind a field"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", "bare LF for the empty line"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n", "bare LF in a value"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", "bare CR in a value"),
    ("GET / HTTP/1.1\rHost: a\r\r", "bare CR throughout"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n", "doubled CR"),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "leading LF"),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "two leading empty lines"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "repeated equal CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "repeated CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "signed CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello",
        "negative CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nhello",
        "CL with a leading zero",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello",
        "space in CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "list of CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
        "hexadecimal CL",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello",
        "fractional CL",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "empty CL"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
        "CL over 63 bits",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n",
        "CL over 64 bits",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello",
        "CL with an underscore",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
        "TE with an underscore",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "TE gzip",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "TE identity",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "TE list",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "TE twice in one",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "TE twice",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        "TE with a comma",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "TE quoted",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "TE unknown",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "TE empty"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "TE with a vertical tab",
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "TE in HTTP/1.0",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "obsolete fold"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
        "obsolete fold by a tab",
    ),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "space before the first field"),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "space before the colon"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", "tab before the colon"),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "empty field name"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "no colon"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n",
        "delimiter in a field name",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n",
        "non-ASCII in a field name",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", "NUL in a field name"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", "NUL in a value"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\x07c\r\n\r\n",
        "control character in a value",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n", "DEL in a value"),
    ("GET / HTTP/1.1\r\n\r\n", "no Host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "repeated Host"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "empty Host"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "space in Host"),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "two hosts"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "path in Host"),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "user in Host"),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "bad port"),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "port out of range"),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "open bracket in Host"),
    ("GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n", "bad address in Host"),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "repeated Host in HTTP/1.0",
    ),
    (
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "Host differs from the target",
    ),
    ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "user in the target"),
    (
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        "no authority in the target",
    ),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "foreign scheme"),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "CONNECT"),
    ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT with a path"),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "authority-form"),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "asterisk-form of another method"),
    ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", "relative target"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "fragment in the target"),
    ("GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n", "quote in the target"),
    ("GET /<b> HTTP/1.1\r\nHost: a\r\n\r\n", "angle brackets in the target"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "non-ASCII in the target"),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "NUL in the target"),
    ("GET /\tb HTTP/1.1\r\nHost: a\r\n\r\n", "tab in the target"),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "space in the target"),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "two spaces behind the method"),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "two spaces behind the target"),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "space behind the version"),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "space before the method"),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "tab behind the method"),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "invalid method"),
    ("/ HTTP/1.1\r\nHost: a\r\n\r\n", "no method"),
    ("GET HTTP/1.1\r\nHost: a\r\n\r\n", "no target"),
    ("GET\r\n\r\n", "a method alone"),
    ("GET /\r\n", "HTTP/0.9"),
    ("GET / HTTP/0.9\r\n\r\n", "HTTP/0.9 with a version"),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "HTTP/1.2"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/2.0"),
    ("GET / HTTP/01.1\r\nHost: a\r\n\r\n", "padded version"),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", "lower-case version"),
    ("GET / HTTP/1.1x\r\nHost: a\r\n\r\n", "garbage behind the version"),
    ("GET / HTTP1.1\r\nHost: a\r\n\r\n", "no slash in the version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the HTTP/2 preface"),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", "a TLS hello"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "chunk size not hexadecimal",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "chunk size empty",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        "chunk size prefixed",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        "chunk size negative",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
        "space before a chunk size",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        "space behind a chunk size",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        "chunk size overflow",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "bare LF behind a chunk size",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n",
        "bare CR behind a chunk size",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
        "no CRLF behind a chunk",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
        "bare LF behind a chunk",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        "chunk longer than its size",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0\r\n\r\n",
        "empty chunk extension",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        "bare LF in an extension",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n",
        "CRLF in a quoted extension",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n",
        "malformed trailer",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
        "bare LF in a trailer",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        "CL in a trailer",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n",
        "fold in a trailer",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\rX",
        "bare CR for the last line",
    ),
];
