"""What people bring: each kind of model gives the right value, or is refused in a true sentence.

A row of `SITUATIONS` is what is done to a model, and what comes out where both models of a pair
are such, or one of them: "right" (scores, features, moved weights and patched logits are those of
the plain pair), or the sentence that refuses all of these.
"""

import copy
from functools import partial
from types import MethodType

import accelerate
import peft
import pytest
import torch
import transformers
from slow_reference import slow_nll
from tiny_models import MODERN, random_mask, state_of, tiny_model
from tiny_models import same_bits as same
from torch import nn

import actlib
from actlib import evaluate, random_like, record_activations, record_differences


def family(name="llama", seed=0):
    return copy.deepcopy(tiny_model(name, seed))


def compile_after_a_call(model):
    ids = torch.arange(3, 12)[None]
    model(ids)
    model.compile(backend="eager")
    model(ids)
    return model


def compile_layers(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


def replace_layers(model):
    for place, layer in enumerate(model.model.layers):
        model.model.layers[place] = torch.compile(layer, backend="eager")
    return model


def with_layers(change):
    """Put what `change` makes of it in the place of each up projection."""

    def apply(model):
        for layer in model.model.layers:
            layer.mlp.up_proj = change(layer.mlp.up_proj)
        return model

    return apply


def pack(linear, dtype=torch.int32):
    """As GPTQ, AWQ and QuIP#: packed codes in a buffer, and no weight."""
    packed = nn.Module()
    packed.register_buffer("qweight", linear.weight.round().to(dtype))
    packed.register_buffer("scales", torch.ones(1, 24))
    return packed


class Params4bit(nn.Parameter):
    """As of bitsandbytes, torchao and quanto: codes that look like a parameter."""


def to_bytes(linear):
    linear.weight = Params4bit(linear.weight.data)
    return linear


def to_8_bits(linear):
    """As HQQ and FP8."""
    linear.weight = nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return linear


def scale(linear, kind=nn.Parameter):
    linear.weight_scale = kind(torch.full((24, 1), 0.5))
    return linear


def parametrize_norm(model):
    nn.utils.parametrize.register_parametrization(model.model.norm, "weight", nn.Identity())
    return model


def share_memory(model):
    """As a copy for the head that was meant, and never made."""
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight)
    return model


def adapt(model, module="up_proj"):
    config = peft.LoraConfig(target_modules=[module], init_lora_weights=False)
    return peft.get_peft_model(model, config).eval()


def inject_adapter(model):
    model.add_adapter(peft.LoraConfig(target_modules=["up_proj"]))
    return model


def learn_prompt(model):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return peft.get_peft_model(model, config).eval()


