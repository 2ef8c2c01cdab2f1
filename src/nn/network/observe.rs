//! What flows through a network, observed.

use alloc::vec::Vec;

use super::{Network, NetworkConfig, NodeParams, Op, QuantizedNetwork};
use crate::{
    Error, memory,
    quant::{Engine, Levels, Observer, QParams, Scheme},
};

/// A network under calibration: an observer for the input and for the output of each layer.
#[derive(Debug, Clone)]
pub struct Calibration<'n, O> {
    network: &'n Network,
    /// One for each node; none where a node keeps its input's parameters.
    observers: Vec<Option<O>>,
}

impl Network {
    /// Begins to calibrate: every node gets a copy of this observer, which chooses the ranges in the end.
    /// [`MinMax`](crate::quant::MinMax), [`MovingAverage`](crate::quant::MovingAverage), or a
    /// [`Histogram`](crate::quant::Histogram) with one of the [`Calibrator`](crate::quant::Calibrator)s: percentile, least squared
    /// error, least divergence.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is not as much memory.
    pub fn calibrate<O: Observer + Clone>(&self, observer: &O) -> Result<Calibration<'_, O>, Error> {
        let copy = |op: &Op| (!op.layer.keeps_params()).then(|| observer.try_clone()).transpose();
        let observers = memory::try_collected("observers", self.nodes.iter().map(copy))?;
        Ok(Calibration { network: self, observers })
    }
}

impl<O: Observer> Calibration<'_, O> {
    /// Runs a batch of examples through the f32 network and takes in the outputs of all nodes. May be called any number of times.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` is not a whole number of examples; [`Error::NonFinite`] for NaN or infinity in `x`, unless the
    /// observer ignores them, and in the output of a node for finite `x`; the observer's own; the errors of
    /// [`Kernel::best`](crate::Kernel::best). Nothing has been taken in then. [`Error::SizeOverflow`] for want of memory; some nodes
    /// may have taken in theirs then.
    pub fn observe(&mut self, x: &[f32]) -> Result<(), Error> {
        let outputs = self.network.activations(x)?;
        let engine = Engine::new(None)?;
        if engine.finite_extent("x", x).is_ok() {
            outputs.iter().try_for_each(|y| engine.finite_extent("output of a node", y).map(|_| ()))?;
        }
        // If any refuses, it is the input's, which comes first.
        for (observer, y) in self.observers.iter_mut().zip(&outputs) {
            if let Some(observer) = observer {
                observer.observe_batch(y)?;
            }
        }
        Ok(())
    }

    /// The observer of each node, input first, to look into; `None` for nodes that keep the parameters of what they read.
    pub fn observers(&self) -> impl ExactSizeIterator<Item = Option<&O>> {
        self.observers.iter().map(Option::as_ref)
    }

    /// Scale and zero point of every node, as u8, from what was observed.
    ///
    /// # Errors
    /// [`Error::NothingObserved`]; the observer's own; [`Error::SizeOverflow`].
    pub fn params(&self) -> Result<Vec<NodeParams>, Error> {
        let mut all: Vec<NodeParams> = memory::room("nodes", self.observers.len(), 1)?;
        for (op, observer) in self.network.nodes.iter().zip(&self.observers) {
            let output = match observer {
                Some(observer) => observer.qparams(Levels::U8, Scheme::Affine)?,
                None => all.get(op.inputs[0]).map_or(QParams { scale: 1.0, zero_point: 0 }, |p| p.output),
            };
            all.push(NodeParams::new(output));
        }
        Ok(all)
    }

    /// The integer network.
    ///
    /// # Errors
    /// As [`Calibration::params`] and [`Network::convert`].
    pub fn convert(&self, config: NetworkConfig) -> Result<QuantizedNetwork, Error> {
        self.network.convert(&self.params()?, config)
    }
}
