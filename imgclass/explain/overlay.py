"""What a map looks like: laid over the picture, on the part of it that the model saw.

`blend` colours pixels; `place` puts a map back onto a picture of any size and shape; `figure` draws
picture, overlay and deletion curve as one PNG.
"""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from imgclass.data.preprocess import Preprocess
from imgclass.explain.faithful import Deletion

_COLOURS = matplotlib.colormaps["inferno"]
_STRONGEST = 0.75  # share of the map's colour where the map is 1
_DARKEST = 0.4  # of the colours, which begin at black: a little evidence is no shadow
_SMALLEST, _LARGEST = 256, 1024  # longer side of what is drawn, pixels

# left, top, right, bottom, in pixels of the picture; fractional.
Box = tuple[float, float, float, float]


def blend(picture: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Lays a map over a picture of its size: brighter is more, and where it is 0 nothing changes.

    Args:
      picture: uint8[h, w, 3].
      found: f32[h, w] in [0, 1].

    Returns:
      uint8[h, w, 3].

    Raises:
      ValueError: the sizes differ.
    """
    if picture.shape != (*found.shape, 3):
        raise ValueError(f"a picture {picture.shape} and a map {found.shape} are not of one size")
    share = _STRONGEST * found[:, :, None]
    colours = _COLOURS(_DARKEST + (1 - _DARKEST) * found)[:, :, :3]
    mixed = (1 - share) * picture + share * 255 * colours
    return np.round(mixed).astype(np.uint8)


def seen(prepare: Preprocess, height: int, width: int) -> tuple[Box, Box]:
    """Returns which part of a picture the model sees, and where in its own input that lies.

    Args:
      prepare: how pictures are prepared.
      height: of the picture, pixels, upright.
      width: of it.

    Returns:
      A box in the picture and one in the input. 'crop' leaves a border of the picture unseen,
      'pad' a border of the input empty. Up to the rounding of `decode.resize`, which is less than
      a pixel of the input.
    """
    out_height, out_width = prepare.image_size
    if prepare.resize == "crop":
        fraction = prepare.crop_fraction
        scale = max(out_height / fraction / height, out_width / fraction / width)
        return _centred(height, width, out_height / scale, out_width / scale), (
            0, 0, out_width, out_height,
        )  # fmt: skip
    inside: Box = (0, 0, out_width, out_height)
    if prepare.resize == "pad":
        scale = min(out_height / height, out_width / width)
        inside = _centred(out_height, out_width, scale * height, scale * width)
    return (0, 0, width, height), inside


def _centred(height: float, width: float, tall: float, wide: float) -> Box:
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall


def place(found: np.ndarray, prepare: Preprocess, size: tuple[int, int]) -> np.ndarray:
    """Puts a map of the model's input back onto the picture.

    Args:
      found: f32[h, w] in [0, 1], of the input's size.
      prepare: how the picture was prepared.
      size: (height, width) to make, of the picture's shape.

    Returns:
      f32[*size]: the map, and 0 where the model did not see the picture.
    """
    part, inside = seen(prepare, *size)
    left, top, right, bottom = (round(value) for value in part)
    wide, tall = max(right - left, 1), max(bottom - top, 1)
    resized = Image.fromarray(found.astype(np.float32)).resize(
        (wide, tall), Image.Resampling.BILINEAR, inside
    )
    result = np.zeros(size, np.float32)
    result[top : top + tall, left : left + wide] = np.clip(np.asarray(resized), 0, 1)
    return result


def figure(
    picture: np.ndarray, found: np.ndarray, prepare: Preprocess, deletion: Deletion, title: str
) -> bytes:
    """Draws a picture, the map over it, and the deletion curve beside them.

    Args:
      picture: uint8[h, w, 1 or 3], as decoded; drawn with 256 to 1,024 pixels a side.
      found: f32[H, W] in [0, 1], of the model's input.
      prepare: how the picture was prepared. A frame shows what was cut off.
      deletion: what the right panel shows.
      title: above the overlay.

    Returns:
      A PNG, 1,200 pixels wide.
    """
    image = Image.fromarray(picture if picture.shape[2] == 3 else np.repeat(picture, 3, axis=2))
    longest = max(image.size)
    factor = min(max(1.0, _SMALLEST // longest), _LARGEST / longest)
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC
    image = image.resize([max(round(side * factor), 1) for side in image.size], how)
    pixels = np.asarray(image)
    over = blend(pixels, place(found, prepare, pixels.shape[:2]))
    drawing = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    part, _ = seen(prepare, *pixels.shape[:2])
    for axes, shown in ((left, pixels), (middle, over)):
        axes.imshow(shown)
        axes.set_axis_off()
        if part != (0, 0, image.width, image.height):
            corner, wide, tall = part[:2], part[2] - part[0], part[3] - part[1]
            frame = Rectangle((corner[0] - 0.5, corner[1] - 0.5), wide, tall, fill=False)
            frame.set(edgecolor="white", linestyle="--")
            axes.add_patch(frame)
    middle.set_title(title.encode(errors="replace").decode(), fontsize=10, parse_math=False)
    right.plot(deletion.removed, deletion.probability, label=f"this map, area {deletion.auc:.3f}")
    right.plot(
        deletion.removed, deletion.random, "--", label=f"random, area {deletion.random_auc:.3f}"
    )
    right.set(xlabel="share of pixels covered", ylabel="probability", xlim=(0, 1), ylim=(0, 1))
    right.legend()
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return file.getvalue()
