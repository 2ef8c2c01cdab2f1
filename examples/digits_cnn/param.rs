//! What training changes.

/// Values with their gradient, changed by stochastic gradient descent with momentum.
#[derive(Clone)]
pub struct Param {
    pub values: Vec<f32>,
    /// Of the last batch.
    pub gradient: Vec<f32>,
    velocity: Vec<f32>,
    /// Pulled towards 0 if training decays weights.
    decays: bool,
}

impl Param {
    pub fn new(values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        let (gradient, velocity) = (zeros.clone(), zeros);
        Self { values, gradient, velocity, decays: false }
    }

    pub fn decaying(self) -> Self {
        Self { decays: true, ..self }
    }

    /// One step against the gradient.
    pub fn step(&mut self, rate: f32, decay: f32) {
        const MOMENTUM: f32 = 0.9;
        let decay = if self.decays { decay } else { 0.0 };
        for ((value, gradient), velocity) in
            self.values.iter_mut().zip(&self.gradient).zip(&mut self.velocity)
        {
            *velocity = MOMENTUM * *velocity + gradient + decay * *value;
            *value -= rate * *velocity;
        }
    }
}
