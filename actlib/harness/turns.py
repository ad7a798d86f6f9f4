r"""Where a chat prompt ends and an answer begins.

A chat template ends a prompt with the heading of the assistant's turn and a line break. The harness
moves white space at the end of a prompt into the answer, which is right for a space, since a
tokenizer joins it to the next word. But it makes the line break part of the answer: a model is then
asked for a break that no one lets it choose, and its likelihood and exact match say less about the
answer. Choices share the break, so accuracy hardly changes.
"""


def keeping_breaks(kind: type) -> type:
    """The harness's model class with a line break at the end of a prompt left to the prompt.

    The rest is as in the harness, and so is a pair whose tokens do not part at that place.

    Args:
        kind: such as the harness's `HFLM`.
    """

    class Kept(kind):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            if context.endswith("\n"):
                before, whole = self.tok_encode(context), self.tok_encode(context + continuation)
                if whole[: len(before)] == before and len(whole) > len(before):
                    return before, whole[len(before) :]
            return super()._encode_pair(context, continuation)

    return Kept
