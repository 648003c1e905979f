//! session-bridge: an HTTP reverse proxy that lets a client without cookies use a backend with cookie sessions.
//!
//! # The life of a request
//!
//! 1. [`wire::server`] accepts the connection, checks the framing of every request byte by byte and hands on only
//!    what is unambiguous.
//! 2. [`app`] routes it: the health path is answered here, everything else is for [`bridge`].
//! 3. [`bridge::identify`] finds the Install ID, in the header or in the JSON body.
//! 4. [`bridge::acquire`] finds the session at hand or in the store, waits for one that is being started, or takes the lead:
//!    then the request starts it, or [`bridge::prefetch`] does before it is sent.
//! 5. [`bridge::outbound`] builds the backend's request; [`wire::upstream`] sends it.
//! 6. [`bridge::inbound`] takes every `Set-Cookie` out of the response. One that reports a dead session ([`bridge::lost`])
//!    has the request sent once more, from 4 on.
//! 7. [`bridge::commit`] brings the stored session up to date, and only then is the response head passed on.
//! 8. [`bridge::refuse`] turns whatever went wrong on the way into `application/problem+json`.
//!
//! # The rules of the layers
//!
//! ```text
//! main → cli → { app, config, lifecycle, telemetry }
//!              app → { bridge, store, wire, ops, lifecycle, metrics, config, tls }
//!                    bridge  → { session, wire, metrics, moment, access_log }
//!                    store   → { session, tls }
//!                    ops     → { session, metrics }
//!                    metrics → session
//!                    wire    → { session::clock, lifecycle, tls, moment, hex }
//!                    moment, access_log → session
//!                    session → hex
//!                    lifecycle, tls, hex → nothing of ours
//! ```
//!
//! `session` is pure: no runtime, no HTTP library, no driver. `bridge` knows the trait
//! [`session::store::SessionStore`], never a backend of it. The stages of `bridge` never call each other; only
//! `bridge.rs` puts them in order. A part declares its own options; only `app` translates the configuration into
//! them. A test (`tests/it/architecture.rs`) holds these arrows.

pub mod access_log;
pub mod app;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod hex;
pub mod lifecycle;
pub mod metrics;
pub mod moment;
pub mod ops;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod wire;
