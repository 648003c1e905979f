//! Requests that must be served and requests that must be refused: after what public suites of malformed and smuggled
//! requests try, and what CVEs of other proxies were about.

/// Each of them holds at least one good request, at its beginning.
pub(super) const SERVED: &[(&str, &str)] = &[
    ("GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", "a plain request"),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "an empty line before it"),
    (
        "get / HTTP/1.1\r\nHost: a\r\n\r\n",
        "a method in lower case is another one",
    ),
    ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 without Host"),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.0 kept alive",
    ),
    ("GET http://A/x HTTP/1.1\r\nHost: a\r\n\r\n", "the absolute form"),
    (
        "GET https://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "the absolute form without a path",
    ),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "the asterisk form"),
    (
        "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD with a body",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nX: y\r\n",
        "a body that looks like a request",
    ),
    (
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS with a body",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "a body"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t5 \r\n\r\nhello",
        "blanks around a length",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "an empty body, and the next request",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", "no body at all"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{\"a\":[1]}",
        "a JSON body",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "Expect, and the body at once",
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        "Expect in HTTP/1.0",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n",
        "another expectation",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "chunks",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING:\tChunked \r\n\r\nA\r\n0123456789\r\n000\r\n\r\n",
        "another way to write chunks",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a;b=c;d=\"e \\\" f\"\r\nx\r\n0;z\r\n\r\n",
        "chunk extensions",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "a trailer",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nAuthorization: x\r\nContent-Type: y\r\n\r\n",
        "trailers that nobody may use",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        "Connection that names a framing field",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding, host\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Connection that names the other one",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "an upgrade that is declined",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "one with a body",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        "h2c",
    ),
    (
        "GET /%00%0d%0aX:%20y/..%2f\\ HTTP/1.1\r\nHost: a\r\n\r\n",
        "what only a decoder would stumble over",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "a request behind the last one",
    ),
    (
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "three in one",
    ),
];

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\n";
const BEHIND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Fields that go wrong with any body: behind `Host`, each a line or more.
const FIELDS: &[(&str, &str)] = &[
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "both framings"),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "both framings, the other way round",
    ),
    (
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "no length and chunks",
    ),
    (
        "Transfer-Encoding: Chunked\r\nContent-Length: 39\r\n",
        "both, in another case",
    ),
    ("Content-Length: 5\r\nContent-Length: 5\r\n", "the same length twice"),
    ("Content-Length: 5\r\nContent-Length: 6\r\n", "two lengths"),
    (
        "Content-Length: 4\r\nX: y\r\nCONTENT-LENGTH: 40\r\n",
        "two lengths apart",
    ),
    ("Content-Length: 5, 5\r\n", "a list of lengths"),
    ("Content-Length: 5, 6\r\n", "a list of different lengths"),
    ("Content-Length: 5,\r\n", "a list with an empty member"),
    ("Content-Length: +5\r\n", "a sign"),
    ("Content-Length: -5\r\n", "a negative length"),
    ("Content-Length: -0\r\n", "a negative zero"),
    ("Content-Length: 05\r\n", "a leading zero"),
    ("Content-Length: 00\r\n", "two zeros"),
    ("Content-Length: 0x5\r\n", "hexadecimal"),
    ("Content-Length: 0o5\r\n", "octal"),
    ("Content-Length: 0b1\r\n", "binary"),
    ("Content-Length: 1_0\r\n", "an underscore"),
    ("Content-Length: 1 0\r\n", "a blank"),
    ("Content-Length: 5\t5\r\n", "a tab"),
    ("Content-Length: 5.0\r\n", "a fraction"),
    ("Content-Length: 5e0\r\n", "an exponent"),
    ("Content-Length: 5;\r\n", "a parameter"),
    ("Content-Length: \"5\"\r\n", "quotes"),
    ("Content-Length: five\r\n", "a word"),
    ("Content-Length:\r\n", "no length"),
    ("Content-Length: \u{665}\r\n", "another script's digit"),
    ("Content-Length: 9223372036854775808\r\n", "over 63 bits"),
    ("Content-Length: 18446744073709551616\r\n", "over 64 bits"),
    ("Content-Length: 18446744073709551621\r\n", "five, to 64 bits"),
    (
        "Content-Length: 4294967301\r\nContent-Length: 5\r\n",
        "five, to 32 bits",
    ),
    ("Content-Length : 5\r\n", "a blank before the colon"),
    ("Content-Length\t: 5\r\n", "a tab before the colon"),
    (" Content-Length: 5\r\n", "a blank before the name"),
    ("Content-Length: \r\n 5\r\n", "a fold before the value"),
    ("Content-Length: 5\r\n 0\r\n", "a fold behind the value"),
    ("Content\tLength: 5\r\n", "a tab in the name"),
    ("Content_Length: 5\r\n", "an underscore in the name"),
    (
        "Content-Length: 5\r\nContent_Length: 6\r\n",
        "an underscore in the second name",
    ),
    ("Content-Length: 5\r\nContent-Length : 6\r\n", "a second with a blank"),
    ("Content-Length\0: 5\r\n", "NUL behind the name"),
    ("Content-Length: 5\0\r\n", "NUL behind the value"),
    ("Content-Length: \x0b5\r\n", "a vertical tab"),
    ("Content-Length: 5\x0c\r\n", "a form feed"),
    ("Content-Length: 5\x7f\r\n", "DEL"),
    ("Transfer-Encoding: xchunked\r\n", "another coding"),
    ("Transfer-Encoding: chunkedx\r\n", "a longer coding"),
    ("Transfer-Encoding: chunk\r\n", "a shorter coding"),
    (
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n",
        "an unknown and a known one",
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
        "a known and an unknown one",
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "the same coding twice",
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "chunked and identity",
    ),
    ("Transfer-Encoding: identity\r\n", "identity"),
    ("Transfer-Encoding: identity, chunked\r\n", "identity, then chunked"),
    ("Transfer-Encoding: chunked, identity\r\n", "chunked not last"),
    ("Transfer-Encoding: chunked, chunked\r\n", "twice in a list"),
    ("Transfer-Encoding: gzip, chunked\r\n", "gzip, then chunked"),
    ("Transfer-Encoding: gzip\r\n", "gzip"),
    ("Transfer-Encoding: , chunked\r\n", "an empty member first"),
    ("Transfer-Encoding: chunked,\r\n", "an empty member last"),
    ("Transfer-Encoding: chunked;q=1\r\n", "a parameter of chunked"),
    ("Transfer-Encoding: \"chunked\"\r\n", "chunked in quotes"),
    ("Transfer-Encoding: 'chunked'\r\n", "chunked in other quotes"),
    ("Transfer-Encoding: chun ked\r\n", "a blank in chunked"),
    ("Transfer-Encoding:\r\n", "no coding"),
    ("Transfer-Encoding: \x0bchunked\r\n", "a vertical tab before it"),
    ("Transfer-Encoding: chunked\x0c\r\n", "a form feed behind it"),
    ("Transfer-Encoding: chunked\0\r\n", "NUL behind it"),
    (
        "Transfer-Encoding: \u{a0}chunked\r\n",
        "a blank of another kind before it",
    ),
    ("Transfer-Encoding: \u{212a}chunked\r\n", "a letter that folds to ASCII"),
    ("Transfer-Encoding:\n chunked\r\n", "a fold by LF"),
    ("Transfer-Encoding:\r\n chunked\r\n", "a fold"),
    ("Transfer-Encoding:\r\n\tchunked\r\n", "a fold by a tab"),
    ("Transfer-Encoding : chunked\r\n", "a blank before the colon"),
    ("Transfer-Encoding\r\n: chunked\r\n", "a line end before the colon"),
    (" Transfer-Encoding: chunked\r\n", "a blank before the name"),
    ("\tTransfer-Encoding: chunked\r\n", "a tab before the name"),
    ("Transfer Encoding: chunked\r\n", "a blank in the name"),
    ("Transfer_Encoding: chunked\r\n", "an underscore in the name"),
    ("Transfer-Encod\u{ef}ng: chunked\r\n", "a letter of Latin-1 in the name"),
    ("X: y\nTransfer-Encoding: chunked\r\n", "LF before it"),
    ("X: y\rTransfer-Encoding: chunked\r\n", "CR before it"),
    ("X: y\n\rTransfer-Encoding: chunked\r\n", "LF and CR before it"),
    ("X: y\r\r\nTransfer-Encoding: chunked\r\n", "two CR before it"),
    ("X: y\0\r\n", "NUL in a value"),
    ("X: y\x07z\r\n", "a bell in a value"),
    ("X: y\x1bz\r\n", "an escape in a value"),
    ("X\0: y\r\n", "NUL in a name"),
    (": y\r\n", "no name"),
    ("X\r\n", "no colon"),
    ("X[y]: z\r\n", "brackets in a name"),
    ("X(y): z\r\n", "a comment in a name"),
    ("X\"y\": z\r\n", "quotes in a name"),
    ("X,y: z\r\n", "a comma in a name"),
    ("X/y: z\r\n", "a slash in a name"),
    ("X@y: z\r\n", "an at sign in a name"),
    ("X\u{eb}: z\r\n", "UTF-8 in a name"),
    ("Host: a\r\n", "the same host twice"),
    ("Host: b\r\n", "two hosts"),
    ("X: y\r\n \r\n", "a line of a blank"),
    ("GET /smuggled HTTP/1.1\r\n", "a request line for a field"),
];

