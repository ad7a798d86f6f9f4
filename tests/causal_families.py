"""Every family of causal language models that transformers names, tiny, against plain hooks.

    python tests/causal_families.py        # tries all of them and writes docs/families.md: minutes

Nothing of the reference comes from `actlib`: modules are read and written by hooks of torch on one
unpadded item at a time.
"""

import inspect
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import torch
import transformers
from slow_reference import expected_scores, run
from tiny_models import collate, random_items, same_bits, state_of
from tqdm import tqdm
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

import actlib
from actlib.channels import channel_modules, uncovered_parameters
from actlib.masks import ChannelMask

FAMILIES = sorted(NAMES)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
START = "<!-- families: start -->\n"
LIMIT = 4_000_000
"""Parameters of the largest model that is tried."""
# What a configuration has of these is set, by whatever name its family gives it.
_SIZES = {
    16: "hidden_size n_embd d_model hidden_dim word_embed_proj_dim lru_width attention_hidden_size",
    24: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers pad_token_id "
    "num_key_value_heads num_experts_per_tok moe_k moe_topk linear_num_key_heads",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads num_local_experts "
    "decoder_attention_heads head_dim n_routed_experts num_experts moe_num_experts rotary_dim "
    "qk_rope_head_dim qk_nope_head_dim v_head_dim linear_num_value_heads linear_key_head_dim "
    "mamba_n_heads mamba_num_heads linear_conv_kernel_dim global_head_dim",
    6: "linear_value_head_dim",
    8: "moe_intermediate_size shared_expert_intermediate_size sliding_window q_lora_rank "
    "kv_lora_rank mamba_d_head mamba_head_dim mamba_d_state ssm_state_size state_size chunk_size "
    "mamba_chunk_size hidden_size_per_layer_input index_head_dim",
    32: "mamba_d_ssm",
    61: "vocab_size vocab_size_per_layer_input",
    64: "max_position_embeddings n_positions",
    0: "bos_token_id",
    1: "eos_token_id n_group topk_group mamba_n_groups n_groups",
}
SETTINGS = {name: size for size, names in _SIZES.items() for name in names.split()}
SETTINGS["is_decoder"] = True
OWN = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"head_dim": 8, "num_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "prophetnet": {"num_decoder_layers": 2, "num_encoder_layers": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "xmod": {"default_language": "en_XX"},
}


def build(family, seed):
    """A tiny model with random weights; raises where there is none."""
    kind = CONFIG_MAPPING[family]
    known = {name for each in kind.__mro__ for name in getattr(each, "__annotations__", ())}
    known |= {*inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    settings = {name: value for name, value in SETTINGS.items() if name in known}
    if "kv_lora_rank" in settings:  # latent attention, whose heads have keys of their own
        settings |= {"num_key_value_heads": 4}
    config, make = kind(**settings | OWN.get(family, {})), transformers.AutoModelForCausalLM
    with torch.device("meta"):
        size = make.from_config(config).num_parameters()
    if size > LIMIT:
        raise ValueError(f"its smallest settings known here have {size:,} parameters")
    torch.manual_seed(seed)
    model = make.from_config(config).eval()
    for parameter in model.parameters():  # fresh norms are ones and biases zeros
        parameter.data += torch.randn_like(parameter) / 10
    return model


def try_recording(donor, target, items, notes):
    names = [n for n, m in channel_modules(target).items() if not m.is_packed]
    expected, silent = {}, []
    for size, side in ((1, "left"), (2, "right"), (2, "left")):
        scores = actlib.record_differences(donor, target, collate(items, size, side))
        expected = expected or expected_scores(donor, target, items, names)["values"]
        silent = [name for name in scores.metadata.get("silent", "").split(",") if name]
        assert sorted(silent) == sorted(set(names) - set(expected)), "modules that never ran"
        for name, values in expected.items():
            torch.testing.assert_close(scores.values[name].double(), values, rtol=1e-3, atol=1e-4)
    if silent:
        notes.append(f"{len(silent)} modules never run, such as `{silent[0]}`")


def try_moving(donor, target, mask):
    before, other = state_of(target), state_of(donor)
    with actlib.transferred(target, donor, mask, 0.4):
        moved = state_of(target)
    assert same_bits(state_of(target), before) and not same_bits(moved, before), "transferred"
    for name in dict(target.named_parameters()):
        value, step = moved[name], 0.4 * (other[name] - before[name])
        is_new = torch.isclose(value, before[name] + step, rtol=1e-6, atol=1e-7)
        assert (is_new | (value == before[name])).all(), name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "patch")
        actlib.make_patch(target, donor, mask, path, scale=0.4)
        actlib.apply_patch(target, path)
        assert same_bits(state_of(target), moved), "patch applied"
        actlib.revert_patch(target, path)
    assert same_bits(state_of(target), before), "patch reverted"


