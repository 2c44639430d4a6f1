"""What is done to a whole batch of normalised pictures [B,H,W,C]: mixup, cutmix, random erasing.

Row r is mixed with its neighbour r ^ 1, so that the rows of a process need those of no other; which
pictures are neighbours is the order of the epoch, which is random.
"""

import math

import numpy as np


def partners(count: int) -> np.ndarray:
    """r ^ 1 for every row; ValueError for an odd number of rows."""
    if count % 2:
        raise ValueError(f"mixup and cutmix pair the rows of a batch; {count} rows are odd")
    return np.arange(count) ^ 1


def draw(rng, mixup: float, cutmix: float, switch: float, chance: float) -> tuple[str, float]:
    """("", 1) or ("mixup" or "cutmix", the share of the own picture), for a whole batch.

    The share is from Beta(alpha, alpha), alpha being `mixup` or `cutmix`; where both are on, cutmix
    is chosen with probability `switch`. The draws are the same whatever they are used for.
    """
    done, cut = rng.random() < chance, rng.random() < switch
    kind = ("cutmix" if cut else "mixup") if mixup and cutmix else "mixup" if mixup else "cutmix"
    alpha = {"mixup": mixup, "cutmix": cutmix}[kind]
    share = float(rng.beta(alpha, alpha)) if alpha else 1.0
    return (kind, share) if done and alpha else ("", 1.0)


def box(rng, height: int, width: int, share: float) -> tuple:
    """(top, bottom, left, right) around a uniform centre, cut at the border (Yun et al. 2019).

    Before it is cut its area is 1 - share of the picture.
    """
    cut = math.sqrt(1 - share)
    high, wide = int(height * cut), int(width * cut)
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    rows = np.clip([y - high // 2, y + high // 2], 0, height).tolist()
    columns = np.clip([x - wide // 2, x + wide // 2], 0, width).tolist()
    return (*rows, *columns)


def mix(pixels, rng, kind: str, share: float) -> tuple[np.ndarray, float]:
    """(pictures, the share of a row's own label): mixup (Zhang et al. 2017) or cutmix.

    Cutmix's share is what is left of the own picture after the box is cut at the border.
    """
    if not kind:
        return pixels, 1.0
    others = pixels[partners(len(pixels))]
    if kind == "mixup":
        return (share * pixels + (1 - share) * others).astype(np.float32), share
    height, width = pixels.shape[1:3]
    top, bottom, left, right = box(rng, height, width, share)
    pixels = pixels.copy()
    pixels[:, top:bottom, left:right] = others[:, top:bottom, left:right]
    return pixels, 1.0 - (bottom - top) * (right - left) / (height * width)


def erase(pixels, rng, chance: float, least=0.02, most=1 / 3, aspect=0.3):
    """Fills a rectangle of a picture [H,W,C] with N(0,1), in place (Zhong et al. 2017, timm's "pixel").

    Its area is a uniform share of the picture, its aspect log-uniform in [aspect, 1/aspect]; after
    ten tries that do not fit, nothing is erased.
    """
    if rng.random() >= chance:
        return pixels
    height, width = pixels.shape[:2]
    for _ in range(10):
        wanted = rng.uniform(least, most) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect), -math.log(aspect)))
        h, w = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            noise = rng.standard_normal((h, w, pixels.shape[2])).astype(np.float32)
            pixels[top : top + h, left : left + w] = noise
            return pixels
    return pixels