/// What does for `Host`, where it stands alone.
const HOSTS: &[(&str, &str)] = &[
    ("", "no host"),
    ("Host:\r\n", "an empty host"),
    ("Host: a, b\r\n", "a list of hosts"),
    ("Host: a b\r\n", "two words"),
    ("Host: a/b\r\n", "a path"),
    ("Host: a?b\r\n", "a query"),
    ("Host: a#b\r\n", "a fragment"),
    ("Host: u@a\r\n", "a user"),
    ("Host: u:p@a\r\n", "a user and a password"),
    ("Host: http://a\r\n", "a scheme"),
    ("Host: a:\r\n : 80\r\n", "a folded port"),
    ("Host: a:b\r\n", "a port of letters"),
    ("Host: a:-1\r\n", "a negative port"),
    ("Host: a:65536\r\n", "a port out of range"),
    ("Host: a:80:80\r\n", "two ports"),
    ("Host: [::1\r\n", "half a bracket"),
    ("Host: ::1\r\n", "no brackets"),
    ("Host: [::1]x\r\n", "something behind the bracket"),
    ("Host: a%00\r\n", "NUL in disguise"),
    ("Host: a\\b\r\n", "a backslash"),
    ("Host: a<b>\r\n", "angle brackets"),
    ("Host: \u{e4}\r\n", "UTF-8"),
    ("Host : a\r\n", "a blank before the colon"),
    (" Host: a\r\n", "a blank before the name"),
    ("Hos: a\r\n", "nearly a host"),
];

