"""DeepSpeed's own JSON, from a run's config; users never see it.

In: a config and the samples of a forward pass. Out: a mapping for `deepspeed.initialize`.
"""

import sys
from typing import Any

from ssl_retina import dist
from ssl_retina.config import Run

BUCKET_ELEMENTS = 25_000_000
"""100 MB of fp32 gradients are reduced at once; DeepSpeed's own 500 M elements would take 2 GB a bucket."""

STAGE_3 = {
    # norms, biases and tokens, a hundredth of a ViT, stay whole on every rank between uses: to gather one
    # takes the latency of a message and saves 400 kB at most
    "stage3_param_persistence_threshold": 100_000,
    # two blocks of a ViT-Large are on their way while one computes
    "stage3_prefetch_bucket_size": BUCKET_ELEMENTS,
    # the last 400 MB of the forward pass stay for the backward pass, which begins with them; DeepSpeed's
    # own 1e9 elements would keep a whole ViT-Large, and the stage would save nothing while a step runs
    "stage3_max_reuse_distance": 4 * BUCKET_ELEMENTS,
    "stage3_max_live_parameters": 8 * BUCKET_ELEMENTS,
    # otherwise torch.nn.functional.linear is replaced for the whole process, for good, by one that rounds
    # twice in bf16. It would keep no bf16 copies of the weights for the backward pass; neither does
    # train.activation_checkpointing
    "memory_efficient_linear": False,
}
"""What stage 3 keeps whole, and for how long, in elements."""


def _offloaded(what: str) -> dict[str, Any]:
    """ZeRO-Offload (Ren et al. 2021): pinned memory where there is a GPU that copies from it."""
    place = {"device": "cpu", "pin_memory": dist.device().type == "cuda"}
    named = {"none": (), "optimizer": ("optimizer",), "parameters": ("optimizer", "param")}
    return {f"offload_{one}": place for one in named[what]}


def of(run: Run, micro_batch: int) -> dict[str, Any]:
    """All that differs from a default; `gradient_clipping` is always written, since its default is 1.0."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": run.train.accumulate,
        "gradient_clipping": run.optim.clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        # torch's own AdamW steps on the processor: DeepSpeed's would be compiled when the run starts
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": run.train.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            **(STAGE_3 if run.train.zero_stage == 3 else {}),
            **_offloaded(run.train.offload),
        },
        "torch_autocast": {
            "enabled": run.train.precision == "bf16",
            "dtype": "bfloat16",
            # by default gradients of linear layers would be rounded to bf16 before they are summed over ranks
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": sys.maxsize,
        "timers": {"throughput": {"enabled": False}},
    }
