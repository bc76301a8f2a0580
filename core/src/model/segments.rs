//! Cuts the graph of a forward pass at its blocks, so that gradients come block by block.
//!
//! Burn walks a graph only once and returns all gradients at the end. So this module makes the
//! output of each block a leaf. Once the gradient of that leaf is known, the backward pass of the
//! block runs by itself. Only leaves may lie between two pieces: parameters, outputs of blocks, and
//! the patch tokens. A tower without blocks is one piece.
//!
//! The gradients of a block can thus be summed over the ranks while earlier blocks follow
//! (`core/train/src/overlap.rs`). The cut also permits gradient checkpointing (arXiv:1604.06174):
//! [`Keep::Inputs`] runs each block without a graph, and again with one in the backward pass.
//!
//! Burn 0.22 has two strategies of its own, both for single ops. One keeps all results. The other
//! (`BalancedCheckpointing`) recomputes cheap elementwise results but keeps the results of products
//! and attention, which are most of the memory. A graph node of our own would have to be written
//! once per backend.

use std::cell::RefCell;

use burn::module::{Module, ParamId};
use burn::tensor::{Gradients, Tensor};

use crate::params::visit;

thread_local! {
    /// The blocks that this thread has run since [`record`] began; `None` outside of it.
    static TAPE: RefCell<Option<(Keep, Vec<Segment>)>> = const { RefCell::new(None) };
}

/// The memory of a block until its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The block's graph.
    Graphs,
    /// The block's input. The backward pass runs the block again.
    Inputs,
}

/// A run of a block.
struct Segment {
    /// The block's first parameter, which identifies the block.
    block: Option<ParamId>,
    /// A leaf of the graph that continues from here.
    output: Tensor<3>,
    /// Sum of the gradients that have reached the output so far.
    gradient: Option<Tensor<3>>,
    /// Returns the output with its graph.
    graph: Box<dyn FnOnce() -> Tensor<3>>,
}

/// The blocks of a forward pass, in order of execution, whose backward pass has not begun.
#[derive(Default)]
pub struct Tape(Vec<Segment>);

/// Runs a forward pass and cuts its graph at the blocks.
pub fn record<R>(keep: Keep, act: impl FnOnce() -> R) -> (R, Tape) {
    TAPE.set(Some((keep, Vec::new())));
    let result = act();
    (result, Tape(TAPE.take().map(|(_, segments)| segments).unwrap_or_default()))
}

/// Runs a block. During [`record`], and if a gradient is needed, the block is a piece of the graph.
pub(super) fn segment<M: Module + 'static>(
    block: &M,
    x: Tensor<3>,
    forward: impl Fn(&M, Tensor<3>) -> Tensor<3> + 'static,
) -> Tensor<3> {
    let Some(keep) = TAPE.with_borrow(|tape| tape.as_ref().map(|(keep, _)| *keep)) else {
        return forward(block, x);
    };
    let (mut first, mut learns) = (None, false);
    visit(block, |param| {
        first.get_or_insert(param.id);
        learns |= param.is_trained();
    });
    if !(x.is_tracked() || learns) {
        return forward(block, x);
    }
    match keep {
        Keep::Graphs => push_graph(first, forward(block, x)),
        Keep::Inputs => {
            let output = forward(&block.valid(), x.clone().inner());
            let block = block.clone();
            push(first, output, move || forward(&block, x))
        }
    }
}

/// Ends a piece of the graph that is not a block. Its graph is kept in any case.
pub(super) fn cut(x: Tensor<3>) -> Tensor<3> {
    match x.is_tracked() && TAPE.with_borrow(Option::is_some) {
        true => push_graph(None, x),
        false => x,
    }
}

fn push_graph(block: Option<ParamId>, output: Tensor<3>) -> Tensor<3> {
    push(block, output.clone().inner(), move || output)
}

/// Records a piece of the graph, and returns its output as a leaf.
fn push(
    block: Option<ParamId>,
    output: Tensor<3>,
    graph: impl FnOnce() -> Tensor<3> + 'static,
) -> Tensor<3> {
    let output = Tensor::from_inner(output).require_grad();
    let graph = Box::new(graph);
    let segment = Segment { block, output: output.clone(), gradient: None, graph };
    TAPE.with_borrow_mut(|tape| tape.as_mut().expect("the thread is recording").1.push(segment));
    output
}

impl Tape {
    /// Whether a run of this block is left. `block` is its first parameter.
    pub fn holds(&self, block: ParamId) -> bool {
        self.0.iter().any(|segment| segment.block == Some(block))
    }

    /// Runs the backward pass of a loss through all recorded blocks.
    ///
    /// `take` receives the gradients of one piece after the other, and the blocks that follow. Later
    /// blocks go first, so an earlier one has its complete gradient by its turn.
    pub fn backward(mut self, loss: &Tensor<1>, mut take: impl FnMut(&mut Gradients, &Self)) {
        let mut gradients = loss.backward();
        loop {
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
            take(&mut gradients, &self);
            let Some(Segment { gradient: Some(gradient), graph, output, .. }) = self.0.pop() else {
                return;
            };
            drop(output);
            gradients = (graph() * Tensor::from_inner(gradient)).sum().backward();
        }
    }
}
