"""What people bring: each kind of model gives the right value, or is refused in a true sentence.

A row of `SITUATIONS` is what is done to a model, and what comes out where both models of a pair
are such, or one of them: "right" (scores, features, moved weights and patched logits are those of
the plain pair), or the sentence that refuses all of these.
"""

import copy
import warnings
from functools import partial
from types import MethodType

import accelerate
import peft
import pytest
import torch
import transformers
from tiny_models import same_bits as same
from tiny_models import tiny_model
from torch import nn

import actlib
from actlib import evaluate, record_activations, record_differences
from actlib.channels import channel_modules, unwrapped
from actlib.masks import ChannelMask


def family(name="llama", seed=0):
    return copy.deepcopy(tiny_model(name, seed))


def ids():
    return torch.arange(3, 12)[None]


def compile_after_a_call(model):
    model(ids())
    model.compile(backend="eager")
    model(ids())
    return model


def compile_layers(model, replace):
    for place, layer in enumerate(model.model.layers):
        if replace:
            model.model.layers[place] = torch.compile(layer, backend="eager")
        else:
            layer.compile(backend="eager")
    return model


def with_layers(change):
    """Put what `change` makes of it in the place of each up projection."""

    def apply(model):
        for layer in model.model.layers:
            layer.mlp.up_proj = change(layer.mlp.up_proj)
        return model

    return apply


class Codes(nn.Module):
    """As HQQ: codes in a parameter of bytes, and their scales beside them."""

    def __init__(self, linear):
        super().__init__()
        self.W_q = nn.Parameter((linear.weight * 9).round().to(torch.uint8), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(1 / 9))

    def forward(self, x):
        return x @ (self.W_q.float() * self.scale).T


class Packed(nn.Module):
    """As GPTQ and AWQ: packed codes in a buffer, and no weight."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("qweight", (linear.weight * 9).round().to(torch.int32))
        self.register_buffer("scales", torch.full((1, 24), 1 / 9))

    def forward(self, x):
        return x @ self.qweight.float().T * self.scales


class Bytes(nn.Linear):
    """As bitsandbytes, torchao and quanto: a parameter of a class of its own."""

    class Params4bit(nn.Parameter):
        """Codes that look like a parameter."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = self.Params4bit(linear.weight.data)


class Scaled(nn.Linear):
    """A linear layer with one parameter more, of some shape, which scales what it gives."""

    def __init__(self, linear, *shape):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight, self.weight_scale = linear.weight, nn.Parameter(torch.full(shape, 0.5))

    def forward(self, x):
        return super().forward(x) * self.weight_scale.flatten()


def to_8_bits(linear):
    linear.weight = nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return linear


def adapter(module="up_proj", **options):
    config = peft.LoraConfig(target_modules=[module], init_lora_weights=False, **options)
    return lambda model: peft.get_peft_model(model, config).eval()


def inject_adapter(model):
    model.add_adapter(peft.LoraConfig(target_modules=["up_proj"]))
    return model


def prompt(kind):
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return lambda model: peft.get_peft_model(model, config).eval()


def merge_adapter(model):
    adapted = adapter()(model)
    for name, parameter in adapted.named_parameters():
        parameter.data *= "lora" not in name  # so that the pair stays what it was
    return adapted.merge_and_unload()


