"""Reads the activations of the answer tokens, module by module, as one forward pass goes along.

    read_answers(model, modules, batch, tokens, callback)   # callback(name, found)

What is found is `Answers` for a module, and `Routed` for a packed projection of experts.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from jaxtyping import Float
from torch import Tensor, nn

from actlib.channels import ChannelModule, Layout
from actlib.experts import Routed, routed_outputs
from actlib.hooks import Answers, AnswerTokens, call_hooks, output_hooks, run_model

Activations = Float[Tensor, "tokens channels"] | Routed


def read_answers(
    model: nn.Module,
    modules: Mapping[str, ChannelModule],
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    callback: Callable[[str, Answers | Routed], None],
) -> None:
    """Run one batch and hand on what each of these modules gives at the answer tokens.

    Nothing is read from the weights, so they may be offloaded, and outputs stay on the device on
    which their module runs. A module that runs twice is handed on twice.

    Args:
        model: the model to run.
        modules: the modules to read, by name, of this model or of another like it.
        batch: input_ids and attention_mask.
        tokens: where the answer tokens lie.
        callback: gets a module's name and what it gives.

    Raises:
        ValueError: a module's output, or the input of experts, is not batch x seq x channels.
    """
    located = _Located(tokens)
    packed: dict[str, list[str]] = {}
    plain = []
    for name, each in modules.items():
        if each.layout is Layout.PACKED:
            packed.setdefault(name.rpartition(".")[0], []).append(name)
        else:
            plain.append(name)

    def read(name: str, output: Tensor) -> None:
        callback(name, located.select(name, output, modules[name].channels))

    def read_experts(name: str, inputs: list, _output: Tensor) -> None:
        # Hidden states and the experts chosen, by whatever names the family gives them.
        wanted = (located.select(name, each, each.shape[-1]).tensor() for each in inputs[:2])
        found = routed_outputs(model.get_submodule(name), *wanted)
        for full in packed[name]:
            callback(full, found[full.rpartition(".")[2]])

    with ExitStack() as hooks:
        hooks.enter_context(output_hooks(model, plain, read))
        hooks.enter_context(call_hooks(model, packed, read_experts))
        run_model(model, batch, tokens)


class _Located:
    """Answer tokens copied once to each device that asks, so that no module waits for the host."""

    def __init__(self, tokens: AnswerTokens) -> None:
        self._on = {tokens.rows.device: tokens}
        self._first = tokens

    def select(self, name: str, output: Tensor, channels: int) -> Answers:
        if output.device not in self._on:
            self._on[output.device] = self._first.to(output.device)
        return self._on[output.device].select(name, output, channels)