/// Request lines, with a good host.
const LINES: &[(&str, &str)] = &[
    ("GET /\r\n", "HTTP/0.9"),
    ("GET / HTTP/0.9\r\n", "HTTP/0.9 by name"),
    ("GET / HTTP/1.2\r\n", "HTTP/1.2"),
    ("GET / HTTP/2.0\r\n", "HTTP/2.0"),
    ("GET / HTTP/9.9\r\n", "HTTP/9.9"),
    ("GET / HTTP/1\r\n", "no minor version"),
    ("GET / HTTP/1.\r\n", "half a minor version"),
    ("GET / HTTP/1.10\r\n", "a longer minor version"),
    ("GET / HTTP/01.1\r\n", "a padded version"),
    ("GET / HTTP/1.01\r\n", "a padded minor version"),
    ("GET / HTTP/ 1.1\r\n", "a blank in the version"),
    ("GET / HTTP /1.1\r\n", "a blank before the slash"),
    ("GET / http/1.1\r\n", "a version in lower case"),
    ("GET / HTTPS/1.1\r\n", "another protocol"),
    ("GET / HTTP/1.1 \r\n", "a blank behind the version"),
    ("GET / HTTP/1.1\t\r\n", "a tab behind the version"),
    ("GET / HTTP/1,1\r\n", "a comma in the version"),
    ("GET  / HTTP/1.1\r\n", "two blanks behind the method"),
    ("GET /  HTTP/1.1\r\n", "two blanks behind the target"),
    (" GET / HTTP/1.1\r\n", "a blank before the method"),
    ("\tGET / HTTP/1.1\r\n", "a tab before the method"),
    ("GET\t/ HTTP/1.1\r\n", "a tab for a blank"),
    ("GET /\tHTTP/1.1\r\n", "a tab for the second blank"),
    ("GET\x0b/ HTTP/1.1\r\n", "a vertical tab for a blank"),
    ("GET /a b HTTP/1.1\r\n", "a blank in the target"),
    ("GET HTTP/1.1\r\n", "no target"),
    ("/ HTTP/1.1\r\n", "no method"),
    ("GET\r\n", "a method alone"),
    ("G@T / HTTP/1.1\r\n", "no token for a method"),
    ("GET\0 / HTTP/1.1\r\n", "NUL behind the method"),
    ("G\u{c4}T / HTTP/1.1\r\n", "UTF-8 in the method"),
    ("\"GET\" / HTTP/1.1\r\n", "a method in quotes"),
    ("GET /\0 HTTP/1.1\r\n", "NUL in the target"),
    ("GET /\x7f HTTP/1.1\r\n", "DEL in the target"),
    ("GET /\u{e9} HTTP/1.1\r\n", "UTF-8 in the target"),
    ("GET /#a HTTP/1.1\r\n", "a fragment"),
    ("GET /\"a\" HTTP/1.1\r\n", "quotes in the target"),
    ("GET /<a> HTTP/1.1\r\n", "angle brackets in the target"),
    ("GET a HTTP/1.1\r\n", "a relative target"),
    ("GET ../a HTTP/1.1\r\n", "a target upwards"),
    ("GET ?a HTTP/1.1\r\n", "a query alone"),
    ("GET a:80 HTTP/1.1\r\n", "the authority form"),
    ("GET * HTTP/1.1\r\n", "the asterisk form"),
    ("OPTIONS ** HTTP/1.1\r\n", "two asterisks"),
    ("CONNECT a:80 HTTP/1.1\r\n", "CONNECT"),
    ("CONNECT / HTTP/1.1\r\n", "CONNECT to a path"),
    ("GET http://b/ HTTP/1.1\r\n", "another host in the target"),
    ("GET http://a:81/ HTTP/1.1\r\n", "another port in the target"),
    ("GET http://a@b/ HTTP/1.1\r\n", "a user in the target"),
    ("GET http:///a HTTP/1.1\r\n", "no host in the target"),
    ("GET http:/a HTTP/1.1\r\n", "one slash"),
    ("GET http:a HTTP/1.1\r\n", "no slash"),
    ("GET //a@b:80x/ HTTP/1.1\r\nX : y\r\n", "two slashes and a bad field"),
    ("GET file:///etc/passwd HTTP/1.1\r\n", "a file"),
    ("GET ftp://a/ HTTP/1.1\r\n", "another scheme"),
    ("GET / HTTP/1.1\n", "LF behind the request line"),
    ("GET / HTTP/1.1\r", "CR behind the request line"),
    ("GET / HTTP/1.1\r\n \r\n", "a line of a blank behind the request line"),
    ("GET / HTTP/1.1\r\n\tX: y\r\n", "a fold of the request line"),
    ("\r\n\r\nGET / HTTP/1.1\r\n", "two empty lines before it"),
    ("\nGET / HTTP/1.1\r\n", "LF before it"),
    ("\rGET / HTTP/1.1\r\n", "CR before it"),
    ("\0GET / HTTP/1.1\r\n", "NUL before it"),
    ("\u{feff}GET / HTTP/1.1\r\n", "a byte order mark before it"),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        "chunks in HTTP/1.0",
    ),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "both in HTTP/1.0",
    ),
    (
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
        "chunks in HTTP/1.0 kept alive",
    ),
];

