"""The typed sections of a config, with their defaults: what may stand in a YAML file.

In: plain values. Out: frozen sections, or pydantic's list of what is wrong. Derived values are properties.
"""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from ssl_retina import shares
from ssl_retina.addresses import Place


class Section(BaseModel):
    """A frozen section in which an unknown key is an error; method files derive their `Config` from it.

    couples_batch: the method's loss compares the samples of a batch with each other (contrast, batch norm).
    steady_shapes: every step has as many tokens as the one before, so that the compiler may count on it.
    encodes_in_parts: `train.encoder_batch` is heeded.
    """

    couples_batch: ClassVar[bool] = False
    steady_shapes: ClassVar[bool] = True
    encodes_in_parts: ClassVar[bool] = False
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def scheduled(self, fraction: float) -> dict[str, float]:
        """What the method changes with the share of the run that is done, by name, beside rate and decay."""
        del fraction
        return {}

    @property
    def frozen(self) -> float:
        """The share of the run in which a part of the method does not learn yet."""
        return 0.0

    @property
    def settled(self) -> int:
        """A step from which on every step does the same work."""
        return 1

    def conflict(self, *, init: str | None, steps: int) -> str | None:
        """What of this method does not go with the run's `model.init` and `train.steps`, as a sentence."""
        del init, steps
        return None


def _one_or_several(value: object) -> object:
    several = [value] if isinstance(value, str) else value
    if isinstance(several, list) and all(isinstance(one, str) for one in several):
        return tuple(several)
    return several


Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Area = Annotated[float, Field(gt=0, le=1)]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the smaller share comes first, not [{value[0]:g}, {value[1]:g}]")
    return value


CropScale = Annotated[tuple[Area, Area], AfterValidator(_rising)]
"""Smallest and largest share of the area in a crop."""
MaskRatio = Annotated[tuple[Share, Share], AfterValidator(_rising)]


class Data(Section):
    """Which samples are trained on, and in which batches.

    shards: folders with an `index.json`, or http(s)://, s3://, gs:// addresses of such; one or several.
    where: conditions on the index's columns joined by `and`, such as `split != test and modality == fundus`.
    exclude: a file of sample or patient pseudonyms, one a line, that are left out.
    batch_size: samples of one optimiser step over all ranks.
    workers: loader processes of each rank.
    held_out: share of the patients kept out of training, on which the held-out loss is measured.
    sampling: `uniform` draws every sample once an epoch, `balanced` by the weights in the sets' tables.
    proportions: how much of the draws each set gives: in the order of `shards`, or by their paths or names.
    shuffle_shards: how many shards are shuffled with each other at a time; null: everything.
    together: an `eye`'s or a `patient`'s photographs come in pairs, so that a batch holds both of a pair.
    cache, cache_gib: where shards of addresses are kept (the user's own cache if not given), and how much.
    """

    shards: Annotated[tuple[Place, ...], BeforeValidator(_one_or_several), Field(min_length=1)]
    batch_size: Positive
    where: str | None = None
    exclude: Path | None = None
    workers: Natural = 2
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    sampling: Literal["uniform", "balanced"] = "uniform"
    proportions: Annotated[shares.Proportions | None, BeforeValidator(shares.checked)] = None
    shuffle_shards: Positive | None = None
    together: Literal["none", "eye", "patient"] = "none"
    cache: Path | None = None
    cache_gib: Annotated[float, Field(gt=0)] = 50.0


class Model(Section):
    """The encoder: a ViT by its timm name; `depth` shortens it for trials.

    patch_size: that of the name where it is not given.
    position_embedding: starts at the sine-cosine values, or at those of `init`; `fixed` keeps them, `learned`
        trains them.
    registers: tokens beside the class token that belong to no patch (Darcet et al. 2024); 0 leaves as many as
        the name has.
    init: weights to start from: an export's folder, a file, a timm name, `local-dir:` or `hf-hub:`.
    init_reference: a `.safetensors` with `image` and `features`, which the loaded encoder must give.
    """

    name: str = "vit_small_patch16_224"
    image_size: Positive = 224
    patch_size: Positive | None = None
    depth: Positive | None = None
    drop_path: Share = 0.0
    position_embedding: Literal["fixed", "learned"] = "fixed"
    registers: Annotated[int, Field(ge=0, le=64)] = 0
    init: Annotated[str, Field(min_length=1)] | None = None
    init_reference: Path | None = None

    @model_validator(mode="after")
    def _whole_patches(self) -> "Model":
        if self.image_size % self.patch:
            raise ValueError(
                f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch})"
            )
        if self.init_reference is not None and self.init is None:
            raise ValueError("init_reference: there is no init whose features it could be held against")
        return self

    @property
    def patch(self) -> int:
        """Side of a patch in pixels. Raises ValueError where neither name nor `patch_size` says it."""
        if self.patch_size is not None:
            return self.patch_size
        named = re.search(r"_patch(\d+)", self.name)
        if named is None:
            raise ValueError(f"patch_size: the name {self.name!r} does not hold one, so it must be given")
        return int(named.group(1))