def shard(model):
    """As FSDP2 does on each rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


MERGE = r"is wrapped by peft .*PeftModel.from_pretrained\(model, adapter\).merge_and_unload"
QUANTIZED = "holds {}, expected plain float numbers: load the model without quantization"
SHARDED = "sharded over processes .* load the whole model in each process"
BESIDE = "computes with weight_scale beside its weight"
SITUATIONS = {
    "compiled in place": (lambda model: model.compile(backend="eager") or model, "right"),
    "compiled after a call": (compile_after_a_call, "right"),
    "layers compiled in place": (compile_layers, "right"),
    "compiled layers": (
        replace_layers,
        r"model.layers.0 is compiled apart .* by its method compile\(\)",
    ),
    "compiled and distributed": (
        lambda model: torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
        "right",
    ),
    "adapter": (adapt, MERGE),
    "adapter injected": (inject_adapter, MERGE),
    "prompt tuning": (learn_prompt, r"by peft.* of a learned prompt.* take get_base_model\(\)"),
    "GPTQ": (with_layers(pack), QUANTIZED.format("qweight as int32")),
    "QuIP": (with_layers(partial(pack, dtype=torch.int64)), QUANTIZED.format("qweight as int64")),
    "4 bit": (with_layers(to_bytes), QUANTIZED.format("weight as Params4bit")),
    "FP8": (with_layers(to_8_bits), QUANTIZED.format("weight as float8_e4m3fn")),
    "a scale for each row": (with_layers(scale), BESIDE),
    "a scale in a buffer": (with_layers(partial(scale, kind=nn.Buffer)), BESIDE),
    "norms of another's making": (parametrize_norm, "weight that is computed from other"),
    "a head on the embedding's memory": (
        share_memory,
        "parameters lm_head.weight and .* share memory",
    ),
    "FSDP2": (shard, SHARDED),
}
READABLE = {words for _, words in SITUATIONS.values()} - {"right", MERGE, SHARDED}
READABLE -= {SITUATIONS[name][1] for name in ("compiled layers", "prompt tuning")}
"""Outcomes of models whose weights are what is wrong, and not the outputs of their modules."""


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """A process group of this process alone, as a launcher makes it."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def uses_of(donor, target, mask, batches, folder):
    """Everything that reads or writes a pair in memory, by name, each giving what to compare."""

    def patch():
        before = state_of(target)
        actlib.make_patch(target, donor, mask, folder / "patch")
        actlib.apply_patch(target, folder / "patch")
        after = state_of(target)
        actlib.revert_patch(target, folder / "patch")
        assert same(state_of(target), before)
        return after

    def within(context, model, give):
        with context:
            return give(model)

    def logits(model):
        return {"nll": torch.tensor(evaluate(model, batches)["nll"].to_numpy())}

    return {
        "record": lambda: record_differences(donor, target, batches).values,
        "weights": lambda: actlib.weight_differences(donor, target).values,
        "attributions": lambda: actlib.record_attributions(donor, target, batches, points=0).values,
        "features": lambda: {"": record_activations(target, batches, mask)},
        "transferred": lambda: within(
            actlib.transferred(target, donor, mask, 0.4), target, state_of
        ),
        "patch": patch,
        "merge": lambda: state_of(
            actlib.merge(target, [(donor, mask, 0.4), (donor, mask, 0.3)], "largest").model
        ),
        "patched": lambda: within(actlib.patched(target, donor, mask), target, logits),
        "ablated": lambda: within(actlib.ablated(target, mask, "zero"), target, logits),
    }


