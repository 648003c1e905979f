//! How long things took, counted without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A histogram of durations. Clones share one.
#[derive(Clone, Debug)]
pub(super) struct Times(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The longest that each bucket but the last one takes, in microseconds, in order.
    bounds: &'static [u64],
    /// How many each of them took, and the last one what was longer.
    counts: Box<[AtomicU64]>,
    /// The bits of all that was observed, in seconds.
    sum: AtomicU64,
}

impl Times {
    /// Nothing has been observed.
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Self(Arc::new(Shared {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }))
    }

    /// Something took so long.
    pub(super) fn observe(&self, took: Duration) {
        let Shared { bounds, counts, sum } = &*self.0;
        let nanos = took.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(took.subsec_nanos().into());
        let bucket = bounds.iter().position(|bound| nanos <= bound * 1000);
        if let Some(count) = counts.get(bucket.unwrap_or(bounds.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let seconds = took.as_secs_f64();
        sum.update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
            (f64::from_bits(sum) + seconds).to_bits()
        });
    }
}

impl TypedMetric for Times {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Shared { bounds, counts, sum } = &*self.0;
        let sum = f64::from_bits(sum.load(Ordering::Relaxed));
        let bounds = bounds.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: &[u64] = &[100, 2_500, 1_000_000, 60_000_000];

    fn told(metric: impl prometheus_client::registry::Metric) -> String {
        let mut registry = Registry::default();
        registry.register("took_seconds", "Time", metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_bound_is_the_longest_that_its_bucket_takes() {
        let times = Times::new(BOUNDS);
        for micros in [0, 100, 2_500, 60_000_000] {
            times.observe(Duration::from_micros(micros));
            times.observe(Duration::from_micros(micros) + Duration::from_nanos(1));
        }
        times.observe(Duration::MAX);
        let text = told(times);
        for (bound, count) in [("0.0001", 3), ("0.0025", 5), ("1.0", 6), ("60.0", 7), ("+Inf", 9)] {
            let line = format!("took_seconds_bucket{{le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("took_seconds_count 9\n"), "{text}");
    }

    #[test]
    fn nothing_is_lost_among_threads() {
        const EACH: u32 = 10_000;
        let times = Times::new(BOUNDS);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|_| times.observe(Duration::from_millis(500))));
            }
        });
        let text = told(times);
        assert!(text.contains("took_seconds_sum 20000.0\n"), "{text}");
        assert!(text.contains("took_seconds_bucket{le=\"1.0\"} 40000\n"), "{text}");
    }

    proptest! {
        #[test]
        fn they_are_told_as_the_library_tells_its_own(micros in proptest::collection::vec(0_u64..100_000_000, 0..20)) {
            let times = Times::new(BOUNDS);
            let library = Histogram::new(BOUNDS.iter().map(|bound| *bound as f64 / 1e6));
            for took in micros.into_iter().map(Duration::from_micros) {
                times.observe(took);
                library.observe(took.as_secs_f64());
            }
            prop_assert_eq!(told(times), told(library));
        }
    }
}
