//! To come: install_id.