@pytest.fixture
def expected(batches, tmp_path):
    """A mask, and what each use gives with it for the plain pair."""
    mask = record_differences(family(seed=1), family(), batches).top(20)
    (tmp_path / "plain").mkdir()
    uses = uses_of(family(seed=1), family(), mask, batches, tmp_path / "plain")
    return mask, {name: use() for name, use in uses.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(name, expected, batches, tmp_path):
    change, outcome = SITUATIONS[name]
    mask, values = expected
    for sides in ((0, 1), (0,), (1,)):
        pair = [family(seed=1), family()]
        for side in sides:
            pair[side] = change(pair[side])
        for use, run in uses_of(*pair, mask, batches, tmp_path).items():
            if use in ("features", "ablated") and (1 not in sides or outcome in READABLE):
                continue  # of the target alone, and by the outputs of its modules alone
            if outcome == "right":
                given = run()
                torch.testing.assert_close(given, values[use], rtol=1e-5, atol=1e-5)
                continue
            with pytest.raises(ValueError, match=outcome):
                run()
        assert bool(actlib.check_pair(*pair)) == (outcome != "right")
    assert not (tmp_path / "patch").exists() or outcome == "right"


def test_a_forward_that_a_copy_would_share_is_refused_until_it_goes(expected, batches, tmp_path):
    mask, values = expected
    target = family()
    uses = uses_of(family(seed=1), target, mask, batches, tmp_path)
    for layer in target.model.layers:
        layer.forward = torch.compile(layer.forward, backend="eager")
    for use in ("attributions", "merge"):
        with pytest.raises(ValueError, match=r"layers.0 was replaced by .*del module.forward"):
            uses[use]()
    for layer in target.model.layers:
        del layer.forward
    for use in ("attributions", "merge"):
        assert same(uses[use](), values[use])


def test_tensors_of_inference_mode_are_read_and_written_within_it_alone(
    expected, batches, tmp_path
):
    mask, values = expected
    with torch.inference_mode():
        pair = [family(seed=seed).double().float() for seed in (1, 0)]
        assert same(uses_of(*pair, mask, batches, tmp_path)["transferred"](), values["transferred"])
    uses = uses_of(*pair, mask, batches, tmp_path)
    assert same(uses["record"](), values["record"]) and same(uses["merge"](), values["merge"])
    before = state_of(pair[1])
    for use in ("transferred", "patch"):
        with pytest.raises(ValueError, match=r"inference mode .* under torch.inference_mode\(\)"):
            uses[use]()
    assert same(state_of(pair[1]), before)


def test_offloaded_models_are_read_by_module_and_never_by_weight(expected, batches, tmp_path):
    mask, values = expected
    pair = [accelerate.cpu_offload(family(seed=seed), torch.device("cpu")) for seed in (1, 0)]
    uses = uses_of(*pair, mask, batches, tmp_path)
    for use in ("record", "features", "patched", "ablated"):
        assert same(uses[use](), values[use])
    for use in ("weights", "attributions", "transferred", "patch", "merge"):
        with pytest.raises(ValueError, match=r"is offloaded .* as transfer_checkpoint"):
            uses[use]()


@pytest.mark.filterwarnings("ignore:Model:UserWarning")
@pytest.mark.parametrize(("name", "module"), [("llama", "up_proj"), ("qwen2", "embed_tokens")])
def test_the_remedy_for_an_adapter_works(name, module, batches, tmp_path):
    adapted, base = adapt(family(name), module), family(name)
    base.config.tie_word_embeddings = False
    base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone())
    adapted.save_pretrained(tmp_path)
    merged = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).merge_and_unload()
    assert actlib.check_pair(merged, base) == []
    expected = evaluate(adapted, batches)["nll"].to_numpy()
    assert evaluate(merged, batches)["nll"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_items_on_both_sides_of_longropes_limit_run_apart(items, collate):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "long_factor": [8.0, 8.0]}
    rope |= {"short_factor": [1.0, 1.0], "original_max_position_embeddings": 20}
    limit = {"original_max_position_embeddings": 20}
    config = transformers.Phi3Config(**MODERN, **limit, rope_parameters=rope)
    model = transformers.Phi3ForCausalLM(config).eval()
    items = [(ids.repeat(3), torch.cat([answer * False] * 2 + [answer])) for ids, answer in items]
    with pytest.raises(ValueError, match=r"up to 20 tokens and longer .* \(--batch-size 1\)"):
        evaluate(nn.DataParallel(model), collate(items))
    assert len(evaluate(model, collate(items, 1))) == len(items)


def fuse(mlp, x):
    """As a kernel that reads the weights, and passes over two modules."""
    inner = nn.functional.silu(x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)
    return mlp.down_proj(inner)


def test_modules_that_are_passed_over_are_named(batches):
    pair = family(seed=1), family()
    expected = record_differences(*pair, batches)
    for model in pair:
        mlp = model.model.layers[1].mlp
        mlp.forward = MethodType(fuse, mlp)
    passed = [f"model.layers.1.mlp.{name}" for name in ("gate_proj", "up_proj")]
    words = f"never ran on these inputs.*{passed[0]}; {passed[1]}$"
    with pytest.warns(UserWarning, match=words):
        scores = record_differences(*pair, batches)
    assert scores.metadata["silent"] == ",".join(passed)
    for mask in (scores.top(50, "module"), scores.bottom(5), random_like(scores.top(50), 0, False)):
        assert not any(mask.channels[name].any() for name in passed)
    assert scores.top(100).percent == 100
    for name, values in scores.values.items():
        assert not values.any() if name in passed else torch.allclose(values, expected.values[name])
    mask = random_mask(pair[0], share=1.1)
    with pytest.raises(ValueError, match=f"module {passed[0]} never ran on these inputs"):
        record_activations(pair[0], batches, mask)
    for context in (actlib.patched(*pair, mask), actlib.ablated(pair[0], mask, "zero")):
        with pytest.warns(UserWarning, match=words), context:
            evaluate(pair[0], batches)


