//! Blocks that keep only their input for the way back and compute the rest again (gradient checkpointing,
//! arXiv:1604.06174).
//!
//! Burn 0.22 has two strategies of its own, for single operations: all is kept, or cheap elementwise results are computed
//! again while those of products and attention stay. For a whole block the graph is cut here: a block's output is a leaf.
//! Once the gradient of that leaf is known, the block is run again with a graph, and goes back by itself.

use std::cell::RefCell;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

thread_local! {
    /// What the blocks of this thread leave behind, while someone asks for it.
    static TAPE: RefCell<Option<Vec<Segment>>> = const { RefCell::new(None) };
}

/// A block that was run without a graph.
struct Segment {
    input: Tensor<3>,
    /// A leaf of the graph that goes on from here.
    output: Tensor<3>,
    /// What has come back to it so far.
    gradient: Option<Tensor<3>>,
    /// Runs the block again.
    run: Box<dyn FnOnce(Tensor<3>) -> Tensor<3>>,
}

/// The blocks of a forward pass, in the order in which they were run.
#[derive(Default)]
pub struct Tape(Vec<Segment>);

/// Runs a forward pass whose blocks keep only their inputs.
pub fn record<R>(act: impl FnOnce() -> R) -> (R, Tape) {
    TAPE.set(Some(Vec::new()));
    let result = act();
    (result, Tape(TAPE.take().unwrap_or_default()))
}

/// Runs a block: as it is, or where a pass is being recorded and a gradient wanted, without its graph.
pub(super) fn through<M: Module + 'static>(
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
    TAPE.with_borrow_mut(|tape| tape.as_mut().expect("just seen").push(segment));
    output
}

fn learns<M: Module>(block: &M) -> bool {
    let mut learns = Learns(false);
    block.visit(&mut learns);
    learns.0
}

struct Learns(bool);

impl ModuleVisitor for Learns {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 |= param.is_require_grad();
    }
}

impl Tape {
    /// Goes back from a loss through all that was recorded; `take` gets the gradients of one piece after the other.
    ///
    /// A later block goes first, so all that comes back to an earlier one is there before its turn.
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
            // What the loss does not depend on is not gone through.
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
