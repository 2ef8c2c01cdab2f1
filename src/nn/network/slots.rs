//! Where the outputs of nodes lie: as few buffers as the lives of the outputs allow.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{Error, memory};

/// Every slot starts at a multiple of this.
const ALIGN: usize = 64;

/// Buffers, and which node's output is in which.
#[derive(Debug)]
pub(super) struct Slots {
    /// Bytes of each slot for one example.
    sizes: Vec<usize>,
    /// Of each node.
    slots: Vec<usize>,
}

/// What is to be known of a node.
pub(super) struct NodeOutput {
    pub inputs: [usize; 2],
    /// Bytes for one example.
    pub size: usize,
    /// The output is the first input itself.
    pub alias: bool,
}

impl Slots {
    /// In the order in which nodes run. A slot is free for others once the last node that reads it has run.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn new(outputs: &[NodeOutput]) -> Result<Self, Error> {
        let what = "nodes";
        // The node whose slot a node's output lies in, and the last node that reads it.
        let mut owners: Vec<usize> = memory::room(what, outputs.len(), 1)?;
        let mut last = memory::collected(what, 0..outputs.len())?;
        for (index, output) in outputs.iter().enumerate() {
            owners.push(if output.alias { owners[output.inputs[0]] } else { index });
            for input in output.inputs.into_iter().filter(|&input| input < index) {
                last[owners[input]] = index;
            }
        }
        if let Some(&owner) = owners.last() {
            // What the network gives is read when all is done.
            last[owner] = outputs.len();
        }

        let mut sizes: Vec<usize> = memory::room(what, outputs.len(), 1)?;
        // The node that holds each slot.
        let mut held: Vec<Option<usize>> = memory::room(what, outputs.len(), 1)?;
        let mut slots: Vec<usize> = memory::zeroed(what, outputs.len(), 1)?;
        for (index, output) in outputs.iter().enumerate() {
            if output.alias {
                slots[index] = slots[owners[index]];
            } else {
                // The smallest that is large enough, or else the largest.
                let free = (0..sizes.len()).filter(|&slot| held[slot].is_none());
                let fit = |&slot: &usize| {
                    let size = sizes[slot];
                    if size >= output.size { (0, size) } else { (1, usize::MAX - size) }
                };
                let slot = free.min_by_key(fit).unwrap_or(sizes.len());
                if slot == sizes.len() {
                    sizes.push(0);
                    held.push(None);
                }
                sizes[slot] = sizes[slot].max(output.size);
                held[slot] = Some(index);
                slots[index] = slot;
            }
            for held in &mut held {
                if held.is_some_and(|owner| last[owner] <= index) {
                    *held = None;
                }
            }
        }
        Ok(Self { sizes, slots })
    }

    /// Bytes of all slots; `None` if they overflow.
    pub fn total(&self, batch: usize) -> Option<usize> {
        self.sizes.iter().try_fold(0usize, |total, &size| total.checked_add(Self::room(size, batch)?))
    }

    /// Where the output of a node lies, `size` bytes for each example; the total does not overflow.
    pub fn range(&self, node: usize, size: usize, batch: usize) -> Range<usize> {
        let before = &self.sizes[..self.slots[node]];
        let start = before.iter().map(|size| (size * batch).next_multiple_of(ALIGN)).sum();
        start..start + size * batch
    }

    fn room(size: usize, batch: usize) -> Option<usize> {
        size.checked_mul(batch)?.checked_next_multiple_of(ALIGN)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// Outputs that are alive at the same time lie apart.
    #[test]
    fn lives_do_not_overlap() {
        let mut seed = 1u32;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % n
        };
        for _ in 0..200 {
            let mut outputs = vec![NodeOutput { inputs: [0, 0], size: 1 + below(9), alias: false }];
            for index in 1..2 + below(12) {
                let (inputs, alias) = ([below(index), below(index)], below(4) == 0);
                let inputs = if alias { [inputs[0]; 2] } else { inputs };
                let size = if alias { outputs[inputs[0]].size } else { 1 + below(9) };
                outputs.push(NodeOutput { inputs, size, alias });
            }
            let slots = Slots::new(&outputs).unwrap();
            let mut owners: Vec<usize> = (0..outputs.len()).collect();
            let mut memory = vec![usize::MAX; slots.total(100).unwrap()];
            for (index, output) in outputs.iter().enumerate() {
                for input in output.inputs.into_iter().filter(|_| index > 0) {
                    let range = slots.range(input, outputs[input].size, 100);
                    assert!(
                        memory[range].iter().all(|&owner| owner == owners[input]),
                        "{index} reads {input}"
                    );
                }
                if output.alias {
                    owners[index] = owners[output.inputs[0]];
                } else {
                    memory[slots.range(index, output.size, 100)].fill(index);
                }
            }
            let end = outputs.len() - 1;
            assert!(
                memory[slots.range(end, outputs[end].size, 100)].iter().all(|&owner| owner == owners[end])
            );
        }
    }

    #[test]
    fn a_chain_takes_two() {
        let chain = |i: usize| NodeOutput { inputs: [i.saturating_sub(1); 2], size: 64, alias: false };
        let outputs: Vec<NodeOutput> = (0..9).map(chain).collect();
        let slots = Slots::new(&outputs).unwrap();
        assert_eq!(slots.total(1), Some(128));
        assert_eq!(slots.total(usize::MAX / 64), None);
    }
}