def test_scores_that_are_all_zero_are_refused(batches):
    for record in (
        lambda: actlib.weight_differences(family(), family()),
        lambda: actlib.record_attributions(family(), family(), batches),
        lambda: record_differences(family(), family(), batches),
    ):
        with pytest.raises(ValueError, match="^donor and target .* the same .* in every channel, "):
            record()


BOTH_SIDES = MODERN | {"head_dim": 4, "use_bidirectional_attention": True}
NO_DECODERS = {
    "T5ForConditionalGeneration": transformers.T5Config(vocab_size=61, d_model=16, num_layers=1),
    "BertForMaskedLM": transformers.BertConfig(**MODERN),
    "LlamaForCausalLM": transformers.LlamaConfig(**MODERN, is_causal=False),
    "Gemma3ForCausalLM": transformers.Gemma3TextConfig(**BOTH_SIDES),
    "LlamaModel": transformers.LlamaConfig(**MODERN),
}


@pytest.mark.parametrize("name", NO_DECODERS)
def test_what_is_no_decoder_is_refused(name, batches):
    pair = [getattr(transformers, name)(NO_DECODERS[name]) for _ in range(2)]
    words = f"expected a .* language model.* {name}( has an encoder|; load it by AutoModelFor)"
    for run in (
        lambda: record_differences(*pair, batches),
        lambda: actlib.record_attributions(*pair, batches),
        lambda: evaluate(pair[0], batches),
    ):
        with pytest.raises(ValueError, match=words):
            run()


def test_a_family_that_counts_from_another_position_is_read_as_it_runs(items, collate):
    """RoBERTa's first position is that after its padding token's number."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**MODERN, is_decoder=True)
    model = transformers.RobertaForCausalLM(config).eval()
    expected = [slow_nll(model, *item) for item in items]
    found = evaluate(model, collate(items, 3, "left"))["nll"].tolist()
    assert found == pytest.approx(expected, abs=1e-5)


HOLE = torch.tensor([6])
BATCHES = [
    (lambda batch: {key: value[:0] for key, value in batch.items()}, "have .*0, 9"),
    (lambda batch: {"input_ids": batch["input_ids"]}, "a batch lacks attention_mask, answer_mask"),
    (
        lambda batch: batch | {"input_ids": batch["input_ids"] - 100},
        "holds the token -98, and the model knows 61",
    ),
    (
        lambda batch: batch | {"answer_mask": batch["input_ids"].where(batch["answer_mask"], -100)},
        "answer_mask must hold 0 and 1 alone, and holds -100",
    ),
    (
        lambda batch: batch | {"attention_mask": batch["attention_mask"].cumsum(1)},
        "attention_mask must hold 0 and 1 alone, and holds 2",
    ),
    (
        lambda batch: batch | {"attention_mask": batch["attention_mask"].index_fill(1, HOLE, 0)},
        "attention_mask must mark the tokens of an item in one piece",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), BATCHES)
def test_batches(change, sentence, batches):
    for run in (record_differences, actlib.record_attributions, lambda _d, t, b: evaluate(t, b)):
        with pytest.raises(ValueError, match=sentence):
            run(family(seed=1), family(), [change(batches[0])])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_marks_of_any_type_mean_the_same(dtype, batches):
    expected = record_differences(family(seed=1), family(), batches)
    cast = [{k: v.to(dtype) if "mask" in k else v.int() for k, v in b.items()} for b in batches]
    assert same(record_differences(family(seed=1), family(), cast).values, expected.values)
    assert evaluate(family(), cast).equals(evaluate(family(), batches))