def shard(model):
    """As FSDP2 does on each rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shard_flat(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


MERGE = r"is wrapped by peft .*PeftModel.from_pretrained\(model, adapter\).merge_and_unload"
QUANTIZED = "holds {}, expected plain float numbers: load the model without quantization"
SHARDED = "sharded over processes .* load the whole model in each process"
BESIDE = "computes with weight_scale beside its weight"
SITUATIONS = {
    "compiled": (lambda model: torch.compile(model, backend="eager"), "right"),
    "compiled in place": (lambda model: model.compile(backend="eager") or model, "right"),
    "compiled after a call": (compile_after_a_call, "right"),
    "layers compiled in place": (lambda model: compile_layers(model, replace=False), "right"),
    "compiled layers": (
        lambda model: compile_layers(model, replace=True),
        r"model.layers.0 is compiled apart .* by its method compile\(\)",
    ),
    "data parallel": (nn.DataParallel, "right"),
    "distributed data parallel": (nn.parallel.DistributedDataParallel, "right"),
    "compiled and distributed": (
        lambda model: torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
        "right",
    ),
    "training": (lambda model: model.train(), "right"),
    "adapter merged": (merge_adapter, "right"),
    "adapter": (adapter(), MERGE),
    "DoRA": (adapter(use_dora=True), MERGE),
    "adapter injected": (inject_adapter, MERGE),
    "prompt tuning": (
        prompt(peft.PromptTuningConfig),
        r"by peft.* of a learned prompt.* take get_base_model\(\)",
    ),
    "prefix tuning": (
        prompt(peft.PrefixTuningConfig),
        r"by peft.* of a learned prompt.* take get_base_model\(\)",
    ),
    "HQQ": (with_layers(Codes), QUANTIZED.format("W_q as uint8")),
    "GPTQ": (with_layers(Packed), QUANTIZED.format("qweight as int32")),
    "4 bit": (with_layers(Bytes), QUANTIZED.format("weight as Params4bit")),
    "FP8": (with_layers(to_8_bits), QUANTIZED.format("weight as float8_e4m3fn")),
    "a scale": (with_layers(lambda linear: Scaled(linear)), BESIDE),
    "a scale for each row": (with_layers(lambda linear: Scaled(linear, 24, 1)), BESIDE),
    "FSDP2": (shard, SHARDED),
    "FSDP": (shard_flat, SHARDED),
}
READABLE = [SITUATIONS[name][1] for name in ("HQQ", "GPTQ", "4 bit", "FP8")] + [BESIDE]
"""Outcomes of models whose weights are what is wrong, and not the outputs of their modules."""


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """A process group of this process alone, as a launcher makes it."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def state_of(model):
    return {name: tensor.clone() for name, tensor in unwrapped(model).state_dict().items()}


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
                assert given.keys() == values[use].keys()
                for key, value in values[use].items():
                    torch.testing.assert_close(given[key], value, rtol=1e-5, atol=1e-5)
                continue
            with pytest.raises(ValueError, match=outcome):
                run()
        assert bool(actlib.check_pair(*pair)) == (outcome != "right")
    assert not (tmp_path / "patch").exists() or outcome == "right"


def wrap(forward):
    return lambda self, *args, forward=forward, **options: forward(*args, **options)


