"""Pictures in batches: parts of a source, the stream that training reads, what is evaluated.

A batch has `images` float32 [B,H,W,C], `targets` int32 [B] (many labels: float32 [B,C]), `weights`
float32 [B]. Where mixup or cutmix is on it also has `others` and `share`: the neighbour's target and
the share of the own one. With `config.data.bad=skip` `skipped` [B] says which rows stand in for a
picture that could not be read.

The stream is a pure function of (seed, step): a picture's augmentation is drawn from (seed, sample
number), a batch's mixing from (seed, step). Small data are served from memory; with
`config.data.workers` processes of Grain make the batches ahead (`train.data.workers`).
"""

import dataclasses

import numpy as np
import xxhash

from train.data import crops, image_labels, image_sources, mixing, packing, prepare
from train.data.decode import BadImage
from train.data.image_sources import Images
from train.data.prepare import Augment, Shape

TASKS = ("classify", "multilabel")
TRIES = 16  # pictures in a row that may be bad


def parts(config) -> dict[str, Images]:
    """{"train", "valid"} of config.data; the two share no picture.

    `data.valid` names another source for the held-out part; else the source's own is taken, else a
    `data.valid_share` of it, drawn once and for all (by no seed). `data.labelled` is the share of
    each class that is trained on, at least one picture, drawn by the run's seed.
    """
    data = config.data
    many = data.get("task", "classify") == "multilabel"
    if data.get("task", "classify") not in TASKS:
        raise ValueError(f"config.data.task is {data.task!r}; expected one of {', '.join(TASKS)}")
    found = image_sources.read(data.source, many)
    if data.get("valid", ""):
        held = image_sources.read(data.valid, many)
        found["valid"] = held.get("valid", held["train"])
        found["valid"] = image_labels.aligned(found["valid"], found["train"].labels)
    share = data.get("valid_share", 0.1)
    if "valid" not in found and share:
        if not 0 < share < 1:
            raise ValueError(f"config.data.valid_share is {share}; expected a share below 1")
        whole = found["train"]
        order = packing.permute(np.arange(len(whole)), len(whole), packing.mix(7))
        count = max(1, round(share * len(whole)))
        if count == len(whole):
            raise ValueError(
                f"{data.source} has {len(whole)} pictures; config.data.valid_share={share} leaves none "
                "to train on"
            )
        found["valid"] = whole.take(np.sort(order[:count]))
        found["train"] = whole.take(np.sort(order[count:]))
    labelled = data.get("labelled", 1.0)
    if labelled != 1.0:
        found["train"] = subset(found["train"], labelled, config.seed)
    return {name: found[name] for name in ("train", "valid") if name in found}


def sample(images: Images, count: int) -> Images:
    """`count` pictures (all, if there are no more), drawn by no seed, in order: a source is often sorted
    by class, so that its first pictures are of some classes alone."""
    if count >= len(images):
        return images
    key = packing.mix(10)
    return images.take(np.sort(packing.permute(np.arange(count), len(images), key)))


def subset(images: Images, share: float, seed: int) -> Images:
    """A share of every class, at least one picture of each; larger shares hold the smaller ones."""
    if not 0 < share <= 1:
        raise ValueError(f"config.data.labelled is {share}; expected a share of the labels")
    if images.targets.ndim > 1:
        count = max(1, round(share * len(images)))
        key = packing.mix(seed, 8)
        return images.take(np.sort(packing.permute(np.arange(count), len(images), key)))
    chosen = []
    for label in np.unique(images.targets):
        rows = np.flatnonzero(images.targets == label)
        order = packing.permute(np.arange(len(rows)), len(rows), packing.mix(seed, 8, label))
        chosen.append(rows[order[: max(1, round(share * len(rows)))]])
    return images.take(np.sort(np.concatenate(chosen)))


def shape(config) -> Shape:
    """What the model reads, from config.model and config.data."""
    data, model = config.data, config.model
    grey = {"mean": (0.5,), "deviation": (0.5,)} if model.channels == 1 else {}
    names = [field.name for field in dataclasses.fields(Shape)]
    given = {name: data[name] for name in names if name in data}
    return Shape(model.image_size, model.channels, **{**grey, **given})


def open_stream(config, images: Images, process=0, processes=1) -> "Stream":
    """The stream of training batches of a config."""
    settings = Augment.of(config.get("augment", {}))
    bad = config.data.get("bad", "error")
    if bad not in ("error", "skip"):
        raise ValueError(f"config.data.bad is {bad!r}; expected error or skip")
    return Stream(
        images, shape(config), settings, config.seed, config.batch, process, processes, bad
    )