/// Bodies that go wrong as chunks.
const CHUNKS: &[(&str, &str)] = &[
    ("\r\n", "no size"),
    ("x\r\n", "no number"),
    ("+5\r\nhello\r\n0\r\n\r\n", "a sign"),
    ("-5\r\nhello\r\n0\r\n\r\n", "a negative size"),
    ("+0\r\n\r\n", "a signed end"),
    ("-0\r\n\r\n", "a negative end"),
    ("0x5\r\nhello\r\n0\r\n\r\n", "a prefix"),
    ("5h\r\nhello\r\n0\r\n\r\n", "a suffix"),
    ("1_0\r\n0123456789abcdef\r\n0\r\n\r\n", "an underscore"),
    (" 5\r\nhello\r\n0\r\n\r\n", "a blank before the size"),
    ("5 \r\nhello\r\n0\r\n\r\n", "a blank behind the size"),
    ("5\t\r\nhello\r\n0\r\n\r\n", "a tab behind the size"),
    ("5 ;a\r\nhello\r\n0\r\n\r\n", "a blank before the extension"),
    ("5\nhello\r\n0\r\n\r\n", "LF behind the size"),
    ("5\rhello\r\n0\r\n\r\n", "CR behind the size"),
    ("5\r\nhello\n0\r\n\r\n", "LF behind the chunk"),
    ("5\r\nhello\r0\r\n\r\n", "CR behind the chunk"),
    ("5\r\nhello0\r\n\r\n", "nothing behind the chunk"),
    ("5\r\nhelloXX0\r\n\r\n", "two other bytes behind the chunk"),
    ("5\r\nhello!!\r\n0\r\n\r\n", "more than the size"),
    ("6\r\nhello\r\n0\r\n\r\n", "less than the size"),
    ("0\n\r\n", "LF behind the last size"),
    ("0\r\n\n", "LF for the end"),
    ("0\r\n\rX", "CR for the end"),
    ("0\r\r\n\r\n", "two CR"),
    ("FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n", "a size over 64 bits"),
    ("10000000000000000\r\nhello\r\n0\r\n\r\n", "zero, to 64 bits"),
    ("100000005\r\nhello\r\n0;\r\n\r\n", "five, to 32 bits"),
    ("5;\r\nhello\r\n0\r\n\r\n", "an empty extension"),
    ("5;;a\r\nhello\r\n0\r\n\r\n", "an empty extension before another"),
    ("5;a=\r\nhello\r\n0\r\n\r\n", "an extension without its value"),
    ("5; a\r\nhello\r\n0\r\n\r\n", "a blank in an extension"),
    ("5;a b\r\nhello\r\n0\r\n\r\n", "two words in an extension"),
    ("5;a[=b\r\nhello\r\n0\r\n\r\n", "a bracket in an extension"),
    ("5;a\nb\r\nhello\r\n0\r\n\r\n", "LF in an extension"),
    ("5;\nhello\r\n0\r\n\r\n", "LF for an extension"),
    ("5;a\rb\r\nhello\r\n0\r\n\r\n", "CR in an extension"),
    ("5;a\0\r\nhello\r\n0\r\n\r\n", "NUL in an extension"),
    ("5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n", "a line end in quotes"),
    ("5;a=\"b\"c\r\nhello\r\n0\r\n\r\n", "something behind quotes"),
    ("5:a\r\nhello\r\n0\r\n\r\n", "a colon"),
    ("5,5\r\nhello\r\n0\r\n\r\n", "a list of sizes"),
    (
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "a length in the trailers",
    ),
    (
        "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "a coding in the trailers",
    ),
    ("5\r\nhello\r\n0\r\nHost: b\r\n\r\n", "a host in the trailers"),
    ("5\r\nhello\r\n0\r\nX : y\r\n\r\n", "a blank in a trailer"),
    ("5\r\nhello\r\n0\r\nX: y\n\r\n", "LF behind a trailer"),
    ("5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", "a fold in the trailers"),
    ("5\r\nhello\r\n0\r\nX\r\n\r\n", "a trailer without a colon"),
    ("5\r\nhello\r\n0\r\nX: \0\r\n\r\n", "NUL in a trailer"),
    (
        "0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "a request for a trailer",
    ),
];