FORWARDS = {  # what takes the place of a layer's forward, and whether a copy gets its own
    "compiled": (lambda layer: torch.compile(layer.forward, backend="eager"), False),
    "method of a closure": (lambda layer: MethodType(wrap(layer.forward), layer), False),
    "partial of a closure": (lambda layer: partial(wrap(layer.forward), layer), False),
    "method": (lambda layer: MethodType(type(layer).forward, layer), True),
    "method, compiled": (
        lambda layer: MethodType(torch.compile(type(layer).forward, backend="eager"), layer),
        True,
    ),
    "partial": (lambda layer: partial(type(layer).forward, layer), True),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_that_a_copy_would_share_are_refused_and_the_remedy_works(name, expected, batches):
    change, is_copied = FORWARDS[name]
    mask, values = expected
    donor, target = family(seed=1), family()
    runs = {
        "attributions": lambda: actlib.record_attributions(donor, target, batches, points=0).values,
        "merge": lambda: state_of(
            actlib.merge(target, [(donor, mask, 0.4), (donor, mask, 0.3)], "largest").model
        ),
    }
    layers = target.model.layers
    for layer in layers:
        layer.forward = change(layer)
    if not is_copied:
        for run in runs.values():
            with pytest.raises(ValueError, match=r"layers.0 was replaced by .*del module.forward"):
                run()
        for layer in layers:
            del layer.forward
            layer.compile(backend="eager")
    for use, run in runs.items():
        for key, value in run().items():
            torch.testing.assert_close(value, values[use][key], rtol=1e-5, atol=1e-5)


@pytest.fixture
def new_accelerator():
    """Accelerate keeps one state a process, which forbids another precision."""
    reset = partial(accelerate.state.AcceleratorState._reset_state, reset_partial_state=True)
    reset()
    yield partial(accelerate.Accelerator, cpu=True)
    reset()


def test_rounding_of_a_models_own_autocast_is_no_sight_of_later_tokens(batches, new_accelerator):
    prepare = new_accelerator(mixed_precision="bf16").prepare_model
    for seed in range(8):
        plain, model = family(seed=seed), prepare(family(seed=seed))
        expected = evaluate(plain, batches)["nll"].to_numpy()
        assert evaluate(model, batches)["nll"].to_numpy() == pytest.approx(expected, rel=0.1)
    torch.manual_seed(0)
    model = prepare(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 2
    with pytest.raises(ValueError, match="expected a causal language model"):
        evaluate(model, batches)


def test_items_on_both_sides_of_longropes_limit_run_apart(items, collate):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "long_factor": [8.0, 8.0]}
    rope |= {"short_factor": [1.0, 1.0], "original_max_position_embeddings": 20}
    limit = {"original_max_position_embeddings": 20, "eos_token_id": 1}
    config = transformers.Phi3Config(**SMALL, **limit, rope_parameters=rope)
    model = transformers.Phi3ForCausalLM(config).eval()
    items = [(ids.repeat(3), torch.cat([answer * False] * 2 + [answer])) for ids, answer in items]
    with pytest.raises(ValueError, match=r"up to 20 tokens and longer .* \(--batch-size 1\)"):
        evaluate(nn.DataParallel(model), collate(items))
    assert len(evaluate(model, collate(items, 1))) == len(items)


def test_tensors_of_inference_mode_are_read_and_written_within_it_alone(
    expected, batches, tmp_path
):
    mask, values = expected
    with torch.inference_mode():
        pair = [copy.deepcopy(family(seed=seed)).double().float() for seed in (1, 0)]
        assert same(uses_of(*pair, mask, batches, tmp_path)["transferred"](), values["transferred"])
    uses = uses_of(*pair, mask, batches, tmp_path)
    assert same(uses["record"](), values["record"]) and same(uses["merge"](), values["merge"])
    before = state_of(pair[1])
    for use in (uses["transferred"], uses["patch"], lambda: actlib.transfer_(*pair[::-1], mask)):
        with pytest.raises(
            ValueError, match=r"in inference mode .* under torch.inference_mode\(\)"
        ):
            use()
    assert same(state_of(pair[1]), before)


@pytest.mark.parametrize("sides", [(0, 1), (0,), (1,)])
def test_offloaded_models_are_read_by_module_and_never_by_weight(
    expected, batches, tmp_path, sides
):
    mask, values = expected
    pair = [family(seed=1), family()]
    for side in sides:
        pair[side] = accelerate.cpu_offload(pair[side], torch.device("cpu"))
    uses = uses_of(*pair, mask, batches, tmp_path)
    for use in ("record", "features", "patched", "ablated"):
        given = uses[use]()
        assert all(torch.allclose(given[key], value) for key, value in values[use].items())
    for use in ("weights", "attributions", "transferred", "patch", "merge"):
        with pytest.raises(ValueError, match=r"is offloaded .* as transfer_checkpoint"):
            uses[use]()


def untied():
    """Qwen 2 with a head of its own that holds what the embedding holds."""
    model = family("qwen2")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


@pytest.mark.filterwarnings("ignore:Model:UserWarning")
@pytest.mark.parametrize(
    ("change", "plain", "base"),
    [
        (adapter(), family, family),
        (inject_adapter, family, family),
        (adapter("embed_tokens"), lambda: family("qwen2"), untied),
        (adapter("lm_head"), lambda: family("qwen2"), untied),
    ],
    ids=["wrapped", "injected", "on a tied embedding", "on a tied head"],
)
def test_the_remedy_for_an_adapter_works(change, plain, base, batches, tmp_path):
    adapted = change(plain())
    adapted.save_pretrained(tmp_path)
    merged = peft.PeftModel.from_pretrained(base(), tmp_path).merge_and_unload()
    assert actlib.check_pair(merged, base()) == []
    expected = evaluate(adapted, batches)["nll"].to_numpy()
    assert evaluate(merged, batches)["nll"].to_numpy() == pytest.approx(expected, abs=1e-5)


class Fused(nn.Module):
    """A feed-forward layer whose kernel reads the weights and passes over two modules."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x):
        inner = nn.functional.silu(x @ self.gate_proj.weight.T) * (x @ self.up_proj.weight.T)
        return self.down_proj(inner)


def test_modules_that_are_passed_over_are_named(batches):
    pair = family(seed=1), family()
    expected = record_differences(*pair, batches)
    for model in pair:
        model.model.layers[1].mlp = Fused(model.model.layers[1].mlp)
    passed = [f"model.layers.1.mlp.{name}" for name in ("gate_proj", "up_proj")]
    words = f"never ran on these inputs.*{passed[0]}; {passed[1]}$"
    with pytest.warns(UserWarning, match=words):
        scores = record_differences(*pair, batches)
    assert scores.metadata["silent"] == ",".join(passed)
    for name, values in scores.values.items():
        assert not values.any() if name in passed else torch.allclose(values, expected.values[name])
    mask = ChannelMask(
        {n: torch.ones(m.channels).bool() for n, m in channel_modules(pair[0]).items()}
    )
    with pytest.raises(ValueError, match=f"module {passed[0]} never ran on these inputs"):
        record_activations(pair[0], batches, mask)
    for context in (actlib.patched(*pair, mask), actlib.ablated(pair[0], mask, "zero")):
        with pytest.warns(UserWarning, match=words), context:
            evaluate(pair[0], batches)
    with warnings.catch_warnings(action="error"), actlib.ablated(pair[0], mask, "zero"):
        pass  # nothing ran at all


def test_scores_that_are_all_zero_are_refused(batches):
    for record in (
        lambda: actlib.weight_differences(family(), family()),
        lambda: actlib.record_attributions(family(), family(), batches),
        lambda: record_differences(family(), family(), batches),
    ):
        with pytest.raises(ValueError, match="^donor and target .* the same .* in every channel, "):
            record()


SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 2}
T5 = {"vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
NO_DECODERS = {
    "T5": (
        lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
        "expected a decoder-only language model, and T5ForConditionalGeneration has an encoder too",
    ),
    "an encoder with a head": (
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
        "expected a causal language model with its head, got BertForMaskedLM",
    ),
    "a decoder that is told to read ahead": (
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, is_causal=False)),
        "expected a causal language model with its head, got LlamaForCausalLM",
    ),
    "attention to both sides": (
        lambda: transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(**SMALL, head_dim=4, use_bidirectional_attention=True)
        ),
        "expected a causal language model with its head, got Gemma3ForCausalLM",
    ),
    "an encoder": (
        lambda: transformers.RobertaModel(transformers.RobertaConfig(**SMALL)),
        "expected a causal language model with its head, got RobertaModel",
    ),
}


@pytest.mark.parametrize("name", NO_DECODERS)
def test_what_is_no_decoder_is_refused(name, batches):
    make, sentence = NO_DECODERS[name]
    torch.manual_seed(0)
    pair = [make().eval(), make().eval()]
    for model in pair:  # fresh weights are so small that tokens hardly see each other
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) / 2
    mask = actlib.weight_differences(*pair).top(10)  # which is as right as in a decoder
    for run in (
        lambda: record_differences(*pair, batches),
        lambda: record_activations(pair[0], batches, mask),
        lambda: actlib.record_attributions(*pair, batches),
        lambda: evaluate(pair[0], batches),
    ):
        with pytest.raises(ValueError, match=sentence):
            run()


def test_a_decoder_of_a_family_that_counts_from_another_position_is_read_as_it_runs(items, collate):
    """RoBERTa's first position is that after its padding token's number."""
    config = transformers.RobertaConfig(**SMALL, is_decoder=True)
    torch.manual_seed(0)
    model = transformers.RobertaForCausalLM(config).eval()
    nll = []
    for tokens, answer in items:
        logits = model(tokens[None]).logits[0].log_softmax(-1)
        places = answer.nonzero().flatten()
        nll.append(-float(logits[places - 1, tokens[places]].mean()))
    for batches in (collate(items, 1), collate(items, 3, "right"), collate(items, 3, "left")):
        assert evaluate(model, batches)["nll"].tolist() == pytest.approx(nll, abs=1e-5)


def test_a_model_without_a_head_is_refused(batches):
    headless = transformers.LlamaModel(family().config).eval()
    with pytest.raises(ValueError, match="got LlamaModel; load it by AutoModelForCausalLM"):
        evaluate(headless, batches)


BATCHES = {
    "no item": (lambda batch: {key: value[:0] for key, value in batch.items()}, "have .*0, 9"),
    "lists": (lambda batch: {k: v.tolist() for k, v in batch.items()}, "must be tensors of one"),
    "a token below 0": (
        lambda batch: batch | {"input_ids": batch["input_ids"] - 100},
        "holds the token -98, and the model knows 61",
    ),
    "labels": (
        lambda batch: batch | {"answer_mask": batch["input_ids"].where(batch["answer_mask"], -100)},
        "answer_mask must hold 0 and 1 alone, and holds -100",
    ),
    "packed items": (
        lambda batch: batch | {"attention_mask": batch["attention_mask"].cumsum(1)},
        "attention_mask must hold 0 and 1 alone, and holds 2",
    ),
    "an entry is missing": (lambda batch: {"input_ids": batch["input_ids"]}, "a batch lacks att"),
    "a name": (lambda batch: "input_ids", "a batch lacks input_ids, attention_mask, answer_mask"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches(name, batches):
    change, sentence = BATCHES[name]
    for run in (record_differences, actlib.record_attributions, lambda _d, t, b: evaluate(t, b)):
        with pytest.raises(ValueError, match=sentence):
            run(family(seed=1), family(), [change(batches[0])])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_marks_of_any_type_mean_the_same(dtype, batches):
    expected = record_differences(family(seed=1), family(), batches)
    cast = [{k: v.to(dtype) if "mask" in k else v.int() for k, v in b.items()} for b in batches]
    assert same(record_differences(family(seed=1), family(), cast).values, expected.values)


def test_what_a_recording_found_is_not_renamed_by_its_metadata(batches):
    metadata = {"method": "attribution", "tokens": "3", "ability": "fr", "donor": "mine"}
    scores = record_differences(family(seed=1), family(), batches, metadata=metadata)
    assert (scores.kind, scores.metadata["tokens"]) == ("differences", "15")
    assert (scores.metadata["ability"], scores.metadata["donor"]) == ("fr", "mine")
