"""A recipe of views in words, for the heading of a sheet; and what was drawn for one view.

In: a `ViewSpec`, or one row of a batch's `colours`. Out: lines of text.
"""

from fractions import Fraction

from torch import Tensor

from ssl_retina.contract import ViewSpec
from ssl_retina.data import photometry, views
from ssl_retina.data.geometry import Crop
from ssl_retina.data.photometry import Colours
from ssl_retina.data.views import Recipe

LEGEND = (
    "below a view: b, c, s: factors of brightness, contrast, saturation; h: hue, degrees; blur: sigma, px"
)


def recipe_in_words(spec: ViewSpec) -> list[str]:
    """What may happen to a photograph under this spec: one line for its place, one for each kind of view."""
    recipe = views.recipe(spec)
    sizes = f"{spec.global_views} of {spec.global_size} px"
    if spec.local_views:
        sizes += f" and {spec.local_views} of {spec.local_size} px"
    lines = [f"recipe {spec.recipe}: {sizes} a photograph; {_place(recipe, spec)}"]
    if not recipe.colours:
        return [*lines, "colours: as they are"]
    for number in range(min(len(recipe.colours), spec.global_views + spec.local_views)):
        last = number == len(recipe.colours) - 1
        which = "every view" if len(recipe.colours) == 1 else f"view {number}{' and on' if last else ''}"
        lines.append(f"{which}: {_colours(recipe.colours[number], spec)}")
    lines.append("OCT B-scans: brightness, contrast and blur only, no other change of colour")
    return [*lines, f"{LEGEND}; inv: bright levels inverted"]


def _place(recipe: Recipe, spec: ViewSpec) -> str:
    parts = [_crop(recipe.global_crop)]
    if spec.local_views and recipe.local_crop is not None:
        parts.append(f"local views {_crop(recipe.local_crop)}")
    if recipe.flip:
        parts.append("half of them flipped left to right")
    if recipe.turn is not None:
        parts.append(f"turned by up to {recipe.turn.photograph:g} degrees (B-scans {recipe.turn.scan:g})")
    return ", ".join(parts)


def _crop(crop: Crop | None) -> str:
    if crop is None:
        return "the whole image"
    low, high = (Fraction(bound).limit_denominator(100) for bound in crop.ratio)
    stretch = f", stretched (width to height {low} to {high})" if low != high else ""
    return f"{_percent(crop.scale[0])} to {_percent(crop.scale[1])} of the area{stretch}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _colours(colours: Colours, spec: ViewSpec) -> str:
    strength, parts = spec.colour, []
    if colours.jitter is not None and strength:
        jitter = colours.jitter
        factors = ", ".join(
            f"{name} {max(1 - reach * strength, 0):g}-{1 + reach * strength:g}"
            for name, reach in (
                ("brightness", jitter.brightness),
                ("contrast", jitter.contrast),
                ("saturation", jitter.saturation),
            )
        )
        hue = 360 * min(jitter.hue * strength, 0.5)
        parts.append(f"{_percent(jitter.probability)}: {factors}, hue +-{hue:.3g} degrees")
    if colours.grey and strength:
        parts.append(f"grey {_percent(colours.grey * min(strength, 1))}")
    if colours.blur is not None:
        low, high = (spec.global_size * sigma for sigma in colours.blur.sigma)
        parts.append(f"blur {_percent(colours.blur.probability)}: sigma {low:.2g}-{high:.2g} px")
    if colours.solarise is not None and strength:
        share = _percent(colours.solarise.probability * min(strength, 1))
        parts.append(f"solarised {share}: from level {colours.solarise.threshold:g}")
    return "; ".join(parts) or "colours as they are"


def changes_in_words(row: Tensor) -> str:
    """What was drawn for one view, shortly, as LEGEND explains it; '' where it stays as it is."""
    numbers = row.tolist()
    parts = [
        f"{name}{factor:.2f}"
        for name, factor in zip("bcs", numbers[: photometry.HUE], strict=True)
        if factor != 1
    ]
    if numbers[photometry.HUE]:
        parts.append(f"h{360 * numbers[photometry.HUE]:+.0f}")
    if numbers[photometry.GREY]:
        parts.append("grey")
    if numbers[photometry.SIGMA]:
        parts.append(f"blur {numbers[photometry.SIGMA]:.1f}")
    if numbers[photometry.SOLARISE] < photometry.NEVER:
        parts.append("inv")
    return "  ".join(parts)
