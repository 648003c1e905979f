//! To come: jar.
