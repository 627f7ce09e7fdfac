"""Four invented cameras that differ in colour, field, sharpness, resolution and file format.

In: the light that a retina reflects, drawn on a camera's pixel grid. Out: the photograph, uint8 RGB.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """One camera.

    size: width and height in pixels. centre, radius: the optical circle, in pixels; a circle larger than
    the frame is cut by it. angle: field in degrees across the circle. blur: sigma in pixels. noise: standard
    deviation in grey levels. matrix: rows give red, green and blue of the file from those of the retina.
    floor: grey level outside the field. tab: whether the circle carries a small mark at its edge.
    """

    device: str
    suffix: str
    eyes: tuple[str, str]
    size: tuple[int, int]
    centre: tuple[float, float]
    radius: float
    angle: float
    blur: float
    noise: float
    gamma: float
    matrix: tuple[tuple[float, float, float], ...]
    floor: float = 0.0
    tab: bool = False
    quality: int = 90


CAMERAS = (
    Camera(
        device="Halo NM-45",
        suffix=".jpg",
        eyes=("OD", "OS"),
        size=(480, 480),
        centre=(240, 240),
        radius=225,
        angle=45,
        blur=0.5,
        noise=2.0,
        gamma=1.0,
        matrix=((1.0, 0.05, 0.0), (0.02, 1.0, 0.0), (0.0, 0.05, 0.9)),
        tab=True,
    ),
    Camera(
        device="Meridian 50",
        suffix=".JPG",
        eyes=("right", "left"),
        size=(576, 400),
        centre=(296, 200),
        radius=236,
        angle=50,
        blur=0.8,
        noise=2.5,
        gamma=0.85,
        matrix=((0.92, 0.06, 0.02), (0.1, 0.84, 0.06), (0.1, 0.14, 0.86)),
        quality=86,
    ),
    Camera(
        device="Pocketview",
        suffix=".jpeg",
        eyes=("R", "L"),
        size=(352, 352),
        centre=(180, 172),
        radius=218,
        angle=56,
        blur=1.3,
        noise=4.5,
        gamma=0.95,
        matrix=((0.85, 0.15, 0.0), (0.08, 1.05, 0.05), (0.0, 0.1, 0.75)),
        quality=78,
    ),
    Camera(
        device="Quadra II",
        suffix=".png",
        eyes=("OD", "OS"),
        size=(480, 384),
        centre=(222, 200),
        radius=170,
        angle=42,
        blur=0.7,
        noise=1.5,
        gamma=1.2,
        matrix=((1.1, 0.0, 0.0), (0.0, 0.85, 0.0), (0.05, 0.0, 0.7)),
        floor=3.0,
    ),
)


def expose(
    light: Floats, field: Floats, camera: Camera, *, focus: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """The photograph (height, width, 3) of `light` (3, height, width) in [0, 1].

    `field` (height, width) is the camera's field mask; `focus` is blur beyond the camera's own, in pixels.
    """
    mixed = np.einsum("ij,jhw->ihw", np.asarray(camera.matrix, np.float32), light)
    levels = Image.fromarray(
        np.ascontiguousarray((np.clip(mixed, 0, 1) * 255 + 0.5).transpose(1, 2, 0), np.uint8)
    )
    response = [round(255 * (level / 255) ** camera.gamma) for level in range(256)]
    levels = levels.point(response * 3).filter(ImageFilter.GaussianBlur(camera.blur + focus))
    grain, tint = camera.noise * generator.standard_normal((2, *field.shape), dtype=np.float32)
    picture = np.asarray(levels, np.float32) * field[..., None]
    dark = (1 - field) * camera.floor
    for channel, share in enumerate((0.5, 0.0, -0.7)):
        picture[..., channel] += field * (grain + share * tint) + dark * np.abs(1 + 0.1 * tint)
    exposed: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return exposed


def field_mask(camera: Camera) -> Floats:
    """Share of light (height, width) in [0, 1]: 1 inside the illuminated field, 0 outside."""
    x, y = offsets(camera)
    inside = np.clip((1 - np.hypot(x, y)) * camera.radius + 0.5, 0, 1)
    if camera.tab:
        tab = (np.abs(x - y * -1) < 0.06) & (np.hypot(x, y) < 1.05) & (x > 0) & (y < 0)
        inside = np.maximum(inside, tab)
    return inside.astype(np.float32)


def offsets(camera: Camera) -> tuple[Floats, Floats]:
    """Distance to the right of and below the field's centre, in radii of the field: (height, width) each."""
    width, height = camera.size
    x = (np.arange(width, dtype=np.float32) - camera.centre[0]) / camera.radius
    y = (np.arange(height, dtype=np.float32) - camera.centre[1]) / camera.radius
    across, down = np.meshgrid(x, y)
    return across, down