class Adversary(Section):
    """A head that guesses the camera by what the encoder gives, its gradient turned round in the encoder.

    weight: of the turned gradient at the end of the run; 0 is no head. 1 in the paper (Ganin et al. 2016).
    hidden: width of the head's hidden layer.
    devices: how many devices the head can tell apart; the sets may hold fewer.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    hidden: Positive = 256
    devices: Annotated[int, Field(ge=2)] = 32


class Optim(Section):
    """AdamW. `learning_rate` is per 256 samples of the global batch; `layer_decay` 1.0 is none.

    weight_decay_end: where given, half a cosine takes the weight decay there at the last step.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None
    betas: tuple[Share, Share] = (0.9, 0.95)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Schedule(Section):
    """Linear warm-up, then a cosine down to `final_fraction` of the peak, by optimiser step."""

    warmup_steps: Natural = 0
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0


class Spikes(Section):
    """Which finite steps are not taken, and when the run goes back to a checkpoint (docs/checkpoints.md).

    window: so many applied steps a step is held against; before there are as many, none is judged.
    deviations: a loss so many standard deviations above the window's mean is a spike.
    times_median: so is a gradient norm of so many times the window's median.
    limit, span: so many spikes within so many steps, and the run rolls back.
    skip_batches: batches that are passed over after a roll-back, beside those that were seen.
    rate_factor: what each roll-back multiplies the learning rate with, from then on.
    rollbacks: so many at most; then the run stops.
    """

    enabled: bool = True
    window: Annotated[int, Field(ge=2)] = 200
    deviations: Annotated[float, Field(gt=0)] = 6.0
    times_median: Annotated[float, Field(gt=1)] = 10.0
    limit: Positive = 3
    span: Annotated[int, Field(ge=1, le=1000)] = 100
    skip_batches: Natural = 100
    rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    rollbacks: Natural = 3


class Train(Section):
    """How the steps are computed.

    zero_stage: what is shared out over the ranks: 1 masters and moments, 2 gradients too, 3 weights too,
        for models that do not fit otherwise.
    offload: what waits in the machine's memory in place of the GPU's: masters and moments, on which the
        processor then steps (`optimizer`), or weights and gradients too (`parameters`, at stage 3).
    encoder_batch: at most so many images of a view are encoded at a time, and again in the backward pass, so
        that a contrast's batch need not fit with all its activations (cached gradients, Gao et al. 2021).
    pack_crops: large and small crops pass through the student's blocks together (DINO, iBOT, DINOv2).
    compile: the transformer blocks, by torch's compiler, in the first steps; needs a C++ compiler on a CPU.
    skipped_limit: non-finite steps before the run stops: in a row, or (ten at least) of the last 1000.
    spikes: what is done about finite losses and gradients that are far too large.
    """

    steps: Positive
    precision: Literal["bf16", "fp32"] = "bf16"
    zero_stage: Literal[1, 2, 3] = 1
    accumulate: Positive = 1
    offload: Literal["none", "optimizer", "parameters"] = "none"
    activation_checkpointing: bool = False
    encoder_batch: Positive | None = None
    pack_crops: bool = False
    compile: bool = False
    skipped_limit: Positive = 10
    spikes: Spikes = Spikes()

    @model_validator(mode="after")
    def _whole_blocks(self) -> "Train":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile needs zero_stage 1 or 2: at stage 3 parameters come and go within a block, which "
                "the compiler cannot see"
            )
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(
                f"offload: parameters needs zero_stage 3, not {self.zero_stage}: below it every GPU keeps "
                "all weights; give optimizer, or zero_stage 3"
            )
        return self


class Checkpoint(Section):
    """When the run is saved, and how many of the newest checkpoints stay."""

    every_steps: Positive = 500
    keep: Annotated[int, Field(ge=2)] = 3


class Tracking(Section):
    """What is written down. `metrics.jsonl` always; wandb stays on this machine unless `online`.

    labels, task: a labels file and a task (as for `probe`) for the online kNN score; never used in training.
    """

    every_steps: Positive = 10
    evaluate_every_steps: Positive = 100
    wandb: Literal["offline", "online", "off"] = "offline"
    project: str = "ssl-retina"
    tensorboard: bool = False
    labels: Path | None = None
    task: str | None = None

    @model_validator(mode="after")
    def _labels_with_task(self) -> "Tracking":
        if (self.labels is None) != (self.task is None):
            raise ValueError("labels and task belong together: give both for the online kNN, or neither")
        return self
