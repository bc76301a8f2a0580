//! Gradient checkpointing (arXiv:1604.06174): keeps only block inputs and recomputes the rest.
//!
//! Burn 0.22 has two strategies of its own, both for single ops. One keeps all results. The other
//! (`BalancedCheckpointing`) recomputes cheap elementwise results but keeps the results of products
//! and attention, which are most of the memory. A graph node of our own would have to be written
//! once per backend.
//!
//! So this module cuts the graph: a block's output is a leaf. Once the gradient of that leaf is
//! known, the block runs again with a graph. Then its backward pass runs by itself. Burn walks a
//! graph only once, so only leaves may lie between two pieces: parameters, outputs of blocks, and
//! the patch tokens.

use std::cell::RefCell;

use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

use crate::params::visit;

thread_local! {
    /// The blocks that this thread has run since [`checkpoint_blocks`] began; `None` outside of it.
    static TAPE: RefCell<Option<Vec<Segment>>> = const { RefCell::new(None) };
}

/// A block that ran without a graph.
struct Segment {
    input: Tensor<3>,
    /// A leaf of the graph that continues from here.
    output: Tensor<3>,
    /// Sum of the gradients that have reached the output so far.
    gradient: Option<Tensor<3>>,
    /// Runs the block again, with a graph.
    run: Box<dyn FnOnce(Tensor<3>) -> Tensor<3>>,
}

/// The blocks of a forward pass, in order of execution.
#[derive(Default)]
pub struct Tape(Vec<Segment>);

/// Runs a forward pass that keeps only the inputs of its blocks.
pub fn checkpoint_blocks<R>(act: impl FnOnce() -> R) -> (R, Tape) {
    TAPE.set(Some(Vec::new()));
    let result = act();
    (result, Tape(TAPE.take().unwrap_or_default()))
}

/// Runs a block. During [`checkpoint_blocks`], and if a gradient is needed, runs it without a graph.
pub(super) fn checkpointed<M: Module + 'static>(
    block: &M,
    x: Tensor<3>,
    forward: impl Fn(&M, Tensor<3>) -> Tensor<3> + 'static,
) -> Tensor<3> {
    let is_recording = TAPE.with_borrow(Option::is_some);
    if !(is_recording && (x.is_tracked() || learns(block))) {
        return forward(block, x);
    }
    let output = forward(&block.valid(), x.clone().inner());
    let output = Tensor::from_inner(output).require_grad();
    let block = block.clone();
    let run = Box::new(move |x| forward(&block, x));
    let segment = Segment { input: x, output: output.clone(), gradient: None, run };
    TAPE.with_borrow_mut(|tape| tape.as_mut().expect("the thread is recording").push(segment));
    output
}

fn learns<M: Module>(block: &M) -> bool {
    let mut learns = false;
    visit(block, |param| learns |= param.is_trained());
    learns
}

impl Tape {
    /// Runs the backward pass of a loss through all recorded blocks.
    ///
    /// `take` receives the gradients of one segment after the other. Later blocks go first, so an
    /// earlier one has its complete gradient by its turn.
    pub fn backward(mut self, loss: &Tensor<1>, mut take: impl FnMut(&mut Gradients)) {
        let mut gradients = loss.backward();
        loop {
            take(&mut gradients);
            for segment in &mut self.0 {
                if let Some(found) = segment.output.grad_remove(&mut gradients) {
                    segment.gradient = Some(match segment.gradient.take() {
                        Some(sum) => sum + found,
                        None => found,
                    });
                }
            }
            // Skip blocks that the loss does not depend on.
            while self.0.last().is_some_and(|segment| segment.gradient.is_none()) {
                self.0.pop();
            }
            let Some(Segment { input, gradient: Some(gradient), run, output }) = self.0.pop()
            else {
                return;
            };
            drop(output);
            gradients = (run(input) * Tensor::from_inner(gradient)).sum().backward();
        }
    }
}
