"""One fundus photograph: an eye, its marks, the way it was aimed at, and the camera.

In: a `Shot` and the seed. Out: uint8 RGB pixels, the same for the same shot and seed in any process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_retina.synthetic.anatomy import UNIT_DEGREES, Eye, Points, Stroke, draw_eye
from ssl_retina.synthetic.cameras import CAMERAS, Camera, Floats, expose, field_mask, offsets
from ssl_retina.synthetic.cohort import Shot
from ssl_retina.synthetic.marks import Blob, Marks, draw_marks, marks_generator

FUNDUS = np.array([[[0.80, 0.40, 0.20]]], np.float32).T
DISC = np.array([[[0.95, 0.66, 0.38]]], np.float32).T
CUP = np.array([[[1.0, 0.92, 0.74]]], np.float32).T
BRIGHT = np.array([[[0.97, 0.84, 0.45]]], np.float32).T
BLOOD = np.array([[[0.72, 0.42, 0.50]]], np.float32).T
DARK = np.array([[[0.56, 0.36, 0.42]]], np.float32).T
GRAIN = np.array([[[0.14, 0.19, 0.17]]], np.float32).T
OVERSAMPLING = 2


@dataclass(frozen=True)
class Pose:
    """How retina coordinates lie on a camera's pixels; `side` is 1 for a right eye, -1 for a left one."""

    camera: Camera
    side: float
    aim: tuple[float, float]
    roll: float

    @property
    def scale(self) -> float:
        """Pixels for one retina unit."""
        return self.camera.radius * 2 * UNIT_DEGREES / self.camera.angle

    def pixels(self, points: Points) -> Points:
        """Pixel coordinates (n, 2) of retina points (n, 2)."""
        moved = (points - np.asarray(self.aim)) * np.array([self.side, 1.0])
        turn = np.array([[np.cos(self.roll), np.sin(self.roll)], [-np.sin(self.roll), np.cos(self.roll)]])
        placed: Points = moved @ turn * self.scale + np.asarray(self.camera.centre)
        return placed

    def retina(self) -> tuple[Floats, Floats]:
        """Retina coordinates of every pixel: two arrays (height, width)."""
        x, y = offsets(self.camera)
        unit = np.float32(self.camera.radius / self.scale)
        cosine, sine = np.float32(np.cos(self.roll) * unit), np.float32(np.sin(self.roll) * unit)
        across, down = cosine * x + sine * y, cosine * y - sine * x
        return across * np.float32(self.side) + np.float32(self.aim[0]), down + np.float32(self.aim[1])


def draw_photograph(shot: Shot, seed: int, camera: Camera | None = None) -> NDArray[np.uint8]:
    """The pixels of one fundus photograph: (height, width, 3); by the shot's own camera if none is given."""
    eye = eye_of(shot, seed)
    marks = marks_of(shot, eye, seed)
    generator = np.random.default_rng([seed, 4, shot.patient.number, int(shot.right), shot.visit])
    aim = (0.25 + float(generator.normal(0, 0.04)), float(generator.normal(0, 0.04)))
    pose = Pose(
        camera or CAMERAS[shot.camera], 1.0 if shot.right else -1.0, aim, float(generator.normal(0, 0.05))
    )
    field = field_mask(pose.camera)
    light = _reflectance(eye, marks, pose=pose, field=field) * _illumination(pose.camera, generator)
    focus = float(generator.exponential(0.3)) + (1.5 if generator.random() < 0.05 else 0.0)
    return expose(light, field, pose.camera, focus=focus, generator=generator)


def eye_of(shot: Shot, seed: int) -> Eye:
    """The anatomy behind a photograph; both eyes of a patient share their pigment."""
    person = np.random.default_rng([seed, 2, shot.patient.number])
    shade, warmth = person.normal(0, 0.10), person.normal(0, 0.06)
    pigment = np.exp([[[shade - warmth / 2, shade + warmth, shade + 1.5 * warmth]]]).astype(np.float32).T
    return draw_eye(np.random.default_rng([seed, 2, shot.patient.number, int(shot.right)]), pigment)


def marks_of(shot: Shot, eye: Eye, seed: int) -> Marks:
    """The marks behind a photograph."""
    generator = marks_generator(seed, shot.patient.number, right=shot.right, ill=bool(shot.disease))
    return draw_marks(eye, shot.disease, grade=shot.grade, visit=shot.visit, generator=generator)


def _reflectance(eye: Eye, marks: Marks, *, pose: Pose, field: Floats) -> Floats:
    """Light that comes back (3, height, width).

    The marks leave its mean over the field unchanged, and a large cup the contrast of the disc.
    """
    retina = pose.retina()
    ground = _ground(eye, retina, pose=pose)
    ground *= 1 - _mask(eye.vessels, pose) * (1 - BLOOD)
    disc = _disc(ground, eye, cup=eye.cup, retina=retina)
    healthy = ground + disc
    marked = healthy.copy()
    if marks.cup != eye.cup:
        hollowed = _disc(ground, eye, cup=marks.cup, retina=retina)
        energy = np.einsum("chw,chw->c", disc, disc) / np.einsum("chw,chw->c", hollowed, hollowed)
        marked = ground + hollowed * np.sqrt(energy)[:, None, None]
    marked *= 1 - 0.8 * _mask(marks.dark, pose) * (1 - DARK)
    bright = np.float32(0.65) * _mask(marks.bright, pose)
    marked += bright * (BRIGHT * eye.pigment - marked)
    balance = np.einsum("chw,hw->c", healthy, field) / np.einsum("chw,hw->c", marked, field)
    marked *= balance[:, None, None]
    return marked


