"""Named recipes: how the views of a photograph are drawn, and what their numbers rest on.

In: a `ViewSpec`. Out: its recipe, checked.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ssl_retina.contract import ViewSpec
from ssl_retina.data.cameras import Camera
from ssl_retina.data.geometry import Crop, Turn
from ssl_retina.data.photometry import Blur, Colours, Jitter, Solarise
from ssl_retina.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How views are drawn; no crop means the whole image, resized to a square.

    colours: those of view 0, 1, ... (local views count on from the global ones), the last for all further
        views; none leaves every view as it is.
    cameras: the same for the cheap cameras that may take a view; None is the camera of the photograph.
    """

    global_crop: Crop | None
    local_crop: Crop | None = None
    flip: bool = True
    turn: Turn | None = None
    colours: tuple[Colours, ...] = ()
    cameras: tuple[Camera | None, ...] = ()


LEAST_FIELD = 0.7
"""Share of a crop that is retina.

A square cut to its field, as `ssl-retina shard` writes it, holds 0.785 as a whole, and no crop of HYGD or
IDRiD falls below (737 and 510 photographs, four crops each: mean 0.93 and 0.94, least 0.77 and 0.79), so
these keep the distribution of the plain crop. Of a 3 to 2 frame with a circle of its full height 27 % of
the plain crops do (mean 0.78, first percentile 0.55; with it 0.83 and 0.70, and the mean area is 46 % of the
frame for 48 %). At 0.8 it would be 58 %, and the crops smaller.
"""

RETINA_CROP = Crop(scale=(0.25, 1.0), least_field=LEAST_FIELD)
"""Two crops nearly always overlap, and the smallest shows a quarter of the photograph, in which a disc fits
(though it is seldom whole there); the papers' 0.08 would show a patch of background."""

RETINA_TURN = Turn(photograph=30.0, scan=5.0)
"""Heads and cameras tilt. Nothing is ever turned upside down: superior and inferior are not the same."""

RETINA_JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.01)
"""As much as photographs of one camera differ, since the colour of a lesion is signal.

Measured on the mean colour in 187 photographs of HYGD and 104 of IDRiD: brightness has a standard deviation
of 23 and 16 % of its mean (0.4 either way: 23 %), saturation 11 and 13 % (0.2: 12 %), hue 3.3 and 4.3
degrees (0.01 of the circle: 3.6 at most). Twice that makes a disc green that was yellow.
"""

RETINA_GREY = 0.05
RETINA_SIGMA = (0.0005, 0.005)
"""Half of the papers' sigma (0.1 to 2 px at 224 px), for the sake of small lesions."""

RETINA_COLOURS = Colours(RETINA_JITTER, RETINA_GREY, Blur(0.5, RETINA_SIGMA))
MAE_CROP = Crop(scale=(0.2, 1.0), least_field=LEAST_FIELD)

PAPER_CROP = Crop(scale=(0.08, 1.0))
PAPER_SIGMA = (0.1 / 224, 2.0 / 224)
PAPER_LOCAL_SIGMA = (0.1 / 96, 2.0 / 96)
"""DINO blurs its local views, of 96 px, by as many pixels as the global ones."""

PAPER_JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)

