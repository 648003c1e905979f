//! To come: cookie.