def _ground(eye: Eye, retina: tuple[Floats, Floats], *, pose: Pose) -> Floats:
    """Pigment epithelium and choroid, darker and redder at the fovea: (3, height, width)."""
    square = retina[0] ** 2 + retina[1] ** 2
    fovea, pit = np.exp(-square / 0.09), np.exp(-square / 0.006)
    ground: Floats = FUNDUS * eye.pigment * (1 + GRAIN * _texture_in_view(eye, pose))
    ground *= 1 - np.array([0.25, 0.42, 0.5], np.float32)[:, None, None] * (0.8 * fovea + 0.4 * pit)
    return ground


def _texture_in_view(eye: Eye, pose: Pose) -> Floats:
    """The eye's texture (96, 96) as it lies on the camera's pixels: (height, width)."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    placed = pose.pixels(corners)
    forward = np.stack([placed[1] - placed[0], placed[2] - placed[0]], axis=1)
    back = np.linalg.inv(forward) * 30.0
    shift = np.array([48.0, 48.0]) - back @ placed[0]
    coefficients = (back[0, 0], back[0, 1], shift[0], back[1, 0], back[1, 1], shift[1])
    image = Image.fromarray(eye.texture)
    moved = image.transform(pose.camera.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(moved, np.float32)


def _disc(ground: Floats, eye: Eye, *, cup: float, retina: tuple[Floats, Floats]) -> Floats:
    """What the optic disc adds to the ground: pale rim, paler cup, a glow around: (3, height, width)."""
    distance = np.hypot((retina[0] - eye.disc[0]) / eye.tilt, retina[1] - eye.disc[1]) / eye.disc_radius
    disc = 0.45 + 0.45 * np.tanh((1 - distance) * 9)
    hollow = 0.5 + 0.5 * np.tanh((cup - distance) * 8)
    glow = 0.18 * np.exp(-((distance / 1.7) ** 2))
    vessels = np.clip(ground / (FUNDUS * eye.pigment), 0.7, 1)
    face = (DISC + hollow * (CUP - DISC)) * eye.pigment * vessels
    added: Floats = glow * ground
    added += disc * (face - ground - added)
    return added


def _mask(shapes: Sequence[Blob | Stroke], pose: Pose) -> Floats:
    """How much of each pixel the shapes cover: (height, width) in [0, 1]."""
    width, height = pose.camera.size
    canvas = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        if isinstance(shape, Blob):
            pen.polygon(_flat(pose.pixels(shape.outline) * OVERSAMPLING), fill=255)
        else:
            _draw_stroke(pen, shape, pose)
    reduced = np.asarray(canvas.reduce(OVERSAMPLING), np.float32)
    return reduced * np.float32(1 / 255)


def _draw_stroke(pen: ImageDraw.ImageDraw, stroke: Stroke, pose: Pose) -> None:
    """A stroke as one polygon between its two edges, with round ends; a thin one as a plain line."""
    line = pose.pixels(stroke.points) * OVERSAMPLING
    unit = pose.scale * OVERSAMPLING
    if (stroke.start + stroke.end) * unit < 4:
        pen.line(_flat(line), fill=255, width=max(round((stroke.start + stroke.end) * unit), 1))
        return
    half = np.linspace(stroke.start, stroke.end, len(line)) * unit
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal *= (half / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6))[:, None]
    pen.polygon(_flat(np.concatenate([line + normal, (line - normal)[::-1]])), fill=255)
    for end in (0, -1):
        box = np.concatenate([line[end] - half[end], line[end] + half[end]])
        pen.ellipse(_flat(box), fill=255)


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.ravel().tolist()
    return flat


def _illumination(camera: Camera, generator: np.random.Generator) -> Floats:
    """The flash: brighter towards one side, darker at the rim, now and then a haze from lid or lens.

    (height, width), or (3, height, width) with the haze's colour.
    """
    x, y = offsets(camera)
    tilt, exposure = generator.normal(0, 0.08, 2), float(np.exp(generator.normal(0.05, 0.09)))
    light = exposure * (1 + tilt[0] * x + tilt[1] * y) * (1 - 0.3 * (x**2 + y**2))
    angle = generator.uniform(0, 2 * np.pi)
    if generator.random() >= 0.08:
        return np.asarray(light, np.float32)
    rim = np.clip(x * np.cos(angle) + y * np.sin(angle) - 0.45, 0, 1)
    return np.asarray(light * (1 + rim * np.array([[[0.6, 1.4, 2.2]]], np.float32).T), np.float32)