@dataclasses.dataclass
class Stream:
    """Batches by step; it can be pickled and sent to workers."""

    images: Images
    shape: Shape
    augment: Augment
    seed: int
    size: int
    process: int = 0
    processes: int = 1
    bad: str = "error"

    def __post_init__(self):
        if self.size % self.processes:
            raise ValueError(f"batch {self.size} does not divide by {self.processes} processes")
        if self.augment.mixup or self.augment.cutmix or self.augment.repeats > 1:
            mixing.partners(self.size // self.processes)

    @property
    def fingerprint(self) -> dict:
        """What the data are: number, labels, and a hash of targets and (in memory) pixels."""
        state = xxhash.xxh3_128(np.ascontiguousarray(self.images.targets))
        if self.images.pixels is not None:
            state.update(np.ascontiguousarray(self.images.pixels))
        else:
            for number in range(len(self.images)):
                state.update(str(self.images.place(number)).encode())
        labels = list(self.images.labels)
        described = {**dataclasses.asdict(self.shape), **dataclasses.asdict(self.augment)}
        described = {k: list(v) if isinstance(v, tuple) else v for k, v in described.items()}
        return {
            "pictures": len(self.images), "xxh3": state.hexdigest(), "labels": labels,
            "prepare": described,
        }  # fmt: skip

    def numbers(self, step: int) -> np.ndarray:
        """The pictures of a step's global batch: int64 [size].

        Each epoch has an order of its own. With R repeats two pictures take turns R times, so that
        neighbours, which may be mixed, are never the same.
        """
        samples = step * self.size + np.arange(self.size)
        repeats, count = self.augment.repeats, len(self.images)
        if repeats > 1:
            samples = samples // (2 * repeats) * 2 + samples % 2
        numbers = np.empty(self.size, np.int64)
        for epoch in np.unique(samples // count).tolist():
            at = samples // count == epoch
            key = packing.mix(self.seed, 9, epoch)
            numbers[at] = packing.permute(samples[at] % count, count, key)
        return numbers

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step; BadImage (a ValueError)."""
        share = self.size // self.processes
        own = slice(self.process * share, (self.process + 1) * share)
        numbers, a = self.numbers(step), self.augment
        skipped = np.zeros(share, np.float32)
        if a.plain and self.shape.fits(self.images.pixels):
            pixels, numbers = self._whole(numbers, step, own), numbers[own]
        else:
            rows = [self._one(step * self.size + r, numbers[r]) for r in range(own.start, own.stop)]
            pixels = np.stack([row for row, _ in rows])
            skipped = (np.array([n for _, n in rows]) != numbers[own]).astype(np.float32)
            numbers = np.array([n for _, n in rows])
        targets = self.images.targets[numbers]
        rng = np.random.default_rng((self.seed, 12, step))
        kind, left = mixing.draw(rng, a.mixup, a.cutmix, a.switch, a.mix)
        pixels, left = mixing.mix(pixels, rng, kind, left)
        made = {"images": pixels, "targets": targets, "weights": np.ones(share, np.float32)}
        if a.mixup or a.cutmix:
            made["others"] = targets[mixing.partners(share)]
            made["share"] = np.full(share, left, np.float32)
        return {**made, "skipped": skipped} if self.bad == "skip" else made

    def _whole(self, numbers, step, own) -> np.ndarray:
        """The batch as one array: border and crop, flip, erasing."""
        a, rng = self.augment, np.random.default_rng((self.seed, 13, step))
        shifts = rng.integers(0, 2 * a.pad + 1, (self.size, 2))[own]
        flips = (rng.random(self.size) < a.flip)[own]
        pixels = self.images.pixels[numbers[own]]
        if a.crop == "shift" and a.pad:
            pixels = crops.shifted(pixels, a.pad, shifts)
        if a.flip:
            pixels = np.where(flips[:, None, None, None], pixels[:, :, ::-1], pixels)
        pixels = self.shape.normal(pixels)
        if a.erase:
            for row, sample in enumerate(step * self.size + np.arange(self.size)[own]):
                mixing.erase(pixels[row], self._draw(sample), a.erase)
        return pixels

    def _draw(self, sample):
        return np.random.default_rng((self.seed, 11, int(sample)))

    def _one(self, sample, number) -> tuple[np.ndarray, int]:
        """(a picture, its number): the next good one where bad ones are skipped."""
        count = len(self.images)
        for tried in range(min(TRIES, count)):
            at = int((number + tried) % count)
            try:
                raw, where = self.images.raw(at), self.images.place(at)
                return self.shape.trained(raw, where, self.augment, self._draw(sample)), at
            except BadImage as error:
                if self.bad != "skip":
                    raise BadImage(f"{error}\n--config.data.bad=skip goes on without it") from None
        raise BadImage(f"{self.images.source} has {TRIES} bad pictures in a row")


@dataclasses.dataclass
class Held:
    """The batches of an evaluated part, made anew at each turn; all pictures, in order.

    `rows` float32 [n] is 0 where a row only fills the last batch, or stands for a picture that is
    skipped; `count` says how many were skipped.
    """

    images: Images
    shape: prepare.Shape
    size: int
    process: int = 0
    processes: int = 1
    bad: str = "error"
    count: int = 0

    def __iter__(self):
        share, self.count = self.size // self.processes, 0
        for start in range(0, len(self.images), self.size):
            numbers = np.arange(start, start + self.size)
            real = (numbers < len(self.images))[self.process * share : (self.process + 1) * share]
            numbers = numbers[self.process * share : (self.process + 1) * share]
            numbers = np.minimum(numbers, len(self.images) - 1)
            rows = real.astype(np.float32)
            if self.shape.fits(self.images.pixels):
                pixels = self.shape.normal(self.images.pixels[numbers])
            else:
                pixels = np.stack([self._one(n, row, rows) for row, n in enumerate(numbers)])
            yield {"images": pixels, "targets": self.images.targets[numbers], "rows": rows}

    def _one(self, number, row, rows):
        shape, number = self.shape, int(number)
        try:
            raw, where = self.images.raw(number), self.images.place(number)
            return shape.normal(shape.evaluated(raw, where))
        except BadImage as error:
            if self.bad != "skip":
                raise BadImage(f"{error}\n--config.data.bad=skip goes on without it") from None
            self.count += int(rows[row])
            rows[row] = 0
            return np.zeros((shape.size, shape.size, shape.channels), np.float32)


def held(config, images: Images, process=0, processes=1, whole=False) -> Held:
    """What is evaluated of a part: `config.eval.batches` batches of it, or with `whole` (and 0) all."""
    limit = 0 if whole else config.eval.get("batches", 0)
    images = sample(images, limit * config.batch) if limit else images
    bad = config.data.get("bad", "error")
    return Held(images, shape(config), config.batch, process, processes, bad)