def try_interventions(donor, target, mask, ids):
    chosen, given = mask.indices(), defaultdict(list)
    run(donor, ids, lambda name, _inputs, output: given[name].append(output.clone()), chosen)

    def replace(name, _inputs, output):
        return output.index_copy(-1, chosen[name], given[name].pop(0)[..., chosen[name]])

    def erase(name, _inputs, output):
        return output.index_fill(-1, chosen[name], 0.0)

    for context, hook in (
        (actlib.patched(target, donor, mask), replace),
        (actlib.ablated(target, mask, "zero"), erase),
    ):
        expected = run(target, ids, hook, chosen)
        with context:
            torch.testing.assert_close(run(target, ids), expected, rtol=1e-4, atol=1e-5)


def outcome(family):
    """Right, refused or not tried, and what there is to say; whatever is wrong raises."""
    # longer or shorter than any number of heads
    items = random_items((7, 2), (11, 4), (9, 3), (5, 2))
    try:
        donor, target = build(family, 1), build(family, 0)
        run(target, items[0][0])
    except Exception as reason:
        return "not tried", str(reason).strip().splitlines()[-1].strip()[:120]
    notes, generator = [], torch.Generator().manual_seed(5)
    modules = channel_modules(target)
    draw = {n: torch.rand(m.channels, generator=generator) < 0.3 for n, m in modules.items()}
    packed = [name for name, each in modules.items() if each.is_packed]
    routers = [name for name, each in modules.items() if each.role == "router"]
    if packed:
        notes.append("experts packed in one tensor, which no intervention writes")
    if apart := uncovered_parameters(target):
        notes.append(f"{len(apart)} tensors of no channel, such as `{apart[0]}`")
    with warnings.catch_warnings(action="ignore"):
        try_moving(donor, target, ChannelMask(draw))
        draw |= {name: torch.zeros_like(draw[name]) for name in packed + routers}
        try_interventions(donor, target, ChannelMask(draw), items[1][0])
        try:
            try_recording(donor, target, items, notes)
        except ValueError as refusal:
            return "refused", f"recording: {refusal}"
    return "right", "; ".join(notes)


def row(family):
    """The line of the page about a family."""
    return f"| `{family}` | `{NAMES[family]}` | " + " | ".join(outcome(family)) + " |\n"


def main():
    """Try every family and write the table of the page."""
    transformers.logging.set_verbosity_error()
    rows = [row(family) for family in tqdm(FAMILIES)]
    counts = Counter(each.split(" | ")[2] for each in rows)
    total = f"transformers {transformers.__version__} names {len(rows)} families: " + ", ".join(
        f"{number} {kind}" for kind, number in counts.most_common()
    )
    head = PAGE.read_text("utf-8").partition(START)[0]
    columns = f"{total}.\n\n| family | class | outcome | what there is to say |\n|{' --- |' * 4}\n"
    PAGE.write_text(head + START + columns + "".join(rows), "utf-8")


if __name__ == "__main__":
    main()
