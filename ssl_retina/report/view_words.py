"""A recipe of views in words, for the heading of a sheet; and what was drawn for one view.

In: a `ViewSpec`, or one row of a batch's `colours` or `cameras`. Out: lines of text.
"""

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from ssl_retina.contract import ViewSpec
from ssl_retina.data import cameras, photometry, recipes
from ssl_retina.data.cameras import Camera, Chance
from ssl_retina.data.geometry import Crop
from ssl_retina.data.photometry import Colours
from ssl_retina.data.recipes import Recipe

LEGEND = (
    "below a view: b, c, s: factors of brightness, contrast, saturation; h: hue, degrees; blur: sigma, px"
)

CAMERA_LEGEND = (
    "of a cheap camera: f: sigma of the defocus, px; p: times fewer pixels; t, d: light tilted, dark at the "
    "rim; haze, ghost, cast; n: noise, levels of 255; q: JPEG quality; r: radius left of the field"
)


def recipe_in_words(spec: ViewSpec) -> list[str]:
    """What may happen to a photograph under this spec: one line for its place, one for each kind of view."""
    recipe = recipes.recipe(spec)
    sizes = f"{spec.global_views} of {spec.global_size} px"
    if spec.local_views:
        sizes += f" and {spec.local_views} of {spec.local_size} px"
    lines = [f"recipe {spec.recipe}: {sizes} a photograph; {_place(recipe, spec)}"]
    lines += _each(spec, [_colours(colours, spec) for colours in recipe.colours] or ["colours as they are"])
    if recipe.colours:
        lines.append("OCT B-scans: brightness, contrast and blur only, no other change of colour")
        lines.append(f"{LEGEND}; inv: bright levels inverted")
    if recipe.cameras:
        lines += _each(spec, [_camera(camera, spec) for camera in recipe.cameras])
        lines.append("OCT B-scans: defocus, fewer pixels and noise only")
        lines.append(CAMERA_LEGEND)
    return lines


def _each(spec: ViewSpec, words: Sequence[str]) -> list[str]:
    """What holds of view 0, 1, ..., the last for all further ones."""
    if len(words) == 1:
        return [f"every view: {words[0]}"]
    shown = words[: spec.global_views + spec.local_views]
    return [
        f"view {number}{' and on' if number == len(words) - 1 else ''}: {word}"
        for number, word in enumerate(shown)
    ]


def _place(recipe: Recipe, spec: ViewSpec) -> str:
    parts = [_crop(recipe.global_crop)]
    if spec.local_views and recipe.local_crop is not None:
        parts.append(f"local views {_crop(recipe.local_crop)}")
    if recipe.flip and spec.flip:
        parts.append("half of them flipped left to right")
    if recipe.turn is not None:
        parts.append(f"turned by up to {recipe.turn.photograph:g} degrees (B-scans {recipe.turn.scan:g})")
    return ", ".join(parts)


def _crop(crop: Crop | None) -> str:
    if crop is None:
        return "the whole image"
    low, high = (Fraction(bound).limit_denominator(100) for bound in crop.ratio)
    stretch = f", stretched (width to height {low} to {high})" if low != high else ""
    retina = f", at least {_percent(crop.least_field)} of it retina" if crop.least_field else ""
    return f"{_percent(crop.scale[0])} to {_percent(crop.scale[1])} of the area{stretch}{retina}"


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


def _camera(camera: Camera | None, spec: ViewSpec) -> str:
    if camera is None:
        return "the photograph's own camera"
    side = spec.global_size
    named = (
        ("defocus", camera.defocus, f"{side * camera.defocus.low:.2g}-{side * camera.defocus.high:.2g} px"),
        ("haze", camera.haze, ""),
        ("ghost", camera.ghost, ""),
        ("noise", camera.shot, ""),
        ("JPEG", camera.quality, f"quality {camera.quality.low:g}-{camera.quality.high:g}"),
        ("smaller field", camera.narrow, f"radius {camera.narrow.low:g}-{camera.narrow.high:g}"),
        ("tilted light", camera.tilt, ""),
        ("dark rim", camera.fall, ""),
        ("colour cast", Chance(camera.cast, 0, 0), ""),
        ("fewer pixels", Chance(camera.coarse, 0, 0), ""),
    )
    parts = [f"{name} {_percent(chance.probability)} {words}".rstrip() for name, chance, words in named]
    return f"{_percent(camera.probability)} a cheap camera's, of these {', '.join(parts)}"


def camera_in_words(row: Tensor) -> str:
    """Which cheap camera took one view, as CAMERA_LEGEND explains it; '' for the photograph's own."""
    numbers, tilt = row.tolist(), row[cameras.TILT : cameras.TILT + 2].norm().item()
    at_half = (numbers[cameras.SHOT] / 2 + numbers[cameras.READ] ** 2) ** 0.5
    gains = row[cameras.GAIN : cameras.GAIN + 3]
    parts = (
        (numbers[cameras.SIGMA], f"f{numbers[cameras.SIGMA]:.1f}"),
        (numbers[cameras.COARSE] - 1, f"p{numbers[cameras.COARSE]:g}"),
        (tilt, f"t{tilt:.1f}"),
        (numbers[cameras.FALL], f"d{numbers[cameras.FALL]:.1f}"),
        (numbers[cameras.HAZE], "haze"),
        (numbers[cameras.GHOST], "ghost"),
        ((gains != 1).any().item(), "cast"),
        (numbers[cameras.SHOT], f"n{255 * at_half:.0f}"),
        (numbers[cameras.QUALITY], f"q{numbers[cameras.QUALITY]:.0f}"),
        (1 - numbers[cameras.NARROW], f"r{numbers[cameras.NARROW]:.2f}"),
    )
    return "  ".join(words for happens, words in parts if happens)


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
