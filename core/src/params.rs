//! Walks the parameters of a module: visits or maps each one by its path.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
#[cfg(feature = "autodiff")]
use burn::tensor::Gradients;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::names::{module_path, param_id};

/// A parameter of any rank.
pub struct ParamRef<'a> {
    /// Path in the module tree, as `llm.layers.0.self_attn.q_proj.weight`.
    pub path: String,
    /// The same in copies of the module.
    pub id: ParamId,
    /// Sizes.
    pub shape: Vec<usize>,
    param: &'a dyn AnyRank,
}

impl ParamRef<'_> {
    /// Number of values.
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter gets a gradient.
    pub fn is_trained(&self) -> bool {
        self.param.is_trained()
    }

    /// The device of its values.
    pub fn device(&self) -> Device {
        self.param.device()
    }

    /// Its values, row by row, without their graph.
    ///
    /// A graph would grow with each call: Burn keeps the nodes that depend on a parameter and that no
    /// backward pass walks, for as long as the parameter lives.
    pub fn values(&self) -> Tensor<1> {
        self.param.values()
    }

    /// Removes its gradient from `gradients`; row by row.
    #[cfg(feature = "autodiff")]
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        self.param.take_gradient(gradients)
    }
}

/// The trained parameters of a module, for many backward passes without a walk for each.
#[cfg(feature = "autodiff")]
pub struct Trained(Vec<(String, Box<dyn AnyRank>)>);

#[cfg(feature = "autodiff")]
impl Trained {
    /// The trained parameters of a module.
    pub fn new<M: Module>(module: &M) -> Self {
        let mut params = Vec::new();
        visit(module, |param| {
            if param.is_trained() {
                params.push((param.path, param.param.boxed()));
            }
        });
        Self(params)
    }

    /// Removes the gradients of these parameters from `gradients`, and passes each with its path to
    /// `act`, row by row.
    pub fn take_gradients(&self, gradients: &mut Gradients, mut act: impl FnMut(&str, Tensor<1>)) {
        for (path, param) in &self.0 {
            param.take_gradient(gradients).into_iter().for_each(|gradient| act(path, gradient));
        }
    }
}

/// The new state of a parameter.
pub enum Mapped {
    /// Unchanged.
    Same,
    /// The same values, with or without gradient.
    Trained(bool),
    /// These values without a graph, row by row, as a leaf of a new graph. Trained as before.
    Leaf(Tensor<1>),
    /// The first values of an empty module, row by row, on the parameter's device. Trained.
    Initial(Tensor<1>),
}

/// Calls `act` with every parameter, in the order of the module's fields.
pub fn visit<M: Module>(module: &M, act: impl FnMut(ParamRef)) {
    module.visit(&mut Walk { path: Vec::new(), act });
}

/// Replaces every parameter by the result of `act`.
pub fn map<M: Module>(module: M, act: impl FnMut(ParamRef) -> Mapped) -> M {
    module.map(&mut Walk { path: Vec::new(), act })
}

/// The parts of a parameter that do not depend on its rank.
trait AnyRank {
    fn is_trained(&self) -> bool;
    fn device(&self) -> Device;
    fn values(&self) -> Tensor<1>;
    #[cfg(feature = "autodiff")]
    fn boxed(&self) -> Box<dyn AnyRank>;
    #[cfg(feature = "autodiff")]
    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>>;
}

impl<const D: usize> AnyRank for Param<Tensor<D>> {
    fn is_trained(&self) -> bool {
        self.is_require_grad()
    }

    fn device(&self) -> Device {
        self.lazy_device()
    }

    fn values(&self) -> Tensor<1> {
        flat(self.val().inner())
    }

    #[cfg(feature = "autodiff")]
    fn boxed(&self) -> Box<dyn AnyRank> {
        Box::new(self.clone())
    }

    #[cfg(feature = "autodiff")]
    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        self.val().grad_remove(gradients).map(flat)
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let n = tensor.dims().iter().product::<usize>();
    tensor.reshape([n])
}

/// The walk through the module tree.
struct Walk<F> {
    path: Vec<String>,
    act: F,
}

impl<F> Walk<F> {
    fn parameter<'a, const D: usize>(&self, param: &'a Param<Tensor<D>>) -> ParamRef<'a> {
        let (path, shape) = (module_path(&self.path), param.lazy_shape().to_vec());
        ParamRef { path, id: param.id, shape, param }
    }
}

impl<F: FnMut(ParamRef)> ModuleVisitor for Walk<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let param = self.parameter(param);
        (self.act)(param);
    }
}

impl<F: FnMut(ParamRef) -> Mapped> ModuleMapper for Walk<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let old = self.parameter(&param);
        match (self.act)(old) {
            Mapped::Same => param,
            Mapped::Trained(is_trained) => param.set_require_grad(is_trained),
            Mapped::Leaf(values) => {
                let is_trained = param.is_require_grad();
                let (id, old, mapper) = param.consume();
                let tensor = Tensor::from_inner(values.reshape(old.dims()));
                let tensor = if is_trained { tensor.require_grad() } else { tensor };
                Param::from_mapped_value(id, tensor, mapper)
            }
            Mapped::Initial(values) => {
                let shape: [usize; D] = param.lazy_shape().dims();
                let id = param_id(&module_path(&self.path));
                Param::initialized(id, values.reshape(shape)).set_require_grad(true)
            }
        }
    }
}