PAPER_DISTILLED = (
    Colours(PAPER_JITTER, 0.2, Blur(1.0, PAPER_SIGMA)),
    Colours(PAPER_JITTER, 0.2, Blur(0.1, PAPER_SIGMA), Solarise(0.2, 0.5)),
    Colours(PAPER_JITTER, 0.2, Blur(0.5, PAPER_LOCAL_SIGMA)),
)
RETINA_DISTILLED = (
    Colours(RETINA_JITTER, RETINA_GREY, Blur(1.0, RETINA_SIGMA)),
    Colours(RETINA_JITTER, RETINA_GREY, Blur(0.1, RETINA_SIGMA)),
    Colours(RETINA_JITTER, RETINA_GREY, Blur(0.5, RETINA_SIGMA)),
)
"""The two large views, and all small ones."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # He et al. 2022, table 1e: crop and flip only
        "mae": Recipe(global_crop=Crop(scale=(0.2, 1.0))),
        # Assran et al. 2023: a crop, no flip, no colour
        "ijepa": Recipe(global_crop=Crop(scale=(0.3, 1.0)), flip=False),
        "plain": Recipe(global_crop=None, flip=False),
        # The paper's, with retina in every crop, and every third view as of a cheap camera
        "mae_retina": Recipe(global_crop=MAE_CROP),
        "mae_primary_care": Recipe(global_crop=MAE_CROP, cameras=(Camera(probability=0.35),)),
        # SimCLR (Chen et al. 2020, appendix A) with what retinas bear: both views alike
        "contrast": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(RETINA_COLOURS,),
        ),
        # The same eye before a good camera and before a cheap one: what they share is the retina. A fifth
        # of the second views stay good, so that fine detail is worth learning
        "primary_care": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(RETINA_COLOURS,),
            cameras=(None, Camera(probability=0.8)),
        ),
        # MoCo v3 (Chen, Xie and He 2021), where the views differ. Not solarised: the red of a photograph is
        # near its limit over the disc and bright lesions, and inverting it paints them green
        "mocov3": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(
                Colours(RETINA_JITTER, RETINA_GREY, Blur(1.0, RETINA_SIGMA)),
                Colours(RETINA_JITTER, RETINA_GREY, Blur(0.1, RETINA_SIGMA)),
            ),
        ),
        # The same paper's own numbers (those of BYOL), to compare with: made for cats and cars
        "mocov3_paper": Recipe(
            global_crop=PAPER_CROP,
            colours=(
                Colours(PAPER_JITTER, 0.2, Blur(1.0, PAPER_SIGMA)),
                Colours(PAPER_JITTER, 0.2, Blur(0.1, PAPER_SIGMA), Solarise(0.2, 0.5)),
            ),
        ),
        # DINO (Caron et al. 2021) and iBOT and DINOv2, whose large crops and small ones meet at 0.32: their
        # areas, with retina in every crop and the colours that retinas bear; not solarised, as above
        "dino": Recipe(
            global_crop=Crop(scale=(0.4, 1.0), least_field=LEAST_FIELD),
            local_crop=Crop(scale=(0.05, 0.4), least_field=LEAST_FIELD),
            turn=RETINA_TURN,
            colours=RETINA_DISTILLED,
        ),
        "dinov2": Recipe(
            global_crop=Crop(scale=(0.32, 1.0), least_field=LEAST_FIELD),
            local_crop=Crop(scale=(0.05, 0.32), least_field=LEAST_FIELD),
            turn=RETINA_TURN,
            colours=RETINA_DISTILLED,
        ),
        # DINO (Caron et al. 2021, appendix E): two large crops with the colours of BYOL, many small ones
        "dino_paper": Recipe(
            global_crop=Crop(scale=(0.4, 1.0)),
            local_crop=Crop(scale=(0.05, 0.4)),
            colours=PAPER_DISTILLED,
        ),
        # The same colours with the crops of DINOv2 (Oquab et al. 2024, and the authors' config)
        "dinov2_paper": Recipe(
            global_crop=Crop(scale=(0.32, 1.0)),
            local_crop=Crop(scale=(0.05, 0.32)),
            colours=PAPER_DISTILLED,
        ),
    }
)


def recipe(spec: ViewSpec) -> Recipe:
    """The recipe that a method named, with the crop that it asked for.

    Raises InputError for an unknown recipe, for local views or a crop that it does not draw, and for a
    crop or a strength of colour that cannot be.
    """
    found = RECIPES.get(spec.recipe)
    if found is None:
        raise InputError(f"recipe {spec.recipe!r} does not exist; one of: {', '.join(RECIPES)}")
    if spec.local_views and found.local_crop is None:
        raise InputError(f"recipe {spec.recipe!r} draws no local views; {spec.local_views} were asked for")
    if spec.colour < 0:
        raise InputError(f"colour ({spec.colour}) must be 0 or more: it multiplies the recipe's ranges")
    if spec.crop_scale is None:
        return found
    if found.global_crop is None:
        raise InputError(f"recipe {spec.recipe!r} shows the whole image: crop_scale does not go with it")
    low, high = spec.crop_scale
    if not 0 < low <= high <= 1:
        raise InputError(f"crop_scale ({low}, {high}) must be two shares of the area: 0 < low <= high <= 1")
    crop = dataclasses.replace(found.global_crop, scale=(low, high))
    return dataclasses.replace(found, global_crop=crop)
