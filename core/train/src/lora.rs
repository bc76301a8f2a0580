//! Low-rank adapters of the language model (LoRA, arXiv:2106.09685), with Burn's own.
//!
//! A matrix with an adapter counts as `W + alpha / rank * A B`, where only A and B learn. Burn keeps
//! them as parameters below the matrix (`...q_proj.weight.lora.a`), so that steps, optimizer and
//! checkpoints treat them as any other. It adds them up before each product; the backward pass
//! therefore keeps one such sum for each matrix and pass.

use burn::module::{Lora, Module, ParamGroup};
use mmgem_core::config::{LlamaConfig, MmGemConfig};
use mmgem_core::init::fresh_where;
use mmgem_core::model::MmGem;

use super::config::LoraConfig;

/// Matrices of a block that may have adapters.
pub const PROJECTIONS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Part of the paths of adapters.
const ADAPTER: &str = ".lora.";

/// Whether a parameter belongs to an adapter.
pub fn is_adapter(path: &str) -> bool {
    path.contains(ADAPTER)
}

/// Adds adapters to the language model. A is drawn from the seed and B is 0, so that the model
/// computes the same as before.
pub fn with_adapters(mut model: MmGem, lora: &LoraConfig, sizes: &MmGemConfig, seed: u64) -> MmGem {
    // With the dot, so that a name fits a whole part of a path.
    let names: Vec<String> = lora.projections.iter().map(|name| format!("{name}.weight")).collect();
    let burns = Lora::new(lora.rank, lora.alpha);
    model.llm = model.llm.apply_lora(burns.set_param_group(ParamGroup::from_any_predicates(names)));
    fresh_where(model, sizes, seed, &is_adapter)
}

/// Adds the adapters to their matrices, and removes them.
pub fn merge(model: MmGem) -> MmGem {
    model.materialize()
}

/// Numbers of all adapters, and of the matrices that have one.
pub fn counts(lora: &LoraConfig, llm: &LlamaConfig) -> (usize, usize) {
    let (h, ffn) = (llm.hidden_size, llm.intermediate_size);
    let q = llm.head_dim() * llm.num_attention_heads;
    let kv = llm.head_dim() * llm.num_key_value_heads;
    let sides = |name: &String| match name.as_str() {
        "q_proj" => (h, q),
        "k_proj" | "v_proj" => (h, kv),
        "o_proj" => (q, h),
        "down_proj" => (ffn, h),
        _ => (h, ffn),
    };
    lora.projections.iter().map(sides).fold((0, 0), |(adapters, matrices), (inputs, outputs)| {
        let n = llm.num_hidden_layers;
        (adapters + n * lora.rank * (inputs + outputs), matrices + n * inputs * outputs)
    })
}
