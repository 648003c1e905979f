//! Names of fields that the bridge knows, as they are written.

macro_rules! names {
    ($($name:ident = $spelt:literal;)*) => {
        $(
            #[doc = concat!("`", $spelt, "`.")]
            pub const $name: &str = $spelt;
        )*
    };
}

names! {
    ACCEPT_LANGUAGE = "Accept-Language";
    AUTHORIZATION = "Authorization";
    CACHE_CONTROL = "Cache-Control";
    CDN_CACHE_CONTROL = "CDN-Cache-Control";
    CONNECTION = "Connection";
    CONTENT_ENCODING = "Content-Encoding";
    CONTENT_LENGTH = "Content-Length";
    CONTENT_TYPE = "Content-Type";
    COOKIE = "Cookie";
    COOKIE2 = "Cookie2";
    DATE = "Date";
    EXPECT = "Expect";
    FORWARDED = "Forwarded";
    HOST = "Host";
    HTTP2_SETTINGS = "HTTP2-Settings";
    KEEP_ALIVE = "Keep-Alive";
    KEY = "Key";
    LOCATION = "Location";
    ORIGIN = "Origin";
    PROXY_AUTHENTICATE = "Proxy-Authenticate";
    PROXY_AUTHENTICATION_INFO = "Proxy-Authentication-Info";
    PROXY_AUTHORIZATION = "Proxy-Authorization";
    PROXY_CONNECTION = "Proxy-Connection";
    REFERER = "Referer";
    SET_COOKIE = "Set-Cookie";
    SET_COOKIE2 = "Set-Cookie2";
    SURROGATE_CONTROL = "Surrogate-Control";
    TE = "TE";
    TRAILER = "Trailer";
    TRANSFER_ENCODING = "Transfer-Encoding";
    UPGRADE = "Upgrade";
    USER_AGENT = "User-Agent";
    VARY = "Vary";
    VIA = "Via";
    X_FORWARDED_FOR = "X-Forwarded-For";
    X_FORWARDED_HOST = "X-Forwarded-Host";
    X_FORWARDED_PROTO = "X-Forwarded-Proto";
    X_REQUEST_ID = "X-Request-Id";
}
