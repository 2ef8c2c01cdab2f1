//! Criterion's clock, with throughput in multiply-adds.

use std::time::Duration;

use criterion::{
    Throughput,
    measurement::{Measurement, ValueFormatter, WallTime},
};

/// Wall time; an element is a multiply-add.
pub struct MacTime;

impl Measurement for MacTime {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        WallTime.start()
    }

    fn end(&self, start: Self::Intermediate) -> Duration {
        WallTime.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for MacTime {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        match *throughput {
            Throughput::Elements(macs) => {
                // Values are nanoseconds.
                values.iter_mut().for_each(|value| *value = macs as f64 / *value);
                "GMAC/s"
            }
            _ => WallTime.formatter().scale_throughputs(typical, throughput, values),
        }
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}
