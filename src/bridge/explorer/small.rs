//! Every schedule of small cases.
