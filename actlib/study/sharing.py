"""A study's transfer as a file that others can use: an ability patch and its card.

info = write_patch(study, mask, 0.4, "lost")     # beside the models, its card beside the figures
"""

from actlib.files import write_text
from actlib.folders.cards import patch_card
from actlib.folders.patch_files import PatchInfo
from actlib.folders.patches import make_patch
from actlib.folders.records import note
from actlib.masks import ChannelMask
from actlib.study.session import Study

CARD = "card05_patch.md"
"""The card's name in the folder of figures and tables."""


def write_patch(
    study: Study, mask: ChannelMask, scale: float, ability: str, seed: int | None = None
) -> PatchInfo:
    """Write the donor's masked channels as a patch for the target, and the patch's card.

    The patch is `patches/ABILITY-seedN.safetensors` among the study's models; its card goes to the
    figures and tables.

    Args:
        study: whose donor and target.
        mask: channels to move.
        scale: the paper's lambda.
        ability: what the channels are for, in a word.
        seed: training seed; the first of the preset if None.

    Raises:
        ValueError: a model is not a folder of safetensors, as one that is only on the Hub; and as
            `make_patch`.
    """
    seed = study.seeds[0] if seed is None else seed
    target, donor = (study.folder(role, seed) for role in ("target", "donor"))
    path = study.store / study.preset.name / "patches" / f"{ability}-seed{seed}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    info = make_patch(target, donor, mask, path, scale=scale, metadata={"ability": ability})
    write_text(study.figures / CARD, patch_card(info))
    note([study.figures / CARD])
    return info
