"""What an export's config.json may say (law 11): a stranger may have written it.

In: the file. Out: the architecture, timm's arguments and the preparation of images, each of its kind and in
a range that an export of ours can have, or every mistake at once.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssl_retina import config_text
from ssl_retina.config import Natural, Positive, Section
from ssl_retina.errors import CheckpointError

LIMIT = 1 << 20
"""Most bytes of a config.json."""
SHOWN = 8
SHOWN_LETTERS = 200
TOKENS = 1 << 16
"""Most patches of an image: 256 by 256."""

Word = Annotated[str, Field(min_length=1, max_length=100)]
Side = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=1, le=64)]
"""Blocks; the deepest ViT that timm knows has 48."""
Colour = Annotated[float, Field(ge=-10, le=10)]
Spread = Annotated[float, Field(gt=0, le=10)]


class Arguments(Section):
    """What is handed to timm beside the name; anything else could make timm open other files."""

    img_size: Side | None = None
    patch_size: Side | None = None
    depth: Depth | None = None
    reg_tokens: Annotated[int, Field(ge=1, le=64)] | None = None
    global_pool: Literal["avg", "token"] | None = None
    fc_norm: bool | None = None

    @model_validator(mode="after")
    def _few_patches(self) -> "Arguments":
        if self.img_size and self.patch_size and (self.img_size // self.patch_size) ** 2 > TOKENS:
            raise ValueError(f"an image of {self.img_size} px in patches of {self.patch_size} is too much")
        return self


class Preparation(Section):
    """How images are prepared. timm would follow other keys (`url`, `file`, `custom_load`)."""

    input_size: tuple[Literal[3], Side, Side]
    mean: tuple[Colour, Colour, Colour]
    std: tuple[Spread, Spread, Spread]
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming", "random"]
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    fixed_input_size: bool | None = None
    num_classes: Natural | None = None
    first_conv: Word | None = None
    classifier: Word | None = None


class Description(Section):
    """The whole file. label_names: of an encoder that was fine-tuned."""

    architecture: Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
    model_args: Arguments
    pretrained_cfg: Preparation
    num_classes: Natural = 0
    num_features: Positive | None = None
    global_pool: Word | None = None
    label_names: tuple[Word, ...] | None = None


def read(path: Path) -> Description:
    """Read and check a config.json. Raises CheckpointError with every mistake."""
    if not path.is_file() or path.stat().st_size > LIMIT:
        raise CheckpointError(f"{path} is missing or larger than {LIMIT} bytes: export again")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no config of an export ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no config of an export: it holds no object")
    found, problems = config_text.check(Description, config_text.from_values(content))
    if found is None:
        listed = "".join(f"\n  {one[:SHOWN_LETTERS]}" for one in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"{path} is no config of an export:{listed}{more}")
    return found
