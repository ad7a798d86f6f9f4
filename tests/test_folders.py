"""Folders as people bring them: the right values, or one true sentence whose remedy works."""

import copy
import itertools
import json
import shutil
from contextlib import nullcontext

import peft
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import random_mask, tiny_model

from actlib import apply_patch, make_patch, merge_checkpoint, pair_report, transfer_
from actlib.channels import channel_modules
from actlib.checkpoint import transfer_checkpoint
from actlib.loading import load_pretrained
from actlib.stored import INDEX, SINGLE

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UP = "model.layers.0.mlp.up_proj"
BOTH = ("donor", "target")


@pytest.fixture
def mask(folders):
    """A mask of the target in tmp_path, whose embedding and head are tied, as the donor's are."""
    return random_mask(folders("qwen2")[1])


def load(folder):
    return load_pretrained(transformers.AutoModelForCausalLM, folder, dtype="auto")


def change_weights(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    tensors = {name: each.contiguous() for name, each in tensors.items()}
    save_file(tensors, folder / SINGLE, {"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def uses(folder, mask):
    """Every way in which two folders are compared or moved; `check` gives its first mismatch."""
    out = folder / "out"
    pair = folder / "target", folder / "donor"
    yield lambda: transfer_checkpoint(*pair, mask, out)
    yield lambda: merge_checkpoint(pair[0], [(pair[1], mask, 0.4)], out)
    yield lambda: make_patch(*pair, mask, out)

    def check():
        if mismatches := pair_report(pair[1], pair[0]).attrs["mismatches"]:
            raise ValueError("; ".join(mismatches))

    yield check


def require_memory_bits(folder, mask):
    """What is written to disk is what transformers loads and `transfer_` moves in memory."""
    target, donor = load(folder / "target"), load(folder / "donor")
    transfer_(target, donor, mask)
    transfer_checkpoint(folder / "target", folder / "donor", mask, folder / "moved")
    moved = load(folder / "moved").state_dict()
    assert all(torch.equal(moved[name], each) for name, each in target.state_dict().items())


# Tied embeddings


def store_head(factor=1.0):
    return lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * factor})


def only_head(tensors):
    tensors[HEAD] = tensors.pop(EMBEDDING)


def cut_in_two(folder):
    """The head in one shard, all else in another."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    files = {name: f"model-0000{1 + (name == HEAD)}-of-00002.safetensors" for name in tensors}
    for file in set(files.values()):
        part = {name: tensors[name] for name in tensors if files[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize(
    ("donor", "target", "shards"),
    [
        (store_head(2), store_head(2), True),
        (store_head(), None, False),
        (None, only_head, False),
    ],
)
def test_a_head_in_the_files_counts_as_transformers_loads_it(tmp_path, mask, donor, target, shards):
    for role, change in (("donor", donor), ("target", target)):
        if change:
            change_weights(tmp_path / role, change)
        if shards:
            cut_in_two(tmp_path / role)
    require_memory_bits(tmp_path, mask)
    assert not list(uses(tmp_path, mask))[3]()


@pytest.mark.parametrize("wide", [EMBEDDING, HEAD])
def test_copies_of_a_tied_tensor_in_two_dtypes_stay_equal(tmp_path, mask, wide):
    def store(tensors):
        tensors.update({name: each.bfloat16() for name, each in tensors.items()})
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[wide] = tensors[wide].float()

    for role in BOTH:
        change_weights(tmp_path / role, store)
        change_config(tmp_path / role, dtype="bfloat16")
    require_memory_bits(tmp_path, mask)
    assert not pair_report(tmp_path / "donor", tmp_path / "moved").attrs["mismatches"]


@pytest.mark.parametrize(("alone", "tied"), [BOTH, BOTH[::-1]])
def test_a_head_on_one_side_is_refused_until_the_other_has_one(tmp_path, mask, alone, tied):
    change_weights(tmp_path / alone, store_head(2))
    for use in uses(tmp_path, mask):
        with pytest.raises(ValueError, match="tied modules .*give the tied model a copy"):
            use()
    change_weights(tmp_path / tied, store_head())
    change_config(tmp_path / tied, tie_word_embeddings=False)
    require_memory_bits(tmp_path, mask)


def test_an_untied_configuration_of_a_tied_file_is_refused_until_it_says_tied(tmp_path, mask):
    for role in BOTH:
        change_config(tmp_path / role, tie_word_embeddings=False)
    loading = lambda: load(tmp_path / "target")  # noqa: E731
    for use in (*uses(tmp_path, mask), loading):  # transformers would take a random head
        with pytest.raises(ValueError, match=f"hold no tensor {HEAD}.*set tie_word_embeddings to"):
            use()
    for role in BOTH:
        change_config(tmp_path / role, tie_word_embeddings=True)
    require_memory_bits(tmp_path, mask)


# Quantized folders


def coded(**replaced):
    """The weights of one layer as codes under the names that a library gives them."""

    def change(tensors):
        weight = tensors.pop(f"{UP}.weight")
        for name, (shape, dtype) in replaced.items():
            tensors[f"{UP}.{name}"] = torch.ones(shape or weight.shape, dtype=dtype)

    return change


I32, U8 = torch.int32, torch.uint8
QUANTIZED = {
    "gptq": coded(qweight=((2, 24), I32), scales=((1, 24), torch.half), g_idx=((16,), I32)),
    "awq": coded(qweight=((16, 3), I32), qzeros=((1, 3), I32), scales=((1, 24), torch.half)),
    "hqq": coded(W_q=((6, 32), U8), scale=((1, 12), torch.half), zero=((1, 12), torch.half)),
    "bitsandbytes": coded(weight=(None, torch.int8), SCB=((24,), torch.float)),
    "bitsandbytes_4bit": coded(weight=((192, 1), U8), absmax=((6,), torch.float)),
    "fp8": coded(weight=(None, torch.float8_e4m3fn), weight_scale_inv=((1, 1), torch.float)),
    "compressed-tensors": coded(weight_packed=((24, 2), I32), weight_scale=((24, 1), torch.half)),
}


@pytest.mark.parametrize("method", QUANTIZED)
@pytest.mark.parametrize("is_stated", [True, False])
def test_a_quantized_folder_is_refused_by_all_that_moves(tmp_path, mask, method, is_stated):
    role = "donor" if is_stated else "target"
    make_patch(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "patch")
    change_weights(tmp_path / role, QUANTIZED[method])
    if is_stated:
        change_config(tmp_path / role, quantization_config={"quant_method": method})
    patching = lambda: apply_patch(tmp_path / role, tmp_path / "patch", tmp_path / "out")  # noqa: E731
    for use in (*uses(tmp_path, mask), patching):
        with pytest.raises(ValueError, match=r"quantized.*dequantize\(\)"):
            use()


def test_a_quantized_folder_is_taken_once_it_is_dequantized(tmp_path, mask):
    change_weights(tmp_path / "target", QUANTIZED["fp8"])
    change_config(tmp_path / "target", quantization_config={"quant_method": "fp8"})
    plain = {"quantization_config": transformers.FineGrainedFP8Config(dequantize=True)}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "target", **plain)
    model.save_pretrained(tmp_path / "target")
    transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "out")


# What else is no folder of a model

# Each spoils a folder, and returns where the remedy puts a model, if not in its place.


def adapt(folder):
    config = peft.LoraConfig(target_modules=["up_proj"])
    model = peft.get_peft_model(copy.deepcopy(tiny_model("llama", 0)), config)
    shutil.rmtree(folder)
    model.save_pretrained(folder)
    model.merge_and_unload().save_pretrained(folder.parent / "merged")
    return folder.parent / "merged"


def nest(folder):
    place = folder.rename(folder.parent / "away")
    folder.mkdir()
    return place.rename(folder / "checkpoint-500")


def name_weights(name):
    def spoil(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / SINGLE).rename(folder / name)

    return spoil


def cut_and_lose(name):
    def spoil(folder):
        cut_in_two(folder)
        (folder / name).unlink()

    return spoil


def point(folder):
    """As `git clone` without Git LFS."""
    (folder / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def wrap(folder):
    """As `state_dict` of a model within another module names its tensors."""
    tensors = {f"module.{name}": each for name, each in load_file(folder / SINGLE).items()}
    save_file(tensors, folder / SINGLE, {"format": "pt"})


def classify(folder):
    model = transformers.LlamaForSequenceClassification(tiny_model("llama", 0).config)
    model.save_pretrained(folder)


def encode(folder):
    config = transformers.T5Config(vocab_size=61, d_model=16, num_layers=1)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)


NO_MODEL = [
    (adapt, "holds an adapter.*merge_and_unload of peft, and save"),
    (name_weights("model.gguf"), "holds .*model.gguf.*save_pretrained"),
    (name_weights("pytorch_model.bin"), "pytorch_model.bin.*pickled ones never loaded"),
    (name_weights("global_step5/states.pt"), "global_step5.*cut up by DeepSpeed or FSDP"),
    (nest, "holds checkpoint-500; name a folder that save_pretrained wrote"),
    (cut_and_lose(INDEX), "holds .*model-00001.* whole with the index of its shards"),
    (cut_and_lose("model-00002-of-00002.safetensors"), "lacks model-00002-of.* whole with the"),
    (point, "is not a safetensors file.*or fetch it by `git lfs pull`"),
    (wrap, "hold no tensor .* save the model from inside its wrapper"),
    (classify, "hold no tensor lm_head.*of a classifier"),
    (encode, "target' is an encoder-decoder model .* not supp"),
]


@pytest.mark.parametrize(("spoil", "words"), NO_MODEL)
def test_what_is_no_model_is_named_with_a_remedy_that_works(folders, tmp_path, spoil, words):
    mask = random_mask(folders("llama")[1])
    whole = shutil.copytree(tmp_path / "target", tmp_path / "whole")
    remedied = spoil(tmp_path / "target") or whole
    for use in (*uses(tmp_path, mask), lambda: load(tmp_path / "target")):
        with pytest.raises(ValueError, match=words):
            use()
    assert not (tmp_path / "out").exists()
    transfer_checkpoint(remedied, tmp_path / "donor", mask, tmp_path / "out")


def test_a_model_that_takes_images_is_read_and_moved_whole(tmp_path):
    text = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 0]}}
    vision = {"depth": 1, "hidden_size": 16, "out_hidden_size": 16, "num_heads": 2}
    vision |= {"intermediate_size": 16, "fullatt_block_indexes": [0]}
    ends = {"image_token_id": 3, "video_token_id": 4}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ends)
    for seed, role in enumerate(BOTH):
        torch.manual_seed(seed)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        model.save_pretrained(tmp_path / role)
    mask = random_mask(load(tmp_path / "target"))
    assert mask.channels.keys() == channel_modules(model).keys()
    require_memory_bits(tmp_path, mask)
    assert not list(uses(tmp_path, mask))[3]()


# Tokenizers and vocabularies of other sizes


def write_side(folder, seed, rows, tokens, dtype=torch.float32):
    """A model with so many rows of its vocabulary, and a tokenizer of so many tokens."""
    model = copy.deepcopy(tiny_model("llama", seed)).to(dtype)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    words = {f"t{number}": number for number in range(tokens)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


@pytest.mark.parametrize(
    ("donor", "target", "words"),
    [
        ((62, 62), (61, 61), "62 against 61 tokens, of which .* such as t61"),
        ((61, 61), (62, 62), "61 against 62 tokens, of which .* such as t61"),
        ((64, 61), (61, 61), None),  # padded to 64, rows of no token
        ((64, 62), (64, 61), "62 against 61 tokens, of which those .* such as t61"),
        ((64, 61), (64, 62), "61 against 62 tokens, of which those .* such as t61"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # which rounds the target's
def test_the_rows_of_tokens_that_both_have_move_and_a_warning_says_what_differs(
    tmp_path, donor, target, words, dtype
):
    write_side(tmp_path / "donor", 1, *donor, dtype)
    write_side(tmp_path / "target", 0, *target)
    own, before = (load(tmp_path / role).state_dict() for role in BOTH)
    mask = random_mask(load(tmp_path / "target"), share=1.1)
    for number, use in enumerate(list(uses(tmp_path, mask))[:3]):
        with pytest.warns(UserWarning, match=words) if words else nullcontext():
            use()
        (tmp_path / "out").rename(tmp_path / f"out{number}")
    apply_patch(tmp_path / "target", tmp_path / "out2", tmp_path / "out3")
    for number, name in itertools.product((0, 1, 3), (EMBEDDING, HEAD)):  # by all that moves
        moved, ours, theirs = (
            each[name] for each in (load(tmp_path / f"out{number}").state_dict(), before, own)
        )
        assert torch.equal(moved[:61], ours[:61] + 0.4 * (theirs[:61] - ours[:61]))
        assert torch.equal(moved[61:62], ours[61:62])
    assert pair_report(tmp_path / "donor", tmp_path / "target").attrs["fits"]


def test_other_sizes_without_tokenizers_are_refused_until_both_are_there(folders, tmp_path):
    mask = random_mask(folders("llama")[1])
    write_side(tmp_path / "donor", 1, 62, 62)
    for use in uses(tmp_path, mask):
        with pytest.raises(ValueError, match="62 against 61 rows; .* save the tokenizers beside"):
            use()
    write_side(tmp_path / "target", 0, 61, 61)
    with pytest.warns(UserWarning, match="such as t61"):
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "out")


# What lies around in a folder

OF_THE_MODEL = """generation_config.json chat_template.jinja additional_chat_templates/tool.jinja
tokenizer.model.v3 tekken.json qwen.tiktoken vocab.bpe LICENSE notes.txt modeling_own.py""".split()
OF_OTHERS = """checkpoint-5/model.safetensors checkpoint-5/optimizer.pt trainer_state.json
training_args.bin onnx/model.onnx original/consolidated.00.pth pytorch_model.bin.index.json
model.fp16.safetensors model.gguf optimizer.safetensors id_rsa adapter_model.safetensors""".split()
HIDDEN = [".git/config", ".cache/huggingface/x", ".env"]


def test_only_what_belongs_to_the_model_is_copied_and_the_rest_is_named(tmp_path, mask):
    for name in (*OF_THE_MODEL, *OF_OTHERS, *HIDDEN):
        path = tmp_path / "target" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "target" / "generation_config.json").write_text("{}")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="left out of the copy of .*target.*: ") as told:
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, out)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {*OF_THE_MODEL, "config.json", SINGLE, "actlib.json", "README.md"}
    (warning,) = (str(each.message) for each in told)
    assert "checkpoint-5/; " in warning and ".git" not in warning


def test_a_folder_of_links_to_a_store_is_refused_until_it_is_copied(tmp_path, mask):
    (tmp_path / "target").rename(tmp_path / "store")
    (tmp_path / "target").mkdir()
    for path in (tmp_path / "store").iterdir():
        (tmp_path / "target" / path.name).symlink_to(path)
    with pytest.raises(ValueError, match="is a link to a file outside its folder.*put the"):
        transfer_checkpoint(tmp_path / "target", tmp_path / "donor", mask, tmp_path / "out")
    own = shutil.copytree(tmp_path / "target", tmp_path / "own")  # the files themselves
    transfer_checkpoint(own, tmp_path / "donor", mask, tmp_path / "out")


# Numbers that are not finite


def test_of_several_donors_the_one_with_nan_in_what_it_gives_is_named(tmp_path, mask):
    given = mask.channels["model.norm"].int()
    for role, place in (("donor", given.argmin()), ("two", given.argmax())):
        model = copy.deepcopy(tiny_model("qwen2", 1))
        with torch.no_grad():
            model.model.norm.weight[place] = float("nan")
        model.save_pretrained(tmp_path / role)
    pairs = [(tmp_path / role, mask, 0.4) for role in ("donor", "two")]
    with pytest.raises(ValueError, match="model.norm.weight of donor 2 .*two'?. holds NaN"):
        merge_checkpoint(tmp_path / "target", pairs, tmp_path / "out")