/// All that must be refused, with a request behind it that must not be found.
pub(super) fn refused() -> Vec<(Vec<u8>, &'static str)> {
    let mut all = Vec::new();
    for (fields, why) in FIELDS {
        for body in ["hello", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"] {
            all.push((format!("{HEAD}{fields}\r\n{body}{BEHIND}"), *why));
        }
        all.push((format!("GET / HTTP/1.1\r\n{fields}Host: a\r\n\r\n{BEHIND}"), *why));
    }
    for (host, why) in HOSTS {
        all.push((format!("GET / HTTP/1.1\r\n{host}X: y\r\n\r\n{BEHIND}"), *why));
    }
    for (line, why) in LINES {
        all.push((format!("{line}Host: a\r\n\r\n{BEHIND}"), *why));
    }
    for (chunks, why) in CHUNKS {
        all.push((
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}{BEHIND}"),
            *why,
        ));
    }
    for (long, why) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000)),
            "a long target",
        ),
        (
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(100_000)),
            "a long method",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(100_000)),
            "a long value",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}: y\r\n\r\n", "X".repeat(100_000)),
            "a long name",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10_000)),
            "many fields",
        ),
        (
            format!(
                "{HEAD}Transfer-Encoding: chunked\r\n\r\n5;a={}\r\nhello\r\n0\r\n\r\n",
                "b".repeat(65_536)
            ),
            "a long extension",
        ),
    ] {
        all.push((long, why));
    }
    let mut all: Vec<(Vec<u8>, &str)> = all.into_iter().map(|(text, why)| (text.into_bytes(), why)).collect();
    let garbage = (0..64_u8).map(|byte| byte.wrapping_mul(37).wrapping_add(11)).collect();
    all.push((garbage, "garbage"));
    all.push((b"   \r\n\r\n".to_vec(), "a line of blanks"));
    all.push((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "TLS"));
    all.push((
        b"GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        "an overlong slash",
    ));
    all.push((
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\xff: chunked\r\n\r\n".to_vec(),
        "0xff in a name",
    ));
    all
}
