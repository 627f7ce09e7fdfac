"""How `finetune` trains: a typed section with defaults for a ViT on some hundreds of photographs.

In: a YAML file and values of the command line. Out: a frozen `Recipe`; all mistakes at once. Every default
says where it is from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ssl_retina import config_text
from ssl_retina.config import Optim, Positive, Section, Share
from ssl_retina.errors import ConfigError

SHIPPED = "one is configs/probe/finetune.yaml"


class Recipe(Section):
    """Fine-tuning by AdamW, end to end.

    RETFound (Zhou et al. 2023, its published command for IDRiD: 413 training photographs) gives epochs,
    warmup_epochs, batch_size, learning_rate (per 256 samples, linear in the batch), layer_decay (BEiT, Bao
    et al. 2022: the learning rate of each layer is that of the next times this), drop_path, weight_decay
    and label_smoothing; MAE's own fine-tuning (He et al. 2022, table 9) has the same layer_decay 0.65,
    weight_decay, betas and smoothing for ViT-B, drop_path 0.1.

    crop_scale: share of the area in a training crop. Ours: half at least, since the label is that of the
        whole photograph and a disc or a lesion must stay in it; mixup, cutmix, erasing and colour changes
        of those recipes are left out.
    class_weights: `balanced` weighs each class by the inverse of its share in the training part.
    epoch_choice: `last`, or `inner`: a fifth of the training patients is set apart and the epoch with the
        least log loss on it is kept (as RETFound keeps its best validation epoch). Test photographs are
        never asked.
    """

    epochs: Positive = 50
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.65
    drop_path: Share = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Share, Share] = (0.9, 0.999)
    label_smoothing: Share = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.5, 1.0)
    epoch_choice: Literal["last", "inner"] = "last"

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs}); "
                "a fifth of the epochs is usual"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError("crop_scale: the smaller share comes first")
        return self

    def optim(self, *, batch: int, pretrained: bool) -> Optim:
        """AdamW's settings for this batch; fresh weights get no layer-wise decay.

        Layer decay keeps what early layers have learned. Of fresh weights they have learned nothing: with
        it the opponent `random` would be held back, and the comparison flattering.
        """
        return Optim(
            learning_rate=self.learning_rate * batch / 256,
            weight_decay=self.weight_decay,
            betas=self.betas,
            layer_decay=self.layer_decay if pretrained else 1.0,
        )


def load(path: Path | None, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a YAML file (or the defaults) under the values that the command line gave.

    `warmup_epochs` is a fifth of the epochs where neither says it. Raises ConfigError with every problem.
    """
    source = config_text.Source("the recipe", {}) if path is None else config_text.read(path, (), SHIPPED)
    typed = {name: value for name, value in given.items() if value is not None}
    values = {**source.values, **typed}
    options: dict[config_text.Key, str] = {(name,): f"--{name.replace('_', '-')}" for name in typed}
    if isinstance(values.get("epochs"), int):
        values.setdefault("warmup_epochs", values["epochs"] / 5)
    complete = config_text.Source(source.name, values, {**source.places, **options}, source.problems)
    recipe, problems = config_text.check(Recipe, complete)
    problems = [*source.problems, *problems]
    if recipe is None or problems:
        raise ConfigError(source.name, problems)
    return recipe
