//! How connections of clients begin, and what is spoken on them.

mod tls;
